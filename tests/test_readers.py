"""Every file that is read: whatever was done to its bytes or values, it is read or refused by one line that names it.

READER_CORRUPTIONS=300 python -m pytest tests/test_readers.py      more of them
"""
import json
import os
import pickle
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from coco.instances import read_annotations, read_sizes
from lib.data.labelio import read_maps, read_seeds, write_maps, write_seeds
from lib.data.npyio import read_npy_maps, read_npy_seeds, write_npy_maps, write_npy_scores
from lib.data.registry import read_spec
from lib.files.dataspec import DatasetSpec
from lib.files.jsonfile import misfit, parse_json, read_json, read_json_lines, write_json
from lib.files.torchfile import read_torch
from lib.net.backbone import trained_backbone
from lib.net.deeplab import DeepLab
from lib.net.mxnet import resnet38d_from_mxnet
from lib.net.resnet38d import ResNet38d
from lib.net.weights import load_imagenet, load_network, read_meta, save_network
from lib.own.forms import read_labels
from lib.own.photos import Log
from lib.report.__main__ import read_stages
from lib.run.record import METRICS, read_scores
from lib.run.table import evaluation_text, summary_text
from lib.setup.datasetup import Notes
from tests.running import score_record
from tests.test_weights import mxnet_names, write_params

COUNT = int(os.environ.get('READER_CORRUPTIONS', 10))
NARROW = 1 / 64
META = {'network': 'deeplab', 'backbone': 'resnet38d', 'width': NARROW, 'output_stride': 8, 'classes': ['a', 'b'],
        'fov_channels': 2, 'dilation': 2, 'dataset': 'toy', 'preset': 'own', 'max_side': 300,
        'norm': [[0.5, 0.5, 0.5], [0.2, 0.2, 0.2]], 'origin': {}}
SPEC = DatasetSpec('toy', ('a', 'b'), Path(), Path(), '{}', train_split='train', score_split='train')


def deeplab(path):
    """The network that a file says it holds."""
    meta = read_meta(path)
    backbone = trained_backbone(path, meta.get('width', NARROW))
    return DeepLab(backbone, len(meta.get('classes', 'ab')) + 1, meta.get('fov_channels', 2), meta.get('dilation', 2))


def use_network(path):
    network = deeplab(path)
    load_network(network, path, ['a', 'b'])
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


def use_scores(path):
    records = read_scores(path)
    return [*map(evaluation_text, records), summary_text(records, 'run') if records else '']


def use_maps(path):
    keys, _ = (read_maps if 'maps' in path.name else read_seeds)(path, 4)
    assert all(0 <= key < 4 for key in keys)


def use_instances(path):
    return read_sizes(path), read_annotations(path)


def use_table(path):
    log = Log()
    rows = read_labels(path, ';', log)
    assert all(str(path) in place for place, _ in log.problems)
    return rows


def use_run(path):
    return [(stage.environment, stage.seconds, stage.metrics) for stage in read_stages(path, SPEC)]


