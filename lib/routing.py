"""Which flag of a driver goes to which of its commands: to every one that has it, or to those of one stage alone.

--scales 1 goes to all that have --scales, --infer_seg:scales 1 to infer_seg. What a flag means, and whether a value is
right, each script's own parser says; nothing is known here by name but what a driver sets itself.
"""
import argparse
import difflib
import importlib
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from lib.run.options import plain_flag, resolve
from lib.run.settings import row_of

# Another file in each stage: given to one of them. And what drivers do by themselves.
ONE_STAGE = ('--checkpoint', '--labels', '--out', '--split', '--unpickle')
NEVER = ('--dataset', '--images', '--table', '--dry-run', '--help')
PER_COMMAND = ('help', 'dry_run', 'split', 'what', 'table')     # no setting of a tool


class Flag(NamedTuple):
    """A flag as it was given: for one tool or, '', for all that have it; with its values."""

    tool: str
    name: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f'--{self.tool}:{self.name[2:]}' if self.tool else self.name


@dataclass
class Tool:
    """A script that commands run; a flag can be given to it alone by its name."""

    name: str
    module: str
    network: bool = False           # runs one, in as many processes as the user says
    stage: str | None = ''          # its column in the table of settings; None where it asks no data set

    @property
    def words(self) -> list[str]:
        """What Python is to be called with."""
        return ['-m', self.module.removesuffix('.__main__')] if '.' in self.module else [f'{self.module}.py']

    def make_parser(self) -> argparse.ArgumentParser:
        """A new parser of its flags, which raises ValueError where argparse would end the process."""
        parser = importlib.import_module(self.module).make_parser()
        parser.error = self._refuse
        return parser

    @cached_property
    def flags(self) -> dict[str, argparse.Action]:
        """Its flags by every spelling."""
        return {word: action for action in self.make_parser()._actions for word in action.option_strings
                if word.startswith('--')}

    def _refuse(self, message: str) -> None:
        raise ValueError(f'{self.name}: {message}')


@dataclass
class Command:
    """One command of a driver: a tool with flags, by the name of what each sets. `fixed` are those of the driver."""

    stage: str
    tool: Tool
    fixed: Sequence[Flag] = ()
    given: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self):
        for flag in self.fixed:
            self.add(flag)

    def add(self, flag: Flag) -> None:
        """Take a flag that the tool has; later ones win."""
        self.given[self.tool.flags[flag.name].dest] = [flag.name, *flag.values]

    def has(self, flag: Flag) -> bool:
        """Whether a flag is for this command."""
        return flag.name in self.tool.flags and flag.tool in ('', self.tool.name)

    @property
    def words(self) -> list[str]:
        """Its words for Python."""
        return [*self.tool.words, *self.flag_words]

    @property
    def flag_words(self) -> list[str]:
        """The flags alone."""
        return [word for words in self.given.values() for word in words]

    def resolve(self, spec) -> argparse.Namespace:
        """Its settings, on the data set that `spec` describes.

        Raises:
            ValueError: if a value is wrong.
        """
        if self.tool.stage is None:
            return self.tool.make_parser().parse_args(self.flag_words)
        return resolve(self.tool.make_parser(), self.flag_words, self.tool.stage, lambda *_: spec)[0]


def read_flags(words: Sequence[str]) -> list[Flag]:
    """Words of a command line as flags, each with the words up to the next.

    Raises:
        ValueError: if it does not begin with a flag.
    """
    flags = []
    for word in words:
        if word.startswith('--') and word != '--':
            name, equals, value = word.partition('=')
            tool, _, name = name[2:].rpartition(':')
            flags.append(Flag(tool.replace('-', '_'), plain_flag(f'--{name}'), (value,) if equals else ()))
        elif flags and word != '--':
            flags[-1] = flags[-1]._replace(values=(*flags[-1].values, word))
        else:
            raise ValueError(f'{word!r} is no flag; --help lists them')
    return flags


def give(flags: Sequence[Flag], commands: Sequence[Command]) -> None:
    """Give each flag to the commands that have it, where there are any."""
    for flag in flags:
        for command in commands:
            if command.has(flag):
                command.add(flag)


