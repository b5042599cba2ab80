"""The reference's pickled label files: they come and go, serve as ours do, and run no code."""
import argparse
import io
import os
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eval as evaluation
import infer_aff
import infer_cam
import train_aff
from lib.data.affinity import AffTrainSet
from lib.data.labelio import VALUES, read_maps, read_seeds, write_maps, write_seeds
from lib.data.npyio import (
    label_source,
    read_npy_maps,
    read_npy_seeds,
    seed_folders,
    write_npy_maps,
    write_npy_scores,
)
from lib.data.registry import get_spec
from lib.files.origin import read_origin
from lib.run.record import read_scores
from tests.running import LOADED_HERE, NETWORK, TRAINING, error_line, place
from tool.imutils import IMAGENET_NORM

MAPS = np.random.default_rng(0).random((2, 5, 7)).astype(np.float32)


def saved(path, content):
    """A file as the reference writes them."""
    np.save(path, content)
    return path


def read_cams(path):
    return read_npy_maps(path, (5, 7), 20)


def read_scores_of(path):
    keys, seeds = read_npy_seeds({1.0: path}, (5, 7), 20)
    return keys, seeds[1.0]


READERS = (read_cams, read_scores_of)


def header():
    """What stands before the pickle in such a file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {'descr': '|O', 'fortran_order': False, 'shape': ()})
    return file.getvalue()


def test_maps_and_scores_come_back(tmp_path):
    write_npy_maps(tmp_path / 'new/a.npy', [2, 14], MAPS)
    keys, found = read_cams(tmp_path / 'new/a.npy')
    assert keys.tolist() == [2, 14] and found.dtype == np.float32 and np.array_equal(found, MAPS)
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['a.npy']
    write_npy_scores(tmp_path / 'b.npy', [13], MAPS)
    keys, found = read_scores_of(tmp_path / 'b.npy')
    assert keys.tolist() == [13] and np.array_equal(found, MAPS)


def test_other_codes_find_a_dict_of_class_indices(tmp_path):
    write_npy_maps(tmp_path / 'a.npy', np.array([2, 14]), MAPS)
    write_npy_scores(tmp_path / 'b.npy', np.array([13]), MAPS)
    for name, keys in (('a.npy', [2, 14]), ('b.npy', [0, 14])):
        content = np.load(tmp_path / name, allow_pickle=True).item()
        assert list(content) == keys and {type(key) for key in content} == {int}
        assert all(np.array_equal(content[key], values) and values.dtype == np.float32
                   for key, values in zip(keys, content.values()))


def test_written_files_name_nothing_that_older_numpy_lacks(tmp_path):
    write_npy_maps(tmp_path / 'a.npy', [2, 14], MAPS)
    pickled = (tmp_path / 'a.npy').read_bytes()[len(header()):]
    names = {argument for opcode, argument, _ in pickletools.genops(pickled) if 'GLOBAL' in opcode.name}
    assert names == {'numpy ndarray', 'numpy dtype'}


@pytest.mark.parametrize('protocol', [3, 4])
@pytest.mark.parametrize('module', [b'numpy.core', b'numpy._core'])
def test_files_of_both_generations_of_numpy_are_read(tmp_path, protocol, module):
    content = {14: MAPS[1].astype('>f8'), 2: np.asfortranarray(MAPS[0])}
    data = pickle.dumps(np.array(content), protocol)
    if protocol == 3:
        data = data.replace(b'cnumpy._core', b'c' + module)
    (tmp_path / 'a.npy').write_bytes(header() + data)
    keys, found = read_cams(tmp_path / 'a.npy')
    assert keys.tolist() == [2, 14] and np.array_equal(found, MAPS)


def test_image_without_a_class_takes_the_size_of_its_image(tmp_path):
    write_npy_maps(tmp_path / 'a.npy', [], np.zeros((0, 4, 6)))
    assert read_npy_maps(tmp_path / 'a.npy', (4, 6), 20)[1].shape == (0, 4, 6)
    keys, seeds = read_npy_seeds({1.0: tmp_path / 'a.npy'}, (4, 6), 20)
    assert len(keys) == 0 and seeds[1.0].shape == (1, 4, 6) and (seeds[1.0] == 1).all()


def test_the_references_values_below_zero_become_zero_and_logits_are_refused(tmp_path):
    below = np.where(MAPS < 0.2, np.float32(-0.3), MAPS)
    absent = np.full_like(MAPS, -1)                     # what the reference makes of a map that is 0 everywhere
    for maps in (below, absent):
        assert np.array_equal(read_cams(saved(tmp_path / 'a.npy', dict(enumerate(maps))))[1], maps.clip(0, 1))
    for maps in (MAPS * 9, MAPS - 0.5, np.where(MAPS < 0.2, np.nan, MAPS), np.where(MAPS < 0.2, -np.inf, MAPS)):
        with pytest.raises(ValueError, match=r'a\.npy'):
            read_cams(saved(tmp_path / 'a.npy', dict(enumerate(maps.astype(np.float32)))))


class Attack:
    """Pickled, it asks for a function and its arguments."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize('place_of', [lambda attack: attack, lambda attack: {1: attack}, lambda attack: {attack: 1},
                                      lambda attack: {1: MAPS[0], 2: [attack]}])
