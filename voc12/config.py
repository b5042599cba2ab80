"""Fetch, unpack, convert, prepare and verify PASCAL VOC 2012 with the SBD masks: what config_voc.sh runs.

    ./config_voc.sh                             3.4 GB of archives, 2 GB unpacked
    ./config_voc.sh --archives DIR              archives that lie in DIR already are not fetched

The training masks are made from SBD's archive and VOC's own masks. If SegmentationClassAug.zip lies in the folder of
archives, it is taken in place of SBD's; if VOC2012test.tar does, the test images are set up too. Run again, it goes on
where it stopped; when all is done, it says so and does nothing.
"""
import argparse
import re
from dataclasses import replace
from pathlib import Path

from lib.process.ending import run_script
from lib.setup.datasetup import Setup, make_parser
from lib.setup.download import Archive
from lib.setup.verify import check_samples, count_files
from voc12.dataset import LISTS, ROOT, spec
from voc12.prepare import is_official, prepare, report
from voc12.sbd import FOLDER, convert_sbd

BERKELEY = 'eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours'
# The one place that says where the archives are. The two checksums are the published ones.
TRAINVAL = Archive('VOCtrainval_11-May-2012.tar',
                   ('http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar',
                    'https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar'),
                   size=2_000_000_000, unpacked=2_000_000_000, md5='6cd6e144f989b92b3379bac3b3de84fd')
SBD = Archive('benchmark.tgz', (f'https://www2.{BERKELEY}/benchmark.tgz', f'http://www.{BERKELEY}/benchmark.tgz'),
              size=1_420_000_000, unpacked=60_000_000, md5='82b4d87ceb2ed10f6038a1cba92111cb')
# These two nobody serves without a person; they are taken if they lie in the folder of archives.
AUG = Archive('SegmentationClassAug.zip', (), size=26_000_000, unpacked=60_000_000)
TEST = Archive('VOC2012test.tar', (), size=1_900_000_000, unpacked=1_900_000_000)


def place(name: str) -> str | None:
    """Where a member of VOC's archives goes below the folder VOC2012; what no stage needs is left out."""
    match = re.fullmatch(r'VOCdevkit/VOC2012/((?:JPEGImages|Annotations|SegmentationClass|ImageSets/Segmentation)/'
                         r'[\w-]+\.(?:jpg|xml|png|txt))', name)
    return match[1] if match else None


def place_aug(name: str) -> str | None:
    """Where a member of SegmentationClassAug.zip goes; some copies have the files in a folder, some have not."""
    match = re.fullmatch(r'(?:SegmentationClassAug/)?(\d{4}_\d{6}\.png)', name)
    return f'{FOLDER}/{match[1]}' if match else None


def set_up(args: argparse.Namespace) -> None:
    """All steps, each unless it is done.

    Raises:
        ValueError, OSError: what went wrong and what to do; the same call goes on from there.
    """
    setup = Setup(args)
    step = f'verified {args.lists.absolute()}'
    if setup.done(step) and _lists_are_there(args.lists) and not args.verify:
        print(f'{args.data_root} is set up and verified, its lists are in {args.lists}: nothing to do '
              '(--verify looks through it again)')
        return
    here = [archive for archive in (AUG, TEST) if (args.archives / archive.name).exists() or setup.unpacked(archive)]
    masks = AUG if AUG in here else SBD
    archives = [_as_asked(archive, args) for archive in [TRAINVAL, masks] + [TEST] * (TEST in here)]
    setup.check_disk(archives)
    setup.fetch(archives)
    for archive in archives:
        if archive.name == SBD.name:
            print(f'{SBD.name}: converting to {args.data_root}/{FOLDER}', flush=True)
            count = convert_sbd(args.archives / SBD.name, args.data_root, args.workers)
            setup.mark_unpacked(AUG, {FOLDER: count})       # the masks are there, wherever they came from
        else:
            setup.unpack(archive, place_aug if archive.name == AUG.name else place)
    splits = prepare(args.data_root, args.lists)
    print('\n'.join(report(splits)), flush=True)
    strange = [split for split, names in splits.items() if not is_official(split, names)]
    if strange and not args.part:
        raise ValueError(f'the list {strange[0]} is not the official one; delete {args.data_root} and run the same '
                         'command again, or say --part if this is not meant to be all of VOC')
    pictures, masks = check_samples(spec(args.data_root, args.lists), splits, args.workers, args.decode)
    folders = ('JPEGImages', 'Annotations', 'SegmentationClass', FOLDER, 'ImageSets/Segmentation')
    setup.mark(step, {folder: count_files(args.data_root / folder) for folder in folders})
    print(f'verified: {pictures} pictures and {masks} masks in {args.data_root}. The archives in {args.archives} are '
          'not needed any more. Next: ./run_voc.sh --dry-run')


def _as_asked(archive: Archive, args: argparse.Namespace) -> Archive:
    """With --part the archive is another file of the same layout, which has no published checksum."""
    return replace(archive, md5=None) if args.part else archive


def _lists_are_there(lists: Path) -> bool:
    return all((lists / f'{name}.txt').is_file() for name in ('train', 'val', 'train_aug', 'labels'))


def main(argv: list[str] | None = None) -> None:
    """Set the data set up."""
    set_up(make_parser(__doc__, ROOT, LISTS).parse_args(argv))


if __name__ == '__main__':
    run_script(main)
