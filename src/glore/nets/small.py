"""Small pre-activation residual networks, which two cores can train: a backbone, and a head for each task.

Source: He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016 (arXiv 1603.05027).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glore.nets.places import Units, equipped
from glore.units import GloRe2d


class Block(nn.Module):
    """Two 3×3 convolutions, each behind a batch norm and a relu, added to the block's input.

    Shapes:
        `(b, inputs, h, w)` to `(b, outputs, h / stride, w / stride)`, rounded up.

    Args:
        inputs: channels coming in.
        outputs: channels going out.
        stride: of the first convolution, and of the 1×1 shortcut that changed sizes need.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        active = torch.relu(self.norm1(x))  # (b, c, h, w)
        kept = x if self.shortcut is None else self.shortcut(active)  # (b, d, i, j)
        return kept + self.conv2(torch.relu(self.norm2(self.conv1(active))))  # (b, d, i, j)


class SmallResNet(nn.Sequential):
    """A 3×3 convolution, then stages `res2`, `res3`, … of blocks, then a batch norm and a relu.

    Shapes:
        `(b, channels, h, w)` to `(b, widths[-1], h / s, w / s)` with s the product of all strides.

    Args:
        channels: of the picture.
        widths: channels of each stage; the first convolution has the first stage's.
        depths: blocks of each stage.
        strides: of the first convolution, then of each stage.

    Raises:
        ValueError: the stages do not have one width, depth and stride each.
    """

    def __init__(self, channels: int, widths: Sequence[int], depths: Sequence[int], strides: Sequence[int]) -> None:
        if not len(widths) == len(depths) == len(strides) - 1:
            raise ValueError(
                f"widths={list(widths)}, depths={list(depths)} and strides={list(strides)} must have one entry a "
                "stage, and strides one more in front for the first convolution"
            )
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, strides[0], padding=1, bias=False)
        inputs = widths[0]
        for stage, (width, depth, stride) in enumerate(zip(widths, depths, strides[1:], strict=True), start=2):
            blocks = [Block(inputs, width, stride), *(Block(width, width, 1) for _ in range(depth - 1))]
            self.add_module(f"res{stage}", nn.Sequential(*blocks))
            inputs = width
        self.norm = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()


def small_segmenter(
    classes: int,
    channels: int = 1,
    widths: Sequence[int] = (32, 64),
    depths: Sequence[int] = (1, 1),
    strides: Sequence[int] = (2, 1, 2),
    units: Units | None = None,
    unit: Callable[[int], nn.Module] | None = GloRe2d,
    pretrained: str | bool = False,
) -> nn.Sequential:
    """A small network that gives each pixel a class: `SmallResNet`, then a 1×1 convolution and a pixel shuffle.

    Shapes:
        `(b, channels, h, w)` to logits `(b, classes, h, w)`; h and w multiples of the product of all strides.

    Args:
        classes: how many there are.
        channels: of the picture.
        widths: channels of each stage.
        depths: blocks of each stage.
        strides: of the first convolution, then of each stage.
        units: stage → how many units to spread over its blocks, or explicit block indices: `{"res3": 1}`.
        unit: makes a unit from its channels; None leaves the network plain.
        pretrained: the path of a file with weights of this network, with units or without; see `glore.nets.pretrained`.

    Raises:
        ValueError: a stage is unknown or has fewer blocks than units, a unit is given without a place, or the weights
            do not fit.

    Source: Shi et al., CVPR 2016 (arXiv 1609.05158), for the pixel shuffle.

    Example:
        >>> import glore
        >>> net = small_segmenter(3, units={"res3": 1})
        >>> net(torch.zeros(2, 1, 48, 48)).shape, list(glore.units_of(net))
        (torch.Size([2, 3, 48, 48]), ['backbone.res3.0_glore'])
    """
    stride = math.prod(strides)
    net = nn.Sequential()
    net.backbone = SmallResNet(channels, widths, depths, strides)
    width = widths[-1]
    net.head = nn.Sequential(
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, classes * stride**2, 1),
        nn.PixelShuffle(stride),
    )
    example = torch.zeros(1, channels, 8 * stride, 8 * stride)
    return equipped(net, "backbone", units, unit, GloRe2d, pretrained, example)


def small_classifier(
    classes: int,
    channels: int = 3,
    widths: Sequence[int] = (16, 32, 64),
    depths: Sequence[int] = (3, 3, 3),
    strides: Sequence[int] = (1, 1, 2, 2),
    units: Units | None = None,
    unit: Callable[[int], nn.Module] | None = GloRe2d,
    pretrained: str | bool = False,
) -> nn.Sequential:
    """A small network that gives a picture a class: `SmallResNet`, then the mean over positions and a linear layer.

    The defaults are the 20-layer network for 32×32 pictures. Arguments: `small_segmenter`.

    Shapes:
        `(b, channels, h, w)` to logits `(b, classes)`.

    Example:
        >>> small_classifier(10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    net = nn.Sequential()
    net.backbone = SmallResNet(channels, widths, depths, strides)
    net.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
    return equipped(net, "backbone", units, unit, GloRe2d, pretrained, torch.zeros(1, channels, 32, 32))
