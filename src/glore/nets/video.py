"""Pre-activation 3-D residual networks for clips, as the authors released them, and smaller ones.

Source: the authors' repository (Kinetics-400); He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV
2016 (arXiv 1603.05027).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glore.nets.places import Units, equipped
from glore.units import GloRe3d

Size = tuple[int, int, int]  # of time, height and width

EPS = 1e-4  # of every batch norm
STEM = 32  # channels
STRIDES: dict[str, Size] = {"res2": (1, 1, 1), "res3": (2, 2, 2), "res4": (1, 2, 2), "res5": (1, 2, 2)}
SEE_TIME: dict[str, Callable[[int], bool]] = {  # whether a block's first convolution spans three frames, by its index
    "res2": lambda block: True,
    "res3": lambda block: block % 2 == 0,
    "res4": lambda block: block % 2 == 0,
    "res5": lambda block: block == 1,
}


class Block(nn.Module):
    """Convolutions, each behind a batch norm and a relu, added to the block's input.

    A bottleneck has a 1×1 one, which may span time, a 3×3 one over space and a 1×1 one; a basic block two 3×3 ones, of
    which the first may span time.

    Shapes:
        `(b, inputs, t, h, w)` to `(b, outputs, t / stride, h / stride, w / stride)`, rounded up.

    Args:
        inputs: channels coming in.
        middle: channels inside a bottleneck.
        outputs: channels going out.
        frames: that the first convolution spans, 1 or 3.
        stride: of time, height and width.
        bottleneck: whether it is one.
        shortcut: whether a norm, a relu and a 1×1 convolution stand in the way past the block.
    """

    def __init__(
        self,
        inputs: int,
        middle: int,
        outputs: int,
        frames: int,
        stride: Size,
        bottleneck: bool,
        shortcut: bool,
    ) -> None:
        super().__init__()
        ones = (1, 1, 1)
        kernels: list[Size] = [(frames, 1, 1), (1, 3, 3), ones] if bottleneck else [(frames, 3, 3), (1, 3, 3)]
        widths = [inputs, middle, middle, outputs] if bottleneck else [inputs, outputs, outputs]
        strided = 1 if bottleneck else 0  # which of them has the stride
        self.convs = nn.Sequential(
            *(
                active_conv(widths[i], widths[i + 1], kernel, stride if i == strided else ones)
                for i, kernel in enumerate(kernels)
            )
        )
        self.shortcut = active_conv(inputs, outputs, ones, stride) if shortcut else nn.Identity()

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d u i j"]:
        return self.shortcut(x) + self.convs(x)  # (b, d, u, i, j)


def active_conv(inputs: int, outputs: int, kernel: Size, stride: Size) -> nn.Sequential:
    """A batch norm, a relu and a convolution."""
    return nn.Sequential(nn.BatchNorm3d(inputs, eps=EPS), nn.ReLU(), conv(inputs, outputs, kernel, stride))


def conv(inputs: int, outputs: int, kernel: Size, stride: Size) -> nn.Conv3d:
    """A convolution without bias, padded so that only its stride changes the size."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    layer = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer


class ResNet3d(nn.Sequential):
    """A stem, the stages `res2` … `res5`, a norm and a relu, the mean over everything, dropout and a linear layer.

    Shapes:
        `(b, 3, t, h, w)` of any size to logits `(b, classes)`.

    Args:
        depths: blocks of each stage.
        classes: how many there are.
        bottleneck: which kind of blocks.
        width: channels inside Res2's blocks, doubled from stage to stage; a bottleneck's output has four times as many.
        dropout: share of the features left out before the linear layer.
    """

    def __init__(
        self, depths: Sequence[int], classes: int, bottleneck: bool = True, width: int = 64, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv(3, STEM, (3, 5, 5), (1, 2, 2)),
            nn.BatchNorm3d(STEM, eps=EPS),
            nn.ReLU(),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        inputs = STEM
        for i, (stage, depth) in enumerate(zip(STRIDES, depths, strict=True)):
            middle = width * 2**i
            outputs = 4 * middle if bottleneck else middle
            blocks = []
            for block in range(depth):
                frames = 3 if SEE_TIME[stage](block) else 1
                stride = STRIDES[stage] if block == 0 else (1, 1, 1)
                blocks.append(Block(inputs, middle, outputs, frames, stride, bottleneck, shortcut=block == 0))
                inputs = outputs
            self.add_module(stage, nn.Sequential(*blocks))
        self.norm = nn.BatchNorm3d(inputs, eps=EPS)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(inputs, classes)
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)


def _named(name: str, depths: Sequence[int], bottleneck: bool) -> Callable[..., ResNet3d]:
    def build(
        classes: int | None = 400,
        units: Units | None = None,
        unit: Callable[[int], nn.Module] | None = GloRe3d,
        width: int = 64,
        dropout: float = 0.5,
        pretrained: str | bool = False,
    ) -> ResNet3d:
        if classes is None or classes < 1:
            raise ValueError(f"classes={classes} must be how many there are, at least 1")
        if width < 1:
            raise ValueError(f"width={width} must be at least 1 channel")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be a share in [0, 1)")
        net = ResNet3d(depths, classes, bottleneck, width, dropout)
        return equipped(net, "", units, unit, GloRe3d, pretrained, torch.zeros(1, 3, 8, 32, 32))

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"""A 3-D residual network of {sum(depths) * (3 if bottleneck else 2) + 2} layers.

    Shapes:
        `(b, 3, t, h, w)` of any size to logits `(b, classes)`.

    Args:
        classes: how many there are; in a recipe, null for as many as the data have.
        units: stage → how many units to spread over its blocks, or their zero-based indices: `{{"res3": 2}}`.
        unit: makes a unit from its channels; None leaves the network plain.
        width: channels inside Res2's blocks; the published networks have 64.
        dropout: share of the features left out before the classifier.
        pretrained: the path of a file with weights, with or without units; those of a classifier with other classes are
            left out.

    Raises:
        ValueError: an argument is out of range, a stage has fewer blocks than units, a unit is given without a place,
            or the weights do not fit.
    """
    return build


resnet18_3d = _named("resnet18_3d", (2, 2, 2, 2), bottleneck=False)
resnet50_3d = _named("resnet50_3d", (3, 4, 6, 3), bottleneck=True)
resnet101_3d = _named("resnet101_3d", (3, 4, 23, 3), bottleneck=True)


def inflate(net: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Take over the weights of a 2-D network, key by key, repeated over time and divided by the length.

    A clip of equal frames, away from its ends, then gives what the picture gives.

    Args:
        net: a 3-D network.
        weights: state dict of the 2-D one.

    Returns:
        The keys that were taken; the others stay as they were.

    Raises:
        ValueError: no key fits.

    Source: Carreira, Zisserman, CVPR 2017 (arXiv 1705.07750).
    """
    own = net.state_dict()
    taken = {}
    for key, value in own.items():
        flat = weights.get(key)
        if flat is None:
            continue
        if value.dim() == 5 and flat.dim() == 4 and value.shape[:2] + value.shape[3:] == flat.shape:
            taken[key] = flat[:, :, None].expand_as(value) / value.shape[2]
        elif value.shape == flat.shape:
            taken[key] = flat
    if not taken:
        raise ValueError(f"none of the {len(weights)} weights has a key and a shape of this {type(net).__name__}")
    net.load_state_dict({**own, **taken})
    return list(taken)
