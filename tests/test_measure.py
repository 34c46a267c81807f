"""Counts of parameters and multiply-adds."""

import pytest
import torch
from torch import nn

from glore import GloRe2d, measure
from glore.units import NonLocal2d


def test_convolutions_and_linear_layers():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 100, 5))
    assert measure.multiply_adds(net, torch.zeros(1, 3, 10, 10)) == 100 * 9 * 3 * 8 + 800 * 5
    assert measure.parameters(net) == 3 * 9 * 8 + 8 + 800 * 5 + 5


def test_attention_is_counted():
    unit, c, positions = NonLocal2d(16), 8, 100
    products = positions * (3 * 16 * c + c * 16) + 2 * positions**2 * c
    assert measure.multiply_adds(unit, torch.zeros(1, 16, 10, 10)) == products


def test_what_runs_is_counted():
    short = measure.multiply_adds(GloRe2d(512), torch.zeros(1, 512, 7, 7))
    long = measure.multiply_adds(GloRe2d(512), torch.zeros(1, 512, 28, 28))
    assert long < 16 * short  # the cheap order: less than in proportion


def test_modes_and_statistics_stay():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    measure.multiply_adds(net, torch.randn(2, 3, 5, 5))
    assert [module.training for module in net] == [True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_modes_stay_when_the_forward_fails():
    net = nn.Sequential(nn.Conv2d(3, 4, 1)).train()
    with pytest.raises(RuntimeError):
        measure.multiply_adds(net, torch.zeros(1, 5, 4, 4))
    assert net[0].training
