"""What the nodes of GloRe units look at, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from glore import probe
from glore.units import GloRe
from glore.units.ndim import CONVS


@dataclass(frozen=True)
class UnitMaps:
    """One unit on one sample.

    Args:
        path: of the unit in the network.
        projection: the projection map P, (n, *space): with what weight each position goes to each node and comes back.
        energy: share of the branch's energy that goes when a node's term is removed, (n).
        mixing: I − A of each graph layer, (g, n, n): how much of node j ends in node i.
        extent: what a map covers along each axis of space, as a share of the sample: above 1 where the network fills
            samples up to whole cells, as `glore.nets.segmenter` does.
    """

    path: str
    projection: Float[Tensor, "n *space"]
    energy: Float[Tensor, "n"]
    mixing: Float[Tensor, "g n n"]
    extent: tuple[float, ...]

    @property
    def ranked(self) -> list[int]:
        """The nodes, those that matter most first."""
        return self.energy.argsort(descending=True).tolist()

    def label(self, node: int) -> str:
        """A node's name and its share of the branch's energy."""
        return f"node {node} · {round(100 * float(self.energy[node]))} %"

    def reach(self, position: Sequence[int]) -> Float[Tensor, "*space"]:
        """With what weight a position hears each other one: its row of Pᵀ (I − A) P.

        That is the linear part of what the unit does: it leaves out biases, the relu of each graph layer and how
        layers mix the states. Of several layers, I − A is their product.

        Args:
            position: its index along each axis of space of the projection map.
        """
        own = self.projection
        for index in position:
            own = own[:, index]  # in the end (n)
        for mixing in self.mixing.flip(0):
            own = mixing.mT @ own
        return torch.tensordot(own, self.projection, 1)


def unit_maps(net: nn.Module, sample: Tensor) -> list[UnitMaps]:
    """The maps of each GloRe unit in a network, in the order in which the units run.

    Args:
        net: the network, which is run in evaluation mode and left in the mode it was in.
        sample: one input, with a batch axis of 1.

    Raises:
        ValueError: the network has no GloRe unit.
    """
    units = {module: name for name, module in net.named_modules() if isinstance(module, GloRe)}
    if not units:
        raise ValueError("the network has no GloRe unit: glore.insert puts them in")
    seen: list[UnitMaps] = []
    fill: Any = getattr(net, "filled", None)
    whole = fill(sample) if callable(fill) else sample
    extent = tuple(side / own for side, own in zip(whole.shape[2:], sample.shape[2:], strict=True))

    def look(unit: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(unit, GloRe)
        seen.append(_maps(units[unit], unit, inputs[0], extent))

    handles = [unit.register_forward_pre_hook(look) for unit in units]
    try:
        probe.run(net, (sample,))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def node_energy(unit: GloRe, x: Float[Tensor, "1 c *space"]) -> Float[Tensor, "n"]:
    """How much of the branch's energy goes when a node's term is removed, as a share: (|B|² − |B − T_k|²) / |B|².

    In evaluation mode the branch B that the unit adds to its input is a sum over nodes, T_k = γ/σ We z_k p_kᵀ, plus a
    constant for each channel. Shares do not add up to 1, since terms can cancel or reinforce each other; a negative one
    says that the branch is larger without the node.

    Raises:
        ValueError: the branch is no such sum: the unit's last norm is no batch norm with weights and statistics, or its
            last convolution no plain one.
    """
    norm, extend = unit.norm, unit.extend
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None or norm.weight is None:
        raise ValueError(
            f"the unit's norm is {norm}; a batch norm with weights and statistics makes the branch a sum over nodes"
        )
    if type(extend) not in CONVS or is_parametrized(extend):
        raise ValueError(f"the unit's last convolution is a {type(extend).__name__}, of which the weight says not all")
    p = unit.projection(x).flatten(2)[0].double()  # (n, l)
    states = unit.state(x).flatten(2)[0].double()  # (s, l)
    pooled = states @ p.mT / (p.shape[-1] if unit.normalize else 1)  # (s, n)
    z = unit.graph_layers(pooled[None].to(x.dtype))[0].double()  # (s, n)
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).double()  # (c)
    m = scale[:, None] * (extend.weight.flatten(1).double() @ z)  # (c, n)
    shift = norm.bias.double() - scale * norm.running_mean.double()  # (c)
    shift = shift if extend.bias is None else shift + scale * extend.bias.double()
    branch = m @ p + shift[:, None]  # (c, l)
    with_branch = ((m.mT @ branch) * p).sum(1)  # <T_k, B>: (n)
    alone = m.square().sum(0) * p.square().sum(1)  # |T_k|²: (n)
    return (2 * with_branch - alone) / branch.square().sum().clamp_min(torch.finfo(torch.double).tiny)


def _maps(path: str, unit: GloRe, x: Tensor, extent: tuple[float, ...]) -> UnitMaps:
    adjacency = unit.adjacency()
    mixing = torch.eye(adjacency.shape[-1], device=adjacency.device) - adjacency
    return UnitMaps(path, unit.project(x)[0].cpu(), node_energy(unit, x).cpu(), mixing.cpu(), extent)
