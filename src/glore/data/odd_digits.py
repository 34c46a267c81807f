"""The odd digit out: scenes of handwritten digits in which only the whole picture tells which digit is the odd one.

The digits are real: the 1,797 pictures of 8×8 that scikit-learn ships (UCI, Optical Recognition of Handwritten Digits).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

GRID, CELL, DIGIT = 4, 12, 8  # cells a side; pixels a side of a cell and of a digit
SIDE = GRID * CELL
JITTER = 1  # pixels by which a digit may stand lower and further right than the first place in its cell
MARGIN = (CELL - DIGIT - JITTER) // 2
MIN_DIGITS, MAX_DIGITS = 5, 9
TRAIN_DIGITS = 1300  # the first pictures make training and validation scenes, the rest only test scenes
SCENES = {"train": 8000, "val": 1000, "test": 1000}


class OddDigits(Dataset[tuple[Tensor, Tensor]]):
    """Scenes of 5 to 9 digits at jittered places on a grid, all of one class but one.

    Each pixel is background, part of a common digit, or part of the odd digit. What a digit is can be seen locally;
    whether it is the odd one cannot.

    Shapes:
        An item is a picture `(1, 48, 48)`, float32 in [0, 1], and labels `(48, 48)`, int64 in {0, 1, 2}.

    Args:
        split: `"train"`; `"val"`, other scenes of the same digits; or `"test"`, with digits that no other scene has.
        scenes: how many, at least 1; 8,000 for training and 1,000 otherwise by default.
        seed: another seed gives other scenes; the same one always the same.

    Raises:
        ValueError: an argument is out of range.
        ModuleNotFoundError: scikit-learn is missing, which the extra `train` brings.

    Example:
        >>> picture, labels = OddDigits("test", scenes=8)[0]
        >>> picture.shape, sorted(set(labels.flatten().tolist()))
        (torch.Size([1, 48, 48]), [0, 1, 2])
    """

    classes = ("background", "common", "odd")

    def __init__(
        self, split: Literal["train", "val", "test"] = "train", *, scenes: int | None = None, seed: int = 0
    ) -> None:
        if split not in SCENES:
            raise ValueError(f"split={split!r} must be one of {', '.join(map(repr, SCENES))}")
        scenes = SCENES[split] if scenes is None else scenes
        if scenes < 1:
            raise ValueError(f"scenes={scenes} must be at least 1")
        generator = torch.Generator().manual_seed(3 * seed + list(SCENES).index(split))
        self.pictures, self.labels = _scenes(*_digits(split), scenes, generator)  # (scenes, 48, 48), uint8

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pictures[index][None].float() / 16, self.labels[index].long()


def _digits(split: str) -> tuple[Tensor, Tensor]:
    """The digits of a split, (count, 8, 8) in 0 … 16, and their classes (count)."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the odd digit takes its digits from scikit-learn: pip install 'glore[train]'", name=error.name
        ) from error
    bunch = load_digits()
    part = slice(None, TRAIN_DIGITS) if split != "test" else slice(TRAIN_DIGITS, None)
    return torch.from_numpy(bunch.images[part]).to(torch.uint8), torch.from_numpy(bunch.target[part])


def _scenes(digits: Tensor, classes: Tensor, scenes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What stands in each pixel of each scene, and whether that is background 0, common 1 or odd 2."""

    def draw(high: int, *size: int) -> Tensor:
        return torch.randint(high, size, generator=generator)

    def shuffled(length: int) -> Tensor:
        return torch.rand(scenes, length, generator=generator).argsort(1)

    most = MAX_DIGITS
    pair = shuffled(10)[:, :2]  # (scenes, 2): the common class and the odd one
    wanted = torch.cat([pair[:, 1:], pair[:, :1].expand(-1, most - 1)], 1)  # (scenes, most): the odd digit is the first
    counts = classes.bincount(minlength=10)
    order, starts = classes.argsort(stable=True), counts.cumsum(0) - counts
    chance = torch.rand(scenes, most, generator=generator)
    chosen = order[starts[wanted] + (chance * counts[wanted]).long()]  # (scenes, most): indices of digits
    there = torch.arange(most) < draw(most - MIN_DIGITS + 1, scenes, 1) + MIN_DIGITS  # (scenes, most)
    ink = digits[chosen] * there[..., None, None]  # (scenes, most, 8, 8)

    cells = shuffled(GRID * GRID)[:, :most]  # (scenes, most)
    corner = torch.stack([cells // GRID, cells % GRID], -1) * CELL + MARGIN + draw(JITTER + 1, scenes, most, 2)
    offsets = torch.arange(DIGIT)
    rows = corner[..., :1] + offsets  # (scenes, most, 8)
    columns = corner[..., 1:] + offsets
    pixels = (rows[..., None] * SIDE + columns[..., None, :]).flatten(1)  # (scenes, most · 64)
    kinds = torch.tensor([2, *[1] * (most - 1)], dtype=torch.uint8)[:, None, None] * (ink > 0)
    picture = torch.zeros(scenes, SIDE * SIDE, dtype=torch.uint8).scatter_(1, pixels, ink.flatten(1))
    labels = torch.zeros(scenes, SIDE * SIDE, dtype=torch.uint8).scatter_(1, pixels, kinds.flatten(1))
    return picture.view(-1, SIDE, SIDE), labels.view(-1, SIDE, SIDE)
