"""Output folders of a stage, with one file per image: which are up to date, and which process makes the others.

Each file holds its origin (lib/run/origin.py). With three processes, each takes every third image, independently of the
others; the next run makes the files of a process that died.
"""
import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from lib.files.dataspec import and_more
from lib.files.origin import State, origin_text, read_state
from lib.process import ranks
from lib.run.origin import NEW_OR_BOTH, OWN, Digests, difference
from lib.run.record import write_made_by


class Output(NamedTuple):
    """A folder with a file <name><suffix> per image; `origin` is the part that all of them share."""

    folder: Path
    suffix: str
    origin: Mapping

    def path(self, name: str) -> Path:
        """The file of an image."""
        return self.folder / f'{name}{self.suffix}'


class Work:
    """This process's part of the images that are not up to date.

    With --fresh, all images are processed; their old files are removed when the first one starts, so a run that is
    refused before, for example because of its network, removes none.

    Args:
        args: the script's settings.
        names: of all images, in list order.
        outputs: the folders; an image is finished when it has a file of its origin in each.
        sources: for each image, what its files are made from: files, which are compared by content, or plain values.
        digests: of those files.

    Raises:
        ValueError: if files of these names were made with other settings or by something else.
    """

    def __init__(self, args: argparse.Namespace, names: Sequence[str], outputs: Sequence[Output],
                 sources: Sequence[Mapping[str, Path | list]], digests: Digests):
        rank, world, *_ = ranks.place()
        self.args, self.names, self.outputs, self.digests = args, names, outputs, digests
        self.fresh = args.fresh and not ranks.was_restarted()
        found = iter(digests.of(value for source in sources for value in source.values() if isinstance(value, Path)))
        self.inputs = {name: {key: next(found) if isinstance(value, Path) else value for key, value in source.items()}
                       for name, source in zip(names, sources, strict=True)}
        outdated = set().union(*(_outdated(output, self.inputs, args.fresh) for output in outputs))
        mine = range(rank, len(names), world)
        self.todo = [index for index in mine if self.fresh or names[index] in outdated]      # indices in list order
        part = 'all' if world == 1 else f'process {rank} of {world}: its'
        done = (f' images, {len(mine) - len(self.todo)} of them finished ({outputs[0].folder})' if self.todo else
                f' images are finished ({outputs[0].folder}); --fresh regenerates them')
        print(f'{part} {len(mine)}{done}', flush=True)
        if not (self.todo or args.dry_run):
            digests.save()

    def files(self, name: str) -> list[tuple[Path, str]]:
        """An image's file in each folder, with its origin as text."""
        return [(output.path(name), origin_text({**output.origin, OWN: self.inputs[name]})) for output in self.outputs]

    def begin(self, device: torch.device) -> None:
        """Record what makes the files from here on; with --fresh, remove the old ones."""
        self.digests.save()         # not earlier: a refused run leaves nothing
        if self.fresh:
            self.remove(self.names[index] for index in self.todo)
        for output in self.outputs if ranks.is_first() else ():
            write_made_by(output.folder, self.args, device, output.origin)

    def remove(self, names: Iterable[str]) -> None:
        """Remove the stage's files of some images."""
        for path in [output.path(name) for name in names for output in self.outputs]:
            if not _is_foreign(read_state(path)):
                path.unlink(missing_ok=True)


def refuse_unknown(paths: Iterable[Path]) -> None:
    """Make sure that files to be written are absent, empty, or an output of a stage; else raise ValueError."""
    if foreign := [path for path in paths if _is_foreign(read_state(path))]:
        raise ValueError(f'{foreign[0]}{and_more(foreign)} was not made by this stage and is not overwritten; move it '
                         'away, or choose another folder')


def _outdated(output: Output, inputs: Mapping[str, Mapping], fresh: bool) -> set[str]:
    """Names without an intact file of their origin in a folder."""
    outdated, foreign, changed, other = set(), [], 0, []
    for name, own in inputs.items():
        state = read_state(output.path(name))
        if state.intact and state.origin == {**output.origin, OWN: own}:
            continue
        outdated.add(name)
        if _is_foreign(state):
            foreign.append(output.path(name))
        elif state.origin:
            changed += 1
            if words := difference({**state.origin, OWN: {}}, {**output.origin, OWN: {}}):
                other.append(words)
    refuse_unknown(foreign)
    if other and not fresh:
        raise ValueError(f'{len(other)} of {len(inputs)} files in {output.folder} were made with other settings '
                         f'({other[0]}); {NEW_OR_BOTH.format("these")}')
    if changed and not fresh:
        print(f'{changed} files in {output.folder} are out of date and will be regenerated', flush=True)
    return outdated


def _is_foreign(state: State) -> bool:
    """Whether a file was not made by a stage."""
    return not (state.empty or state.origin and {'settings', OWN} <= state.origin.keys())
