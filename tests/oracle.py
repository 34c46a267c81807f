"""The GloRe unit in its published order, written with torch's own layers: what tests and benchmarks compare with."""

import torch
from torch import Tensor, nn

from glore.units import GloRe1d, GloRe2d, GloRe3d
from glore.units.glore import GloRe

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
GLORE = {1: GloRe1d, 2: GloRe2d, 3: GloRe3d}


class DirectGraphConvolution(nn.Module):
    def __init__(self, states: int, nodes: int):
        super().__init__()
        self.nodes = nn.Conv1d(nodes, nodes, 1)
        self.states = nn.Conv1d(states, states, 1, bias=False)

    def forward(self, v: Tensor) -> Tensor:
        return self.states(torch.relu(v + self.nodes(v.mT).mT))


class DirectGloRe(nn.Module):
    """Same keys as ours, so that a state dict fits both."""

    def __init__(
        self, axes: int, channels: int, states: int, nodes: int, graph_layers: int = 1, normalize: bool = True
    ):
        super().__init__()
        self.normalize = normalize
        self.state = CONV[axes](channels, states, 1)
        self.projection = CONV[axes](channels, nodes, 1)
        self.graph_layers = nn.Sequential(*(DirectGraphConvolution(states, nodes) for _ in range(graph_layers)))
        self.extend = CONV[axes](states, channels, 1, bias=False)
        self.norm = NORM[axes](channels, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        p = self.projection(x).flatten(2)
        v = torch.matmul(self.state(x).flatten(2), p.mT)
        if self.normalize:
            v = v * (1 / p.shape[-1])
        y = torch.matmul(self.graph_layers(v), p)
        return x + self.norm(self.extend(y.unflatten(2, x.shape[2:])))


def direct(unit: GloRe) -> DirectGloRe:
    """The oracle with a unit's sizes, weights, statistics, type and mode."""
    oracle = DirectGloRe(
        unit.space_axes, unit.channels, unit.n_states, unit.n_nodes, len(unit.graph_layers), unit.normalize
    )
    oracle.to(next(unit.parameters()).dtype).load_state_dict(unit.state_dict())
    return oracle.train(unit.training)


def live(unit: nn.Module) -> nn.Module:
    """Give a fresh unit's last norm weights and statistics that matter."""
    for norm in (m for m in unit.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return unit


def relative(a: Tensor, b: Tensor) -> float:
    """max|a − b| / max|b|."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-300))