@pytest.mark.parametrize('function', [os.mkdir, open, eval, np.load, np.memmap, getattr])
def test_a_file_that_asks_for_code_is_refused_and_runs_nothing(tmp_path, place_of, function):
    trace = tmp_path / 'trace'
    arguments = {os.mkdir: (str(trace),), open: (str(trace), 'w'), eval: (f'open({str(trace)!r}, "w")',),
                 np.memmap: (str(trace), 'float32', 'w+', 0, (3,))}.get(function, (str(trace), 'real'))
    attack = Attack(function, *arguments)
    saved(tmp_path / 'a.npy', np.array(place_of(attack), object))
    for read in READERS:
        with pytest.raises(ValueError, match=r'a\.npy.*asks for') as error:
            read(tmp_path / 'a.npy')
        assert '\n' not in str(error.value)
    assert not trace.exists()


def test_the_attack_would_work_with_numpy_alone(tmp_path):
    saved(tmp_path / 'a.npy', np.array(Attack(os.mkdir, str(tmp_path / 'trace')), object))
    np.load(tmp_path / 'a.npy', allow_pickle=True)
    assert (tmp_path / 'trace').exists()


def test_a_pickle_cannot_reach_into_the_stand_in(tmp_path):
    for lines in (b'cnumpy\nndarray\n(N}X\x06\x00\x00\x00valuesK\x01sub.', b'cnumpy\nndarray.__init__\n.',
                  b'cnumpy\nndarray\n)R(K\x01)cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR\x89X\x01\x00\x00\x00atb.'):
        (tmp_path / 'a.npy').write_bytes(header() + b'\x80\x04' + lines)
        with pytest.raises(ValueError, match=r'a\.npy'):
            read_cams(tmp_path / 'a.npy')
    test_maps_and_scores_come_back(tmp_path)


WRONG = {'list': [MAPS[0]], 'names as keys': {'cam': MAPS[0]}, 'bool as key': {True: MAPS[0]},
         'negative key': {-1: MAPS[0]}, 'number': {1: 0.5}, 'three axes': {1: MAPS},
         'two sizes': {1: MAPS[0], 2: MAPS[1, 1:]}, 'text': {1: np.array([['a']])},
         'objects': {1: np.array([[None]])}, 'nested': {1: {2: MAPS[0]}},
         'ordered': OrderedDict({1: MAPS[0]}), 'several': np.array([{1: MAPS[0]}, {}])}


@pytest.mark.parametrize('content', WRONG.values(), ids=WRONG)
def test_another_structure_is_refused_in_one_line(tmp_path, content):
    saved(tmp_path / 'a.npy', np.array(content, object) if isinstance(content, list) else content)
    for read in READERS:
        with pytest.raises(ValueError, match=r'a\.npy') as error:
            read(tmp_path / 'a.npy')
        assert '\n' not in str(error.value)


@pytest.mark.parametrize('spoil', [lambda data: b'', lambda data: b'no map', lambda data: data[:-60],
                                   lambda data: data[:200], lambda data: data[:128] + b'\xff' + data[129:]])
