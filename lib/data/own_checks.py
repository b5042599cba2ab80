"""Checks of a user's own images, labels and masks; every problem is reported with its line of the table."""
import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.data.own_table import Report, Row, composed
from lib.files.imageio import IGNORED, check_whole, read_mask, read_size

MASK_SUFFIXES = ('.png', '.PNG')


def match_images(rows: Sequence[Row], folder: Path, report: Report) -> list[Row]:
    """Rows with the names of their files below the folder; the names may differ in their Unicode form.

    Reports images that are missing, corrupt, or named twice, be it with another suffix or in another subfolder.
    """
    files = [path.relative_to(folder) for path in folder.rglob('*') if path.is_file()]
    exact = {composed(file.as_posix()): file.as_posix() for file in files}
    similar = {file.stem.casefold(): file for file in files}
    seen, found = {}, []
    for row in rows:
        name, image = Path(row.image).stem, exact.get(Path(row.image).as_posix())
        if image is None:
            near = similar.get(name.casefold())
            report(row.location, f'{row.image} is not in {folder}{f"; did you mean {near}?" if near else ""}')
        elif (other := seen.setdefault(name, row)) is not row:
            report(row.location, f'{row.image} has the same name as {other.image} ({other.location}); one line per '
                   'image, and names that differ in more than the suffix')
        else:
            try:
                check_whole(folder / image)
                found.append(row._replace(image=image))
            except (ValueError, OSError) as error:
                report(row.location, str(error).partition(';')[0])
    return found


def find_classes(rows: Sequence[Row], given: Sequence[str] | None, table: Path, report: Report) -> list[str]:
    """The classes in order: those of --classes, or all labels in alphabetical order.

    Reports labels that --classes lacks, and without it labels of a single image.
    """
    counts = Counter(label for row in rows for label in row.labels)
    classes = [composed(name.strip()) for name in given] if given else sorted(counts)
    if not classes:
        report(str(table), 'names no class at all')
    for row in rows:
        for label in row.labels:
            near = difflib.get_close_matches(label, [name for name in classes if name != label], 1)
            hint = f'; did you mean {near[0]!r}?' if near else ''
            if label not in classes:
                report(row.location, f'unknown class {label!r}; --classes names {", ".join(classes)}{hint}')
            elif not given and counts[label] == 1:
                report(row.location, f'{label!r} is the label of this image alone{hint or "; one is too few to learn"} '
                       '(--classes with all names accepts it)')
    for name in dict.fromkeys(classes):
        if name == 'background' or classes.count(name) > 1:
            report('--classes', f'{name!r} must not be listed' + (' twice' if name != 'background' else ''))
        elif name not in counts:
            report(str(table), f'no image shows {name!r} of --classes')
    return classes


def check_masks(rows: Sequence[Row], images: Path, masks: Path, classes: Sequence[str], report: Report) -> list[str]:
    """Report masks that are corrupt, of another size than their image, or hold a value that no class has.

    Returns:
        Notes: how many masks there are, and masks that show other classes than the table says.
    """
    present, differing = 0, []
    for row in rows:
        paths = [masks / f'{Path(row.image).stem}{suffix}' for suffix in MASK_SUFFIXES]
        path = next(filter(Path.is_file, paths), None)
        if path is None:
            continue
        present += 1
        try:
            mask, size = read_mask(path, len(classes) + 1), read_size(images / row.image, upright=True)
        except (ValueError, OSError) as error:
            report(row.location, str(error).partition('; restore')[0])
            continue
        if mask.shape != size:
            report(row.location, f'{path} is {mask.shape[1]}x{mask.shape[0]} pixels, its image {size[1]}x{size[0]} '
                   '(upright, as a viewer shows it)')
        shown = {classes[value - 1] for value in np.unique(mask).tolist() if value not in (0, IGNORED)}
        if shown != set(row.labels):
            differing.append(f'{path.name} shows {", ".join(sorted(shown)) or "nothing"}, the table says '
                             f'{", ".join(sorted(row.labels)) or "nothing"}')
    if not present:
        report(str(masks), 'has no mask for any image; masks are PNGs with the names of the images')
    notes = [f'{present} of {len(rows)} images have a mask']
    if differing:
        notes.append(f'{len(differing)} masks show other classes than the table says ({differing[0]}): is the order '
                     f'of the classes right? It is {", ".join(classes)}; --classes sets it')
    return notes
