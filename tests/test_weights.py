"""Weight files: MXNet's format, ImageNet weights, networks handed from stage to stage."""
import datetime
import struct

import numpy as np
import pytest
import torch
from torch import nn

from lib.net.deeplab import DeepLab
from lib.net.mxnet import V1, V2, V3, read_mxnet_params, resnet38d_from_mxnet
from lib.net.resnet38d import ResNet38d
from lib.net.seam import Seam
from lib.net.weights import load_imagenet, load_network, read_meta, save_network

NARROW = 1 / 32
CLASSES = 5
NORM_FIELDS = {'weight': 'gamma', 'bias': 'beta', 'running_mean': 'moving_mean', 'running_var': 'moving_var'}
CODES = {'<f4': 0, '<f8': 1, '<f2': 2, '|u1': 3, '<i4': 4, '|i1': 5, '<i8': 6}


def array_bytes(array, magic=None, storage=0, code=None):
    """One array as MXNet writes it; magic None is the layout of 2016."""
    head = b'' if magic is None else struct.pack('<I', magic)
    head += struct.pack('<i', storage) if magic in (V2, V3) else b''
    head += struct.pack('<I', array.ndim) + struct.pack(f'<{array.ndim}{"q" if magic else "I"}', *array.shape)
    return head + struct.pack('<iii', 1, 0, CODES[array.dtype.str] if code is None else code) + array.tobytes()


def write_params(path, arrays, names=None, magic=None, **options):
    names = list(arrays) if names is None else names
    content = struct.pack('<QQQ', 0x112, 0, len(arrays))
    content += b''.join(array_bytes(array, magic, **options) for array in arrays.values())
    content += struct.pack('<Q', len(names))
    content += b''.join(struct.pack('<Q', len(name.encode())) + name.encode() for name in names)
    path.write_bytes(content)
    return path


def mxnet_names(state):
    """Our state dict as the arrays of an MXNet file, with the ImageNet classifier."""
    arrays = {}
    for name, tensor in state.items():
        *module, field = name.split('.')
        if field == 'num_batches_tracked':
            continue
        norm = module[-1].startswith('bn')
        field = (NORM_FIELDS if norm else {}).get(field, field)
        if len(module) == 2:
            stage, _, unit = module[0][1:].partition('_')
            layer, branch = module[1].split('_')
            module = [f'{"bn" if norm else "res"}{stage}{f"b{unit}" if unit else "a"}_{branch}']
        kind = 'aux' if field.startswith('moving') else 'arg'
        arrays[f'{kind}:{module[0]}_{field}'] = tensor.numpy()
    arrays['arg:linear1000_weight'] = np.ones((1000, 2), np.float32)
    return arrays


def random_backbone(width=NARROW):
    net = ResNet38d(width)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return net


def same(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def one_line(error):
    message = str(error.value)
    assert '\n' not in message
    return message


# MXNet files

@pytest.mark.parametrize('magic', [None, V1, V2, V3])
def test_every_layout_and_type_is_read(tmp_path, magic):
    arrays = {f'arg:{code}': np.arange(6).reshape(1, 2, 3).astype(code) for code in CODES}
    found = read_mxnet_params(write_params(tmp_path / 'x.params', arrays, magic=magic))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)


@pytest.mark.parametrize('magic', [None, V1, V2])
def test_array_without_shape_is_empty_and_has_no_content(tmp_path, magic):
    empty = {None: b'', V1: struct.pack('<I', V1), V2: struct.pack('<Ii', V2, 0)}[magic] + struct.pack('<I', 0)
    content = struct.pack('<QQQ', 0x112, 0, 2) + empty + array_bytes(np.ones(3, np.float32), magic)
    content += struct.pack('<QQ1sQ1s', 2, 1, b'a', 1, b'b')
    (tmp_path / 'x.params').write_bytes(content)
    found = read_mxnet_params(tmp_path / 'x.params')
    assert found['a'].size == 0 and found['b'].tolist() == [1, 1, 1]


def test_single_number_of_v3_is_read(tmp_path):
    file = write_params(tmp_path / 'x.params', {'a': np.float32(2.5).reshape(())}, magic=V3)
    assert read_mxnet_params(file)['a'] == 2.5


def test_file_cut_anywhere_is_refused(tmp_path):
    whole = write_params(tmp_path / 'x.params', {'arg:a': np.ones((2, 3), np.float32)}, magic=V2).read_bytes()
    for length in range(len(whole)):
        (tmp_path / 'cut.params').write_bytes(whole[:length])
        with pytest.raises(ValueError, match='cut.params.*truncated') as error:
            read_mxnet_params(tmp_path / 'cut.params')
        one_line(error)


