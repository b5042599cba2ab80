"""Score CAMs, pseudo-labels or segmentations against ground truth: mIoU and contour F.

    python eval.py --what cam  --split train     mIoU over background thresholds, contour F at a fixed one and the best
    python eval.py --what cam-crf --split val    the labels of the CRF seeds, of both strengths
    python eval.py --what walk --split val
    python eval.py --what seg  --split val --protocol strict
    python eval.py --table                       all scores of the run so far, one line per stage
    python eval.py --table --run 'seam-*' 'both-*'      mean and deviation over several runs, and paired differences

Reads exp/<run>/labels/<split>/cam, seeds, cam_pred or walk, or exp/<run>/results/<split>, and the masks of the split;
prints a table and adds a record to exp/<run>/scores.json. All scores are in percent.

--protocol reference scores like the published numbers: void pixels are ignored for IoU but count as background for
contours, and a class that is absent from the ground truth stays in the mean. --protocol strict ignores void everywhere
and leaves such classes out; if there are any, its means are shown as well. For CAMs, the best of the thresholds 0.00 to
0.95 is shown, and the best of 0.00 to 0.59, as in the published numbers. Both are selected on the ground truth
(oracle), so they are not known in practice.
"""
import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from shlex import quote

import numpy as np
from tqdm import tqdm

from lib.data.checks import label_pairs, read_ground_truth
from lib.data.labelio import read_seeds
from lib.data.npyio import label_source, read_any_maps
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec, Sample
from lib.files.imageio import Corrupt, read_mask
from lib.process.cli import AUTO, bar_style, number, or_auto
from lib.process.ending import run_script
from lib.process.workers import map_in_workers
from lib.run.chosen import chosen_score, read_recommended, recommended_text
from lib.run.options import NOTHING, add_fresh_flag, base_parser, resolve
from lib.run.origin import Digests, check_labels, stage_origin, text_digest
from lib.run.record import add_score, environment, read_scores
from lib.run.several import are_several, compare
from lib.run.table import evaluation_text, summary_text
from lib.trust import check_classes, text_of
from tool.camutils import cam_label, labels_of
from tool.evalutils import PROTOCOLS, Curve, Scores

CHUNK = 256             # images per task of a worker process
# What can be scored: its folder in the run, and what makes it.
OUTPUTS = {'cam': ('labels/{}/cam', 'infer_cam.py'), 'cam-crf': ('labels/{}/seeds', 'infer_cam.py'),
           'cam-pred': ('labels/{}/cam_pred', 'infer_cam.py --out-cam-pred'),
           'walk': ('labels/{}/walk', 'infer_aff.py'), 'seg': ('results/{}', 'infer_seg.py')}


def make_parser() -> argparse.ArgumentParser:
    """Flags; the defaults are the published settings."""
    parser = base_parser(__doc__, several_runs=True)
    group = parser.add_argument_group('evaluation')
    group.add_argument('--what', choices=tuple(OUTPUTS), default='cam', help='which output of the run is scored')
    group.add_argument('--split', help='list of images with masks; the default is the data set\'s validation split')
    group.add_argument('--labels', type=Path, metavar='DIR', help='folder of the files to score, instead of '
                       'the run\'s own').affects = NOTHING
    group.add_argument('--unpickle', action='store_true',
                       help='read pickled .npy files from --labels, as written by the reference and by infer_cam.py '
                       '--export-npy').affects = NOTHING
    group.add_argument('--protocol', choices=PROTOCOLS, default='reference', help='how void and absent classes count')
    group.add_argument('--masked-only', action='store_true', help='score only the images that have a mask')
    group.add_argument('--background-score', type=or_auto(number(0, 1)), default=0.25,
                       help='threshold above which CAMs are labelled; auto: as chosen by python -m lib.choose, or 0.25 '
                       'if none was chosen')
    add_fresh_flag(group)
    group.add_argument('--table', action='store_true', help='only print the scores of the run, or of several runs')
    return parser


