"""Train the CAM network on PASCAL VOC 2012, or on any data set of its kind, from image-level labels.

    python train_cam_voc.py                               one GPU, or several in this process (DataParallel)
    torchrun --nproc-per-node 4 -- train_cam_voc.py       four processes that share each batch
    python train_cam_voc.py --isl-weight 0 --no-fsl       plain SEAM
    python train_cam_voc.py --dataset toy --weights pretrained/toy_backbone.pth

Reads the images and labels of the training split and ImageNet weights; writes exp/<run>/cam/: model.pth, last.pth
(from which the same command resumes), args.json, env.json, log.txt, metrics.jsonl and TensorBoard events.
"""
from lib import cam_stage
from lib.process.ending import run_script


def make_parser():
    """Flags of CAM training."""
    return cam_stage.make_parser(__doc__, 'voc12')


def main(argv=None):
    """Train with the paper's settings for VOC."""
    cam_stage.train_cam(__doc__, 'voc12', argv)


if __name__ == '__main__':
    run_script(main)
