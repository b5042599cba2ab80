"""Pictures that turn out to be damaged in the middle of a run: named, and skipped and counted where that is chosen."""
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import infer_aff
import train_aff
from tests.running import LOADED_HERE, NETWORK, TRAINING, place


@pytest.fixture
def spoilt(toy, tmp_path):
    """A copy of the toy set with a picture that only reading it to its end shows to be damaged."""
    shutil.copytree(toy.parent, tmp_path / 'data')
    path = tmp_path / 'data/images/train_00004.jpg'
    content = bytearray(path.read_bytes())
    table = content.index(b'\xff\xc4') + 5                  # the lengths of the first Huffman code
    content[table:table + 16] = b'\xff' * 16
    path.write_bytes(content)
    return tmp_path / 'data/dataset.json'


@pytest.mark.parametrize('workers', ['0', '1'])
def test_training_stops_or_takes_the_next_picture_and_counts(run_folder, spoilt, tmp_path, capsys, workers):
    words = [*place(spoilt, tmp_path), *TRAINING, '--weights', 'none', '--seed-dir',
             str(run_folder / 'labels/train/seeds'), '--workers', workers, '--picture-every', '0']
    with pytest.raises(ValueError, match=r'train_00004\.jpg is no readable picture'):
        train_aff.main([*words, '--run', 'stops'])
    train_aff.main([*words, '--on-corrupt', 'skip'])
    assert 'skipped at step' in capsys.readouterr().out
    count = int((tmp_path / 'toy/aff/log.txt').read_text().rpartition('skipped: ')[2])
    assert count >= 1


def test_a_script_that_met_a_damaged_picture_ends(run_folder, spoilt, tmp_path):
    words = [*place(spoilt, tmp_path), *TRAINING, '--weights', 'none', '--seed-dir',
             str(run_folder / 'labels/train/seeds'), '--workers', '1', '--picture-every', '0']
    done = subprocess.run([sys.executable, 'train_aff.py', *words], capture_output=True, text=True, timeout=120,
                          cwd=Path(__file__).parent.parent)
    assert done.returncode == 2 and 'error: ' in done.stderr and 'train_00004.jpg' in done.stderr


def test_inference_stops_or_leaves_the_picture_out_and_counts(run_folder, spoilt, tmp_path, capsys):
    words = [*place(spoilt, tmp_path), *LOADED_HERE, *NETWORK, '--cams', str(run_folder / 'labels/train/cam'),
             '--checkpoint', str(run_folder / 'aff/model.pth')]
    with pytest.raises(ValueError, match=r'train_00004\.jpg is no readable picture'):
        infer_aff.main(words)
    infer_aff.main([*words, '--on-corrupt', 'skip'])
    text = capsys.readouterr().out
    assert '1 images were skipped and have no file' in text and 'train_00004.jpg' in text
    assert len(list((tmp_path / 'toy/labels/train/walk').glob('*.png'))) == 11
