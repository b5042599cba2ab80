"""Kill every command with SIGKILL at random moments, run it again each time, and compare the end with an unbroken run.

    python -m tests.fault --kills 40 --folder /tmp/fault

Draws small data sets, runs all commands once without a break and once with kills, and compares the results byte for
byte. Half of the kills of a command wait for a temporary file: they hit while a checkpoint or a label file is being
written. Prints a line per kill; exits with 1 where a byte differs, a process outlives the one that started it, or a
temporary file is left over.
"""
import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from lib.data.toy import write_set
from tests.coco_toy import write_archives as write_coco
from tests.running import CAM_TRAINING, HEAD, NETWORK, SCALES, TRAINING, place
from tests.test_config_voc import write_archives as write_voc

ROOT = Path(__file__).parent.parent
COMPARED = ('model.pth', 'metrics.jsonl', '*.npz', '*.png')     # the other files of a run tell times and versions
ORPHAN = 5              # seconds that a worker has to notice that its parent process has ended


def commands(data: Path, steps: int) -> list[list[str]]:
    """The commands in order, as words after the interpreter, for a folder of their own; a driver is one more row."""
    common = [*place(data / 'toy/dataset.json', Path()), '--workers', '1']
    save = ['--save-every', '2', '--picture-every', '0', '--max-steps', str(steps), '--epochs', '1000']
    weights = ['--weights', 'toy/backbone/model.pth']
    splits = [['--split', split] for split in ('val', 'train')]
    voc, coco = (['--part', '--workers', '1', '--archives', str(data / name), '--data-root', f'sets/{name}/data',
                  '--lists', f'sets/{name}/lists'] for name in ('voc', 'coco'))
    stages = [['pretrain_toy.py', *common, *NETWORK, '--batch-size', '16', '--close-ups', '64', '--close-up-epochs',
               '3', '--whole-epochs', '3', '--whole-batch-size', '4', '--save-every', '2'],
              ['train_cam_voc.py', *common, *CAM_TRAINING, *save, *weights],
              *(['infer_cam.py', *common, *NETWORK, *SCALES, *split] for split in splits),
              ['train_aff.py', *common, *TRAINING, *save, *weights],
              *(['infer_aff.py', *common, *NETWORK, *split] for split in splits),
              ['train_seg.py', *common, *TRAINING, *HEAD, *save[:-2], *weights],
              *(['infer_seg.py', *common, *NETWORK, *HEAD, *SCALES, *split] for split in splits)]
    return [['-m', 'lib.data.toy', '--out', 'sets/toy', '--train', '12', '--val', '6'],
            ['-m', 'lib.own', str(data / 'toy/images'), str(data / 'own.csv'), '--out', 'sets/own/my.json'],
            ['-m', 'voc12.config', *voc], ['-m', 'coco.config', *coco],
            *([str(ROOT / script), *words] for script, *words in stages)]


def write_data(folder: Path) -> None:
    """What the commands read."""
    write_set(folder / 'toy', seed=0, train=12, val=6)
    rows = [line.split('\t') for line in (folder / 'toy/lists/labels.txt').read_text().splitlines()]
    (folder / 'own.csv').write_text('image,labels\n' + ''.join(f'{name}.jpg,{";".join(labels)}\n'
                                                               for name, *labels in rows))
    write_voc(folder / 'voc', [f'2008_{number:06d}' for number in range(150)])
    write_coco(folder / 'coco', train=40, val=12)


def start(words: list[str], folder: Path = ROOT) -> subprocess.Popen:
    """Start a command in a folder, in a process group of its own."""
    return subprocess.Popen([sys.executable, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, start_new_session=True,
                            env={**os.environ, 'HFPL_DEBUG': '1', 'PYTHONPATH': str(ROOT)})


def finish(words: list[str], folder: Path) -> float:
    """Run a command to its end; seconds taken."""
    began, process = time.monotonic(), start(words, folder)
    output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f'{name_of(words)} ended with {process.returncode}:\n{output}')
    return time.monotonic() - began


def kill_once(words: list[str], run: Path, seconds: float, while_writing: bool, rng: random.Random,
              folder: Path = ROOT) -> str | None:
    """Start a command and kill it; what it was killed in, None if it was finished before.

    Raises:
        SystemExit: if a process outlives it.
    """
    share = rng.uniform(0, 0.8) if while_writing else rng.uniform(0.3, 1)
    process, moment, found = start(words, folder), time.monotonic() + share * seconds, ''
    while process.poll() is None and not found:
        if time.monotonic() > moment:
            drafts = [path.name for path in run.rglob('.*.tmp')] if while_writing else []
            found = 'at a random moment' if not while_writing else f'while {drafts[0]} was written' if drafts else ''
        time.sleep(0.0005 if while_writing else 0.01)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + ORPHAN
    while orphans := members(process.pid):
        if time.monotonic() > until:
            os.killpg(process.pid, signal.SIGKILL)
            raise SystemExit(f'{name_of(words)}: the processes {orphans} outlive the killed one')
        time.sleep(0.05)
    process.communicate()
    return found if alive else None


def members(group: int) -> list[int]:
    """Numbers of the processes of a group that are alive."""
    found = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            state, _, of_group = path.read_text().rpartition(')')[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of_group) == group and state != 'Z':
            found.append(int(path.parent.name))
    return found


def contents(run: Path, patterns: tuple[str, ...] = COMPARED) -> dict[str, bytes]:
    """Bytes of all that must be equal, by place."""
    return {str(path.relative_to(run)): path.read_bytes() for pattern in patterns for path in run.rglob(pattern)
            if path.is_file() and not path.name.startswith('.')}


def results(folder: Path) -> dict[str, bytes]:
    """Bytes of all that the commands make, without the name of the folder, which some write down."""
    found = {**contents(folder / 'toy'), **contents(folder / 'sets', ('*',))}
    return {place: content.replace(os.fsencode(folder), b'') for place, content in found.items()}


def name_of(words: list[str]) -> str:
    """What a command is called."""
    return words[1] if words[0] == '-m' else Path(words[0]).name


def main(argv: list[str] | None = None) -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=24, help='how many, spread over the commands')
    parser.add_argument('--steps', type=int, default=12, help='of each training stage')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument('--folder', type=Path, required=True, help='an empty folder')
    args = parser.parse_args(argv)
    rng, folder, kills = random.Random(args.seed), args.folder.resolve(), 0
    whole, broken = folder / 'whole', folder / 'broken'
    for path in (whole, broken, folder / 'data'):
        path.mkdir(parents=True)
    write_data(folder / 'data')
    rows = commands(folder / 'data', args.steps)
    seconds = [finish(words, whole) for words in rows]
    print(f'unbroken run: {len(rows)} commands, {sum(seconds):.0f} s', flush=True)
    for number, (words, took) in enumerate(zip(rows, seconds)):
        for attempt in range(-(-(args.kills - kills) // (len(rows) - number))):
            where = kill_once(words, broken, took, attempt % 2 == 1, rng, broken)
            if where:
                kills += 1
                print(f'kill {kills}: {name_of(words)} {where}', flush=True)
        finish(words, broken)
    ours, theirs = results(broken), results(whole)
    differing = sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))
    leftovers = sorted({path.name for path in broken.rglob('.*')} - {path.name for path in whole.rglob('.*')})
    print(f'{kills} kills; {len(theirs)} files compared, {len(differing)} differ: {differing[:5]}')
    print(f'temporary files and locks left over: {leftovers}')
    sys.exit(bool(differing or leftovers))


if __name__ == '__main__':
    main()
