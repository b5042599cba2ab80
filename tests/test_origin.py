"""The origin that every file carries: it comes back from each format, and readers of the format do not mind."""
import numpy as np
import pytest
import torch
from PIL import Image

import infer_cam
from infer_seg import write_result
from lib import cam_stage
from lib.data.labelio import read_maps, read_seeds, write_maps, write_seeds
from lib.data.npyio import write_npy_maps, write_npy_scores
from lib.data.registry import get_spec
from lib.files.dataspec import DatasetSpec
from lib.files.imageio import read_mask, write_label_png
from lib.files.origin import origin_text, read_origin, read_state
from lib.net.weights import read_meta, save_network
from lib.run.checkpoint import trained_origin
from lib.run.options import resolve
from lib.run.origin import Digests, check_labels, difference, stage_origin, training_origin
from tests.running import NETWORK, place

ORIGIN = {'settings': {'scales': [0.5, 1.0], 'amp': 'none', 'alpha': 6.0}, 'classes': ['Katze (ä)', '犬', 'a "b"'],
          'network': 'c0ffee', 'inputs': {'image': '0' * 16, 'image_labels': []}}
TEXT = origin_text(ORIGIN)
KEYS, MAPS = np.array([0, 2]), np.linspace(0, 1, 2 * 5 * 7, dtype=np.float32).reshape(2, 5, 7)
SCORES = np.full((3, 5, 7), 1 / 3, np.float32)
LABEL = np.arange(35, dtype=np.uint8).reshape(5, 7) % 3
IMAGE = np.zeros((5, 7, 3), np.uint8)
SPEC = DatasetSpec('pets', ('cat', 'dog'), None, None, '{}')


def write_overlay(path, text):
    write_result([(path.with_name('beside.png'), text), (path, text)], IMAGE, SCORES, False,
                 classes=('background', 'a', 'b'))


def write_probs(path, text):
    write_result([(path.with_name('beside.png'), text), (path, text)], IMAGE, SCORES, False,
                 classes=('background', 'a', 'b'))


FORMATS = {'label.png': lambda path, text: write_label_png(path, LABEL, text),
           'cam.npz': lambda path, text: write_maps(path, KEYS, MAPS, text),
           'seeds.npz': lambda path, text: write_seeds(path, KEYS, {1.0: SCORES, 24.0: SCORES}, text),
           'overlay.jpg': write_overlay, 'probs.npz': write_probs,
           'cam.npy': lambda path, text: write_npy_maps(path, KEYS, MAPS, text),
           'seeds.npy': lambda path, text: write_npy_scores(path, KEYS, SCORES, text)}


@pytest.fixture(params=FORMATS)
def file(request, tmp_path):
    """(a file with ORIGIN, the same without one) of each format."""
    paths = tmp_path / request.param, tmp_path / 'without' / request.param
    for path, text in zip(paths, (TEXT, '')):
        FORMATS[request.param](path, text)
    return paths


def test_every_format_gives_its_origin_back_and_has_none_unless_told(file):
    path, without = file
    assert read_state(path) == (ORIGIN, True, False)
    assert read_origin(without) is None


def test_a_file_truncated_anywhere_is_not_intact_and_reading_it_raises_nothing(file):
    path, _ = file
    content = path.read_bytes()
    for length in {*range(0, len(content), 7), *range(max(0, len(content) - 64), len(content))}:
        path.write_bytes(content[:length])
        state = read_state(path)
        assert not state.intact and state.origin in (None, ORIGIN), length
    path.write_bytes(content + b'\0')
    assert not read_state(path).intact


def test_an_origin_of_many_long_class_names_comes_back(file, tmp_path):
    path, _ = file
    origin = {**ORIGIN, 'classes': [f'{number} {"a class" * 20}' for number in range(254)]}
    FORMATS[path.name](path, origin_text(origin))
    assert read_state(path) == (origin, True, False)


def test_a_network_and_its_checkpoint_carry_their_origin(tmp_path):
    save_network(tmp_path / 'model.pth', torch.nn.Linear(1, 1), {'network': 'seam', 'origin': ORIGIN})
    assert trained_origin(tmp_path / 'model.pth') == read_meta(tmp_path / 'model.pth')['origin'] == ORIGIN


def test_numpy_and_pillow_read_the_files_as_ever(tmp_path):
    for name, write in FORMATS.items():
        write(tmp_path / name, TEXT)
    assert np.array_equal(np.array(Image.open(tmp_path / 'label.png')), LABEL)
    assert np.array_equal(read_mask(tmp_path / 'label.png', 3), LABEL)
    assert Image.open(tmp_path / 'overlay.jpg').convert('RGB').size[0] == 7
    with np.load(tmp_path / 'cam.npz') as data:
        assert data['keys'].tolist() == KEYS.tolist() and data['maps'].shape == MAPS.shape
    keys, maps = read_maps(tmp_path / 'cam.npz')
    assert keys.tolist() == KEYS.tolist() and np.abs(maps - MAPS).max() <= 0.01
    assert list(read_seeds(tmp_path / 'seeds.npz')[1]) == [1.0, 24.0]
    with np.load(tmp_path / 'probs.npz') as data:
        assert any(data[key].shape == SCORES.shape for key in data.files if key != 'origin.json')
    pickled = np.load(tmp_path / 'cam.npy', allow_pickle=True).item()
    assert sorted(pickled) == [0, 2] and np.array_equal(pickled[2], MAPS[1])


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.npz', '.npy'])
@pytest.mark.parametrize('content', [
    b'', b'text', b'\x89PNG\r\n\x1a\n' + b'\xff' * 100, b'\xff\xd8' + b'\xff' * 9, b'\xff\xd8\xff\xfe\0\2', b'PK\3\4',
    b'PK\3\4' + b'\xff' * 200, b'[1]\nHFPL origin \3\0\0\0', b'{"classes":["a"', b'\0' * 70000])
