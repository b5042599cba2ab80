"""Score CAMs, pseudo-labels or segmentations against exact masks: mIoU and contour F.

    python eval.py --what cam  --split train     mIoU over 60 background thresholds, contour F at 0.25 and at the best
    python eval.py --what walk --split val
    python eval.py --what seg  --split val --protocol strict
    python eval.py --table                       every score of the run so far, one line a stage

Reads exp/<run>/labels/<split>/cam or walk, or exp/<run>/results/<split>, and the masks of the split; prints a table and
adds a record to exp/<run>/scores.json. All scores are in percent.

--protocol reference scores as the published numbers were made: void pixels are left out of IoU but are background for
contours, and a class that the truth never shows stays in the mean. --protocol strict ignores void everywhere and leaves
such classes out. The best threshold is chosen with the truth: it is no setting that could be known beforehand.
"""
import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from shlex import quote

from tqdm import tqdm

from lib.data.corrupt import unless_corrupt
from lib.data.npyio import label_source, read_any_maps
from lib.data.pairs import LabelPair, label_pairs
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.files.imageio import Corrupt, read_mask
from lib.process.ending import run_script
from lib.process.progress import bar_style
from lib.process.ranges import number
from lib.process.workers import map_chunks
from lib.run.digests import Digests, text_digest
from lib.run.options import NOTHING, add_fresh_flag, base_parser, resolve
from lib.run.origin import check_labels, stage_origin
from lib.run.record import add_score, environment, read_scores
from lib.run.table import evaluation_text, summary_text
from tool.camutils import cam_label
from tool.evalutils import PROTOCOLS, Curve, Scores

