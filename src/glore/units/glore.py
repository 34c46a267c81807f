"""The GloRe unit: pool a map into a few nodes, reason over them with a graph convolution, broadcast the result back.

Source: Chen, Rohrbach, Yan, Yan, Feng, Kalantidis, "Graph-Based Global Reasoning Networks", CVPR 2019
(arXiv 1811.12814). Letters: batch b, channels c, states s, nodes n, positions l, graph layers g.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from glore.units import products, residual_norm
from glore.units.ndim import Unit, whole


def default_sizes(channels: int, states: int | None, nodes: int | None) -> tuple[int, int]:
    """The states s and nodes n of a unit for c channels: c / 2 and c / 4 unless given.

    Raises:
        ValueError: a size is not a whole number of at least 1.
    """
    return (
        whole("states", max(1, channels // 2) if states is None else states),
        whole("nodes", max(1, channels // 4) if nodes is None else nodes),
    )


class GraphConvolution(nn.Module):
    """Mix the nodes, then their states: `V ← Wv relu(V + V Wnᵀ + 1 anᵀ)`.

    Shapes:
        `(b, s, n)` to the same.

    Args:
        states: length s of a node's state vector.
        nodes: number n of nodes.

    Source: equation 4 and Table 1. The paper writes (I − A) V W; the learned Wn is −A. The relu stands before Wv,
    as in the published code, never after it.
    """

    def __init__(self, states: int, nodes: int) -> None:
        super().__init__()
        self.nodes = nn.Conv1d(nodes, nodes, kernel_size=1)
        self.states = nn.Conv1d(states, states, kernel_size=1, bias=False)
        nn.init.xavier_uniform_(self.nodes.weight)
        nn.init.xavier_uniform_(self.states.weight)
        assert self.nodes.bias is not None
        nn.init.zeros_(self.nodes.bias)

    def forward(self, v: Float[Tensor, "b s n"]) -> Float[Tensor, "b s n"]:
        if products.plain(self.nodes, bias=True):
            mixed = v + F.linear(v, self.nodes.weight[..., 0], self.nodes.bias)  # (b, s, n)
        else:
            mixed = v + self.nodes(v.mT).mT  # (b, s, n)
        if products.plain(self.states, bias=False):
            return products.times(self.states.weight[..., 0], torch.relu(mixed))  # (b, s, n)
        return self.states(torch.relu(mixed))  # (b, s, n)


class GloRe(Unit):
    """Global reasoning over a map with n axes of space; use `GloRe1d`, `GloRe2d` or `GloRe3d`.

    A fresh unit is the identity, because the weight of its last norm starts at zero: it can join a pretrained
    network without moving its output.

    Shapes:
        `(b, c, *space)` to the same.

    Args:
        channels: channels c of the map.
        states: length s of a node's state vector; `max(1, channels // 2)` by default.
        nodes: number n of nodes; `max(1, channels // 4)` by default.
        graph_layers: graph convolutions g between pooling and broadcasting, at least 1.
        normalize: divide the pooled sums by the number of positions l, so that the branch does not grow with the
            size of the picture. The released Kinetics weights were trained without.

    Raises:
        ValueError: a size is not a whole number of at least 1, or the map does not fit the unit.

    Source: section 3 of the paper; the published code for the relu's place, the norm's eps and the initial weights.
    The products run in the cheap order of `glore.units.products` wherever that saves multiply-adds.

    Example:
        >>> import torch
        >>> from glore.units import GloRe2d
        >>> unit = GloRe2d(64)
        >>> x = torch.randn(2, 64, 14, 14)
        >>> torch.equal(unit(x), x)
        True
        >>> unit.project(x).shape
        torch.Size([2, 16, 14, 14])
    """

    def __init__(
        self,
        channels: int,
        *,
        states: int | None = None,
        nodes: int | None = None,
        graph_layers: int = 1,
        normalize: bool = True,
    ) -> None:
        super().__init__(channels)
        self.n_states, self.n_nodes = default_sizes(channels, states, nodes)
        whole("graph_layers", graph_layers)
        self.normalize = normalize
        self.state = self.conv(channels, self.n_states)
        self.projection = self.conv(channels, self.n_nodes)
        self.graph_layers = nn.Sequential(*(GraphConvolution(self.n_states, self.n_nodes) for _ in range(graph_layers)))
        self.extend = self.conv(self.n_states, channels, bias=False)
        self.norm = self.zero_start_norm(eps=1e-4)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
        self.check(x)
        if self._folds(x):
            return self._folded(x.flatten(2), x.shape[2:])
        p = self.projection(x).flatten(2)  # (b, n, l)
        scale = 1 / p.shape[-1] if self.normalize else 1.0
        v = products.scaled_product(self.state(x).flatten(2), p.mT, scale)  # (b, s, n)
        z = self.graph_layers(v)  # (b, s, n)
        y = torch.bmm(z, p).unflatten(2, x.shape[2:])  # (b, s, *space)
        return x + self.norm(self.extend(y))  # (b, c, *space)

    def _folds(self, x: Float[Tensor, "b c *space"]) -> bool:
        as_made = (
            products.plain(self.projection, bias=True)
            and products.plain(self.state, bias=True)
            and products.plain(self.extend)
        )
        if not as_made or products.symbolic(x):
            return as_made
        sizes = x.shape[2:].numel(), self.channels, self.n_states, self.n_nodes
        return x.shape[0] > 0 and products.folds(*sizes, training=self.training)

    def _folded(self, x: Float[Tensor, "b c l"], space: torch.Size) -> Float[Tensor, "b c *space"]:
        """The same function in the cheap order: it forms no map of (s, l), and keeps none but P for the backward."""
        wp, ws, we = (conv.weight.flatten(1) for conv in (self.projection, self.state, self.extend))
        bp, bs = self.projection.bias, self.state.bias
        assert bp is not None
        assert bs is not None
        traced = isinstance(x, torch.fx.Proxy)  # a symbolic trace has to follow the training flag of later
        x, p, mean_p, pooled = products.pool(x, wp, bp, lean=self.training and not traced)
        pooled_bias = bs[:, None] * mean_p[:, None].to(ws.dtype)  # (b, s, n)
        v = products.times(ws, pooled.to(ws.dtype)) + pooled_bias  # (b, s, n)
        z = self.graph_layers(v if self.normalize else v * x.shape[-1])  # (b, s, n)
        norm, be = self.norm, self.extend.bias
        if be is not None and not traced and products.untouched(norm, nn.Identity):  # as `glore.fold` leaves them
            return residual_norm.add_broadcast(x, p, mean_p, z, we, be).unflatten(2, space)
        if traced or be is not None or not products.plain(norm, bias=True):
            y = products.broadcast(p, mean_p, z, we, be)  # (b, c, l)
            return x.unflatten(2, space) + norm(y.unflatten(2, space))
        return residual_norm.add_batch_normed(x, p, mean_p, z, we, norm).unflatten(2, space)

    def project(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b n *space"]:
        """The projection map P: with what weight each position goes to each node, and comes back from it."""
        self.check(x)
        return self.projection(x)

    def adjacency(self) -> Float[Tensor, "g n n"]:
        """The learned adjacency of each graph layer, A = −Wn: A_ij is how much of node j is subtracted from node i."""
        layers = (layer for layer in self.graph_layers if isinstance(layer, GraphConvolution))
        return torch.stack([-layer.nodes.weight[..., 0] for layer in layers])

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, states={self.n_states}, nodes={self.n_nodes}, "
            f"graph_layers={len(self.graph_layers)}, normalize={self.normalize}"
        )


class GloRe1d(GloRe):
    """A GloRe unit for sequences, `(b, c, length)`. Arguments: `glore.units.GloRe`."""

    space_axes = 1


class GloRe2d(GloRe):
    """A GloRe unit for pictures, `(b, c, height, width)`. Arguments: `glore.units.GloRe`."""

    space_axes = 2


class GloRe3d(GloRe):
    """A GloRe unit for clips, `(b, c, time, height, width)`. Arguments: `glore.units.GloRe`."""

    space_axes = 3
