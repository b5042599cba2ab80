"""Write VOC's split lists and image-level labels from the downloaded tree.

    python -m voc12.prepare --data-root data/VOCdevkit/VOC2012 --lists voc12

Reads  ImageSets/Segmentation/{train,val,test}.txt, Annotations/*.xml, the names of SegmentationClassAug.
Writes <lists>/{train,val,train_aug,test}.txt, lines '/JPEGImages/a.jpg /SegmentationClassAug/a.png', and labels.txt.

train_aug is every image with a mask in SegmentationClassAug that is not in val; without that folder the list
ImageSets/Segmentation/trainaug.txt is taken. A part of the tree will do, and is said to be one.
"""
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

from lib.files.dataspec import list_sha256
from lib.files.fileio import remove_leftovers
from lib.files.outpaths import write_lists
from lib.process.ending import run_script
from lib.process.ranges import Parser
from voc12.dataset import LIST_SHA256, LISTS, ROOT, VOC_CLASSES

MASK_FOLDERS = ('SegmentationClassAug', 'SegmentationClass')


def prepare(root: Path, lists: Path) -> dict[str, list[str]]:
    """Write the lists and labels.txt; returns the names by split.

    Raises:
        FileNotFoundError: if the tree, a list or an annotation is not there.
        ValueError: if an annotation is unreadable or holds an unknown class, or a list that is there is not ours.
    """
    root, lists = Path(root), Path(lists)
    remove_leftovers(lists)
    splits = find_splits(root)
    labels = {name: classes_of(root / f'Annotations/{name}.xml')
              for name in sorted({name for split in splits if split != 'test' for name in splits[split]})}
    lines = {split: [_list_line(root, name, split) for name in names] for split, names in splits.items()}
    lines['labels'] = ['\t'.join([name, *classes]) for name, classes in labels.items()]
    write_lists(lists, {f'{name}.txt': ''.join(f'{line}\n' for line in part) for name, part in lines.items()},
                'voc12.prepare')
    return splits


def find_splits(root: Path) -> dict[str, list[str]]:
    """Names of train, val, train_aug and, where its list is there, test."""
    if not (root / 'JPEGImages').is_dir():
        raise FileNotFoundError(f'{root} has no JPEGImages; --data-root must be the folder VOC2012 of the archives')
    folder = root / 'ImageSets/Segmentation'
    splits = {split: _read_names(folder / f'{split}.txt') for split in ('train', 'val')}
    if (folder / 'test.txt').exists():
        splits['test'] = _read_names(folder / 'test.txt')
    with_masks = {path.stem for path in (root / 'SegmentationClassAug').glob('[!.]*.png')}
    if with_masks:
        splits['train_aug'] = sorted(with_masks - set(splits['val']))
    else:
        paths = [folder / name for name in ('trainaug.txt', 'train_aug.txt')]
        splits['train_aug'] = _read_names(next((path for path in paths if path.exists()), paths[0]))
    empty = [split for split, names in splits.items() if not names]
    if empty:
        raise ValueError(f'no image for {empty[0]} in {root}; is the tree unpacked completely?')
    return splits


def classes_of(path: Path) -> list[str]:
    """Classes of the objects in an annotation, difficult ones too, in label order.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if it is no XML, declares a document type or entities, or names an unknown class.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} is not there; unpack the annotations of the trainval archive') from None
    if re.search(rb'<!\s*(DOCTYPE|ENTITY)', content, re.IGNORECASE) or b'\0' in content:
        raise ValueError(f'{path} declares a document type or is no UTF-8, which no VOC annotation does; '
                         'restore the original file')
    try:
        tree = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f'{path} is no readable XML ({error}); restore the original file') from None
    names = {(element.findtext('name') or '').strip() for element in tree.iter('object')}
    unknown = sorted(names - set(VOC_CLASSES))
    if unknown:
        raise ValueError(f'{path} names the class {unknown[0]!r}, which is none of VOC\'s {len(VOC_CLASSES)}; '
                         'correct the annotation')
    return [name for name in VOC_CLASSES if name in names]


def report(splits: dict[str, list[str]]) -> Iterable[str]:
    """A line for each list: its length and whether it is the official one."""
    for split, names in splits.items():
        if split not in LIST_SHA256:
            yield f'{split}: {len(names)} images'
        elif is_official(split, names):
            yield f'{split}: {len(names)} images, the official list'
        else:
            yield f'{split}: {len(names)} images, NOT the official list (a part of the data, or another order)'


def is_official(split: str, names: Iterable[str]) -> bool:
    """Whether a list has the official checksum; True where none is known."""
    return split not in LIST_SHA256 or list_sha256(names) == LIST_SHA256[split]


def _list_line(root: Path, name: str, split: str) -> str:
    image = f'/JPEGImages/{name}.jpg'
    folders = [folder for folder in MASK_FOLDERS if (root / folder / f'{name}.png').exists()]
    if not folders and split == 'test':
        return image
    return f'{image} /{(folders or MASK_FOLDERS)[0]}/{name}.png'


def _read_names(path: Path) -> list[str]:
    """Names of a list with either bare names or '/JPEGImages/a.jpg ...' lines."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} is not there; unpack the trainval archive first') from None
    words = [line.split()[0] for line in lines if line.strip()]
    return [Path(word).stem if '/' in word else word for word in words]


def main(argv: list[str] | None = None) -> None:
    """Write the lists, and say what they are."""
    parser = Parser('Write VOC\'s split lists and image-level labels.')
    parser.add_argument('--data-root', '--voc12-root', '--voc12_root', '--data_root', type=Path, default=ROOT,
                        metavar='DIR', help='the folder VOC2012, with JPEGImages in it')
    parser.add_argument('--lists', type=Path, default=LISTS, metavar='DIR', help='folder to write the lists to')
    args = parser.parse_args(argv)
    print('\n'.join(report(prepare(args.data_root, args.lists))))


if __name__ == '__main__':
    run_script(main)
