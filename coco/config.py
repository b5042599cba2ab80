"""Fetch, unpack, prepare and verify MS COCO 2014: what config_coco.sh runs.

    ./config_coco.sh                            about 21 GB of archives, as much again unpacked
    ./config_coco.sh --archives DIR             archives that lie in DIR already are not fetched
    ./config_coco.sh --masks coco               polygons filled as COCO's own tools do it

Run again, it goes on where it stopped; when all is done, it says so and does nothing. The pictures come from the 2017
archives: the same ones as of 2014, without the split in their names.
"""
import argparse
import re
from pathlib import Path

from coco.dataset import LIST_SIZES, LISTS, ROOT, spec
from coco.prepare import add_mask_flag, is_official, prepare, report
from lib.process.ending import run_script
from lib.setup.datasetup import Setup, make_parser
from lib.setup.download import Archive
from lib.setup.verify import check_samples, count_files

HOME = 'http://images.cocodataset.org'
# The one place that says where the archives are. No checksums are published with them; a .zip has one for each file.
ARCHIVES = (
    Archive('annotations_trainval2014.zip', (f'{HOME}/annotations/annotations_trainval2014.zip',),
            size=253_000_000, unpacked=500_000_000),
    Archive('annotations_trainval2017.zip', (f'{HOME}/annotations/annotations_trainval2017.zip',),
            size=253_000_000, unpacked=490_000_000),
    Archive('val2017.zip', (f'{HOME}/zips/val2017.zip',), size=820_000_000, unpacked=820_000_000),
    Archive('train2017.zip', (f'{HOME}/zips/train2017.zip',), size=19_340_000_000, unpacked=19_340_000_000),
)
BYTES_OF_A_MASK = 8192      # a block or two of the disk each


def place(name: str) -> str | None:
    """Where a member of an archive goes below the data root: instances files and pictures."""
    if match := re.fullmatch(r'annotations/(instances_(?:train|val)20(?:14|17)\.json)', name):
        return f'annotations/{match[1]}'
    if match := re.fullmatch(r'(?:train|val)2017/(\d{12}\.jpg)', name):
        return f'Images/{match[1]}'
    return None


def set_up(args: argparse.Namespace) -> None:
    """All steps, each unless it is done.

    Raises:
        ValueError, OSError: what went wrong and what to do; the same call goes on from there.
    """
    setup, total = Setup(args), sum(LIST_SIZES.values())
    step = f'verified {args.lists.absolute()} {args.masks}'
    if setup.done(step) and _lists_are_there(args.lists) and not args.verify:
        print(f'{args.data_root} is set up and verified, its lists are in {args.lists}: nothing to do '
              '(--verify looks through it again)')
        return
    setup.check_disk(ARCHIVES, 0 if args.part or setup.done('masks') else total * BYTES_OF_A_MASK)
    setup.fetch(ARCHIVES)
    for archive in ARCHIVES:
        setup.unpack(archive, place)
    splits = prepare(args.data_root, args.lists, args.masks, args.workers)
    setup.mark('masks', {'Masks': sum(map(len, splits.values()))})
    print('\n'.join(report(splits)), flush=True)
    strange = [split for split, names in splits.items() if not is_official(split, names)]
    if strange and not args.part:
        raise ValueError(f'the list {strange[0]} is not the official one; delete {args.data_root}/annotations and run '
                         'the same command again, or say --part if these are not meant to be all of COCO')
    pictures, masks = check_samples(spec(args.data_root, args.lists), splits, args.workers, args.decode)
    setup.mark(step, {folder: count_files(args.data_root / folder) for folder in ('Images', 'Masks', 'annotations')})
    print(f'verified: {pictures} pictures and {masks} masks in {args.data_root}. The archives in {args.archives} are '
          'not needed any more. Next: ./run_coco.sh --dry-run')


def _lists_are_there(lists: Path) -> bool:
    return all((lists / f'{name}.txt').is_file() for name in (*LIST_SIZES, 'labels'))


def main(argv: list[str] | None = None) -> None:
    """Set the data set up."""
    parser = make_parser(__doc__, ROOT, LISTS)
    add_mask_flag(parser)
    set_up(parser.parse_args(argv))


if __name__ == '__main__':
    run_script(main)
