"""Facts of the published code that tidying would silently change. Each is a choice, named where it is made."""
import json

import numpy as np
import pytest
import torch
from torch import nn

import eval as evaluation
import infer_aff
import infer_cam
import infer_seg
import train_aff
import train_seg
from lib import cam_stage
from lib.data.registry import get_spec
from lib.net.freeze import make_optimizer, norm_layers
from lib.net.weights import unwrapped
from lib.run.options import resolve
from lib.run.settings import COMMON, SETTINGS
from tests.running import tensors
from tool import crfutils
from tool.affutils import Pairs, affinity_loss
from tool.densecrf import FINAL_CRF, SEED_CRF

SMALL = ['--width', '0.03125', '--weights', 'none']
TRAINING = ('cam', 'aff', 'seg')


def resolved(stage, dataset='voc12', *words):
    """Settings with which a stage runs on a data set when no flag is given but these."""
    parsers = {'cam': (cam_stage.make_parser('', dataset), 'train_cam'),
               'infer_cam': (infer_cam.make_parser(), 'infer_cam'),
               'aff': (train_aff.make_parser(), 'train_aff'),
               'infer_aff': (infer_aff.make_parser(), 'infer_aff'),
               'seg': (train_seg.make_parser(), 'train_seg'),
               'infer_seg': (infer_seg.make_parser(), 'infer_seg')}
    return resolve(parsers[stage][0], ['--dataset', dataset, *words], parsers[stage][1], get_spec)


def network_of(stage):
    """The network of a stage, frozen and in the mode in which the stage trains it."""
    args, spec = resolved(stage, 'voc12', *SMALL)
    if stage == 'cam':
        return cam_stage.make_network(args, spec)
    return train_aff.make_network(args) if stage == 'aff' else train_seg.make_network(args, spec.num_classes)


@pytest.mark.parametrize('stage, momentum', [('cam', 0.0005), ('aff', 0.0005), ('seg', 0.9)])
def test_momentum_is_weight_decay_in_the_first_two_stages_and_true_in_the_third(stage, momentum):
    for dataset in ('voc12', 'coco'):
        args, _ = resolved(stage, dataset)
        assert (args.momentum, args.weight_decay, args.poly_power) == (momentum, 0.0005, 0.9)
    optimizer = make_optimizer(network_of(stage), args.lr, args.momentum, args.weight_decay)
    assert {group['momentum'] for group in optimizer.param_groups} == {momentum}


def test_the_rate_falls_over_the_steps_and_in_the_third_stage_over_one_more(run_folder):
    for stage, more in (('cam', 0), ('aff', 0), ('seg', 1)):
        args = json.loads((run_folder / stage / 'args.json').read_text())
        rows = [json.loads(line) for line in (run_folder / stage / 'metrics.jsonl').read_text().splitlines()]
        total = args['max_steps']
        assert [row['step'] for row in rows] == list(range(1, total + 1))
        expected = [args['lr'] * (1 - step / (total + more)) ** 0.9 for step in range(total)]
        assert [row['lr'] for row in rows] == pytest.approx(expected, rel=1e-3)


def test_batch_norm_runs_on_batch_statistics_in_the_third_stage_alone():
    for stage, by_batch in (('cam', False), ('aff', False), ('seg', True)):
        network = network_of(stage)
        assert network.training and {layer.training for layer in norm_layers(network)} == {by_batch}
        assert all(module.training for module in network.modules() if isinstance(module, nn.Dropout))


def test_the_first_convolutions_learn_in_the_third_stage_alone(run_folder):
    before = tensors(run_folder / 'backbone/model.pth')
    for stage, learns in (('cam', False), ('aff', False), ('seg', True)):
        assert network_of(stage).backbone.conv1a.weight.requires_grad == learns
        after = tensors(run_folder / stage / 'model.pth')
        own = {name.removeprefix('backbone.'): tensor for name, tensor in after.items()}
        for name in ('conv1a.weight', 'b2.conv_branch2a.weight', 'b2_2.conv_branch2b1.weight'):
            assert torch.equal(own[name], before[name]) != learns, (stage, name)
        assert not torch.equal(own['b3.conv_branch2a.weight'], before['b3.conv_branch2a.weight'])
        assert torch.equal(own['bn7.running_mean'], before['bn7.running_mean']) != learns


def test_scale_and_shift_of_batch_norm_are_in_no_optimiser_group_and_never_change(run_folder):
    before = tensors(run_folder / 'backbone/model.pth')
    for stage in TRAINING:
        network = network_of(stage)
        optimizer = make_optimizer(network, 0.1, 0.9, 0.1)
        optimised = {id(value) for group in optimizer.param_groups for value in group['params']}
        affine = [value for layer in norm_layers(network) for value in (layer.weight, layer.bias)]
        assert len(affine) > 30 and not any(id(value) in optimised or value.requires_grad for value in affine)
        after = {name.removeprefix('backbone.'): tensor
                 for name, tensor in tensors(run_folder / stage / 'model.pth').items()}
        for name, _ in (pair for pair in unwrapped(network).backbone.named_parameters() if '.bn' in f'.{pair[0]}'):
            assert torch.equal(after[name], before[name]), (stage, name)


