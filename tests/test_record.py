import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lib.files.jsonfile import write_json
from lib.run.record import CPU_FLAGS, Record, add_score, environment, git_state, read_scores, write_made_by
from tests.running import APART, score_record

ARGS = argparse.Namespace(amp='none', lr=0.1, folder=Path('exp/toy'), scale=(0.5, 1.5), given=[1, 2], run=None,
                          fsl=True)
CPU = torch.device('cpu')


def recorded(folder, first, last, step=0):
    record = Record(folder, ARGS, CPU, step)
    for number in range(first, last + 1):
        record.scalars(number, {'loss': number / 10, 'lr': 0.5})
    return record


def steps(folder):
    return [json.loads(line)['step'] for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def events(folder):
    board = EventAccumulator(str(folder))
    board.Reload()
    return board


def test_a_run_explains_itself(tmp_path):
    recorded(tmp_path, 1, 3).close('finished')
    args = json.loads((tmp_path / 'args.json').read_text())
    assert args == {'amp': 'none', 'lr': 0.1, 'folder': 'exp/toy', 'scale': [0.5, 1.5], 'given': [1, 2], 'run': None,
                    'fsl': True}
    env = json.loads((tmp_path / 'env.json').read_text())
    assert env['torch'] == torch.__version__ and env['device'] == 'cpu' and env['gpu'] is None and env['command']
    log = (tmp_path / 'log.txt').read_text().splitlines()
    assert len(log) == 2 and ' started ' in log[0] and log[1].endswith(' finished')


def test_the_environment_names_cpu_flags_threads_and_arithmetic():
    env = environment(CPU, 'bf16')
    assert env['arithmetic'] == 'bfloat16' and env['threads'] == torch.get_num_threads() and env['cpu']
    known = Path('/proc/cpuinfo').read_text().split()
    assert env['cpu_flags'] == [flag for flag in CPU_FLAGS if flag in known] and env['cpu_flags']
    assert 'torch' not in environment() and environment()['cpu'] == env['cpu']


def test_metrics_and_tensorboard_hold_the_same_numbers(tmp_path):
    recorded(tmp_path, 1, 3).close('finished')
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert lines == [{'step': n, 'loss': n / 10, 'lr': 0.5} for n in (1, 2, 3)]
    shown = [(event.step, event.value) for event in events(tmp_path).Scalars('loss')]
    assert [step for step, _ in shown] == [1, 2, 3]
    assert [value for _, value in shown] == pytest.approx([0.1, 0.2, 0.3])


def test_pictures_reach_tensorboard(tmp_path):
    record = Record(tmp_path, ARGS, CPU, 0)
    record.pictures(5, {'cam': np.zeros((4, 6, 3), np.uint8)})
    record.close('finished')
    picture, = events(tmp_path).Images('cam')
    assert (picture.step, picture.height, picture.width) == (5, 4, 6)


def test_a_resumed_run_drops_what_is_done_again_and_appends(tmp_path):
    recorded(tmp_path, 1, 5).close('interrupted')
    recorded(tmp_path, 4, 6, step=3).close('finished')
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events(tmp_path).Scalars('loss')] == [1, 2, 3, 4, 5, 6]
    assert 'resumed after step 3' in (tmp_path / 'log.txt').read_text()


def test_a_half_written_line_is_dropped_when_a_run_resumes(tmp_path):
    recorded(tmp_path, 1, 2).close('interrupted')
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 3, "lo')
    recorded(tmp_path, 3, 3, step=2).close('finished')
    assert steps(tmp_path) == [1, 2, 3]


def test_a_run_that_starts_over_keeps_its_log_alone(tmp_path):
    recorded(tmp_path, 1, 5).close('finished')
    recorded(tmp_path, 1, 2).close('finished')
    assert steps(tmp_path) == [1, 2]
    assert [event.step for event in events(tmp_path).Scalars('loss')] == [1, 2]
    assert len((tmp_path / 'log.txt').read_text().splitlines()) == 4


def test_scores_are_appended_in_order(tmp_path):
    path = tmp_path / 'run/scores.json'
    assert read_scores(path) == []
    for number in range(3):
        add_score(path, score_record(images=number))
    assert [record['images'] for record in read_scores(path)] == [0, 1, 2]


@pytest.mark.parametrize('content', ['[{"a": 1}', '{"a": 1}', '"text"'])
def test_corrupt_scores_are_refused_and_kept(tmp_path, content):
    path = tmp_path / 'scores.json'
    path.write_text(content)
    with pytest.raises(ValueError, match=r'scores\.json(: it is| is not valid JSON) .*; move it away'):
        add_score(path, {})
    assert path.read_text() == content


def test_a_json_file_that_cannot_be_written_leaves_the_former(tmp_path):
    write_json(tmp_path / 'a.json', [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / 'a.json', [object()])
    assert (tmp_path / 'a.json').read_text() == '[\n 1\n]\n' and len(list(tmp_path.iterdir())) == 1


def test_an_output_folder_says_what_made_it(tmp_path):
    write_made_by(tmp_path / 'new', ARGS, CPU, {'settings': {'lr': 0.1}, 'network': 'abc'})
    record = json.loads((tmp_path / 'new/made_by.json').read_text())
    assert record['args']['lr'] == 0.1 and record['device'] == 'cpu' and record['numpy'] == np.__version__
    assert record['settings'] == {'lr': 0.1} and record['network'] == 'abc'


def test_a_made_by_file_of_the_user_stays(tmp_path):
    path = tmp_path / 'made_by.json'
    for content in ('{"made_by": "me"}', 'by me', '[]'):
        path.write_text(content)
        write_made_by(tmp_path, ARGS, CPU, {})
        assert path.read_text() == content
    path.unlink()
    for lr in (0.1, 0.2):
        write_made_by(tmp_path, argparse.Namespace(lr=lr, amp='bf16'), CPU, {})
        assert json.loads(path.read_text())['args'] == {'lr': lr, 'amp': 'bf16'}


def test_the_environment_holds_what_a_network_is_made_from(tmp_path):
    origin = {'settings': {'lr': 0.1}, 'classes': ['a'], 'inputs': {'images': '1'}}
    Record(tmp_path, ARGS, CPU, 0, origin).close('finished')
    env = json.loads((tmp_path / 'env.json').read_text())
    assert {key: env[key] for key in origin} == origin and env['torch'] == torch.__version__


def test_scores_added_at_once_are_all_kept(tmp_path):
    path = tmp_path / 'scores.json'
    started = [APART.Process(target=add_score, args=(path, score_record(images=number)), daemon=True)
               for number in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert sorted(record['images'] for record in read_scores(path)) == [0, 1, 2, 3]
    assert [found.name for found in tmp_path.iterdir()] == ['scores.json']


def test_code_outside_a_checkout_has_no_version(monkeypatch, tmp_path):
    monkeypatch.setattr('lib.run.record.__file__', str(tmp_path / 'record.py'))
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
    assert git_state() is None and environment()['git'] is None
    monkeypatch.setenv('PATH', '')
    assert git_state() is None
