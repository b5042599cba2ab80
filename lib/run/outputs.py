"""Folders of files, one per image, that a stage makes: which are up to date, and which process makes the others.

Each file carries its origin (lib/run/origin.py). Of three processes each takes every third image and needs to know
nothing of the others: the next run makes what a lost one left.
"""
import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from lib.files.origin import State, origin_text, read_state
from lib.process import ranks
from lib.process.ending import Signals
from lib.run.digests import Digests
from lib.run.lock import Lock
from lib.run.origin import NEW_OR_BOTH, OWN, difference
from lib.run.record import made_by


class Output(NamedTuple):
    """A folder with a file <name><suffix> for every image; `origin` is the part that all of them share."""

    folder: Path
    suffix: str
    origin: Mapping

    def path(self, name: str) -> Path:
        """The file of an image."""
        return self.folder / f'{name}{self.suffix}'


class Work:
    """What this process has to do.

    Args:
        outputs: the folders.
        inputs: by image name, what its files are made from: digests or plain values.
        todo: numbers of the images to do, in the order of the list.
        begin: is called before the first image.
        signals: tells when to stop.
    """

    def __init__(self, outputs: Sequence[Output], inputs: Mapping[str, Mapping], todo: list[int],
                 begin: Callable[[], None], signals: Signals):
        self.outputs, self.inputs, self.todo, self.begin, self.signals = outputs, inputs, todo, begin, signals

    def files(self, name: str) -> list[tuple[Path, str]]:
        """An image's file in each folder and its origin, as its writer wants it."""
        return [(output.path(name), origin_text({**output.origin, OWN: self.inputs[name]})) for output in self.outputs]

    def watch(self, images: Iterable[Mapping]) -> Iterator[Mapping]:
        """The images, until a signal comes; then Stopped is raised. Those that were skipped are named and counted.

        What was made from them before they were corrupt is removed: later stages would ask for it to be made again.
        """
        skipped, names = [], list(self.inputs)
        self.begin()
        for index, image in zip(self.todo, self.signals.until_caught(images, lambda: 'what is finished stays')):
            if 'skipped' in image:
                skipped.append(image['skipped'])
                for output in self.outputs:
                    _remove(output, [names[index]])
            else:
                yield image
        if skipped and len(skipped) == len(names):
            raise ValueError(f'all {len(skipped)} images are corrupt, {skipped[0]} the first; restore them')
        if skipped:
            print(f'left out {len(skipped)} of {len(names)} images: corrupt: {"; ".join(skipped)}', flush=True)


@contextmanager
def unfinished(args: argparse.Namespace, names: Sequence[str], outputs: Sequence[Output],
               sources: Sequence[Mapping[str, Path | list]], digests: Digests,
               device: torch.device) -> Iterator[Work]:
    """This process's part of the images that are not up to date; while the context lasts the folders are locked.

    With --dry-run nothing is written, locks included. With --fresh all images are done, and files that an earlier run
    made of them are removed when the first begins: a run that is refused before, say for its network, removes none.

    Args:
        args: the script's settings.
        names: of all images, in list order.
        outputs: the folders; an image is finished when it has a file of its origin in each.
        sources: for each image what its own files are made from: files, which count by content, or plain values.
        digests: of those files.
        device: on which they are made.

    Raises:
        ValueError: if files of these names were made with other settings, or by something else, or if another run
            works in a folder.
    """
    here, fresh = ranks.place(), args.fresh and not ranks.was_restarted()
    with ExitStack() as stack:
        for output in outputs if not args.dry_run else ():
            stack.enter_context(Lock(output.folder))
        inputs = _digested(names, sources, digests)
        outdated = _outdated(names, outputs, inputs, args.fresh)
        mine = range(here.rank, len(names), here.world)
        todo = [index for index in mine if fresh or names[index] in outdated]
        part = 'all' if here.world == 1 else f'process {here.rank} of {here.world}: its'
        print(f'{part} {len(mine)} images, {len(mine) - len(todo)} of them finished ({outputs[0].folder})' if todo else
              f'{part} {len(mine)} images are finished ({outputs[0].folder}); --fresh makes them again', flush=True)
        if not (todo or args.dry_run):
            digests.save()

        def begin() -> None:
            digests.save()
            for output in outputs:
                if fresh:
                    _remove(output, [names[index] for index in todo])
                if ranks.is_first():
                    made_by(output.folder, args, device, {key: output.origin[key] for key in ('classes', 'network')})

        yield Work(outputs, inputs, todo, begin, stack.enter_context(Signals()))


def _digested(names: Sequence[str], sources: Sequence[Mapping], digests: Digests) -> dict[str, dict]:
    """Inputs by image name, with a digest in place of each file."""
    files = [value for source in sources for value in source.values() if isinstance(value, Path)]
    found = iter(digests.of(files))
    return {name: {key: next(found) if isinstance(value, Path) else value for key, value in source.items()}
            for name, source in zip(names, sources, strict=True)}


def _outdated(names: Sequence[str], outputs: Sequence[Output], inputs: Mapping[str, Mapping], fresh: bool) -> set[str]:
    """Names without a whole file of their origin in each folder."""
    outdated, changed = set(), 0
    for output in outputs:
        foreign, other = [], []
        for name in names:
            path = output.path(name)
            state = _state(path)
            if state.whole and state.origin == {**output.origin, OWN: inputs[name]}:
                continue
            outdated.add(name)
            if _is_ours(state.origin):
                changed += 1
                if words := difference({**state.origin, OWN: {}}, {**output.origin, OWN: {}}):
                    other.append(words)
            elif not state.empty:
                foreign.append(path)
        _refuse(foreign)
        if other and not fresh:
            raise ValueError(f'{len(other)} of {len(names)} files in {output.folder} were made with other settings '
                             f'({other[0]}); {NEW_OR_BOTH.format("these")}')
    if changed and not fresh:
        print(f'{changed} files are made again, as what they were made from has changed', flush=True)
    return outdated


def _state(path: Path) -> State:
    """What is known of a file; one that is not there is like an empty one."""
    try:
        return read_state(path)
    except FileNotFoundError:
        return State(None, whole=False, empty=True)


def _is_ours(origin: dict | None) -> bool:
    """Whether a file of this origin was made by a stage."""
    return origin is not None and {'settings', OWN} <= origin.keys()


def refuse_unknown(paths: Iterable[Path]) -> None:
    """Make sure that files which are to be written are absent, empty, or an output of a stage.

    Raises:
        ValueError: naming the first that is something else, and how many are.
    """
    states = ((path, _state(path)) for path in paths)
    _refuse([path for path, state in states if not (state.empty or _is_ours(state.origin))])


def _refuse(foreign: Sequence[Path]) -> None:
    if foreign:
        raise ValueError(f'{foreign[0]} was not made by this stage{_more(foreign)} and is not overwritten; move it '
                         'away, or choose another folder')


def _remove(output: Output, names: Iterable[str]) -> None:
    """Remove the files that an earlier run made of some images; what is not ours was refused before."""
    for name in names:
        output.path(name).unlink(missing_ok=True)


def _more(items: Sequence) -> str:
    return f' (and {len(items) - 1} more)' if len(items) > 1 else ''
