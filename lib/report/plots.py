"""Plots of a report, as SVG images in data URIs: the page needs no other file."""
import base64
import io
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tool.evalutils import PUBLISHED

STYLE = {'font.size': 10, 'axes.spines.top': False, 'axes.spines.right': False, 'axes.grid': True,
         'grid.color': '#e2e8f0', 'axes.axisbelow': True, 'legend.frameon': False, 'svg.hashsalt': 'report'}


def threshold_plot(curves: Mapping[str, Mapping[str, Sequence[float]]], fixed: float) -> str:
    """mIoU of CAMs over the background score, one line per split: {split: {'thresholds', 'miou'}}."""
    def draw(axes: Axes) -> None:
        for split, curve in curves.items():
            x, y = curve['thresholds'], curve['miou']
            best, published = (max(range(len(part)), key=part.__getitem__) for part in (y, y[:PUBLISHED]))
            label = f'{split}: best {y[best]:.1f} at {x[best]:.2f}'
            label += f', published {y[published]:.1f} at {x[published]:.2f}' if published != best else ''
            axes.plot(x, y, '-o', markevery=sorted({best, published}), label=label)
        axes.axvline(fixed, color='grey', linestyle='--', label=f'{fixed:g}')
        axes.set(xlabel='background score', ylabel='mIoU, percent', ylim=(0, None))
        axes.legend()

    return _svg(draw)


def loss_plot(rows: Sequence[Mapping[str, float]]) -> str:
    """Every loss term of one training over its steps; the total is the thickest line."""
    def draw(axes: Axes) -> None:
        # The total comes first; 'cls' is the sum of other terms.
        for term in ('loss', *(key for key in rows[0] if key not in ('step', 'lr', 'loss', 'cls'))):
            points = [(row['step'], row[term]) for row in rows if term in row]
            axes.plot(*zip(*points), label='total' if term == 'loss' else term, lw=2.2 if term == 'loss' else 1.2,
                      marker='o' if len(points) == 1 else None)
        axes.set(xlabel='step', ylabel='loss')
        axes.figure.legend(ncols=5, loc='outside lower center')

    return _svg(draw)


def _svg(draw) -> str:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.5), layout='constrained')
        draw(figure.add_subplot())
        figure.savefig(buffer, format='svg', metadata={'Date': None, 'Creator': None})
    return 'data:image/svg+xml;base64,' + base64.b64encode(buffer.getvalue()).decode()
