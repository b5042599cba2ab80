"""The toy set: drawn objects with exact masks, small enough to carry the whole pipeline on a CPU in minutes.

    python -m lib.data.toy --out data/toy --seed 0

Writes images/, masks/ (VOC palette), lists/, dataset.json (read by lib/data/folder.py like any user's own set) and
made_by.json. What the pictures show is in toy_draw.py, what the classes look like in toy_shapes.py.
"""
import argparse
import shutil
import sys
from pathlib import Path

from PIL import Image

from lib.data.toy_draw import CLASSES, close_ups, draw
from tool.imageio import write_label_png
from tool.jsonfile import read_json, write_json
from tool.ranges import LARGEST_SEED, integer

__all__ = ['close_ups', 'draw', 'write_set']

VERSION = 1                             # of the drawing code: raise it whenever a picture changes


def write_set(out: Path, seed: int = 0, train: int = 256, val: int = 64, fresh: bool = False) -> bool:
    """Draw the set into `out`; False if it already lies there.

    Raises:
        ValueError: if `out` holds a set drawn with other parameters and `fresh` is not given.
    """
    out = Path(out)
    parameters = {'made_by': 'lib.data.toy', 'version': VERSION, 'seed': seed, 'train': train, 'val': val}
    record = out / 'made_by.json'
    if record.exists():
        earlier = read_json(record, {}, 'delete it')
        if earlier == parameters and not fresh:
            return False
        if not fresh:
            changed = ', '.join(f'{key} {earlier.get(key)}, now {value}' for key, value in parameters.items()
                                if earlier.get(key) != value)
            raise ValueError(f'{out} holds a toy set with {changed}; draw it again with --fresh, or name another --out')
        for name in ('images', 'masks', 'lists'):
            shutil.rmtree(out / name, ignore_errors=True)
        record.unlink()
    _write_files(out, seed, {'train': train, 'val': val})
    write_json(record, parameters)                              # last, so that an interrupted drawing starts over
    return True


def _write_files(out: Path, seed: int, counts: dict[str, int]) -> None:
    for name in ('images', 'masks', 'lists'):
        (out / name).mkdir(parents=True, exist_ok=True)
    label_lines = []
    for split, count in counts.items():
        names = [f'{split}_{index:05d}' for index in range(count)]
        for index, name in enumerate(names):
            image, mask, classes = draw(seed, split, index)
            Image.fromarray(image).save(out / f'images/{name}.jpg', quality=92)
            write_label_png(out / f'masks/{name}.png', mask)
            label_lines.append('\t'.join([name, *classes]))
        (out / f'lists/{split}.txt').write_text(''.join(f'{name}\n' for name in names))
    (out / 'lists/labels.txt').write_text('\n'.join(label_lines) + '\n')
    description = {'name': 'toy', 'classes': CLASSES, 'images': 'images/{}.jpg', 'masks': ['masks/{}.png'],
                   'lists': 'lists', 'train_split': 'train', 'val_split': 'val', 'score_split': 'train',
                   'preset': 'toy', 'prepare': f'python -m lib.data.toy --out {out}'}
    write_json(out / 'dataset.json', description)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description='Draw the toy set; a set drawn with the same settings is kept.')
    parser.add_argument('--out', type=Path, default=Path('data/toy'), help='folder to draw into')
    parser.add_argument('--seed', type=integer(0, LARGEST_SEED), default=0,
                        help='another seed is another set of the same kind')
    parser.add_argument('--train', type=integer(1, 1_000_000), default=256, help='number of training images')
    parser.add_argument('--val', type=integer(1, 1_000_000), default=64, help='number of validation images')
    parser.add_argument('--fresh', action='store_true', help='replace a toy set drawn with other settings')
    args = parser.parse_args(argv)
    try:
        drawn = write_set(args.out, args.seed, args.train, args.val, args.fresh)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f'{args.out}: {args.train} training and {args.val} validation images, seed {args.seed}'
          + ('' if drawn else ' (already there)'))
    return 0


if __name__ == '__main__':
    sys.exit(main())