def test_corrupt_file_is_refused_in_one_line(tmp_path, spoil):
    write_npy_maps(tmp_path / 'a.npy', [2, 14], MAPS)
    (tmp_path / 'a.npy').write_bytes(spoil((tmp_path / 'a.npy').read_bytes()))
    with pytest.raises(ValueError, match=r'a\.npy is corrupt') as error:
        read_cams(tmp_path / 'a.npy')
    assert '\n' not in str(error.value)


def test_missing_file_plain_array_and_cams_for_scores_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'gone\.npy is missing'):
        read_cams(tmp_path / 'gone.npy')
    with pytest.raises(ValueError, match=r'array of float32'):
        read_cams(saved(tmp_path / 'a.npy', MAPS))
    with pytest.raises(ValueError, match=r'no background, key 0'):
        read_scores_of(saved(tmp_path / 'a.npy', {1: MAPS[0]}))


def test_seeds_must_agree_and_lie_in_two_folders(tmp_path):
    for alpha, keys in (('24.0', [3]), ('1.0', [3]), ('old', [3])):
        write_npy_scores(tmp_path / f'alpha_{alpha}/a.npy', keys, MAPS)
    folders = seed_folders(tmp_path)
    assert list(folders) == [1.0, 24.0]
    paths = {alpha: folder / 'a.npy' for alpha, folder in folders.items()}
    keys, scores = read_npy_seeds(paths, (5, 7), 20)
    assert keys.tolist() == [3] and all(np.array_equal(scores[alpha], MAPS) for alpha in (1.0, 24.0))
    write_npy_scores(paths[1.0], [4], MAPS)
    with pytest.raises(ValueError, match='differ in classes or size'):
        read_npy_seeds(paths, (5, 7), 20)
    (tmp_path / 'alpha_3').mkdir()
    with pytest.raises(ValueError, match='holds 3 folders'):
        seed_folders(tmp_path)


@pytest.fixture(scope='module')
def both(toy, tmp_path_factory):
    """Files of both kinds for the toy set, with the same values, as infer_cam.py writes them: folder of the run."""
    spec, folder = get_spec(str(toy)), tmp_path_factory.mktemp('exp') / 'toy'
    rng = np.random.default_rng(1)
    for split in ('train', 'val'):
        samples = spec.samples(split)
        for sample, present in zip(samples, spec.image_labels([sample.name for sample in samples])):
            keys, size = np.flatnonzero(present), Image.open(sample.image).size[::-1]
            values = VALUES[rng.integers(len(VALUES), size=(3, len(keys) + 1, *size))]      # our files hold no others
            labels, plabels = folder / 'labels' / split, folder / 'plabels' / split
            write_maps(labels / f'cam/{sample.name}.npz', keys, values[0, 1:])
            write_seeds(labels / f'seeds/{sample.name}.npz', keys, {1.0: values[1], 24.0: values[2]})
            write_npy_maps(plabels / f'cam/{sample.name}.npy', keys, values[0, 1:])
            for alpha, scores in ((1.0, values[1]), (24.0, values[2])):
                write_npy_scores(plabels / f'crf/alpha_{alpha}/{sample.name}.npy', keys, scores)
    return folder


def test_evaluation_of_both_kinds_of_files_is_the_same(toy, both):
    words = (*place(toy, both.parent), *LOADED_HERE)
    evaluation.main(words)
    evaluation.main([*words, '--labels', str(both / 'plabels/val/cam'), '--unpickle'])
    ours, theirs = read_scores(both / 'scores.json')
    assert ours['results'] == theirs['results'] and ours['curve'] == theirs['curve']


def test_affinity_samples_of_both_kinds_of_seeds_are_the_same(toy, both):
    spec = get_spec(str(toy))
    sets = [AffTrainSet(spec, 'train', IMAGENET_NORM, 64, both / place, unpickle=unpickle)
            for place, unpickle in (('labels/train/seeds', False), ('plabels/train/crf', True))]
    for data in sets:
        data.check()
    for index in range(4):
        ours, theirs = (data[1, index] for data in sets)
        assert torch.equal(ours['label'], theirs['label']) and torch.equal(ours['image'], theirs['image'])
    (both / 'plabels/train/crf/alpha_24.0' / f'{spec.samples("train")[3].name}.npy').rename(both / 'away')
    with pytest.raises(FileNotFoundError, match=r'lacks seeds: .*alpha_24\.0.*--export-npy'):
        sets[1].check()
    (both / 'away').rename(both / 'plabels/train/crf/alpha_24.0' / f'{spec.samples("train")[3].name}.npy')


