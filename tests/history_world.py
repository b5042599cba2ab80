"""A tiny data set, a run on it, and how a command there is compared with a clean run on the present inputs."""
import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib.data.toy_draw import CLASSES, draw
from tests.forked import Ended, Forks

SPLITS = {'train': 4, 'val': 2}
IMAGE_BYTES, MASK_BYTES = 6000, 2500      # sizes of all images and masks
# Files that hold times, versions or process numbers, and last.pth, which is not made again once a network is trained.
NOT_COMPARED = re.compile(r'(^|/)(log\.txt|env\.json|args\.json|made_by\.json|events\.out\..*|last\.pth|previous\.pth'
                          r'|next\.pth|corrupt\.pth|\.digests\.json|\.lock-\d+|\..*\.(tmp|lock))$')
RUN_ONLY = {'--fresh': 1, '--save-every': 2, '--accumulate': 2}     # words of flags that only say how to run
# Why a command may be refused that a clean run would do: something lies there that it does not replace unasked.
REFUSALS = re.compile(r'were made with other settings|was trained with other settings or inputs'
                      r'|belongs to a run with other settings or inputs')
# The same in spite of --fresh.
HELD_BACK = re.compile(r'was not made by this stage|does not say what it was trained on|is corrupt|not a checkpoint'
                       r'|was made from another version of its image')
BAR = re.compile(r'\d+%\|')


@dataclass(frozen=True)
class Command:
    """A command line: Path words are places below the root; `reads` and `writes` are too."""

    stage: str
    script: str
    words: tuple
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f'{self.script}.py {" ".join(map(str, self.words))}'

    @property
    def trains(self) -> bool:
        return self.stage.startswith(('train', 'pretrain'))


@dataclass
class Clean:
    """What a command does in a folder that holds its inputs alone."""

    status: int
    said: str
    files: dict[str, bytes]


