"""Label lists in tables: CSV, Excel, and JSON records, which say the same with keys in place of columns.

Columns are recognised by their usual names or by their content. Labels are in one column, with several in a cell or
one per line, or in a column of 0 and 1 per class.
"""
import csv
import io
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from json import detect_encoding
from pathlib import Path
from typing import Any

from lib.files.imageio import IMAGE_SUFFIXES
from lib.own.labels import choose_separator, split_cell
from lib.own.photos import Log, Row

# Names of columns, without spaces, underscores and digits; the first one that occurs is used.
IMAGES = ('image', 'filename', 'imagefilename', 'imagefile', 'imagename', 'imagepath', 'filepath', 'path', 'img',
          'imgpath', 'imgname', 'fname', 'file', 'photo', 'picture', 'images', 'files', 'name', 'imageid', 'id')
LABELS = ('labels', 'label', 'tags', 'tag', 'classes', 'class', 'categories', 'category', 'labelname', 'classname',
          'categoryname', 'choice', 'choices')
SPLIT = ('split', 'set', 'subset', 'partition')
SPLIT_NAMES = {'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val', 'test': 'test',
               'testing': 'test'}
ZERO, ONE = {'', '0', '0.0', 'false'}, {'1', '1.0', 'true'}
Record = tuple[str, Mapping[str, Any]]          # location and values by column


def read_text(path: Path, log: Log) -> str:
    """The text of a file in UTF-8, UTF-16 or, with a note, Windows-1252."""
    content = path.read_bytes()
    try:
        return content.decode(detect_encoding(content))
    except UnicodeDecodeError as error:
        log.note(f'{path} is not UTF-8 (byte {error.start}); it is read as Windows-1252: check accented names, or save '
                 'it as "CSV UTF-8"')
        return content.decode('cp1252', errors='replace')


def read_csv(path: Path, log: Log) -> list[Record]:
    """Records of a text table; the first separator in its first line separates the fields."""
    text, lines = read_text(path, log), []
    separator = next((char for char in text.partition('\n')[0] if char in ',;\t'), ' ')
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=separator, strict=True, skipinitialspace=True)
    while True:
        location = f'{path}:{reader.line_num + 1}'
        try:
            lines.append((location, next(reader)))
        except StopIteration:
            break
        except csv.Error as error:
            log.problem(location, f'cannot be read ({error}); check the quotation marks')
    return _records(lines, path, log)


def read_excel(path: Path, log: Log) -> list[Record]:
    """Records of the first sheet of an Excel file."""
    try:
        import openpyxl
        sheet = openpyxl.load_workbook(path, read_only=True, data_only=True).worksheets[0]
        lines = [(f'{path}:{number}', ['' if cell is None else str(cell) for cell in cells])
                 for number, cells in enumerate(sheet.iter_rows(values_only=True), 1)]
    except ImportError:
        raise ValueError(f'{path} needs openpyxl (pip install -r requirements-own.txt); or save it as "CSV UTF-8"') \
            from None
    except Exception as error:          # a corrupt archive can end in any error
        raise ValueError(f'{path} is not a readable Excel file ({error}); save it as "CSV UTF-8"') from error
    return _records(lines, path, log)


def _records(lines: Sequence[tuple[str, list[str]]], path: Path, log: Log) -> list[Record]:
    """Locations and cells as records. Cells beyond the header belong to its last column if that is one of labels."""
    lines = [(location, [*map(str.strip, cells)]) for location, cells in lines if any(map(str.strip, cells))]
    if not lines:
        raise ValueError(f'{path} is empty; expected a header such as image,labels and a line per image')
    (_, header), *below = lines
    fewest = len(header)
    if header[0].lower().endswith(IMAGE_SUFFIXES):
        log.note(f'{path} has no header: the first column is read as images, a column of train, val or test as the '
                 'split, the others as labels')
        _, *columns = zip_longest(*(cells for _, cells in lines), fillvalue='')
        header = ['image', *('split' if {_word(cell) for cell in column} <= SPLIT_NAMES.keys() else f'label{number}'
                             for number, column in enumerate(columns))]
        below, fewest = lines, 1
    elif _plain(header[-1]) in LABELS:
        header = header + [f'{header[-1]}_{number}' for number in range(max(len(cells) for _, cells in lines) - fewest)]
    if repeated := [name for name in header if name and header.count(name) > 1]:
        raise ValueError(f'{path} has two columns {repeated[0]!r}; rename or delete one')
    records = []
    for location, cells in below:
        if len(cells) < fewest or any(cells[len(header):]):
            log.problem(location, f'has {len(cells)} fields, the header {fewest}; a field with a separator in it needs '
                        'quotation marks')
        else:
            records.append((location, dict(zip_longest(header, cells[:len(header)], fillvalue=''))))
    return records


