"""Shared by config_voc.sh and config_coco.sh: from archives to a verified data set, in steps that resume."""
import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lib.files.dataspec import DatasetSpec, Sample, and_more, list_sha256
from lib.files.imageio import read_image, read_mask, read_size
from lib.files.jsonfile import read_json, write_json
from lib.process.cli import Parser, integer, progress
from lib.process.workers import map_in_workers
from lib.setup.archives import fetch, unpack

ARCHIVES = Path('data/archives')


class Archive(NamedTuple):
    """An archive and what to unpack from it, as in unpack(); urls: best first, none if it needs a registration."""

    name: str
    pattern: str
    target: str = r'\1'
    urls: Sequence[str] = ()
    md5: str | None = None


class Notes:
    """<data root>/setup.json: the number of files in each folder when a step was done, by step.

    A step is due again if one of its folders has fewer files than were ever noted, so anything can be deleted.
    """

    def __init__(self, root: Path):
        self.root, self.path = root, root / 'setup.json'
        self.steps = read_json(self.path, {str: {str: int}}, 'delete it, then run the same command again') \
            if self.path.exists() else {}

    def done(self, step: str) -> bool:
        """Whether a step was done and its files are still there."""
        return step in self.steps and all(
            count_files(self.root / folder) >= max(counts.get(folder, 0) for counts in self.steps.values())
            for folder in self.steps[step])

    def add(self, step: str, folders: Iterable[str]) -> None:
        """Note a step that is done, and the folders below the root that it filled."""
        self.steps[step] = {folder: count_files(self.root / folder) for folder in folders}
        write_json(self.path, self.steps)


def set_up(args: argparse.Namespace, spec: DatasetSpec, archives: Sequence[Archive],
           prepare: Callable[[], dict[str, list[str]]], official: Mapping[str, tuple[int, str]], driver: str) -> None:
    """Download, unpack, prepare and verify a data set; does nothing if that is done. The same call resumes.

    `args` are those of make_parser(); `prepare` makes masks, lists and labels.txt and returns image names by split;
    `official` are lists as in print_lists(); `driver` is the script that is run afterwards.
    """
    notes = Notes(args.data_root)
    step = f'verified {args.lists.absolute()} {getattr(args, "masks", "")}'.rstrip()
    lists = [args.lists / f'{name}.txt' for name in (*official, 'labels')]
    if step in notes.steps and all(map(notes.done, notes.steps)) and all(map(Path.is_file, lists)) and not args.verify:
        print(f'{args.data_root} is set up and verified, its lists are in {args.lists}: nothing to do (--verify checks '
              'it again)')
        return
    wanted = [archive for archive in archives if not notes.done(archive.name)]
    fetch_all(wanted, args)
    for archive in wanted:
        print(f'{archive.name}: unpacking to {args.data_root}', flush=True)
        notes.add(archive.name, unpack(args.archives / archive.name, args.data_root, archive.pattern, archive.target))
    splits = prepare()
    others = print_lists(splits, official)
    if others and not args.part:
        raise ValueError(f'the list {others[0]} is not the official one; delete {args.data_root} and run the same '
                         'command again, or give --part if this is only a part of the data set')
    images, masks = check_samples(spec, splits, args.workers, args.decode)
    notes.add(step, [str(Path(spec.mask_templates[0]).parent)])
    print(f'verified: {images} images and {masks} masks in {args.data_root}. The archives in {args.archives} are no '
          f'longer needed. Next: ./{driver} --dry-run')


def fetch_all(archives: Sequence[Archive], args: argparse.Namespace) -> None:
    """Download the archives that are absent; a ConnectionError names all that have to be downloaded by hand."""
    for number, archive in enumerate(archives):
        path = args.archives / archive.name
        print(f'{archive.name}: {"found in" if path.exists() else "downloading to"} {args.archives}', flush=True)
        mirror = [f'{args.mirror.rstrip("/")}/{archive.name}'] if args.mirror else []
        try:
            fetch(path, [*mirror, *archive.urls], None if args.part else archive.md5, args.tries)
        except ConnectionError as error:
            missing = [other for other in archives[number:] if not (args.archives / other.name).exists()]
            raise ConnectionError(f'{archive.name} cannot be downloaded ({error}); download '
                              f'{", ".join((*other.urls, other.name)[0] for other in missing)} elsewhere, put it into '
                              f'{args.archives.absolute()}, then run the same command again') from error


