"""Pictures of every odd kind are read as RGB, upright, and broken ones are named."""

import struct

import numpy as np
import pytest
from PIL import Image

from glore.data.broken import BrokenSampleError
from glore.data.pictures import read_picture, read_upright

RED, BLUE = (200, 30, 40), (20, 60, 220)


@pytest.fixture
def halves():
    """Red on the left, blue on the right: 40 wide, 20 high."""
    values = np.zeros((20, 40, 3), np.uint8)
    values[:, :20], values[:, 20:] = RED, BLUE
    return Image.fromarray(values)


def seen(path, **options):
    picture = read_picture(path, **options)
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def close(value, expected):
    return np.abs(np.asarray(value) - expected).max() <= 12


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif", "gif", "ppm"])
def test_formats(halves, tmp_path, suffix):
    halves.save(tmp_path / f"a.{suffix}", quality=95) if suffix == "jpg" else halves.save(tmp_path / f"a.{suffix}")
    values = seen(tmp_path / f"a.{suffix}")
    assert values.shape == (20, 40, 3)
    assert close(values[10, 5], RED)
    assert close(values[10, 35], BLUE)


def test_cmyk(halves, tmp_path):
    halves.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert close(seen(tmp_path / "a.jpg")[10, 5], RED)


def test_grey_and_one_bit(tmp_path):
    Image.new("L", (4, 4), 77).save(tmp_path / "grey.png")
    assert (seen(tmp_path / "grey.png") == 77).all()
    Image.new("1", (4, 4), 1).save(tmp_path / "bit.png")
    assert (seen(tmp_path / "bit.png") == 255).all()


def test_sixteen_bits(tmp_path):
    values = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(3, 0)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert (seen(tmp_path / "deep.png")[0, :, 0] == np.arange(256)).all()
    Image.fromarray(np.array([[0.0, 0.25, 1.0]], np.float32)).save(tmp_path / "float.tif")
    assert seen(tmp_path / "float.tif")[0, :, 1].tolist() == [0, 64, 255]


def test_values_that_are_no_numbers_darken_nothing_else(tmp_path):
    Image.fromarray(np.array([[0.5, np.nan, np.inf, 1.0]], np.float32)).save(tmp_path / "a.tif")
    assert seen(tmp_path / "a.tif")[0, :, 0].tolist() == [128, 0, 0, 255]
    Image.fromarray(np.array([[0, 100, 200]], np.int32)).save(tmp_path / "b.tif")
    assert seen(tmp_path / "b.tif")[0, :, 0].tolist() == [0, 100, 200]


def test_a_malformed_tag_does_not_hide_a_picture(halves, tmp_path):
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    resolution = struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")  # a text where a fraction belongs
    halves.save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0" + orientation + resolution + bytes(4))
    assert seen(tmp_path / "a.jpg").shape[:2] == (40, 20)


def test_what_is_transparent_is_laid_on_white(tmp_path):
    picture = Image.new("RGBA", (2, 1), (*RED, 255))
    picture.putpixel((1, 0), (*BLUE, 0))
    picture.save(tmp_path / "alpha.png")
    assert seen(tmp_path / "alpha.png").tolist() == [[list(RED), [255, 255, 255]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png", transparency=1)
    assert seen(tmp_path / "palette.png").tolist() == [[list(RED), [255, 255, 255]]]
    palette.save(tmp_path / "opaque.png")
    assert seen(tmp_path / "opaque.png").tolist() == [[list(RED), list(BLUE)]]


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
@pytest.mark.parametrize(("orientation", "shape"), [(1, (20, 40)), (3, (20, 40)), (6, (40, 20)), (8, (40, 20))])
def test_rotated_by_exif(halves, tmp_path, orientation, shape, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    # what a camera held at an angle writes, and the tag that says how it was held
    stored = halves if turned[orientation] is None else halves.transpose(turned[orientation])
    stored.save(tmp_path / name, exif=exif, **({"quality": 95} if name == "a.jpg" else {}))
    values = seen(tmp_path / name)
    assert read_upright(tmp_path / name)[1] == orientation
    assert values.shape[:2] == (20, 40)
    assert stored.size[::-1] == shape
    assert close(values[10, 5], RED)
    assert close(values[10, 35], BLUE)


def test_large_jpegs_are_decoded_smaller(tmp_path):
    Image.new("RGB", (1600, 1200), RED).save(tmp_path / "a.jpg")
    assert seen(tmp_path / "a.jpg", least=140).shape[:2] == (150, 200)
    assert seen(tmp_path / "a.jpg").shape[:2] == (1200, 1600)


def test_huge_pictures_are_named(tmp_path):
    Image.new("1", (25_000, 25_000)).save(tmp_path / "huge.png")
    with pytest.raises(BrokenSampleError, match=r"huge\.png cannot be read as a picture .*exceeds limit"):
        read_picture(tmp_path / "huge.png")


def test_a_large_picture_is_read_without_a_warning(tmp_path):
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")  # Pillow warns above 89 million pixels
    assert read_picture(tmp_path / "large.png").size == (10_000, 10_000)


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "cut png", "absent", "folder"])
def test_broken_files_are_named(halves, tmp_path, kind):
    path = tmp_path / ("a.png" if "png" in kind else "a.jpg")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8))
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "folder":
        path.mkdir()
    elif kind != "absent":
        noise.save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BrokenSampleError, match=rf"{path.name} cannot be read as a picture \(.+\)"):
        read_picture(path)
