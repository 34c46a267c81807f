"""What all data sets have in common whose items are read from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset


class Samples(Dataset[tuple[Tensor, Any]]):
    """Items that are read from files; subclasses say how.

    Args:
        samples: of each item the files that it is read from, by the first of which it goes, and what else is known.
        classes: their names, in order.
    """

    def __init__(self, samples: Sequence[tuple[Path, Any]], classes: Sequence[str]) -> None:
        self.samples, self.classes = list(samples), list(classes)

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        """The path of an item, for messages and tables."""
        return str(self.samples[index][0])

    def files(self, index: int) -> list[Path]:
        """The files that an item is read from."""
        return [part for part in self.samples[index] if isinstance(part, Path)]
