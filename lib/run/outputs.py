"""Folders of files, one an image, that a stage makes: what is there already, what is left, and who does which part.

A folder's made_by.json says with which settings and from which inputs its files are made; others are refused. Files
that were seen whole are noted with size and time of change in .whole-<rank>of<world>.json, so that a finished folder is
recognised at once; any other file is read before it is taken for finished. Of three processes each takes every third
image and needs not know of the others: whoever runs again does what a lost one left.
"""
import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from lib.run import ranks
from lib.run.identity import SAME_OR_NEW, difference, read_identity
from lib.run.lock import Lock
from lib.run.options import settings
from lib.run.record import made_by, write_json
from tool.ending import Signals
from tool.workers import map_chunks

# Places, how many, and what the network's own digest tells.
NOT_IN_FILES = ('checkpoint', 'cams', 'out', 'images', 'split', 'limit', 'backbone', 'width')
LEDGER = '.whole-{}of{}.json'


class Output(NamedTuple):
    """A folder with a file <name><suffix> for every image.

    read raises ValueError or OSError where a file is damaged; `without` are settings that do not change these files.
    """

    folder: Path
    suffix: str
    read: Callable[[Path], object]
    without: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        """The file of an image."""
        return self.folder / f'{name}{self.suffix}'


class Share(NamedTuple):
    """This process's part of the work: numbers of the images that it has to do, in the order of the list."""

    left: list[int]
    signals: Signals

    def watch(self, images: Iterable[Mapping]) -> Iterator[Mapping]:
        """The images, until a signal comes; then Stopped is raised. Those that were skipped are named and counted."""
        skipped = []
        for image in self.signals.until_caught(images, lambda: 'what is finished stays'):
            if 'skipped' in image:
                skipped.append(image['skipped'])
            else:
                yield image
        if skipped:
            print(f'warning: {len(skipped)} images were skipped and have no file: {"; ".join(skipped)}', flush=True)


@contextmanager
def unfinished(args: argparse.Namespace, names: Sequence[str], outputs: Sequence[Output], inputs: Mapping[str, str],
               device: torch.device, sources: Sequence[Path] | None = None) -> Iterator[Share]:
    """This process's share of the images that are not finished; while the context lasts the folders are locked for it.

    Args:
        args: the script's settings (fresh and workers are read here).
        names: of all images, in list order.
        outputs: the folders; an image is finished when it has a whole file in each.
        inputs: digests by name of what the files are made from.
        device: on which they are made.
        sources: pictures that the user may have changed since: a file older than its picture is made again.

    Raises:
        ValueError: if a folder holds files made with other settings or inputs, or none that it says, or is in use.
    """
    here = ranks.place()
    mine = range(here.rank, len(names), here.world)
    with ExitStack() as stack:
        for output in outputs:
            stack.enter_context(Lock(output.folder, f'.lock-{here.rank}of{here.world}'))
        for output in outputs:
            _claim(output, args, inputs, device, here.world)
        if sources:
            _remove_older(outputs, names, sources)
        ledgers = [_known_whole(output, [names[index] for index in mine], args.workers) for output in outputs]
        left = [index for index in mine if not all(names[index] in ledger for ledger in ledgers)]
        share = 'all' if here.world == 1 else f'process {here.rank} of {here.world}: its'
        print(f'{share} {len(mine)} images are finished ({outputs[0].folder}); --fresh makes them again' if not left
              else f'{share} {len(mine)} images, {len(mine) - len(left)} of them finished', flush=True)
        try:
            yield Share(left, stack.enter_context(Signals()))
        finally:
            for output, ledger in zip(outputs, ledgers):
                _note(output, {**ledger, **_stats(output, [names[index] for index in left])}, here)


