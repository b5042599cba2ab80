"""The toy set: synthetic images with ground truth, small enough to carry the whole pipeline on a CPU in minutes.

    python -m lib.data.toy --out data/toy --seed 0

Writes images/, masks/ (VOC palette), lists/, dataset.json (read by lib/data/registry.py like any user's own set) and
made_by.json. What the images show is in toy_draw.py, what the classes look like in toy_shapes.py.
"""
import argparse
from collections.abc import Mapping
from pathlib import Path
from shlex import quote

from PIL import Image

from lib.data.toy_draw import CLASSES, draw
from lib.files.fileio import replacing, write_text
from lib.files.imageio import write_label_png
from lib.files.jsonfile import read_json, write_json
from lib.files.outpaths import refuse_foreign
from lib.process.cli import LARGEST_SEED, Parser, integer
from lib.process.ending import run_script

VERSION = 1                             # of the drawing code: raise it whenever an image changes
MAKER = 'lib.data.toy'
PARAMETERS = {'made_by': str, 'version': int, 'seed': int, 'train': int, 'val': int}       # what made_by.json holds


def write_set(out: Path, seed: int = 0, train: int = 160, val: int = 96, fresh: bool = False) -> bool:
    """Draw the set into `out`; False if it is already complete.

    made_by.json is written first, so that an interrupted call knows its own files, and dataset.json last, so that an
    unfinished set cannot be used. Files of other names are left alone. Raises ValueError if `out` holds a set with
    other parameters and `fresh` is not given, or files of somebody else.
    """
    out = Path(out)
    parameters = {'made_by': MAKER, 'version': VERSION, 'seed': seed, 'train': train, 'val': val}
    record, description = out / 'made_by.json', out / 'dataset.json'
    refuse_foreign(record, MAKER)
    refuse_foreign(description, MAKER)
    earlier = read_json(record, PARAMETERS, 'move it away') if record.exists() else None
    files = set_files(out, parameters)
    if earlier == parameters and not fresh and all(path.is_file() for path in (*files, description)):
        return False
    if earlier not in (None, parameters) and not fresh:
        raise ValueError(f'{out} holds a toy set of seed {earlier["seed"]}, {earlier["train"]} + {earlier["val"]} '
                         f'images, version {earlier["version"]}; replace it with --fresh, or choose another --out')
    if not earlier and (foreign := [path for path in files if path.exists()]):
        raise ValueError(f'{foreign[0]} exists and was not written by python -m {MAKER}; choose another --out, or move '
                         'the file away')
    for path in (description, *(set_files(out, earlier) if earlier else ())):
        path.unlink(missing_ok=True)
    write_json(record, parameters)
    labels = ''
    for split in ('train', 'val'):
        for index, name in enumerate(image_names(split, parameters)):
            image, mask, classes = draw(seed, split, index)
            with replacing(out / f'images/{name}.jpg') as temporary:
                Image.fromarray(image).save(temporary, format='JPEG', quality=92)
            write_label_png(out / f'masks/{name}.png', mask)
            labels += '\t'.join([name, *classes]) + '\n'
        write_text(out / f'lists/{split}.txt', '\n'.join(image_names(split, parameters)) + '\n')
    write_text(out / 'lists/labels.txt', labels)
    write_json(description, {
        'name': 'toy', 'classes': CLASSES, 'images': 'images/{}.jpg', 'masks': ['masks/{}.png'], 'lists': 'lists',
        'train_split': 'train', 'val_split': 'val', 'score_split': 'train', 'preset': 'toy',
        'prepare': f'python -m {MAKER} --out {quote(str(out))} --seed {seed} --train {train} --val {val}',
        'made_by': MAKER})
    return True


def image_names(split: str, parameters: Mapping) -> list[str]:
    """Names of the images of a split."""
    return [f'{split}_{index:05d}' for index in range(parameters[split])]


def set_files(out: Path, parameters: Mapping) -> list[Path]:
    """The files of a set in its folder, apart from made_by.json and dataset.json."""
    names = image_names('train', parameters) + image_names('val', parameters)
    return [*(out / f'images/{name}.jpg' for name in names), *(out / f'masks/{name}.png' for name in names),
            *(out / f'lists/{name}.txt' for name in ('train', 'val', 'labels'))]


def make_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser('Draw the toy set; a set drawn with the same settings is kept.')
    parser.add_argument('--out', type=Path, default=Path('data/toy'), help='folder to write to')
    parser.add_argument('--seed', type=integer(0, LARGEST_SEED), default=0,
                        help='another seed gives another set of the same kind')
    parser.add_argument('--train', type=integer(1, 1_000_000), default=160, help='number of training images')
    parser.add_argument('--val', type=integer(1, 1_000_000), default=96, help='number of validation images')
    parser.add_argument('--fresh', action='store_true', help='replace a toy set made with other settings')
    return parser


def main(argv: list[str] | None = None) -> None:
    """Draw the set."""
    args = make_parser().parse_args(argv)
    drawn = write_set(args.out, args.seed, args.train, args.val, args.fresh)
    print(f'{args.out}: {args.train} training and {args.val} validation images, seed {args.seed}'
          + ('' if drawn else ' (already there)'))


if __name__ == '__main__':
    run_script(main)
