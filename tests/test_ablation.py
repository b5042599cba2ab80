"""benchmarks/ablation.sh with a stand-in for Python."""
import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLAIN = {'seam': '--isl-weight 0 --no-fsl', 'isl': '--no-fsl', 'fsl': '--isl-weight 0', 'both': ''}


@pytest.fixture
def python(tmp_path):
    """An interpreter that notes its words and fails where $FAIL is among them."""
    path = tmp_path / 'python'
    path.write_text(f'#!/usr/bin/env bash\necho "$*" >> {shlex.quote(str(tmp_path / "calls"))}\n'
                    '[ -z "${FAIL:-}" ] || [[ "$*" != *"$FAIL"* ]] || exit 1\n'
                    'while [ $# -gt 0 ]; do case $1 in --exp) exp=$2 ;; --run) run=$2 ;; esac; shift; done\n'
                    '[ -z "${run:-}" ] || mkdir -p "$exp/$run"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def drive(python, *words, **environment):
    """(exit status, output, what the stand-in was called with)."""
    calls = python.with_name('calls')
    calls.unlink(missing_ok=True)
    place = ('--dataset', 'd.json', '--exp', str(python.parent / 'exp'))
    done = subprocess.run([ROOT / 'benchmarks/ablation.sh', *place, *words], capture_output=True, text=True, cwd='/',
                          env={**os.environ, 'PYTHON': str(python), **environment})
    return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines() if calls.exists() else []


def test_every_variant_of_every_seed_is_trained_inferred_and_scored(python):
    code, _, calls = drive(python, '--seeds', '4,5', '--infer', '--scales 1', '--max-steps', '9')
    exp, expected = python.parent / 'exp', []
    for seed in (4, 5):
        for variant, flags in PLAIN.items():
            place = f'--dataset d.json --exp {exp} --run ablation-{variant}-{seed}'
            expected += [' '.join(f'train_cam_voc.py {place} --seed {seed} {flags} --max-steps 9'.split()),
                         f'infer_cam.py {place} --split val --no-crf-seeds --scales 1',
                         f'eval.py --what cam {place} --split val']
    assert code == 0 and calls == [
        *expected, f'eval.py --table --dataset d.json --exp {exp} --run ablation-seam-* ablation-isl-* ablation-fsl-* '
        'ablation-both-*']


def test_finished_runs_are_not_done_again_and_an_interrupted_one_is(python):
    words = ('--seeds', '1', '--variants', 'seam,both')
    code, _, calls = drive(python, *words, FAIL='infer_cam.py --dataset d.json --exp '
                           f'{python.parent}/exp --run ablation-both')
    assert code == 1 and len(calls) == 5
    code, text, calls = drive(python, *words)
    assert code == 0 and 'ablation-seam-1 is finished' in text
    assert [call.split()[0] for call in calls] == ['train_cam_voc.py', 'infer_cam.py', 'eval.py', 'eval.py']


def test_other_settings_under_the_same_name_are_refused(python):
    drive(python, '--seeds', '1', '--variants', 'seam')
    code, text, calls = drive(python, '--seeds', '1', '--variants', 'seam', '--lr', '0.1')
    assert code == 2 and 'made with other settings; give another --name' in text and not calls


@pytest.mark.parametrize('words, message', [(('--variants', 'all'), 'all is not one of seam,isl,fsl,both'),
                                            (('--seeds',), '--seeds needs a value'),
                                            (('--no-fsl',), '--no-fsl is set by ablation.sh itself')])
def test_wrong_options_are_one_line_and_run_nothing(python, words, message):
    code, text, calls = drive(python, *words)
    assert code == 2 and text.startswith('error: ') and message in text and text.count('\n') == 1 and not calls


def test_a_dry_run_prints_the_commands_alone(python):
    code, text, calls = drive(python, '--dry-run', '--seeds', '1')
    assert code == 0 and not calls and text.count('train_cam_voc.py') == len(PLAIN)
