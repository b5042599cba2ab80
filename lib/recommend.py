"""Recommend which result of a run to use, from image-level labels alone.

    python -m lib.recommend --dataset data/my.json --run my

The labels of CAMs, random walk and segmentation for some training images are judged by the CAM network
(lib/evidence.py). A later stage is recommended unless its localisation is clearly worse than that of an earlier one,
which means that it has lost classes or that its labels spill over the objects. Reads exp/<run>/cam/model.pth and the
labels of all stages; writes exp/<run>/recommended.json, which the table and the report show.
"""
import argparse
import os
from collections.abc import Mapping
from functools import partial

import numpy as np

from lib.data.datasets import InferSet
from lib.data.labelio import read_maps
from lib.data.registry import get_spec
from lib.evidence import judge
from lib.files.imageio import read_mask
from lib.files.jsonfile import write_json
from lib.inference import TrainedNetwork, inference_parser
from lib.net.seam import Seam
from lib.process.cli import AUTO, number, or_auto
from lib.process.ending import run_script
from lib.run.chosen import RECOMMENDED, fill_in, read_recommended, recommended_text
from lib.run.options import resolve
from lib.run.origin import Digests
from tool.camutils import cam_label

WORSE = 0.9             # a stage is not recommended if its localisation is below this fraction of an earlier one's


def make_parser() -> argparse.ArgumentParser:
    parser = inference_parser(__doc__, 'cam', 'training')
    parser.prog = 'python -m lib.recommend'
    parser.add_argument('--background-score', type=or_auto(number(0, 1)), default=AUTO,
                        help='background score of the CAM labels')
    return parser


def recommended(localisation: Mapping[str, float]) -> str:
    """The last stage that is not clearly worse than the best one before it; `localisation` by stage in order."""
    best, chosen = 0.0, ''
    for stage, value in localisation.items():
        if value >= WORSE * best:
            chosen = stage
        best = max(best, value)
    return chosen


def main(argv: list[str] | None = None) -> None:
    args, spec = resolve(make_parser(), argv, 'infer_cam', get_spec)
    dataset = InferSet(spec, args.split or spec.train_split, args.limit)
    trained = TrainedNetwork(args, 'cam', 'seam')
    digests = Digests(args.folder / '.digests.json')
    fill_in(args, digests, needed=['background_score'], network=trained.path)
    if not args.fresh and (record := read_recommended(args.folder)):
        print(f'{recommended_text(record)}\n\nmeasured before; --fresh measures again')
        return
    labels = args.folder / 'labels' / dataset.split
    stages = {'cam': labels / 'cam', 'walk': labels / 'walk', 'seg': args.folder / 'results' / dataset.split}
    stages = {stage: folder for stage, folder in stages.items() if folder.is_dir()}
    if 'cam' not in stages:
        raise FileNotFoundError(f'{args.folder} holds no CAMs of {dataset.split}; make them with infer_cam.py')
    inference = trained.load(spec.classes, partial(Seam, num_classes=spec.num_classes))
    if args.dry_run:
        return

    # Measure.
    used = [trained.path]

    def labels_of(index: int, _: np.ndarray) -> np.ndarray | None:
        paths = {stage: folder / f'{dataset.names[index]}{".npz" if stage == "cam" else ".png"}'
                 for stage, folder in stages.items()}
        if not all(path.is_file() for path in paths.values()):
            return None
        used.extend(paths.values())
        cams = read_maps(paths.pop('cam'), spec.num_fg)
        return np.stack([cam_label(*cams, args.background_score),
                         *(read_mask(path, spec.num_classes) for path in paths.values())])

    if (found := judge(dataset, inference, labels_of)) is None:
        (args.folder / RECOMMENDED).unlink(missing_ok=True)
        print('nothing can be recommended: every image shows each class, or the CAM network recognises no class in the '
              'images for which all stages have labels')
        return

    chosen = recommended(dict(zip(stages, found.localisation.tolist())))
    record = {'recommended': chosen, 'split': dataset.split, 'background_score': args.background_score,
              'stages': {stage: dict(zip(found._fields, map(float, values)))
                         for stage, values in zip(stages, zip(*found))},
              'files': {os.path.relpath(path, args.folder): digest for path, digest in zip(used, digests.of(used))}}
    write_json(args.folder / RECOMMENDED, record)
    print(recommended_text(record))


if __name__ == '__main__':
    run_script(main)