@dataclass
class World:
    """The folder of a history: data, photos, weights.pth, exp and out."""

    forks: Forks
    base: Path
    known: dict[str, Clean]         # clean results by digest of command and inputs
    counts: Counter = field(default_factory=Counter)
    steps: list[str] = field(default_factory=list)
    shared: set[str] = field(default_factory=set)       # stages whose network is equal but for rounding
    number: int = 0

    def __post_init__(self):
        self.root = self.base / 'place-0'
        paths = tree(self.root, ('data', 'photos', 'weights.pth'))
        self.user = {path: (self.root / path).read_bytes() for path in paths}

    # What a user does.

    def note(self, text: str) -> None:
        self.steps.append(text)

    def write(self, path: str, content: bytes, keep_time: bool = False) -> None:
        """Write a user's file, perhaps with the time of the one that it replaces."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.stat() if file.exists() else None
        file.write_bytes(content)
        if keep_time and before:
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.user[path] = content

    def description(self) -> dict:
        return json.loads(self.user['data/dataset.json'])

    def describe(self, **entries) -> None:
        self.write('data/dataset.json', json.dumps({**self.description(), **entries}).encode())

    def labels(self) -> dict[str, list[str]]:
        lines = [line.split('\t') for line in self.user['data/lists/labels.txt'].decode().splitlines()]
        return {name: classes for name, *classes in lines}

    def label(self, labels: dict[str, list[str]]) -> None:
        text = ''.join('\t'.join([name, *classes]) + '\n' for name, classes in labels.items())
        self.write('data/lists/labels.txt', text.encode())

    def move(self) -> None:
        self.number += 1
        target = self.base / f'place-{self.number}'
        self.root.rename(target)
        self.root = target

    def outputs(self) -> list[str]:
        """Places of all files that stages made and that a user may take for results."""
        return [path for path in tree(self.root, ('exp', 'out')) if path not in self.user
                and not re.search(r'(log\.txt|metrics\.jsonl|\.json|/events\.[^/]*|/\.[^/]*)$', path)]

    # What a command does.

    def run(self, command: Command, *, fresh: bool = False, processes: int = 1, launcher: bool = False,
            kill_at: int | None = None, absolute: bool = False) -> int:
        """Run a command and check what became of all files; its exit status."""
        command = Command(command.stage, command.script, (*command.words, *(['--fresh'] if fresh else [])),
                          command.reads, command.writes)
        clean = self.clean(command)
        before = contents(self.root)
        words = [str(self.root / word if absolute else word) if isinstance(word, Path) else word
                 for word in command.words]
        ended = self.forks.run(command.script, words, self.root, processes=processes, launcher=launcher,
                               kill_at=kill_at)
        after = contents(self.root)
        how = f', killed at file operation {kill_at}' if kill_at else ''
        how += f', {processes} processes of {"torchrun" if launcher else "srun"}' if processes > 1 else ''
        line = next((line for line in ended.errors if line.startswith('error')), '')
        self.note(f'{command}{" (absolute)" if absolute else ""}{how} -> {ended.status} {line}')
        if launcher or '--accumulate' in command.words:
            self.shared.add(command.stage)      # equal but for rounding
        self.check_user(after)
        self.count(command, ended, clean)
        if ended.status == -9:
            self.check_others(command, before, after, ())
        elif ended.status == 0:
            self.check_done(command, clean, ended, before, after)
            if fresh and not launcher and '--accumulate' not in command.words:
                self.shared.discard(command.stage)
        else:
            self.check_refused(command, clean, ended, before, after, fresh, launcher)
        return ended.status

    def clean(self, command: Command) -> Clean:
        """The command alone with its inputs as they are, without flags that only say how to run."""
        words, skip = [], 0
        for word in command.words:
            skip = skip or RUN_ONLY.get(word, 0)
            if not skip:
                words.append(str(word))
            skip = max(0, skip - 1)
        inputs = [path for path in tree(self.root, ('data', 'photos', *command.reads)) if '/.' not in path]
        digest = hashlib.sha256(json.dumps([command.script, words]).encode())
        for path in inputs:
            content = (self.root / path).read_bytes()
            digest.update(f'{path} {len(content)} '.encode() + content)
        key = digest.hexdigest()
        if key not in self.known:
            self.known[key] = self.make_clean(command, words, inputs)
        return self.known[key]

    def make_clean(self, command: Command, words: list[str], inputs: list[str]) -> Clean:
        folder = self.base / 'clean'
        for path in inputs:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.root / path, folder / path)
        before = contents(folder)
        ended = self.forks.run(command.script, words, folder)
        after = contents(folder)
        shutil.rmtree(folder)
        changed = [path for path, content in before.items()
                   if after.get(path) != content and not NOT_COMPARED.search(path)]
        self.fail_if(changed, f'a clean run of {command} changed its inputs: {changed}')
        self.check_last_words(ended, f'a clean run of {command}')
        return Clean(ended.status, ended.out, {path: content for path, content in after.items()
                                               if path not in before and not NOT_COMPARED.search(path)})

    # What must hold.

    def fail_if(self, wrong, problem: str) -> None:
        if wrong:
            steps = '\n'.join(f'{number:3} {step}' for number, step in enumerate(self.steps, 1))
            raise AssertionError(f'{problem}\n{steps}')

    def check_last_words(self, ended: Ended, what: str) -> None:
        """A command that failed said one line; progress bars do not count."""
        lines = [line for line in ended.errors if line.strip() and not BAR.search(line)]
        if ended.status > 0:
            wrong = ended.status not in (2, 75) or len(set(lines)) != 1 or not lines[0].startswith('error: ')
            self.fail_if(wrong, f'{what} ended with {ended.status} and said {lines}')
        self.fail_if(ended.status < 0, f'{what} was killed by signal {-ended.status}')

    def check_user(self, after: dict[str, bytes]) -> None:
        wrong = [path for path, content in self.user.items() if after.get(path) != content]
        self.fail_if(wrong, f"files of the user's were lost or changed: {wrong}")

    def check_others(self, command: Command, before: dict, after: dict, made: Iterable[str]) -> None:
        """Nothing but the files that the command makes was lost or changed."""
        made = set(made)
        wrong = [path for path, content in before.items() if after.get(path) != content and path not in made
                 and not NOT_COMPARED.search(path) and not (not made and self.is_own(command, path))]
        self.fail_if(wrong, f'{command} lost or changed files that it does not make: {wrong}')

    def is_own(self, command: Command, path: str) -> bool:
        return any(path.startswith(f'{folder}/') or path == folder for folder in command.writes)

    def check_done(self, command: Command, clean: Clean, ended: Ended, before: dict, after: dict) -> None:
        """The outputs are those of the clean run, and nothing else has changed."""
        self.fail_if(clean.status != 0, f'{command} was done; a clean run on these inputs fails')
        if command.stage.startswith('eval'):
            said = ended.out.split('\n\nscored before')[0].strip()
            self.fail_if(said != clean.said.strip(), f'{command} printed\n{said}\nA clean run:\n{clean.said}')
            wanted, = json.loads(clean.files['exp/toy/scores.json'])
            found = json.loads(after['exp/toy/scores.json'])
            self.fail_if(plain_score(wanted) not in map(plain_score, found), 'scores.json lacks the scores')
            self.check_others(command, before, after, ['exp/toy/scores.json'])
            return
        loose = command.stage in self.shared
        wrong = [path for path, content in clean.files.items()
                 if not (near(path, content, after.get(path)) if loose else after.get(path) == content)]
        self.fail_if(wrong, f'{command} was done; these differ from a clean run: {wrong}')
        self.check_others(command, before, after, [*clean.files, *self.left_out(command, clean)])
        folders = {str(Path(path).parent) for path in clean.files}
        stale = [path for path in self.left_out(command, clean) if path in after and path not in self.user]
        self.fail_if(stale, f'{command} was done; no clean run makes {stale}')
        left = [path for path in after
                if str(Path(path).parent) in folders and re.search(r'/(\.lock-\d+|\..*\.(tmp|lock))$', path)]
        self.fail_if(left, f'{command} was done and left {left}')

    def left_out(self, command: Command, clean: Clean) -> list[str]:
        """Places of files that the clean run does not make of images at hand, as these are corrupt."""
        if command.trains:
            return []
        names = {Path(path).stem for path in clean.files}
        kinds = {(str(Path(path).parent), Path(path).suffix) for path in clean.files}
        split = command.words[command.words.index('--split') + 1] if '--split' in command.words else None
        limit = int(command.words[command.words.index('--limit') + 1]) if '--limit' in command.words else None
        listed = self.user[f'data/lists/{split}.txt'].decode().split()[:limit] if split else []
        return [f'{folder}/{name}{suffix}' for folder, suffix in kinds for name in listed if name not in names]

    def check_refused(self, command: Command, clean: Clean, ended: Ended, before: dict, after: dict, fresh: bool,
                      launcher: bool) -> None:
        """One line; no file is lost, and none but the command's own has changed."""
        if not launcher:
            self.check_last_words(ended, str(command))
        began = fresh and any(before.get(f'{folder}/{name}') != after.get(f'{folder}/{name}')
                              for folder in command.writes for name in ('args.json', 'made_by.json'))
        lost = [path for path in before if path not in after and not began and not NOT_COMPARED.search(path)]
        self.fail_if(lost, f'{command} failed and lost {lost}')
        self.check_others(command, before, after, ())
        text = ' '.join(ended.errors)
        known = HELD_BACK.search(text) or not fresh and REFUSALS.search(text)
        self.fail_if(not clean.status and not known, f'{command} failed; a clean run succeeds: {text[-600:]}')

    def count(self, command: Command, ended: Ended, clean: Clean) -> None:
        kind = 'killed' if ended.status == -9 else 'done' if not ended.status else \
            'failed as clean' if clean.status else 'refused'
        self.counts[kind] += 1
        self.counts[f'{command.stage}: {kind}'] += 1


