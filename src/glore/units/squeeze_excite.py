"""Squeeze-and-excitation: gate each channel by what the whole map looks like on average.

Source: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018 (arXiv 1709.01507).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glore.units.ndim import Unit, whole


class SqueezeExcite(Unit):
    """Scale each channel by a gate in (0, 1); use `SqueezeExcite1d`, `SqueezeExcite2d` or `SqueezeExcite3d`.

    A gate is not the identity when fresh: it starts near one half. The other units of this room start as the identity.

    Shapes:
        `(b, c, *space)` to the same.

    Args:
        channels: channels c of the map.
        hidden: width of the bottleneck; `max(1, channels // 16)` by default.

    Raises:
        ValueError: a size is not a whole number of at least 1, or the map does not fit the unit.

    Source: equations 2 to 4, with biases, and the paper's reduction of 16.

    Example:
        >>> import torch
        >>> from glore.units import SqueezeExcite2d
        >>> SqueezeExcite2d(64)(torch.ones(2, 64, 7, 7)).shape
        torch.Size([2, 64, 7, 7])
    """

    def __init__(self, channels: int, *, hidden: int | None = None) -> None:
        super().__init__(channels)
        hidden = whole("hidden", max(1, channels // 16) if hidden is None else hidden)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
        self.check(x)
        flat = x.flatten(2)  # (b, c, l)
        hidden = torch.relu(self.squeeze(flat.mean(-1)))  # (b, h)
        gate = torch.sigmoid(self.excite(hidden))  # (b, c)
        return (flat * gate[..., None]).unflatten(2, x.shape[2:])  # (b, c, *space)


class SqueezeExcite1d(SqueezeExcite):
    """Squeeze-and-excitation for sequences, `(b, c, length)`. Arguments: `glore.units.SqueezeExcite`."""

    space_axes = 1


class SqueezeExcite2d(SqueezeExcite):
    """Squeeze-and-excitation for pictures, `(b, c, height, width)`. Arguments: `glore.units.SqueezeExcite`."""

    space_axes = 2


class SqueezeExcite3d(SqueezeExcite):
    """Squeeze-and-excitation for clips, `(b, c, time, height, width)`. Arguments: `glore.units.SqueezeExcite`."""

    space_axes = 3
