"""The training loop, on a network of a few numbers: what it records, how it resumes, when it stops."""
import argparse
import json
import os
import signal
from functools import partial

import pytest
import torch
from torch import nn

from lib.files.torchfile import write_torch
from lib.net.freeze import BatchDropout
from lib.process.ending import Stopped
from lib.run import loop
from lib.run.lock import lock_folder
from lib.run.loop import Run, Terms, train
from tests.running import another_run, no_signal_gets_out
from tool.torchutils import due, step_seed

STEPS = 10
LR = 0.1


class Killed(BaseException):
    """In place of SIGKILL."""


class Task:
    """A linear network with dropout, momentum and a falling rate; batches come from their index alone."""

    def __init__(self, folder, inputs=None, classes=('a', 'b'), **changes):
        self.args = argparse.Namespace(**{'seed': 1, 'fresh': False, 'amp': 'none', 'log_every': 2, 'save_every': 4,
                                          'save_minutes': 1e9, 'accumulate': 1,
                                          'picture_every': 0, 'batch_size': 3, 'lr': LR, **changes})
        self.folder = folder
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 8), BatchDropout(0.5), nn.Linear(8, 1))
        self.optimizer = torch.optim.SGD([{'params': list(self.network.parameters()), 'base_lr': LR}], lr=LR,
                                         momentum=0.9)
        self.seen, self.rates = [], []
        settings = {key: getattr(self.args, key, None) for key in ('seed', 'lr', 'batch_size', 'extra')}
        self.origin = {'settings': settings, 'classes': list(classes),
                       'inputs': inputs or {'weights': 'aa', 'images': 'b'}}

    def batches(self, start, stop=None, broken=None, killed=None):
        for index in range(start, STEPS):
            if index == stop:
                raise Killed
            if killed and index == killed[0]:
                os.kill(os.getpid(), killed[1])
            self.seen.append(index)
            image = torch.randn(self.args.batch_size, 4, generator=torch.Generator().manual_seed(index))
            names = ['a', 'b', f'c{index}'][:self.args.batch_size]
            yield {'image': image * float('nan') if index == broken else image, 'name': names}

    def step(self, batch):
        self.rates.append(self.optimizer.param_groups[0]['lr'])
        loss = (self.network(batch['image']) - 1).square().mean()
        return {'loss': loss, 'half': loss / 2}

    def run(self, pictures=None, save=True, **faults):
        with no_signal_gets_out():
            run = Run(self.args, self.folder, self.network, self.optimizer, STEPS, torch.device('cpu'), self.origin,
                      save=self.save if save else None, pictures=pictures)
            train(run, step=self.step, batches=lambda start: self.batches(start, **faults),
                  lr_factor=lambda step: 1 - step / STEPS)
        return self

    def save(self, path, origin):
        write_torch(path, {'state_dict': self.network.state_dict(), 'meta': {'origin': origin}})

    def metrics(self):
        return [json.loads(line) for line in (self.folder / 'metrics.jsonl').read_text().splitlines()]

    def checkpoint(self):
        return torch.load(self.folder / 'last.pth', weights_only=True)


def flat(state):
    """All tensors and numbers of a checkpoint in order."""
    if isinstance(state, dict):
        return [part for key in sorted(state, key=str) for part in flat(state[key])]
    if isinstance(state, list | tuple):
        return [part for item in state for part in flat(item)]
    return [state.tolist() if isinstance(state, torch.Tensor) else state]


