"""Numbers on the command line: every numeric flag of every command is finite and in range, or refused in one line."""
import argparse
import importlib
import math
import re
from pathlib import Path

import pytest

import pipeline
from lib.process.cli import LowHigh, Parser, integer, number

ROOT = Path(__file__).parent.parent
MODULES = sorted('.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__main__')
                 for path in ROOT.rglob('*.py')
                 if path.relative_to(ROOT).parts[0] not in ('tests', '.venv', 'data', 'pipeline.py')
                 and "__name__ == '__main__'" in (text := path.read_text())
                 and re.search(r'ArgumentParser\(|Parser\(|_parser\(|train_cam\(', text))
WORDS = ('nan', 'NaN', 'inf', '-inf', 'infinity', '1e999', '-1e999', '1e-999', '9' * 30, '9' * 6000, '-1', '0', '-0.0',
         '', ' 1', '1_000', '0x10', '1e3', '٣', '1,5', 'word', 'None', '1.5', '2')


class Found(Exception):
    """Carries a command's parser out of its main()."""


def parser_of(module, monkeypatch):
    """The parser that a command builds, met where it would read the command line."""
    def found(parser, *_):
        raise Found(parser)
    if module == 'pipeline':
        return pipeline.make_parser('demo')
    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', found)
    name = f'{module}.__main__' if module in ('lib.own', 'lib.report') else module
    with pytest.raises(Found) as caught:
        importlib.import_module(name).main([])
    monkeypatch.undo()
    return caught.value.args[0]


def answer(parser, words):
    """What parsing gives: the namespace, or the error."""
    try:
        return parser.parse_args(words)
    except ValueError as error:
        return str(error)


def needed(parser, but):
    """Words for all that has to be given, except one flag."""
    words = []
    for action in parser._actions:
        if action.required and action is not but:
            words += [*action.option_strings[:1], next(iter(action.choices)) if action.choices else 'x.png']
    return words


@pytest.mark.parametrize('module', MODULES)
def test_every_number_of_every_command_is_in_range_or_refused_in_one_line(module, monkeypatch):
    parser = parser_of(module, monkeypatch)
    for action in parser._actions:
        assert action.type not in (int, float) or action.choices, f'{module} {action.dest}: see lib/process/cli.py'
        if not (hasattr(action.type, 'expected') or action.dest == 'fsl_sigma'):
            continue
        flag, given = action.option_strings[0], needed(parser, action)
        for word in WORDS:
            words = [f'{flag}={word}'] if action.nargs is None else [flag, *[word] * (2 if action.nargs == 2 else 1)]
            found = answer(parser, [*given, *words])
            if isinstance(found, str):
                assert re.match(r'argument \S*' + flag, found), found
                assert ' is not accepted; expected ' in found or 'expected one argument' in found \
                    or 'expected 2 arguments' in found or 'at least one' in found, found
                assert len(found) < 300
            else:
                value = getattr(found, action.dest)
                for part in value if isinstance(value, list | tuple) else [value]:
                    assert part is None or math.isfinite(part) and 0 <= part <= 2 ** 32 and part == float(word), words


def test_the_commands_are_all_there():
    assert {'infer_cam', 'eval', 'lib.report', 'lib.own', 'lib.data.toy', 'coco.prepare',
            'coco.config', 'voc12.config', 'examples.add_on'} <= set(MODULES)


@pytest.mark.parametrize('kind, good, bad, says', [
    (integer(1, 9), ('1', '9', '+3', '007'), ('0', '10', '-1', '1.5', 'x'), 'a whole number from 1 to 9'),
    (number(0, 2), ('0', '2', '.5', '2.', '1e-3'), ('-0.1', '2.1', 'nan', '1e400', 'e5', '.'), 'a number from 0 to 2'),
    (number(0, 2, above=True), ('0.1', '2'), ('0', '-0'), 'a number above 0 to 2'),
    (number(0, 1, below=True), ('0', '0.999'), ('1',), 'a number from 0 below 1')])
def test_numbers_out_of_range_are_refused_with_the_range(kind, good, bad, says):
    parser = Parser('')
    parser.add_argument('--n', type=kind)
    for word in good:
        assert answer(parser, [f'--n={word}']).n == float(word)
    for word in bad:
        assert answer(parser, [f'--n={word}']).endswith(
            f'argument --n: {word!r} is not accepted; expected {says}')


@pytest.mark.parametrize('strict, refused', [(False, ('2', '1')), (True, ('2', '1')), (True, ('1', '1'))])
def test_of_two_numbers_the_lower_comes_first(strict, refused):
    parser = Parser('')
    parser.add_argument('--pair', type=number(0, 9), action=LowHigh, strict=strict, default=(1, 2))
    assert answer(parser, ['--pair', '1', '2.5']).pair == (1, 2.5)
    assert f'argument --pair: {" ".join(refused)} is not accepted; expected the lower number first' in answer(
        parser, ['--pair', *refused])
    if not strict:
        assert answer(parser, ['--pair', '1', '1']).pair == (1, 1)


def test_the_help_says_what_numbers_a_flag_takes():
    text = ' '.join(importlib.import_module('infer_aff').make_parser().format_help().split())
    assert 'steps (a whole number from 0 to 12; default: 6)' in text
