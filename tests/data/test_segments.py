"""Folders of pictures and masks: what is read, what is drawn at random, and what is named when it is wrong."""

import struct
import zlib

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision")
from PIL import Image

from glore.data.broken import BrokenSampleError
from glore.data.masks import read_classes, read_mask
from glore.data.scenes import Scenes
from glore.data.segments import CamVid, SegmentFolder, Segments

CLASSES = "road\ntraffic light\ncar\n"


def write(path, values, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values), mode=mode).save(path)


@pytest.fixture
def root(tmp_path):
    draw = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        for i in range(count):
            labels = draw.integers(0, 3, (24, 30)).astype(np.uint8)
            labels[:2] = 255
            write(
                tmp_path / "images" / split / "town" / f"{i}.jpg", draw.integers(0, 255, (24, 30, 3)).astype(np.uint8)
            )
            write(tmp_path / "masks" / split / "town" / f"{i}.png", labels)
    (tmp_path / "classes.txt").write_text(CLASSES)
    return tmp_path


def test_a_folder(root):
    data = SegmentFolder("val", str(root))
    assert data.classes == ["road", "traffic light", "car"]
    assert data.palette is None
    picture, labels = data[0]
    assert (picture.shape, picture.dtype, labels.shape, labels.dtype) == (
        (3, 24, 30),
        torch.float32,
        (24, 30),
        torch.int64,
    )
    assert set(labels.unique().tolist()) == {0, 1, 2, 255}
    assert len(SegmentFolder("train", str(root))) == 5
    assert len(SegmentFolder("test", str(root))) == 2, "val stands for it"


def test_other_folders_and_ignored_values(root):
    (root / "images/train").rename(root / "train")
    (root / "masks/train").rename(root / "train_annotated")
    places = {"images": "{split}", "masks": "{split}_annotated"}
    data = SegmentFolder("train", str(root), **places, ignored=(2,), preset=Scenes(crop=(24, 30)))
    assert set(data[0][1].unique().tolist()) <= {0, 1, 255}
    assert data.untaught == [2]
    named = SegmentFolder.for_paths([root / "train"], data.classes, {"ignored": (2,)})
    assert (named.untaught, SegmentFolder.for_paths([root / "train"], data.classes, {}).untaught) == ([2], [])


def test_colours_of_all_classes_are_a_palette(tmp_path):
    (tmp_path / "classes.txt").write_text("# of the town\na 1 2 3\n\nb 2 c,4,5,6\n7\t7, 8; 9\n", encoding="utf-8-sig")
    assert read_classes(tmp_path / "classes.txt") == (["a", "b 2 c", "7"], [(1, 2, 3), (4, 5, 6), (7, 8, 9)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no class"),
        ("road\nsky\nroad\n", "has two lines for 'road'"),
        ("64 128 64\tAnimal\n", "line 1: '64 128 64.*Animal' is not a name, or a name and three numbers"),
        ("road (128, 64, 128)\n", r"line 1: 'road \(128, 64, 128\)' is not a name"),
        ("road,128,64,128,\n", "line 1: 'road,128,64,128,' is not a name"),
        ("road 128 64 128 # grey\n", "line 1: 'road 128 64 128 # grey' is not a name"),
        ("# town\nroad 1 2 300\n", r"line 2: 'road 1 2 300' is not a name, or a name and three numbers of 0 … 255"),
        ("road 128 64 128 255\n", "line 1: 'road 128 64 128 255' is not a name, or a name and three numbers"),
        ("road 128 64\n", "line 1: 'road 128 64' is not a name, or .*: quote a name that ends in a number"),
        ("a 1 2 3\nb\n", "line 2: give all classes a colour, or none"),
        ("a\nb 1 2 3\n", "line 2: give all classes a colour, or none"),
        ("straße".encode("latin-1"), "is no UTF-8 text"),
    ],
)
def test_a_class_file_that_cannot_be_meant_is_named(tmp_path, text, message):
    path = tmp_path / "classes.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"classes\.txt,? {message}"):
        read_classes(path)


def test_a_quoted_class_name_may_have_numbers(tmp_path):
    (tmp_path / "classes.txt").write_text('"zone 2" 1 2 3\n"3 4 5 go" 4 5 6\n')
    assert read_classes(tmp_path / "classes.txt") == (["zone 2", "3 4 5 go"], [(1, 2, 3), (4, 5, 6)])