def give_all(flags: Sequence[Flag], commands: Sequence[Command], tools: Sequence[Tool], caller: Path) -> None:
    """Give each flag of the user to the commands that have it; relative paths are meant in `caller`.

    Args:
        flags: as given.
        commands: those that will run.
        tools: all that the driver has.
        caller: folder in which the driver was called.

    Raises:
        ValueError: if no command has a flag, or it is not the user's to give, or means something else in each.
    """
    for flag in flags:
        takers = [command for command in commands if command.has(flag)]
        if not takers:
            raise ValueError(_unknown(flag, commands, tools))
        names = list(dict.fromkeys(command.tool.name for command in takers))
        if flag.name in ONE_STAGE and len(names) > 1:
            raise ValueError(f'{flag} is another one in each of {", ".join(names)}; say which: '
                             f'--{names[0]}:{flag.name[2:]}')
        for command in takers:
            action = command.tool.flags[flag.name]
            fixed = {command.tool.flags[own.name].dest for own in command.fixed}
            if flag.name in NEVER or action.dest in fixed and action.nargs != 0:
                raise ValueError(f'{flag} is set by the driver itself; call {" ".join(command.tool.words)} for another')
            command.add(flag._replace(values=tuple(_meant(value, action, caller) for value in flag.values)))
    for command in commands:
        _check(command, commands, flags)


def _unknown(flag: Flag, commands: Sequence[Command], tools: Sequence[Tool]) -> str:
    chosen = list(dict.fromkeys(command.tool.name for command in commands))
    if flag.tool and flag.tool not in {tool.name for tool in tools}:
        return f'{flag}: {flag.tool} is not one of {", ".join(tool.name for tool in tools)}'
    if flag.tool and flag.tool not in chosen:
        return f'{flag}: {flag.tool} is not among what runs: {", ".join(chosen)}'
    others = [tool.name for tool in tools if flag.name in tool.flags and tool.name not in chosen]
    known = {word for command in commands if flag.tool in ('', command.tool.name) for word in command.tool.flags}
    close = difflib.get_close_matches(flag.name, sorted(known), 3)
    hint = f'; it is a flag of {", ".join(others)}' if others and not flag.tool else \
        f'; did you mean {" or ".join(close)}?' if close else ''
    return f'no chosen stage has the flag {flag} ({flag.tool or ", ".join(chosen)}){hint}'


def _meant(value: str, action: argparse.Action, caller: Path) -> str:
    """A relative path as it is meant where the driver was called; --weights also takes names."""
    if action.type is Path or action.dest == 'weights' and (caller / value).is_file():
        return str(caller / value) if caller != Path.cwd() else value
    return value


def _check(command: Command, commands: Sequence[Command], flags: Sequence[Flag]) -> None:
    """Have the tool's parser look at all values."""
    try:
        command.tool.make_parser().parse_args(command.flag_words)
    except ValueError as error:
        named = [flag for flag in flags if not flag.tool and command.has(flag) and f'{flag.name}:' in str(error)]
        shared = named and any(other.has(named[0]) for other in commands if other.tool != command.tool)
        hint = f'; --{command.tool.name}:{named[0].name[2:]} is for this stage alone' if shared else ''
        raise ValueError(f'{error}{hint}') from None


def settings_text(command: Command, args: argparse.Namespace, preset: str) -> str:
    """The settings of a command by where they come from: flags, the data set's preset, or the script's defaults."""
    preset_names = set(row_of(command.tool.stage, preset) if command.tool.stage else ()) - set(command.given)
    actions = {action.dest: action for action in command.tool.flags.values() if action.dest not in PER_COMMAND}
    rows = {'flags': set(command.given), f'preset {preset}': preset_names,
            'defaults': set(actions) - set(command.given) - preset_names}
    width, lines = max(60, shutil.get_terminal_size((120, 0)).columns - 2), []
    for title, names in rows.items():
        parts = [f'{name.replace("_", "-")} {_plain(getattr(args, name))}' for name in actions if name in names]
        lines += textwrap.wrap(f'  {title}: {", ".join(parts)}', width, break_long_words=False, break_on_hyphens=False,
                               subsequent_indent='    ') if parts else []
    return '\n'.join(lines)


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ' '.join(map(str, value))
    return 'not given' if value is None else str(value)


def add_help(parser: argparse.ArgumentParser, tools: Sequence[Tool]) -> None:
    """Add the flags of the tools to a parser that only prints its help: a group for all that the same tools have."""
    owners = {}
    for tool in tools:
        for action in dict.fromkeys(tool.flags.values()):
            if action.help != argparse.SUPPRESS and action.option_strings[0] not in parser._option_string_actions:
                owners.setdefault(action.option_strings[0], (action, []))[1].append(tool.name)
    groups = {}
    for name, (action, names) in owners.items():
        title = ', '.join(names)
        if title not in groups:
            groups[title] = parser.add_argument_group('all stages' if len(names) > len(tools) - 2 else title)
        kind = {'action': 'store_true'} if action.nargs == 0 else {
            'nargs': action.nargs, 'metavar': action.metavar, 'choices': action.choices}
        spellings = [word for word in action.option_strings if word == name or word.startswith('--no-')]
        groups[title].add_argument(*spellings, help=action.help, **kind)
