"""From a picture to a network's input: presets of torchvision's transforms, for training and for testing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

Transform = Callable[[Any], Any]


def check_statistics(mean: Sequence[float], std: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of red, green and blue, as they are; ValueError if they cannot be that."""
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean={mean!r} and std={std!r} must have three values each, those of std above 0")
    return mean, std


class Preset:
    """Makes the transform of a split; subclasses say what happens to pictures in training and in testing.

    Args:
        size: of the square that the network sees, in pixels.
        mean: of the channels, taken from values in [0, 1]. By default ImageNet's, for `Small` CIFAR-10's; in a recipe,
            what the network's pretrained weights were made with, if it is one of timm's.
        std: of the channels; likewise.
        views: of a picture in testing, whose probabilities are averaged: 1, the centre; 2, it and its mirror image; 10,
            centre and corners and their mirror images.

    Raises:
        ValueError: an argument is out of range.
    """

    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's

    def __init__(
        self,
        size: int = 224,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        views: Literal[1, 2, 10] = 1,
    ) -> None:
        mean, std = check_statistics(mean or self.MEAN, std or self.STD)
        if size < 1:
            raise ValueError(f"size={size} must be at least 1 pixel")
        if views not in (1, 2, 10):
            raise ValueError(f"views={views} must be 1, 2 or 10")
        self.size, self.mean, self.std, self.views = size, mean, std, views
        self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    def needs(self, training: bool) -> int:
        """The shorter side of a picture that is enough, in pixels; a larger one may be decoded smaller."""
        return 2 * self.size

    def __call__(self, training: bool) -> Transform:
        """The transform of training, or of testing: an RGB picture to a tensor (3, size, size), or (views, 3, …)."""
        if training:
            return v2.Compose([*self.training(), self._tensor, *self.behind()])
        if self.views == 1:
            return v2.Compose([self.resize(), v2.CenterCrop(self.size), self._tensor])
        views = v2.TenCrop(self.size) if self.views == 10 else v2.Compose([v2.CenterCrop(self.size), _both_ways])
        return v2.Compose([self.resize(), views, self._tensors])

    def _tensor(self, picture: Image.Image) -> Tensor:
        """A picture as the network takes it; v2's own three steps to it take six times as long for small ones."""
        values = torch.from_numpy(np.array(picture)).permute(2, 0, 1)  # (3, h, w)
        values = values.to(torch.float32, memory_format=torch.contiguous_format)
        return values.div_(255).sub_(self._mean).div_(self._std)

    def _tensors(self, pictures: Sequence[Image.Image]) -> Tensor:
        return torch.stack([self._tensor(picture) for picture in pictures])  # (views, 3, h, w)

    def training(self) -> list[Transform]:
        """What comes before the tensor in training."""
        raise NotImplementedError

    def behind(self) -> list[Transform]:
        """What comes behind the tensor in training."""
        return []

    def resize(self) -> Transform:
        """What comes before the crop in testing, which is seven eighths of the shorter side."""
        return v2.Resize(round(self.size * 8 / 7), antialias=True)


def _both_ways(picture: Any) -> tuple[Any, Any]:
    return picture, v2.functional.horizontal_flip(picture)


class Standard(Preset):
    """Random area and aspect, flip and colour, as ImageNet networks have been trained with since Inception."""

    SMALLEST = 0.08  # share of a picture's area that a crop may have

    def needs(self, training: bool) -> int:
        return math.ceil(self.size / self.SMALLEST**0.5) if training else super().needs(training)

    def training(self) -> list[Transform]:
        return [
            v2.RandomResizedCrop(self.size, (self.SMALLEST, 1), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4),
        ]


class Modern(Standard):
    """Random area and aspect, flip, RandAugment and random erasing.

    Source: Cubuk et al., "RandAugment", arXiv 1909.13719; Zhong et al., "Random Erasing", arXiv 1708.04896.
    """

    def training(self) -> list[Transform]:
        crop = v2.RandomResizedCrop(self.size, (self.SMALLEST, 1), antialias=True)
        return [crop, v2.RandomHorizontalFlip(), v2.RandAugment(2, 9)]

    def behind(self) -> list[Transform]:
        return [v2.RandomErasing(0.25)]


class Small(Preset):
    """Pictures of the network's own size: shifted by up to an eighth, and flipped. Made for CIFAR.

    Ten views are refused: five crops of a picture that is no larger are all the same.
    """

    MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # CIFAR-10's

    def __init__(
        self,
        size: int = 32,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        views: Literal[1, 2] = 1,
    ) -> None:
        if views not in (1, 2):
            raise ValueError(f"views={views} must be 1 or 2 of pictures that are no larger than the network's size")
        super().__init__(size, mean, std, views)

    def training(self) -> list[Transform]:
        shift = v2.RandomCrop(self.size, padding=self.size // 8)
        return [self.resize(), v2.CenterCrop(self.size), shift, v2.RandomHorizontalFlip()]

    def resize(self) -> Transform:
        return v2.Resize(self.size, antialias=True)


class Mix:
    """Mixes the pictures of a batch and their one-hot targets, by mixup or by cutmix at equal chances.

    Args:
        mixup: both parameters of the beta distribution of mixup's shares; 0 leaves mixup out.
        cutmix: the same of cutmix.

    Raises:
        ValueError: one is below 0, or both are 0.

    Source: Zhang et al., "mixup", ICLR 2018 (arXiv 1710.09412); Yun et al., "CutMix", ICCV 2019 (arXiv 1905.04899).
    """

    def __init__(self, mixup: float = 0.2, cutmix: float = 1.0) -> None:
        if min(mixup, cutmix) < 0 or mixup == cutmix == 0:
            raise ValueError(f"mixup={mixup} and cutmix={cutmix} must not be below 0, nor both 0")
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        self.choices = [kind(alpha=alpha) for kind, alpha in kinds if alpha]

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        mixed: tuple[Tensor, Tensor] = self.choices[int(torch.randint(len(self.choices), ()))](inputs, targets)
        return mixed
