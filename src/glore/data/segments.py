"""Pictures with a class for each pixel: folders of pictures and masks, and CamVid."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from glore.data.broken import BrokenSampleError
from glore.data.folders import FOLDERS, checked, files_in
from glore.data.labels import IGNORED
from glore.data.pictures import SUFFIXES, read_picture
from glore.data.scenes import Scenes

Colour = tuple[int, int, int]


class Segments(Dataset[tuple[Tensor, Tensor | None]]):
    """Files of pictures and of masks, whose values are classes.

    Shapes:
        An item is what the preset makes of a picture, `(3, h, w)` float32, and its labels `(h, w)`, int64, where 255
        counts for nothing.

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
        ValueError: a mask has colours instead of classes, another size than its picture, or a value that is no class;
            likewise.
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
        preset = preset or self.default_preset()
        self.samples, self.classes, self.palette = list(samples), list(classes), palette or self.PALETTE
        self.ids = ids or self.IDS
        self.transform = preset(training)
        table = {**{k: k for k in range(len(classes))}, IGNORED: IGNORED} if table is None else table
        self.values = sorted(table)
        self.table = np.full(2**16, -1)
        self.table[self.values] = [table[value] for value in self.values]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | None]:
        path, mask = self.samples[index]
        picture = read_picture(path)
        if mask is None:
            return self.transform(picture, None)
        labels = self.labels(mask)
        if labels.shape != (picture.height, picture.width):
            raise ValueError(
                f"{mask} is {labels.shape[1]}×{labels.shape[0]} pixels, but {path} {picture.width}×{picture.height}: a "
                "mask has a value for each pixel of its picture"
            )
        return self.transform(picture, labels)

    def labels(self, mask: Path) -> np.ndarray:
        """The classes that a mask tells, (h, w)."""
        values = read_mask(mask)
        labels: np.ndarray = self.table[values]
        if (labels < 0).any():
            raise ValueError(
                f"{mask} has a pixel of value {values[labels < 0][0]}, which is no class: the values are "
                f"{', '.join(map(str, self.values))}"
            )
        return labels

    def name(self, index: int) -> str:
        """The path of an item, for messages and tables."""
        return str(self.samples[index][0])

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
        images: folder of the pictures, from `root`.
        masks: folder of the masks, from `root`.
        classes: file with the classes, from `root`: a line each, its name and, if you like, a colour as three numbers
            of 0 … 255. The first line is value 0 of the masks.
        ignored: further values of the masks that count for nothing, besides 255.
        preset: makes the transforms; `Scenes()` by default.

    Raises:
        FileNotFoundError: a folder or file is not there, a folder is empty, or a picture has no mask.
        ValueError: an argument is out of range, or a line of the class file says nothing.
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
        folder, taken = folder_of(split, root, images)
        names, palette = read_classes(Path(root) / classes)
        table = {**{k: k for k in range(len(names))}, **dict.fromkeys((*ignored, IGNORED), IGNORED)}
        samples = pairs(folder, Path(root, masks.format(split=taken)))
        super().__init__(samples, names, preset, split == "train", table, palette)


class CamVid(Segments):
    """CamVid with its usual eleven classes: `root/train`, `root/trainannot`, the same for `val` and, if there, `test`.

    Args:
        split: `"train"`, `"val"` or `"test"`, which without its folder is `val`.
        root: the folder.
        preset: makes the transforms; `Scenes()` by default.

    Raises:
        FileNotFoundError: a folder is not there or empty, or a picture has no mask.

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
        table = {**{k: k for k in range(count)}, count: IGNORED, IGNORED: IGNORED}
        super().__init__(samples, list(self.CLASSES), preset, split == "train", table)


def read_mask(path: Path) -> np.ndarray:
    """The values of a mask, (h, w).

    Raises:
        BrokenSampleError: the file cannot be read.
        ValueError: it has several channels.
    """
    try:
        with Image.open(path) as image:
            image.load()
            mode, values = image.mode, np.asarray(image)
    except Exception as error:  # Pillow raises many kinds for broken files
        raise BrokenSampleError(f"{path} cannot be read as a mask ({error or type(error).__name__})") from error
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise ValueError(
            f"{path} is a picture of mode {mode}, but a mask has one whole number a pixel: save its classes as a "
            "greyscale or palette PNG"
        )
    return values.astype(np.int32).clip(0, 2**16 - 1)


def read_classes(path: Path) -> tuple[list[str], list[Colour] | None]:
    """The names in a class file, and their colours if each has one."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a text file with a class a line, the first of value 0 in the masks"
        )
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    found = [re.fullmatch(r"(.+?)(?:[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(\d+))?", line) for line in lines]
    names = [match[1] for match in found if match]
    colours = [tuple(int(match[i]) for i in (2, 3, 4)) for match in found if match and match[2]]
    if not 0 < len(names) <= IGNORED or len(set(names)) < len(names):
        raise ValueError(
            f"{path} names {len(names)} classes, but must have 1 to {IGNORED} of different names, a line each"
        )
    if any(max(colour) > 255 for colour in colours):
        raise ValueError(f"{path} has a colour above 255: a line is a name, or a name and three numbers of 0 … 255")
    return names, colours if len(colours) == len(names) else None  # type: ignore[return-value]


def folder_of(split: str, root: str, pattern: str) -> tuple[Path, str]:
    """The folder of a split's pictures, and the split that it is of: `val` for a test split that has none."""
    base = checked(split, root)
    for name in FOLDERS[split]:
        folder = base / pattern.format(split=name)
        if folder.is_dir():
            return folder, name
    raise FileNotFoundError(f"root={root!r} has no folder {pattern.format(split=FOLDERS[split][0])} with pictures")


def pairs(pictures: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Each picture of a folder and its mask, of the same path in the folder of masks."""
    found = files_in(pictures, SUFFIXES)
    if not found:
        raise FileNotFoundError(f"{pictures} has no pictures ({', '.join(sorted(SUFFIXES))})")
    samples = [(path, (masks / path.relative_to(pictures)).with_suffix(".png")) for path in found]
    missing = [(path, mask) for path, mask in samples if not mask.is_file()]
    if missing:
        path, mask = missing[0]
        raise FileNotFoundError(
            f"{path} has no mask {mask}" + (f", nor have {len(missing) - 1} others" if len(missing) > 1 else "")
        )
    return samples
