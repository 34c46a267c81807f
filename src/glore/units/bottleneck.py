"""The control: a residual bottleneck with as many parameters as a GloRe unit, which sees one position at a time.

A network with it has the weights of one with GloRe units but no global reasoning, so a gain over it is not the gain of
more weights. No paper: the block is that of He et al. (arXiv 1512.03385) with its 3×3 convolution left out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from glore.units.glore import default_sizes
from glore.units.ndim import LAYERS, Unit, whole


class Bottleneck(Unit):
    """Two convolutions of kernel 1 with GloRe's parameter count; use `Bottleneck1d`, `Bottleneck2d`, `Bottleneck3d`.

    A fresh one is the identity, because the weight of its last norm starts at zero.

    Shapes:
        `(b, c, *space)` to the same.

    Args:
        channels: channels c of the map.
        states: as the GloRe unit's whose parameters are matched.
        nodes: as the GloRe unit's.
        graph_layers: as the GloRe unit's.

    Raises:
        ValueError: a size is not a whole number of at least 1, or the map does not fit the unit.

    Source: none. The hidden width is the one whose parameter count comes nearest to the GloRe unit's: at most
    `channels + 1` parameters away, unless that would take a width below 1.

    Example:
        >>> from glore import GloRe2d
        >>> from glore.units import Bottleneck2d
        >>> [sum(p.numel() for p in unit(512).parameters()) for unit in (GloRe2d, Bottleneck2d)]
        [411136, 411424]
    """

    def __init__(
        self, channels: int, *, states: int | None = None, nodes: int | None = None, graph_layers: int = 1
    ) -> None:
        super().__init__(channels)
        s, n = default_sizes(channels, states, nodes)
        g = whole("graph_layers", graph_layers)
        glore = (2 * channels + 1) * s + (channels + 1) * n + g * (n * n + n + s * s)  # and 2c of the norm, as here
        self.hidden = max(1, round(glore / (2 * channels + 2)))
        self.reduce = self.conv(channels, self.hidden, bias=False)
        self.hidden_norm = LAYERS[self.space_axes].norm(self.hidden)
        self.extend = self.conv(self.hidden, channels, bias=False)
        self.norm = self.zero_start_norm()

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
        self.check(x)
        hidden = torch.relu(self.hidden_norm(self.reduce(x)))  # (b, h, *space)
        return x + self.norm(self.extend(hidden))  # (b, c, *space)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, hidden={self.hidden}"


class Bottleneck1d(Bottleneck):
    """The control for sequences, `(b, c, length)`. Arguments: `glore.units.Bottleneck`."""

    space_axes = 1


class Bottleneck2d(Bottleneck):
    """The control for pictures, `(b, c, height, width)`. Arguments: `glore.units.Bottleneck`."""

    space_axes = 2


class Bottleneck3d(Bottleneck):
    """The control for clips, `(b, c, time, height, width)`. Arguments: `glore.units.Bottleneck`."""

    space_axes = 3
