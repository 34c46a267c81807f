"""Double attention (A2): gather global features by one attention, hand them out by another.

Source: Chen, Kalantidis, Li, Yan, Feng, "A2-Nets: Double Attention Networks", NeurIPS 2018 (arXiv 1810.11579).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from glore.units import products
from glore.units.ndim import Unit, whole


class DoubleAttention(Unit):
    """Gather, then distribute; use `DoubleAttention1d`, `DoubleAttention2d` or `DoubleAttention3d`.

    Shapes:
        `(b, c, *space)` to the same.

    Args:
        channels: channels c of the map.
        states: length s of a gathered feature; `max(1, channels // 4)` by default.
        nodes: number n of gathered features; `max(1, channels // 4)` by default.

    Raises:
        ValueError: a size is not a whole number of at least 1, or the map does not fit the unit.

    Source: section 3; the gathering softmax runs over positions, the distributing one over nodes. A departure: the
    branch ends in a batch norm whose weight starts at zero, so that a fresh block is the identity like its rivals here.

    Example:
        >>> import torch
        >>> from glore.units import DoubleAttention2d
        >>> x = torch.randn(2, 64, 7, 7)
        >>> torch.equal(DoubleAttention2d(64)(x), x)
        True
    """

    def __init__(self, channels: int, *, states: int | None = None, nodes: int | None = None) -> None:
        super().__init__(channels)
        states = whole("states", max(1, channels // 4) if states is None else states)
        nodes = whole("nodes", max(1, channels // 4) if nodes is None else nodes)
        self.features = self.conv(channels, states, bias=False)  # a bias here or in the next would have no effect
        self.gather = self.conv(channels, nodes, bias=False)
        self.distribute = self.conv(channels, nodes)
        self.extend = self.conv(states, channels, bias=False)
        self.norm = self.zero_start_norm()

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
        self.check(x)
        gather = self.gather(x).flatten(2).softmax(2)  # (b, n, l)
        distribute = self.distribute(x).flatten(2).softmax(1)  # (b, n, l)
        descriptors = torch.bmm(self.features(x).flatten(2), gather.mT)  # (b, s, n)
        return x + self.norm(products.conv_of_product(self.extend, descriptors, distribute, x.shape[2:]))


class DoubleAttention1d(DoubleAttention):
    """A double attention block for sequences, `(b, c, length)`. Arguments: `glore.units.DoubleAttention`."""

    space_axes = 1


class DoubleAttention2d(DoubleAttention):
    """A double attention block for pictures, `(b, c, height, width)`. Arguments: `glore.units.DoubleAttention`."""

    space_axes = 2


class DoubleAttention3d(DoubleAttention):
    """A double attention block for clips, `(b, c, time, height, width)`. Arguments: `glore.units.DoubleAttention`."""

    space_axes = 3
