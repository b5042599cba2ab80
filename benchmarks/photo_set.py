"""The photo set of the ablation: photos of a VOC tree that show some classes, resized, with masks of these classes.

    python -m benchmarks.photo_set --voc-root data/VOCdevkit/VOC2012 --out animals \
        --classes cat dog horse cow sheep person --showing cat dog horse cow sheep

Reads JPEGImages, SegmentationClassAug or SegmentationClass, ImageSets/Segmentation, and the objects in Annotations as
image-level labels (or --labels labels.txt). All other classes become background. Writes to --out, which must be new:
images, masks, lists, dataset.json (trains on train_aug) and chain.json (the same set, trains on train).
"""
import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lib.files.imageio import read_image, read_mask, read_size, write_label_png
from lib.files.jsonfile import write_json
from lib.process.ending import run_script
from lib.process.ranges import COUNT, integer
from tool.imutils import IGNORED
from voc12.dataset import VOC_CLASSES
from voc12.prepare import MASK_FOLDERS, classes_of, find_splits

SPLITS = ('train', 'train_aug', 'val')


def choose(splits: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[str]], showing: Sequence[str],
           num_train: int | None) -> dict[str, list[str]]:
    """Names by split of the photos that show one of the classes `showing`.

    train_aug is cut to num_train names, the official train first, and train to what remains of it.
    """
    chosen = {split: [name for name in splits[split] if set(showing) & set(labels[name])] for split in SPLITS}
    exact = set(chosen['train'])
    first = sorted(chosen['train_aug'], key=lambda name: (name not in exact, name))[:num_train]
    return chosen | {'train_aug': sorted(first), 'train': [name for name in chosen['train'] if name in set(first)]}


def read_labels(root: Path, names: Sequence[str], table: Path | None) -> dict[str, list[str]]:
    """Classes of each photo: the objects of its annotation, or its line 'name<TAB>class...' in a table.

    Raises:
        FileNotFoundError, ValueError: if there is no such annotation or line.
    """
    if table is None:
        return {name: classes_of(root / f'Annotations/{name}.xml') for name in names}
    lines = {name: words for name, *words in (line.split('\t') for line in table.read_text().splitlines())}
    if absent := [name for name in names if name not in lines]:
        raise ValueError(f'{table} has no line for {absent[0]}; make it for this tree with python -m voc12.prepare')
    return lines


def write_photo(root: Path, out: Path, name: str, classes: Sequence[str], long_side: int) -> None:
    """One photo and its mask at the long side given; a smaller photo is copied as it is."""
    source, target = root / f'JPEGImages/{name}.jpg', out / f'images/{name}.jpg'
    if max(read_size(source)) > long_side:
        Image.fromarray(read_image(source, max_side=long_side)).save(target, quality=95)
    else:
        shutil.copyfile(source, target)
    value_of = np.zeros(IGNORED + 1, np.uint8)
    value_of[[VOC_CLASSES.index(word) + 1 for word in classes]] = range(1, len(classes) + 1)
    value_of[IGNORED] = IGNORED
    masks = [root / folder / f'{name}.png' for folder in MASK_FOLDERS]
    mask = read_mask(next((path for path in masks if path.exists()), masks[0]), len(VOC_CLASSES) + 1, long_side)
    write_label_png(out / f'masks/{name}.png', value_of[mask])


def main(argv: list[str] | None = None) -> None:
    """Make the set and print its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--voc-root', type=Path, required=True, metavar='DIR', help='folder with JPEGImages')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='new folder')
    parser.add_argument('--classes', nargs='+', choices=VOC_CLASSES, required=True, metavar='C', help='of the set')
    parser.add_argument('--showing', nargs='+', choices=VOC_CLASSES, metavar='C',
                        help='take photos that show one of these classes; default: --classes')
    parser.add_argument('--long-side', type=integer(8, 8192), default=320, help='pixels')
    parser.add_argument('--num-train', type=integer(1, COUNT), help='photos in train_aug, the official train first')
    parser.add_argument('--labels', type=Path, metavar='FILE', help='image-level labels; default: Annotations')
    args = parser.parse_args(argv)
    if args.out.exists():
        raise ValueError(f'{args.out} exists; name a new folder')
    splits = find_splits(args.voc_root)
    labels = read_labels(args.voc_root, sorted({name for split in SPLITS for name in splits[split]}), args.labels)
    chosen = choose(splits, labels, args.showing or args.classes, args.num_train)
    if empty := [split for split in SPLITS if not chosen[split]]:
        raise ValueError(f'no photo of {empty[0]} shows one of the classes; name others')

    for folder in ('images', 'masks', 'lists'):
        (args.out / folder).mkdir(parents=True)
    names = sorted({name for split in SPLITS for name in chosen[split]})
    for number, name in enumerate(names, 1):
        write_photo(args.voc_root, args.out, name, args.classes, args.long_side)
        print(f'\r{number} of {len(names)} photos', end='', file=sys.stderr, flush=True)
    lines = chosen | {'labels': ['\t'.join([name, *(word for word in labels[name] if word in args.classes)])
                                 for name in names]}
    for split, part in lines.items():
        (args.out / f'lists/{split}.txt').write_text(''.join(f'{line}\n' for line in part))
    entries = {'name': args.out.name, 'classes': args.classes, 'images': 'images/{}.jpg', 'masks': ['masks/{}.png'],
               'lists': 'lists', 'val_split': 'val', 'score_split': 'train', 'preset': 'voc12'}
    write_json(args.out / 'chain.json', {**entries, 'train_split': 'train'})
    write_json(args.out / 'dataset.json', {**entries, 'train_split': 'train_aug'})
    print(f'\n{args.out}: ' + ', '.join(f'{len(chosen[split])} photos in {split}' for split in SPLITS))


if __name__ == '__main__':
    run_script(main)