def near(path: str, wanted: bytes, found: bytes | None) -> bool:
    """Whether two networks are equal but for rounding; other files of a training by several processes may differ."""
    if not path.endswith('model.pth'):
        return True
    if found is None:
        return False
    ours, theirs = (torch.load(io.BytesIO(content), weights_only=True) for content in (found, wanted))
    return ours['meta'] == theirs['meta'] and all(
        torch.allclose(ours['state_dict'][name], tensor, atol=1e-3, rtol=1e-3)
        for name, tensor in theirs['state_dict'].items())


def plain_score(record: dict) -> dict:
    """What must be equal in two records of scores.json: all but where and when it was made."""
    return {key: record.get(key) for key in ('dataset', 'split', 'what', 'protocol', 'images', 'left_out', 'results',
                                             'curve', 'settings', 'inputs', 'classes')}


def tree(root: Path, places: Iterable[str] = ('.',)) -> list[str]:
    """Places of all files below some places, sorted."""
    found = []
    for place in places:
        path = root / place
        files = [path] if path.is_file() else [file for file in path.rglob('*') if file.is_file()]
        found += [str(file.relative_to(root)) for file in files]
    return sorted(set(found))


def contents(root: Path) -> dict[str, bytes]:
    """Bytes of all files by place; of large ones of a training a digest would do, but they are few."""
    return {path: (root / path).read_bytes() for path in tree(root)}


