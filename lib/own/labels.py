"""Labels as people write them: separators, labels that mean no class, and spellings of the same class."""
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from lib.files.dataspec import check_classes, shortened
from lib.own.photos import Log, Row, composed

# Characters that a name can also contain separate labels only if the resulting labels also occur alone.
SEPARATORS = (';', '|', ',', '/', '+', '&', ' ')
NO_CLASS = {'', 'none', 'n/a', 'na', 'nan', 'null', '-', 'nothing', 'background'}
FEW = 5                 # images of a class
MOST_LINES = 100        # about problems of one kind


def tidied(label: str) -> str:
    """A label without surrounding quotes and spaces."""
    return ' '.join(composed(label).strip(' \t\r\n\'"').split())


def split_cell(cell: str, separator: str) -> list[str]:
    """The labels in the cell of a table, which may look like a Python list; separator 'none' takes it as one label."""
    cell = re.sub(r'^\s*[\[{](.*)[\]}]\s*$', r'\1', cell)
    parts = [cell] if separator == 'none' else cell.split(None if separator == ' ' else separator)
    return [label for part in parts if (label := tidied(part))]


def choose_separator(cells: Iterable[str], path: Path, log: Log) -> str:
    """The separator that yields the fewest distinct labels; a problem if that is ambiguous."""
    cells = sorted({cell for cell in cells if tidied(cell).casefold() not in NO_CLASS})
    whole = {label for cell in cells for label in split_cell(cell, 'none')}
    parts = {separator: [split_cell(cell, separator) for cell in cells] for separator in SEPARATORS}
    labels = {separator: set().union(*lists) for separator, lists in parts.items() if any(part[1:] for part in lists)}
    if not labels:
        return 'none'
    best = min(labels, key=lambda separator: len(labels[separator]))
    several = [(cell, part) for cell, part in zip(cells, parts[best]) if len(part) > 1]
    alone = any(label in whole for _, part in several for label in part)
    fewer = len(labels[best]) < len(whole)
    certain = best in ';|' or best == ',' and (alone or fewer) or alone and fewer
    if not certain and (best == ',' or len(labels[best]) <= len(whole)):
        log.problem(path, f'is {tidied(several[0][0])!r} one label or several? --separator none or --separator '
                    f'{best!r}')
    if not certain:
        return 'none'
    log.note(f'labels are separated by {best!r} (--separator changes that): {len(labels[best])} distinct ones')
    if mixed := [label for label in sorted(labels[best]) if set(label) & set(';|,')]:
        log.problem(path, f'labels are separated by {best!r}, but {mixed[0]!r} holds another separator; use one for '
                    f'all, or accept such names with --separator {best!r}')
    return best


def clean_labels(rows: Sequence[Row], merge: Mapping[str, str], log: Log) -> list[Row]:
    """Rows with tidied labels, each once, after --merge; labels that mean no class are dropped and noted."""
    dropped, found, cleaned = Counter(), set(), []
    for row in rows:
        labels = [tidied(label) for label in row.labels]
        found.update(labels)
        labels = dict.fromkeys(merge.get(label, label) for label in labels)
        none = [label for label in labels if label.casefold() in NO_CLASS]
        dropped.update(filter(None, none))
        cleaned.append(row._replace(labels=tuple(label for label in labels if label not in none)))
        for label in labels:
            if not label.isprintable():
                log.problem(row.location, f'{label!r} cannot be the name of a class')
    for label in merge.keys() - found:
        log.problem('--merge', f'{label!r} is not a label; labels are {", ".join(sorted(found))[:300]}')
    if dropped:
        log.note('no class: ' + ', '.join(f'{label} ({count} images)' for label, count in dropped.items()))
    return cleaned


def find_classes(rows: Sequence[Row], given: Sequence[str] | None, keep: bool, source: str, log: Log) -> list[str]:
    """The classes in order, those of --classes or all labels; without `keep`, labels that look alike are a problem."""
    counts = Counter(label for row in rows for label in row.labels)
    classes = [composed(name.strip()) for name in given] if given else sorted(counts)
    check_classes(classes, source)
    if not classes:
        log.problem(source, 'names no class at all')
    if not given:
        if not keep:
            ask_about_alike(counts, source, log)
        return classes
    if wrong := [name for name in classes if name == 'background' or classes.count(name) > 1]:
        raise ValueError(f'--classes: {wrong[0]!r} must not be listed' + ' twice' * (wrong[0] != 'background'))
    first = {label: row.location for row in reversed(rows) for label in row.labels}
    for label in [label for label in counts if label not in classes][:MOST_LINES]:
        near = get_close_matches(label, classes, 1)
        log.problem(first[label], f'unknown class {label!r}; --classes names {", ".join(classes)}'
                    + (f'; did you mean {near[0]!r}?' if near else ''))
    for name in classes:
        if name not in counts:
            log.problem(source, f'no image shows {name!r} of --classes')
    return classes


def ask_about_alike(counts: Mapping[str, int], source: str, log: Log) -> None:
    """Report labels that are probably one class: a question that only the user can answer."""
    alike = {}
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        alike.setdefault(plain(label), []).append(label)
    for often, *others in alike.values():
        for rare in others:
            log.problem(source, f'{rare!r} ({counts[rare]} images) and {often!r} ({counts[often]}) look alike: '
                        f'--merge "{rare}={often}" if they are one class, --keep-labels if they are not')


def plain(label: str) -> str:
    """A label in lower case, singular and without hyphens."""
    label = re.sub(r'ies$', 'y', re.sub(r'[\s_-]+', ' ', label.casefold()))
    return re.sub(r'(?<=s|x|z)es$|(?<=ch|sh)es$|s$', '', label)


def warn_about_classes(rows: Sequence[Row], classes: Sequence[str], log: Log) -> None:
    """Note classes that image-level labels cannot teach."""
    shown, together = {name: [] for name in classes}, {}
    for number, row in enumerate(rows):
        for label in row.labels:
            shown[label].append(number)
    for name, numbers in shown.items():
        together.setdefault(tuple(numbers), []).append(name)
    for numbers, names in together.items():
        if len(numbers) == len(rows):
            log.note(f'warning: every image shows {", ".join(names)}: labels alone cannot tell where it is; add images '
                     'without it')
        elif len(names) > 1:
            log.note(f'warning: {shortened(names)} always occur in the same images, so they cannot be told apart; add '
                     'images that show only one of them')
    if few := [name for name, numbers in shown.items() if len(numbers) < FEW]:
        log.note(f'warning: {shortened(few)}: fewer than {FEW} images each, too few to learn a class; add images, or '
                 'merge or drop the class')
