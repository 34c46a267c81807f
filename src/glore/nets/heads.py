"""Heads of segmentation networks: from a backbone's last map to logits of each of its positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def conv_norm_relu(inputs: int, outputs: int, size: int = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the map's size, a batch norm and a relu."""
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2 * dilation, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class FCN(nn.Sequential):
    """3×3 convolution, units, 3×3 convolution, and a 1×1 convolution to logits: the head of the paper.

    Shapes:
        `(b, inputs, h, w)` to logits `(b, classes, h, w)`.

    Args:
        inputs: channels of the backbone's map.
        classes: how many there are.
        width: channels in the head.
        unit: makes a unit from its channels; None for the plain head.
        units: how many of them, one after the other.
        dropout: share of the channels left out before the logits.

    Raises:
        ValueError: an argument is out of range.

    Source: the authors' repository; without units, Long, Shelhamer, Darrell, CVPR 2015 (arXiv 1411.4038) on a dilated
        backbone.

    Example:
        >>> import glore
        >>> FCN(64, 19, width=32, unit=glore.GloRe2d)(torch.zeros(1, 64, 12, 24)).shape
        torch.Size([1, 19, 12, 24])
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        width: int = 512,
        unit: Callable[[int], nn.Module] | None = None,
        units: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _check(dropout, classes=classes, width=width)
        if units < 1:
            raise ValueError(f"units={units} must be at least 1; for none, give unit=None")
        self.reduce = conv_norm_relu(inputs, width, 3)
        self.context = nn.Sequential(*(unit(width) for _ in range(units) if unit is not None))
        self.smooth = conv_norm_relu(width, width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(width, classes, 1)


class PSP(nn.Module):
    """Pyramid pooling: the map beside its means over grids of several sizes, then a 3×3 and a 1×1 convolution.

    In training, a grid of 1×1 needs batches of two pictures or more, as its batch norm does.

    Shapes:
        `(b, inputs, h, w)` to logits `(b, classes, h, w)`.

    Args:
        inputs: channels of the backbone's map.
        classes: how many there are.
        width: channels behind the pyramid.
        bins: cells a side of each grid.
        dropout: share of the channels left out before the logits.

    Raises:
        ValueError: an argument is out of range.

    Source: Zhao, Shi, Qi, Wang, Jia, "Pyramid Scene Parsing Network", CVPR 2017 (arXiv 1612.01105).

    Example:
        >>> PSP(64, 19, width=32)(torch.zeros(2, 64, 12, 24)).shape
        torch.Size([2, 19, 12, 24])
    """

    def __init__(
        self, inputs: int, classes: int, width: int = 512, bins: Sequence[int] = (1, 2, 3, 6), dropout: float = 0.1
    ) -> None:
        super().__init__()
        _check(dropout, classes=classes, width=width)
        if not bins or min(bins) < 1 or len(bins) > inputs:
            raise ValueError(f"bins={list(bins)} must be cells a side, at least 1 each, of at most {inputs} grids")
        each = inputs // len(bins)
        self.grids = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(b), conv_norm_relu(inputs, each)) for b in bins)
        self.reduce = conv_norm_relu(inputs + each * len(bins), width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        size = x.shape[2:]
        pooled = [F.interpolate(grid(x), size, mode="bilinear") for grid in self.grids]  # (b, c / bins, h, w) each
        x = self.reduce(torch.cat([x, *pooled], dim=1))  # (b, width, h, w)
        return self.classify(self.dropout(x))  # (b, k, h, w)


class DenseASPP(nn.Module):
    """Dilated 3×3 convolutions, each of which sees the map and all before it, then a 1×1 convolution.

    Shapes:
        `(b, inputs, h, w)` to logits `(b, classes, h, w)`.

    Args:
        inputs: channels of the backbone's map.
        classes: how many there are.
        width: channels to which the map is reduced first.
        inner: channels before each dilated convolution.
        growth: channels that each dilated convolution adds.
        dilations: of the convolutions, in order.
        dropout: share of the channels left out behind each of them, and before the logits.

    Raises:
        ValueError: an argument is out of range.

    Source: Yang, Yu, Zhang, Li, Yang, "DenseASPP for Semantic Segmentation in Street Scenes", CVPR 2018.

    Example:
        >>> DenseASPP(64, 19, width=32, inner=16, growth=8)(torch.zeros(1, 64, 12, 24)).shape
        torch.Size([1, 19, 12, 24])
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        width: int = 512,
        inner: int = 256,
        growth: int = 64,
        dilations: Sequence[int] = (3, 6, 12, 18, 24),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _check(dropout, inputs=inputs, classes=classes, width=width, inner=inner, growth=growth)
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations={list(dilations)} must be at least 1 each")
        self.reduce = conv_norm_relu(inputs, width)
        self.branches = nn.ModuleList(
            nn.Sequential(
                conv_norm_relu(width + growth * i, inner),
                conv_norm_relu(inner, growth, 3, dilation),
                nn.Dropout2d(dropout),
            )
            for i, dilation in enumerate(dilations)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(width + growth * len(dilations), classes, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        x = self.reduce(x)  # (b, width, h, w)
        for branch in self.branches:
            x = torch.cat([branch(x), x], dim=1)  # (b, growth more, h, w)
        return self.classify(self.dropout(x))  # (b, k, h, w)


def _check(dropout: float, **counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must be a share in [0, 1)")