def test_more_classes_than_a_mask_may_have_are_refused():
    with pytest.raises(ValueError, match="256 classes are given, but masks may have 255"):
        Segments([], [str(k) for k in range(256)])


def test_folders_of_splits_may_be_in_capitals(tmp_path):
    for split in ("Train", "VAL"):
        write(tmp_path / split / "0001.jpg", np.zeros((36, 48, 3), np.uint8))
        write(tmp_path / f"{split}annot" / "0001.png", np.zeros((36, 48), np.uint8))
    assert [len(CamVid(split, str(tmp_path))) for split in ("train", "val", "test")] == [1, 1, 1]


def test_camvid(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / split / "0001.jpg", np.zeros((36, 48, 3), np.uint8))
        write(tmp_path / f"{split}annot" / "0001.png", (np.arange(36 * 48) % 12).reshape(36, 48).astype(np.uint8))
    _, labels = CamVid("test", str(tmp_path))[0]
    assert set(labels.unique().tolist()) == {*range(11), 255}
    assert len(CamVid("test", str(tmp_path)).palette) == 11


@pytest.mark.parametrize("seed", range(8))
def test_picture_and_labels_move_together(seed):
    """Each colour is a class: wherever the picture is put, its labels must be."""
    colours = np.array([[20, 20, 20], [120, 120, 120], [220, 220, 220]], np.uint8)
    labels = np.kron(np.array([[0, 1], [2, 0]]), np.ones((40, 40), int))
    picture = Image.fromarray(colours[labels])
    torch.manual_seed(seed)
    x, y = Scenes(crop=(48, 64), jitter=0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))(True)(picture, labels)
    assert (x.shape, y.shape) == ((3, 48, 64), (48, 64))
    nearest = (
        ((x.mean(0, keepdim=True) * 127.5 + 127.5) - torch.tensor([20.0, 120, 220])[:, None, None]).abs().argmin(0)
    )
    counted = y != 255
    assert counted.any()
    assert (nearest == y)[counted].float().mean() > 0.9  # but where scaling blurs the edges


def test_training_scales_mirrors_and_recolours_by_chance():
    labels = np.zeros((20, 40), int)
    labels[:, 30:] = 1  # on the right, unless mirrored
    preset = Scenes((80, 80), (0.5, 2.0), jitter=0.4, mean=(0, 0, 0), std=(1, 1, 1))
    wide, right, light = [], set(), []
    for seed in range(40):
        torch.manual_seed(seed)
        x, y = preset(True)(Image.new("RGB", (40, 20), (100, 100, 100)), labels)
        there = y[(y != 255).any(1)][:, (y != 255).any(0)]  # never cut: 80 is the largest
        assert abs(there.shape[1] - 2 * there.shape[0]) <= 1
        wide.append(there.shape[1])
        right.add(int(there[0, -1]))
        light.append(float(x[:, y != 255].mean()))
    assert 20 <= min(wide) < 32
    assert 56 < max(wide) <= 80
    assert right == {0, 1}
    assert max(light) - min(light) > 0.05


@pytest.mark.parametrize("kind", [SegmentFolder, CamVid])
def test_pictures_are_cropped_in_training_alone(root, kind):
    for split in ("train", "val"):
        write(root / split / "1.png", np.zeros((24, 30, 3), np.uint8))
        write(root / f"{split}annot" / "1.png", np.zeros((24, 30), np.uint8))
    sizes = {split: kind(split, str(root), preset=Scenes((8, 9)))[0][1].shape for split in ("train", "val", "test")}
    assert sizes == {"train": (8, 9), "val": (24, 30), "test": (24, 30)}


