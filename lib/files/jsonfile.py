"""JSON files: one reader, which says what is wrong with which file, and one writer."""
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.files.fileio import replacing

NAMES = {str: 'text', int: 'a whole number', float: 'a number', bool: 'true or false', list: 'a list',
         dict: 'an object', None: 'null'}
RESTORE = 'restore it, or remove it'


def read_json(path: Path, shape: Any = object, remedy: str = RESTORE) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte-order mark, or in UTF-16.

    Args:
        path: the file.
        shape: what it must hold, see misfit().
        remedy: what to do about a file that is absent or holds something else.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not valid JSON or not of this shape; names file and place.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        value = parse_json(content.decode(json.detect_encoding(content)))
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} is not there; {remedy}') from None
    except ValueError as error:
        raise ValueError(f'{path} is not valid JSON ({error}); {remedy}') from None
    if problem := misfit(value, shape):
        raise ValueError(f'{path}: {problem}; {remedy}')
    return value


def read_json_lines(path: Path, shape: Any = object, remedy: str = RESTORE) -> list:
    """The values of a file with one JSON value per line. A last line that a kill cut off is left out; no file, none.

    Raises:
        ValueError: as read_json, naming the line.
    """
    if not Path(path).exists():
        return []
    values = []
    for number, line in enumerate(Path(path).read_bytes().split(b'\n')[:-1], 1):
        try:
            values.append(parse_json(line.decode()))
        except ValueError as error:
            raise ValueError(f'{path}:{number} is not valid JSON ({error}); {remedy}') from None
        if problem := misfit(values[-1], shape):
            raise ValueError(f'{path}:{number}: {problem}; {remedy}')
    return values


def parse_json(text: str) -> Any:
    """The value of a JSON text; numbers are finite, no key stands twice in an object, all text can be printed.

    Raises:
        ValueError: saying what is wrong.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError('nested too deeply') from None
    if '\\u' in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError('half of a surrogate pair, which is no character') from None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


def misfit(value: Any, shape: Any, place: str = 'it') -> str:
    """Where a value differs from a shape and how, in words; '' where it does not.

    Args:
        value: of JSON, or of a PyTorch file.
        shape: a type (float takes whole numbers too; numbers are finite), a value (that value), a tuple of
            alternatives, [shape] of all items, {str: shape} of all values, or {'key': shape, 'optional?': shape}, where
            further keys are free.
        place: what to call the value.
    """
    if isinstance(shape, dict) and isinstance(value, dict):
        parts = _members(value, shape)
        missing = [key for key in shape if isinstance(key, str) and not key.endswith('?') and key not in value]
        if missing:
            return f'{place} lacks "{missing[0]}"'
    elif isinstance(shape, list) and isinstance(value, list):
        parts = ((f'item {index}', item, shape[0]) for index, item in enumerate(value, 1))
    else:
        return '' if _fits(value, shape) else f'{place} is {_shown(value)}, expected {_name(shape)}'
    problems = (misfit(part, its_shape, name if place == 'it' else f'{name} of {place}')
                for name, part, its_shape in parts)
    return next(filter(None, problems), '')


def _members(value: dict, shape: dict) -> Iterator[tuple[str, Any, Any]]:
    for key, part in value.items():
        if not isinstance(key, str):
            yield 'a key', key, str
        elif str in shape or key in shape or f'{key}?' in shape:
            yield f'"{_shown(key)[1:-1]}"', part, shape.get(key, shape.get(f'{key}?', shape.get(str)))


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, tuple):
        return any(not misfit(value, one) for one in shape)
    if shape is float:
        return type(value) in (int, float) and -1e300 < value < 1e300
    if isinstance(shape, type):
        return type(value) is shape or shape is object
    return value is None if shape is None else type(value) is type(shape) and value == shape


def _name(shape: Any) -> str:
    if isinstance(shape, tuple):
        return ' or '.join(map(_name, shape))
    kind = type(shape) if isinstance(shape, dict | list) else shape
    return f'"{kind}"' if isinstance(kind, str) else NAMES.get(kind, str(kind))


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _object(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f'the key {_shown(next(key for key in keys if keys.count(key) > 1))} stands twice')
    return found


def _refuse(word: str):
    raise ValueError(f'{word} is no number of JSON')


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f'{word[:30]} is too large a number')
    return value
