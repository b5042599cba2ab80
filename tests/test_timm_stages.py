"""All three stages and their inference on a small timm network. Skipped where timm is missing."""
import json

import pytest
import torch

import infer_aff
import infer_cam
import infer_seg
import train_aff
import train_cam_voc
import train_seg
from lib.data.affinity import AffTrainSet
from lib.data.datasets import InferSet
from lib.data.registry import get_spec
from lib.net.timm_backbone import TimmBackbone
from tests.running import CAM_TRAINING, HEAD, LOADED_HERE, NETWORK, SCALES, TRAINING, error_line, place, tensors
from tests.test_processes import output, torchrun
from tool.affutils import mean_pool

pytest.importorskip('timm')


@pytest.fixture(scope='module', params=[('test_efficientnet', 8), ('test_efficientnet', 16), ('test_vit', 16)])
def run(request, toy, tmp_path_factory):
    """The folder of a run of all stages on a network and its stride; inference is told nothing about the backbone."""
    exp = tmp_path_factory.mktemp('exp')
    common = (*place(toy, exp), *LOADED_HERE)
    name, stride = request.param
    training = ('--backbone', f'timm:{name}', '--weights', 'none', '--head-lr', '30',
                *(() if name == 'test_vit' else ('--output-stride', str(stride))))
    train_cam_voc.main([*common, *CAM_TRAINING, *training, '--crop-size', '65', '--freeze', 'backbone'])
    infer_cam.main([*common, *NETWORK, *SCALES, '--split', 'train'])
    train_aff.main([*common, *TRAINING, *training, '--crop-size', '128'])
    infer_aff.main([*common, *NETWORK, '--split', 'train'])
    train_seg.main([*common, *TRAINING, *HEAD, *training])
    infer_seg.main([*common, *NETWORK, *HEAD, *SCALES, '--split', 'val'])
    return exp / 'toy', *request.param


def test_every_stage_writes_its_files_and_its_network_says_the_backbone(run, toy):
    run, name, stride = run
    spec = get_spec(str(toy), None, None)
    for folder, split, suffix in (('labels/train/cam', 'train', 'npz'), ('labels/train/seeds', 'train', 'npz'),
                                  ('labels/train/walk', 'train', 'png'), ('results/val', 'val', 'png')):
        assert len(list((run / folder).glob(f'*.{suffix}'))) == len(InferSet(spec, split))
    metas = [torch.load(run / stage / 'model.pth', weights_only=True)['meta'] for stage in ('cam', 'aff', 'seg')]
    assert {(meta['backbone'], meta['output_stride']) for meta in metas} == {(f'timm:{name}', stride)}


def test_frozen_features_are_those_at_the_start(run):
    run, name, _ = run
    changed = tensors(run / 'seg/model.pth')
    frozen = tensors(run / 'cam/model.pth')
    backbone = [name for name in frozen if name.startswith('model.')]
    started = {name: frozen[name] for name in backbone}
    torch.manual_seed(1)        # the stages' default seed makes the same random backbone in each
    fresh = TimmBackbone(name).state_dict()
    assert all(torch.equal(started[name], fresh[name]) for name in backbone)
    first = next(key for key in fresh if key.endswith(('conv_stem.weight', 'patch_embed.proj.weight')))
    assert not torch.equal(changed[f'backbone.{first}'], fresh[first])


@pytest.mark.parametrize('main, flags', [(infer_cam.main, SCALES), (infer_aff.main, ()), (infer_seg.main, HEAD)])
def test_another_backbone_than_the_file_says_is_refused(run, toy, capsys, main, flags):
    run, name, _ = run
    words = (*place(toy, run.parent), *LOADED_HERE, *NETWORK, *flags, '--split', 'train', '--backbone', 'resnet38d')
    assert f'was made with --backbone timm:{name}, not resnet38d' in error_line(main, words, capsys)


@pytest.mark.parametrize('words, message', [
    (('--backbone', 'timm:nothing'), 'timm has no network'),
    (('--backbone', 'timm:test_vit', '--output-stride', '5'), 'gives features at strides 16, which are not'),
    (('--backbone', 'timm:test_efficientnet', '--weights', 'pretrained/a.params'), 'is for resnet38d, the backbone is'),
    (('--backbone', 'vgg16'), 'use resnet38d or timm:NAME')])
@pytest.mark.parametrize('main, flags', [(train_cam_voc.main, CAM_TRAINING), (train_aff.main, TRAINING),
                                         (train_seg.main, TRAINING)])
def test_a_wrong_backbone_is_one_line_in_every_stage(toy, tmp_path, capsys, main, flags, words, message):
    line = error_line(main, (*place(toy, tmp_path), *LOADED_HERE, *flags, '--weights', 'none', *words), capsys)
    assert message in line and not list(tmp_path.iterdir())


def test_seeds_are_pooled_to_the_stride(run, toy):
    spec = get_spec(str(toy), None, None)
    for stride in (8, 16):
        data = AffTrainSet(spec, 'train', crop=64, seeds_dir=run[0] / 'labels/train/seeds', stride=stride)
        assert data[0, 0]['label'].shape == (64 // stride, 64 // stride)
    assert mean_pool(torch.ones(1, 33, 16).numpy(), 16).shape == (1, 3, 1)
    with pytest.raises(ValueError, match='multiple of 16; use 64'):
        AffTrainSet(spec, 'train', crop=72, stride=16)


@pytest.mark.parametrize('name', ['mobilenetv3_small_050', 'test_convnext', 'test_vit'])   # cut; an unused norm
def test_two_processes_train_a_network_whose_last_layers_are_unused(run_folder, toy, tmp_path, name):
    words = [*place(toy, tmp_path), *LOADED_HERE, *TRAINING, '--backbone', f'timm:{name}', '--weights', 'none',
             '--output-stride', '8', '--picture-every', '0', '--seed-dir', str(run_folder / 'labels/train/seeds')]
    output(torchrun(2, 'train_aff', words))
    assert json.loads((tmp_path / 'toy/aff/metrics.jsonl').read_text().splitlines()[-1])['step'] == 4
