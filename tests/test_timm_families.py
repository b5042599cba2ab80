"""Families of timm as backbones: timm's weights and a step of CAM training on each. Skipped where timm is missing."""
from functools import partial

import pytest
import torch
from torch.nn import functional as F

import train_cam_voc
from lib import export
from lib.net.backbone import make_backbone
from lib.net.deeplab import DeepLab
from lib.net.timm_backbone import TimmBackbone
from lib.net.weights import load_imagenet, read_meta, save_network
from tests.running import CAM_TRAINING, LOADED_HERE, place, tensors

timm = pytest.importorskip('timm')
VIT = {'embed_dim': 48, 'depth': 3, 'num_heads': 3}
SWIN = {'embed_dim': 24, 'depths': (1, 1, 2, 1), 'num_heads': (1, 1, 2, 2)}
# Name, --output-stride, the stride that it has then, and what makes it small.
FAMILIES = [
    ('vit_tiny_patch16_224', 8, 8, VIT),                    # AugReg; its patches overlap
    ('deit_tiny_patch16_224', None, 16, VIT),
    ('deit_tiny_distilled_patch16_224', None, 16, VIT),     # two prefix tokens
    ('deit3_small_patch16_224', 4, 4, VIT),
    ('vit_small_patch14_dinov2', None, 14, VIT),
    ('vit_small_patch14_reg4_dinov2', 7, 7, VIT),           # registers
    ('vit_tiny_patch16_dinov3_qkvb', None, 16, VIT),        # rotary positions
    ('eva02_tiny_patch14_224', None, 14, VIT),
    ('vit_base_patch32_clip_224', 16, 16, VIT),
    ('vit_base_patch16_siglip_224', None, 16, VIT),         # attention pooling, unused here
    ('beitv2_base_patch16_224', None, 16, VIT),             # tables of relative positions
    ('vit_relpos_small_patch16_224', None, 16, VIT),
    ('swin_tiny_patch4_window7_224', None, 32, SWIN),
    ('swin_tiny_patch4_window7_224', 16, 16, SWIN),
    ('swinv2_tiny_window8_256', None, 32, SWIN),
    ('test_maxvit', 16, 16, {}),
    ('pvt_v2_b0', 16, 16, {'depths': (1, 1, 1, 1)}),
    ('xcit_nano_12_p16_224', None, 16, {'depth': 3}),
    ('test_mambaout', None, 32, {}),
    ('hrnet_w18_small', 8, 8, {}),
    ('convnext_atto', None, 8, {'depths': (1, 1, 1, 1), 'dims': (16, 24, 32, 40)}),
    ('mobilenetv3_small_050', None, 32, {}),
    ('test_resnet', 16, 16, {}),
    ('test_nfnet', None, 8, {}),
    ('test_byobnet', None, 8, {}),
    ('test_efficientnet', None, 8, {})]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def shrink(monkeypatch, small):
    monkeypatch.setattr(timm, 'create_model', partial(timm.create_model, **small))


@pytest.mark.parametrize('name, stride, expected, small', FAMILIES)
def test_every_family_takes_weights_of_timm_and_a_training_step(toy, tmp_path, monkeypatch, name, stride, expected,
                                                                small):
    shrink(monkeypatch, small)
    theirs, file = timm.create_model(name).state_dict(), tmp_path / 'timm.pth'
    torch.save(theirs, file)
    backbone = make_backbone(f'timm:{name}', stride=stride).eval()
    load_imagenet(backbone, file)
    ours = backbone.state_dict()
    left_out = {key.split('.')[0] for key in theirs if f'model.{key}' not in ours}
    assert left_out <= {'head', 'head_dist', 'fc', 'classifier'}
    assert all(torch.equal(value, theirs[key.removeprefix('model.')]) for key, value in ours.items())
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 2 * expected + 1, 3 * expected))
    assert {tap: tuple(values.shape[1:]) for tap, values in maps.items()} == {
        tap: (channels, 3, 3) for tap, channels in backbone.taps.items()}

    words = [*place(toy, tmp_path), *LOADED_HERE, *CAM_TRAINING, '--backbone', f'timm:{name}', '--weights', str(file),
             *(['--output-stride', str(stride)] if stride else []), '--max-steps', '1', '--batch-size', '2',
             '--picture-every', '0', '--lr', '0.1']
    train_cam_voc.main([*words, '--dry-run'])
    assert list(tmp_path.iterdir()) == [file]
    train_cam_voc.main(words)
    trained = tensors(tmp_path / 'toy/cam/model.pth')
    assert all(value.isfinite().all() for value in trained.values())
    assert [key for key in ours if not torch.equal(ours[key], trained[key])]
    assert read_meta(tmp_path / 'toy/cam/model.pth')['output_stride'] == expected


