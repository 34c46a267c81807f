"""Pictures with a class each: folders, lists, and the data sets that torchvision reads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from glore.data.broken import BrokenSampleError
from glore.data.folders import FOLDERS, checked, labelled, listed, parted, read_text
from glore.data.pictures import SUFFIXES, read_picture
from glore.data.samples import Samples
from glore.data.transforms import Preset, Small, Standard

THIN = 100  # a picture may be this many times as long as it is wide


class Pictures(Samples):
    """Files of pictures and their classes.

    Shapes:
        An item is what the preset makes of a picture, `(3, size, size)` float32, or `(views, 3, size, size)` in testing
        with several views, and the number of its class.

    Args:
        samples: path and class of each picture; None for a class that is not known.
        classes: their names, in order.
        preset: makes the transform; `Standard()` by default.
        training: whether to take the transform of training, or that of testing.

    Raises:
        BrokenSampleError: a file cannot be read, or is more than a hundred times as long as wide; raised when its
            item is asked for.
    """

    default_preset: ClassVar[type[Preset]] = Standard

    def __init__(
        self,
        samples: Sequence[tuple[Path, int | None]],
        classes: Sequence[str],
        preset: Preset | None = None,
        training: bool = False,
    ) -> None:
        preset = preset or self.default_preset()
        super().__init__(samples, classes)
        self.transform, self.needs = preset(training), preset.needs(training)
        self.views = 1 if training else preset.views

    @classmethod
    def for_paths(
        cls,
        paths: Sequence[Path],
        classes: Sequence[str],
        arguments: Mapping[str, Any],
        palette: Sequence[Sequence[int]] | None = None,
    ) -> Pictures:
        """Files whose targets are not known, taken as this data set takes its own in testing.

        Args:
            paths: of the files, of folders of them, or of text files with a path a line, a class behind it or not.
            classes: names of those that a network tells apart.
            arguments: of this data set's constructor, by name, of which some say how an item is made.
            palette: a colour for each class, where the network's training had some.

        Raises:
            FileNotFoundError: a path leads nowhere, or a folder has no such files.
        """
        samples = [(path, None) for path in listed(paths, SUFFIXES, "pictures")]
        return Pictures(samples, classes, arguments.get("preset") or cls.default_preset())

    def __getitem__(self, index: int) -> tuple[Tensor, int | None]:
        path, label = self.samples[index]
        picture = read_picture(path, self.needs)
        if max(picture.size) > THIN * min(picture.size):  # at the network's size, it would not fit into memory
            raise BrokenSampleError(f"{path} is too thin, {picture.width}×{picture.height} pixels: crop it")
        return self.transform(picture), label

    def blank(self) -> Tensor:
        """What stands for a picture that cannot be read, where no other one may."""
        return self.transform(Image.new("RGB", (self.needs, self.needs)))


class ImageFolder(Pictures):
    """Pictures in a folder for each class: `root/train/<class>/…`, `root/val/<class>/…`, `root/test/<class>/…`.

    `training`, `valid`, `validation` and `testing` are other names that are known, in capitals too. Without `test`,
    `val` is the test split too, as in ImageNet's standard folders. A split that has no folder otherwise is held out
    from each class of the training pictures, which without `train` are those of `root/<class>/…`; which ones follows
    from their names and their number. The classes are the folders of the training pictures, in alphabetical order, or
    of those to test on, if they are alone.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        root: the folder.
        preset: makes the transforms; `Standard()` by default.
        held_out: share of each class that is held out for a split without a folder, one picture at least.

    Raises:
        FileNotFoundError: there is no such folder, or a class has too few pictures to train and to hold out.
        ValueError: an argument is out of range, a split has a class that the training pictures have not, or the splits
            lie in a folder of `root`.
    """

    def __init__(self, split: str, root: str, preset: Preset | None = None, held_out: float = 0.1) -> None:
        samples, classes = labelled(split, root, SUFFIXES, held_out, "pictures")
        super().__init__(samples, classes, preset, split == "train")


class ImageNet(ImageFolder):
    """ImageNet-1k in its standard folders, `root/train/n01440764/…` and `root/val/…`, with classes by what they show.

    Arguments: `ImageFolder`, without `held_out`. Other folders than ImageNet's thousand are classes by their own names.
    """

    # SHA-256 of the folders' names, in order
    WNIDS: ClassVar = "791ce0333040dd249d13133f90d28ef0263ffc01e5de0afd85b3e32048d7d456"

    def __init__(self, split: str, root: str, preset: Preset | None = None) -> None:
        super().__init__(split, root, preset)
        if hashlib.sha256(os.fsencode(" ".join(self.classes))).hexdigest() == self.WNIDS:
            self.classes = self.names()

    @staticmethod
    def names() -> list[str]:
        """The names of the thousand classes, in order."""
        from torchvision.models import ResNet50_Weights  # takes seconds

        return list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


class ImageList(Pictures):
    """Pictures in list files, a line each: a path from `root`, white space, and a class by number or name.

    A name of several words has a tab before it.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        root: the folder.
        lists: the list file of each split, from `root`: `{"train": "train.txt", "val": "val.txt"}`. Without `test`,
            `val` is the test split too.
        classes: their names; by default those in the training list, sorted, or the numbers up to the highest.
        preset: makes the transforms; `Standard()` by default.

    Raises:
        FileNotFoundError: a folder or list is missing, or the file in the first line of a list.
        ValueError: a line is not a path and a class that is known; the message names file and line.
    """

    def __init__(
        self,
        split: str,
        root: str,
        lists: Mapping[str, str],
        classes: Sequence[str] | None = None,
        preset: Preset | None = None,
    ) -> None:
        base = checked(split, root)
        name, train = (next((name for name in FOLDERS[part] if name in lists), None) for part in (split, "train"))
        if name is None or train is None:
            raise ValueError(f"lists={dict(lists)!r} must name a file for train and for {split}")
        lines = _lines(base / lists[train])
        training = {label for *_, label in lines}
        if classes is None and all(map(str.isdecimal, training)):
            numbered = set(map(int, training))
            count = 1 + max(numbered)
            if count > max(len(lines), 1000):
                raise ValueError(
                    f"{base / lists[train]} has a class {count - 1}, and {len(lines)} lines: a network would tell "
                    "classes from 0 up to it; number them from 0, or give classes, their names"
                )
            if 0 not in numbered:
                raise ValueError(
                    f"{base / lists[train]} has the classes {min(numbered)} to {count - 1}: number them from 0, "
                    "or give classes, their names"
                )
            classes = list(map(str, range(count)))
        classes = sorted(training) if classes is None else classes
        known = {name: label for label, name in enumerate(classes)}
        numbers = not any(map(str.isdecimal, classes)) or list(classes) == [str(k) for k in range(len(classes))]
        samples: list[tuple[Path, int | None]] = []
        for number, path, label in lines if name == train else _lines(base / lists[name]):
            k = known.get(label, int(label) if numbers and label.isdecimal() else -1)
            if not 0 <= k < len(classes):
                raise ValueError(
                    f"{base / lists[name]}, line {number}: {label!r} is no class of {', '.join(classes[:9])}"
                )
            if not samples and not (base / path).is_file():
                raise FileNotFoundError(
                    f"{base / lists[name]}, line {number}: there is no {base / path}; a line is a path from "
                    f"root={root!r}, white space and a class, before which a name of several words has a tab"
                )
            samples.append((base / path, k))
        super().__init__(samples, classes, preset, split == "train")


def _lines(path: Path) -> list[tuple[int, str, str]]:
    """Number, path and class of each line that says something."""
    if not path.is_file():
        raise FileNotFoundError(f"lists: {path} is missing")
    found = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            parts = parted(line)
            if len(parts) != 2:
                raise ValueError(f"{path}, line {number}: {line!r} is not a path and a class")
            found.append((number, parts[0], parts[1]))
    if not found:
        raise ValueError(f"{path} is empty: a line is a path and a class")
    return found


class Cifar(Dataset[tuple[Tensor, int]]):
    """CIFAR-10 or CIFAR-100 in the files that torchvision reads; the last tenth of the training pictures is `val`.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        root: the folder in which `cifar-10-batches-py` or `cifar-100-python` lies.
        kinds: 10 or 100 classes.
        preset: makes the transforms; `Small()` by default.
        download: fetch the files if they are not there.

    Raises:
        FileNotFoundError: the files are not there.
        ValueError: an argument is out of range.
    """

    default_preset: ClassVar[type[Preset]] = Small

    def __init__(
        self, split: str, root: str, kinds: int = 10, preset: Preset | None = None, download: bool = False
    ) -> None:
        from torchvision import datasets

        if split not in FOLDERS:
            raise ValueError(f"split={split!r} must be one of {', '.join(map(repr, FOLDERS))}")
        if kinds not in (10, 100):
            raise ValueError(f"kinds={kinds} must be 10 or 100")
        kind = datasets.CIFAR10 if kinds == 10 else datasets.CIFAR100
        try:
            self.pictures = kind(root, train=split != "test", download=download)
        except RuntimeError as error:
            raise FileNotFoundError(f"root={root!r}: {error} (--data.dataset.download true)") from error
        self.classes = self.pictures.classes
        count = len(self.pictures)
        cut = count - count // 10
        self.indices = {"train": range(cut), "val": range(cut, count), "test": range(count)}[split]
        preset = preset or self.default_preset()
        self.transform, self.views = preset(split == "train"), 1 if split == "train" else preset.views

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture, label = self.pictures[self.indices[index]]
        return self.transform(picture), label
