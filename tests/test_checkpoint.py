"""Files of a training: checkpoints survive kills and corruption, and nothing but what a training left is removed."""
import pytest
import torch

from lib.files.torchfile import write_torch
from lib.run.checkpoint import is_trained, load_checkpoint, remove_training

ORIGIN = {'settings': {'lr': 0.1}, 'classes': ['a', 'b'], 'inputs': {'images': '1'}}
OTHER = {**ORIGIN, 'settings': {'lr': 0.2}}


class Killed(BaseException):
    """In place of SIGKILL."""


def save(path, step, values=0.0):
    write_torch(path, {'step': step, 'origin': ORIGIN, 'network': {'a': torch.full((1000,), values)}})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def last(tmp_path):
    return tmp_path / 'last.pth'


@pytest.mark.parametrize('content', [b'', b'no checkpoint', b'PK\x03\x04 half a zip'])
def test_a_corrupt_checkpoint_is_refused_with_the_remedy(last, content):
    last.write_bytes(content)
    with pytest.raises(ValueError, match=r'last\.pth is corrupt .*; move it away'):
        load_checkpoint(last, ORIGIN)


@pytest.mark.parametrize('content', [{'network': {}}, torch.zeros(3), [1]])
def test_a_file_of_something_else_is_refused_as_a_checkpoint(last, content):
    torch.save(content, last)
    with pytest.raises(ValueError, match='is not a checkpoint; move it away'):
        load_checkpoint(last, ORIGIN)


def test_a_checkpoint_with_pickled_objects_is_never_unpickled(last):
    torch.save({'origin': ORIGIN, 'object': test_a_corrupt_checkpoint_is_refused_with_the_remedy}, last)
    with pytest.raises(ValueError, match='holds pickled Python objects besides tensors, which could run code'):
        load_checkpoint(last, ORIGIN)


def spoil_cut(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def spoil_a_bit(path):
    """One that torch.load alone does not notice: it lies among the tensor's values."""
    content = bytearray(path.read_bytes())
    content[content.index(b'\0' * 2000) + 1000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize('spoil', [spoil_cut, spoil_a_bit])
def test_a_corrupt_last_checkpoint_is_named_and_kept(last, spoil):
    save(last, 2)
    assert load_checkpoint(last, ORIGIN)['step'] == 2
    spoil(last)
    with pytest.raises(ValueError, match=r'last\.pth is corrupt or not a PyTorch file; move it away'):
        load_checkpoint(last, ORIGIN)
    assert names(last.parent) == ['last.pth']


def test_a_save_killed_before_its_rename_loses_nothing(last, monkeypatch):
    save(last, 1)

    def replace(old, new):
        raise Killed

    monkeypatch.setattr('os.replace', replace)
    with pytest.raises(Killed):
        save(last, 2)
    monkeypatch.undo()
    assert load_checkpoint(last, ORIGIN)['step'] == 1
    save(last, 2)
    assert load_checkpoint(last, ORIGIN)['step'] == 2


def test_a_save_that_fails_keeps_the_former_checkpoint(last, monkeypatch):
    save(last, 1)

    def half(state, file):
        file.write(b'half')
        raise OSError('disk broken')

    monkeypatch.setattr(torch, 'save', half)
    with pytest.raises(OSError, match='disk broken'):
        save(last, 2)
    assert load_checkpoint(last, ORIGIN)['step'] == 1 and names(last.parent) == ['last.pth']


def test_a_checkpoint_of_another_training_is_refused_with_the_difference(last):
    save(last, 1)
    with pytest.raises(ValueError, match=r'last\.pth belongs to a run with other settings or inputs \(--lr was 0.1, is '
                                         r'0.2\); use --fresh to regenerate it, or --run NAME to keep both'):
        load_checkpoint(last, OTHER)
    with pytest.raises(ValueError, match='the classes were a b, are b a'):
        load_checkpoint(last, {**ORIGIN, 'classes': ['b', 'a']})
    assert load_checkpoint(last, ORIGIN)['step'] == 1


def train(folder, origin=ORIGIN):
    """The files that a finished training leaves."""
    write_torch(folder / 'model.pth', {'meta': {'origin': origin}, 'state_dict': {'a': torch.zeros(3)}})
    for step in (1, 2):
        save(folder / 'last.pth', step)
    return folder / 'model.pth', folder / 'last.pth'


def test_a_network_is_trained_if_its_file_has_the_origin_of_this_training(tmp_path):
    assert not is_trained(tmp_path / 'model.pth', ORIGIN)
    model, last = train(tmp_path)
    last.unlink()
    assert is_trained(model, ORIGIN)
    for now, words in ((OTHER, '--lr was 0.1, is 0.2'), ({**ORIGIN, 'inputs': {'images': '2'}}, 'other images'),
                       ({**ORIGIN, 'classes': ['b', 'a']}, 'the classes were a b, are b a')):
        with pytest.raises(ValueError, match=rf'model\.pth was trained with other settings or inputs \({words}\)'):
            is_trained(model, now)


def test_what_a_training_left_is_removed_whatever_its_settings(tmp_path):
    model, last = train(tmp_path, OTHER)
    (tmp_path / 'mine.txt').write_text('')
    remove_training(model, last)
    assert names(tmp_path) == ['mine.txt'] and load_checkpoint(last, ORIGIN) is None
    remove_training(model, last)


FOREIGN = {'text': lambda path: path.write_text('mine'), 'cut': spoil_cut,
           'list': lambda path: torch.save([1], path),
           'published': lambda path: torch.save({'a': torch.zeros(1)}, path),
           'wrapped': lambda path: torch.save({'meta': {}, 'state_dict': {}, 'epoch': 3}, path)}


@pytest.mark.parametrize('kind', FOREIGN)
@pytest.mark.parametrize('name', ['model.pth', 'last.pth'])
def test_files_of_others_are_refused_and_never_removed(tmp_path, name, kind):
    model, last = train(tmp_path)
    FOREIGN[kind](tmp_path / name)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f'{name} (is|does) .*move it away'):
        remove_training(model, last)
    if name == 'model.pth':
        with pytest.raises(ValueError, match='model.pth (is|does) .*move it away'):
            is_trained(model, ORIGIN)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize('removed', [0, 1])
def test_a_removal_killed_midway_is_never_taken_for_finished(tmp_path, monkeypatch, removed):
    model, last = train(tmp_path)
    real, calls = type(last).unlink, []

    def unlink(path, **words):
        if len(calls) == removed:
            raise Killed
        calls.append(path)
        real(path, **words)

    monkeypatch.setattr(type(last), 'unlink', unlink)
    with pytest.raises(Killed):
        remove_training(model, last)
    monkeypatch.undo()
    assert is_trained(model, ORIGIN) == (removed == 0)
    assert load_checkpoint(last, ORIGIN)['step'] == 2


def test_the_bytes_of_a_checkpoint_depend_on_its_content_alone(tmp_path):
    save(tmp_path / 'a/last.pth', 1)
    save(tmp_path / 'b/last.pth', 1)
    assert (tmp_path / 'a/last.pth').read_bytes() == (tmp_path / 'b/last.pth').read_bytes()
