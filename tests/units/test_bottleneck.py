"""The control has GloRe's parameters, and sees one position at a time."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from glore import GloRe2d
from glore.units import Bottleneck2d
from oracle import live


def count(module):
    return sum(p.numel() for p in module.parameters())


@given(
    channels=st.integers(4, 300),
    states=st.none() | st.integers(2, 80),
    nodes=st.none() | st.integers(2, 80),
    graph_layers=st.integers(1, 3),
)
def test_it_has_as_many_parameters_as_glore(channels, states, nodes, graph_layers):
    sizes = {"states": states, "nodes": nodes, "graph_layers": graph_layers}
    assert abs(count(Bottleneck2d(channels, **sizes)) - count(GloRe2d(channels, **sizes))) <= channels + 1


def test_it_sees_one_position_at_a_time():
    unit = live(Bottleneck2d(16)).eval()
    x = torch.randn(1, 16, 4, 5, requires_grad=True)
    unit(x)[0, :, 2, 3].sum().backward()
    reached = x.grad.abs().sum(1)[0].nonzero().tolist()
    assert reached == [[2, 3]]
