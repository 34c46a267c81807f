"""What all data sets have in common whose items are read from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    @classmethod
    def for_paths(
        cls,
        paths: Sequence[Path],
        classes: Sequence[str],
        arguments: Mapping[str, Any],
        palette: Sequence[Sequence[int]] | None = None,
    ) -> Samples:
        """Files whose targets are not known, taken as this data set takes its own in testing.

        Args:
            paths: of the files, of folders of them, or of text files with a path a line.
            classes: names of those that a network tells apart.
            arguments: of this data set's constructor, by name, of which some say how an item is made.
            palette: a colour for each class, where the network's training had some.

        Raises:
            FileNotFoundError: a path leads nowhere, or a folder has no such files.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        """The path of an item, for messages and tables."""
        return str(self.samples[index][0])

    def files(self, index: int) -> list[Path]:
        """The files that an item is read from."""
        return [part for part in self.samples[index] if isinstance(part, Path)]
