"""Number types of flags: finite and in a range, or refused by argparse in one line that says the range."""
import argparse
import re
from collections.abc import Callable

WHOLE = re.compile(r'[+-]?[0-9]+')
DECIMAL = re.compile(r'[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?')
LARGEST_SEED = 2 ** 32 - 1
COUNT = 10 ** 9                 # more steps, images or minutes than any run has


def integer(low: int, high: int) -> Callable[[str], int]:
    """Type of a flag that takes a whole number from low to high."""
    return _number(int, WHOLE, lambda value: low <= value <= high, f'a whole number from {low} to {high}')


def number(low: float, high: float, *, above: bool = False, below: bool = False) -> Callable[[str], float]:
    """Type of a flag that takes a number from low to high; with above or below, that end is not included."""
    lower, upper = f'{"above" if above else "from"} {low:g}', f'{"below" if below else "to"} {high:g}'
    return _number(float, DECIMAL, lambda value: (low < value if above else low <= value)
                   and (value < high if below else value <= high), f'a number {lower} {upper}')


def _number(kind: type, form: re.Pattern, fits: Callable, expected: str) -> Callable:
    def convert(word: str):
        # Not all that Python takes for a number is one to the user: 1_000, nan, ' 1', digits of other scripts.
        if not form.fullmatch(word) or len(word) > 100 or not fits(value := kind(word)):
            shown = word if len(word) <= 100 else f'{word[:30]}...'
            raise argparse.ArgumentTypeError(f'{shown!r} is not accepted; expected {expected}')
        return value
    convert.expected = expected
    return convert


class LowHigh(argparse.Action):
    """Action of a flag that takes two numbers, the lower one first; with strict they differ."""

    def __init__(self, *args, strict: bool = False, **kwargs):
        super().__init__(*args, nargs=2, **kwargs)
        self.strict = strict

    def __call__(self, parser, namespace, values, option_string=None):
        low, high = values
        if low > high or self.strict and low == high:
            raise argparse.ArgumentError(self, f'{low:g} {high:g} is not accepted; expected the lower number first'
                                         + (', then a higher one' if self.strict else ''))
        setattr(namespace, self.dest, (low, high))