def test_foreign_files_have_no_origin(tmp_path, suffix, content):
    path = tmp_path / f'file{suffix}'
    path.write_bytes(content)
    assert read_origin(path) is None


def test_photos_and_masks_of_other_programs_have_no_origin(tmp_path):
    for name, comment in (('a.png', None), ('b.jpg', None), ('c.jpg', b'holiday'), ('d.jpg', b'1')):
        Image.fromarray(IMAGE).save(tmp_path / name, comment=comment)
        assert read_state(tmp_path / name) == (None, True, False)
    np.savez_compressed(tmp_path / 'e.npz', keys=KEYS)
    np.save(tmp_path / 'f.npy', KEYS)
    assert read_origin(tmp_path / 'e.npz') is None and read_origin(tmp_path / 'f.npy') is None
    assert read_state(tmp_path / 'absent.png') == (None, False, True)


def changed(**changes):
    return {**ORIGIN, **changes}


@pytest.mark.parametrize('now, words', [
    (ORIGIN, ''),
    (changed(settings={**ORIGIN['settings'], 'alpha': 8.0}), '--alpha was 6.0, is 8.0'),
    (changed(settings={'scales': [0.5], 'amp': 'bf16', 'log_steps': 6, 'alpha': 6.0}),
     '--amp was none, is bf16, --log-steps was None, is 6, --scales was 0.5 1.0, is 0.5'),
    (changed(classes=ORIGIN['classes'][::-1]), 'the classes were Katze (ä) 犬 a "b", are a "b" 犬 Katze (ä)'),
    (changed(network='decaf'), 'other network'),
    (changed(inputs={'image': '1' * 16, 'image_labels': []}), 'other image'),
    (changed(inputs={'image': '0' * 16, 'image_labels': [1], 'weights': ''}), 'other image labels, other weights')])
def test_a_difference_is_told_in_words(now, words):
    assert difference(ORIGIN, now) == words


def test_long_lists_are_cut_in_a_difference():
    assert '0 1 2 3 4 5 6 7 8 9 and 70 more' in difference(changed(classes=list(map(str, range(80)))), ORIGIN)


def test_the_origin_of_a_stage_holds_what_changes_numbers_for_its_kind_of_output(toy):
    def origin(kind, *words):
        args, spec = resolve(infer_cam.make_parser(), [*place(toy, 'exp'), *NETWORK, *words], 'infer_cam',
                             get_spec)
        return stage_origin(args, spec, kind, network='n')

    cam, seeds = origin('cam'), origin('seeds')
    assert cam['classes'] == list(get_spec(str(toy)).classes) and cam['network'] == 'n'
    assert {'scales', 'amp'} <= cam['settings'].keys() and 'seed_alphas' not in cam['settings']
    assert seeds['settings']['seed_alphas'] == [1.0, 5.0]
    how = ('--workers', '3', '--run', 'other', '--limit', '2', '--fresh', '--export-npy', '--no-seeds')
    assert origin('cam', *how) == cam and origin('cam', '--seed-alphas', '1', '9') == cam
    assert origin('seeds', '--seed-alphas', '1', '9') != seeds and origin('cam', '--scales', '1') != cam


def test_the_origin_of_a_training_follows_images_labels_and_weights_by_content(toy, tmp_path):
    args, spec = resolve(cam_stage.make_parser('', 'toy'), list(place(toy, tmp_path)), 'train_cam', get_spec)
    samples = spec.samples('val')
    labels = spec.image_labels([sample.name for sample in samples])
    weights = [tmp_path / 'a.pth', tmp_path / 'b.pth', tmp_path / 'c.pth']
    for path, content in zip(weights, 'xxy'):
        path.write_text(content)

    def origin(samples=samples, labels=labels, file=weights[0]):
        digests = Digests()
        return training_origin(args, spec, digests, samples, labels, weights=digests(file) or file)

    assert origin() == origin(file=weights[1])
    assert difference(origin(), origin(file=weights[2])) == difference(origin(), origin(file='none')) == 'other weights'
    assert difference(origin(), origin(labels=1 - labels)) == 'other image labels'
    assert difference(origin(), origin(samples[::-1], labels[::-1])) == 'other image labels, other images'


def test_label_files_of_other_classes_or_of_changed_images_are_refused_with_the_command(tmp_path):
    paths = [tmp_path / 'a.png', tmp_path / 'b.png', tmp_path / 'foreign.png']
    for path, image in zip(paths[:2], 'ab'):
        origin = {'settings': {}, 'classes': ['cat', 'dog'], 'inputs': {'image': image}}
        write_label_png(path, LABEL, origin_text(origin))
    write_label_png(paths[2], LABEL)
    check_labels(paths, SPEC, ['a', 'b', 'c'], 'python x')
    with pytest.raises(ValueError, match=r'a\.png \(and 1 more\) was made from another version of its image; python x'):
        check_labels(paths, SPEC, ['1', '2', 'c'], 'python x')
    for classes in (('dog', 'cat'), ('cat', 'Dog'), ('cat',)):
        with pytest.raises(ValueError, match=rf'a\.png was made for the classes cat dog, pets has {" ".join(classes)}; '
                                             'python x --fresh'):
            check_labels(paths, DatasetSpec('pets', classes, None, None, '{}'), remedy='python x')
