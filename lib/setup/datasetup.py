"""What config_voc.sh and config_coco.sh share: fetching archives, keeping track of what is done, checks of the disk.

What is done is noted in <data root>/setup.json: for each step the files that it left, by folder. A step whose folders
hold fewer files than noted is done again, so a call can be broken off anywhere and anything can be deleted.
"""
import argparse
import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from lib.files.fileio import remove_leftovers
from lib.files.jsonfile import read_json, write_json
from lib.process.ranges import Parser, integer
from lib.setup.download import Archive, Unreachable, fetch, size_of
from lib.setup.unpack import unpack
from lib.setup.verify import count_files

ARCHIVES = Path('data/archives')
LEFT = {str: {str: int}}        # in setup.json: files by folder, by archive or step


class Setup:
    """The state of a data set's set-up, and the steps that every set needs."""

    def __init__(self, args: argparse.Namespace):
        self.root, self.archives, self.args = args.data_root, args.archives, args
        self.notes = self.root / 'setup.json'
        remove_leftovers(self.root)

    def done(self, step: str) -> bool:
        """Whether a step was done and its files are still there."""
        left = self._read()['steps'].get(step)
        return left is not None and self._hold(left)

    def mark(self, step: str, left: dict[str, int]) -> None:
        """Note that a step is done, with the number of files it left in each folder below the root."""
        self._note('steps', step, left)

    def unpacked(self, archive: Archive) -> bool:
        """Whether an archive was unpacked, and its folders hold all that came from this and other archives."""
        notes = self._read()['archives']
        total = {}
        for left in notes.values():
            for folder, count in left.items():
                total[folder] = total.get(folder, 0) + count
        left = notes.get(archive.name)
        return left is not None and self._hold({folder: total[folder] for folder in left})

    def mark_unpacked(self, archive: Archive, left: dict[str, int]) -> None:
        """Note that an archive is unpacked, with the number of its files in each folder below the root."""
        self._note('archives', archive.name, left)

    def urls(self, archive: Archive) -> list[str]:
        """Places of an archive, the mirror first."""
        mirror = [f'{self.args.mirror.rstrip("/")}/{archive.name}'] if self.args.mirror else []
        return [*mirror, *archive.urls]

    def check_disk(self, archives: Sequence[Archive], more: int = 0) -> None:
        """Make sure that what is still to be fetched and unpacked fits, before the first byte is written.

        Args:
            archives: all that the set needs.
            more: bytes that are made from them in the data root.

        Raises:
            OSError: ENOSPC, naming the folder, what it needs and what is free.
        """
        need = {self.archives: 0, self.root: more}
        for archive in archives:
            if self.unpacked(archive):
                continue
            path = self.archives / archive.name
            size = path.stat().st_size if path.exists() else size_of(archive, self.urls(archive))
            part = self.archives / f'{archive.name}.part'
            need[self.archives] += 0 if path.exists() else size - (part.stat().st_size if part.exists() else 0)
            need[self.root] += round(size * archive.unpacked / archive.size)
        by_disk = {}
        for folder, size in need.items():
            existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
            _, sizes = by_disk.setdefault(os.stat(existing).st_dev, (existing, []))
            sizes.append(size)
        for existing, sizes in by_disk.values():
            free = shutil.disk_usage(existing).free
            if sum(sizes) > free:
                raise OSError(errno.ENOSPC, f'{sum(sizes) / 1e9:.3g} GB are needed, {free / 1e9:.3g} GB are free '
                              '(--archives and --data-root name other folders)', str(existing))

    def fetch(self, archives: Sequence[Archive]) -> None:
        """Have all archives that are not unpacked yet in the folder of archives.

        Raises:
            Unreachable: if one cannot be had; names all that are to be fetched by hand, and where to put them.
        """
        wanted = [archive for archive in archives if not self.unpacked(archive)]
        for number, archive in enumerate(wanted):
            print(f'{archive.name}: {"found in" if (self.archives / archive.name).exists() else "fetching to"} '
                  f'{self.archives}', flush=True)
            try:
                fetch(archive, self.archives, self.urls(archive), self.args.tries)
            except Unreachable as error:
                rest = [other for other in wanted[number:] if not (self.archives / other.name).exists()]
                places = ', '.join((other.urls or (other.name,))[0] for other in rest)
                raise Unreachable(f'{archive.name} cannot be fetched ({error}); fetch {places} on another machine and '
                                  f'put {"it" if len(rest) == 1 else "them"} into {self.archives.absolute()}, then run '
                                  'the same command again') from error

    def unpack(self, archive: Archive, place: Callable[[str], str | None]) -> None:
        """Unpack an archive into the data root, unless that is done."""
        if not self.unpacked(archive):
            print(f'{archive.name}: unpacking to {self.root}', flush=True)
            self.mark_unpacked(archive, unpack(self.archives / archive.name, self.root, place))

    def _hold(self, counts: dict[str, int]) -> bool:
        return all(count_files(self.root / folder) >= count for folder, count in counts.items())

    def _note(self, kind: str, name: str, left: dict[str, int]) -> None:
        notes = self._read()
        notes[kind][name] = left
        write_json(self.notes, notes)

    def _read(self) -> dict[str, dict]:
        if not self.notes.exists():
            return {'archives': {}, 'steps': {}}
        return read_json(self.notes, {'archives': LEFT, 'steps': LEFT},
                         'move it away, then run the same command again: what is there is found again')


def make_parser(doc: str, root: Path, lists: Path) -> argparse.ArgumentParser:
    """Flags of both set-ups."""
    parser = Parser(doc)
    parser.add_argument('--data-root', type=Path, default=root, metavar='DIR', help=f'where the data go ({root})')
    parser.add_argument('--lists', type=Path, default=lists, metavar='DIR', help=f'where the lists go ({lists}/)')
    parser.add_argument('--archives', type=Path, default=ARCHIVES, metavar='DIR',
                        help=f'where archives lie that you have, and where others are fetched to ({ARCHIVES})')
    parser.add_argument('--mirror', metavar='URL', help='a place that serves all archives by name, tried first')
    parser.add_argument('--tries', type=integer(1, 1000), default=8, metavar='N',
                        help='attempts without a byte before it gives up (8)')
    parser.add_argument('--part', action='store_true',
                        help='the archives hold a part of the data: do not ask for the official counts and checksums')
    parser.add_argument('--decode', action=argparse.BooleanOptionalAction, default=True,
                        help='decode every picture to its end when verifying, not its header alone')
    parser.add_argument('--workers', type=integer(0, 256), default=os.cpu_count() or 1, metavar='N',
                        help='helper processes; 0 does all in this one')
    parser.add_argument('--verify', action='store_true', help='verify again what was set up before')
    return parser
