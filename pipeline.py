"""Run all stages in order, for run_voc.sh, run_coco.sh, run_demo.sh and run_own.sh.

    python pipeline.py voc12 --run mine --gpus 4        same as ./run_voc.sh --run mine --gpus 4
"""
import argparse
import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.data.registry import get_spec
from lib.data.toy_draw import CLASSES
from lib.files.dataspec import DatasetSpec
from lib.process import launch
from lib.process.cli import LARGEST_SEED, Parser, integer
from lib.process.ending import run_script
from lib.routing import Command, Flag, Tool, give, read_flags, show_settings
from lib.run.expected import BACKBONE, comparison_text
from lib.run.options import base_parser, plain_flag

ROOT = Path(__file__).resolve().parent
SCRIPTS = {'voc12': 'run_voc.sh', 'coco': 'run_coco.sh', 'demo': 'run_demo.sh', 'own': 'run_own.sh DATA.json'}
STAGES = ('train_cam', 'infer_cam', 'train_aff', 'infer_aff', 'train_seg', 'infer_seg', 'table', 'report')
OWN_STAGES = (STAGES[0], 'suspects', 'choose', *STAGES[1:6], 'recommend', *STAGES[6:])
DEMO_STAGES = ('draw', 'backbone')

# Frozen features and trained heads, for fewer steps, as heads soon overfit a few images.
LIGHT = ('--backbone timm:tf_efficientnet_lite0 --weights efficientnet-lite0 --freeze backbone --fov-channels 128 '
         '--train_cam:lr 0.003 --train_cam:head-lr 100 --train_aff:lr 0.003 --train_aff:head-lr 100 --min-steps 100 '
         '--train_seg:max-steps 300').split()
SMOKE_IMAGES = 8
# float32 and a tiny AdamW step, as its first steps are signs of gradients: so several processes score the same as one.
SMOKE = (f'--train {SMOKE_IMAGES} --val {SMOKE_IMAGES} --limit {SMOKE_IMAGES} --workers 1 --max-steps 3 --log-every 1 '
         '--picture-every 0 --crop-size 96 --scales 1 --close-ups 12 --close-up-epochs 1 --whole-epochs 1 --count 2 '
         '--empty-classes allow --amp none --backbone:lr 1e-6').split()
ABOUT = """
Run all stages in order. Each command is printed in a form that can be pasted; the first failure ends the run with its
status. The same command resumes: finished stages are skipped, and the first unfinished one continues.

A flag of the stages is passed to every selected stage that has it, --train_seg:lr 0.01 to that stage only. Each script
explains its flags: python train_cam_voc.py --help, python infer_cam.py --help, ...
"""


def make_parser(driver: str = 'voc12') -> Parser:
    """The driver's own flags; those of the stages are known to the scripts."""
    stages = stages_of(driver)
    parser = Parser(ABOUT, prog=f'./{SCRIPTS[driver]}', usage='%(prog)s [options] [flags of the stages]')
    parser.add_argument('--run', metavar='NAME', help='name of the run, a folder in --exp')
    parser.add_argument('--stages', metavar='LIST', help=f'some of {", ".join(stages)}, separated by commas' + (
        '; the default is all but backbone, which repeats the toy pretraining' if driver == 'demo' else ''))
    parser.add_argument('--gpus', type=integer(1, 1024), metavar='N',
                        help='start N processes with torchrun, one per GPU, or with --device cpu on the CPU; they '
                        'share each batch in training and the images in inference, with the results of one process')
    parser.add_argument('--launcher', metavar='WORDS',
                        help='instead of --gpus: prefix for every command that runs a network, such as torchrun for '
                        'several nodes, see examples/slurm/run_voc_nodes.sh')
    parser.add_argument('--smoke', action='store_true',
                        help=f'run every stage briefly ({SMOKE_IMAGES} images, 3 steps, one scale) as the run '
                        'NAME-smoke, to check that everything works; the scores mean nothing')
    parser.add_argument('--dry-run', action='store_true',
                        help='print all settings and commands and check the inputs of the first stage, but run nothing')
    if driver == 'own':
        parser.add_argument('--light', action='store_true',
                            help='for a laptop: train only the heads, on frozen ImageNet features of '
                            'EfficientNet-Lite0 (needs requirements-timm.txt)')
    if driver == 'demo':
        parser.add_argument('--seed', type=integer(0, LARGEST_SEED), default=0, metavar='N',
                            help='seed of all training; the images are the same')
    return parser