def contents(folder):
    """All files of a run, byte for byte."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    return Task(tmp_path_factory.mktemp('whole')).run()


@pytest.mark.parametrize('stop', [1, 4, 5, 9])
def test_resumed_run_equals_uninterrupted_run_bit_for_bit(whole, tmp_path, stop):
    with pytest.raises(Killed):
        Task(tmp_path).run(stop=stop)
    again = Task(tmp_path).run()
    assert again.seen[0] == stop // 4 * 4
    assert flat(again.checkpoint()) == flat(whole.checkpoint())
    assert (tmp_path / 'model.pth').read_bytes() == (whole.folder / 'model.pth').read_bytes()
    assert again.metrics() == whole.metrics()
    assert ('resumed after step' in (tmp_path / 'log.txt').read_text()) == (stop >= 4)


def test_another_seed_is_another_run(whole, tmp_path):
    other = Task(tmp_path, seed=2).run()
    assert other.metrics() != whole.metrics()
    assert len({step_seed(seed, step) for seed in (0, 1, 2) for step in range(1000)}) == 3000


def test_records_are_means_since_the_last_record(whole, tmp_path):
    every = Task(tmp_path, log_every=1, save_every=100).run().metrics()
    assert [row['step'] for row in every] == list(range(1, STEPS + 1))
    assert [row['step'] for row in whole.metrics()] == [2, 4, 6, 8, 10]
    for row in whole.metrics():
        pair = [one for one in every if one['step'] in (row['step'] - 1, row['step'])]
        assert row['loss'] == pytest.approx(sum(one['loss'] for one in pair) / 2, abs=1e-6)
        assert row['half'] == pytest.approx(row['loss'] / 2, abs=1e-6)


def test_the_learning_rate_of_each_step_is_its_factor_of_the_base(whole):
    assert whole.rates == pytest.approx([LR * (1 - step / STEPS) for step in range(STEPS)])
    assert whole.metrics()[-1]['lr'] == pytest.approx(whole.rates[-1])


@pytest.mark.parametrize('broken', [4, 5, 6])
def test_a_loss_that_is_not_finite_stops_the_run_and_the_last_good_checkpoint_stays(whole, tmp_path, broken):
    with pytest.raises(ValueError, match=rf'loss term loss, half is not finite at step {broken + 1} '
                                         rf'\(samples a, b, c{broken}\): lower --lr'):
        Task(tmp_path).run(broken=broken)
    kept = Task(tmp_path).checkpoint()
    assert kept['step'] == 4 and all(tensor.isfinite().all() for tensor in kept['network'].values())
    mended = Task(tmp_path).run()
    assert flat(mended.checkpoint()) == flat(whole.checkpoint()) and mended.metrics() == whole.metrics()


def test_a_checkpoint_is_never_written_from_a_loss_that_is_not_finite(tmp_path):
    with pytest.raises(ValueError, match='loss term loss'):
        Task(tmp_path, log_every=100, save_every=1).run(broken=0)
    assert not (tmp_path / 'last.pth').exists()


def test_a_finished_run_is_left_alone_with_and_without_its_checkpoint(tmp_path, capsys):
    Task(tmp_path).run()
    for _ in range(2):
        before = contents(tmp_path)
        assert not Task(tmp_path).run().seen and contents(tmp_path) == before
        assert 'model.pth is already trained: nothing to do (--fresh starts over)' in capsys.readouterr().out
        (tmp_path / 'last.pth').unlink(missing_ok=True)


def test_a_run_killed_before_its_network_was_written_writes_it_without_training(whole, tmp_path):
    Task(tmp_path).run()
    (tmp_path / 'model.pth').unlink()
    again = Task(tmp_path).run()
    assert not again.seen and contents(tmp_path)['model.pth'] == contents(whole.folder)['model.pth']


def test_a_training_that_is_part_of_another_leaves_no_network(tmp_path):
    Task(tmp_path).run(save=False)
    assert not Task(tmp_path).run(save=False).seen and not (tmp_path / 'model.pth').exists()


OTHER = [({'lr': 0.2, 'batch_size': 6}, '--batch-size was 3, is 6, --lr was 0.1, is 0.2'),
         ({'extra': 1}, '--extra was None, is 1'), ({'classes': ('b', 'a')}, 'the classes were a b, are b a'),
         ({'inputs': {'weights': 'cc', 'images': 'b'}}, 'other weights')]


@pytest.mark.parametrize('removed', [None, 'last.pth', 'model.pth'])
def test_changed_settings_or_inputs_are_refused_with_the_difference_and_nothing_is_lost(tmp_path, removed):
    Task(tmp_path).run()
    if removed:
        (tmp_path / removed).unlink()
    before = contents(tmp_path)
    for changes, words in OTHER:
        with pytest.raises(ValueError, match=rf'settings or inputs \({words}\); use --fresh to regenerate it, or '
                                             '--run NAME to keep both'):
            Task(tmp_path, **changes).run()
    assert contents(tmp_path) == before


def test_settings_of_place_and_speed_may_change(whole, tmp_path):
    with pytest.raises(Killed):
        Task(tmp_path).run(stop=5)
    again = Task(tmp_path, workers=3, device='cpu', run='other', log_every=2).run()
    assert flat(again.checkpoint()) == flat(whole.checkpoint())


def test_a_run_says_what_it_is_made_from(whole):
    env = json.loads((whole.folder / 'env.json').read_text())
    assert env['settings']['lr'] == LR and env['classes'] == ['a', 'b'] and env['inputs'] == whole.origin['inputs']
    assert torch.load(whole.folder / 'model.pth', weights_only=True)['meta']['origin'] == whole.origin


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    Task(tmp_path).run(save=False)
    other = Task(tmp_path)
    other.network[2] = nn.Linear(8, 2)
    with pytest.raises(ValueError, match=r'last\.pth belongs to a different network; use --fresh'):
        other.run()


def test_fresh_starts_over(whole, tmp_path):
    Task(tmp_path, lr=0.2).run()
    again = Task(tmp_path, fresh=True).run()
    assert again.seen[0] == 0 and again.metrics() == whole.metrics()
    assert contents(tmp_path)['model.pth'] == contents(whole.folder)['model.pth']
    assert len(list(tmp_path.glob('events.out.tfevents.*'))) == 1


@pytest.mark.parametrize('changes', [{}, {'lr': 0.2}])
def test_a_fresh_run_stopped_midway_leaves_no_former_network_and_resumes_its_own(whole, tmp_path, changes):
    Task(tmp_path, **changes).run()
    with pytest.raises(Killed):
        Task(tmp_path, fresh=True).run(stop=2)
    assert not contents(tmp_path).keys() & {'model.pth', 'last.pth'}
    with pytest.raises(Killed):
        Task(tmp_path).run(stop=6)
    assert not (tmp_path / 'model.pth').exists()
    again = Task(tmp_path).run()
    assert again.seen[0] == 4 and again.metrics() == whole.metrics()


@pytest.mark.parametrize('variable', ['TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT'])
def test_fresh_has_its_effect_once_where_a_run_is_started_again(whole, tmp_path, monkeypatch, variable):
    with pytest.raises(Killed):
        Task(tmp_path, fresh=True).run(stop=5)
    monkeypatch.setenv(variable, '1')
    again = Task(tmp_path, fresh=True).run()
    assert again.seen[0] == 4 and again.metrics() == whole.metrics()


@pytest.mark.parametrize('fresh', [False, True])
@pytest.mark.parametrize('name', ['model.pth', 'last.pth'])
def test_a_network_or_checkpoint_of_others_is_refused_and_kept(tmp_path, name, fresh):
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'epoch': 7}, tmp_path / name)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f'{name} (is not a checkpoint|does not say what it was trained on).* move it'):
        Task(tmp_path, fresh=fresh).run()
    assert contents(tmp_path) == before


@pytest.mark.parametrize('changes', [{}, {'lr': 0.2}, {'fresh': True}])
def test_a_second_run_is_refused_while_the_first_lives(tmp_path, monkeypatch, changes):
    Task(tmp_path).run()
    monkeypatch.setattr(loop, 'lock_folder', partial(lock_folder, patience=0))
    with another_run(tmp_path):
        before = contents(tmp_path)
        with pytest.raises(ValueError, match=f'{tmp_path} is in use by process'):
            Task(tmp_path, **changes).run()
        assert contents(tmp_path) == before


def test_pictures_are_made_when_due_and_at_the_end(tmp_path):
    made = []

    def pictures():
        made.append(len(task.seen))
        return {'some': torch.zeros(2, 2, 3, dtype=torch.uint8).numpy()}

    task = Task(tmp_path / 'a', picture_every=4)
    task.run(pictures)
    assert made == [4, 8, 10]


def test_due_counts_whole_multiples_and_zero_is_never():
    assert [step for step in range(1, 10) if due(step, 4)] == [4, 8]
    assert not any(due(step, 0) for step in range(1, 10))


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_after_the_running_step_and_the_same_command_goes_on_there(whole, tmp_path, number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=rf'stopped by {number.name} after step 6 of 10, saved in .*last\.pth; the same'):
        Task(tmp_path, save_every=0).run(killed=(5, number))
    assert signal.getsignal(number) == before and not (tmp_path / 'model.pth').exists()
    again = Task(tmp_path).run()
    assert again.seen[0] == 6 and flat(again.checkpoint()) == flat(whole.checkpoint())
    assert again.metrics() == whole.metrics()
    assert f'stopped by {number.name} after step 6' in (tmp_path / 'log.txt').read_text()


def test_checkpoints_are_made_by_the_clock(whole, tmp_path):
    with pytest.raises(Killed):
        Task(tmp_path, save_every=0, save_minutes=0).run(stop=7)
    again = Task(tmp_path, save_every=0).run()
    assert again.seen[0] == 7 and again.metrics() == whole.metrics()


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path):
    task = Task(tmp_path)
    task.network.register_buffer('extra', torch.tensor([1.0, float('inf')]))
    with pytest.raises(ValueError, match='a weight is not finite after step 4: lower --lr'):
        task.run()
    assert not (tmp_path / 'last.pth').exists()


def test_the_first_step_that_is_not_finite_is_found_later():
    """As on a GPU, where nobody looks at every step."""
    terms = Terms(torch.device('cpu'))
    for step, (bg, fg) in enumerate([(1., 1.), (1., float('inf')), (float('nan'), 1.)], 1):
        terms.add(step, {'bg': torch.tensor(bg), 'fg': torch.tensor(fg)}, [f'image{step}'])
    assert terms.problem() == 'loss term fg is not finite at step 2 (samples image2)'


def test_a_batch_in_several_passes_gives_the_same_network(tmp_path):
    one, two = (Task(tmp_path / str(n), batch_size=4, accumulate=n).run() for n in (1, 2))
    for first, second in zip(one.network.parameters(), two.network.parameters()):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-7)
    assert two.metrics()[-1]['loss'] == pytest.approx(one.metrics()[-1]['loss'], rel=1e-5)
