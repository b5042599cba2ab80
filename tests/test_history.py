"""Random histories, and those that once went wrong. See tests/history.py, which plays more of them by hand."""
import pytest

from tests.history import CHAIN, Lab, command, run_histories
from tests.history_world import drawn

SECONDS = 25            # of random histories
SKIP = ('--on-corrupt', 'skip')


@pytest.fixture(scope='module')
def lab():
    with Lab(SECONDS, torchrun=False) as lab:
        yield lab


def test_whatever_was_done_before_a_command_makes_what_a_clean_run_on_its_inputs_makes(lab):
    run_histories(lab, examples=60, steps=12, derandomize=True)
    assert lab.counts['done'] > 12, lab.counts


def test_what_was_made_of_an_image_that_is_corrupt_now_is_left_out_by_all_stages(lab):
    world = lab.world(finished=True)
    world.write('data/images/train_1.jpg', drawn('train', 1, 0)[0][:4000])
    assert world.run(command('infer_cam', 'train', *SKIP)) == 0
    assert [world.run(command(stage, 'train', *SKIP), fresh=True) for stage in CHAIN[2:]] == [0] * 4
    assert not list(world.root.glob('exp/toy/labels/train/*/train_1.*'))


def test_a_killed_training_is_finished_by_two_processes_of_torchrun(lab):
    world, killed = lab.world(finished=False), command('train_cam', 'train', '--save-every', '1')
    assert world.run(killed, kill_at=60) == -9 and (world.root / 'exp/toy/cam/last.pth').exists()
    assert world.run(killed, processes=2, launcher=True) == 0


def test_a_test_of_histories_sees_a_stale_file(lab, monkeypatch):
    world = lab.world(finished=True)
    run = world.forks.run

    def without_effect(script, words, cwd, **how):
        return run('eval', ['--help'], cwd) if cwd == world.root else run(script, words, cwd, **how)

    monkeypatch.setattr(world.forks, 'run', without_effect)
    world.write('data/images/train_1.jpg', drawn('train', 1, 1)[0], keep_time=True)
    with pytest.raises(AssertionError, match='these differ from a clean run: .*train_1.npz'):
        world.run(command('infer_cam'))


def test_images_of_all_versions_have_one_size():
    sizes = {tuple(map(len, drawn('train', index, version)[:2])) for index in range(4) for version in range(8)}
    assert len(sizes) == 1
    assert len({drawn('train', 0, version)[0] for version in range(8)}) == 8
