"""Scores of several runs: mean and deviation over groups of runs, paired differences, and how their settings differ."""
import json
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from statistics import mean, stdev
from string import ascii_uppercase
from typing import NamedTuple

from lib.files.jsonfile import read_json
from lib.run.record import read_scores
from lib.run.table import Table, newest, score_tables, table_lines

WILD = re.compile(r'\[.+?\]|[*?]')
RECORDED = {'settings?': {}, 'inputs?': {}}             # in env.json and made_by.json
INPUTS = ('images', 'image_labels', 'weights')          # which are no output of the run itself
MACHINE = ('git', 'python', 'torch', 'cpu', 'arithmetic', 'threads', 'gpu', 'processes')


class Comparison(NamedTuple):
    """What several runs have in common and how they differ."""

    groups: list[str]           # a line on each group of runs
    tables: list[Table]         # one per protocol; rows of 'mean ± deviation' by group and of paired differences
    settings: list[str]         # a line on each recorded setting that differs

    def text(self) -> str:
        """For the terminal."""
        tables = ['\n'.join([table.title, '', *table_lines(table)]) for table in self.tables]
        return '\n\n'.join(['\n'.join(self.groups), *tables, '\n'.join(self.settings)])


def are_several(words: Sequence[str]) -> bool:
    """Whether the words of --run name more than a single run."""
    return len(words) > 1 or bool(WILD.search(words[0]))


def compare(exp: Path, words: Sequence[str]) -> Comparison:
    """The newest scores of the runs that names and patterns in a folder mean.

    Each pattern is a group, and the plain names together are one. Groups are compared with the first one, run by run:
    those of which the wildcards of both patterns match the same, such as a seed, or else in order if the groups are of
    one size. The deviation is that of a sample (n - 1).

    Raises:
        ValueError: if a name or pattern has no run with scores.
    """
    groups = dict(zip(ascii_uppercase, _find_groups(exp, words).items()))
    members = {label: list(runs.values()) for label, (_, runs) in groups.items()}
    (first, (_, base)), *others = groups.items()
    pairs = {f'{label} - {first}': found for label, (_, runs) in others if (found := _pairs(runs, base))}
    runs = list(dict.fromkeys(run for part in members.values() for run in part))
    lines = [f'{label}: {name} ({len(part)}: {", ".join(part.values())})' for label, (name, part) in groups.items()]
    lines += [f'{name}: {", ".join(" - ".join(pair) for pair in found)}' for name, found in pairs.items()]
    return Comparison(lines, _tables({run: read_scores(exp / run / 'scores.json') for run in runs}, members, pairs),
                      _differences({run: _recorded(exp / run) for run in runs}, members))


