"""Scores of several runs: mean and deviation over groups of runs, paired differences, and how their settings differ."""
import json
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from lib.files.jsonfile import read_json
from lib.run.record import read_scores
from lib.run.table import Table, score_tables

WILD = re.compile(r'\[.+?\]|[*?]')
RECORDED = {'settings?': {}, 'inputs?': {}}             # in env.json and made_by.json
INPUTS = ('images', 'image_labels', 'weights')          # which are no output of the run itself
MACHINE = ('git', 'python', 'torch', 'cpu', 'arithmetic', 'threads', 'gpu', 'processes')


class Comparison(NamedTuple):
    """What several runs have in common and how they differ."""

    groups: list[str]           # a line on each group of runs
    tables: list[Table]         # one per protocol: 'mean ± deviation' by group, and of the paired differences
    settings: list[str]         # a line on each recorded setting that differs

    def text(self) -> str:
        """For the terminal."""
        tables = [line for table in self.tables for line in (table.title, '', *table.lines(), '')]
        return '\n'.join([*self.groups, '', *tables, *self.settings])


def are_several(words: Sequence[str]) -> bool:
    """Whether the words of --run name more than a single run."""
    return len(words) > 1 or bool(WILD.search(words[0]))


def compare(exp: Path, words: Sequence[str]) -> Comparison:
    """The newest scores of the runs in a folder that match names and patterns.

    Each pattern is a group, and all plain names form one group. Groups are compared with the first one, run by run:
    runs for which the wildcards of both patterns match the same text, such as a seed, are paired; otherwise in order,
    if the groups have the same size. The deviation is that of a sample (n - 1).

    Raises:
        ValueError: if a name or pattern has no run with scores.
    """
    groups = _find_groups(exp, words)
    labels = {chr(ord('A') + index): runs for index, runs in enumerate(groups.values())}
    pairs = {f'{label} - A': found for label, runs in labels.items()
             if label != 'A' and (found := _pairs(runs, labels['A']))}
    lines = [f'{label}: {name} ({len(runs)}: {", ".join(runs.values())})'
             for name, (label, runs) in zip(groups, labels.items())]
    lines += [f'{name}: {", ".join(" - ".join(pair) for pair in found)}' for name, found in pairs.items()]
    members = {label: [*runs.values()] for label, runs in labels.items()}
    records = {run: read_scores(exp / run / 'scores.json') for runs in members.values() for run in runs}
    return Comparison(lines, _tables(records, members, pairs),
                      _differences({run: _recorded(exp / run, records[run]) for run in records}, members))


def _find_groups(exp: Path, words: Sequence[str]) -> dict[str, dict[str, str]]:
    """Runs by group and by what the wildcards of its pattern match."""
    scored = sorted((path.parent.name for path in exp.glob('*/scores.json')), key=lambda run: (len(run), run))
    names, groups = ', '.join(word for word in words if not WILD.search(word)), {}
    for word in words:
        literal = WILD.split(word)              # one part of a plain name
        wild = slice(len(literal[0]), -len(literal[-1]) or None) if literal[1:] else slice(None)
        found = {run[wild]: run for run in scored if fnmatchcase(run, word)}
        if not found:
            raise ValueError(f'--run {word}: {exp} has no run of this name with scores (runs with scores: '
                             f'{", ".join(scored[:10]) or "none"}); score it with eval.py')
        groups.setdefault(word if literal[1:] else names, {}).update(found)
    return groups


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
        for title, rows, lines, _ in score_tables(of_run):
            for row, cells in rows.items():
                for column, value in cells.items():
                    values.setdefault(title, {}).setdefault(f'{column}: {row}', {})[run] = value
            for line in lines:
                notes.setdefault(title, {}).setdefault(line, []).append(run)
    return [Table(title,
                  {row: {**{label: _spread([found.get(run) for run in runs]) for label, runs in members.items()},
                         **{name: _gain([(found.get(run), found.get(base)) for run, base in both])
                            for name, both in pairs.items()}} for row, found in rows.items()},
                  [line if len(runs) == len(records) else f'{", ".join(runs)}: {line}'
                   for line, runs in notes[title].items()]) for title, rows in values.items()]


def _spread(values: Sequence[float | None], sign: str = '') -> str:
    """'mean ± deviation', or the mean alone if there is only one value; with their number if some are missing."""
    known = [value for value in values if value is not None]
    if not known:
        return '-'
    text = f'{mean(known):{sign}.2f}' + (f' ± {stdev(known):.2f}' if known[1:] else '')
    return text if len(known) == len(values) else f'{text} ({len(known)} of {len(values)})'


def _gain(pairs: Sequence[tuple[float | None, float | None]]) -> str:
    gains = [one - base for one, base in pairs if None not in (one, base)]
    return f'{_spread(gains, "+")} ({sum(gain > 0 for gain in gains)} of {len(gains)} positive)' if gains else '-'


def _recorded(folder: Path, scores: Sequence[Mapping]) -> dict[str, str]:
    """What a run has recorded of its settings, inputs, code and machine, as text."""
    facts, machine = {}, {}
    for path in [*folder.glob('*/env.json'), *sorted(folder.glob('**/made_by.json'))]:
        stage, content = path.parent.relative_to(folder), read_json(path, RECORDED)
        settings, inputs = content.get('settings', {}), content.get('inputs', {})
        facts |= {f'{stage} --{key.replace("_", "-")}': json.dumps(value)[:60] for key, value in settings.items()}
        facts |= {f'{stage} {key} (digest)': str(inputs[key])[:8] for key in INPUTS if key in inputs}
        for key in filter(content.__contains__, MACHINE):
            machine.setdefault(key, {})[str(content[key])] = None
    facts |= {key: ' and '.join(values) for key, values in machine.items()}
    return facts | {f'masks of {record["split"]} (digest)': str(record['inputs'].get('ground_truths'))[:8]
                    for record in scores if 'inputs' in record}


def _differences(facts: Mapping[str, Mapping[str, str]], members: Mapping[str, list[str]]) -> list[str]:
    """A line on each fact that is not the same in all runs that have it."""
    lines = []
    for name in dict.fromkeys(name for of_run in facts.values() for name in of_run):
        values = {label: dict.fromkeys(facts[run][name] for run in runs if name in facts[run])
                  for label, runs in members.items()}
        if len({value for of_group in values.values() for value in of_group}) > 1:
            lines.append(f'  {name}: ' + '; '.join(f'{label} {", ".join(of_group) or "-"}'
                                                   for label, of_group in values.items()))
    return ['What differs between the runs:', *lines] if lines else ['No recorded setting differs.']
