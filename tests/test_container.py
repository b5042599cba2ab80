"""The container's recipe and the job script for a cluster, as far as they can be read and run without either."""
import math
import os
import re
import subprocess
from pathlib import Path

import pytest

import train_aff
import train_cam_voc
import train_seg

ROOT = Path(__file__).parent.parent
SHELL = ('post', 'environment', 'test', 'runscript')


def read_recipe(path):
    """(header, sections) of a definition file: the keys before the first section, and each section's text by name."""
    head, *parts = re.split(r'^%(\w+)[ \t]*\n', path.read_text(), flags=re.MULTILINE)
    header = dict(line.split(': ', 1) for line in head.splitlines() if line.strip() and not line.startswith('#'))
    assert len(set(parts[::2])) == len(parts[::2])
    return header, dict(zip(parts[::2], parts[1::2]))


@pytest.fixture(scope='module')
def recipe():
    return read_recipe(ROOT / 'pytorch.def')


def test_the_recipe_has_all_its_sections(recipe):
    header, sections = recipe
    assert set(header) == {'Bootstrap', 'From'} and header['Bootstrap'] == 'docker'
    assert set(sections) == {'files', 'labels', 'help', *SHELL} and all(text.strip() for text in sections.values())


def test_every_file_that_goes_in_is_there_and_no_script_is_forgotten(recipe):
    names = [line.split()[0] for line in recipe[1]['files'].splitlines() if line.strip()]
    assert all(line.split()[1] == '/opt/hfpl/' for line in recipe[1]['files'].splitlines() if line.strip())
    assert all((ROOT / name).exists() for name in names)
    assert {path.name for path in ROOT.glob('*.py')} <= set(names)
    assert {path.parent.name for path in ROOT.glob('*/__init__.py')} <= set(names)


@pytest.mark.parametrize('name', SHELL)
def test_sections_are_valid_for_a_plain_shell(recipe, name):
    done = subprocess.run(['sh', '-n'], input=recipe[1][name], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_environment_is_the_pinned_one(recipe):
    assert '-r /opt/hfpl/requirements.txt' in recipe[1]['post']
    for name in ('requirements.txt', 'requirements-dev.txt', 'requirements-mxnet.txt'):
        lines = [line.partition('#')[0].strip() for line in (ROOT / name).read_text().splitlines()]
        assert all(re.fullmatch(r'[\w-]+==[\d.]+', line) for line in lines if line)


def test_the_tests_in_the_image_are_tests_of_ours(recipe):
    names = re.findall(r'tests/\w+\.py', recipe[1]['test'])
    assert len(names) > 3 and all((ROOT / name).is_file() for name in names)


def test_the_image_runs_the_command_it_is_given(recipe, tmp_path):
    script = tmp_path / 'runscript'
    script.write_text('#!/bin/sh\n' + recipe[1]['runscript'])
    done = subprocess.run(['sh', script, 'echo', 'a b', 'c'], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, 'a b c\n')
    done = subprocess.run(['sh', script], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith('usage: ')


def test_the_labels_are_pairs(recipe):
    assert all(len(line.split(maxsplit=1)) == 2 for line in recipe[1]['labels'].splitlines() if line.strip())


def test_the_job_starts_run_voc_in_the_container_with_all_gpus_of_the_node(tmp_path):
    stub = tmp_path / 'apptainer'
    stub.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    stub.chmod(0o755)
    job = ROOT / 'examples/slurm/run_voc_one_node.sh'
    environment = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_SUBMIT_DIR': str(ROOT),
                   'SLURM_GPUS_ON_NODE': '4', 'DATA': '/scratch/my data'}
    done = subprocess.run([job, '--seed', '2'], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == [
        'run', '--nv', '--bind', str(ROOT), '--bind', '/scratch/my data', 'hfpl.sif', './run_voc.sh', '--data-root',
        '/scratch/my data/VOCdevkit/VOC2012', '--gpus', '4', '--seed', '2'], done.stderr
    del environment['DATA']
    done = subprocess.run([job], capture_output=True, text=True, env=environment)
    assert done.returncode != 0 and 'set DATA to the folder that holds VOCdevkit' in done.stderr
    for setting in ('--nodes=1', '--gpus-per-node=', '--time='):
        assert f'#SBATCH {setting}' in job.read_text()


@pytest.mark.parametrize('name', ['run_voc_one_node', 'run_voc_nodes'])
def test_all_gpus_of_a_job_can_share_the_published_batches(name):
    text = (ROOT / f'examples/slurm/{name}.sh').read_text()
    gpus = math.prod(int(re.search(rf'^#SBATCH --{flag}=(\d+)$', text, re.MULTILINE)[1])
                     for flag in ('nodes', 'gpus-per-node'))
    for script in (train_cam_voc, train_aff, train_seg):
        assert gpus > 1 and script.make_parser().get_default('batch_size') % gpus == 0
