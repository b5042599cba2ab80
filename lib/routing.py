"""Pass the flags of a driver to its commands: to every command that has the flag, or only to those of one stage.

--scales 1 is passed to all that have --scales, --infer_seg:scales 1 to infer_seg. Values are checked by the parser of
each script.
"""
import argparse
import importlib
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from lib.run.options import resolve

ONE_STAGE = ('--checkpoint', '--labels', '--out', '--split', '--unpickle')      # mean a different file in each stage
NEVER = ('--dataset', '--images', '--table', '--dry-run', '--help')             # reserved for the drivers


class Flag(NamedTuple):
    """A flag with its values; tool: the only one that gets it, '' for all that have it."""

    tool: str
    name: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f'--{self.tool}:{self.name[2:]}' if self.tool else self.name


@dataclass
class Tool:
    """A script that commands run; its name is the prefix of flags for it alone."""

    name: str
    module: str
    network: bool = False           # whether it runs a network, in as many processes as the user says
    stage: str | None = ''          # its column in the table of settings; None if it uses no data set

    @property
    def words(self) -> list[str]:
        """The arguments with which Python runs it."""
        return ['-m', self.module.removesuffix('.__main__')] if '.' in self.module else [f'{self.module}.py']

    def make_parser(self) -> argparse.ArgumentParser:
        """A new parser of its flags."""
        return importlib.import_module(self.module).make_parser()

    @cached_property
    def flags(self) -> dict[str, argparse.Action]:
        """Its flags by every spelling."""
        return {word: action for action in self.make_parser()._actions for word in action.option_strings
                if word.startswith('--')}


@dataclass
class Command:
    """One command of a driver: a tool with the flags that the driver sets and those that it is given."""

    stage: str
    tool: Tool
    fixed: Sequence[Flag]
    given: list[Flag] = field(default_factory=list)

    def has(self, flag: Flag) -> bool:
        """Whether a flag is for this command."""
        return flag.name in self.tool.flags and flag.tool in ('', self.tool.name)

    @property
    def flag_words(self) -> list[str]:
        """The words of its flags; if several set the same value, the last one."""
        words = {self.tool.flags[flag.name].dest: [flag.name, *flag.values] for flag in (*self.fixed, *self.given)}
        return [word for flag in words.values() for word in flag]

    def resolve(self, spec, processes: int = 1) -> argparse.Namespace:
        """Its settings for the data set that `spec` describes.

        Raises:
            ValueError: if a value is wrong, or this number of processes cannot share a batch equally.
        """
        parser = self.tool.make_parser()
        try:
            if self.tool.stage is None:
                return parser.parse_args(self.flag_words)
            args, _ = resolve(parser, self.flag_words, self.tool.stage, lambda *_: spec)
            for name in ('batch_size', 'whole_batch_size'):
                if (size := getattr(args, name, processes)) % processes:
                    raise ValueError(f'--{name.replace("_", "-")} {size} cannot be shared by {processes} processes; '
                                     f'use a multiple of {processes}')
            return args
        except ValueError as error:
            raise ValueError(f'{self.tool.name}: {error}') from None


def read_flags(words: Sequence[str]) -> list[Flag]:
    """The flags of a command line, each with the words up to the next flag.

    Raises:
        ValueError: if the first word is not a flag.
    """
    flags = []
    for word in words:
        if word.startswith('--') and word != '--':
            name, equals, value = word.partition('=')
            tool, _, name = name[2:].rpartition(':')
            flags.append(Flag(tool.replace('-', '_'), f'--{name}', (value,) if equals else ()))
        elif flags and word != '--':
            flags[-1] = flags[-1]._replace(values=(*flags[-1].values, word))
        else:
            raise ValueError(f'{word!r} is not a flag; --help lists them')
    return flags


def give(flags: Sequence[Flag], commands: Sequence[Command], caller: Path) -> None:
    """Give each of the user's flags to the commands that have it; relative paths are relative to `caller`.

    Raises:
        ValueError: if no command has a flag, if the driver sets it, or if it means a different file in each.
    """
    for flag in flags:
        takers = [command for command in commands if command.has(flag)]
        names = list(dict.fromkeys(command.tool.name for command in takers or commands))
        if not takers:
            raise ValueError(f'no selected stage has the flag {flag} (selected: {", ".join(names)})')
        if flag.name in ONE_STAGE and len(names) > 1:
            raise ValueError(f'{flag} differs between {", ".join(names)}; name the stage: '
                             f'--{names[0]}:{flag.name[2:]}')
        for command in takers:
            action = command.tool.flags[flag.name]
            fixed = {command.tool.flags[own.name].dest for own in command.fixed}
            if flag.name in NEVER or action.dest in fixed and action.nargs != 0:
                raise ValueError(f'{flag} is set by the driver; to change it, run {" ".join(command.tool.words)}')
            values = tuple(_from_caller(value, action, caller) for value in flag.values)
            command.given.append(flag._replace(values=values))


def _from_caller(value: str, action: argparse.Action, caller: Path) -> str:
    """A path relative to the caller's folder; --weights also accepts names."""
    is_path = action.type is Path or action.dest == 'weights' and (caller / value).is_file()
    return str(caller / value) if is_path and caller != Path.cwd() else value


def show_settings(commands: Sequence[Command], settings: Sequence[argparse.Namespace]) -> None:
    """Print the settings of each tool."""
    for tool, args in {command.tool.name: (command.tool, args) for command, args in zip(commands, settings)}.values():
        names = dict.fromkeys(action.dest for action in tool.flags.values() if hasattr(args, action.dest))
        values = [value if isinstance(value, list | tuple) else [value] for value in map(vars(args).get, names)]
        shown = ', '.join(' '.join(map(str, (name.replace('_', '-'), *value))) for name, value in zip(names, values))
        print(f'\n{tool.name}: {" ".join(tool.words)}')
        print(textwrap.fill(shown, 118, initial_indent='  ', subsequent_indent='  ', break_on_hyphens=False))
