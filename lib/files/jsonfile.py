"""JSON files: a reader that says what is wrong with which file, and a writer."""
import json
import reprlib
from pathlib import Path
from typing import Any

from lib.files.fileio import write_text

RESTORE = 'restore it, or remove it'


def read_json(path: Path, shape: Any = object, remedy: str = RESTORE) -> Any:
    """The value in a JSON file in UTF-8 (or UTF-16) of a shape as in misfit(); errors end with the remedy."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} does not exist; {remedy}') from None
    return _checked(content, shape, str(path), remedy)


def read_json_lines(path: Path, shape: Any = object, remedy: str = RESTORE) -> list:
    """The values of a file with one JSON value per line, ignoring a truncated last line. No file: no values."""
    lines = Path(path).read_bytes().split(b'\n')[:-1] if Path(path).exists() else []
    return [_checked(line, shape, f'{path}:{number}', remedy) for number, line in enumerate(lines, 1)]


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError if it is not valid, an object repeats a key, or it is nested too deeply."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError('nested too deeply') from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; an existing one is replaced only when the new one is complete."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + '\n')


def misfit(value: Any, shape: Any, name: str = 'it') -> str:
    """How a value of JSON or of a PyTorch file, called `name`, differs from a shape, in words; '' if it does not.

    shape: a type (float accepts int; numbers are finite), a literal value, a tuple of alternatives, [shape of all
        items], or {'key': shape, 'optional key?': shape, str: shape of all other values}; without str, other keys may
        hold anything.
    """
    if isinstance(shape, dict) and isinstance(value, dict):
        if missing := [key for key in shape if key is not str and not key.endswith('?') and key not in value]:
            return f'{name} lacks "{missing[0]}"'
        others = shape.get(str, object)
        parts = [(f'"{key}"', part, shape.get(key, shape.get(f'{key}?', others))) for key, part in value.items()]
    elif isinstance(shape, list) and isinstance(value, list):
        parts = [(f'item {index}', item, shape[0]) for index, item in enumerate(value, 1)]
    else:
        if isinstance(shape, tuple):
            fits = any(not misfit(value, one) for one in shape)
        elif shape is float:
            fits = type(value) in (int, float) and -1e300 < value < 1e300
        elif isinstance(shape, type):
            fits = shape in (object, type(value))
        else:
            fits = type(value) is type(shape) and value == shape
        return '' if fits else f'{name} is {reprlib.repr(value)}, expected {_description(shape)}'
    problems = (misfit(part, part_shape, part_name if name == 'it' else f'{part_name} of {name}')
                for part_name, part, part_shape in parts)
    return next(filter(None, problems), '')


def _description(shape: Any) -> str:
    if isinstance(shape, tuple):
        return ' or '.join(map(_description, shape))
    kind = type(shape) if isinstance(shape, list | dict) else shape
    return kind.__name__ if isinstance(kind, type) else repr(kind)


def _checked(text: bytes, shape: Any, source: str, remedy: str) -> Any:
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ValueError(f'{source} is not valid JSON ({error}); {remedy}') from None
    if problem := misfit(value, shape):
        raise ValueError(f'{source}: {problem}; {remedy}')
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict:
    if len(dict(pairs)) < len(pairs):
        raise ValueError('an object repeats a key')
    return dict(pairs)
