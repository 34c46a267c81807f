"""Folders and lists of pictures: which picture is in which split, its class, and what is refused."""

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from glore.data import pictures, transforms
from glore.data.broken import BrokenSampleError
from glore.data.folders import files_in, listed
from glore.data.images import Cifar, ImageFolder, ImageList, Pictures
from glore.data.pictures import SUFFIXES, read_picture

SMALL = transforms.Small(8)


def make(root, *folders, count=20):
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (10, 8), (10 * number, i, 0)).save(root / folder / f"{folder.replace('/', '-')}-{i}.png")
    return str(root)


def names(dataset):
    return {path.name for path, _ in dataset.samples}


def test_three_folders(tmp_path):
    root = make(tmp_path, "train/a", "train/b", "val/a", "val/b", "test/b")
    for split, count, labels in (("train", 40, {0, 1}), ("val", 40, {0, 1}), ("test", 20, {1})):
        dataset = ImageFolder(split, root, SMALL)
        assert dataset.classes == ["a", "b"]
        assert len(dataset) == count
        assert {label for _, label in dataset.samples} == labels
    picture, label = dataset[0]
    assert picture.shape == (3, 8, 8)
    assert (picture.dtype, label) == (torch.float32, 1)
    assert dataset.name(0).endswith("test-b-0.png")


def test_imagenets_folders_test_on_val(tmp_path):
    root = make(tmp_path, "train/n1", "train/n2", "val/n1", "val/n2")
    assert names(ImageFolder("test", root)) == names(ImageFolder("val", root))
    assert len(ImageFolder("train", root)) == 40


@pytest.mark.parametrize("folders", [("a", "b"), ("train/a", "train/b"), ("train/a", "train/b", "test/a", "test/b")])
def test_what_has_no_folder_is_held_out(tmp_path, folders):
    root = make(tmp_path, *folders)
    parts = [ImageFolder(split, root, held_out=0.2) for split in ("train", "val", "test")]
    assert all(set(part.classes) == {"a", "b"} for part in parts)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not names(parts[one]) & names(parts[other])
    sizes = [len(part) for part in parts]
    assert sizes == ([32, 8, 40] if len(folders) == 4 else [24, 8, 8])
    assert [label for _, label in parts[1].samples] == [0] * 4 + [1] * 4, "each class gives its share"
    again = [ImageFolder(split, root, held_out=0.2) for split in ("train", "val", "test")]
    assert [part.samples for part in again] == [part.samples for part in parts]


def test_only_pictures_count(tmp_path):
    root = make(tmp_path, "train/a", "val/a")
    (tmp_path / "train/a/notes.txt").write_text("")
    (tmp_path / "train/a/.hidden.png").write_text("")
    (tmp_path / "train/.cache").mkdir()
    (tmp_path / "train/a/more").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / "train/a/more/deep.JPEG", "JPEG")
    assert len(ImageFolder("train", root)) == 21


@pytest.mark.parametrize(
    ("folders", "split", "options", "message"),
    [
        ((), "train", {}, r"has no folders of pictures, one a class"),
        (("train/a", "val/b"), "val", {}, r"val has a class 'b', which .*train has not"),
        (("train/a",), "dev", {}, r"split='dev' must be one of 'train', 'val', 'test'"),
        (("train/a",), "val", {"held_out": 0.7}, r"held_out=0.7 must be a share between 0 and 0.5"),
        (("a", "train"), "train", {}, r"one a class \(none of them train, val or test\)"),
    ],
)
def test_what_is_no_folder_of_pictures_is_named(tmp_path, folders, split, options, message):
    root = make(tmp_path, *folders)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ImageFolder(split, root, **options)


def test_a_test_folder_without_classes_is_told(tmp_path):
    root = make(tmp_path, "train/a", "train/b", "test")
    with pytest.raises(FileNotFoundError, match=r"test has pictures, but in no folders of a class each: glore predict"):
        ImageFolder("test", root)