def rows_of(records: Sequence[Record], path: Path, separator: str | None, log: Log) -> list[Row]:
    """One row per record of a table, or of JSON, where labels may be lists.

    `path` is for messages; the separator is that between the labels in a cell, None to choose it.
    """
    if not records and not log.problems:
        raise ValueError(f'{path} names no image; expected a line per image below the header')
    columns = list(dict.fromkeys(name for _, record in records for name in record if name))
    images = _named(columns, IMAGES) or [name for name in columns if all(
        str(record.get(name, '')).strip().lower().endswith(IMAGE_SUFFIXES) for _, record in records[:10])]
    if records and not images:
        raise ValueError(f'{path} has no column of images: its header is {", ".join(columns)}; name one "image", and '
                         'write the names with their endings')
    image, split = (found[0] if found else None for found in (images, _named(columns, SPLIT)))
    rest = [name for name in columns if name not in (image, split)]
    labels, onehot = _named(rest, LABELS), []
    if not labels:
        words = {name: {_word(record.get(name)) for _, record in records} for name in rest}
        onehot = [name for name in rest if words[name] <= ZERO | ONE and words[name] != {''}]
        for name in rest:
            if '-1' in words[name] <= ZERO | ONE | {'-1'}:
                log.problem(path, f'column {name!r} holds -1, expected 0 or 1 for every class; replace unknown values '
                            'by 0 or 1')
        labels = rest if len(rest) == 1 and not onehot else []
    if records and not (labels or onehot):
        raise ValueError(f'{path} has no column of labels among {", ".join(columns)}; name one "labels", or give each '
                         'class a column of 0 and 1')
    if ignored := [name for name in rest if name not in labels + onehot]:
        log.note(f'{path}: unused columns: {", ".join(ignored[:10])}'
                 + (', with values other than 0 and 1' if onehot else ''))
    cells = [value for _, record in records for name in labels if isinstance(value := record.get(name), str)]
    separator = separator or choose_separator(cells, path, log)

    rows = []
    for location, record in records:
        found = [name for name in onehot if _word(record.get(name)) in ONE]
        values = [record[name] for name in labels if name in record]        # none where JSON leaves the labels out
        found += [label for value in values for label in _labels(value, separator)]
        word = _word(record.get(split))
        if word and word not in SPLIT_NAMES:
            log.problem(location, f'has split {word!r}; use train, val, test')
        rows.append(Row(location, str(record.get(image) or ''), tuple(found) if values or onehot else None,
                        SPLIT_NAMES.get(word, '')))
    return rows


def _labels(value: Any, separator: str) -> list[str]:
    """The labels in a cell, or in a value of JSON: a list, or an object that holds a list or a label."""
    if isinstance(value, dict):
        lists = [part for part in value.values() if isinstance(part, list)]
        value = lists[0] if lists else [value[name] for name in LABELS if name in value]
    if isinstance(value, list):
        return [label for part in value for label in _labels(part, 'none')]
    return [] if value is None else split_cell(str(value), separator)


def _named(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns of the first name that occurs: label1, label2 are columns of one name."""
    return next((found for name in names if (found := [column for column in columns if _plain(column) == name])), [])


def _plain(column: str) -> str:
    return re.sub(r'[\W\d_]', '', column.casefold().rpartition('.')[2])      # ground_truth.label


def _word(value: Any) -> str:
    return '' if value is None else str(value).strip().casefold()
