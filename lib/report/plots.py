"""Plots of a report, as SVG pictures in data URIs: a page holds them without any other file."""
import base64
import io
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

COLOURS = ('#2563eb', '#d97706', '#059669', '#db2777', '#7c3aed', '#0891b2', '#65a30d', '#dc2626', '#92400e', '#475569')
INK, GRID = '#334155', '#e2e8f0'
STYLE = {'font.size': 10, 'font.family': 'DejaVu Sans', 'axes.edgecolor': '#94a3b8', 'axes.labelcolor': INK,
         'text.color': INK, 'xtick.color': INK, 'ytick.color': INK, 'svg.hashsalt': 'report'}


def threshold_plot(curves: Mapping[str, Mapping[str, Sequence[float]]], fixed: float) -> str:
    """mIoU of CAMs over the background score, a line a split: {split: {'thresholds', 'miou'}}."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes('background score', 'mIoU, percent')
        for colour, (split, curve) in zip(COLOURS, curves.items()):
            x, y = curve['thresholds'], curve['miou']
            best = max(range(len(y)), key=y.__getitem__)
            axes.plot(x, y, color=colour, lw=2, label=f'{split}: best {y[best]:.1f} at {x[best]:.2f}')
            axes.plot(x[best], y[best], 'o', color=colour, ms=6)
        axes.axvline(fixed, color='#94a3b8', lw=1, ls='--')
        axes.annotate(f'{fixed:g}', (fixed, 0), (3, 4), xycoords=('data', 'axes fraction'), textcoords='offset points',
                      color='#64748b', fontsize=9)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=9)
        return _uri(figure)


def loss_plot(rows: Sequence[Mapping[str, float]]) -> str:
    """Every loss term of one training over its steps; the total is drawn thickest."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes('step', 'loss')
        terms = [key for key in rows[0] if key not in ('step', 'lr')]
        # The total first, in the first colour; the summary 'cls' of other terms would say things twice.
        terms = ['loss', *(key for key in terms if key not in ('loss', 'cls'))]
        for number, key in enumerate(terms):
            points = [(row['step'], row[key]) for row in rows if key in row]
            axes.plot(*zip(*points), color=COLOURS[number % len(COLOURS)], lw=2.2 if key == 'loss' else 1.2,
                      label='total' if key == 'loss' else key, marker='o' if len(points) == 1 else None)
        axes.margins(x=0.01)
        if len(terms) > 1:
            figure.legend(frameon=False, fontsize=9, ncols=5, loc='outside lower center', handlelength=1.2,
                          columnspacing=1)
        return _uri(figure)


def _axes(x_label: str, y_label: str):
    figure = Figure(figsize=(5.6, 3.5), layout='constrained')
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='svg', metadata={'Date': None, 'Creator': None})
    return 'data:image/svg+xml;base64,' + base64.b64encode(buffer.getvalue()).decode()
