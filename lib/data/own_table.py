"""The table of a user's own set: which labels each image has. CSV or JSON; all problems are collected, with places.

    image,labels,split                      [{"image": "a.jpg", "labels": ["wren", "red kite"], "split": "train"},
    a.jpg,wren;red kite,train                {"image": "b.jpg", "labels": [], "split": "val"}]
    b.jpg,,val
"""
import csv
import io
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lib.files.jsonfile import parse_json

SPLITS = ('train', 'val', 'test')
COLUMNS = ('image', 'labels', 'split')      # the last may be left out
FIELD_SEPARATORS = ',;\t'


class Row(NamedTuple):
    """One image of the table: place is 'file:line', split '' where the table has no such column."""

    place: str
    image: str
    labels: tuple[str, ...]
    split: str


def read_table(path: Path, separator: str, report: Callable[[str, str], None]) -> list[Row]:
    """Read a table; .json as JSON, anything else as CSV with a header, separated by commas, semicolons or tabs.

    Args:
        path: the file; UTF-8, with or without a byte-order mark.
        separator: what stands between the labels of one image in CSV.
        report: called with (place, problem) for everything that is wrong; such rows are left out.

    Raises:
        FileNotFoundError, ValueError: if there is no such file, or a folder in its place.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode('utf-8-sig')
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} is not there; it is the table of the images, with the header '
                                'image,labels') from None
    except IsADirectoryError:
        raise ValueError(f'{path} is a folder; expected the table of the images, a CSV or JSON file') from None
    except UnicodeDecodeError as error:
        report(str(path), f'is not in UTF-8 (byte {error.start}); save it again as "CSV UTF-8"')
        return []
    if not text.strip():
        report(str(path), 'is empty; expected the header image,labels and a line for every image')
        return []
    records = (_json_records(path, text, report) if path.suffix.lower() == '.json' else
               _csv_records(path, text, separator, report))
    return [row for record in records if (row := _row(record, report))]


Record = tuple[str, str, list[str], str | None]     # place, image, labels, split (None: the table has no such column)


def _csv_records(path: Path, text: str, separator: str, report: Callable[[str, str], None]) -> Iterator[Record]:
    field_separator = next((char for char in text.splitlines()[0] if char in FIELD_SEPARATORS), ',')
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=field_separator, strict=True)
    header = [word.strip().lower() for word in next(reader)]
    if problem := _header_problem(header):
        report(f'{path}:1', problem)
        return
    while True:
        place = f'{path}:{reader.line_num + 1}'
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            report(place, f'cannot be read ({error}); check the quotation marks')
            continue
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            report(place, f'has {len(fields)} fields, the header {len(header)}; labels are separated by {separator!r} '
                   '(--separator), and a field with a separator in it needs quotation marks')
            continue
        values = dict(zip(header, fields))
        labels = values['labels'].strip()
        yield place, values['image'], labels.split(separator) if labels else [], values.get('split')


def _header_problem(header: list[str]) -> str | None:
    unknown = [word for word in header if word not in COLUMNS]
    missing = [word for word in COLUMNS[:2] if word not in header]
    if unknown or missing or len(set(header)) < len(header):
        return f'the header is {",".join(header)!r}; expected image,labels or image,labels,split'
    return None


def _json_records(path: Path, text: str, report: Callable[[str, str], None]) -> Iterator[Record]:
    try:
        entries = parse_json(text)
    except ValueError as error:
        report(str(path), f'is not valid JSON ({error})')
        return
    if not isinstance(entries, list):
        report(str(path), 'must hold a list of objects with "image" and "labels"')
        return
    for number, entry in enumerate(entries, 1):
        place = f'{path}: entry {number}'
        labels = entry.get('labels') if isinstance(entry, dict) else None
        if not isinstance(labels, list) or not set(entry) <= set(COLUMNS) or not all(
                isinstance(word, str) for word in [entry.get('image'), entry.get('split', ''), *labels]):
            report(place, 'must be {"image": text, "labels": list of texts}, and perhaps "split": text')
            continue
        yield place, entry['image'], labels, entry.get('split')


def composed(name: str) -> str:
    """The name in Unicode's form NFC: some systems write é as e and an accent, which looks the same and is another."""
    return unicodedata.normalize('NFC', name)


def _row(record: Record, report: Callable[[str, str], None]) -> Row | None:
    place, image, labels, split = record
    labels = [composed(label.strip()) for label in labels]
    image, split = image.strip(), None if split is None else split.strip().lower()
    problems = []
    if not image:
        problems.append('names no image')
    if '' in labels:
        problems.append('has an empty label between separators')
    problems += [f'names {label!r} twice' for label in sorted(set(labels)) if label and labels.count(label) > 1]
    problems += [f'{label!r} is no plain name of a class' for label in labels
                 if label == 'background' or '\t' in label or '\n' in label]
    if split is not None and split not in SPLITS:
        problems.append(f'has split {split!r}; use {", ".join(SPLITS)}')
    for problem in problems:
        report(place, problem)
    return None if problems else Row(place, image, tuple(labels), split or '')
