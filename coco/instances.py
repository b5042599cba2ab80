"""COCO's instances files, hundreds of megabytes each, read as a stream."""
import pickle
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path

import ijson
from tqdm import tqdm

from lib.process.cli import bar_style


def read_sizes(path: Path) -> dict[int, tuple[int, int]]:
    """Height and width by image id, in file order; errors as in read_entries."""
    return {image['id']: (image['height'], image['width'])
            for image in read_entries(path, 'images', id=int, height=int, width=int)}


def read_annotations(path: Path) -> dict[int, list[bytes]]:
    """Annotations by image id, in file order: each pickled, as they would take gigabytes otherwise.

    Only what masks are made of is kept, and the id for messages; errors as in read_entries.
    """
    annotations = {}
    for entry in read_entries(path, 'annotations', image_id=int, category_id=int, segmentation=(list, dict)):
        kept = {key: entry.get(key) for key in ('id', 'category_id', 'segmentation')}
        annotations.setdefault(entry['image_id'], []).append(pickle.dumps(kept))
    return annotations


def read_entries(path: Path, key: str, **fields: type) -> Iterator[dict]:
    """The entries of one array of the file, one at a time. All have these fields with values of these types.

    Raises FileNotFoundError if the file is missing, ValueError if it is not valid JSON to its end, has no entry, or one
    without a field.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing; unpack the annotations, or run ./config_coco.sh')
    entry = None
    bar = tqdm(total=path.stat().st_size, unit_scale=True, **bar_style(f'{path.name}: {key}', 'B'))
    with bar, open(path, 'rb') as file:
        start = file.read(64)
        if not start.removeprefix(BOM_UTF8).lstrip().startswith(b'{'):      # garbage, in which ijson takes all memory
            raise ValueError(f'{path} does not start with an object; unpack it again')
        file.seek(len(BOM_UTF8) * start.startswith(BOM_UTF8))
        try:
            for entry in ijson.items(file, f'{key}.item', use_float=True):
                bar.update(file.tell() - bar.n)
                for field, kind in fields.items():
                    if not (isinstance(entry, dict) and isinstance(entry.get(field), kind)):
                        name = f'id {entry.get("id")}' if isinstance(entry, dict) else 'an entry'
                        raise ValueError(f'{path}: {name} of "{key}" has no valid "{field}"; unpack or export it again')
                yield entry
        except (ijson.JSONError, UnicodeError, OverflowError) as error:
            raise ValueError(f'{path} is not valid JSON ({str(error).splitlines()[0]}); unpack it again') from None
    none = rb'"annotations"\s*:\s*\[\s*\]'            # a part without objects
    if entry is None and not (key == 'annotations' and re.search(none, path.read_bytes())):
        raise ValueError(f'{path} has no "{key}"; unpack it again')