def test_files_are_taken_as_the_preset_says(root):
    path, preset = root / "images/val/town/0.jpg", Scenes(mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    taken = SegmentFolder.for_paths([path], ["a"], {"preset": preset})
    assert torch.equal(taken[0][0], SegmentFolder("val", str(root), preset=preset)[0][0])


def test_the_classes_of_camvid_are_in_the_usual_order():
    names = "Sky Building Pole Road Pavement Tree SignSymbol Fence Car Pedestrian Bicyclist"
    assert " ".join(CamVid.CLASSES) == names
    assert (CamVid.PALETTE[3], CamVid.PALETTE[8]) == ((128, 64, 128), (64, 0, 128))


def test_what_a_crop_lacks_counts_for_nothing():
    preset = Scenes(crop=(100, 100), scale=(1, 1), jitter=0, mean=(0.25, 0.5, 0.75))
    x, y = preset(True)(Image.new("RGB", (20, 10), "white"), np.zeros((10, 20), int))
    assert (y == 0).sum() == 200
    assert (y == 255).sum() == 100 * 100 - 200
    assert x[:, y == 255].abs().max() < 0.02  # the mean colour


def test_testing_shows_the_whole_picture_as_it_is():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (13, 17, 3)).astype(np.uint8))
    x, y = Scenes(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))(False)(picture, np.zeros((13, 17), int))
    torch.testing.assert_close(x.permute(1, 2, 0) * 127.5 + 127.5, torch.from_numpy(np.array(picture)).float())
    assert y.shape == (13, 17)


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_masks_of_any_whole_number(tmp_path, mode):
    values = np.array([[0, 1], [1, 0]])
    image = Image.fromarray((values * 255).astype(np.uint8)).convert("1") if mode == "1" else None
    image = image or Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        image = Image.fromarray(values.astype(np.uint8), mode="P")
        image.putpalette(bytes(range(6)))
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), values)


def png(path, values, *, bits, kind):
    """Write a PNG of 2 or 4 bits a pixel, greyscale (kind 0) or with a palette (3); Pillow writes the latter alone."""
    packed = np.packbits(
        np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., -bits:].reshape(len(values), -1), 1
    )
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *([(b"PLTE", bytes(range(48)))] if kind == 3 else [])]
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("kind", [0, 3])
def test_masks_of_few_bits_keep_their_values(tmp_path, bits, kind):
    values = np.arange(32).reshape(4, 8) % 2**bits
    png(tmp_path / "mask.png", values, bits=bits, kind=kind)
    assert np.array_equal(read_mask(tmp_path / "mask.png"), values)


