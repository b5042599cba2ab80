"""Choice of a backbone by name, in training and from a trained network's file. Nothing here needs timm."""
import sys

import pytest
import torch

from lib.net.backbone import check_network, make_backbone, trained_backbone
from lib.net.resnet38d import ResNet38d
from lib.net.weights import save_network
from tool.imutils import fitting_size


def test_the_published_backbone_is_made_by_name():
    backbone = make_backbone('resnet38d', 1 / 32)
    assert isinstance(backbone, ResNet38d) and backbone.taps == ResNet38d(1 / 32).taps


@pytest.mark.parametrize('name, stride, message', [('vgg', 8, r'--backbone vgg is unknown; use resnet38d or timm:NAME'),
                                                   ('resnet38d', 16, r'--output-stride 16: resnet38d has 8')])
def test_a_backbone_that_is_not_there_is_explained(name, stride, message):
    with pytest.raises(ValueError, match=message):
        make_backbone(name, stride=stride)


def test_without_timm_the_message_names_the_requirements_file(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ImportError, match=r'^--backbone timm:NAME needs timm.*requirements-timm\.txt$'):
        make_backbone('timm:resnet18')


def test_a_trained_file_says_its_backbone(tmp_path):
    path = tmp_path / 'model.pth'
    save_network(path, ResNet38d(1 / 32), {'backbone': 'resnet38d'})
    for name in (None, 'resnet38d'):
        assert isinstance(trained_backbone(path, 1 / 32), ResNet38d)
        assert check_network(path, 'seam', name)['backbone'] == 'resnet38d'
    with pytest.raises(ValueError, match=r'made with --backbone resnet38d, not timm:resnet18; leave the flag out'):
        check_network(path, 'seam', 'timm:resnet18')


def test_a_published_file_is_of_the_published_backbone(tmp_path):
    torch.save(ResNet38d(1 / 32).state_dict(), tmp_path / 'published.pth')
    assert isinstance(trained_backbone(tmp_path / 'published.pth', 1 / 32), ResNet38d)


@pytest.mark.parametrize('size, step, expected', [((240, 320), None, (240, 320)), ((240, 320), 8, (241, 321)),
                                                  ((3, 12), 8, (9, 9)), ((161, 97), 16, (161, 97))])
def test_a_fitting_size_is_a_multiple_of_the_step_plus_one(size, step, expected):
    assert fitting_size(*size, step) == expected