def write_files(folder):
    """A valid file of every kind, with its reader."""
    torch.manual_seed(0)
    network = DeepLab(ResNet38d(NARROW), 3, 2, 2)
    save_network(folder / 'model.pth', network, META)
    torch.save(network.state_dict(), folder / 'legacy.pth', _use_new_zipfile_serialization=False)
    write_params(folder / 'x.params', mxnet_names(ResNet38d(NARROW).state_dict()))
    write_json(folder / 'dataset.json', {'name': 'x', 'classes': ['a', 'b'], 'images': '{}.jpg', 'masks': ['{}.png'],
                                         'upright': True, 'max_side': 300, 'lists': 'lists'})
    write_json(folder / 'scores.json', [score_record(curve={'thresholds': [0.1], 'miou': [5.5]}), score_record()])
    (folder / 'metrics.jsonl').write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n')
    write_json(folder / 'setup.json', {'a.tgz': {'images': 3}, 'b.tgz': {'': 1}})
    write_json(folder / 'table.json', [{'image': 'a.jpg', 'labels': ['x', 'y'], 'split': 'train'}])
    write_json(folder / 'instances.json', {
        'info': {'year': 2014}, 'images': [{'id': 1, 'height': 5, 'width': 6}], 'categories': [{'id': 3, 'name': 'c'}],
        'annotations': [{'image_id': 1, 'category_id': 3, 'segmentation': [[0, 0, 3, 0, 3, 3]]}]})
    for name, value in (('env.json', {'command': ['a'], 'time': '2026-01-01T10:00:00', 'git': None}),
                        ('args.json', {})):
        write_json(folder / 'run/cam' / name, value)
    shutil.copy(folder / 'metrics.jsonl', folder / 'run/cam')
    write_json(folder / 'run/labels/val/cam/made_by.json', {'args': {'x': 1}, 'command': ['b'], 'time': '2026-01-01'})
    maps = np.random.default_rng(0).random((2, 9, 7)).astype(np.float32)
    write_maps(folder / 'maps.npz', [1, 3], maps)
    write_seeds(folder / 'seeds.npz', [3], {1.0: maps, 24.0: maps})
    write_npy_maps(folder / 'maps.npy', [1, 3], maps)
    write_npy_scores(folder / 'scores.npy', [2], maps)
    return {'model.pth': use_network, 'legacy.pth': use_network, 'dataset.json': read_spec, 'scores.json': use_scores,
            'x.params': lambda path: load_imagenet(ResNet38d(NARROW), path), 'instances.json': use_instances,
            'metrics.jsonl': lambda path: read_json_lines(path, METRICS), 'table.json': use_table,
            'setup.json': lambda path: (Notes(folder).done('a.tgz'), Notes(folder).done('b.tgz')),
            'run/cam/env.json': lambda path: use_run(folder / 'run'),
            'run/cam/args.json': lambda path: use_run(folder / 'run'),
            'run/cam/metrics.jsonl': lambda path: use_run(folder / 'run'),
            'run/labels/val/cam/made_by.json': lambda path: use_run(folder / 'run'),
            'maps.npz': use_maps, 'seeds.npz': use_maps,
            'maps.npy': lambda path: read_npy_maps(path, (9, 7), 4),
            'scores.npy': lambda path: read_npy_seeds({1.0: path}, (9, 7), 4)}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    return folder, write_files(folder)


NAMES = ('model.pth', 'legacy.pth', 'dataset.json', 'scores.json', 'x.params', 'instances.json', 'metrics.jsonl',
         'table.json', 'setup.json', 'run/cam/env.json', 'run/cam/args.json', 'run/cam/metrics.jsonl',
         'run/labels/val/cam/made_by.json', 'maps.npz', 'seeds.npz', 'maps.npy', 'scores.npy')


def read_or_refused(read, path, what):
    """The value, or None where the file is refused as it should be."""
    try:
        return read(path)
    except (ValueError, OSError) as error:
        assert path.name in str(error) and len(str(error)) < 1000, (what, error)
        return None
    except Exception as error:
        raise AssertionError(f'{path.name}, {what}: {type(error).__name__} {error}') from error


