"""What a segmentation network says of a picture seen in several ways: in windows, mirrored, at several scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def probabilities(
    net: Callable[[Tensor], Tensor],
    x: Float[Tensor, "b c h w"],
    *,
    window: Sequence[int] | None = None,
    overlap: float = 1 / 3,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Float[Tensor, "b k h w"]:
    """The mean of the class probabilities over all views of a picture, at its own size.

    Args:
        net: from pictures `(b, c, h, w)` of any size to logits `(b, k, h, w)`.
        x: the pictures.
        window: height and width of the windows that the network sees one by one; None shows it the whole picture. A
            picture that fits into one window is seen whole.
        overlap: least share of a window that the next one sees again, in [0, 1); where windows overlap their
            probabilities are averaged.
        scales: sizes at which the picture is seen, as shares of its own.
        flip: whether its mirror image is seen as well.

    Raises:
        ValueError: an argument is out of range, or the network answers at another size than it was given.

    Example:
        >>> net = torch.nn.Conv2d(3, 5, 1)
        >>> probabilities(net, torch.randn(1, 3, 30, 40), window=(16, 16), scales=(0.5, 1.0), flip=True).shape
        torch.Size([1, 5, 30, 40])
    """
    check(window, overlap, scales)
    size, total = x.shape[2:], None
    for scale in scales:
        scaled = resized(x, scale)
        for mirrored in (False, True) if flip else (False,):
            seen = _windows(net, scaled.flip(3) if mirrored else scaled, window, overlap)
            seen = seen.flip(3) if mirrored else seen  # (b, k, scaled h, scaled w)
            seen = seen if scale == 1 else F.interpolate(seen, size, mode="bilinear")
            total = seen if total is None else total + seen
    assert total is not None
    views = len(scales) * (2 if flip else 1)
    return total / views if views > 1 else total


def resized(x: Float[Tensor, "b c h w"], scale: float) -> Float[Tensor, "b c i j"]:
    """Pictures at a share of their size."""
    if scale == 1:
        return x
    sides = [max(1, round(scale * side)) for side in x.shape[2:]]
    return F.interpolate(x, sides, mode="bilinear", antialias=scale < 1)


def check(window: Sequence[int] | None, overlap: float, scales: Sequence[float]) -> None:
    """Refuse arguments of `probabilities` that are out of range."""
    if window is not None and (len(window) != 2 or min(window) < 1):
        raise ValueError(f"window={window} must be a height and a width of at least 1 pixel")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap={overlap} must be a share in [0, 1)")
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales={list(scales)} must be one or more numbers above 0")


def _windows(
    net: Callable[[Tensor], Tensor], x: Tensor, window: Sequence[int] | None, overlap: float
) -> Float[Tensor, "b k h w"]:
    high, wide = window or x.shape[2:]
    tops, lefts = starts(x.shape[2], high, overlap), starts(x.shape[3], wide, overlap)
    if len(tops) == len(lefts) == 1:
        return _told(net, x)
    total, seen = None, x.new_zeros(x.shape[2:], dtype=torch.float32)
    for top in tops:
        for left in lefts:
            here = (slice(top, top + high), slice(left, left + wide))
            part = _told(net, x[:, :, here[0], here[1]])
            total = part.new_zeros(*part.shape[:2], *x.shape[2:]) if total is None else total
            total[:, :, here[0], here[1]] += part
            seen[here] += 1
    assert total is not None
    return total.div_(seen)


def _told(net: Callable[[Tensor], Tensor], x: Tensor) -> Float[Tensor, "b k h w"]:
    logits = net(x)
    check_size(logits, x, "pictures")
    return logits.float().softmax(1)


def check_size(logits: Tensor, other: Tensor, what: str) -> None:
    """Raise a ValueError if a network's answer has another size than what it is about, both (…, h, w)."""
    if logits.shape[2:] != other.shape[-2:]:
        own, wanted = ("×".join(map(str, shape)) for shape in (logits.shape[2:], other.shape[-2:]))
        raise ValueError(
            f"the network answers for {own} positions, and the {what} have {wanted}: give pictures whose sides its "
            "strides divide, or a network that takes any size, as those of glore.nets.segmenter"
        )


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin that cover a length evenly, each with at least a share of it in common with the next.

    Example:
        >>> starts(100, 40, 0.25), starts(30, 40, 0.25)
        ([0, 30, 60], [0])
    """
    if length <= window:
        return [0]
    count = 1 + math.ceil((length - window) / max(1, math.floor(window * (1 - overlap))))
    return [round(i * (length - window) / (count - 1)) for i in range(count)]