def test_corrupt_mxnet_files_are_refused_by_name(tmp_path):
    one = {'arg:a': np.ones((2, 3), np.float32)}
    huge = struct.pack('<QQQ', 0x112, 0, 1) + struct.pack('<III', 2, 2**31, 2**31) + struct.pack('<iii', 1, 0, 0)
    negative = struct.pack('<QQQ', 0x112, 0, 1) + struct.pack('<IIqq', V1, 2, -1, 3) + struct.pack('<iii', 1, 0, 0)
    cases = {
        'not an MXNet': b'PK\x03\x04' + bytes(40),
        'are announced': huge,
        'has the shape': negative,
        'dimensions': struct.pack('<QQQ', 0x112, 0, 1) + struct.pack('<I', 0xF993FACB),
        'storage type 1': write_params(tmp_path / 'a', one, magic=V2, storage=1).read_bytes(),
        'data type 12': write_params(tmp_path / 'a', one, code=12).read_bytes(),
        '1 arrays but 0 names': write_params(tmp_path / 'a', one, names=[]).read_bytes(),
        'a name appears twice': write_params(tmp_path / 'a', {**one, 'b': np.ones(1)}, names=['b', 'b']).read_bytes(),
        'codec can.t decode': write_params(tmp_path / 'a', one).read_bytes()[:-5] + b'\xff\xff\xff\xff\xff',
        '3 bytes follow': write_params(tmp_path / 'a', one).read_bytes() + b'abc',
    }
    for reason, content in cases.items():
        (tmp_path / 'bad.params').write_bytes(content)
        with pytest.raises(ValueError, match=f'bad.params: .*{reason}') as error:
            read_mxnet_params(tmp_path / 'bad.params')
        one_line(error)


def test_array_of_another_network_is_refused():
    for name in ('arg:fc1_weight', 'arg:res4b3_branch2a_scale', 'arg:conv1a_moment', 'resnet_stage1_weight'):
        with pytest.raises(ValueError, match=name):
            resnet38d_from_mxnet({name: np.ones(1, np.float32)})


def test_half_precision_arrays_become_float32():
    state = resnet38d_from_mxnet({'arg:conv1a_weight': np.ones((2, 3, 3, 3), np.float16)})
    assert state['conv1a.weight'].dtype == torch.float32


# ImageNet weights

@pytest.mark.parametrize('width', [NARROW, 0.05])
def test_backbone_is_filled_from_mxnet_and_from_pth(tmp_path, width):
    source = random_backbone(width)
    write_params(tmp_path / 'a.params', mxnet_names(source.state_dict()))
    torch.save(source.state_dict(), tmp_path / 'a.pth')
    save_network(tmp_path / 'b.pth', source, {'stage': 'imagenet'})
    for name in ('a.params', 'a.pth', 'b.pth'):
        net = ResNet38d(width)
        load_imagenet(net, str(tmp_path / name))
        assert same(net, source)


def test_weights_none_leaves_the_backbone_alone():
    net = random_backbone()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    load_imagenet(net, 'none')
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_missing_imagenet_file_says_what_where_and_how_else():
    with pytest.raises(FileNotFoundError) as error:
        load_imagenet(ResNet38d(NARROW), 'nowhere/x.params')
    for part in ('nowhere/x.params', 'ilsvrc-cls_rna-a1_cls1000_ep-0001.params', 'jiwoon-ahn/psa', 'YudeWang/SEAM',
                 'itijyou/ademxapp', 'pretrained/', '--weights none'):
        assert part in one_line(error)


def test_imagenet_file_of_another_width_or_network_is_refused(tmp_path):
    write_params(tmp_path / 'a.params', mxnet_names(ResNet38d(NARROW).state_dict()))
    write_params(tmp_path / 'b.params', {'arg:fc1_weight': np.ones((1, 1), np.float32)})
    arrays = mxnet_names(ResNet38d(NARROW).state_dict())
    arrays.pop('aux:bn7_moving_var')
    write_params(tmp_path / 'c.params', arrays)
    torch.save({'fc.weight': torch.ones(1)}, tmp_path / 'a.pth')
    (tmp_path / 'a.txt').write_text('')
    cases = [('a.params', 1 / 16, r'different width.*conv1a.weight is \(2, 3, 3, 3\), here \(4, 3, 3, 3\)'),
             ('b.params', NARROW, 'not an array of ResNet-38d'),
             ('c.params', NARROW, r'1 tensors missing \(first: bn7.running_var\)'),
             ('a.pth', NARROW, r'1 tensors unexpected \(first: fc.weight\)'),
             ('a.txt', NARROW, '.params file')]
    for name, width, reason in cases:
        with pytest.raises(ValueError, match=f'{name}.*{reason}') as error:
            load_imagenet(ResNet38d(width), str(tmp_path / name))
        one_line(error)


# Networks

def seam(classes=CLASSES, width=NARROW):
    return Seam(ResNet38d(width), classes)


def deeplab(classes=CLASSES):
    return DeepLab(ResNet38d(NARROW), classes, fov_channels=8)


