"""Label lists in tables: CSV, Excel, and JSON records, which say the same with keys in place of columns.

Columns are found by the names that people give them, or by what is in them. Labels are in one column, several to a
cell or one line each, or in a column of 0 and 1 per class.
"""
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from json import detect_encoding
from pathlib import Path, PurePosixPath
from typing import Any

from lib.files.imageio import IMAGE_SUFFIXES
from lib.own.labels import choose_separator, split_cell
from lib.own.photos import Log, Row

# Names of columns without spaces, underscores and digits; the first that occurs counts.
IMAGES = ('image', 'filename', 'imagefilename', 'imagefile', 'imagename', 'imagepath', 'filepath', 'path', 'img',
          'imgpath', 'imgname', 'fname', 'file', 'photo', 'picture', 'images', 'files', 'name', 'imageid', 'id')
LABELS = ('labels', 'label', 'tags', 'tag', 'classes', 'class', 'categories', 'category', 'labelname', 'classname',
          'categoryname', 'choice', 'choices')
SPLIT = ('split', 'set', 'subset', 'partition')
SPLIT_NAMES = {'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val', 'test': 'test',
               'testing': 'test'}
ZERO, ONE = {'', '0', '0.0', 'false'}, {'1', '1.0', 'true'}
Record = tuple[str, Mapping[str, Any]]          # location and values by column


def read_csv(path: Path, log: Log) -> list[Record]:
    """Records of a text table with a header, or without one if its first cell is the name of an image."""
    text = read_text(path, log)
    first = text.partition('\n')[0]
    if skipped := first.lower().startswith('sep='):         # a line that Excel writes
        first = text.partition('\n')[2].partition('\n')[0]
    separator = next((char for char in first if char in ',;\t'), ' ')
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=separator, strict=True,
                        skipinitialspace=True)
    lines = [(location, fields) for location, fields in _lines(reader, path, log)][int(skipped):]
    return to_records(lines, path, log)


def read_text(path: Path, log: Log) -> str:
    """The text of a file in UTF-8, UTF-16 or, with a note, in the encoding of Windows."""
    content = path.read_bytes()
    encoding = detect_encoding(content)
    try:
        text = content.decode('utf-8-sig' if encoding == 'utf-8' else encoding)
    except UnicodeDecodeError as error:
        encoding, text = 'cp1252', content.decode('cp1252', errors='replace')
        log.note(f'{path} is not in UTF-8 (byte {error.start}); read as cp1252, the encoding of Windows: check the names '
                 'with accents, or save it as "CSV UTF-8"')
    if encoding.startswith(('utf-16', 'utf-32')):
        log.note(f'{path} was read as {encoding.upper()}')
    return text


def read_excel(path: Path, log: Log) -> list[Record]:
    """Records of the first sheet of an Excel file."""
    try:
        import openpyxl
    except ImportError:
        raise ValueError(f'{path} needs openpyxl (pip install -r requirements-own.txt); or save it as "CSV UTF-8"') \
            from None
    try:
        sheet = openpyxl.load_workbook(path, read_only=True, data_only=True).worksheets[0]
        lines = [(f'{path}:{number}', ['' if cell is None else str(cell) for cell in cells])
                 for number, cells in enumerate(sheet.iter_rows(values_only=True), 1)]
    except Exception as error:          # a corrupt archive can end in any error
        raise ValueError(f'{path} is not a readable Excel file ({error}); save it as "CSV UTF-8"') from error
    return to_records([line for line in lines if any(map(str.strip, line[1]))], path, log)


def to_records(lines: Sequence[tuple[str, list[str]]], path: Path, log: Log) -> list[Record]:
    """Lines of cells as records. Cells beyond the header belong to its last column if that is one of labels."""
    if not lines:
        raise ValueError(f'{path} is empty; expected a header such as image,labels and a line per image')
    header = [name.strip() for name in lines[0][1]]
    if _is_image(header[0]):
        header = ['image', *(f'labels{number}' for number in range(1, max(len(cells) for _, cells in lines)))]
        cells = [set(column) for column in zip(*(cells for _, cells in lines if len(cells) == len(header)))]
        header = ['split' if number and values <= SPLIT_NAMES.keys() else name
                  for number, (name, values) in enumerate(zip(header, cells))]
        log.note(f'{path} has no header; the first column is taken for images, the others for labels')
    else:
        lines = lines[1:]
    if repeated := [name for name in header if name and header.count(name) > 1]:
        raise ValueError(f'{path} has two columns {repeated[0]!r}; rename or delete one')
    records, last = [], _plain(header[-1]) in LABELS and not header[-1][-1:].isdigit()
    for location, cells in lines:
        cells = [cell.strip() for cell in cells]
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if header[0] == 'image' and header[1:2] == ['labels1']:
            cells += [''] * (len(header) - len(cells))
        if len(cells) != len(header) and not (last and len(cells) > len(header)):
            log.problem(location, f'has {len(cells)} fields, the header {len(header)}; a field with a separator in it '
                        'needs quotation marks')
            continue
        record = dict(zip(header, cells))
        if len(cells) > len(header):
            record |= {f'{header[-1]}{number}': cell for number, cell in enumerate(cells[len(header):], 2)}
        records.append((location, record))
    return records


