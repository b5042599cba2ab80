"""The table of a user's own set: which labels each image has. CSV or JSON; problems are collected by line.

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

from lib.files.jsonfile import read_json

SPLITS = ('train', 'val', 'test')
COLUMNS = {'image', 'labels', 'split'}      # split is optional
JSON_TABLE = [{'image': str, 'labels': [str], 'split?': str}]
FIELD_SEPARATORS = ',;\t'
Report = Callable[[str, str], None]         # takes a location ('file:line') and what is wrong there


class Row(NamedTuple):
    """One image of the table; split is '' where the table has no such column."""

    location: str
    image: str
    labels: tuple[str, ...]
    split: str


def read_table(path: Path, separator: str, report: Report) -> list[Row]:
    """Read a table; .json as JSON, anything else as CSV with a header, separated by commas, semicolons or tabs.

    Args:
        path: the file; UTF-8, with or without a byte-order mark.
        separator: what separates the labels of one image in CSV.
        report: called for every row with a problem; such rows are left out.

    Raises:
        FileNotFoundError, ValueError: if the file is missing, or nothing of it can be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path} is not a file; expected the table of the images, CSV or JSON')
    records = _json_records(path) if path.suffix.lower() == '.json' else _csv_records(path, separator, report)
    return [row for record in records if (row := _checked(record, report))]


def composed(name: str) -> str:
    """The name in Unicode's form NFC: some systems store an accented letter as two characters, which look the same."""
    return unicodedata.normalize('NFC', name)


def _json_records(path: Path) -> Iterator[Row]:
    for number, entry in enumerate(read_json(path, JSON_TABLE, 'it lists images, see lib/data/own_table.py'), 1):
        yield Row(f'{path}: entry {number}', entry['image'], tuple(entry['labels']), entry.get('split', ''))


def _csv_records(path: Path, separator: str, report: Report) -> Iterator[Row]:
    try:
        text = path.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not in UTF-8 (byte {error.start}); save it again as "CSV UTF-8"') from None
    header = text.partition('\n')[0].strip().lower()
    field_separator = next((char for char in header if char in FIELD_SEPARATORS), ',')
    names = [name.strip(' "') for name in header.split(field_separator)]
    if not {'image', 'labels'} <= set(names) <= COLUMNS or len(set(names)) < len(names):
        raise ValueError(f'{path} has the header {header!r}; expected image,labels or image,labels,split')
    reader = csv.reader(io.StringIO(text.partition('\n')[2], newline=''), delimiter=field_separator, strict=True)
    while True:
        location = f'{path}:{reader.line_num + 2}'
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            report(location, f'cannot be read ({error}); check the quotation marks')
            continue
        if not any(map(str.strip, fields)):
            continue
        if len(fields) != len(names):
            report(location, f'has {len(fields)} fields, the header {len(names)}; labels are separated by '
                   f'{separator!r} (--separator), and a field with a separator in it needs quotation marks')
            continue
        record = dict(zip(names, fields))
        labels = record['labels'].split(separator) if record['labels'].strip() else ()
        yield Row(location, record['image'], tuple(labels), record.get('split', ''))


def _checked(row: Row, report: Report) -> Row | None:
    """The row with names stripped and composed; None if something is wrong with it."""
    labels = [composed(label.strip()) for label in row.labels]
    row = Row(row.location, composed(row.image.strip()), tuple(labels), row.split.strip().lower())
    problems = []
    if not row.image:
        problems.append('names no image')
    if '' in labels:
        problems.append('has an empty label between separators')
    if len(set(labels)) < len(labels):
        problems.append(f'names {max(labels, key=labels.count)!r} twice')
    problems += [f'{label!r} cannot be the name of a class' for label in labels
                 if label == 'background' or not label.isprintable()]
    if row.split not in ('', *SPLITS):
        problems.append(f'has split {row.split!r}; use {", ".join(SPLITS)}')
    for problem in problems:
        report(row.location, problem)
    return None if problems else row