def test_saved_network_comes_back_with_its_meta(tmp_path):
    net, other = seam(), seam()
    meta = {'stage': 'cam', 'width': NARROW, 'classes': ['a', 'b'], 'args': {'lr': 0.01, 'sigma': None}}
    save_network(tmp_path / 'new' / 'model.pth', nn.DataParallel(net), meta)
    assert load_network(nn.DataParallel(other), tmp_path / 'new' / 'model.pth') == meta
    assert same(net, other)
    assert read_meta(tmp_path / 'new' / 'model.pth') == meta
    assert [file.name for file in (tmp_path / 'new').iterdir()] == ['model.pth']


def test_failed_save_keeps_the_former_file(tmp_path, monkeypatch):
    save_network(tmp_path / 'model.pth', seam(), {'run': 1})
    monkeypatch.setattr(torch, 'save', lambda content, file: file.write(b'half') and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_network(tmp_path / 'model.pth', seam(), {'run': 2})
    assert read_meta(tmp_path / 'model.pth') == {'run': 1}
    assert [file.name for file in tmp_path.iterdir()] == ['model.pth']


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('zipped', [True, False])
def test_published_state_dict_is_loaded_strictly(tmp_path, prefix, zipped):
    for net, other in ((seam(), seam()), (deeplab(), deeplab())):
        state = {prefix + name: tensor for name, tensor in net.state_dict().items()}
        torch.save(state, tmp_path / 'published.pth', _use_new_zipfile_serialization=zipped)
        assert load_network(other, tmp_path / 'published.pth', classes=['a']) == {}
        assert same(net, other)
        assert read_meta(tmp_path / 'published.pth') == {}


def test_file_older_than_batch_counters_is_loaded(tmp_path):
    net, other = seam(), seam()
    state = {name: tensor for name, tensor in net.state_dict().items() if 'num_batches' not in name}
    torch.save(state, tmp_path / 'old.pth')
    load_network(other, tmp_path / 'old.pth')
    assert same(net, other)


def refused(path, net, reason, **options):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match=reason) as error:
        load_network(net, path, **options)
    assert str(path) in one_line(error)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_file_of_another_class_count_is_explained(tmp_path):
    save_network(tmp_path / 'a.pth', seam(9), {})
    refused(tmp_path / 'a.pth', seam(5), 'has 9 classes, this data set needs 5')
    save_network(tmp_path / 'b.pth', deeplab(9), {})
    refused(tmp_path / 'b.pth', deeplab(5), 'has 9 classes, this data set needs 5')


def test_file_of_another_width_is_explained(tmp_path):
    save_network(tmp_path / 'a.pth', seam(width=1 / 16), {})
    refused(tmp_path / 'a.pth', seam(),
            r'different width: \d+ tensors .*conv1a.weight is \(4, 3, 3, 3\), here \(2, 3, 3, 3\)')


def test_file_of_another_network_is_explained(tmp_path):
    save_network(tmp_path / 'a.pth', deeplab(), {})
    refused(tmp_path / 'a.pth', seam(), r'a different network than Seam: \d+ tensors missing \(first: conv1a.weight\), '
                                        r'\d+ tensors unexpected \(first: backbone.conv1a.weight\)')
    state = seam().state_dict()
    state.pop('f9.weight')
    torch.save(state, tmp_path / 'b.pth')
    refused(tmp_path / 'b.pth', seam(), r'1 tensors missing \(first: f9.weight\)')


@pytest.mark.parametrize('zipped', [True, False])
def test_corrupt_file_is_explained(tmp_path, zipped):
    torch.save(seam().state_dict(), tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / 'a.pth').read_bytes()
    for content in (b'', b'no network', whole[:100], whole[:len(whole) // 2], whole[:-10]):
        (tmp_path / 'a.pth').write_bytes(content)
        refused(tmp_path / 'a.pth', seam(), 'is corrupt')
        with pytest.raises(ValueError, match='is corrupt'):
            read_meta(tmp_path / 'a.pth')


def test_single_flipped_bit_is_noticed(tmp_path):
    save_network(tmp_path / 'a.pth', nn.Linear(100, 100), {})
    content = bytearray((tmp_path / 'a.pth').read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / 'a.pth').write_bytes(content)
    refused(tmp_path / 'a.pth', nn.Linear(100, 100), 'is corrupt')


@pytest.mark.parametrize('zipped', [True, False])
def test_file_with_pickled_objects_is_refused(tmp_path, zipped):
    for content in (nn.Linear(1, 1), {'state_dict': seam().state_dict(), 'when': datetime.date(2020, 1, 1)}):
        torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
        refused(tmp_path / 'a.pth', seam(), 'pickled Python objects')


def test_file_without_tensors_is_refused(tmp_path):
    for content in ([torch.ones(1)], {}, {'state_dict': {}}, {'epoch': 3}, {1: torch.ones(1)}):
        torch.save(content, tmp_path / 'a.pth')
        refused(tmp_path / 'a.pth', seam(), 'no tensors by name')


def test_missing_network_file_is_named(tmp_path):
    for read in (read_meta, lambda path: load_network(seam(), path)):
        with pytest.raises(FileNotFoundError, match='none.pth is missing') as error:
            read(tmp_path / 'none.pth')
        one_line(error)
