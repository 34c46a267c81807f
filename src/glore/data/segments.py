"""Pictures with a class for each pixel: folders of pictures and masks, and CamVid."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor

from glore.data.broken import BrokenSampleError
from glore.data.folders import FOLDERS, checked, files_in, listed
from glore.data.labels import IGNORED, check_taught
from glore.data.masks import VALUES, Colour, read_classes, read_mask, values_of
from glore.data.pictures import SUFFIXES, read_upright
from glore.data.samples import Samples
from glore.data.scenes import Scenes


class Segments(Samples):
    """Files of pictures and of masks, whose values are classes.

    Shapes:
        An item is what the preset makes of a picture, `(3, h, w)` float32, and its labels `(h, w)`, int64, where 255
        counts for nothing.

    A picture is turned upright as its EXIF tag says, and its mask has to be drawn over the picture upright. Where the
    mask's size does not show that, for a picture that is turned by half, mirrored or square, the two are refused.

    A class to which no value of the masks leads is one that networks are not taught: they do not tell it either.

    Args:
        samples: path of each picture and of its mask; None where there is no mask.
        classes: their names, in order.
        preset: makes the transforms; `Scenes()` by default.
        training: whether to take the transform of training, or that of testing.
        table: value in a mask → class, or 255 for what counts for nothing; by default each class for itself, and 255.
        palette: a colour for each class, 0 … 255; by default the data set's, if it has one.
        ids: what the data set's own evaluation calls the classes; likewise.

    Raises:
        BrokenSampleError: a file cannot be read; raised when its item is asked for.
        ValueError: there are more than 255 classes. When its item is asked for: a mask has colours instead of classes,
            another size than its picture, or a value that is no class, or which way up it is cannot be told.
    """

    default_preset: ClassVar[type[Scenes]] = Scenes
    PALETTE: ClassVar[Sequence[Colour] | None] = None  # of a data set whose classes are always the same
    IDS: ClassVar[Sequence[int] | None] = None  # what its own evaluation calls the classes, if not 0, 1, 2, …

    def __init__(
        self,
        samples: Sequence[tuple[Path, Path | None]],
        classes: Sequence[str],
        preset: Scenes | None = None,
        training: bool = False,
        table: Mapping[int, int] | None = None,
        palette: Sequence[Colour] | None = None,
        ids: Sequence[int] | None = None,
    ) -> None:
        super().__init__(samples, classes)
        if len(classes) > IGNORED:
            raise ValueError(
                f"{len(classes)} classes are given, but masks may have {IGNORED}, since a label of {IGNORED} counts "
                "for nothing: join some"
            )
        self.palette, self.ids = palette or self.PALETTE, ids or self.IDS
        self.transform = (preset or self.default_preset())(training)
        table = values_of(len(classes)) if table is None else table
        self.values = sorted(table)
        self.untaught = sorted(set(range(len(classes))) - set(table.values()))
        self.table = np.full(VALUES, -1)
        self.table[self.values] = [table[value] for value in self.values]

    @classmethod
    def for_paths(
        cls,
        paths: Sequence[Path],
        classes: Sequence[str],
        arguments: Mapping[str, Any],
        palette: Sequence[Colour] | None = None,
    ) -> Segments:
        samples = [(path, None) for path in listed(paths, SUFFIXES, "pictures")]
        table = values_of(len(classes), arguments.get("ignored"))
        preset = arguments.get("preset") or cls.default_preset()
        return Segments(samples, classes, preset, table=table, palette=palette or cls.PALETTE, ids=cls.IDS)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | None]:
        return self.transform(*self._read(index))

    def check(self, index: int) -> None:
        """Raise what is wrong with the files of an item, if anything is."""
        for mask in self.files(index)[1:]:
            if not mask.is_file():
                raise FileNotFoundError(f"{self.name(index)} has no mask {mask}")
        (self._read if self.as_they_are else self.__getitem__)(index)

    def _read(self, index: int) -> tuple[Image.Image, np.ndarray | None]:
        path, mask = self.samples[index]
        picture, orientation = read_upright(path)
        if mask is None:
            return picture, None
        labels = self.labels(mask)
        if labels.shape != (picture.height, picture.width):
            raise ValueError(
                f"{mask} is {labels.shape[1]}×{labels.shape[0]} pixels, but {path} {picture.width}×{picture.height}"
                f"{', turned upright' if orientation > 1 else ''}: a mask has a value for each pixel of its picture"
            )
        if 1 < orientation < 5 or (orientation > 4 and picture.height == picture.width):  # of one size either way
            raise ValueError(
                f"{path} has an EXIF orientation of {orientation}, and the size of {mask} cannot tell whether it was "
                "drawn over the picture upright: save the picture upright if so, or else without the tag"
            )
        return picture, labels

    def labels(self, mask: Path) -> np.ndarray:
        """The classes that a mask tells, (h, w)."""
        values = read_mask(mask)
        labels: np.ndarray = self.table[values]
        if (labels < 0).any():
            raise ValueError(
                f"{mask} has a pixel of value {values[labels < 0][0]}, which is no class: the values are "
                f"{', '.join(map(str, self.values))} (in a folder of your own, each class needs a line in classes.txt, "
                "and what counts for nothing --data.dataset.ignored)"
            )
        return labels

    def check_files(self) -> None:
        """Raise a FileNotFoundError if a picture has no mask."""
        masks = [(self.samples[index][0], mask) for index in range(len(self)) for mask in self.files(index)[1:]]
        missing = [(path, mask) for path, mask in masks if not mask.is_file()]
        if missing:
            (path, mask), *others = missing
            names = ", ".join(other.name for other, _ in others[:20])
            raise FileNotFoundError(
                f"{path} has no mask {mask}"
                + (f", nor have {len(others)} others: {names}" if others else "")
                + " (glore scan finds all; glore predict takes pictures without masks; where there is no folder of "
                "test pictures, those of val are tested on)"
            )

    def check_masks(self) -> None:
        """Raise a ValueError if the masks tell no two classes apart; they are read by chance until two are found."""
        if len(self.classes) - len(self.untaught) < 2:
            raise ValueError("fewer than two classes count, so nothing can be learnt: see --data.dataset.ignored")
        masks = [mask for _, mask in self.samples if mask]
        found: set[int] = set()
        for index in np.random.default_rng(0).permutation(len(masks)):
            with suppress(BrokenSampleError):
                found |= set(np.unique(self.labels(masks[index])).tolist())
            if len(found - {IGNORED}) > 1:
                return
        if found:
            check_taught(found, self.classes)

    @property
    def as_they_are(self) -> bool:
        """Whether items are made of the files alone, and not by a subclass that may make others of them."""
        return type(self).__getitem__ is Segments.__getitem__

    def unlabelled(self) -> Segments:
        """The same pictures without their masks."""
        other = copy.copy(self)
        other.samples = [(path, None) for path, _ in self.samples]
        return other

    def blank(self) -> Tensor:
        """What stands for a picture that cannot be read, where no other one may."""
        return self.transform(Image.new("RGB", (64, 64)), None)[0]


class SegmentFolder(Segments):
    """Pictures and masks in folders: `root/images/train/…`, `root/masks/train/…`, the same for `val` and `test`.

    A mask is a PNG with one value a pixel, which has its picture's path under the folder of masks. Without `test`,
    `val` is the test split too.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        root: the folder.
        images: folder of a split's pictures, from `root`; `{split}` stands for its name.
        masks: folder of the masks, from `root`; likewise, but for all splits it may be one.
        classes: file with the classes, from `root`: a line each, of which the first is value 0 of the masks. A line is
            a name, or for all classes a name and a colour, three numbers of 0 … 255. A name may be in double quotes,
            which one that ends in a number has to be. Empty lines and those that begin with # say nothing.
        ignored: further values of the masks that count for nothing, besides 255.
        preset: makes the transforms; `Scenes()` by default.

    Raises:
        FileNotFoundError: a folder or file is not there, or a folder is empty.
        ValueError: an argument is out of range, a line of the class file cannot be read, or two pictures have one mask.
    """

    def __init__(
        self,
        split: str,
        root: str,
        images: str = "images/{split}",
        masks: str = "masks/{split}",
        classes: str = "classes.txt",
        ignored: Sequence[int] = (),
        preset: Scenes | None = None,
    ) -> None:
        if "{split}" not in images:
            raise ValueError(f"images={images!r} must have {{split}} in it: each split has a folder of its own")
        folder, taken = folder_of(split, root, images)
        names, palette = read_classes(Path(root) / classes)
        if strange := [value for value in ignored if not 0 <= value < VALUES]:
            raise ValueError(f"ignored has {strange[0]}, but the values of a mask are 0 … {VALUES - 1}")
        samples = pairs(folder, Path(root, masks.replace("{split}", taken)))
        super().__init__(samples, names, preset, split == "train", values_of(len(names), ignored), palette)


class CamVid(Segments):
    """CamVid with its usual eleven classes: `root/train`, `root/trainannot`, the same for `val` and, if there, `test`.

    Args:
        split: `"train"`, `"val"` or `"test"`, which without its folder is `val`.
        root: the folder.
        preset: makes the transforms; `Scenes()` by default.

    Raises:
        FileNotFoundError: a folder is not there or empty.

    Source: Brostow, Fauqueur, Cipolla, 2009; the classes and folders are those of Badrinarayanan, Kendall, Cipolla,
        "SegNet", 2017 (arXiv 1511.00561).
    """

    CLASSES: ClassVar[Mapping[str, Colour]] = {
        "Sky": (128, 128, 128),
        "Building": (128, 0, 0),
        "Pole": (192, 192, 128),
        "Road": (128, 64, 128),
        "Pavement": (60, 40, 222),
        "Tree": (128, 128, 0),
        "SignSymbol": (192, 128, 128),
        "Fence": (64, 64, 128),
        "Car": (64, 0, 128),
        "Pedestrian": (64, 64, 0),
        "Bicyclist": (0, 128, 192),
    }
    PALETTE = tuple(CLASSES.values())

    def __init__(self, split: str, root: str, preset: Scenes | None = None) -> None:
        folder, _ = folder_of(split, root, "{split}")
        samples = pairs(folder, folder.with_name(f"{folder.name}annot"))
        count = len(self.CLASSES)
        super().__init__(samples, list(self.CLASSES), preset, split == "train", values_of(count, [count]))


def folder_of(split: str, root: str, pattern: str) -> tuple[Path, str]:
    """The folder of a split's pictures, and the split that it is of: `val` for a test split that has none."""
    base = checked(split, root)
    for taken in (spelt for name in FOLDERS[split] for spelt in (name, name.capitalize(), name.upper())):
        folder = base / pattern.replace("{split}", taken)
        if folder.is_dir():
            return folder, taken
    raise FileNotFoundError(f"root={root!r} has no folder {pattern.replace('{split}', split)} with pictures")


def pairs(pictures: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Each picture of a folder and its mask, of the same path in the folder of masks."""
    found = files_in(pictures, SUFFIXES)
    if not found:
        raise FileNotFoundError(f"{pictures} has no pictures ({', '.join(sorted(SUFFIXES))})")
    samples = [(path, (masks / path.relative_to(pictures)).with_suffix(".png")) for path in found]
    first: dict[Path, Path] = {}
    for path, mask in samples:
        if first.setdefault(mask, path) != path:
            raise ValueError(f"{first[mask]} and {path} have one mask, {mask}: rename one of them and give it its own")
    return samples
