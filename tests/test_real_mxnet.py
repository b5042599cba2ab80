"""Our reader of .params files against MXNet itself, where MXNET_PYTHON names a Python that has it."""
import os
import subprocess

import numpy as np
import pytest

from lib.net.mxnet import read_mxnet_params
from lib.net.resnet38d import ResNet38d
from lib.net.weights import load_imagenet
from tests.parity_files import path as parity_path
from tests.test_weights import NARROW, mxnet_names, random_backbone, same

WRITE = """
import sys, numpy, mxnet
arrays = numpy.load(sys.argv[1])
mxnet.nd.save(sys.argv[2], {name: mxnet.nd.array(arrays[name], dtype=arrays[name].dtype) for name in arrays.files})
"""
READ = """
import sys, numpy, mxnet
numpy.savez(sys.argv[2], **{name: array.asnumpy() for name, array in mxnet.nd.load(sys.argv[1]).items()})
"""


@pytest.fixture
def mxnet():
    """Function that runs Python code where MXNet is."""
    python = os.environ.get('MXNET_PYTHON')
    if not python:
        pytest.skip('MXNET_PYTHON names no Python with MXNet')
    return lambda code, *words: subprocess.run([python, '-c', code, *map(str, words)], check=True)


@pytest.mark.parametrize('dtype', ['float32', 'float64', 'float16', 'uint8', 'int32', 'int8', 'int64'])
def test_arrays_that_mxnet_wrote_are_read_alike(mxnet, tmp_path, dtype):
    rng = np.random.default_rng(0)
    arrays = {f'arg:{name}': (100 * rng.random(shape)).astype(dtype)
              for name, shape in {'a': (3,), 'b': (2, 3, 4, 5), 'c': (1, 1)}.items()}
    np.savez(tmp_path / 'a.npz', **arrays)
    mxnet(WRITE, tmp_path / 'a.npz', tmp_path / 'a.params')
    read = read_mxnet_params(tmp_path / 'a.params')
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_a_backbone_that_mxnet_wrote_loads(mxnet, tmp_path):
    backbone = random_backbone()
    np.savez(tmp_path / 'a.npz', **mxnet_names(backbone.state_dict()))
    mxnet(WRITE, tmp_path / 'a.npz', tmp_path / 'a.params')
    loaded = ResNet38d(NARROW)
    load_imagenet(loaded, tmp_path / 'a.params')
    assert same(loaded, backbone)


@pytest.mark.parametrize('version', [0, 1, 2])
def test_both_read_the_same_from_every_version_of_the_layout(mxnet, tmp_path, version):
    path = parity_path(f'resnet38_width32th_v{version}.params')
    mxnet(READ, path, tmp_path / 'theirs.npz')
    ours, theirs = read_mxnet_params(path), np.load(tmp_path / 'theirs.npz')
    assert sorted(ours) == sorted(theirs.files)
    for name in theirs.files:
        np.testing.assert_array_equal(ours[name], theirs[name])
