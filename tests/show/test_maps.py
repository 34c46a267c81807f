"""What the nodes look at, against the branch with a node's term really taken away."""

from functools import partial

import pytest
import torch
from torch import nn

from glore import GloRe2d, GloRe3d
from glore.nets.heads import FCN
from glore.nets.segmenter import segmenter
from glore.show import maps
from oracle import live


def branch(unit, x, without=None):
    """The unit's branch in evaluation mode, by the published order, without one node's term."""
    p = unit.projection(x).flatten(2)
    scale = 1 / p.shape[-1] if unit.normalize else 1
    v = unit.state(x).flatten(2) @ p.mT * scale
    z = unit.graph_layers(v)
    if without is not None:
        z = z.clone()
        z[..., without] = 0
    return unit.norm(unit.extend((z @ p).unflatten(2, x.shape[2:])))


@pytest.mark.parametrize("options", [{}, {"graph_layers": 2, "nodes": 5}, {"normalize": False}])
@pytest.mark.parametrize(("kind", "space"), [(GloRe2d, (5, 7)), (GloRe3d, (2, 3, 4))])
def test_energy_is_what_goes_with_a_nodes_term(kind, space, options):
    unit = live(kind(12, **options).double()).eval()
    x = torch.randn(1, 12, *space, dtype=torch.double)
    whole = branch(unit, x).square().sum()
    torch.testing.assert_close(unit(x) - x, branch(unit, x))
    expected = [1 - branch(unit, x, node).square().sum() / whole for node in range(unit.n_nodes)]
    torch.testing.assert_close(maps.node_energy(unit, x).detach(), torch.stack(expected).detach())


def test_maps_of_a_network_in_the_order_of_its_units():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), live(GloRe2d(8)), nn.ReLU(), live(GloRe2d(8, nodes=3, graph_layers=2)))
    net.train()
    first, second = maps.unit_maps(net, torch.randn(1, 3, 9, 9))
    assert (first.path, second.path) == ("1", "3")
    assert second.projection.shape == (3, 7, 7)
    assert second.mixing.shape == (2, 3, 3)
    assert second.extent == (1, 1)
    assert sorted(second.ranked) == [0, 1, 2]
    assert second.energy[second.ranked[0]] == second.energy.max()
    torch.testing.assert_close(second.mixing[0], torch.eye(3) + net[3].graph_layers[0].nodes.weight[..., 0])
    assert all(module.training for module in net.modules())
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_maps_of_a_segmenter_go_as_far_as_it_fills_the_sample():
    pytest.importorskip("timm")
    net = segmenter("resnetv2_18", 3, partial(FCN, width=8, unit=GloRe2d), 32, options={"channels": (8, 8, 8, 8)})
    (seen,) = maps.unit_maps(net, torch.randn(1, 3, 40, 64))
    assert seen.projection.shape[1:] == (2, 2)
    assert seen.extent == (64 / 40, 1)


@pytest.mark.parametrize("layers", [1, 3])
def test_reach_is_how_a_linear_unit_answers_to_each_position(layers):
    unit = live(GloRe2d(6, nodes=4, graph_layers=layers)).double().eval()
    x = torch.randn(1, 6, 3, 5, dtype=torch.double)
    (seen,) = maps.unit_maps(nn.Sequential(unit), x)
    states = torch.randn(7, 15, dtype=torch.double, requires_grad=True)  # S, taken apart from the input
    p = unit.project(x).flatten(2)[0].detach()
    z = states @ p.mT  # (s, n)
    for layer in unit.graph_layers:
        z = z + z @ layer.nodes.weight[..., 0].mT
    y = (z @ p).view(7, 3, 5)
    (grad,) = torch.autograd.grad(y[2, 1, 3], states)
    torch.testing.assert_close(seen.reach((1, 3)), grad[2].view(3, 5))


def test_a_fresh_unit_has_no_energy():
    assert maps.node_energy(GloRe2d(8).eval(), torch.randn(1, 8, 5, 5)).tolist() == [0, 0]


def test_a_network_without_units_is_told():
    with pytest.raises(ValueError, match="no GloRe unit"):
        maps.unit_maps(nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 4, 4))


def test_another_norm_is_told():
    unit = GloRe2d(8)
    unit.norm = nn.GroupNorm(2, 8)
    with pytest.raises(ValueError, match="GroupNorm"):
        maps.node_energy(unit, torch.randn(1, 8, 5, 5))