def stages_of(driver: str) -> tuple[str, ...]:
    """All stages of a driver, in order."""
    return {'demo': (*DEMO_STAGES, *STAGES), 'own': OWN_STAGES}.get(driver, STAGES)


def tools_of(driver: str) -> dict[str, Tool]:
    """The scripts behind the stages, by name."""
    tools = [Tool(name, name, network=True, stage=name) for name in STAGES[:-2]]
    tools[0].module = 'train_cam_coco' if driver == 'coco' else 'train_cam_voc'
    if driver == 'demo':
        tools += [Tool('draw', 'lib.data.toy', stage=None), Tool('backbone', 'pretrain_toy', True, 'pretrain_toy')]
    tools += [Tool(name, f'lib.{name}', stage='infer_cam') for name in ('choose', 'recommend')]
    tools += [Tool('suspects', 'lib.suspects'), Tool('eval', 'eval', stage='eval'),
              Tool('report', 'lib.report.__main__')]
    return {tool.name: tool for tool in tools}


def read_job(driver: str, words: Sequence[str], caller: Path) -> argparse.Namespace:
    """Parse the command line of a driver.

    Returns:
        The settings of make_parser(), and: driver; flags of the stages as the user gave them, not checked yet; dataset,
        run, spec; drawn, whether the images exist (the demo generates them); exp, the folder of all runs.

    Raises:
        ValueError: if it is wrong.
    """
    job, rest = make_parser(driver).parse_known_args([plain_flag(word) for word in words])
    if job.stages is None:
        job.stages = ','.join(stage for stage in stages_of(driver) if stage != 'backbone' or job.smoke)
    if job.gpus and job.launcher:
        raise ValueError('--gpus and --launcher both determine how processes are started; give only one of them')
    dataset, run, suffix = driver, driver, '-smoke' if job.smoke else ''
    if driver == 'own':
        if not rest or not rest[0].endswith('.json'):
            raise ValueError('name the data set first: ./run_own.sh data/my.json (python -m lib.own writes it)')
        path, rest = caller / rest[0], rest[1:]
        dataset = os.path.relpath(path) if path.is_relative_to(ROOT) else str(path)
        run = path.resolve().parent.name if path.stem == 'dataset' else path.stem     # birds/dataset.json: birds
    elif driver == 'demo':
        run, dataset = f'toy-{job.seed}', f'data/toy{suffix}/dataset.json'
    job.driver, job.flags, job.dataset, job.run = driver, read_flags(rest), dataset, f'{job.run or run}{suffix}'
    given, _ = base_parser('').parse_known_args(rest, argparse.Namespace(exp=None))
    root, lists, exp = (path and caller / path for path in (given.data_root, given.lists, given.exp))
    job.exp = exp or Path('exp')
    job.drawn = driver != 'demo' or not any(stage in job.stages for stage in DEMO_STAGES) or Path(dataset).exists()
    job.spec = get_spec(dataset, root, lists) if job.drawn else DatasetSpec(
        'toy', tuple(CLASSES), Path(), Path(), '{}', train_split='train', preset='toy')
    return job


