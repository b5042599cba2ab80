"""Random histories of a small run: whatever was done before, a command makes what a clean run on its inputs makes.

    python -m tests.history --examples 300

Commands are run with drawn settings, killed, started anew, in one or two processes; in between images, masks, labels
and class names change, outputs are deleted, cut, swapped or moved. After every command: status 0 and each of its files
is byte-identical to that of a clean run on the present inputs, or another status, one line on stderr, and no file lost.
"""
import argparse
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.forked import Forks
from tests.history_world import SPLITS, Command, World, drawn, write_data

NETWORK = ('--width', '0.03125', '--device', 'cpu', '--amp', 'none')
TRAINING = (*NETWORK, '--crop-size', '40', '--batch-size', '2', '--max-steps', '2', '--log-every', '1',
            '--picture-every', '0', '--weights', Path('weights.pth'))
COMMON = ('--dataset', Path('data/dataset.json'), '--exp', Path('exp'), '--run', 'toy', '--workers', '0')
PRETRAINING = (*NETWORK, '--batch-size', '16', '--close-ups', '16', '--close-up-epochs', '2', '--whole-epochs', '1',
               '--whole-batch-size', '2', '--crop-size', '40', '--log-every', '1')
CHAIN = ('train_cam', 'infer_cam', 'train_aff', 'infer_aff', 'train_seg', 'infer_seg')
NAMES = [f'{split}_{index}' for split, count in SPLITS.items() for index in range(count)]


def command(stage: str, split: str = 'train', *words) -> Command:
    """The command of a stage, with further words."""
    run, labels = 'exp/toy', f'exp/toy/labels/{split}'
    script, own, reads, writes = {
        'pretrain': ('pretrain_toy', PRETRAINING, (), (f'{run}/backbone',)),
        'train_cam': ('train_cam_voc', (*TRAINING, '--long-side', '32', '48', '--empty-classes', 'allow'),
                      ('weights.pth',), (f'{run}/cam',)),
        'infer_cam': ('infer_cam', (*NETWORK, '--split', split), (f'{run}/cam/model.pth',),
                      (f'{labels}/cam', f'{labels}/seeds', f'{run}/plabels/{split}')),
        'train_aff': ('train_aff', (*TRAINING, '--radius', '2'), ('weights.pth', f'{run}/labels/train/seeds'),
                      (f'{run}/aff',)),
        'infer_aff': ('infer_aff', (*NETWORK, '--radius', '2', '--split', split),
                      (f'{run}/aff/model.pth', f'{labels}/cam'), (f'{labels}/walk',)),
        'train_seg': ('train_seg', (*TRAINING, '--fov-channels', '8'), ('weights.pth', f'{run}/labels/train/walk'),
                      (f'{run}/seg',)),
        'infer_seg': ('infer_seg', (*NETWORK, '--scales', '1', '--split', split), (f'{run}/seg/model.pth',),
                      (f'{run}/results/{split}',)),
        'infer_images': ('infer_seg', (*NETWORK, '--scales', '1'), (f'{run}/seg/model.pth',),
                         (f'{run}/results/images', 'out')),
        'eval_cam': ('eval', ('--what', 'cam', '--split', split), (f'{labels}/cam',), (f'{run}/scores.json',)),
        'eval_walk': ('eval', ('--what', 'walk', '--split', split), (f'{labels}/walk',), (f'{run}/scores.json',)),
        'eval_seg': ('eval', ('--what', 'seg', '--split', split), (f'{run}/results/{split}',), (f'{run}/scores.json',)),
    }[stage]
    words = ('--scales', '1', *words) if stage == 'infer_cam' and '--scales' not in words else words
    return Command(stage, script, (*COMMON, *own, *words), reads, writes)