def score_chunk(pairs: Sequence[tuple[Sample, Path]], spec: DatasetSpec, what: str,
                wanted: Sequence[tuple[float | None, str]]) -> tuple[list[Scores | Curve], list[str]]:
    """Scores of some images for each (point, protocol) and their curve; and the names of those with corrupt masks.

    A point is the background threshold of CAMs (only they have a curve), the strength of CRF seeds, or None.
    """
    scores, left_out = [Scores(spec.num_classes, protocol) for _, protocol in wanted], []
    curve = Curve(spec.num_classes, wanted[0][1])
    for sample, path in pairs:
        truth = read_ground_truth(spec, sample.mask)
        if truth is None:
            left_out.append(sample.name)
            continue
        try:
            if what == 'cam':
                cams = read_any_maps(path, truth.shape, spec.num_fg)
                labels = [cam_label(*cams, threshold) for threshold, _ in wanted]
                curve.add(truth, *cams)
            elif what == 'cam-crf':
                labels = [seed_label(path, alpha, spec.num_fg) for alpha, _ in wanted]
            else:
                labels = [read_mask(path, spec.num_classes)] * len(wanted)
            for sums, label in zip(scores, labels):
                sums.add(truth, label)
        except ValueError as error:
            raise ValueError(f'{sample.name}: {error}') from error
    return [*scores, curve], left_out


def seed_label(path: Path, alpha: float, num_fg: int) -> np.ndarray:
    """Labels uint8 [H, W] of the seeds of one background strength."""
    keys, seeds = read_seeds(path, num_fg)
    if alpha not in seeds:
        raise ValueError(f'{path} lacks seeds of strength {alpha:g}; regenerate all with infer_cam.py --fresh')
    return labels_of(keys)[seeds[alpha].argmax(0)]


def score(pairs: Sequence[tuple[Sample, Path]], spec: DatasetSpec, args: argparse.Namespace,
          wanted: Sequence[tuple[float | None, str]]) -> tuple[list[Scores | Curve], list[str]]:
    """score_chunk of all images, distributed over worker processes."""
    function = partial(score_chunk, spec=spec, what=args.what, wanted=wanted)
    scores, left_out = function([])
    chunks = [pairs[first:first + CHUNK] for first in range(0, len(pairs), CHUNK)]
    workers = min(args.workers, len(chunks)) if chunks[1:] else 0
    with tqdm(total=len(pairs), leave=False, **bar_style('eval')) as bar:
        for some_scores, some_left_out in map_in_workers(function, chunks, workers):
            bar.update(some_scores[0].images + len(some_left_out))
            for sums, some in zip(scores, some_scores):
                sums.merge(some)
            left_out += some_left_out
    if not scores[0].images:
        raise Corrupt(f'all {len(pairs)} masks are corrupt, {pairs[0][0].mask} the first; restore them')
    return scores, left_out


def evaluate(args: argparse.Namespace, spec: DatasetSpec, pairs: Sequence[tuple[Sample, Path]]) -> dict:
    """All numbers of one evaluation.

    Returns:
        'results': one for label PNGs; one per strength of CRF seeds; for CAMs one at the given threshold, one at the
        best of the curve ('best': 'curve') and one at the best of the published thresholds ('best': 'published').
        'curve': for CAMs. 'images': how many were scored. 'left_out': names of images with corrupt masks. 'absent':
        classes that the ground truth lacks; if there are any, each result also holds 'strict' means.
    """
    seeds = read_seeds(pairs[0][1], spec.num_fg)[1] if args.what == 'cam-crf' else {}
    results, curve = [{'alpha': alpha} for alpha in sorted(seeds)] or [{}], {}
    if args.what == 'cam':
        results = [{'threshold': args.background_score}]
    given = [(_point(result), args.protocol) for result in results]
    (*sums, curve_sums), left_out = score(pairs, spec, args, given)
    absent = [spec.class_names[index] for index in sums[0].absent()]
    if args.what == 'cam':
        best = curve_sums.summary()
        results += [{'threshold': best['best_threshold'], 'best': 'curve'},
                    {'threshold': best['published_threshold'], 'best': 'published'}]
        curve = {'curve': {'thresholds': best['thresholds'], 'miou': best['miou']}}

    # A second pass for the best thresholds, and for the strict protocol if it makes a difference.
    protocols = [args.protocol, *(['strict'] if absent and args.protocol == 'reference' else [])]
    wanted = dict.fromkeys((_point(result), protocol) for result in results for protocol in protocols)
    rest = [one for one in wanted if one not in given]
    found = dict(zip([*given, *rest], [*sums, *(score(pairs, spec, args, rest)[0] if rest else [])]))
    for result in results:
        means, *strict = (found[_point(result), protocol].summary() for protocol in protocols)
        result |= means
        if strict:
            result['strict'] = {key: strict[0][key] for key in ('miou', 'contour_f')}
    return {'results': results, **curve, 'images': sums[0].images, 'left_out': left_out, 'absent': absent}