def rows_of(records: Sequence[Record], path: Path, separator: str | None, log: Log) -> list[Row]:
    """One row per record.

    Args:
        records: of a table; labels may be lists in JSON.
        path: of the table, for messages.
        separator: between the labels in a cell; None to choose it.

    Raises:
        ValueError: if no column can be that of the images, or none that of the labels.
    """
    columns = list(dict.fromkeys(name for _, record in records for name in record if name))
    image = _image_column(columns, records, path)
    split = next(iter(_named(columns, SPLIT)), None)
    rest = [name for name in columns if name not in (image, split)]
    chosen = _named(rest, LABELS)
    words = {name: {_word(record.get(name)) for _, record in records} for name in rest if not chosen}
    onehot = [name for name in words if words[name] <= ZERO | ONE and words[name] != {''}]
    if not chosen and not onehot and len(rest) == 1:
        chosen = rest
    if not chosen and not onehot:
        raise ValueError(f'{path} has no column of labels among {", ".join(columns)}; name one "labels", or give each '
                         'class a column of 0 and 1')
    if ignored := [name for name in rest if name not in (chosen or onehot)]:
        log.note(f'{path}: columns not used: {", ".join(ignored[:20])}' + (
            f' (values such as {min(words[ignored[0]] - ZERO - ONE, default="")!r}, not 0 or 1)' if onehot else ''))
    cells = [value for _, record in records for name in chosen if isinstance(value := record.get(name), str)]
    separator = separator or choose_separator(cells, path, log)

    def labels_of(record: Mapping) -> tuple[str, ...] | None:
        if onehot:
            return tuple(name for name in onehot if _word(record.get(name)) in ONE)
        values = [record[name] for name in chosen if name in record]        # none where JSON leaves the labels out
        return tuple(label for value in values for label in _labels(value, separator)) if values else None

    return [Row(location, str(record.get(image) or ''), labels_of(record), split_of(record.get(split), location, log))
            for location, record in records]


def split_of(value: Any, location: str, log: Log) -> str:
    """The split that a word names, '' if there is none."""
    word = str(value or '').strip().casefold()
    if word and word not in SPLIT_NAMES:
        log.problem(location, f'has split {word!r}; use train, val, test')
    return SPLIT_NAMES.get(word, '')


def _image_column(columns: Sequence[str], records: Sequence[Record], path: Path) -> str:
    """The column of images: by its name, else by its values."""
    named = _named(columns, IMAGES)
    values = {name: [str(record.get(name, '')) for _, record in records[:20]] for name in columns}
    found = named or [name for name in columns if all(map(_is_image, values[name]))]
    if not found:
        raise ValueError(f'{path} has no column of images: its header is {", ".join(columns) or "empty"}; name one '
                         '"image", and write the names with their endings')
    return found[0]


def _named(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns of the first name that occurs: label1, label2 are columns of one name."""
    return next((found for name in names if (found := [column for column in columns if _plain(column) == name])), [])


def _plain(column: str) -> str:
    return re.sub(r'[\W\d_]', '', column.casefold())


def _word(value: Any) -> str:
    return '' if value is None else str(value).strip().casefold()


def _labels(value: Any, separator: str) -> list[str]:
    """The labels in a cell, or in a value of JSON: a list, or an object that holds a list or a label."""
    if isinstance(value, dict):
        lists = [part for part in value.values() if isinstance(part, list)]
        value = lists[0] if lists else [value[name] for name in LABELS if name in value]
    if isinstance(value, list):
        return [label for part in value for label in _labels(part, 'none')]
    return [] if value is None else split_cell(str(value), separator)


def _is_image(name: str) -> bool:
    return PurePosixPath(name.strip()).suffix.lower() in IMAGE_SUFFIXES


def _lines(reader, path: Path, log: Log) -> Iterator[tuple[str, list[str]]]:
    """The lines of a CSV reader that are not empty."""
    while True:
        location = f'{path}:{reader.line_num + 1}'
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            log.problem(location, f'cannot be read ({error}); check the quotation marks')
            continue
        if any(map(str.strip, fields)):
            yield location, fields