def test_walk_of_both_kinds_of_cams_is_the_same(toy, both, tmp_path):
    image = np.array(Image.open(get_spec(str(toy)).samples('val')[0].image))
    args = argparse.Namespace(scale=1.0, alpha=6.0, beta=8.0, walk_log2_steps=2, radius=5, crf=False,
                              crf_backend='torch')
    name = get_spec(str(toy)).samples('val')[0].name
    grid = tuple(-(-side // 8) for side in image.shape[:2])
    positions = (grid[0] - 4) * (grid[1] - 8)
    affinity = np.random.default_rng(2).random((34, positions)).astype(np.float32)
    for kind, suffix in (('labels', 'npz'), ('plabels', 'npy')):
        cams = both / kind / f'val/cam/{name}.{suffix}'
        infer_aff.write_walk([(tmp_path / f'{kind}.png', '')], cams, image, affinity, grid, args, stride=8, num_fg=6)
    assert (tmp_path / 'labels.png').read_bytes() == (tmp_path / 'plabels.png').read_bytes()


def test_export_holds_what_our_files_hold(tmp_path):
    image = np.random.default_rng(3).integers(0, 256, (12, 10, 3), np.uint8)
    cam = np.random.default_rng(4).random((2, 12, 10)).astype(np.float32)
    paths = ['ours/cam/a.npz', 'ours/seeds/a.npz', 'theirs/cam/a.npy', 'theirs/crf/alpha_1.0/a.npy',
             'theirs/crf/alpha_24.0/a.npy']
    infer_cam.write_labels([(tmp_path / path, '{"classes": ["here"]}') for path in paths], image, np.array([0, 4]), cam,
                           np.full(20, 0.5), {}, (1.0, 24.0), export=True)
    assert {str(read_origin(tmp_path / path)) for path in paths} == {"{'classes': ['here']}"}
    keys, exported = read_npy_maps(tmp_path / 'theirs/cam/a.npy', (12, 10), 20)
    assert keys.tolist() == [0, 4] and np.array_equal(exported, cam)
    np.testing.assert_allclose(exported, read_maps(tmp_path / 'ours/cam/a.npz')[1], atol=0.005)
    for alpha, scores in read_seeds(tmp_path / 'ours/seeds/a.npz')[1].items():
        keys, exported = read_npy_seeds({alpha: tmp_path / f'theirs/crf/alpha_{alpha}/a.npy'}, (12, 10), 20)
        assert keys.tolist() == [0, 4]
        np.testing.assert_allclose(exported[alpha], scores, atol=0.01)


def test_pickled_files_are_read_on_request_alone(toy, both, capsys):
    words = (*place(toy, both.parent), *LOADED_HERE)
    training = (*words, *TRAINING, '--weights', 'none')
    for main, given, flag, folder in ((evaluation.main, words, '--labels', 'val/cam'),
                                      (infer_aff.main, (*words, *NETWORK), '--cams', 'train/cam'),
                                      (train_aff.main, training, '--seed-dir', 'train/crf')):
        folder = both / 'plabels' / folder
        line = error_line(main, (*given, flag, folder), capsys)
        assert f'{folder} holds .npy files, which are pickled and can contain code' in line
        assert 'give --unpickle to read them' in line
        assert f'name it with {flag} DIR' in error_line(main, (*given, '--unpickle'), capsys)
    assert 'holds 0 folders' in error_line(train_aff.main, (*training, '--seed-dir', both, '--unpickle'), capsys)
    assert 'leave it out' in error_line(evaluation.main, (*words, '--what', 'walk', '--unpickle'), capsys)
    assert 'lacks predictions' in error_line(
        evaluation.main, (*words, '--unpickle', '--labels', both / 'labels/val/cam'), capsys)
    train_aff.main([*training, '--seed-dir', str(both / 'plabels/train/crf'), '--unpickle', '--dry-run'])
    assert label_source(both / 'labels/val/cam', Path('own'), False, '--cams') == (both / 'labels/val/cam', '.npz')