# The data.

@cache
def drawn(split: str, index: int | str, version: int) -> tuple[bytes, bytes, list[str]]:
    """JPEG, mask PNG and classes of an image, padded to the same number of bytes whatever the version."""
    image, mask, _ = draw(version, split, int(index))
    size = (mask.shape[1] * 3 // 8, mask.shape[0] * 3 // 8)
    small = Image.fromarray(mask).resize(size, Image.NEAREST)
    names = [CLASSES[value - 1] for value in np.unique(small) if value not in (0, 255)]
    return as_jpeg(Image.fromarray(image).resize(size)), as_png(small), names


def as_jpeg(image: Image.Image, size: int = IMAGE_BYTES) -> bytes:
    def save(comment: bytes) -> bytes:
        image.save(buffer := io.BytesIO(), format='JPEG', quality=92, comment=comment)
        return buffer.getvalue()
    return save(b'x' * (1 + size - len(save(b'x'))))


def as_png(mask: Image.Image, size: int = MASK_BYTES) -> bytes:
    def save(text: str) -> bytes:
        info = PngInfo()
        info.add_text('Comment', text)
        mask.save(buffer := io.BytesIO(), format='PNG', pnginfo=info)
        return buffer.getvalue()
    return save('x' * (1 + size - len(save('x'))))


def write_data(root: Path) -> None:
    """A data set, two folders of photos with the same names, and nothing else."""
    for folder in ('data/images', 'data/masks', 'data/lists', 'photos/a', 'photos/b'):
        (root / folder).mkdir(parents=True)
    labels = []
    for split, count in SPLITS.items():
        names = [f'{split}_{index}' for index in range(count)]
        for index, name in enumerate(names):
            image, mask, classes = drawn(split, index, 0)
            (root / f'data/images/{name}.jpg').write_bytes(image)
            (root / f'data/masks/{name}.png').write_bytes(mask)
            labels.append('\t'.join([name, *classes]))
        (root / f'data/lists/{split}.txt').write_text(''.join(f'{name}\n' for name in names))
    (root / 'data/lists/labels.txt').write_text('\n'.join(labels) + '\n')
    for version, folder in enumerate(('a', 'b')):
        for index, name in enumerate(('one', 'two')):
            (root / f'photos/{folder}/{name}.jpg').write_bytes(drawn('val', index, 5 + version)[0])
    (root / 'data/dataset.json').write_text(json.dumps({
        'name': 'toy', 'classes': list(CLASSES), 'images': 'images/{}.jpg', 'masks': ['masks/{}.png'],
        'lists': 'lists', 'train_split': 'train', 'val_split': 'val', 'score_split': 'train', 'preset': 'toy'}))