def all_finished(args: argparse.Namespace, names: Sequence[str], outputs: Sequence[Output],
                 inputs: Mapping[str, str]) -> bool:
    """Whether there is nothing left to do, as far as the notes tell; says so. Reads no picture and writes nothing."""
    if args.fresh or any(read_identity(output.folder / 'made_by.json') != _identity(output, args, inputs)
                         for output in outputs):
        return False
    finished = True
    for output in outputs:
        found, vouched = _stats(output, names), _vouched(output)
        finished &= len(found) == len(names) and all(vouched.get(name) == stat for name, stat in found.items())
    if finished:
        print(f'all {len(names)} images are finished ({outputs[0].folder}); --fresh makes them again')
    return finished


def _identity(output: Output, args: argparse.Namespace, inputs: Mapping[str, str]) -> dict:
    """Settings and inputs that a file in the folder is made from."""
    return {'settings': {key: value for key, value in settings(args).items()
                         if key not in (*NOT_IN_FILES, *output.without)}, 'inputs': dict(inputs)}


def _claim(output: Output, args: argparse.Namespace, inputs: Mapping[str, str], device: torch.device,
           world: int) -> None:
    """Make sure that the folder is for this run's files; with --fresh, empty it."""
    now = _identity(output, args, inputs)
    made = output.folder / 'made_by.json'
    files = any(output.folder.glob(f'[!.]*{output.suffix}'))
    if args.fresh and not ranks.was_restarted():
        if world > 1:
            raise ValueError(f'--fresh would remove what the other processes write; remove {output.folder} and start '
                             'them without it')
        made.unlink(missing_ok=True)        # first: what a killed process has not removed is never taken for new
        for path in (*output.folder.glob(f'*{output.suffix}'), *output.folder.glob('.whole-*')):
            path.unlink()
        files = False
    before = read_identity(made)
    if before is None and files:
        raise ValueError(f'{output.folder} holds files but no made_by.json that says how they were made{SAME_OR_NEW}')
    if before and files and (changed := difference(before, now)):
        raise ValueError(f'{output.folder} holds files made with other settings or inputs ({changed}){SAME_OR_NEW}')
    if before != now:
        made_by(output.folder, args, device, now)


def _known_whole(output: Output, names: Sequence[str], workers: int) -> dict[str, list[int]]:
    """Size and time of change of the files that are whole; what no ledger vouches for is read."""
    found, vouched = _stats(output, names), _vouched(output)
    whole = {name: stat for name, stat in found.items() if vouched.get(name) == stat}
    doubtful = [name for name in found if name not in whole]
    for chunk in map_chunks(partial(_check, output), doubtful, workers):
        for name, problem in chunk:
            if problem:
                print(f'warning: {output.path(name)} is made again ({problem})', flush=True)
                output.path(name).unlink(missing_ok=True)
            else:
                whole[name] = found[name]
    return whole


def _vouched(output: Output) -> dict[str, list[int]]:
    """What all ledgers of the folder say."""
    vouched = {}
    for path in sorted(output.folder.glob(LEDGER.format('*', '*'))):
        try:
            vouched.update(json.loads(path.read_text()))
        except ValueError:          # damaged, and only a shortcut
            continue
    return vouched


def _remove_older(outputs: Sequence[Output], names: Sequence[str], sources: Sequence[Path]) -> None:
    for output in outputs:
        for name, source in zip(names, sources):
            path = output.path(name)
            if path.exists() and path.stat().st_mtime_ns < source.stat().st_mtime_ns:
                path.unlink()


def _check(output: Output, names: Sequence[str]) -> list[tuple[str, str]]:
    """What is wrong with each file, '' for nothing."""
    results = []
    for name in names:
        try:
            output.read(output.path(name))
            results.append((name, ''))
        except (ValueError, OSError) as error:
            results.append((name, ' '.join(str(error).split())[:160]))
    return results


def _stats(output: Output, names: Iterable[str]) -> dict[str, list[int]]:
    """Size and time of change of the files that are there."""
    found = {}
    for name in names:
        try:
            stat = output.path(name).stat()
        except FileNotFoundError:
            continue
        found[name] = [stat.st_size, stat.st_mtime_ns]
    return found


def _note(output: Output, whole: Mapping[str, list[int]], here: ranks.Place) -> None:
    write_json(output.folder / LEDGER.format(here.rank, here.world), whole)
