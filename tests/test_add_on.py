"""The example of the losses as an add-on, and a Vision Transformer's tokens as maps."""
import json

import pytest
import torch

from examples import add_on
from lib.process.ending import run_script
from tool.probutils import isl_loss


def test_the_example_prints_scores_without_and_with_the_losses(toy, capsys):
    add_on.main(['--data', str(toy), '--steps', '2'])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(' mIoU ')[0].strip() for line in lines] == ['plain CAM', 'with ISL and FSL']
    assert lines[0].split(' mIoU ')[1] != lines[1].split(' mIoU ')[1]


def test_tokens_become_maps_row_by_row_and_take_the_losses():
    tokens = torch.arange(2 * 12 * 5.).view(2, 12, 5)
    maps = add_on.maps_of_tokens(tokens, 3, 4)
    assert maps.shape == (2, 5, 3, 4) and torch.equal(maps[1, :, 2, 1], tokens[1, 2 * 4 + 1])
    logits = torch.nn.Conv2d(5, 2, 1)(maps / 100)
    isl_loss(logits, torch.tensor([[1., 0], [0, 1]])).backward()


def test_a_data_set_that_will_not_do_is_refused_before_training(toy, tmp_path, capsys):
    bare, entries = tmp_path / 'bare.json', json.loads(toy.read_text())
    places = {'root': str(toy.parent), 'lists': str(toy.parent / 'lists'), 'masks': ['none/{}.png']}
    bare.write_text(json.dumps(entries | places))
    for data, problem in ((tmp_path / 'absent.json', 'absent.json does not exist'), (bare, 'images without a mask')):
        with pytest.raises(SystemExit) as stop:
            run_script(lambda data=data: add_on.main(['--data', str(data)]))
        line, = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2 and line.startswith('error: ') and problem in line