def print_lists(splits: Mapping[str, Sequence[str]], official: Mapping[str, tuple[int, str]]) -> list[str]:
    """Print the length of each list of image names, and whether it is the official one; returns those that are not.

    `official`: number of images and SHA-256 of the names by split; '' if it is not known.
    """
    others = [split for split, (size, sha256) in official.items()
              if len(splits[split]) != size or sha256 not in ('', list_sha256(splits[split]))]
    for split, names in splits.items():
        note = ', NOT the official list (a part of it, or another order)' if split in others else ', the official list'
        print(f'{split}: {len(names)} images{note if split in official else ""}', flush=True)
    return others


def check_samples(spec: DatasetSpec, splits: Iterable[str], workers: int, decode: bool = True) -> tuple[int, int]:
    """Read every image and mask of some lists once, in worker processes, or with 0 in this one.

    With `decode` images are decoded completely, else only their headers are read. Returns the numbers of images and of
    masks; raises ValueError with the first faulty file.
    """
    samples = list({sample.name: sample for split in splits for sample in spec.samples(split)}.values())
    results = map_in_workers(partial(find_fault, num_classes=spec.num_classes, decode=decode), samples, workers, 32)
    if faults := [fault for fault in progress(results, 'verify', 'file', len(samples)) if fault]:
        raise ValueError(f'{faults[0]}{and_more(faults)}; delete what is faulty, then run the same command again')
    return len(samples), sum(sample.mask is not None for sample in samples)


def find_fault(sample: Sample, num_classes: int, decode: bool) -> str:
    """What is wrong with the files of one sample; '' if nothing is."""
    try:
        size = read_image(sample.image).shape[:2] if decode else read_size(sample.image)
        shape = read_mask(sample.mask, num_classes).shape if sample.mask else size
    except (FileNotFoundError, ValueError) as error:
        return str(error).partition(';')[0]
    return '' if shape == size else \
        f'{sample.mask} has {shape[0]}x{shape[1]} pixels, its image {size[0]}x{size[1]}'


def count_files(folder: Path) -> int:
    """Number of files in a folder, without hidden ones; 0 if it does not exist."""
    return sum(path.is_file() for path in folder.glob('[!.]*'))


def base_parser(doc: str, prog: str, root: Path, lists: Path, *old_flags: str) -> argparse.ArgumentParser:
    """Flags of preparing a data set, a part of its set-up; old_flags are further names of --data-root."""
    parser = Parser(doc, prog=prog)
    parser.add_argument('--data-root', *old_flags, '--data_root', type=Path, default=root, metavar='DIR',
                        help='folder of the data set')
    parser.add_argument('--lists', type=Path, default=lists, metavar='DIR', help='folder of the lists')
    parser.add_argument('--workers', type=integer(0, 256), default=os.cpu_count() or 1, metavar='N',
                        help='worker processes; 0 runs everything in the main process')
    return parser


def make_parser(doc: str, prog: str, root: Path, lists: Path) -> argparse.ArgumentParser:
    """Flags of both set-ups."""
    parser = base_parser(doc, prog, root, lists)
    parser.add_argument('--archives', type=Path, default=ARCHIVES, metavar='DIR',
                        help='folder of archives; existing ones are not downloaded')
    parser.add_argument('--mirror', metavar='URL', help='base URL of a server that has all archives, tried first')
    parser.add_argument('--tries', type=integer(1, 1000), default=8, metavar='N', help='attempts per download')
    parser.add_argument('--part', action='store_true',
                        help='the archives hold only a part of the data set: do not check lists and checksums')
    parser.add_argument('--decode', action=argparse.BooleanOptionalAction, default=True,
                        help='when verifying, decode images completely, not only their headers')
    parser.add_argument('--verify', action='store_true', help='verify the data set again')
    return parser
