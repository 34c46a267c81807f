"""What files say of masks: a value for each pixel, and in a class file what the values mean."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from glore.data.broken import BrokenSampleError
from glore.data.folders import read_text
from glore.data.labels import IGNORED

Colour = Sequence[int]  # red, green and blue, 0 … 255

VALUES = 2**16  # that a mask may have
FEW = {"L;2": 255 // 3, "L;4": 255 // 15}  # greyscale of few bits → by what Pillow multiplies it
THREE = re.compile(r"\d+[\s,;]+\d+[\s,;]+\d+")  # numbers, where a colour is meant
LINE = re.compile(r'(?:"([^"]+)"|(.+?))((?:[\s,;]+\d+)*)')  # of a class file: a name, quoted or plain, and numbers


def values_of(classes: int, ignored: Sequence[int] | None = ()) -> dict[int, int]:
    """Value in a mask → class: each class for itself, but for values that count for nothing, as 255 does."""
    return {**{k: k for k in range(classes)}, **dict.fromkeys((*(ignored or ()), IGNORED), IGNORED)}


def read_mask(path: Path) -> np.ndarray:
    """The values of a mask, (h, w).

    Raises:
        BrokenSampleError: the file cannot be read.
        ValueError: it has several channels, or a value below 0 or above 65535.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, as in reading these
            with Image.open(path) as image:
                factor = FEW.get(str(image.tile[0][3]), 1) if image.format == "PNG" else 1
                mode, values = image.mode, np.asarray(image) // factor
    except Exception as error:  # Pillow raises many kinds for broken files
        raise BrokenSampleError(f"{path} cannot be read as a mask ({error or type(error).__name__})") from error
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise ValueError(
            f"{path} is a picture of mode {mode}, but a mask has one whole number a pixel: save its classes as a "
            "greyscale or palette PNG"
        )
    least, most = int(values.min(initial=0)), int(values.max(initial=0))
    if least < 0 or most >= VALUES:
        raise ValueError(
            f"{path} has a pixel of value {least if least < 0 else most}: classes begin at 0, all values are below "
            f"{VALUES}, and 255 counts for nothing"
        )
    return values.astype(np.int32)


def read_classes(path: Path) -> tuple[list[str], list[Colour] | None]:
    """The names in a class file, and their colours if they have any; see `SegmentFolder`."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a text file with a class a line, the first of value 0 in the masks"
        )
    names: list[str] = []
    colours: list[Colour] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        quoted, plain, end = LINE.fullmatch(line).groups()  # type: ignore[union-attr]  # which any line matches
        colour = tuple(map(int, re.findall(r"\d+", end)))
        if len(colour) not in (0, 3) or max(colour, default=0) > 255 or (plain and THREE.search(plain)):
            raise ValueError(
                f"{path}, line {number}: {line!r} is not a name, or a name and three numbers of 0 … 255: quote a name "
                "that ends in a number or has three"
            )
        names.append(quoted or plain)
        colours += [colour] if colour else []
        if len(colours) not in (0, len(names)):
            raise ValueError(f"{path}, line {number}: give all classes a colour, or none")
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"{path} has two lines for {twice[0]!r}: give each class a name of its own")
    if not names:
        raise ValueError(f"{path} has no class: give a line to each, of which the first is value 0 in the masks")
    return names, colours or None
