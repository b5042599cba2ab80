"""Choose the background score of a run's CAMs from image-level labels alone.

    python -m lib.choose --dataset data/my.json --run my

A pixel is labelled where the CAM of a class exceeds the background score. For scores from 0.1 to 0.9, the labelled
pixels of some training images are pasted into images without the class and judged by the CAM network: good labels
preserve the class on a small area (the localisation of lib/evidence.py). The chosen score is the middle of the range in
which they do so at least half as well as at the best score.

Reads exp/<run>/cam/model.pth and the training images; writes exp/<run>/cam/background.json, the values of
--background-score, --alpha and --seed-alphas of the other stages where these are `auto`.
"""
import argparse
from collections.abc import Sequence
from functools import partial

import numpy as np

from lib.data.datasets import InferSet
from lib.data.registry import get_spec
from lib.evidence import judge
from lib.files.jsonfile import read_json, write_json
from lib.inference import Inference, TrainedNetwork, inference_parser
from lib.multiscale import add_views, infer_cams
from lib.net.seam import Seam
from lib.process.cli import number
from lib.process.ending import run_script
from lib.run.chosen import CHOSEN, FALLBACK, FILE, alpha_of
from lib.run.options import resolve
from lib.run.origin import Digests, stage_origin
from lib.run.table import aligned
from tool.camutils import cam_label

SCORES = np.arange(0.1, 0.91, 0.1).round(2)


def make_parser() -> argparse.ArgumentParser:
    parser = inference_parser(__doc__, 'cam', 'training')
    parser.prog = 'python -m lib.choose'
    parser.add_argument('--scales', type=number(0.05, 8), nargs='+', default=(0.5, 1.0, 1.5, 2.0),
                        help='test-time scales of the CAMs, as in infer_cam.py')
    return parser


def labels_at_scores(dataset: InferSet, inference: Inference, scales: Sequence[float], index: int,
                     image: np.ndarray) -> np.ndarray:
    """Label maps of one image from its CAMs at each of SCORES, [scores, H, W]."""
    backbone, sample = inference.network.backbone, {'image': image, 'image_labels': dataset.labels[index]}
    sample = add_views(sample, scales, backbone.norm, backbone.size_step)
    _, *cams, _, _ = inference(dataset.names[index], partial(infer_cams, sample, device=inference.device))
    return np.stack([cam_label(*cams, score) for score in SCORES])


def best_score(localisation: np.ndarray) -> float:
    """The middle of the range of scores around the highest localisation in which it is at least half of that.

    Localisation is given at SCORES and interpolated between them. Its curve is flat at the top and steep at the sides,
    so the middle of the sides is known better than the position of the top.
    """
    scores = np.linspace(SCORES[0], SCORES[-1], 161)
    curve = np.interp(scores, SCORES, localisation)
    top, outside = curve.argmax(), np.flatnonzero(curve < curve.max() / 2)
    low = outside[outside < top].max(initial=-1) + 1
    high = outside[outside > top].min(initial=len(scores)) - 1
    return round(float(scores[low] + scores[high]) / 2, 2)


def seed_alphas(score: float) -> tuple[float, float]:
    """Powers of the background score for the two seeds: objects are certain above the first score, background below the
    second; pixels in between are ignored."""
    return alpha_of(score + (1 - score) / 8), alpha_of(score / 2)


def main(argv: list[str] | None = None) -> None:
    """Choose, unless a score was already chosen for this network."""
    args, spec = resolve(make_parser(), argv, 'infer_cam', get_spec)
    dataset = InferSet(spec, args.split or spec.train_split, args.limit)
    trained = TrainedNetwork(args, 'cam', 'seam')
    network = Digests(args.folder / '.digests.json')(trained.path)
    file, origin = args.folder / FILE, {**stage_origin(args, spec, network=network), 'split': dataset.split}
    if file.exists() and not args.fresh and read_json(file, CHOSEN)['origin'] == origin:
        print(f'{file} exists for this network; --fresh chooses again')
        return
    dataset.check()
    inference = trained.load(spec.classes, partial(Seam, num_classes=spec.num_classes))
    if args.dry_run:
        return

    # Choose.
    found = judge(dataset, inference, partial(labels_at_scores, dataset, inference, args.scales))
    if found is None or not found.localisation.any():
        print('warning: no score can be chosen, as every image shows each class or the network recognises none; add '
              f'images without the class, or train longer; using {FALLBACK}')
        score, curve = FALLBACK, {}
    else:
        rows = [[f'{at:.1f}', 100 * kept, 100 * area, local] for at, kept, area, local in zip(SCORES, *found)]
        print('\n'.join(aligned([['background score', 'evidence, percent', 'area, percent', 'localisation'], *rows])))
        score = best_score(found.localisation)
        curve = {'scores': SCORES.tolist(),
                 **{name: values.round(4).tolist() for name, values in found._asdict().items()}}
    write_json(file, {'origin': origin, 'background_score': score, 'alpha': alpha_of(score),
                      'seed_alphas': seed_alphas(score), **curve})
    print(f'background score {score:.2f}, alpha {alpha_of(score):g}, seed alphas '
          f'{" ".join(f"{alpha:g}" for alpha in seed_alphas(score))}: {file}')


if __name__ == '__main__':
    run_script(main)
