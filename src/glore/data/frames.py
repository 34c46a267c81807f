"""From a video's frames to a network's input: one preset for training and testing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from glore.data.transforms import check_statistics


class Frames:
    """Views of a clip: in training one, scaled, stretched, cropped, mirrored, recoloured by chance; in testing crops.

    Args:
        size: of what the network sees, in pixels: a side of a square, or height and width.
        short: least and greatest size of the frames before the crop of training, as a multiple of what covers it.
        aspect: least and greatest factor by which the width is stretched.
        jitter: greatest change of brightness, contrast and saturation, as a share.
        crops: in testing: 1, the centre; 3, spread along the side that is cut most; 5, corners and centre.
        mean: of the channels, taken from values in [0, 1]; by default the published ones for Kinetics.
        std: of the channels; likewise.

    Raises:
        ValueError: an argument is out of range.

    Source: the authors' repository: a shorter side of 224 to 340, an aspect of 0.8 to 1.25 and a crop of 224; in
        testing a shorter side of 256.
    """

    MEAN, STD = (124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3
    TESTING = 8 / 7  # of what covers the crop

    def __init__(
        self,
        size: int | Sequence[int] = 224,
        short: Sequence[float] = (1.0, 340 / 224),
        aspect: Sequence[float] = (0.8, 1.25),
        jitter: float = 0.2,
        crops: Literal[1, 3, 5] = 1,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        mean, std = check_statistics(mean or self.MEAN, std or self.STD)
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size={size} must be a number of pixels, or a height and a width")
        for name, limits in {"short": short, "aspect": aspect}.items():
            if len(limits) != 2 or not 0 < limits[0] <= limits[1]:
                raise ValueError(f"{name}={tuple(limits)} must be a least and a greatest factor, above 0")
        if not 0 <= jitter < 1:
            raise ValueError(f"jitter={jitter} must be a share in [0, 1)")
        if crops not in (1, 3, 5):
            raise ValueError(f"crops={crops} must be 1, 3 or 5")
        self.short, self.aspect, self.crops, self.mean, self.std = short, aspect, crops, mean, std
        self.normalize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
        self.recolour = v2.ColorJitter(jitter, jitter, jitter) if jitter else torch.nn.Identity()

    def side(self, training: bool) -> int:
        """The shorter side of the frames that is enough, in pixels."""
        return round(max(self.size) * (self.short[1] if training else self.TESTING))

    def training(self, frames: Tensor) -> Tensor:
        """One view of a clip, `(t, h, w, 3)` uint8 to `(3, t, *size)`."""
        short, aspect = (float(torch.empty(()).uniform_(*limits)) for limits in (self.short, self.aspect))
        clip = self._resized(frames, short, aspect)
        high, wide = self.size
        top, left = (int(torch.randint(room + 1, ())) for room in self._room(clip))
        clip = self.recolour(clip[:, :, top : top + high, left : left + wide])
        clip = clip.flip(3) if torch.rand(()) < 0.5 else clip
        return self.normalize(clip).transpose(0, 1)

    def testing(self, frames: Tensor) -> list[Tensor]:
        """The crops of a clip, `(t, h, w, 3)` uint8 to `(3, t, *size)` each."""
        clip = self._resized(frames, self.TESTING, 1.0)
        (high, wide), (down, right) = self.size, self._room(clip)
        middle = (down // 2, right // 2)
        corners = {
            1: [middle],
            3: [(down * i // 2, middle[1]) if down > right else (middle[0], right * i // 2) for i in range(3)],
            5: [(0, 0), (0, right), (down, 0), (down, right), middle],
        }[self.crops]
        return [
            self.normalize(clip[:, :, top : top + high, left : left + wide]).transpose(0, 1) for top, left in corners
        ]

    def _resized(self, frames: Tensor, scale: float, aspect: float) -> Tensor:
        """The frames, (t, 3, h, w), at a multiple of the size that covers the crop, and stretched."""
        clip = frames.permute(0, 3, 1, 2)
        sides = list(zip(self.size, clip.shape[2:], (1.0, aspect), strict=True))
        scale *= max(side / own for side, own, _ in sides)
        return F.resize(clip, [max(side, round(scale * own * stretch)) for side, own, stretch in sides], antialias=True)

    def _room(self, clip: Tensor) -> tuple[int, int]:
        """How far the crop can be moved, down and to the right."""
        return clip.shape[2] - self.size[0], clip.shape[3] - self.size[1]