@pytest.mark.parametrize('name, prefix, small', [
    ('deit_tiny_distilled_patch16_224', 2, VIT), ('vit_small_patch14_reg4_dinov2', 5, VIT),
    ('vit_base_patch16_siglip_224', 0, VIT), ('swin_tiny_patch4_window7_224', None, SWIN)])
def test_the_last_map_is_the_networks_own_features_without_prefix_tokens(monkeypatch, name, prefix, small):
    shrink(monkeypatch, small)
    backbone = TimmBackbone(name).eval()
    images = torch.randn(2, 3, 4 * backbone.stride, 6 * backbone.stride)
    with torch.no_grad():
        theirs = backbone.model.forward_features(images)
        theirs = theirs.unflatten(1, (4, 6)) if prefix == 0 else theirs if prefix is None else (
            theirs[:, prefix:].unflatten(1, (4, 6)))
        torch.testing.assert_close(backbone(images)['conv6'], theirs.permute(0, 3, 1, 2))


def test_images_are_padded_evenly_to_whole_patches():
    backbone = TimmBackbone('test_vit').eval()
    images = torch.randn(1, 3, 65, 49)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), backbone(F.pad(images, (7, 8, 7, 8), mode='replicate')))


@pytest.mark.parametrize('name, stride, patch', [('test_vit', 8, 16), ('vit_small_patch14_dinov2', 7, 14)])
def test_every_second_overlapping_patch_is_a_patch(monkeypatch, name, stride, patch):
    shrink(monkeypatch, VIT)
    fine, coarse, shift = TimmBackbone(name, stride), TimmBackbone(name), (patch - stride + 1) // 2
    fine.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, 4 * patch + shift, 4 * patch + shift)
    overlapping = fine.model.patch_embed.proj(images[..., shift:, shift:])[..., 2:8:2, 2:8:2]
    torch.testing.assert_close(overlapping, coarse.model.patch_embed.proj(images[..., :4 * patch, :4 * patch])[
        ..., 1:4, 1:4])


def test_position_embeddings_of_another_image_size_are_resampled_as_timm_does(tmp_path):
    theirs = timm.create_model('test_vit', img_size=224).state_dict()
    torch.save(theirs, tmp_path / 'larger.pth')
    backbone = make_backbone('timm:test_vit')
    load_imagenet(backbone, tmp_path / 'larger.pth')
    theirs['pos_embed'] = timm.layers.resample_abs_pos_embed(theirs['pos_embed'], (10, 10), num_prefix_tokens=1)
    assert all(torch.equal(value, theirs[key]) for key, value in backbone.model.state_dict().items())


def test_relative_positions_follow_the_image_and_stay_as_they_are_in_the_network(monkeypatch):
    shrink(monkeypatch, VIT)
    backbone = TimmBackbone('beitv2_base_patch16_224').eval()
    before, images = backbone.state_dict(), torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        theirs = backbone.model.fc_norm(backbone.model.forward_features(images)[:, 1:])
        for _ in range(2):
            torch.testing.assert_close(backbone(images)['conv6'].flatten(2).transpose(1, 2), theirs)
            assert backbone(images[..., :100, :150])['conv6'].shape[-2:] == (7, 10)
    after = backbone.state_dict()
    assert list(before) == list(after) and all(value is after[key] or torch.equal(value, after[key])
                                               for key, value in before.items())
    assert backbone.model.blocks[0].attn.window_size == (14, 14)


def test_a_segmentation_network_on_a_transformer_is_exported_but_not_to_onnx(tmp_path, capsys):
    pytest.importorskip('onnx')
    backbone, path = TimmBackbone('test_vit', 8), tmp_path / 'model.pth'
    meta = {'network': 'deeplab', 'backbone': 'timm:test_vit', 'output_stride': 8, 'classes': ['a', 'b'],
            'fov_channels': 8, 'dilation': 2}
    save_network(path, DeepLab(backbone, 3, 8, 2), meta)
    export.main([str(path), '--torchscript', str(tmp_path / 'a.pt')])
    assert '100.00% of the pixels' in capsys.readouterr().out
    with pytest.raises(ValueError, match=r'--onnx: the backbone interpolates its position embeddings.*--torchscript$'):
        export.main([str(path), '--onnx', str(tmp_path / 'a.onnx')])
    assert sorted(file.name for file in tmp_path.iterdir()) == ['a.pt', 'model.pth']
