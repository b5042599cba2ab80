"""The toy set: synthetic images with ground truth, small enough for the whole pipeline to run on a CPU in minutes.

    python -m lib.data.toy --out data/toy --seed 0

Writes images/, masks/ (VOC palette), lists/ and dataset.json (read by lib/data/registry.py like any user's own set).
What the images show is in toy_draw.py, what the classes look like in toy_shapes.py.
"""
import argparse
import re
from pathlib import Path
from shlex import quote

from PIL import Image

from lib.data.toy_draw import CLASSES, draw
from lib.files.fileio import refuse_foreign, replacing, write_text
from lib.files.imageio import read_image, write_label_png
from lib.files.jsonfile import read_json, write_json
from lib.process.cli import LARGEST_SEED, Parser, integer
from lib.process.ending import run_script

MAKER = 'lib.data.toy'
LARGEST_DIFFERENCE = 8          # mean, in grey levels, that JPEG may make


def write_set(out: Path, seed: int = 0, train: int = 160, val: int = 96, fresh: bool = False) -> bool:
    """Generate the set in `out`; False if it is already complete.

    dataset.json is written first, so that an interrupted command knows its own files, and the lists last, so that an
    unfinished set cannot be used. Files of other names are left alone. Raises ValueError if `out` holds a set with
    other parameters or of other code and `fresh` is not given, or files of somebody else.
    """
    out, description = Path(out), Path(out) / 'dataset.json'
    refuse_foreign(description, MAKER)
    former = read_json(description, {'prepare': str}, 'move it away')['prepare'] if description.exists() else ''
    earlier = [int(value) for value in re.findall(r'--(?:seed|train|val) (\d+)', former)]
    files, same = set_files(out, train, val), earlier == [seed, train, val]
    if same and not fresh and all(path.is_file() for path in files):
        stored, drawn = read_image(out / f'images/{image_names("train", 1)[0]}.jpg'), draw(seed, 'train', 0)[0]
        if stored.shape != drawn.shape or abs(stored - drawn.astype(float)).mean() > LARGEST_DIFFERENCE:
            raise ValueError(f'{out} was drawn by other code; replace it with --fresh, or choose another --out')
        return False
    if former and not same and not fresh:
        raise ValueError(f'{out} holds another toy set ({former}); replace it with --fresh, or choose another --out')
    if not former and (foreign := [path for path in files if path.exists()]):
        raise ValueError(f'{foreign[0]} exists and was not written by python -m {MAKER}; choose another --out, or move '
                         'the file away')
    for path in set_files(out, *earlier[1:]) if earlier else ():
        path.unlink(missing_ok=True)
    write_json(description, {
        'name': 'toy', 'classes': CLASSES, 'images': 'images/{}.jpg', 'masks': ['masks/{}.png'], 'lists': 'lists',
        'train_split': 'train', 'val_split': 'val', 'score_split': 'train', 'preset': 'toy',
        'prepare': f'python -m {MAKER} --out {quote(str(out))} --seed {seed} --train {train} --val {val}',
        'made_by': MAKER})
    lists = {'labels': ''}
    for split, count in (('train', train), ('val', val)):
        for index, name in enumerate(image_names(split, count)):
            image, mask, classes = draw(seed, split, index)
            with replacing(out / f'images/{name}.jpg') as temporary:
                Image.fromarray(image).save(temporary, format='JPEG', quality=92)
            write_label_png(out / f'masks/{name}.png', mask)
            lists['labels'] += '\t'.join([name, *classes]) + '\n'
        lists[split] = '\n'.join(image_names(split, count)) + '\n'
    for name, text in lists.items():
        write_text(out / f'lists/{name}.txt', text)
    return True


def image_names(split: str, count: int) -> list[str]:
    """Names of the images of a split."""
    return [f'{split}_{index:05d}' for index in range(count)]


def set_files(out: Path, train: int, val: int) -> list[Path]:
    """The files of a set in its folder, apart from dataset.json; the lists first."""
    names = image_names('train', train) + image_names('val', val)
    return [*(out / f'lists/{name}.txt' for name in ('train', 'val', 'labels')),
            *(out / f'images/{name}.jpg' for name in names), *(out / f'masks/{name}.png' for name in names)]


def make_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = Parser('Generate the toy set; an existing set with the same settings is kept.', prog=f'python -m {MAKER}')
    parser.add_argument('--out', type=Path, default=Path('data/toy'), help='folder to write to')
    parser.add_argument('--seed', type=integer(0, LARGEST_SEED), default=0,
                        help='another seed gives another set of the same kind')
    parser.add_argument('--train', type=integer(1, 1_000_000), default=160, help='number of training images')
    parser.add_argument('--val', type=integer(1, 1_000_000), default=96, help='number of validation images')
    parser.add_argument('--fresh', action='store_true', help='replace a toy set made with other settings')
    return parser


def main(argv: list[str] | None = None) -> None:
    """Generate the set."""
    args = make_parser().parse_args(argv)
    drawn = write_set(args.out, args.seed, args.train, args.val, args.fresh)
    print(f'{args.out}: {args.train} training and {args.val} validation images, seed {args.seed}'
          + ('' if drawn else ' (already exists)'))


if __name__ == '__main__':
    run_script(main)