def corrupted(content, rng):
    """The bytes of a file after something happened to them."""
    content, place = bytearray(content), rng.randrange(len(content))
    kind = rng.choice(('cut', 'flip', 'zeros', 'random', 'inserted', 'noise', 'start'))
    if kind == 'cut':
        del content[place:]
    elif kind == 'flip':
        for _ in range(rng.choice((1, 1, 8))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == 'zeros':
        content[place:place + 64] = bytes(64)
    elif kind == 'random':
        content[place:place + 16] = rng.randbytes(16)
    elif kind == 'inserted':
        content[place:place] = rng.randbytes(5)
    elif kind == 'noise':
        content = rng.randbytes(rng.choice((0, 1, 7, 300, 5000)))
    else:
        content[:100] = rng.randbytes(100)
    return kind, bytes(content)


@pytest.mark.parametrize('name', NAMES)
def test_corrupt_bytes_are_read_or_refused_by_name(files, name):
    folder, readers = files
    path, rng = folder / name, random.Random(name)
    whole = path.read_bytes()
    readers[name](path)
    try:
        for number in range(COUNT):
            kind, content = corrupted(whole, rng)
            path.write_bytes(content)
            read_or_refused(readers[name], path, f'{kind} {number}')
    finally:
        path.write_bytes(whole)


VALUES = (None, True, -1, 0, 10 ** 30, 0.5, 1e300, '', 'x', 'a\0b', '\ud800', '../x', [], [[]], {}, {'a': 1}, [1, 'a'])


def replaced(value, rng):
    """A JSON value with one of its parts replaced, removed or put twice."""
    value = json.loads(json.dumps(value))
    places = []

    def collect(part):
        for key in (part if isinstance(part, dict) else range(len(part))):
            places.append((part, key))
            if isinstance(part[key], dict | list):
                collect(part[key])
    collect([value])
    places = places[1:]
    if not places:
        return rng.choice(VALUES)
    part, key = rng.choice(places)
    if rng.random() < 0.2 and isinstance(part, dict):
        del part[key]
    elif rng.random() < 0.1 and isinstance(part, list):
        part.append(part[key])
    else:
        part[key] = rng.choice(VALUES)
    return value


@pytest.mark.parametrize('name', [name for name in NAMES if 'json' in name])
def test_values_of_another_kind_are_read_or_refused_by_name(files, name):
    folder, readers = files
    path, rng = folder / name, random.Random(name)
    whole = path.read_text()
    lines = whole.splitlines() if name.endswith('l') else [whole]
    try:
        for number in range(4 * COUNT):
            changed = [json.dumps(replaced(json.loads(line), rng)) for line in lines]
            path.write_text('\n'.join(changed) + '\n')
            read_or_refused(readers[name], path, f'{number}: {changed}')
        for text in ('NaN', '[' * 100_000, '{"a": 1, "a": 2}', '1e999', '9' * 5000, '"\\ud800"', 'null', '\ufeff{}'):
            path.write_text(text + '\n', encoding='utf-8')
            read_or_refused(readers[name], path, text[:20])
        for coding in ('utf-16', 'utf-32', 'utf-8-sig'):
            path.write_text(whole, encoding=coding)
            read_or_refused(readers[name], path, coding)
    finally:
        path.write_text(whole)


def test_meta_that_was_tampered_with_is_refused_or_right(tmp_path):
    rng, path = random.Random(0), tmp_path / 'a.pth'
    state = DeepLab(ResNet38d(NARROW), 3, 2, 2).state_dict()
    for number in range(2 * COUNT):
        meta = replaced(META, rng)
        torch.save({'state_dict': state, 'meta': meta}, path)
        read_or_refused(use_network, path, f'{number} {meta}')
    for key, value in (('width', float('nan')), ('width', 1e9), ('width', 0), ('classes', ['a', 'a']), ('classes', []),
                       ('classes', [f'{n}' for n in range(255)]), ('norm', [[1, 1, 1], [0, 1, 1]]),
                       ('norm', [[1], [1]]), ('fov_channels', 10 ** 12), ('output_stride', 65),
                       ('max_side', -3), ('dilation', True)):
        torch.save({'state_dict': state, 'meta': {**META, key: value}}, path)
        with pytest.raises(ValueError, match=f'a.pth has an invalid description of its network .*{key}'):
            read_meta(path)


@pytest.mark.parametrize('change, problem', [
    (lambda tensor: tensor * float('nan'), 'holds NaN or infinite values'),
    (lambda tensor: tensor.double() * 1e300, 'holds NaN or infinite values'),
    (lambda tensor: tensor.long(), r'is torch.int64, expected torch.float32'),
    (lambda tensor: tensor.to(torch.complex64), 'is not a plain tensor of numbers'),
    (lambda tensor: tensor[:1, :1, :1, :1].clone().expand_as(tensor), r'has shape .*, but the file lacks the values'),
    (lambda tensor: tensor.to_sparse(), 'is not a plain tensor'),
    (lambda tensor: tensor.to('meta'), 'is not a plain tensor of numbers')])
def test_tensors_that_are_no_weights_are_refused_by_name(tmp_path, change, problem):
    network, path = DeepLab(ResNet38d(NARROW), 3, 2, 2), tmp_path / 'a.pth'
    name = 'backbone.conv1a.weight'
    before = network.state_dict()[name].clone()
    torch.save({**network.state_dict(), name: change(before)}, path)
    with pytest.raises(ValueError, match=f'a.pth: tensor {name} {problem}'):
        load_network(network, path)
    assert torch.equal(network.state_dict()[name], before)


def test_weights_in_half_precision_are_loaded(tmp_path):
    network = DeepLab(ResNet38d(NARROW), 3, 2, 2)
    torch.save({name: tensor.half() if tensor.is_floating_point() else tensor
                for name, tensor in network.state_dict().items()}, tmp_path / 'a.pth')
    load_network(DeepLab(ResNet38d(NARROW), 3, 2, 2), tmp_path / 'a.pth')


class Code:
    def __reduce__(self):
        return exec, ('raise SystemExit(9)',)


@pytest.mark.parametrize('protocol', range(2, 6))
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, protocol):
    torch.save({'a': Code()}, tmp_path / 'zip.pth')
    (tmp_path / 'bare.pth').write_bytes(pickle.dumps({'a': Code()}, protocol=protocol))
    for name in ('zip.pth', 'bare.pth'):
        for tensors in (True, False):
            with pytest.raises(ValueError, match=rf'{name} (holds pickled|is corrupt)'):
                read_torch(tmp_path / name, 'download it again', tensors)


