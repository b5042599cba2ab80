"""The toy set: synthetic images with exact masks, small enough to carry the whole pipeline on a CPU in minutes.

    python -m lib.data.toy --out data/toy --seed 0

Writes images/, masks/ (VOC palette), lists/, dataset.json (read by lib/data/folder.py like any user's own set) and
made_by.json. What the images show is in toy_draw.py, what the classes look like in toy_shapes.py.
"""
import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from lib.data.toy_draw import CLASSES, close_ups, draw
from lib.files.fileio import remove_leftovers, replacing
from lib.files.imageio import write_label_png
from lib.files.jsonfile import read_json, write_json
from lib.files.outpaths import refuse_foreign
from lib.process.ending import run_script
from lib.process.ranges import LARGEST_SEED, Parser, integer

__all__ = ['close_ups', 'draw', 'write_set']

VERSION = 1                             # of the drawing code: raise it whenever an image changes
MAKER = 'lib.data.toy'


def write_set(out: Path, seed: int = 0, train: int = 256, val: int = 64, fresh: bool = False) -> bool:
    """Draw the set into `out`; False if all of it is there.

    made_by.json is written first, so that an interrupted call knows its own files, and dataset.json last, so that no
    half of a set can be used. Files of other names are left alone.

    Raises:
        ValueError: if `out` holds a set drawn with other parameters and `fresh` is not given, or files that this
            command did not make, or a split has no image.
    """
    out = Path(out)
    if min(train, val) < 1 or seed < 0:
        raise ValueError(f'--train {train} --val {val} --seed {seed}: a split needs an image, and the seed 0 or more')
    if out.exists() and not out.is_dir():
        raise ValueError(f'--out {out} is a file, expected a folder')
    parameters = {'made_by': MAKER, 'version': VERSION, 'seed': seed, 'train': train, 'val': val}
    record, description = out / 'made_by.json', out / 'dataset.json'
    refuse_foreign(record, MAKER)
    refuse_foreign(description, MAKER)
    earlier = read_json(record, {}, 'move it away') if record.exists() else None
    files = list_files(out, parameters)
    if earlier == parameters and not fresh and all(path.is_file() for path in (*files, description)):
        return False
    changed = [f'{key} {earlier.get(key)}, now {value}' for key, value in parameters.items()
               if earlier and earlier.get(key) != value]
    if changed and not fresh:
        raise ValueError(f'{out} holds a toy set with {", ".join(changed)}; draw it again with --fresh, or name '
                         'another --out')
    foreign = [path for path in files if not earlier and path.exists()]
    if foreign:
        raise ValueError(f'{foreign[0]} exists and was not written by python -m {MAKER}; choose another --out, or move '
                         'the file away')
    description.unlink(missing_ok=True)
    for path in list_files(out, earlier) if earlier and fresh else ():
        path.unlink(missing_ok=True)
    write_json(record, parameters)
    draw_files(out, parameters)
    return True


def list_files(out: Path, parameters: Mapping) -> list[Path]:
    """The files of a set in its folder, apart from the two that describe it.

    Raises:
        ValueError: if the parameters, as made_by.json holds them, are not numbers of images.
    """
    counts = {split: parameters.get(split) for split in ('train', 'val')}
    if not all(type(count) is int for count in counts.values()):
        raise ValueError(f'{out}/made_by.json does not say how many images were drawn; move it away')
    names = [name for split, count in counts.items() for name in image_names(split, count)]
    return [*(out / f'images/{name}.jpg' for name in names), *(out / f'masks/{name}.png' for name in names),
            *(out / f'lists/{name}.txt' for name in (*counts, 'labels'))]


def image_names(split: str, count: int) -> list[str]:
    """Names of the images of a split."""
    return [f'{split}_{index:05d}' for index in range(count)]


def draw_files(out: Path, parameters: Mapping) -> None:
    """Draw images and masks that are not there, then write the lists, then dataset.json."""
    for folder in (out, out / 'images', out / 'masks', out / 'lists'):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
    label_lines = []
    for split in ('train', 'val'):
        names = image_names(split, parameters[split])
        for index, name in enumerate(names):
            image, mask, classes = draw(parameters['seed'], split, index)
            image_file, mask_file = out / f'images/{name}.jpg', out / f'masks/{name}.png'
            if not image_file.exists():
                with replacing(image_file) as temporary:
                    Image.fromarray(image).save(temporary, format='JPEG', quality=92)
            if not mask_file.exists():
                write_label_png(mask_file, mask)
            label_lines.append('\t'.join([name, *classes]))
        write_text(out / f'lists/{split}.txt', ''.join(f'{name}\n' for name in names))
    write_text(out / 'lists/labels.txt', '\n'.join(label_lines) + '\n')
    command = ['--out', str(out), *(word for key in ('seed', 'train', 'val') for word in (f'--{key}', parameters[key]))]
    description = {'name': 'toy', 'classes': CLASSES, 'images': 'images/{}.jpg', 'masks': ['masks/{}.png'],
                   'lists': 'lists', 'train_split': 'train', 'val_split': 'val', 'score_split': 'train',
                   'preset': 'toy', 'prepare': f'python -m {MAKER} {shlex.join(map(str, command))}', 'made_by': MAKER}
    write_json(out / 'dataset.json', description)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def make_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser('Draw the toy set; a set drawn with the same settings is kept.')
    parser.add_argument('--out', type=Path, default=Path('data/toy'), help='folder to draw into')
    parser.add_argument('--seed', type=integer(0, LARGEST_SEED), default=0,
                        help='another seed is another set of the same kind')
    parser.add_argument('--train', type=integer(1, 1_000_000), default=256, help='number of training images')
    parser.add_argument('--val', type=integer(1, 1_000_000), default=64, help='number of validation images')
    parser.add_argument('--fresh', action='store_true', help='replace a toy set drawn with other settings')
    return parser


def main(argv: list[str] | None = None) -> None:
    """Draw the set."""
    args = make_parser().parse_args(argv)
    drawn = write_set(args.out, args.seed, args.train, args.val, args.fresh)
    print(f'{args.out}: {args.train} training and {args.val} validation images, seed {args.seed}'
          + ('' if drawn else ' (already there)'))


if __name__ == '__main__':
    run_script(main)
