"""The one reader of pictures: any file that Pillow opens, as RGB, upright, or a clear error."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from glore.data.broken import BrokenSampleError

ORIENTATION = 0x0112  # the EXIF tag of how a camera was held
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".bmp", ".webp", ".avif"),
        *(".tif", ".tiff", ".gif", ".ppm", ".pgm"),
    )
)


def read_picture(path: Path | str, least: int = 0) -> Image.Image:
    """Read a picture as RGB, upright; see `read_upright`."""
    return read_upright(path, least)[0]


def read_upright(path: Path | str, least: int = 0) -> tuple[Image.Image, int]:
    """Read a picture as RGB, turned upright as its EXIF tag says, and the tag: 1 … 8, where 1 is upright already.

    Sixteen and more bits and floats are brought to eight by their range, greyscale and CMYK are converted, and what is
    transparent is laid on white. Of an animation the first frame is taken.

    Args:
        path: of the file.
        least: the shorter side that is enough, in pixels: a JPEG is decoded smaller, by a power of two, as long as it
            keeps that, which is much faster. 0 decodes all of it.

    Raises:
        BrokenSampleError: the file is no picture, truncated, or larger than Pillow's limit against decompression bombs,
            179 million pixels unless you set another; the message names it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and odd metadata, which are dealt with here
            with Image.open(path) as image:
                if least:
                    image.draft("RGB", (least, least))
                told = _orientation(image)
                image.load()  # by which Pillow turns a TIFF, and takes its tag away
                left = _orientation(image)
                return _rgb(image.transpose(TURNS[left]) if left > 1 else image), told
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error … for broken files
        raise BrokenSampleError(f"{path} cannot be read as a picture ({error or type(error).__name__})") from error


def _orientation(image: Image.Image) -> int:
    """What the EXIF tag says; 1 if it says nothing that can be understood."""
    try:
        told = image.getexif().get(ORIENTATION)
    except Exception:  # Pillow raises many kinds for broken tags, and the picture may be whole
        return 1
    return told if told in TURNS else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0)
        highest = max(values.max(initial=0), 1e-12)
        tops = (255.0, 65535.0) if image.mode == "I" else (65535.0,) if image.mode.startswith("I") else ()
        top = next((top for top in tops if highest <= top), highest)
        return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
