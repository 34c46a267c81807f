"""Non-local: each position takes a weighted mean over all positions.

Source: Wang, Girshick, Gupta, He, "Non-local Neural Networks", CVPR 2018 (arXiv 1711.07971).
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from glore.units import products
from glore.units.ndim import Unit, one_of, whole


class NonLocal(Unit):
    """Attention from every position to every position; use `NonLocal1d`, `NonLocal2d` or `NonLocal3d`.

    A fresh block is the identity, because the weight of its last norm starts at zero.

    Shapes:
        `(b, c, *space)` to the same.

    Args:
        channels: channels c of the map.
        hidden: width of the embeddings; `max(1, channels // 2)` by default.
        form: `"softmax"`, the embedded Gaussian, quadratic in the number of positions l; or `"dot_product"`, divided
            by l, which associates and is linear in l here.
        scale: factor of the similarities before the softmax. The paper has none; the authors' code has
            `hidden ** -0.5`, others `channels ** -0.5`.

    Raises:
        ValueError: an argument is out of range, or the map does not fit the unit.

    Source: equations 1 to 6 and section 3.3; the norm behind the last convolution and its zero start from section 4.1.

    Example:
        >>> import torch
        >>> from glore.units import NonLocal2d
        >>> x = torch.randn(2, 64, 7, 7)
        >>> torch.equal(NonLocal2d(64)(x), x)
        True
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: int | None = None,
        form: Literal["softmax", "dot_product"] = "softmax",
        scale: float = 1.0,
    ) -> None:
        super().__init__(channels)
        hidden = whole("hidden", max(1, channels // 2) if hidden is None else hidden)
        self.form = one_of("form", form, ("softmax", "dot_product"))
        if form == "dot_product" and scale != 1:
            raise ValueError(f"scale={scale} is for form='softmax': the dot-product form is divided by the positions")
        self.scale = scale
        self.theta = self.conv(channels, hidden)
        self.phi = self.conv(channels, hidden)
        self.g = self.conv(channels, hidden)
        self.extend = self.conv(hidden, channels)
        self.norm = self.zero_start_norm()
        for conv in (self.theta, self.phi, self.g, self.extend):
            nn.init.normal_(conv.weight, std=0.01)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
        self.check(x)
        theta, phi, g = (conv(x).flatten(2) for conv in (self.theta, self.phi, self.g))  # (b, h, l)
        if self.form == "softmax":
            # the fast kernels want positions-major and contiguous; otherwise they keep an (l, l) map
            q, k, v = (y.mT.contiguous()[:, None] for y in (theta, phi, g))  # (b, 1, l, h)
            y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)[:, 0].mT  # (b, h, l)
            branch = self.extend(y.unflatten(2, x.shape[2:]))  # (b, c, *space)
        else:
            summary = products.scaled_product(g, phi.mT, 1 / theta.shape[-1])  # (b, h, h)
            branch = products.conv_of_product(self.extend, summary, theta, x.shape[2:])  # (b, c, *space)
        return x + self.norm(branch)  # (b, c, *space)


class NonLocal1d(NonLocal):
    """A non-local block for sequences, `(b, c, length)`. Arguments: `glore.units.NonLocal`."""

    space_axes = 1


class NonLocal2d(NonLocal):
    """A non-local block for pictures, `(b, c, height, width)`. Arguments: `glore.units.NonLocal`."""

    space_axes = 2


class NonLocal3d(NonLocal):
    """A non-local block for clips, `(b, c, time, height, width)`. Arguments: `glore.units.NonLocal`."""

    space_axes = 3