# Settings of each stage that may be drawn; the first is that of the finished run.
SETTINGS = {
    'pretrain': [(), ('--seed', '2')],
    'train_cam': [(), ('--seed', '2'), ('--isl-weight', '0'), ('--save-every', '1'), ('--no-fsl',),
                  ('--accumulate', '2')],
    'infer_cam': [(), ('--no-seeds',), ('--seed-alphas', '2', '16'), ('--export-npy',), ('--scales', '0.5', '1')],
    'train_aff': [(), ('--seed', '2'), ('--save-every', '1'), ('--no-dropout',)],
    'infer_aff': [(), ('--beta', '4'), ('--log-steps', '2')],
    'train_seg': [(), ('--seed', '2'), ('--save-every', '1'), ('--scale', '0.8', '1.2')],
    'infer_seg': [(), ('--no-crf',), ('--probs',), ('--overlays',)],
    'infer_images': [('--images', Path('photos/a'), '--out', Path('out')),
                     ('--images', Path('photos/b'), '--out', Path('out')), ('--images', Path('photos/a')),
                     ('--images', Path('photos/b/one.jpg'), '--no-overlays'),
                     ('--images', Path('photos/a'), '--out', Path('photos/a')),
                     ('--images', Path('photos/b'), '--out', Path('out'), '--max-side', '32')],
    'eval_cam': [(), ('--protocol', 'strict'), ('--background-score', '0.4')],
    'eval_walk': [(), ('--protocol', 'strict')],
    'eval_seg': [(), ('--protocol', 'strict')],
}
VARIANTS = {stage: [*[rows[0]] * 4, *rows[1:]] for stage, rows in SETTINGS.items()}
LIMITABLE = ('infer_cam', 'infer_aff', 'infer_seg', 'eval_cam', 'eval_walk', 'eval_seg', 'train_cam', 'train_aff')


@st.composite
def commands(draw) -> Command:
    """A command with drawn settings."""
    stage = draw(st.sampled_from(sorted(set(SETTINGS) - {'pretrain'})))
    split = draw(st.sampled_from(('train', 'train', 'val')))
    words = draw(st.sampled_from(VARIANTS[stage]))
    limit = draw(st.sampled_from((None, None, None, 2, 3))) if stage in LIMITABLE else None
    skip = draw(st.integers(0, 4)) == 4
    return command(stage, split, *words, *(('--limit', str(limit)) if limit else ()),
                   *(('--on-corrupt', 'skip') if skip else ()))


OPERATION = st.integers(1, 45)      # at which a command is killed
RARELY = st.integers(0, 3).map(lambda number: number == 3)
NAME = st.sampled_from(NAMES)
VERSION = st.integers(0, 3)