def test_a_root_that_is_absent_is_named():
    with pytest.raises(FileNotFoundError, match=r"root='nowhere' is no folder: give --data.root DIR"):
        ImageFolder("train", "nowhere")


def test_a_split_beside_the_classes_is_no_class(tmp_path):
    root = make(tmp_path, "a", "b", "test/a", "test/b")
    assert ImageFolder("train", root).classes == ["a", "b"]
    assert not names(ImageFolder("train", root)) & names(ImageFolder("test", root))


def test_of_a_small_class_a_picture_is_held_out(tmp_path):
    root = make(tmp_path, "a", count=40)
    make(tmp_path, "b", count=3)
    for split in ("train", "val", "test"):
        assert [label for _, label in ImageFolder(split, root).samples].count(1) == 1
    make(tmp_path, "c", count=4)
    with pytest.raises(
        FileNotFoundError, match=r"c has 4 pictures: too few to train and to hold out 2 each for val and"
    ):
        ImageFolder("train", root, held_out=0.4)
    make(tmp_path, "d", count=2)
    with pytest.raises(
        FileNotFoundError, match=r"d has 2 pictures: too few to train and to hold out 1 each for val and"
    ):
        ImageFolder("train", root)


def test_a_class_without_pictures_is_named(tmp_path):
    root = make(tmp_path, "train/a", "val/a", "test/a")
    (tmp_path / "train/b").mkdir()
    with pytest.raises(FileNotFoundError, match=r"b has no pictures"):
        ImageFolder("train", root)


def test_links_are_followed_and_hidden_folders_are_not_seen(tmp_path):
    make(tmp_path, "elsewhere", count=5)
    root = make(tmp_path / "data", "a", count=5)
    (tmp_path / "data/a/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a/.ipynb_checkpoints").mkdir()
    (tmp_path / "data/a/.ipynb_checkpoints/copy.png").write_text("")
    (tmp_path / "data/a/folder.png").mkdir()
    assert sum(len(ImageFolder(split, root)) for split in ("train", "val", "test")) == 10


def test_links_that_lead_back_are_walked_once(tmp_path):
    root = make(tmp_path / "data", "a", "b", count=5)
    for place, target in (("a/up", "a"), ("a/other", "b"), ("b/other", "a"), ("b/itself", "b/itself")):
        (tmp_path / "data" / place).symlink_to(tmp_path / "data" / target)
    assert len(files_in(tmp_path / "data", {".png"})) == 10
    assert ImageFolder("train", root).classes == ["a", "b"]


def test_a_folder_beside_a_link_to_it_keeps_its_name(tmp_path):
    make(tmp_path, "may", count=1)
    (tmp_path / "latest").symlink_to("may")
    (tmp_path / "zz").symlink_to("latest")
    assert [path.parent.name for path in files_in(tmp_path, {".png"})] == ["may"]


def test_a_list_that_is_no_text_is_named(tmp_path):
    (tmp_path / "list.txt").write_bytes("ü.png".encode("latin-1"))
    with pytest.raises(ValueError, match=r"list\.txt is no UTF-8 text"):
        listed([tmp_path / "list.txt"], SUFFIXES, "pictures")


