"""Global context: add one attention-pooled summary of the map to every position.

Source: Cao, Xu, Lin, Wei, Hu, "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", ICCV Workshops
2019 (arXiv 1904.11492).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glore.units.ndim import Unit, one_of, whole


class GlobalContext(Unit):
    """Pool by attention, transform, fuse; use `GlobalContext1d`, `GlobalContext2d` or `GlobalContext3d`.

    The last layer starts at zero: with `fusion="add"` a fresh block is the identity, with `"scale"` it halves the map.

    Shapes:
        `(b, c, *space)` to the same.

    Args:
        channels: channels c of the map.
        hidden: width of the bottleneck; a sixteenth of the channels by default, but at least 8: a norm over one or two
            numbers tells nothing of them.
        fusion: `"add"` the transformed context, as published, or `"scale"` by its sigmoid.

    Raises:
        ValueError: an argument is out of range, or the map does not fit the unit.

    Source: equation 5 and figure 4d, with the published ratio of 16, layer norm in the bottleneck.

    Example:
        >>> import torch
        >>> from glore.units import GlobalContext2d
        >>> x = torch.randn(2, 64, 7, 7)
        >>> torch.equal(GlobalContext2d(64)(x), x)
        True
    """

    def __init__(self, channels: int, *, hidden: int | None = None, fusion: Literal["add", "scale"] = "add") -> None:
        super().__init__(channels)
        hidden = whole("hidden", max(min(channels, 8), channels // 16) if hidden is None else hidden)
        self.fusion = one_of("fusion", fusion, ("add", "scale"))
        self.attention = self.conv(channels, 1)
        nn.init.kaiming_normal_(self.attention.weight, mode="fan_in", nonlinearity="relu")
        self.reduce = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.expand = nn.Linear(hidden, channels)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
        self.check(x)
        flat = x.flatten(2)  # (b, c, l)
        weights = self.attention(x).flatten(2).softmax(-1)  # (b, 1, l)
        context = torch.bmm(flat, weights.mT)[..., 0]  # (b, c)
        hidden = torch.relu(self.norm(self.reduce(context)))  # (b, h)
        context = self.expand(hidden)[..., None]  # (b, c, 1)
        out = flat + context if self.fusion == "add" else flat * torch.sigmoid(context)  # (b, c, l)
        return out.unflatten(2, x.shape[2:])  # (b, c, *space)


class GlobalContext1d(GlobalContext):
    """A global context block for sequences, `(b, c, length)`. Arguments: `glore.units.GlobalContext`."""

    space_axes = 1


class GlobalContext2d(GlobalContext):
    """A global context block for pictures, `(b, c, height, width)`. Arguments: `glore.units.GlobalContext`."""

    space_axes = 2


class GlobalContext3d(GlobalContext):
    """A global context block for clips, `(b, c, time, height, width)`. Arguments: `glore.units.GlobalContext`."""

    space_axes = 3
