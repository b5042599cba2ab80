"""Peak memory of infer_cam.py and eval.py on 50 and on 500 images: it should not grow with the number of images.

    python -m benchmarks.list_memory

Generates small images and a narrow network with random weights, and runs both scripts with one worker process. Prints
the peak resident memory of the largest of each script's processes, and exits with 1 if it grows by more than a tenth.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lib.data.registry import get_spec
from lib.data.toy import write_set
from lib.net.resnet38d import ResNet38d
from lib.net.seam import Seam
from lib.net.weights import save_network

ROOT = Path(__file__).parent.parent
WIDTH = 1 / 32
COUNTS = (50, 500)


def peak_of(words: list[str]) -> int:
    """Peak resident bytes of the largest process of a Python command (Linux).

    Raises:
        RuntimeError: if the command fails.
    """
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f'{" ".join(words)} ended with status {status}')
    return 1024 * usage.ru_maxrss


def main() -> int:
    """Measure both scripts; 1 if one of them grows."""
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder) / 'toy', train=max(COUNTS), val=1)
        data = Path(folder) / 'toy' / 'dataset.json'
        network = Seam(ResNet38d(WIDTH), get_spec(str(data)).num_classes)
        save_network(Path(folder) / 'exp/toy/cam/model.pth', network, {})
        common = ['--dataset', str(data), '--exp', f'{folder}/exp', '--run', 'toy', '--split', 'train',
                  '--workers', '1']
        scripts = {'infer_cam.py': ['--width', str(WIDTH), '--device', 'cpu', '--amp', 'none', '--scales', '0.5', '1',
                                    '--fresh'],
                   'eval.py': ['--what', 'cam']}
        grown = False
        for script, own in scripts.items():
            few, many = (peak_of([script, *common, *own, '--limit', str(count)]) for count in COUNTS)
            grown |= many > 1.1 * few
            print(f'{script}: {few / 1e6:.0f} MB on {COUNTS[0]} images, {many / 1e6:.0f} MB on {COUNTS[1]}', flush=True)
    return int(grown)


if __name__ == '__main__':
    sys.exit(main())