def _point(result: Mapping) -> float | None:
    return result.get('threshold', result.get('alpha'))


def find_pairs(args: argparse.Namespace, spec: DatasetSpec, split: str) -> tuple[list[tuple[Sample, Path]], Path]:
    """Predictions and masks of a split, and the folder of the predictions.

    Raises FileNotFoundError or ValueError if a file is missing or was made for other classes; says how to make it.
    """
    what, made_from = args.what, split if args.what == 'seg' else spec.label_split(split)
    template, script = OUTPUTS[what]
    own = args.folder / template.format(made_from)
    if what == 'cam':
        folder, suffix = label_source(args.labels, own, args.unpickle, '--labels')
    elif args.unpickle:
        raise ValueError(f'--unpickle reads CAMs, not the files of --what {what}; leave it out')
    else:
        folder, suffix = args.labels or own, '.npz' if what == 'cam-crf' else '.png'
    remedy = (f'make them with python {script} --dataset {quote(args.dataset)} --run {quote(args.run)} '
              f'--split {made_from}{" --export-npy" if args.unpickle else ""}')
    pairs = label_pairs(spec, split, folder, suffix, args.limit, remedy, args.masked_only)
    check_labels([path for _, path in pairs], spec, remedy=remedy)
    return pairs, folder


def print_table(args: argparse.Namespace, spec: DatasetSpec) -> None:
    """Print the scores of the run, or of several runs; for own data also what is known without masks."""
    if are_several(args.runs):
        print(compare(args.exp, args.runs).text())
        return
    scores, split = read_scores(args.folder / 'scores.json'), args.split or spec.val_split
    checked = spec.preset == 'own' and (args.folder / 'labels' / spec.label_split(split) / 'cam').is_dir()
    if scores or not checked:
        print(summary_text(scores, args.run))
    if checked:
        print(f'\n{text_of(check_classes(spec, split, args.folder), split)}')
    if recommended := read_recommended(args.folder):
        print(f'\n{recommended_text(recommended)}')


def main(argv=None):
    """Score one output of one split, or print the run's table."""
    args, spec = resolve(make_parser(), argv, 'eval', get_spec)
    file = args.folder / 'scores.json'
    if args.table:
        print_table(args, spec)
        return
    if are_several(args.runs):
        raise ValueError(f'--run {" ".join(args.runs)}: several runs are compared with --table; score one at a time')
    split = args.split or spec.val_split
    pairs, folder = find_pairs(args, spec, split)
    if args.dry_run:
        print(f'{args.what} of {len(pairs)} images ({spec.name} {split}) in {folder}')
        return

    # What the scores are made from: they may exist already.
    digests, names = Digests(args.folder / '.digests.json'), [sample.name for sample, _ in pairs]
    if chosen := args.background_score == AUTO:
        args.background_score = chosen_score(args.folder)
    predictions, truths = digests.of(path for _, path in pairs), digests.of(sample.mask for sample, _ in pairs)
    origin = {**stage_origin(args, spec), 'inputs': {'predictions': text_digest([*zip(names, predictions)]),
                                                     'ground_truths': text_digest([*zip(names, truths)])}}
    origin['settings']['split'] = split
    digests.save()
    before = [old for old in read_scores(file) if all(old.get(key) == origin[key] for key in ('settings', 'inputs'))
              and old['classes'] == list(spec.class_names) and (args.on_corrupt == 'skip' or not old.get('left_out'))
              and 'absent' in old]
    if before and not args.fresh:
        print(f'{evaluation_text(before[-1])}\n\nscored before, {before[-1]["time"]}; --fresh scores again')
        return

    # Score, and save before printing.
    scores = evaluate(args, spec, pairs)
    if chosen and args.what == 'cam':
        scores['results'][0]['chosen'] = True
    scores['left_out'] = sorted([*spec.left_out(split, args.limit), *scores['left_out']])
    record = {'dataset': spec.name, 'split': split, 'what': args.what, 'protocol': args.protocol, 'labels': str(folder),
              **scores, **environment(), **origin, 'classes': list(spec.class_names)}
    add_score(file, record)
    print(evaluation_text(record))


if __name__ == '__main__':
    run_script(main)