MADE_BY = {'cam': 'infer_cam.py', 'walk': 'infer_aff.py', 'seg': 'infer_seg.py'}


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults are the published settings."""
    parser = base_parser(__doc__)
    group = parser.add_argument_group('evaluation')
    group.add_argument('--what', choices=tuple(MADE_BY), default='cam', help='which output of the run is scored')
    group.add_argument('--split', help='list of images with masks; the default is the data set\'s validation split')
    group.add_argument('--labels', type=Path, metavar='DIR', help='folder of the files, in place of the '
                       'run\'s own').affects = NOTHING
    group.add_argument('--unpickle', action='store_true',
                       help='the folder holds pickled .npy files, as the reference and infer_cam.py '
                       '--export-npy write').affects = NOTHING
    group.add_argument('--protocol', choices=PROTOCOLS, default='reference', help='how void and absent classes count')
    group.add_argument('--masked-only', action='store_true', help='score the images of the split that have a mask')
    group.add_argument('--background-score', type=number(0, 1), default=0.25,
                       help='constant score of background that CAMs compete with')
    add_fresh_flag(group)
    group.add_argument('--table', action='store_true', help='print all scores of the run and stop')
    return parser


def score_chunk(pairs: Sequence[LabelPair], spec: DatasetSpec, protocol: str, threshold: float | None,
                curve: bool) -> tuple[Scores, Curve | None, list[str]]:
    """Scores of some images, and their curve over thresholds if asked for; label PNGs where threshold is None.

    The last are names of images that are left out, as their masks are corrupt.
    """
    num_classes, left_out = spec.num_classes, []
    scores, curves = Scores(num_classes, protocol), Curve(num_classes, protocol) if curve else None
    for pair in pairs:
        truth = unless_corrupt(spec.on_corrupt, read_mask, pair.ground_truth, num_classes, spec.max_side)
        if truth is None:
            left_out.append(pair.name)
            continue
        try:
            if threshold is None:
                scores.add(truth, read_mask(pair.prediction, num_classes))
            else:
                keys, cam = read_any_maps(pair.prediction, truth.shape, num_classes - 1)
                scores.add(truth, cam_label(keys, cam, threshold))
                if curves:
                    curves.add(truth, keys, cam)
        except ValueError as error:
            raise ValueError(f'{pair.name}: {error}') from error
    return scores, curves, left_out


def score(pairs: Sequence[LabelPair], spec: DatasetSpec, protocol: str, threshold: float | None, curve: bool,
          workers: int) -> tuple[Scores, Curve | None, list[str]]:
    """score_chunk of all images, shared by worker processes."""
    total = None
    function = partial(score_chunk, spec=spec, protocol=protocol, threshold=threshold, curve=curve)
    with tqdm(total=len(pairs), leave=False, **bar_style('eval')) as bar:
        for part in map_chunks(function, pairs, workers):
            bar.update(part[0].images + len(part[2]))
            if total is None:
                total = part
                continue
            for mine, theirs in zip(total[:2], part):
                if mine:
                    mine.merge(theirs)
            total[2].extend(part[2])
    if not total[0].images:
        raise Corrupt(f'all {len(pairs)} masks are corrupt, {pairs[0].ground_truth} the first; restore them')
    return total


def evaluate(args: argparse.Namespace, spec: DatasetSpec, pairs: Sequence[LabelPair]) -> dict:
    """All figures of one evaluation: 'results', one by threshold for CAMs and one for label PNGs; 'curve' for CAMs.

    'images' is how many were scored, 'left_out' names those with corrupt masks.
    """
    run = partial(score, pairs, spec, args.protocol, workers=args.workers)
    if args.what != 'cam':
        scores, _, left_out = run(None, False)
        return {'results': [scores.summary()], 'images': scores.images, 'left_out': left_out}
    given, curve, left_out = run(args.background_score, True)
    curve = curve.summary()
    best = run(curve['best_threshold'], False)[0]
    return {'results': [{'threshold': args.background_score, **given.summary()},
                        {'threshold': curve['best_threshold'], 'best': True, **best.summary()}],
            'curve': {'thresholds': curve['thresholds'], 'miou': curve['miou']}, 'images': given.images,
            'left_out': left_out}


def main(argv=None):
    """Score one output of one split, or print the run's table."""
    args, spec = resolve(make_parser(), argv, '', get_spec)
    scores = args.folder / 'scores.json'
    if args.table:
        print(summary_text(read_scores(scores), args.run))
        return
    split = args.split or spec.val_split
    kind = Path('results') / split if args.what == 'seg' else Path('labels') / spec.label_split(split) / args.what
    if args.what == 'cam':
        folder, suffix = label_source(args.labels, args.folder / kind, args.unpickle, '--labels')
    elif args.unpickle:
        raise ValueError(f'--unpickle reads CAMs, not the label PNGs of --what {args.what}; leave it out')
    else:
        folder, suffix = args.labels or args.folder / kind, '.png'
    remedy = (f'make them with python {MADE_BY[args.what]} --dataset {quote(args.dataset)} --run {quote(args.run)} '
              f'--split {split if args.what == "seg" else spec.label_split(split)}'
              f'{" --export-npy" if args.unpickle else ""}')
    pairs, corrupt = label_pairs(spec, split, folder, suffix, args.limit, remedy, args.masked_only)
    check_labels([pair.prediction for pair in pairs], spec, remedy=remedy)
    if args.dry_run:
        print(f'{args.what} of {len(pairs)} images ({spec.name} {split}) in {folder}')
        return

    # What the scores are made from: the same was perhaps scored before.
    digests = Digests(args.folder / '.digests.json')
    files = {kind: digests.of(getattr(pair, kind) for pair in pairs) for kind in ('prediction', 'ground_truth')}
    names = [pair.name for pair in pairs]
    origin = {**stage_origin(args, spec), 'inputs': {f'{kind}s': text_digest([*zip(names, found)])
                                                     for kind, found in files.items()}}
    origin['settings']['split'] = split
    digests.save()
    before = [old for old in read_scores(scores) if all(old.get(key) == origin[key] for key in ('settings', 'inputs'))
              and old['classes'] == list(spec.class_names) and (args.on_corrupt == 'skip' or not old.get('left_out'))]
    if before and not args.fresh:
        print(f'{evaluation_text(before[-1])}\n\nscored before, {before[-1]["time"]}; --fresh scores again')
        return

    # Score; what is printed is saved already.
    record = {'dataset': spec.name, 'split': split, 'what': args.what, 'protocol': args.protocol, 'labels': str(folder),
              **evaluate(args, spec, pairs)}
    record['left_out'] = sorted([*corrupt, *record['left_out']])
    record |= {**environment(), **origin, 'classes': list(spec.class_names)}
    add_score(scores, record)
    print(evaluation_text(record))


if __name__ == '__main__':
    run_script(main)