@pytest.mark.parametrize('found, expected, problem', [
    (['a', 'b'], ['a', 'b'], None), (['a', 'b'], ('a', 'b'), None),
    (['b', 'a'], ['a', 'b'], "class 1 is 'b' there, 'a' in this data set; .*, or list the classes in the order of the"),
    (['a', 'c'], ['a', 'b'], "class 2 is 'c' there, 'b' in this data set; name the file trained on this data set$"),
    (['a'], ['a', 'b'], 'has 2 classes, this data set needs 3')])
def test_a_network_of_other_classes_or_another_order_is_refused(tmp_path, found, expected, problem):
    network, path = DeepLab(ResNet38d(NARROW), 3, 2, 2), tmp_path / 'a.pth'
    save_network(path, network, {'classes': found})
    if problem:
        with pytest.raises(ValueError, match=f'a.pth .*{problem}'):
            load_network(network, path, expected)
    else:
        assert load_network(network, path, expected) == {'classes': found}


@pytest.mark.parametrize('arrays, problem', [
    ({'keys': [3, 1]}, 'do not ascend'), ({'keys': [1, 1]}, 'do not ascend'), ({'keys': [-1, 1]}, 'do not ascend'),
    ({'keys': [1.0, 3.0]}, 'do not ascend'), ({'keys': [1, 101]}, 'has class index 101, the data set has 4 classes'),
    ({'maps': np.full((2, 3, 3), np.nan, np.float16)}, 'outside of .0, 1'),
    ({'maps': np.full((2, 3, 3), 1.5, np.float16)}, 'outside of .0, 1'),
    ({'maps': np.full((2, 3, 3), -1, np.float16)}, 'outside of .0, 1'),
    ({'maps': np.ones((2, 3, 3))}, 'outside of .0, 1'),
    ({'maps': np.zeros((3, 3, 3), np.uint8)}, 'holds 2 classes but maps'), ({'maps_version': 7}, 'of version 7')])
def test_cam_files_with_impossible_keys_or_values_are_refused(tmp_path, arrays, problem):
    whole = {'maps_version': 2, 'keys': np.array([1, 3], np.int16), 'maps': np.zeros((2, 3, 3), np.uint8)}
    np.savez(tmp_path / 'a.npz', **whole)
    assert read_maps(tmp_path / 'a.npz', 4)[0].tolist() == [1, 3]
    np.savez(tmp_path / 'a.npz', **{**whole, **{key: np.array(value) for key, value in arrays.items()}})
    with pytest.raises(ValueError, match=f'a.npz .*{problem}.*regenerate it'):
        read_maps(tmp_path / 'a.npz', 4)