def defaults(job: argparse.Namespace) -> list[Flag]:
    """The flags that the driver sets unless the user does."""
    words = []
    if job.driver == 'demo':
        seed = f':seed {job.seed}'
        words = f'--weights {BACKBONE} --train_cam{seed} --train_aff{seed} --train_seg{seed}'.split()
    if job.driver == 'own':
        words = ['--protocol', 'strict', *(LIGHT if job.light else [])]         # a few masks may lack classes
    if job.smoke:
        batch = str(-(-4 // (job.gpus or 1)) * (job.gpus or 1))
        words += [*SMOKE, '--batch-size', batch, '--whole-batch-size', batch]
    return read_flags(words)


def chain(job: argparse.Namespace) -> list[Command]:
    """All commands of a driver, with the flags that the user cannot change."""
    spec, tools, commands, shared = job.spec, tools_of(job.driver), [], ('--dataset', job.dataset, '--run', job.run)
    own, demo = job.driver == 'own', job.driver == 'demo'
    masked = [spec.val_split] if demo else [spec.val_split, spec.score_split]
    if own:
        masked = [split for split in masked if any(sample.mask for sample in spec.samples(split))]

    def add(stage: str, tool: str, *words: str) -> None:
        commands.append(Command(stage, tools[tool], read_flags([*words, *(shared if tool != 'draw' else ())])))

    def infer(stage: str, what: str, *splits: str) -> None:
        for split in splits:
            val = split == spec.val_split
            add(stage, stage, '--split', split, *(['--no-crf-seeds'] if val and stage == 'infer_cam' else []))
            if (scored := split if val else spec.score_split) in masked:
                add(stage, 'eval', '--what', what, '--split', scored, *(['--masked-only'] if own else []))

    if demo:
        folder = Path(job.dataset).parent
        add('draw', 'draw', '--out', str(folder), '--seed', '0')
        folder = folder.with_name(folder.name.replace('toy', 'toy-backbone'))
        commands += [Command('backbone', tools['draw'], read_flags(['--out', str(folder), '--seed', '1000000']),
                             read_flags(['--train', '2048', '--val', '1'])),
                     Command('backbone', tools['backbone'],
                             read_flags(['--dataset', f'{folder}/dataset.json', '--run', job.run]))]
    add('train_cam', 'train_cam')
    add('suspects', 'suspects')
    add('choose', 'choose')
    infer('infer_cam', 'cam', spec.val_split, spec.train_split)
    add('train_aff', 'train_aff')
    infer('infer_aff', 'walk', spec.val_split, spec.train_split)
    add('train_seg', 'train_seg')
    infer('infer_seg', 'seg', spec.val_split, *([] if demo else [spec.score_split]))
    add('recommend', 'recommend')
    if masked or own:
        add('table', 'eval', '--table')
    add('report', 'report')
    return [command for command in commands if command.stage in stages_of(job.driver)]


def chosen(commands: Sequence[Command], job: argparse.Namespace) -> list[Command]:
    """The commands of the selected stages."""
    stages = job.stages.replace(' ', '').split(',')
    if unknown := [stage for stage in stages if stage not in stages_of(job.driver)]:
        raise ValueError(f'--stages: {unknown[0]!r} is not one of {",".join(stages_of(job.driver))}')
    if not (selected := [command for stage in stages for command in commands if command.stage == stage]):
        raise ValueError(f'--stages {job.stages}: nothing to do, as there are no masks to score against')
    return selected


def launch_words(command: Command, job: argparse.Namespace) -> list[str]:
    """The words of a command, as run and printed."""
    start = [sys.executable]
    if command.tool.network and job.launcher:
        start = shlex.split(job.launcher)
    elif command.tool.network and job.gpus:
        # Without the -- torchrun takes --run for its own --run-path.
        start += ['-m', 'lib.process.launch', '--standalone', '--nproc-per-node', str(job.gpus), '--']
    return [*start, *command.tool.words, *command.flag_words]


def main(argv: Sequence[str] | None = None) -> int:
    """Check all flags, then run the commands one by one."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in SCRIPTS:
        raise ValueError(f'run one of {", ".join(SCRIPTS.values())}')
    driver, words, caller = words[0], words[1:], Path.cwd()
    os.chdir(ROOT)

    # The commands to run, with all settings.
    job = read_job(driver, words, caller)
    commands = chosen(chain(job), job)
    for command in commands:
        command.given += filter(command.has, defaults(job))
    give(job.flags, commands, caller)
    settings = [command.resolve(job.spec, job.gpus or 1) for command in commands]
    if job.dry_run:
        show_settings(commands, settings)

    # Run it.
    stage = None
    if caller != ROOT:
        print(f'+ cd {shlex.quote(str(ROOT))}')
    if driver == 'demo' and 'OMP_NUM_THREADS' not in os.environ:
        threads = os.environ['OMP_NUM_THREADS'] = str(min(2, os.cpu_count() or 1))     # enough for small networks
        print(f'+ export OMP_NUM_THREADS={threads}')
    for command in commands:
        if command.stage != stage:
            print(f'\n== {command.stage}')
        stage, line = command.stage, launch_words(command, job)
        print(f'\n+ {shlex.join(line)}', flush=True)
        status = 0 if job.dry_run else launch.run(line, stage)
        if status:
            return status

    # The demo ends with its scores next to the expected ones.
    if driver == 'demo' and stage == 'report' and not (job.smoke or job.dry_run):
        print(f'\n{comparison_text(job.exp / job.run / "scores.json")}')

    # A dry run ends with the first stage's check of its inputs.
    if job.dry_run and job.drawn and commands[0].tool.network:
        importlib.import_module(commands[0].tool.module).main([*commands[0].flag_words, '--dry-run'])
    return 0


if __name__ == '__main__':
    run_script(main)