def _find_groups(exp: Path, words: Sequence[str]) -> dict[str, dict[str, str]]:
    """Runs by group and by what the wildcards of its pattern match."""
    scored = sorted((path.parent.name for path in exp.glob('*/scores.json')), key=_natural)
    names, groups = ', '.join(word for word in words if not WILD.search(word)), {}
    for word in words:
        literal = WILD.split(word)
        found = {run[len(literal[0]):len(run) - len(literal[-1])] if literal[1:] else run: run for run in scored
                 if (fnmatchcase(run, word) if literal[1:] else run == word)}
        if not found:
            known = ', '.join(islice(scored, 10)) or 'none'
            raise ValueError(f'--run {word}: {exp} has no run of this name with scores (there are: {known}); make some '
                             'with eval.py')
        groups.setdefault(word if literal[1:] else names, {}).update(found)
    if len(groups) > len(ascii_uppercase):
        raise ValueError(f'--run: {len(groups)} groups of runs do not fit in a table; name fewer')
    return groups


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts seed-2 before seed-10."""
    return [(int(part), '') if part.isdecimal() else (-1, part) for part in re.split(r'(\d+)', name)]


def _pairs(runs: Mapping[str, str], base: Mapping[str, str]) -> list[tuple[str, str]]:
    """Runs of two groups that are compared with each other."""
    if common := [key for key in runs if key in base]:
        return [(runs[key], base[key]) for key in common]
    return [*zip(runs.values(), base.values())] if len(runs) == len(base) else []


def _tables(records: Mapping[str, list[dict]], members: Mapping[str, list[str]],
            pairs: Mapping[str, list[tuple[str, str]]]) -> list[Table]:
    """A table per protocol with a row per score, and a column per group and per difference."""
    values, notes = {}, {}
    for run, of_run in records.items():
        for table in score_tables(of_run):
            for row, cells in table.rows.items():
                for column, value in cells.items():
                    values.setdefault(table.title, {}).setdefault(f'{column}: {row}', {})[run] = value
            for note in table.notes:
                notes.setdefault(table.title, {}).setdefault(note, []).append(run)
    tables = []
    for title, rows in values.items():
        cells = {}
        for row, found in rows.items():
            found = {run: value for run, value in found.items() if value is not None}
            cells[row] = {label: _spread([found[run] for run in runs if run in found], len(runs))
                          for label, runs in members.items()}
            for name, both in pairs.items():
                gains = [found[run] - found[base] for run, base in both if run in found and base in found]
                above = f' ({sum(gain > 0 for gain in gains)} of {len(gains)} above)' if gains else ''
                cells[row][name] = _spread(gains, len(gains), '+') + above
        lines = [note if len(runs) == len(records) else f'{", ".join(runs)}: {note}'
                 for note, runs in notes[title].items()]
        tables.append(Table(title, cells, lines + _foreign(records)))
    return tables


def _foreign(records: Mapping[str, list[dict]]) -> list[str]:
    """A line for each split of which the runs were scored on different masks."""
    truths = {}
    for of_run in records.values():
        for record in (record for part in newest(of_run).values() for record in part):
            truths.setdefault(record['split'], set()).add(record.get('inputs', {}).get('ground_truths'))
    return [f'{split}: the scores are of different images or masks and cannot be compared'
            for split, digests in truths.items() if len(digests) > 1]


def _spread(values: Sequence[float], count: int, sign: str = '') -> str:
    """'mean ± deviation'; the mean alone of one value; how many values there are if not so many as runs."""
    if not values:
        return '-'
    text = f'{mean(values):{sign}.2f}' + (f' ± {stdev(values):.2f}' if len(values) > 1 else '')
    return text if len(values) == count else f'{text} ({len(values)} of {count})'


def _recorded(folder: Path) -> dict[str, str]:
    """What a run's stages have recorded of their settings, inputs, code and machine, as text."""
    facts, machine = {}, {}
    for path in [*folder.glob('*/env.json'), *sorted(folder.glob('**/made_by.json'))]:
        stage, content = path.parent.relative_to(folder), read_json(path, RECORDED)
        facts |= {f'{stage} --{key.replace("_", "-")}': json.dumps(value)[:60]
                  for key, value in content.get('settings', {}).items()}
        inputs = content.get('inputs', {})
        facts |= {f'{stage} {key} (digest)': str(inputs[key])[:8] for key in INPUTS if key in inputs}
        for key in MACHINE:
            machine.setdefault(key, {})[str(content.get(key))] = None
    return facts | {key: ' and '.join(values) for key, values in machine.items()}


def _differences(facts: Mapping[str, Mapping[str, str]], members: Mapping[str, list[str]]) -> list[str]:
    """A line on each fact that is not the same in all runs that have it."""
    lines = []
    for name in dict.fromkeys(name for of_run in facts.values() for name in of_run):
        if len({of_run[name] for of_run in facts.values() if name in of_run}) > 1:
            values = {label: dict.fromkeys(facts[run][name] for run in runs if name in facts[run])
                      for label, runs in members.items()}
            parts = [f'{label} {", ".join(of_group) or "-"}' for label, of_group in values.items()]
            lines.append(f'  {name}: {"; ".join(parts)}')
    return ['Settings that differ:', *lines] if lines else ['No recorded setting differs.']
