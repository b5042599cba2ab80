"""Flags that several scripts share, and the resolution of settings: given flag > preset > default."""
import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lib.process.cli import COUNT, LARGEST_SEED, Parser, integer, number
from lib.run.settings import COMMON, row_of

# A flag affects the results in every file of its stage, unless its definition sets .affects: to NOTHING for flags that
# only control how or where to run, and for paths, as files are compared by content; or to the kinds of output that it
# affects.
NOTHING = ()
# Hidden aliases of flags: names in the reference and former names.
RENAMED = {'max-epoches': 'epochs', 'wt-dec': 'weight-decay', 'num-samples': 'isl-samples', 'session-name': 'run',
           'num-workers': 'workers', 'logt': 'walk-log2-steps', 'log-steps': 'walk-log2-steps',
           'out-cam-pred-alpha': 'background-score', 'seeds': 'crf-seeds', 'no-seeds': 'no-crf-seeds'}


def base_parser(doc: str, several_runs: bool = False) -> Parser:
    """Parser with the flags of every stage; `doc` is the script's docstring, shown by --help.

    With `several_runs` --run takes several names and patterns, which resolve() lists as args.runs.
    """
    parser = Parser(doc)
    add = _adder(parser.add_argument_group('data and output'))
    add('--dataset', default='voc12', help='voc12, coco, toy, or the path of a dataset.json')
    add('--data-root', '--voc12-root', '--coco-root', type=Path, metavar='DIR',
        help='root folder of the images; the default is the data set\'s folder in data/')
    add('--lists', type=Path, metavar='DIR',
        help='folder with <split>.txt and labels.txt; the default is the data set\'s own')
    add('--exp', type=Path, default=Path('exp'), metavar='DIR', help='folder of all runs')
    add('--run', metavar='NAME', **({'nargs': '+', 'default': []} if several_runs else {}),
        help='name of the run, a folder in --exp; the default is the data set\'s name'
        + ('; several names, or patterns such as \'seed-*\', are compared: each pattern is a group, and all plain '
           'names form one group' if several_runs else ''))
    add('--limit', type=integer(1, COUNT), metavar='N', help='use only the first N images of the split')
    add('--workers', type=integer(0, 256), default=min(4, os.cpu_count() or 1), metavar='N',
        help='worker processes, which read images, run the CRF and so on; 0 runs everything in the main process')
    add('--on-corrupt', choices=('error', 'skip'), default='error',
        help='on an image or ground-truth mask that cannot be decoded: stop, or skip it in every stage and report it; '
        'a missing file is always an error')
    add('--damaged', dest='on_corrupt', type={'stop': 'error', 'skip': 'skip'}.get, metavar='stop|skip',
        choices=('error', 'skip'), default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add('--dry-run', action='store_true', help='check all inputs, print the settings, and stop')
    return parser


def add_device_flags(parser: argparse.ArgumentParser, backbone: str | None = None) -> None:
    """Flags of the stages that run a network; `backbone` is the default of training, None that of inference."""
    affects = None if backbone else NOTHING             # stored in a trained network's file, but not in a published one
    group = parser.add_argument_group('network and device')
    group.add_argument('--device', default='auto',
                       help='auto (a GPU if there is one), cpu, cuda or cuda:N').affects = NOTHING
    group.add_argument('--amp', choices=('none', 'bf16', 'fp16', 'auto'), default='none',
                       help='mixed precision (autocast dtype); auto is bf16 where the hardware supports it')
    group.add_argument('--width', type=number(0.01, 4), default=1.0, help='width multiplier of resnet38d' if backbone
                       else argparse.SUPPRESS).affects = affects
    group.add_argument('--backbone', default=backbone, metavar='NAME', help='resnet38d, or timm:NAME for a network of '
                       'timm, convolutional or a transformer' if backbone else argparse.SUPPRESS).affects = affects
    if backbone:
        group.add_argument('--output-stride', type=integer(1, 64), metavar='PIXELS',
                           help='output stride of the backbone; the default is 8 if the network can be dilated to it, '
                           'otherwise its own, such as the patch size of a transformer')
    group.add_argument('--network', dest='backbone', type=reference_network, default=argparse.SUPPRESS,
                       help=argparse.SUPPRESS).affects = affects


def reference_network(word: str) -> str:
    """Value of --network: a module of the reference such as network.resnet38_SEAM, whose head the stage decides on."""
    if 'resnet38' in word:
        return 'resnet38d'
    raise argparse.ArgumentTypeError(f'{word} is not supported; choose a network with --backbone')


def add_training_flags(parser: argparse.ArgumentParser, *, batch_size: int, lr: float, momentum: float) -> None:
    """Flags of the training stages; the defaults given are the published ones of the stage on VOC."""
    group = add_loop_flags(parser, batch_size=batch_size, lr=lr,
                           lr_help='learning rate of pretrained weights at step 0; twice that for biases')
    group.add_argument('--head-lr', type=number(0, 1000, above=True), default=10.0, metavar='FACTOR',
                       help='learning rate of new layers, as a multiple of --lr')
    group.add_argument('--momentum', type=number(0, 1, below=True), default=momentum, help='momentum of SGD')
    group.add_argument('--weight-decay', type=number(0, 1), default=5e-4, help='weight decay; biases have none')
    group.add_argument('--max-steps', type=integer(1, COUNT), metavar='N',
                       help='number of training steps; the learning rate falls to zero at the last one')
    group.add_argument('--poly-power', type=number(0, 100, above=True), default=0.9,
                       help='the learning rate falls as (1 - step / steps) to this power')
    add = _adder(group)
    add('--weights', default='pretrained/ilsvrc-cls_rna-a1_cls1000_ep-0001.params', metavar='FILE',
        help='ImageNet weights of the backbone: .params (MXNet), .pth, or none for random weights; for a timm backbone '
        '.pth, .safetensors, timm (downloaded), efficientnet-lite0, -lite1, -lite2 (from a package), or none')
    add('--picture-every', type=integer(0, COUNT), default=500, metavar='N',
        help='steps between visualisations in TensorBoard; 0 for none')
    add('--accumulate', type=integer(1, 1024), default=1, metavar='N',
        help='gradient accumulation steps per batch: takes less memory; results differ by rounding only')


def add_loop_flags(parser: argparse.ArgumentParser, *, batch_size: int, lr: float,
                   lr_help: str) -> argparse._ArgumentGroup:
    """Flags of everything that lib/run/loop.py trains; returns their group."""
    group = parser.add_argument_group('training')
    group.add_argument('--batch-size', type=integer(1, 65536), default=batch_size,
                       help='images per step, over all GPUs')
    group.add_argument('--lr', type=number(0, 1000, above=True), default=lr, help=lr_help)
    group.add_argument('--seed', type=integer(0, LARGEST_SEED), default=1, help='seed of initial weights, data order, '
                       'augmentation, dropout and pixel sampling')
    add = _adder(group)
    add('--log-every', type=integer(1, COUNT), default=25, metavar='N', help='steps between log entries')
    add('--save-minutes', type=number(0, COUNT), default=10, metavar='M',
        help='minutes between checkpoints; one is also saved at SIGTERM, SIGINT and SIGUSR1')
    add('--save-every', type=integer(0, COUNT), default=0, metavar='N',
        help='steps between additional checkpoints; 0 for none')
    add_fresh_flag(group)
    return group


def add_fresh_flag(group: argparse._ActionsContainer) -> None:
    """The flag of everything that resumes."""
    _adder(group)('--fresh', action='store_true', help='start over and replace the output of an earlier run')


def _adder(group: argparse._ActionsContainer) -> Callable:
    """group.add_argument, for flags that do not affect results."""
    def add(*names: str, **settings) -> None:
        group.add_argument(*names, **settings).affects = NOTHING
    return add


def resolve(parser: argparse.ArgumentParser, argv: list[str] | None, stage: str, get_spec: Callable) -> tuple:
    """Settings of a script and its data set.

    Args:
        parser: the script's flags.
        argv: words of the command line; None reads sys.argv.
        stage: its column in the table of settings (lib/run/settings.py); '' for a script without one.
        get_spec: (dataset, data_root, lists) -> DatasetSpec.

    Returns:
        (args, spec); args.run is filled in, args.folder is <exp>/<run>; args.runs are all that --run names.

    Raises:
        ValueError: if a flag is wrong, or the data set has a preset that the script lacks.
    """
    words = [plain_flag(word) for word in (sys.argv[1:] if argv is None else argv)]
    args = parser.parse_args(words)
    spec = replace(get_spec(args.dataset, args.data_root, args.lists), on_corrupt=args.on_corrupt)
    if spec.preset not in COMMON:
        raise ValueError(f'--dataset {args.dataset} asks for preset {spec.preset!r}, but {parser.prog} knows '
                         f'{", ".join(COMMON)}; name one of them as "preset" in a dataset.json')
    parser.set_defaults(**{key: value(spec) if callable(value) else value
                           for key, value in row_of(stage, spec.preset).items() if key in vars(args)})
    args = parser.parse_args(words)
    args.runs = (args.run if isinstance(args.run, list) else [args.run]) if args.run else [spec.name]
    if wrong := [run for run in args.runs if Path(run).name != run or run.startswith('.')]:
        raise ValueError(f'--run {wrong[0]} is not a plain name; use --exp for another folder of runs')
    args.run = args.runs[0]
    args.folder = args.exp / args.run
    args.affects = {action.dest: action.affects for action in parser._actions if hasattr(action, 'affects')}
    return args, spec


def plain_flag(word: str) -> str:
    """`--some_flag=a_b` as `--some-flag=a_b`, and a flag of RENAMED by its name here; every other word unchanged."""
    if not word.startswith('--'):
        return word
    flag, equals, value = word.partition('=')
    tool, colon, name = flag[2:].replace('_', '-').rpartition(':')
    return f'--{tool}{colon}{RENAMED.get(name, name)}{equals}{value}'


def settings(args: argparse.Namespace, kind: str | None = None) -> dict:
    """The settings that affect the results in a stage's files, as plain JSON values.

    Args:
        args: of resolve().
        kind: of output, if the stage makes several: flags that affect only others are omitted.
    """
    affects = getattr(args, 'affects', {})
    return {key: value for key, value in plain_args(args).items()
            if key != 'folder' and (affects.get(key) is None or kind in affects[key])}


def plain_args(args: argparse.Namespace) -> dict:
    """All settings of a script as JSON values."""
    return {key: list(value) if isinstance(value, tuple) else
            value if isinstance(value, list | int | float | str | None) else str(value)
            for key, value in vars(args).items() if key not in ('affects', 'runs')}
