"""Shared by all command lines: the parser, number ranges, progress bars."""
import argparse
import re
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from tqdm import tqdm

from lib.process import ranks

WHOLE = re.compile(r'[+-]?[0-9]+')
DECIMAL = re.compile(r'[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?')
LARGEST_SEED = 2 ** 32 - 1
AUTO = 'auto'                   # of a flag whose value the run chooses
COUNT = 10 ** 9                 # more steps, images or minutes than any run has


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows number ranges, defaults if there are any, and the docstring as it is written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        facts = [action.type.expected] if hasattr(action.type, 'expected') else []
        unsaid = action.default is False or action.default in (None, [], argparse.SUPPRESS)
        if action.option_strings and not unsaid:
            facts.append('default: %(default)s')
        return f'{action.help} ({"; ".join(facts)})' if facts else action.help


class Parser(argparse.ArgumentParser):
    """A parser that raises ValueError, which run_script prints in one line, where argparse would print the usage."""

    def __init__(self, doc: str, **settings):
        super().__init__(description=doc, formatter_class=HelpFormatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


class LowHigh(argparse.Action):
    """Action of a flag that takes two numbers, the lower one first; with strict they differ. Or `auto`, see or_auto."""

    def __init__(self, *args, strict: bool = False, **kwargs):
        super().__init__(*args, nargs='+' if kwargs['type'].expected.endswith(AUTO) else 2, **kwargs)
        self.strict = strict

    def __call__(self, parser, namespace, values, option_string=None):
        if values == [AUTO]:
            setattr(namespace, self.dest, AUTO)
            return
        if len(values) != 2 or AUTO in values:
            given = ' '.join(map(str, values))
            raise argparse.ArgumentError(self, f'{given} is not accepted; expected two numbers, or auto')
        low, high = values
        if low > high or self.strict and low == high:
            raise argparse.ArgumentError(self, f'{low:g} {high:g} is not accepted; expected the lower number first'
                                         + (', then a higher one' if self.strict else ''))
        setattr(namespace, self.dest, (low, high))


def integer(low: int, high: int) -> Callable[[str], int]:
    """Type of a flag that takes a whole number from low to high."""
    return _number(int, WHOLE, lambda value: low <= value <= high, f'a whole number from {low} to {high}')


def number(low: float, high: float, *, above: bool = False, below: bool = False) -> Callable[[str], float]:
    """Type of a flag that takes a number from low to high; with above or below, that end is not included."""
    lower, upper = f'{"above" if above else "from"} {low:g}', f'{"below" if below else "to"} {high:g}'
    return _number(float, DECIMAL, lambda value: (low < value if above else low <= value)
                   and (value < high if below else value <= high), f'a number {lower} {upper}')


def or_auto(convert: Callable) -> Callable:
    """Type of a flag that takes what `convert` takes, or the word auto."""
    def convert_or_auto(word: str):
        try:
            return AUTO if word == AUTO else convert(word)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f'{error}, or {AUTO}') from None
    convert_or_auto.expected = f'{convert.expected}, or {AUTO}'
    return convert_or_auto


def _number(kind: type, form: re.Pattern, fits: Callable, expected: str) -> Callable:
    def convert(word: str):
        # Python accepts more as a number than a user would: 1_000, nan, ' 1', digits of other scripts.
        if not form.fullmatch(word) or len(word) > 100 or not fits(value := kind(word)):
            raise argparse.ArgumentTypeError(f'{word[:100]!r} is not accepted; expected {expected}')
        return value
    convert.expected = expected
    return convert


def bar_style(title: str, unit: str = 'image') -> dict:
    """Settings of all tqdm bars; in a log file, one line every half minute is enough."""
    terminal = sys.stderr.isatty()
    return {'desc': title, 'unit': unit, 'dynamic_ncols': terminal, 'mininterval': 0.5 if terminal else 30,
            'maxinterval': 1 if terminal else 60}


def progress(items: Iterable, title: str, unit: str = 'image', total: int | None = None) -> tqdm:
    """A bar over items: items per second and time left. Of several processes, only rank 0 shows it."""
    return tqdm(items, total=total, disable=not ranks.is_first(), **bar_style(title, unit))