class History(RuleBasedStateMachine):
    """What a user may do with a run. `lab` holds what all histories share."""

    lab: 'Lab'

    @initialize(finished=st.integers(0, 7).map(bool))
    def begin(self, finished):
        self.world = self.lab.world(finished)

    @rule(command=commands(), fresh=RARELY, absolute=RARELY)
    def run(self, command, fresh, absolute):
        if self.lab.has_time():
            self.world.run(command, fresh=fresh, absolute=absolute)

    @rule(first=st.integers(0, len(CHAIN) - 1), count=st.integers(2, 6), split=st.sampled_from(tuple(SPLITS)),
          skip=RARELY, advice=st.booleans(), killed=st.integers(0, 5), operation=OPERATION)
    def run_some_in_order(self, first, count, split, skip, advice, killed, operation):
        """With `advice`, a stage that is refused and names --fresh gets it. One stage is killed and run again."""
        for number, stage in enumerate(CHAIN[first:first + count]):
            if self.lab.has_time():
                of_stage = command(stage, split, *(('--on-corrupt', 'skip') if skip else ()))
                if number == killed:
                    self.world.run(of_stage, fresh=advice, kill_at=operation)
                status = self.world.run(of_stage)
                if status and advice and '--fresh' in self.world.steps[-1].partition(' -> ')[2]:
                    status = self.world.run(of_stage, fresh=True)
                if status:
                    return

    @rule(command=commands(), fresh=RARELY, operation=OPERATION, again=st.booleans())
    def run_and_kill(self, command, fresh, operation, again):
        if self.lab.has_time():
            self.world.run(command, fresh=fresh, kill_at=operation)
            if again:
                self.world.run(command, fresh=fresh and not command.trains)

    @rule(command=commands().filter(lambda command: command.script.startswith('infer')), fresh=RARELY)
    def run_in_two_processes(self, command, fresh):
        if self.lab.has_time():
            self.world.run(command, fresh=fresh, processes=2)

    @rule(stage=st.sampled_from(('train_cam', 'train_aff', 'train_seg')), fresh=RARELY, operation=OPERATION)
    def train_in_two_processes(self, stage, fresh, operation):
        """Perhaps after a single process was killed."""
        if self.lab.torchrun and self.lab.has_time():
            if fresh:
                self.world.run(command(stage, 'train', '--save-every', '1'), fresh=True, kill_at=operation)
            self.world.run(command(stage, 'train', '--save-every', '1'), processes=2, launcher=True)

    @rule(name=NAME, version=VERSION, keep_time=st.booleans(), mask=st.booleans(), image=st.booleans(), then=commands())
    def replace(self, name, version, keep_time, mask, image, then):
        split, index = name.split('_')
        content = drawn(split, index, version)
        if image:
            self.world.note(f'replace the image of {name} by version {version}{", same time" if keep_time else ""}')
            self.world.write(f'data/images/{name}.jpg', content[0], keep_time)
        if mask:
            self.world.note(f'replace the mask of {name} by version {version}{", same time" if keep_time else ""}')
            self.world.write(f'data/masks/{name}.png', content[1], keep_time)
        self.run(then, False, False)

    @rule(name=NAME, cut=st.booleans(), keep_time=st.booleans(), then=commands())
    def corrupt_an_image(self, name, cut, keep_time, then):
        content = drawn(*name.split('_'), 0)[0]
        wrong = content[:len(content) * 2 // 3] if cut else b'no image'.ljust(len(content))
        self.world.note(f'{"cut the image" if cut else "write text in place of the image"} of {name}')
        self.world.write(f'data/images/{name}.jpg', wrong, keep_time)
        self.run(then, False, False)

    @rule(folder=st.sampled_from('ab'), name=st.sampled_from(('one', 'two')), version=VERSION, keep_time=st.booleans(),
          then=commands())
    def replace_photo(self, folder, name, version, keep_time, then):
        self.world.note(f'replace photos/{folder}/{name}.jpg by version {version}')
        self.world.write(f'photos/{folder}/{name}.jpg', drawn('val', 1, version)[0], keep_time)
        self.run(then, False, False)

    @rule(number=st.integers(0, 5), then=commands())
    def rename_a_class(self, number, then):
        classes = self.world.description()['classes']
        old = classes[number]
        new = old.removesuffix('-new') if old.endswith('-new') else f'{old}-new'
        self.world.note(f'rename class {old} to {new}')
        self.world.describe(classes=[new if name == old else name for name in classes])
        self.world.label({name: [new if word == old else word for word in words]
                          for name, words in self.world.labels().items()})
        self.run(then, False, False)

    @rule(first=st.integers(0, 5), second=st.integers(0, 5), then=commands())
    def reorder_classes(self, first, second, then):
        classes = self.world.description()['classes']
        classes[first], classes[second] = classes[second], classes[first]
        self.world.note(f'swap classes {classes[second]} and {classes[first]}')
        self.world.describe(classes=classes)
        self.run(then, False, False)

    @rule(name=NAME, number=st.integers(0, 5), then=commands())
    def change_labels(self, name, number, then):
        word, labels = self.world.description()['classes'][number], self.world.labels()
        present = labels[name]
        labels[name] = [other for other in present if other != word] if word in present else [*present, word]
        self.world.note(f'{"remove" if word in present else "add"} label {word} of {name}')
        self.world.label(labels)
        self.run(then, False, False)

    @rule(split=st.sampled_from(tuple(SPLITS)), count=st.integers(2, 4), turn=st.booleans(), then=commands())
    def change_list(self, split, count, turn, then):
        names = [f'{split}_{index}' for index in range(min(count, SPLITS[split]))]
        names = names[::-1] if turn else names
        self.world.note(f'{split}.txt names {" ".join(names)}')
        self.world.write(f'data/lists/{split}.txt', ''.join(f'{name}\n' for name in names).encode())
        self.run(then, False, False)

    @rule(place=st.floats(0, 0.999), how=st.sampled_from(('delete', 'cut', 'cut', 'empty', 'swap', 'replace')),
          share=st.floats(0.01, 0.99), then=commands())
    def damage(self, place, how, share, then):
        paths = self.world.outputs()
        if not paths:
            return
        path = paths[int(place * len(paths))]
        file = self.world.root / path
        beside = sorted(other for other in file.parent.iterdir() if other.suffix == file.suffix and other != file
                        and not other.name.startswith('.'))
        self.world.note(f'{how} {path}' + (f' to {share:.2f}' if how == 'cut' else ''))
        if how == 'delete':
            file.unlink()
        elif how in ('cut', 'empty'):
            file.write_bytes(file.read_bytes()[:int(share * file.stat().st_size) if how == 'cut' else 0])
        elif how == 'swap' and beside:
            content = file.read_bytes()
            file.write_bytes(beside[0].read_bytes())
            beside[0].write_bytes(content)
        elif how == 'replace' and file.suffix == '.png':        # by one of the user's own
            self.world.write(path, drawn('val', 0, 7)[1])
        self.run(then, False, False)

    @rule(folder=st.sampled_from(('cam', 'aff', 'seg', 'labels/train/cam', 'labels/train/walk', 'results/val')),
          then=commands())
    def move_results_away(self, folder, then):
        path = self.world.root / 'exp/toy' / folder
        if path.exists() and not any(name.startswith(f'exp/toy/{folder}/') for name in self.world.user):
            self.world.note(f'move exp/toy/{folder} away, or back what was moved before in exchange')
            away, spare = self.world.root / 'away' / folder, self.world.root / 'spare'
            away.parent.mkdir(parents=True, exist_ok=True)
            path.rename(spare)
            if away.exists():
                away.rename(path)
            spare.rename(away)
        self.run(then, False, False)

    @rule()
    def move_everything(self):
        self.world.note('move the whole folder')
        self.world.move()

    def teardown(self):
        self.lab.histories += 1
        shutil.rmtree(self.world.base, ignore_errors=True)


class Lab:
    """What the histories share: the server, clean results, a finished run; used as a context.

    Args:
        seconds: of the histories, after which commands are no longer run; None for no end.
        torchrun: whether some are run in two processes by torchrun, which takes ten seconds.
    """

    def __init__(self, seconds: float | None = None, torchrun: bool = True):
        self.torchrun = torchrun
        memory = Path('/dev/shm')
        self.folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.seconds, self.until = seconds, None
        self.forks, self.cache, self.counts, self.histories = Forks(self.folder), {}, Counter(), 0

    def __enter__(self) -> 'Lab':
        self.forks.__enter__()
        template = self.folder / 'template/place-0'
        write_data(template)
        self.template = template
        world = World(self.forks, template.parent, {})
        world.run(command('pretrain'))
        (template / 'exp/toy/backbone/model.pth').rename(template / 'weights.pth')
        shutil.rmtree(template / 'exp')
        self.empty = self.folder / 'empty'
        shutil.copytree(template.parent, self.empty)
        world = World(self.forks, template.parent, self.cache)
        for split in SPLITS:
            for stage in (*CHAIN, 'eval_cam', 'eval_walk', 'eval_seg'):
                status = world.run(command(stage, split))
                assert status == 0, world.steps
        return self

    def __exit__(self, *_) -> None:
        self.forks.__exit__()
        shutil.rmtree(self.folder)

    def has_time(self) -> bool:
        return self.until is None or time.monotonic() < self.until

    def world(self, finished: bool) -> World:
        """A new history's folder: of a finished run, or of the data alone."""
        base = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copytree(self.template.parent if finished else self.empty, base, dirs_exist_ok=True)
        if len(self.cache) > 1000:
            self.cache.clear()
        world = World(self.forks, base, self.cache, self.counts)
        world.note('a finished run' if finished else 'data and weights, no run yet')
        return world


def run_histories(lab: Lab, examples: int, steps: int, *, derandomize: bool = False, shrink: bool = False) -> None:
    """Play so many histories; raises AssertionError with the steps of the first, or with `shrink` the smallest, that
    goes wrong."""
    if lab.seconds is not None:     # not before: setting up takes long on a busy machine
        lab.until = time.monotonic() + lab.seconds
    machine = type('SomeHistory', (History,), {'lab': lab})
    run_state_machine_as_test(machine, settings=settings(
        max_examples=examples, stateful_step_count=steps, derandomize=derandomize, database=None, deadline=None,
        print_blob=False, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, *([Phase.shrink] if shrink else [])), report_multiple_bugs=False))


def main(argv: list[str] | None = None) -> None:
    """Play random histories until one goes wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--examples', type=int, default=300, help='number of histories')
    parser.add_argument('--steps', type=int, default=12, help='most steps of a history')
    parser.add_argument('--shrink', action='store_true', help='look for a smaller history that goes wrong: minutes')
    parser.add_argument('--torchrun', action='store_true', help='train in two processes too: ten seconds each time')
    args = parser.parse_args(argv)
    began = time.monotonic()
    with Lab(torchrun=args.torchrun) as lab:
        try:
            run_histories(lab, args.examples, args.steps, shrink=args.shrink)
        except AssertionError as error:
            raise SystemExit(str(error)) from None
        finally:
            commands = sum(lab.counts[kind] for kind in ('done', 'refused', 'failed as clean', 'killed'))
            print(f'{lab.histories} histories, {commands} commands, {time.monotonic() - began:.0f} s')
            for kind, count in sorted(lab.counts.items()):
                print(f'  {kind}: {count}')


if __name__ == '__main__':
    main()