def test_lists(tmp_path):
    root = make(tmp_path, "x", count=4)
    lists = {"train": "train.txt", "val": "val.txt"}
    (tmp_path / "train.txt").write_text("x/x-0.png 2\nx/x-1.png 0\n\n")
    (tmp_path / "val.txt").write_text("x/x-2.png\t1\n")
    train = ImageList("train", root, lists, preset=SMALL)
    assert train.classes == ["0", "1", "2"]
    assert [label for _, label in train.samples] == [2, 0]
    assert train[0][0].shape == (3, 8, 8)
    assert ImageList("test", root, lists).samples == ImageList("val", root, lists).samples
    (tmp_path / "train.txt").write_text("x/x-0.png dog\nx/x-1.png cat\n")
    (tmp_path / "val.txt").write_text("x/x-2.png bird\n")
    assert ImageList("train", root, lists).classes == ["cat", "dog"]
    with pytest.raises(ValueError, match=r"val\.txt, line 1: 'bird' is no class of cat, dog"):
        ImageList("val", root, lists)
    (tmp_path / "val.txt").write_text("x/x-2.png\n")
    with pytest.raises(ValueError, match=r"val\.txt, line 1: 'x/x-2\.png' is not a path and a class"):
        ImageList("val", root, lists)
    (tmp_path / "val.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"val\.txt is empty"):
        ImageList("val", root, lists)
    (tmp_path / "train.txt").write_text("x/x-0.png 001\nx/x-1.png 000\n", encoding="utf-8-sig")
    train = ImageList("train", root, lists)
    assert [label for _, label in train.samples] == [1, 0]
    assert train.samples[0][0].is_file()
    (tmp_path / "train.txt").write_text("  x/x-0.png\thot dog\nx/x-1.png\tcorn dog \n")
    train = ImageList("train", root, lists)
    assert train.classes == ["corn dog", "hot dog"]
    assert train.samples == [(tmp_path / "x/x-0.png", 1), (tmp_path / "x/x-1.png", 0)]
    (tmp_path / "train.txt").write_text("x/x-0.png 1\nx/x-1.png 3\n")
    assert [k for _, k in ImageList("train", root, lists, classes=["1", "2", "3"]).samples] == [0, 2]
    assert [k for _, k in ImageList("train", root, lists, classes=["a", "b", "c", "d"]).samples] == [1, 3]
    with pytest.raises(ValueError, match=r"train\.txt has the classes 1 to 3: number them from 0, or give classes"):
        ImageList("train", root, lists)
    (tmp_path / "train.txt").write_text("x/x-0.png 0\n")
    with pytest.raises(ValueError, match="'0' is no class of 1, 2, 3"):
        ImageList("train", root, lists, classes=["1", "2", "3"])
    (tmp_path / "train.txt").write_text("y/x-0.png 0\n")
    with pytest.raises(FileNotFoundError, match=r"train\.txt, line 1: there is no .*y/x-0\.png; a line is a path from"):
        ImageList("train", root, lists)
    with pytest.raises(FileNotFoundError, match=r"lists: .*none\.txt is missing"):
        ImageList("train", root, {"train": "none.txt"})
    with pytest.raises(ValueError, match="must name a file for train and for val"):
        ImageList("val", root, {"train": "train.txt"})


def test_cifar(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        data = np.full((4, 3072), 9, np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [0, 1, 2, 3]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{k}" for k in range(10)]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
        parts = {split: Cifar(split, str(tmp_path)) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 18, "val": 2, "test": 4}
    assert parts["val"][0][0].shape == (3, 32, 32)
    assert parts["val"][1][1] == 3
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Cifar("train", "nowhere")
    with pytest.raises(ValueError, match="kinds=7 must be 10 or 100"):
        Cifar("train", str(tmp_path), kinds=7)


def test_paths_to_predict(tmp_path):
    make(tmp_path, "x", count=2)
    (tmp_path / "list.txt").write_text("x/x-1.png\n\n")
    one = tmp_path / "x/x-0.png"
    assert listed([one, tmp_path / "x", tmp_path / "list.txt"], SUFFIXES, "pictures") == [
        one,
        tmp_path / "x/x-0.png",
        tmp_path / "x/x-1.png",
        tmp_path / "x/x-1.png",
    ]
    (tmp_path / "classes.txt").write_text("x/x-0.png 3\nx/x-1.png\tred deer\nx/no.png 4\n")
    found = listed([tmp_path / "classes.txt"], SUFFIXES, "pictures")
    assert found == [tmp_path / "x/x-0.png", tmp_path / "x/x-1.png", tmp_path / "x/no.png 4"], "lists to train on"
    (tmp_path / "long.txt").write_text(f"{'a' * 300}.png 1\n")
    assert len(listed([tmp_path / "long.txt"], SUFFIXES, "pictures")) == 1
    with pytest.raises(FileNotFoundError, match=r"absent\.png: no such file or folder"):
        listed([tmp_path / "absent.png"], SUFFIXES, "pictures")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty has no pictures"):
        listed([tmp_path / "empty"], SUFFIXES, "pictures")
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(FileNotFoundError, match=r"none\.txt is empty: a line is the path of one of the pictures"):
        listed([tmp_path / "none.txt"], SUFFIXES, "pictures")


@pytest.mark.parametrize("kind", [transforms.Standard, transforms.Modern, transforms.Small])
@pytest.mark.parametrize("size", [(50, 20), (20, 50), (16, 16), (7, 9)])
def test_presets(kind, size):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
    for training in (True, False):
        made = kind(16)(training)(picture)
        assert made.shape == (3, 16, 16)
        assert made.isfinite().all()
    several = (2,) if kind is transforms.Small else (2, 10)
    for views in several:
        assert kind(16, views=views)(False)(picture).shape == (views, 3, 16, 16)
        assert kind(16, views=views)(True)(picture).shape == (3, 16, 16)
    one, mirrored = kind(16, views=2)(False)(picture)
    assert torch.equal(one, kind(16)(False)(picture))
    assert torch.equal(mirrored, one.flip(-1))
    assert kind(16).needs(training=False) == 32
    if 10 in several:
        ten = kind(16, views=10)(False)(picture)
        assert torch.equal(ten[4], one)
        assert torch.equal(ten[5:9], ten[[1, 0, 3, 2]].flip(-1)), "the corners of the mirror image"
        assert kind(16).needs(training=True) ** 2 * 0.08 >= 16**2, "or the smallest crop has too few pixels"
    assert len({kind(16)(True)(picture).sum().item() for _ in range(8)}) > 1, "training draws by chance"


def test_presets_normalise():
    picture = Image.new("RGB", (8, 8), (255, 0, 51))
    values = transforms.Standard(8, mean=(0.5, 0.5, 0.2), std=(0.5, 0.25, 1))(False)(picture)
    torch.testing.assert_close(values.mean((1, 2)), torch.tensor([1.0, -2.0, 0.0]))


@pytest.mark.parametrize("options", [{"size": 0}, {"mean": (1, 2)}, {"std": (0, 1, 1)}, {"views": 5}])
@pytest.mark.unchecked
def test_presets_out_of_range(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        transforms.Standard(**options)


@pytest.mark.parametrize("options", [{}, {"mixup": 0}, {"cutmix": 0}])
def test_a_mixed_picture_is_the_shares_of_its_target(options):
    mix = transforms.Mix(**{"mixup": 1.0, **options})
    pictures = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8)  # each of its number
    changed = 0
    for _ in range(8):
        inputs, targets = mix(pictures, torch.eye(4))
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
        torch.testing.assert_close(inputs.mean((1, 2, 3)), targets @ torch.arange(4.0))
        changed += not torch.equal(targets, torch.eye(4))
    assert changed > 4


@pytest.mark.parametrize("options", [{"mixup": -1.0}, {"mixup": 0, "cutmix": 0}])
def test_mix_needs_something_to_do(options):
    with pytest.raises(ValueError, match="must not be below 0, nor both 0"):
        transforms.Mix(**options)


def test_names_may_be_bytes_that_are_no_text(tmp_path):
    root = make(tmp_path, "a", "b")
    (tmp_path / "a/a-0.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xe9.png"))
    sizes = [len(ImageFolder(split, root, SMALL)) for split in ("train", "val", "test")]
    assert sizes == [32, 4, 4]


def test_a_thin_picture_is_no_picture(tmp_path):
    Image.new("RGB", (5, 501)).save(tmp_path / "thin.png")
    with pytest.raises(BrokenSampleError, match=r"thin\.png is too thin, 5×501 pixels"):
        Pictures([(tmp_path / "thin.png", 0)], ["a"])[0]


def test_a_class_that_cannot_be_shown_is_named(tmp_path):
    make(tmp_path, "a", "b\u2028c")
    with pytest.raises(ValueError, match=r"has a class 'b\\u2028c', whose name cannot be shown: rename it"):
        ImageFolder("train", str(tmp_path))


@pytest.mark.parametrize(("train", "val"), [("train", "valid"), ("training", "validation")])
def test_other_names_of_splits(tmp_path, train, val):
    make(tmp_path / train, "a", "b")
    make(tmp_path / val, "a", "b", count=3)
    assert [len(ImageFolder(split, str(tmp_path), SMALL)) for split in ("train", "val", "test")] == [40, 6, 6]


def test_names_of_splits_in_capitals(tmp_path):
    root = make(tmp_path, "Training/a", "Training/b", "Testing/a", "Testing/b")
    assert names(ImageFolder("test", root)) == {f"Testing-{k}-{i}.png" for k in "ab" for i in range(20)}
    assert ImageFolder("train", root).classes == ["a", "b"]
    vehicles = make(tmp_path / "vehicles", "Bus", "Train")
    assert ImageFolder("train", vehicles).classes == ["Bus", "Train"], "a folder of pictures is a class"
    make(tmp_path / "sorted", "Bus/city", "Train/cargo", "Train/freight")
    assert ImageFolder("train", str(tmp_path / "sorted")).classes == ["Bus", "Train"], "nor is one alone a split"


def test_a_split_to_test_on_needs_no_training_pictures(tmp_path):
    root = make(tmp_path, "val/a", "val/b")
    for split in ("val", "test"):
        dataset = ImageFolder(split, root)
        assert (dataset.classes, len(dataset)) == (["a", "b"], 40)
    with pytest.raises(FileNotFoundError, match="has no folders of pictures, one a class"):
        ImageFolder("train", root)


def test_a_folder_too_high_is_told(tmp_path):
    make(tmp_path / "net/train", "a", "b")
    with pytest.raises(ValueError, match=r"has no split of its own, and .*net has: give that"):
        ImageFolder("train", str(tmp_path), SMALL)


def test_classes_may_be_called_as_splits_are(tmp_path):
    root = make(tmp_path, "valid", "invalid", "training", "car/train")
    assert ImageFolder("train", root, SMALL).classes == ["car", "invalid", "training", "valid"]


def test_labels_that_are_ids_make_no_classes(tmp_path):
    make(tmp_path, "a")
    (tmp_path / "train.txt").write_text("a/a-0.png 1440764\na/a-1.png 1443537\n")
    with pytest.raises(ValueError, match=r"has a class 1443537, and 2 lines: .* or give classes"):
        ImageList("train", str(tmp_path), {"train": "train.txt", "val": "train.txt"})


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_metadata_that_nobody_understands_spoil_no_picture(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    Image.new("RGB", (40, 20), "red").save(path, dpi=(72, 72), exif=b"Exif\0\0garbage!")
    assert read_picture(path).size == (40, 20)


def test_a_palette_with_alpha_lies_on_white(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 255, 255, 0, 0, 0], "RGBA")
    assert pictures._rgb(image).getpixel((0, 0)) == (255, 255, 255)


def test_a_list_is_known_by_its_ending_in_any_case(tmp_path):
    make(tmp_path, "a", count=1)
    (tmp_path / "LIST.TXT").write_text("a/a-0.png\n")
    assert listed([tmp_path / "LIST.TXT"], SUFFIXES, "pictures") == [tmp_path / "a/a-0.png"]
