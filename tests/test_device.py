"""Compiled networks: the same numbers, or one line that says what is missing."""
import os

import pytest
import torch

from lib.net.freeze import freeze_early, set_train_mode
from lib.net.resnet38d import ResNet38d
from lib.net.seam import Seam
from lib.run import device as devices

CPU = torch.device('cpu')


def test_without_a_compiler_compile_is_refused(monkeypatch):
    monkeypatch.setenv('PATH', os.devnull)
    monkeypatch.delenv('CXX', raising=False)
    with pytest.raises(ValueError, match=r'--compile needs a C\+\+ compiler, .*; install it, or leave --compile out'):
        devices.parallel(torch.nn.Linear(1, 1), CPU, None, True)


def test_compiled_network_learns_as_the_plain_one_and_shares_its_weights(monkeypatch):
    monkeypatch.setattr(torch, 'compile', lambda network, **settings: torch._dynamo.optimize('eager')(network))
    torch.manual_seed(0)
    network = Seam(ResNet38d(1 / 32, (0, 0)), 4, dropout=0)
    freeze_early(network)
    set_train_mode(network, batch_norm='running')
    gradients = []
    for forward in (network, devices.parallel(network, CPU, None, True)):
        network.zero_grad()
        for side in (48, 24):
            output = forward(torch.linspace(-1, 1, 3 * side * side).view(1, 3, side, side))
            (output.refined.square().mean() + output.cam.square().mean()).backward()
        gradients.append([parameter.grad for parameter in network.parameters() if parameter.requires_grad])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)
