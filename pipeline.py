"""All stages in order: what run_voc.sh, run_coco.sh, run_demo.sh and run_own.sh do.

    python pipeline.py voc12 --run mine --gpus 4        as ./run_voc.sh --run mine --gpus 4
"""
import argparse
import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lib.data.loading import steps_of
from lib.data.registry import get_spec
from lib.data.toy_draw import CLASSES
from lib.files.dataspec import DatasetSpec
from lib.process.launch import Runner, check_batch
from lib.process.ranges import LARGEST_SEED, integer
from lib.routing import Command, Flag, Tool, add_help, give, give_all, read_flags, settings_text
from lib.run.options import run_script

ROOT = Path(__file__).resolve().parent
SCRIPTS = {'voc12': 'run_voc.sh', 'coco': 'run_coco.sh', 'demo': 'run_demo.sh', 'own': 'run_own.sh DATA.json'}
STAGES = ('train_cam', 'infer_cam', 'train_aff', 'infer_aff', 'train_seg', 'infer_seg', 'table', 'report')
DEMO_STAGES = ('draw', 'backbone')

# Fixed features, trained heads; heads on a few images soon know them by heart.
LIGHT = ('--backbone timm:tf_efficientnet_lite0 --weights efficientnet-lite0 --freeze backbone --fov-channels 128 '
         '--train_cam:lr 0.003 --train_cam:head-lr 100 --train_aff:lr 0.003 --train_aff:head-lr 100 --min-steps 100 '
         '--train_seg:max-steps 300').split()
SMOKE_IMAGES = 8
# In float32 and with hardly any AdamW, whose first steps are signs of gradients: the scores of several processes are
# then those of one.
SMOKE = (f'--train {SMOKE_IMAGES} --val {SMOKE_IMAGES} --limit {SMOKE_IMAGES} --workers 1 --max-steps 3 --log-every 1 '
         '--picture-every 0 --crop-size 96 --scales 1 --close-ups 12 --close-up-epochs 1 --whole-epochs 1 --count 2 '
         '--empty-classes allow --amp none --backbone:lr 1e-6').split()
ABOUT = """
Each command is printed so that it can be pasted; the first failure ends the run with its status. The same command
resumes: finished steps say so, and the first unfinished one continues.

A flag of the stages goes to every chosen stage that has it; --train_seg:lr 0.01 gives it to one alone.
"""


def make_parser(driver: str = 'voc12') -> argparse.ArgumentParser:
    """What the driver itself asks; the flags of the stages are known to the scripts."""
    stages = stages_of(driver)
    parser = argparse.ArgumentParser(
        prog=f'./{SCRIPTS[driver]}', usage='%(prog)s [options] [flags of the stages]', allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, description=ABOUT)
    parser.add_argument('--run', metavar='NAME', help='name of the run, a folder in --exp')
    parser.add_argument('--stages', default=','.join(stages), metavar='LIST',
                        help=f'some of {", ".join(stages)}, separated by commas; the default is all')
    parser.add_argument('--gpus', type=integer(1, 1024), metavar='N',
                        help='one process per GPU, by torchrun: N share each batch in training and the images in '
                        'inference, and the results are those of one; with --device cpu N processes on the CPU')
    parser.add_argument('--launcher', metavar='WORDS',
                        help='start these words before each script that runs a network, in place of --gpus: '
                        'torchrun on several nodes, see examples/slurm/run_voc_nodes.sh')
    parser.add_argument('--smoke', action='store_true',
                        help=f'every stage in its shortest form, {SMOKE_IMAGES} images, 3 steps, one scale, as the run '
                        'NAME-smoke: to see that all works')
    parser.add_argument('--dry-run', action='store_true',
                        help='print the settings of each stage and the commands, check the inputs of '
                        'the first stage, and run nothing')
    if driver == 'own':
        parser.add_argument('--light', action='store_true',
                            help='for a laptop: EfficientNet-Lite0 (requirements-timm.txt) with its ImageNet features '
                            'as they are; only heads are trained')
    if driver == 'demo':
        parser.add_argument('--seed', type=integer(0, LARGEST_SEED - 1), default=0, metavar='N',
                            help='of the synthetic set and its backbone; another one is another set')
    return parser


def stages_of(driver: str) -> tuple[str, ...]:
    """All stages of a driver, in order."""
    return (*DEMO_STAGES, *STAGES) if driver == 'demo' else STAGES