def test_feature_similarity_weighs_1_on_voc_and_a_fifth_on_coco():
    assert resolved('cam', 'voc12')[0].fsl_weight == 1.0 == SETTINGS['train_cam']['voc12']['fsl_weight']
    assert resolved('cam', 'coco')[0].fsl_weight == 0.2 == SETTINGS['train_cam']['coco']['fsl_weight']
    assert resolved('cam', 'coco', '--fsl-weight', '1')[0].fsl_weight == 1.0


def test_seeds_and_final_result_have_their_own_crf(monkeypatch, tmp_path):
    assert SEED_CRF == (3, 3, 80, 13, 10, 10) and FINAL_CRF == (3, 3, 32, 13, 10, 1)
    used = []

    def watched(image, probs, settings):
        used.append(settings)
        return probs

    monkeypatch.setattr(crfutils, 'dense_crf', watched)
    image = np.zeros((4, 5, 3), np.uint8)
    crfutils.seed_scores(image, np.full((1, 4, 5), 0.5, np.float32), [24.0])
    infer_seg.write_result([(tmp_path / 'a.png', '')], image, np.full((2, 4, 5), 0.5, np.float32), crf='torch')
    assert used == [SEED_CRF, FINAL_CRF]


def test_affinity_loss_normalises_over_the_batch_and_says_so():
    affinity = torch.tensor([[[0.9, 0.8, 0.7]], [[0.2, 0.5, 0.5]]])
    chosen = torch.tensor([[[1.0, 1, 1]], [[1.0, 0, 0]]])
    none = torch.zeros_like(chosen)
    loss = affinity_loss(affinity, Pairs(chosen, none, none))['bg']
    alone = [affinity_loss(affinity[i:i + 1], Pairs(chosen[i:i + 1], none[:1], none[:1]))['bg'] for i in (0, 1)]
    assert loss.item() == pytest.approx((3 * alone[0] + alone[1]).item() / 4, rel=1e-4)
    assert loss.item() != pytest.approx(sum(alone).item() / 2, rel=0.1)
    assert 'of the whole batch' in ' '.join(affinity_loss.__doc__.split())


def test_defaults_are_the_published_settings_on_voc():
    published = {
        'cam': {'batch_size': 8, 'epochs': 8, 'max_steps': None, 'crop_size': 448, 'long_side': (448, 768), 'lr': 0.01,
                'view2_scale': 0.3, 'isl_weight': 0.2, 'isl_samples': 10, 'fsl': True, 'fsl_mu': 2.5, 'fsl_sigma': 5.0,
                'dropout': True, 'width': 1.0, 'seed': 1},
        'infer_cam': {'scales': (0.5, 1.0, 1.5, 2.0), 'seed_alphas': (1.0, 24.0), 'width': 1.0},
        'aff': {'batch_size': 8, 'epochs': 8, 'max_steps': None, 'crop_size': 448, 'lr': 0.01, 'radius': 5,
                'width': 1.0},
        'infer_aff': {'alpha': 6.0, 'beta': 8.0, 'walk_log2_steps': 6, 'radius': 5, 'width': 1.0},
        'seg': {'batch_size': 10, 'max_steps': 20_000, 'crop_size': 448, 'scale': (0.5, 1.5), 'lr': 0.001,
                'dilation': 12, 'fov_channels': 512, 'bn_momentum': 3e-4, 'width': 1.0},
        'infer_seg': {'scales': (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), 'crf': True, 'dilation': 12, 'width': 1.0}}
    for stage, expected in published.items():
        args = vars(resolved(stage)[0])
        assert {key: args[key] for key in expected} == expected, stage
    assert resolved('seg', 'coco')[0].max_steps == 200_000


def test_presets_of_the_published_sets_differ_in_no_hidden_setting():
    for stage in ('cam', 'infer_cam', 'aff', 'infer_aff', 'seg', 'infer_seg'):
        voc, coco = (vars(resolved(stage, dataset)[0]) for dataset in ('voc12', 'coco'))
        differing = {key for key in voc if voc[key] != coco[key]} - {'dataset', 'run', 'runs', 'folder'}
        assert differing == {'cam': {'fsl_weight'}, 'seg': {'max_steps'}}.get(stage, set())


def test_every_setting_of_the_table_is_a_flag_of_its_stage():
    parsers = {'train_cam': cam_stage.make_parser('', 'voc12'), 'infer_cam': infer_cam.make_parser(),
               'train_aff': train_aff.make_parser(), 'infer_aff': infer_aff.make_parser(),
               'train_seg': train_seg.make_parser(), 'infer_seg': infer_seg.make_parser(),
               'eval': evaluation.make_parser()}
    assert parsers.keys() == SETTINGS.keys()
    flags = {stage: {action.dest for action in parser._actions} for stage, parser in parsers.items()}
    assert [(stage, key) for stage, rows in SETTINGS.items() for row in rows.values() for key in row
            if key not in flags[stage]] == []
    assert {key for row in COMMON.values() for key in row} <= set.union(*flags.values())
