"""Table of the runs of ablation.sh: mean and deviation over seeds, and the gain over plain SEAM, seed by seed.

    python -m benchmarks.ablation --name ablation

Reads the newest CAM scores in exp/<name>-<variant>-<seed>/scores.json; prints Markdown, in percent. The deviation is
that of a sample (n - 1). A gain compares runs of the same seed alone.
"""
import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev

from lib.process.cli import Parser
from lib.process.ending import run_script
from lib.run.record import read_scores

NAMES = {'seam': 'SEAM', 'isl': 'SEAM + ISL', 'fsl': 'SEAM + FSL', 'both': 'SEAM + ISL + FSL'}
FIGURES = ('mIoU, best threshold', 'mIoU at 0.25', 'contour F at 0.25')
Scores = tuple[float, ...]


def figures(path: Path, split: str) -> Scores:
    """FIGURES of the newest CAM scores of a run.

    Raises:
        ValueError: if the run has none.
    """
    records = [record for record in read_scores(path) if record['what'] == 'cam' and record['split'] == split]
    if not records:
        raise ValueError(f'{path} has no scores of CAMs of {split}; run benchmarks/ablation.sh again')
    fixed, best = records[-1]['results']
    if fixed['threshold'] != 0.25:
        raise ValueError(f'{path} was scored at {fixed["threshold"]:g}, not at 0.25; score it again with eval.py')
    return best['miou'], fixed['miou'], fixed['contour_f']


def collect(exp: Path, name: str, split: str) -> dict[str, dict[str, Scores]]:
    """Figures by variant and seed of all finished runs.

    Raises:
        ValueError: if there is none.
    """
    found = {variant: {} for variant in NAMES}
    for done in sorted(exp.glob(f'{name}-*/ablation.txt')):
        variant, _, seed = done.parent.name.removeprefix(f'{name}-').rpartition('-')
        if variant in found:
            found[variant][seed] = figures(done.parent / 'scores.json', split)
    if not any(found.values()):
        raise ValueError(f'{exp} has no finished runs called {name}-...; make some with benchmarks/ablation.sh')
    return {variant: runs for variant, runs in found.items() if runs}


def table(found: Mapping[str, Mapping[str, Scores]]) -> str:
    """Markdown: the scores of each variant, then its gains over SEAM."""
    rows = [('CAM, percent', 'seeds', *FIGURES)]
    for variant, runs in found.items():
        rows.append((NAMES[variant], str(len(runs)), *(spread(column) for column in zip(*runs.values()))))
    base = found.get('seam', {})
    for variant, runs in found.items():
        pairs = [[mine - theirs for mine, theirs in zip(runs[seed], base[seed])] for seed in runs if seed in base]
        if variant != 'seam' and pairs:
            gains = (f'{spread(column, "+")} ({sum(value > 0 for value in column)} of {len(pairs)} above)'
                     for column in zip(*pairs))
            rows.append((f'gain of {NAMES[variant].removeprefix("SEAM + ")}', str(len(pairs)), *gains))
    rows.insert(1, ('---',) * len(rows[0]))
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)


def spread(values: tuple[float, ...], sign: str = '') -> str:
    """'mean ± deviation'; the mean alone where there is one value."""
    text = f'{mean(values):{sign}.2f}'
    return f'{text} ± {stdev(values):.2f}' if len(values) > 1 else text


def make_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser(__doc__)
    parser.add_argument('--exp', type=Path, default=Path('exp'), metavar='DIR', help='folder of all runs')
    parser.add_argument('--name', default='ablation', help='first word of the runs\' names')
    parser.add_argument('--split', default='val', help='split that was scored')
    return parser


def main(argv=None):
    """Print the table."""
    args = make_parser().parse_args(argv)
    print(table(collect(args.exp, args.name, args.split)))


if __name__ == '__main__':
    run_script(main)
