"""Kill every stage with SIGKILL at random moments, run it again each time, and compare the end with an unbroken run.

    python -m tests.fault --kills 24 --folder /tmp/fault

Draws a toy set, runs all stages once without a break and once with kills, and compares every model.pth, label file and
metrics.jsonl byte for byte. Half of the kills of a stage wait for a temporary file: they hit while a checkpoint or a
label file is being written. Prints a line a kill; exits with 1 where a byte differs.
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
from tests.running import CAM_TRAINING, HEAD, NETWORK, SCALES, TRAINING, place

ROOT = Path(__file__).parent.parent
COMPARED = ('model.pth', 'metrics.jsonl', '*.npz', '*.png')


def commands(data: Path, exp: Path, steps: int) -> list[list[str]]:
    """The stages in order, as words after the interpreter."""
    common = [*place(data / 'dataset.json', exp), '--workers', '1']
    save = ['--save-every', '2', '--picture-every', '0', '--max-steps', str(steps), '--epochs', '1000']
    weights = ['--weights', str(exp / 'toy/backbone/model.pth')]
    splits = [['--split', split] for split in ('val', 'train')]
    return [['pretrain_toy.py', *common, *NETWORK, '--batch-size', '16', '--close-ups', '64', '--close-up-epochs', '3',
             '--whole-epochs', '3', '--whole-batch-size', '4', '--save-every', '2'],
            ['train_cam_voc.py', *common, *CAM_TRAINING, *save, *weights],
            *(['infer_cam.py', *common, *NETWORK, *SCALES, *split] for split in splits),
            ['train_aff.py', *common, *TRAINING, *save, *weights],
            *(['infer_aff.py', *common, *NETWORK, *split] for split in splits),
            ['train_seg.py', *common, *TRAINING, *HEAD, *save[:-2], *weights],
            *(['infer_seg.py', *common, *NETWORK, *HEAD, *SCALES, *split] for split in splits)]


def start(words: list[str]) -> subprocess.Popen:
    """Start a stage."""
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, env={**os.environ, 'HFPL_DEBUG': '1'})


def finish(words: list[str]) -> float:
    """Run a stage to its end; seconds taken."""
    began, process = time.monotonic(), start(words)
    output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f'{words[0]} ended with {process.returncode}:\n{output}')
    return time.monotonic() - began


def kill_once(words: list[str], run: Path, seconds: float, while_writing: bool, rng: random.Random) -> str | None:
    """Start a stage and kill it; what it was killed in, None if it was finished before."""
    share = rng.uniform(0, 0.8) if while_writing else rng.uniform(0.3, 1)
    process, moment, found = start(words), time.monotonic() + share * seconds, ''
    while process.poll() is None and not found:
        if time.monotonic() > moment:
            drafts = [path.name for path in run.rglob('.*-*.*') if path.suffix in ('.pth', '.npz', '.png')]
            found = 'at a random moment' if not while_writing else f'while {drafts[0]} was written' if drafts else ''
        time.sleep(0.0005 if while_writing else 0.01)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return found if alive else None


def contents(run: Path) -> dict[str, bytes]:
    """Bytes of all that must be equal, by place."""
    return {str(path.relative_to(run)): path.read_bytes() for pattern in COMPARED for path in run.rglob(pattern)
            if not path.name.startswith('.')}


def main(argv: list[str] | None = None) -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=24, help='how many, spread over the stages')
    parser.add_argument('--steps', type=int, default=12, help='of each training stage')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument('--folder', type=Path, required=True, help='an empty folder')
    args = parser.parse_args(argv)
    rng, folder = random.Random(args.seed), args.folder.resolve()
    write_set(folder / 'data', seed=0, train=12, val=6)
    whole, broken = (commands(folder / 'data', folder / name, args.steps) for name in ('whole', 'broken'))
    seconds = [finish(words) for words in whole]
    print(f'unbroken run: {len(whole)} commands, {sum(seconds):.0f} s', flush=True)
    kills = 0
    for number, (words, took) in enumerate(zip(broken, seconds)):
        for attempt in range(-(-(args.kills - kills) // (len(broken) - number))):
            where = kill_once(words, folder / 'broken', took, attempt % 2 == 1, rng)
            if where:
                kills += 1
                print(f'kill {kills}: {words[0]} {where}', flush=True)
        finish(words)
    ours, theirs = contents(folder / 'broken/toy'), contents(folder / 'whole/toy')
    differing = sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))
    leftovers = [str(path) for path in folder.rglob('.*') if '.whole-' not in path.name]
    print(f'{kills} kills; {len(theirs)} files compared, {len(differing)} differ: {differing[:5]}')
    print(f'temporary files and locks left over: {leftovers}')
    sys.exit(bool(differing))


if __name__ == '__main__':
    main()
