import os

import pytest
import torch

from lib.run.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint

MADE_WITH = {'settings': {'lr': 0.1}, 'inputs': {}}


def save(path, step, values=0.0):
    save_checkpoint(path, {'step': step, 'made_with': MADE_WITH, 'network': {'a': torch.full((1000,), values)}})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def last(tmp_path):
    return tmp_path / 'last.pth'


@pytest.mark.parametrize('content', [b'', b'no checkpoint', b'PK\x03\x04 half a zip'])
def test_a_damaged_checkpoint_is_refused_with_the_remedy(last, content):
    last.write_bytes(content)
    with pytest.raises(ValueError, match=r'last\.pth is corrupt .*; remove it, or start over with --fresh'):
        load_checkpoint(last, MADE_WITH)


@pytest.mark.parametrize('content', [{'network': {}}, torch.zeros(3), [1]])
def test_a_file_of_something_else_is_refused_as_a_checkpoint(last, content):
    torch.save(content, last)
    with pytest.raises(ValueError, match='no checkpoint; remove it'):
        load_checkpoint(last, MADE_WITH)


def test_a_checkpoint_with_pickled_objects_is_never_unpickled(last):
    torch.save({'made_with': MADE_WITH, 'object': test_a_damaged_checkpoint_is_refused_with_the_remedy}, last)
    with pytest.raises(ValueError, match='holds pickled Python objects besides tensors, which could run code'):
        load_checkpoint(last, MADE_WITH)


def spoil_cut(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def spoil_a_bit(path):
    """One that torch.load alone does not notice: it lies among the tensor's values."""
    content = bytearray(path.read_bytes())
    content[content.index(b'\0' * 2000) + 1000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize('spoil', [spoil_cut, spoil_a_bit])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before_with_a_warning(last, capsys, spoil):
    save(last, 1)
    save(last, 2)
    assert load_checkpoint(last, MADE_WITH)['step'] == 2 and not capsys.readouterr().out
    spoil(last)
    assert load_checkpoint(last, MADE_WITH)['step'] == 1
    assert 'last.pth is corrupt or not a PyTorch file; going on from' in capsys.readouterr().out
    spoil(last.with_name('previous.pth'))
    with pytest.raises(ValueError, match=r'last\.pth is corrupt or not a PyTorch file; remove it'):
        load_checkpoint(last, MADE_WITH)


@pytest.mark.parametrize('killed_before', [1, 2])
def test_a_save_killed_between_its_renames_loses_nothing(last, monkeypatch, killed_before):
    save(last, 1)
    real, calls = os.replace, []

    def replace(old, new):
        if str(old).endswith(('next.pth', 'last.pth')):
            calls.append(old)
            if len(calls) == killed_before:
                raise KeyboardInterrupt
        real(old, new)

    monkeypatch.setattr('os.replace', replace)
    with pytest.raises(KeyboardInterrupt):
        save(last, 2)
    monkeypatch.undo()
    assert load_checkpoint(last, MADE_WITH)['step'] == 1
    save(last, 2)
    assert load_checkpoint(last, MADE_WITH)['step'] == 2


def test_a_save_that_fails_keeps_the_former_checkpoint(last, monkeypatch):
    save(last, 1)

    def half(state, file):
        file.write(b'half')
        raise OSError('disk broken')

    monkeypatch.setattr(torch, 'save', half)
    with pytest.raises(OSError, match='disk broken'):
        save(last, 2)
    assert load_checkpoint(last, MADE_WITH)['step'] == 1 and names(last.parent) == ['last.pth']


def test_other_settings_are_refused_and_removed_checkpoints_are_gone(last):
    save(last, 1)
    save(last, 2)
    with pytest.raises(ValueError, match=r'--lr was 0.1, is 0.2\); give --fresh'):
        load_checkpoint(last, {'settings': {'lr': 0.2}, 'inputs': {}})
    remove_checkpoints(last)
    assert load_checkpoint(last, MADE_WITH) is None and not names(last.parent)


def test_the_bytes_of_a_checkpoint_depend_on_its_content_alone(tmp_path):
    save(tmp_path / 'a/last.pth', 1)
    save(tmp_path / 'b/last.pth', 1)
    assert (tmp_path / 'a/last.pth').read_bytes() == (tmp_path / 'b/last.pth').read_bytes()
