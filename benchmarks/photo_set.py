"""The photo set of the ablation: photos of a VOC tree that show some classes, resized, with masks of these classes.

    python -m benchmarks.photo_set --voc-root data/VOCdevkit/VOC2012 --out animals \
        --classes cat dog horse cow sheep person --showing cat dog horse cow sheep

Reads JPEGImages, SegmentationClassAug or SegmentationClass, ImageSets/Segmentation, and the objects in Annotations as
image-level labels. All other classes become background. Writes to --out, which must be new: images, masks, lists,
dataset.json (trains on train_aug) and chain.json (the same set, trains on train); voc_lists are the lists of the tree.
"""
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec, Sample
from lib.files.imageio import read_image, read_mask, read_size, write_label_png
from lib.files.jsonfile import write_json
from lib.process.cli import COUNT, Parser, integer
from lib.process.ending import run_script
from tool.imutils import IGNORED

SPLITS = ('train', 'train_aug', 'val')


def choose(voc: DatasetSpec, showing: Sequence[str], num_train: int | None) -> dict[str, list[Sample]]:
    """Samples by split that show one of the classes `showing`.

    train_aug is cut to num_train photos, the official train first, and train to what remains of it. ValueError if a
    split has no such photo.
    """
    columns, chosen = [voc.classes.index(name) for name in showing], {}
    for split in SPLITS:
        samples = voc.samples(split)
        labels = voc.image_labels([sample.name for sample in samples])
        chosen[split] = [sample for sample, row in zip(samples, labels) if row[columns].any()]
        if not chosen[split]:
            raise ValueError(f'no photo of {split} shows one of the classes; name others')
    official = {sample.name for sample in chosen['train']}
    first = sorted(chosen['train_aug'], key=lambda sample: (sample.name not in official, sample.name))[:num_train]
    kept = {sample.name for sample in first}
    return chosen | {'train_aug': sorted(first), 'train': [s for s in chosen['train'] if s.name in kept]}


def write_photo(voc: DatasetSpec, sample: Sample, out: Path, classes: Sequence[str], long_side: int) -> None:
    """One photo and its mask, reduced to the long side given; a smaller photo is copied as it is."""
    target = out / f'images/{sample.name}.jpg'
    if max(read_size(sample.image)) > long_side:
        Image.fromarray(read_image(sample.image, max_side=long_side)).save(target, quality=95)
    else:
        shutil.copyfile(sample.image, target)
    value_of = np.zeros(IGNORED + 1, np.uint8)
    value_of[[voc.classes.index(name) + 1 for name in classes]] = range(1, len(classes) + 1)
    value_of[IGNORED] = IGNORED
    write_label_png(out / f'masks/{sample.name}.png', value_of[read_mask(sample.mask, voc.num_classes, long_side)])


def write_lists(voc: DatasetSpec, chosen: dict[str, list[Sample]], out: Path, classes: Sequence[str]) -> None:
    """Lists, labels.txt and both descriptions of the set."""
    names = {split: [sample.name for sample in samples] for split, samples in chosen.items()}
    every = sorted({name for split in SPLITS for name in names[split]})
    columns = [voc.classes.index(name) for name in classes]
    names['labels'] = ['\t'.join([name, *(word for word, shown in zip(classes, row[columns]) if shown)])
                       for name, row in zip(every, voc.image_labels(every))]
    for split, lines in names.items():
        (out / f'lists/{split}.txt').write_text(''.join(f'{line}\n' for line in lines))
    entries = {'name': out.name, 'classes': list(classes), 'images': 'images/{}.jpg', 'masks': ['masks/{}.png'],
               'lists': 'lists', 'val_split': 'val', 'score_split': 'train', 'preset': 'voc12'}
    write_json(out / 'chain.json', {**entries, 'train_split': 'train'})
    write_json(out / 'dataset.json', {**entries, 'train_split': 'train_aug'})


def main(argv: list[str] | None = None) -> None:
    """Make the set and print its size."""
    parser = Parser(__doc__)
    known = get_spec('voc12').classes
    parser.add_argument('--voc-root', required=True, metavar='DIR', help='folder with JPEGImages')
    parser.add_argument('--lists', type=Path, metavar='DIR', help='its lists and labels.txt; default: made anew')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='new folder')
    parser.add_argument('--classes', nargs='+', choices=known, required=True, metavar='C', help='classes of the set')
    parser.add_argument('--showing', nargs='+', choices=known, metavar='C',
                        help='take photos that show one of these classes; default: --classes')
    parser.add_argument('--long-side', type=integer(8, 8192), default=320, help='pixels')
    parser.add_argument('--num-train', type=integer(1, COUNT), help='photos in train_aug, the official train first')
    args = parser.parse_args(argv)
    if args.out.exists():
        raise ValueError(f'{args.out} exists; name a new folder')
    lists = args.lists or args.out / 'voc_lists'
    words = [sys.executable, '-m', 'voc12.prepare', '--data-root', args.voc_root, '--lists', str(lists)]
    if not args.lists and (code := subprocess.call(words)):
        sys.exit(code)
    voc = get_spec('voc12', Path(args.voc_root), lists)
    chosen = choose(voc, args.showing or args.classes, args.num_train)

    for folder in ('images', 'masks', 'lists'):
        (args.out / folder).mkdir(parents=True)
    for sample in {sample.name: sample for samples in chosen.values() for sample in samples}.values():
        write_photo(voc, sample, args.out, args.classes, args.long_side)
    write_lists(voc, chosen, args.out, args.classes)
    print(f'{args.out}: ' + ', '.join(f'{len(chosen[split])} photos in {split}' for split in SPLITS))


if __name__ == '__main__':
    run_script(main)
