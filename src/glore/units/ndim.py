"""What changes with the number of space axes, and what every unit checks of its arguments and input."""

from __future__ import annotations

from numbers import Integral
from typing import ClassVar, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn

Conv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
CONVS: tuple[type[Conv], ...] = get_args(Conv)
BATCH_NORMS: tuple[type[BatchNorm], ...] = get_args(BatchNorm)


class Layers(NamedTuple):
    """The torch layers for maps with some number of space axes."""

    conv: type[Conv]
    norm: type[BatchNorm]
    shape: str


LAYERS = {
    1: Layers(nn.Conv1d, nn.BatchNorm1d, "(b, c, length)"),
    2: Layers(nn.Conv2d, nn.BatchNorm2d, "(b, c, height, width)"),
    3: Layers(nn.Conv3d, nn.BatchNorm3d, "(b, c, time, height, width)"),
}


class Unit(nn.Module):
    """A layer whose output has its input's shape; subclasses name the number of space axes.

    Args:
        channels: channels c of the maps, at least 1.
    """

    space_axes: ClassVar[int]

    def __init__(self, channels: int) -> None:
        if not hasattr(type(self), "space_axes"):
            name = type(self).__name__
            raise TypeError(f"{name} has no number of space axes: use {name}1d, {name}2d or {name}3d")
        super().__init__()
        self.channels = whole("channels", channels)

    def conv(self, inputs: int, outputs: int, *, bias: bool = True) -> Conv:
        """A convolution of kernel 1, Xavier-uniform with a zero bias."""
        conv = LAYERS[self.space_axes].conv(inputs, outputs, kernel_size=1, bias=bias)
        nn.init.xavier_uniform_(conv.weight)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        return conv

    def zero_start_norm(self, *, eps: float = 1e-5) -> BatchNorm:
        """A batch norm over the unit's channels whose weight starts at zero: the fresh branch adds nothing."""
        norm = LAYERS[self.space_axes].norm(self.channels, eps=eps)
        nn.init.zeros_(norm.weight)
        return norm

    def check(self, x: Tensor) -> None:
        """Check that the unit was made for a map of this shape.

        Raises:
            ValueError: the map has another number of axes or of channels.
        """
        if isinstance(x, torch.fx.Proxy):  # a symbolic trace has no shapes to look at
            return
        expected = LAYERS[self.space_axes].shape
        if x.dim() != self.space_axes + 2:
            raise ValueError(
                f"{type(self).__name__} takes maps {expected}, not a tensor of shape {tuple(x.shape)}: "
                f"choose the unit whose name ends in the number of space axes"
            )
        if x.shape[1] != self.channels:
            raise ValueError(
                f"this {type(self).__name__} was made for channels={self.channels}, but the map {expected} has "
                f"shape {tuple(x.shape)}: make the unit with channels={x.shape[1]}"
            )

    def extra_repr(self) -> str:
        return f"channels={self.channels}"


def whole(name: str, value: int) -> int:
    """Return `value` if it is a whole number of at least 1.

    Raises:
        ValueError: it is not; the message names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
    return int(value)


def one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of the choices.

    Raises:
        ValueError: it is not; the message names the argument and the choices.
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")
    return value