def test_pickled_maps_of_a_class_too_many_are_refused(tmp_path):
    maps = np.full((2, 3, 3), 0.5, np.float32)
    write_npy_maps(tmp_path / 'a.npy', [1, 101], maps)
    with pytest.raises(ValueError, match='a.npy has key 101, this data set has keys below 4'):
        read_npy_maps(tmp_path / 'a.npy', (3, 3), 4)
    write_npy_scores(tmp_path / 'b.npy', [4], maps)
    with pytest.raises(ValueError, match='b.npy has key 5, this data set has keys below 5'):
        read_npy_seeds({1.0: tmp_path / 'b.npy'}, (3, 3), 4)
    assert read_npy_seeds({1.0: tmp_path / 'b.npy'}, (3, 3), 5)[0].tolist() == [4]


@pytest.mark.parametrize('text, problem', [
    ('{', 'Expecting'), ('9' * 6000, 'limit'), ('[' * 100_000, 'nested too deeply'),
    ('{"a": 1, "b": 2, "a": 3}', 'repeats a key'), ('', 'Expecting')])
def test_json_that_is_none_says_why_and_which_file(tmp_path, text, problem):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(ValueError, match=f'a.json is not valid JSON .*{problem}.*; restore it, or remove it'):
        read_json(tmp_path / 'a.json')
    with pytest.raises(ValueError, match=problem):
        parse_json(text)


@pytest.mark.parametrize('coding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_json_of_every_coding_that_editors_write_is_read(tmp_path, coding):
    (tmp_path / 'a.json').write_text('{"é": [1, "\\u00e9\\ud83d\\ude00"]}', encoding=coding)
    assert read_json(tmp_path / 'a.json') == {'é': [1, 'é😀']}


@pytest.mark.parametrize('value, shape, problem', [
    ({'a': 1, 'free': 'x'}, {'a': int}, ''), ({}, {'a?': int}, ''), ({'a': 1.5}, {'a': float}, ''),
    ([1, None], [(float, None)], ''), ({'x': 1}, {str: float}, ''), ('b', ('a', 'b'), ''), (3, object, ''),
    ({}, {'a': int}, 'it lacks "a"'), ({'a': True}, {'a': int}, '"a" is True, expected int'),
    ({'a': [1, 'x']}, {'a': [int]}, "item 2 of \"a\" is 'x', expected int"),
    ({'a': {'b': None}}, {'a': {'b': str}}, '"b" of "a" is None, expected str'),
    ({'step': 1.5, 'x': 1}, {'step': int, str: float}, '"step" is 1.5, expected int'),
    (float('nan'), float, 'it is nan, expected float'), (float('inf'), (float, None), 'expected float or None'),
    ('c', ('a', 'b'), "it is 'c', expected 'a' or 'b'"), ([], {}, 'it is [], expected dict'),
    ('x' * 500, [int], "xxx', expected list")])
def test_a_misfit_is_said_with_its_place(value, shape, problem):
    found = misfit(value, shape)
    assert problem in found and bool(problem) == bool(found) and len(found) < 200


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    assert read_json_lines(path) == []
    path.write_text('{"step": 1}\n{"st')
    assert read_json_lines(path, METRICS) == [{'step': 1}]
    path.write_text('{"step": 1}\n{"st\n')
    with pytest.raises(ValueError, match=r'metrics\.jsonl:2 is not valid JSON'):
        read_json_lines(path, METRICS)
    path.write_text('{"step": 1}\n{"loss": 1}\n')
    with pytest.raises(ValueError, match=r'metrics\.jsonl:2: it lacks "step"'):
        read_json_lines(path, METRICS)


def test_corrupt_params_are_refused_before_memory_is_taken(files):
    folder, _ = files
    assert len(resnet38d_from_mxnet({})) == 0 and sys.maxsize > 2 ** 40
    (folder / 'huge.params').write_bytes((folder / 'x.params').read_bytes()[:24] + b'\xff' * 64)
    with pytest.raises(ValueError, match='huge.params'):
        load_imagenet(ResNet38d(NARROW), folder / 'huge.params')
