"""Checks of a user's own images, labels and masks: what is wrong is reported with its place in the table."""
import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lib.data.own_table import Row, composed
from lib.files.imageio import IGNORED, check_whole, read_mask, read_size

MASK_ENDINGS = ('.png', '.PNG')
Report = Callable[[str, str], None]     # takes a place ('file:line') and what is wrong there


def check_photos(rows: Sequence[Row], photos: Path, report: Report) -> None:
    """Report images that are absent, outside the folder, unreadable, named twice or alike in all but the ending."""
    files = {path.stem.casefold(): path.relative_to(photos) for path in photos.rglob('*') if path.is_file()}
    seen = {}
    for row in rows:
        path, name = photos / row.image, Path(row.image).stem
        if '..' in Path(row.image).parts or Path(row.image).is_absolute() or ' /' in f'/{row.image}':
            report(row.place, f'{row.image} must be a path below {photos}')
        elif not path.is_file():
            near = difflib.get_close_matches(name.casefold(), files, 1, 0.8)
            report(row.place, f'{path} is not there' + (f'; is {files[near[0]]} meant?' if near else ''))
        elif name in seen and seen[name].image == row.image:
            report(row.place, f'{row.image} stands in {seen[name].place} already; one line per image')
        elif name in seen:
            report(row.place, f'{row.image} and {seen[name].image} ({seen[name].place}) share the name {name}, which '
                   'names all that is made of them; rename one')
        else:
            try:
                check_whole(path)
            except (ValueError, OSError) as error:
                report(row.place, str(error).partition(';')[0])
        seen.setdefault(name, row)


def names_on_disk(rows: Sequence[Row], photos: Path) -> list[Row]:
    """Rows with the names of their images in the Unicode form in which the files are stored."""
    stored = {composed(path.relative_to(photos).as_posix()): path.relative_to(photos).as_posix()
              for path in photos.rglob('*') if not path.as_posix().isascii()}
    return [row if (photos / row.image).exists() else row._replace(image=stored.get(composed(row.image), row.image))
            for row in rows]


def find_classes(rows: Sequence[Row], given: Sequence[str] | None, table: Path, whole: bool,
                 report: Report) -> list[str]:
    """The classes in order; reports labels that --classes lacks, and without it labels that occur once only.

    Where the table could not be read as a whole, a label that occurs once is reported only if it looks like another.
    """
    counts = Counter(label for row in rows for label in row.labels)
    given = given and [composed(name.strip()) for name in given]
    classes = given or sorted(counts)
    if not classes:
        report(str(table), 'names no class at all')
    for row in rows:
        for label in row.labels:
            others = [name for name in classes if name != label]
            near = difflib.get_close_matches(label, others, 1)
            hint = f'; is {near[0]!r} meant?' if near else ''
            if given and label not in given:
                report(row.place, f'unknown class {label!r}; --classes names {", ".join(given)}{hint}')
            elif not given and counts[label] == 1 and (whole or near):
                report(row.place, f'{label!r} is the label of this image alone{hint or "; one is too few to learn"} '
                       '(--classes with all names accepts it)')
    for name in sorted({name for name in classes if classes.count(name) > 1 or name == 'background'}):
        report('--classes', f'{name!r} is named twice' if name != 'background' else
               "'background' is no class of its own; leave it out")
    for name in set(classes) - set(counts) - {'background'}:
        report(str(table), f'no image shows {name!r} of --classes')
    return classes


def check_masks(rows: Sequence[Row], photos: Path, masks: Path, classes: Sequence[str], report: Report) -> list[str]:
    """Report masks that are unreadable, of another size, or hold a value that no class has.

    Returns:
        Notes: how many masks there are, and masks that show other classes than the table says.
    """
    found, differing = 0, []
    for row in rows:
        path = next((path for ending in MASK_ENDINGS if (path := masks / f'{Path(row.image).stem}{ending}').is_file()),
                    None)
        if path is None:
            continue
        found += 1
        try:
            mask, size = read_mask(path, len(classes) + 1), read_size(photos / row.image, upright=True)
        except (ValueError, OSError) as error:
            report(row.place, str(error).partition('; restore')[0])
            continue
        if mask.shape != size:
            report(row.place, f'{path} is {mask.shape[1]}x{mask.shape[0]} pixels, its image {size[1]}x{size[0]} '
                   '(turned as a viewer shows it)')
        shown = {classes[value - 1] for value in np.unique(mask).tolist() if value not in (0, IGNORED)}
        if shown != set(row.labels):
            differing.append(f'{path.name} shows {", ".join(sorted(shown)) or "nothing"}, the table says '
                             f'{", ".join(sorted(row.labels)) or "nothing"}')
    if not found:
        report(str(masks), 'has no mask for any image; masks are PNGs with the names of the images')
    notes = [f'{found} of {len(rows)} images have a mask']
    if differing:
        notes.append(f'{len(differing)} masks show other classes than the table says ({differing[0]}): is the order '
                     f'of the classes right? It is {", ".join(classes)}; --classes sets it')
    return notes
