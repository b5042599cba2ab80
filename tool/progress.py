"""How progress is shown, alike everywhere."""
import sys


def bar_style(title: str, unit: str = 'image') -> dict:
    """Settings of every tqdm bar. Where output goes to a file, a line every half minute is enough."""
    terminal = sys.stderr.isatty()
    return {'desc': title, 'unit': unit, 'dynamic_ncols': terminal, 'mininterval': 0.5 if terminal else 30,
            'maxinterval': 1 if terminal else 60}