def turned(path, size, orientation):
    """A picture whose tag says how it has to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, exif=exif)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_mask_is_of_the_picture_upright(tmp_path, suffix):
    picture, mask = tmp_path / f"a.{suffix}", tmp_path / "mask.png"
    data = Segments([(picture, mask)], ["a", "b"])
    turned(picture, (30, 20), 6)
    write(mask, np.zeros((30, 20), np.uint8))  # of height 30, as the picture is seen
    assert data[0][0].shape == (3, 30, 20)
    write(mask, np.zeros((20, 30), np.uint8))
    with pytest.raises(ValueError, match=rf"mask\.png is 30×20 pixels, but .*a\.{suffix} 20×30, turned upright"):
        data[0]
    for size, orientation in (((30, 20), 3), ((30, 20), 2), ((20, 20), 6)):
        turned(picture, size, orientation)
        write(mask, np.zeros(size[::-1], np.uint8))
        with pytest.raises(
            ValueError, match=rf"a\.{suffix} has an EXIF orientation of {orientation}, and .* cannot tell"
        ):
            data[0]
    assert Segments([(picture, None)], ["a"])[0][0].shape == (3, 20, 20)


def test_what_is_wrong_with_a_mask_is_named(root):
    mask = root / "masks/val/town/0.png"
    data = SegmentFolder("val", str(root))
    whole = mask.read_bytes()

    write(mask, np.zeros((24, 30, 3), np.uint8))
    with pytest.raises(
        ValueError, match=r"town/0\.png is a picture of mode RGB, but a mask has one whole number a pixel"
    ):
        data[0]
    write(mask, np.zeros((12, 30), np.uint8))
    with pytest.raises(ValueError, match=r"town/0\.png is 30×12 pixels, but .*town/0\.jpg 30×24"):
        data[0]
    write(mask, np.full((24, 30), 3, np.uint8))
    with pytest.raises(ValueError, match=r"town/0\.png has a pixel of value 3, which is no class: .* 0, 1, 2, 255"):
        data[0]
    for value in (-1, 70000):
        Image.fromarray(np.where(np.eye(24, 30) == 1, value, 2).astype(np.int32)).save(mask, "TIFF")
        with pytest.raises(ValueError, match=rf"town/0\.png has a pixel of value {value}: classes begin at 0, all"):
            data[0]
    mask.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BrokenSampleError, match=r"town/0\.png cannot be read as a mask"):
        data[0]
    mask.write_bytes(b"")
    with pytest.raises(BrokenSampleError, match=r"town/0\.png cannot be read as a mask"):
        data[0]
    mask.unlink()
    with pytest.raises(FileNotFoundError, match=r"town/0\.jpg has no mask .*masks/val/town/0\.png"):
        SegmentFolder("val", str(root)).check_files()
    SegmentFolder("val", str(root)).unlabelled().check_files()


def test_what_is_wrong_with_the_folders_is_named(root):
    with pytest.raises(FileNotFoundError, match=r"is no folder: give --data\.root DIR"):
        SegmentFolder("train", str(root / "nowhere"))
    with pytest.raises(ValueError, match="split='dev' must be one of"):
        SegmentFolder("dev", str(root))
    (root / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"classes\.txt is missing: a text file with a class a line"):
        SegmentFolder("train", str(root))
    (root / "images/train/town").rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match="images/train has no pictures"):
        CamVid("train", str(root / "images"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop": (0, 3)}, "crop="),
        ({"scale": (2, 1)}, "scale="),
        ({"jitter": 1.0}, "jitter="),
        ({"std": (1, 1, 0)}, "std="),
    ],
)
def test_presets_refuse_what_is_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**arguments)


def test_pictures_without_masks(root):
    data = Segments([(root / "images/val/town/0.jpg", None)], ["a", "b"])
    picture, labels = data[0]
    assert picture.shape == (3, 24, 30)
    assert labels is None
    assert data.blank().shape == (3, 64, 64)


@pytest.mark.parametrize("ignored", [(-1,), (2**16,)])
def test_ignored_values_are_those_that_a_mask_can_have(root, ignored):
    with pytest.raises(ValueError, match=rf"ignored has {ignored[0]}, but the values of a mask are 0 … 65535"):
        SegmentFolder("train", str(root), ignored=ignored)


def test_a_pattern_of_folders_is_taken_as_it_is_written(root):
    with pytest.raises(FileNotFoundError, match=r"has no folder pics/\{other\}/train with pictures"):
        SegmentFolder("train", str(root), images="pics/{other}/{split}")
    (root / "images").rename(root / "{}")
    assert len(SegmentFolder("train", str(root), images="{}/{split}")) == 5


def test_two_pictures_of_one_mask_are_named(root):
    write(root / "images/val/town/0.png", np.zeros((24, 30, 3), np.uint8))
    with pytest.raises(
        ValueError, match=r"town/0\.jpg and .*town/0\.png have one mask, .*masks/val/town/0\.png: rename"
    ):
        SegmentFolder("val", str(root))


def test_each_split_has_folders_of_its_own(tmp_path):
    with pytest.raises(ValueError, match=r"images='images' must have \{split\} in it"):
        SegmentFolder("train", str(tmp_path), images="images")


@pytest.mark.parametrize("factor", [0.35, 0.5, 0.7])
def test_labels_are_scaled_about_the_same_points_as_the_picture(factor):
    """Of a border, the picture has the middle of the blur where the labels have their step."""
    labels = np.zeros((60, 60), int)
    labels[:, 32:] = 1
    picture = Image.fromarray(np.repeat(255 * labels[..., None], 3, 2).astype(np.uint8))
    side = round(60 * factor)
    preset = Scenes((side, side), (factor, factor), jitter=0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    for seed in range(4):  # mirrored, or not
        torch.manual_seed(seed)
        x, y = preset(True)(picture, labels)
        assert torch.equal((x[0] > 0).long(), y)


def test_a_training_set_has_pictures_without_masks(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    data = Segments([(tmp_path / "a.png", None)], ["a"], Scenes((8, 8)), training=True)
    assert data[0][1] is None
    assert data.blank().shape == (3, 8, 8)


def test_masks_may_lie_in_one_folder(root):
    (root / "one/town").mkdir(parents=True)
    for number, split in enumerate(("train", "val")):
        for path in (root / "images" / split / "town").iterdir():
            name = f"{number}{path.stem}"
            (root / "masks" / split / "town" / f"{path.stem}.png").rename(root / "one/town" / f"{name}.png")
            path.rename(path.with_name(f"{name}.jpg"))
    assert [len(SegmentFolder(split, str(root), masks="one")) for split in ("train", "val")] == [5, 2]
