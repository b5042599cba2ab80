"""Optimiser groups and the learning-rate schedule."""
import pytest
import torch
from torch import nn

from tool.torchutils import full_precision, lr_groups, poly_factor, set_lr


def network():
    return nn.ModuleDict({'old': nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, bias=False)),
                          'new': nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))})


def groups_of(net):
    return lr_groups(net['old'].named_parameters(), net['new'].named_parameters(), lr=0.01, weight_decay=5e-4)


def test_weights_and_biases_old_and_new_learn_at_their_own_rates():
    net = network()
    groups = groups_of(net)
    expected = [[net['old'][0].weight, net['old'][2].weight], [net['old'][0].bias],
                [net['new'][0].weight, net['new'][2].weight], [net['new'][2].bias]]
    assert [[id(p) for p in group['params']] for group in groups] == [[id(p) for p in part] for part in expected]
    assert [group['lr'] for group in groups] == pytest.approx([0.01, 0.02, 0.1, 0.2])
    assert [group['weight_decay'] for group in groups] == [5e-4, 0, 5e-4, 0]


def test_frozen_parameters_and_batch_norms_are_in_no_group():
    net = network()
    net['old'].requires_grad_(False)
    grouped = {id(p) for group in groups_of(net) for p in group['params']}
    frozen = [*net['old'].parameters(), *net['new'][1].parameters()]
    assert not grouped & {id(p) for p in frozen}
    assert len(grouped) == 3


def test_a_shift_belongs_to_a_batch_norm_even_if_its_scale_is_frozen():
    net = network()
    net['old'][1].weight.requires_grad_(False)
    assert id(net['old'][1].bias) not in {id(p) for group in groups_of(net) for p in group['params']}


def test_an_empty_group_suits_the_optimiser():
    layer = nn.Conv2d(3, 2, 1, bias=False)
    torch.optim.SGD(lr_groups([], layer.named_parameters(), 0.01, 0.0), lr=0.01).step()


def test_a_parameter_that_is_both_pretrained_and_new_is_refused_by_the_optimiser():
    layer = nn.Conv2d(3, 2, 1)
    with pytest.raises(ValueError, match='more than one parameter group'):
        torch.optim.SGD(lr_groups(layer.named_parameters(), layer.named_parameters(), 0.01, 0.0), lr=0.01)


def test_the_schedule_falls_from_one_to_zero():
    factors = [poly_factor(step, 10) for step in range(12)]
    assert factors[0] == 1
    assert factors[4] == pytest.approx(0.6 ** 0.9)
    assert factors[10] == factors[11] == 0
    assert all(a > b for a, b in zip(factors[:10], factors[1:11]))
    assert poly_factor(3, 4, power=2) == pytest.approx(1 / 16)


def test_set_lr_scales_every_group_from_its_own_base():
    optimizer = torch.optim.SGD(groups_of(network()), lr=1.0)
    for factor in (0.5, 0.25):
        set_lr(optimizer, factor)
        expected = [base * factor for base in (0.01, 0.02, 0.1, 0.2)]
        assert [group['lr'] for group in optimizer.param_groups] == pytest.approx(expected)


@pytest.mark.parametrize('dtype, expected', [(torch.float16, torch.float32), (torch.bfloat16, torch.float32),
                                             (torch.float32, torch.float32), (torch.float64, torch.float64)])
def test_full_precision_raises_half_types_only(dtype, expected):
    assert full_precision(torch.zeros(2, dtype=dtype)).dtype == expected
