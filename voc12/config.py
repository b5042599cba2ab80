"""Download, unpack, convert, prepare and verify PASCAL VOC 2012 with the SBD masks; config_voc.sh runs this.

    ./config_voc.sh                             3.4 GB of archives, about 2.3 GB unpacked
    ./config_voc.sh --archives DIR              archives that are already in DIR are not downloaded

The training masks are made from SBD's archive and VOC's own masks. If SegmentationClassAug.zip is in the folder of
archives, it is used instead of SBD's; if VOC2012test.tar is, the test images are set up too. If interrupted, the same
command resumes.
"""
from lib.process.ending import run_script
from lib.setup.datasetup import Archive, Notes, make_parser, set_up
from voc12.dataset import LISTS, OFFICIAL, ROOT, spec
from voc12.prepare import prepare

OXFORD = 'robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar'
BERKELEY = 'eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz'
TREE = (r'VOCdevkit/VOC2012/((?:JPEGImages|Annotations|SegmentationClass|ImageSets/Segmentation)/'
        r'[\w-]+\.(?:jpg|xml|png|txt))')
# The two checksums are the published ones.
TRAINVAL = Archive('VOCtrainval_11-May-2012.tar', TREE, urls=(f'http://host.{OXFORD}', f'https://thor.{OXFORD}'),
                   md5='6cd6e144f989b92b3379bac3b3de84fd')
SBD = Archive('benchmark.tgz', r'benchmark_RELEASE/dataset/cls/(\d{4}_\d{6}\.mat)', r'SBD/\1',
              urls=(f'https://www2.{BERKELEY}', f'http://www.{BERKELEY}'), md5='82b4d87ceb2ed10f6038a1cba92111cb')
# These two have no public address; they are used if they are in the folder of archives. AUG exists with and without a
# top-level folder.
AUG = Archive('SegmentationClassAug.zip', r'(?:SegmentationClassAug/)?(\d{4}_\d{6}\.png)', r'SegmentationClassAug/\1')
TEST = Archive('VOC2012test.tar', TREE)


def main(argv: list[str] | None = None) -> None:
    args = make_parser(__doc__, './config_voc.sh', ROOT, LISTS).parse_args(argv)
    notes = Notes(args.data_root)
    aug, test = (notes.done(archive.name) or (args.archives / archive.name).exists() for archive in (AUG, TEST))
    masks = AUG if aug and not notes.done(SBD.name) else SBD        # never a mixture
    set_up(args, spec(args.data_root, args.lists), [TRAINVAL, masks, *([TEST] if test else [])],
           lambda: prepare(args.data_root, args.lists, args.workers), OFFICIAL, 'run_voc.sh')


if __name__ == '__main__':
    run_script(main)