def tools_of(driver: str) -> dict[str, Tool]:
    """The scripts behind the stages, by name; all that are called train or infer run a network."""
    modules = {name: name for name in STAGES[:-2]} | {'eval': 'eval', 'report': 'lib.report.__main__'}
    modules['train_cam'] = 'train_cam_coco' if driver == 'coco' else 'train_cam_voc'
    if driver == 'demo':
        modules = {'draw': 'lib.data.toy', 'backbone': 'pretrain_toy', **modules}
    stages = {'draw': None, 'backbone': 'pretrain_toy', 'eval': '', 'report': ''}
    return {name: Tool(name, module, name not in ('draw', 'eval', 'report'), stages.get(name, name))
            for name, module in modules.items()}


class Job(NamedTuple):
    """What a driver was asked to do."""

    driver: str
    args: argparse.Namespace        # of make_parser
    flags: list[Flag]               # of the stages, as the user gave them
    caller: Path                    # folder in which it was called
    dataset: str
    run: str

    def given(self, *names: str) -> str | None:
        """Last value of a flag of the stages, by any of its names."""
        return next((flag.values[-1] for flag in reversed(self.flags) if flag.name in names and flag.values), None)

    @property
    def drawn(self) -> bool:
        """Whether the images have to be there; the demo draws them first."""
        return self.driver != 'demo' or 'draw' not in self.args.stages or Path(self.dataset).exists()

    def find_spec(self) -> DatasetSpec:
        """The data set; the synthetic one is known before it is drawn."""
        if not self.drawn:
            return DatasetSpec('toy', tuple(CLASSES), Path(), Path(), '{}', train_split='train', preset='toy')
        places = (self.given('--data-root', '--voc12-root', '--coco-root'), self.given('--lists'))
        return get_spec(self.dataset, *(self.caller / place if place else None for place in places))

    def usual(self) -> list[Flag]:
        """What the driver gives where the user does not say otherwise."""
        words = []
        if self.driver == 'demo':
            exp = self.caller / self.given('--exp') if self.given('--exp') else Path('exp')
            words += ['--weights', str(exp / self.run / 'backbone/model.pth')]
        if getattr(self.args, 'light', False):
            words += LIGHT
        if self.args.smoke:
            batch = str(-(-4 // (self.args.gpus or 1)) * (self.args.gpus or 1))
            words += [*SMOKE, '--batch-size', batch, '--whole-batch-size', batch]
            words += ['--width', '0.03125'] if self.driver == 'demo' else []
        return read_flags(words)


def read_job(driver: str, words: Sequence[str], caller: Path) -> Job:
    """The words of a driver's command line; the flags of the stages are not looked at yet.

    Raises:
        ValueError: if they are wrong.
    """
    dataset = driver
    if driver == 'own':
        if not words or not words[0].endswith('.json'):
            raise ValueError('name the data set first: ./run_own.sh data/my.json (python -m lib.data.own writes it)')
        path, dataset, words = caller / words[0], words[0], words[1:]
        dataset = dataset if caller == ROOT else str(path)
    parser = make_parser(driver)
    parser.error = _refuse
    args, rest = parser.parse_known_args(words)
    run = driver
    if driver == 'own':         # birds/dataset.json is of the birds
        run = path.resolve().parent.name if path.stem == 'dataset' and path.exists() else path.stem
    ending = '-smoke' if args.smoke else ''
    if driver == 'demo':
        run, dataset = f'toy-{args.seed}', f'data/toy-{args.seed}{ending}/dataset.json'
    if args.gpus and args.launcher:
        raise ValueError('--gpus and --launcher say the same: how the processes are started; give one of them')
    return Job(driver, args, read_flags(rest), caller, dataset, f'{args.run or run}{ending}')


def _refuse(message: str) -> None:
    raise ValueError(message)


def chain(job: Job, tools: dict[str, Tool], spec: DatasetSpec) -> list[Command]:
    """All commands of a driver, with the flags that it sets itself."""
    commands, shared = [], ('--dataset', job.dataset, '--run', job.run)
    masked = [spec.val_split, spec.score_split]
    if own := job.driver == 'own':
        masked = [split for split in masked if any(sample.mask for sample in spec.samples(split))]

    def add(stage: str, tool: str, *words: str) -> None:
        commands.append(Command(stage, tools[tool], read_flags([*words, *(shared if tool != 'draw' else ())])))

    def infer(stage: str, what: str, train_split: str, *val_words: str) -> None:
        for split, scored in ((spec.val_split, spec.val_split), (train_split, spec.score_split)):
            add(stage, stage, '--split', split, *(val_words if split == spec.val_split else ()))
            if scored in masked:
                add(stage, 'eval', '--what', what, '--split', scored, *(['--masked-only'] if own else []))

    if job.driver == 'demo':
        add('draw', 'draw', '--out', str(Path(job.dataset).parent), '--seed', str(job.args.seed))
        add('backbone', 'backbone', '--seed', str(job.args.seed + 1))
    add('train_cam', 'train_cam')
    infer('infer_cam', 'cam', spec.train_split, '--no-seeds')
    add('train_aff', 'train_aff')
    infer('infer_aff', 'walk', spec.train_split)
    add('train_seg', 'train_seg')
    infer('infer_seg', 'seg', spec.score_split)
    if masked:
        add('table', 'eval', '--table')
    add('report', 'report')
    return commands


def chosen(commands: Sequence[Command], job: Job) -> list[Command]:
    """The commands of the stages that were asked for."""
    stages, known = job.args.stages.replace(' ', '').split(','), stages_of(job.driver)
    for stage in stages:
        if stage not in known:
            raise ValueError(f'--stages: {stage!r} is not one of {",".join(known)}')
    found = [command for stage in stages for command in commands if command.stage == stage]
    if not found:
        raise ValueError(f'--stages {job.args.stages}: there is nothing to do without masks to score against')
    return found


def steps(args: argparse.Namespace, split: str, images: int) -> int:
    """The steps that a training command will take.

    Raises:
        ValueError: if a batch is larger than the set.
    """
    images = min(images, args.limit or images)
    if hasattr(args, 'epochs'):
        return steps_of(images, args.batch_size, args.epochs, args.max_steps, split, args.min_steps)
    steps_of(images, args.batch_size, 1, None, split)
    return args.max_steps


def launch_words(command: Command, job: Job) -> list[str]:
    """A command as it is run and printed."""
    start = [sys.executable]
    if command.tool.network and job.args.launcher:
        start = shlex.split(job.args.launcher)
    elif command.tool.network and job.args.gpus:
        # Without the -- torchrun takes --run for its own --run-path.
        start += ['-m', 'lib.process.launch', '--standalone', '--nproc-per-node', str(job.args.gpus), '--']
    return [*start, *command.words]


def show_plan(commands: Sequence[Command], resolved: Sequence[argparse.Namespace], job: Job, spec: DatasetSpec) -> None:
    """Print the settings, and have the first stage check its inputs."""
    for command, args in {command.tool.name: (command, args) for command, args in zip(commands, resolved)}.values():
        title = f'{command.tool.name}: {" ".join(command.tool.words)}'
        if command.tool.name.startswith('train_'):
            images = len(spec.samples(spec.train_split)) if job.drawn else resolved[0].train
            title += f', {steps(args, spec.train_split, images)} steps of {args.batch_size} images'
        print(f'\n{title}\n{settings_text(command, args, spec.preset)}')
    print(flush=True)
    if not job.drawn:
        return
    first = commands[0]
    if first.tool.network:
        importlib.import_module(first.tool.module).main([*first.flag_words, '--dry-run'])


def main(argv: Sequence[str] | None = None) -> int:
    """Check everything that was given, then run the commands one by one."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in SCRIPTS:
        raise ValueError(f'call one of {", ".join(SCRIPTS.values())}')
    driver, words, caller = words[0], words[1:], Path.cwd()
    os.chdir(ROOT)
    tools = tools_of(driver)
    if {'--help', '-h'} & set(words):
        parser = make_parser(driver)
        add_help(parser, list(tools.values()))
        parser.print_help()
        return 0

    # What is to be run.
    job = read_job(driver, words, caller)
    spec = job.find_spec()
    commands = chosen(chain(job, tools, spec), job)
    give(job.usual(), commands)
    give_all(job.flags, commands, list(tools.values()), caller)

    # All settings are looked at before the first command runs.
    resolved = [command.resolve(spec) for command in commands]
    for command, args in zip(commands, resolved):
        check_batch(command.tool.name, args, job.args.gpus or 1)
    if job.args.dry_run:
        show_plan(commands, resolved, job, spec)

    # Run it.
    runner, stage = Runner(), None
    if caller != ROOT:
        print(f'+ cd {shlex.quote(str(ROOT))}')
    if driver == 'demo' and 'OMP_NUM_THREADS' not in os.environ:
        os.environ['OMP_NUM_THREADS'] = '1'         # the second core reads images, runs CRFs and scores
        print('+ export OMP_NUM_THREADS=1')
    for command in commands:
        if command.stage != stage:
            print(f'\n== {command.stage}')
        stage, line = command.stage, launch_words(command, job)
        print(f'\n+ {shlex.join(line)}', flush=True)
        status = 0 if job.args.dry_run else runner.run(line, stage)
        if status:
            return status
    return 0


if __name__ == '__main__':
    run_script(main)
