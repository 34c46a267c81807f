"""From a folder of pictures and masks to masks: the everyday use of segmentation, with what goes wrong in it."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("timm")
from PIL import Image
from pytorch_lightning import Callback
from safetensors.torch import load_file

from glore.cli import main
from glore.data.cityscapes import LABELS
from glore.data.labels import IGNORED
from glore.nets.inference import probabilities
from glore.show import report
from glore.train import compare
from glore.train import run as runs
from glore.train.cityscapes import CityscapesSegment
from glore.train.grid import Grid
from glore.train.predict import Write, palette
from glore.train.recipe import Recipe
from glore.train.segment import Segment
from glore.train.tree import put, read, varied
from glore.units import GloRe
from stepped import step

COLOURS = np.array([(30, 60, 220), (40, 200, 60), (220, 40, 30)])


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def scene(draw, high=40, wide=56):
    """A picture of three colours, and which is where."""
    labels = np.kron(draw.integers(0, 3, (2, 2)), np.ones((high // 2, wide // 2), int))
    return (COLOURS[labels] + draw.integers(-20, 20, (*labels.shape, 3))).clip(0, 255), labels


@pytest.fixture
def root(tmp_path):
    draw = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4)):
        for i in range(count):
            picture, labels = scene(draw)
            labels[:3] = IGNORED
            write(tmp_path / "scenes/images" / split / f"{i}.png", picture)
            write(tmp_path / "scenes/masks" / split / f"{i}.png", labels)
    (tmp_path / "scenes/classes.txt").write_text("".join(f"{n} {r} {g} {b}\n" for n, (r, g, b) in zip("bgr", COLOURS)))  # noqa: B905
    return tmp_path / "scenes"


def flags(root, *more):
    return [
        *("--config", "segment", "--data.root", str(root), "--model.backbone", "resnetv2_18"),
        *("--model.net.options", "{channels: [16, 16, 16, 16], stem_chs: 16}", "--model.net.pretrained", "false"),
        *("--model.net.head.width", "8", "--model.net.head.unit.nodes", "4", "--model.net.head.unit.states", "8"),
        *("--model.net.output_stride", "8", "--model.old_rate", "1", "--model.optimizer.lr", "0.01"),
        *("--data.dataset.preset.crop", "[32, 40]", "--data.dataset.preset.scale", "[0.8, 1.2]", "--epochs", "2"),
        *("--data.batch_size", "4", "--data.workers", "0", "--trainer.accelerator", "cpu", *more),
    ]


def test_from_a_folder_to_masks(root, tmp_path, capsys):
    out = tmp_path / "run"
    seldom = ("--trainer.check_val_every_n_epoch", "28")
    assert main(["fit", *flags(root, "--epochs", "28", *seldom), "--out", str(out)]) == 0
    assert (out / "classes.txt").read_text().split() == list("bgr")
    capsys.readouterr()
    assert main(["test", "--out", str(out), "--weights", "best"]) == 0
    said = capsys.readouterr().out
    assert "of the samples of val, which chose these weights: there are none for testing alone" in said
    scores = dict(line.split() for line in said.splitlines() if line.startswith(("iou", "miou")))
    assert float(scores["miou"]) > 0.7, "a colour is easily told"
    more = ("--model.flip", "true", "--model.scales", "[0.75, 1]", "--model.window", "[32, 32]")
    assert main(["test", "--out", str(out), *more]) == 0

    draw = np.random.default_rng(7)
    other, labels = scene(draw, 24, 64)
    write(tmp_path / "new/a/same.png", other)
    write(tmp_path / "new/b/same.png", scene(draw)[0])
    (tmp_path / "new/c.png").write_text("no picture")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "new"), "--out", str(out)]) == 1
    assert "c.png cannot be read as a picture" in capsys.readouterr().out
    with (out / "predictions/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["mask"] for row in rows] == ["same_000000.png", "same_000001.png", ""]
    with Image.open(out / "predictions/same_000000.png") as mask:
        assert (mask.mode, mask.size) == ("P", (64, 24))
        assert (np.asarray(mask) == labels).mean() > 0.7
    with Image.open(out / "predictions/overlays/same_000001.png") as over:
        assert (over.mode, over.size) == ("RGB", (56, 40))
    assert not (out / "predictions/submission").exists()


def test_colours_are_kept_with_the_run_and_pictures_as_they_are(root, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["fit", *flags(root, "--epochs", "1"), "--out", str(out)]) == 0
    picture = tmp_path / "new.png"
    write(picture, scene(np.random.default_rng(7))[0])
    (root / "classes.txt").unlink()
    recipe = (out / "recipe.yaml").read_text()
    elsewhere = recipe.replace("devices: auto\n", "devices: [77]\n").replace("accelerator: cpu", "accelerator: gpu")
    (out / "recipe.yaml").write_text(elsewhere)
    assert main(["test", "--out", str(out)]) == 2
    assert "(what this machine has: --trainer.accelerator auto --trainer.devices 1)" in capsys.readouterr().err
    assert main(["predict", str(picture), "--out", str(out)]) == 0, "on one device of this machine"
    assert main(["predict", str(picture), "--out", str(out), "--trainer.devices", "[3]"]) == 2, "the named device"
    assert "glore: trainer: `devices` selected with `CPUAccelerator`" in capsys.readouterr().err
    assert recipe != (out / "recipe.yaml").read_text()
    with Image.open(out / "predictions/new.png") as mask:
        assert mask.getpalette()[:9] == COLOURS.flatten().tolist()
    net = tmp_path / "net"
    assert main(["publish", "--out", str(out), "--to", str(net)]) == 0
    published = ["--config", str(net / "recipe.yaml"), "--weights", str(net / "model.safetensors")]
    assert main(["predict", str(picture), *published, "--to", str(tmp_path / "shared")]) == 0
    with Image.open(tmp_path / "shared/new.png") as mask:
        assert mask.getpalette()[:9] == COLOURS.flatten().tolist()
    before = picture.read_bytes()
    assert main(["predict", str(picture), "--out", str(out), "--to", str(tmp_path)]) == 2
    assert "which would have masks, too: give another --to" in capsys.readouterr().err
    assert picture.read_bytes() == before


def test_a_scan_reads_again_what_changed_beside_a_picture(root, tmp_path, capsys):
    arguments = ["scan", *flags(root), "--out", str(tmp_path / "scan")]
    assert main(arguments) == 0
    mask = root / "masks/train/3.png"
    before = mask.stat().st_size
    with Image.open(mask) as image:
        values = np.asarray(image)
    for wrong in (np.zeros((40, 56, 3)), np.where(values == 0, 7, values)):  # of another size in bytes, and of the same
        write(mask, wrong)
        capsys.readouterr()
        assert main(arguments) == 1
        assert "20 files, of which 1 cannot be used" in capsys.readouterr().out
        write(mask, values)
        assert main(arguments) == 0
    assert mask.stat().st_size == before
    (root / "classes.txt").write_text("b\ng\n")
    capsys.readouterr()
    assert main(arguments) == 1
    assert "0.png has a pixel of value 2, which is no class" in capsys.readouterr().out


def test_a_scan_names_all_that_is_missing_or_broken(root, tmp_path, capsys):
    (root / "masks/train/3.png").unlink()
    (root / "masks/val/1.png").unlink()
    (root / "images/val/2.png").write_bytes(b"")
    assert main(["scan", *flags(root), "--out", str(tmp_path / "scan")]) == 1
    said = capsys.readouterr()
    assert "20 files, of which 3 cannot be used" in said.out
    assert "\r" not in said.err, "which is a log, and no terminal"
    with (tmp_path / "scan/scan.csv").open() as file:
        faults = {row["name"]: row["fault"] for row in csv.DictReader(file) if row["fault"]}
    assert faults[str(root / "images/train/3.png")].endswith(f"images/train/3.png has no mask {root}/masks/train/3.png")
    assert main(["fit", *flags(root), "--out", str(tmp_path / "run")]) == 2
    assert "images/val/1.png has no mask" in capsys.readouterr().err


def test_predictions_do_not_replace_masks_nor_need_them(root, tmp_path, capsys):
    out, mask = tmp_path / "run", root / "masks/val/0.png"
    assert main(["fit", *flags(root, "--epochs", "1"), "--out", str(out)]) == 0
    write(mask, np.zeros((40, 56, 3)))
    before = mask.read_bytes()
    (root / "masks/val/1.png").unlink()
    new = tmp_path / "a.png"
    write(new, scene(np.random.default_rng(7))[0])
    for pictures in ([], [str(root / "images/val")], *2 * [[str(new), str(root / "images/val")]]):
        capsys.readouterr()
        assert main(["predict", *pictures, "--out", str(out), "--to", str(root / "masks/val")]) == 2
        assert ".png is there already, and a prediction would replace it" in capsys.readouterr().err
    assert mask.read_bytes() == before
    assert main(["maps", "--out", str(out), "--samples", "1"]) == 0
    write(tmp_path / "over/overlays/b.png", scene(np.random.default_rng(7))[0])  # a picture where an overlay would be
    for to in (tmp_path / "over", tmp_path / "over/overlays"):
        assert main(["predict", str(tmp_path / "over/overlays"), "--out", str(out), "--to", str(to)]) == 2
        assert f"pictures are read from {tmp_path}/over/overlays, which would have masks" in capsys.readouterr().err
    assert main(["predict", "--out", str(out), "--to", str(new)]) == 2
    assert "a.png is a file: give a folder" in capsys.readouterr().err
    for _ in range(2):
        assert main(["predict", "--out", str(out), "--to", str(tmp_path / "new")]) == 0
    assert "4 predictions in " in (said := capsys.readouterr().out)
    assert ", in place of earlier ones" in said
    assert main(["predict", str(new), "--out", str(out), "--to", str(tmp_path / "new")]) == 0
    assert f"1 predictions in {tmp_path}/new, beside 4 earlier ones of other pictures" in capsys.readouterr().out
    assert main(["test", "--out", str(out)]) == 2
    assert "images/val/1.png has no mask" in capsys.readouterr().err


def test_a_test_split_that_cannot_be_read_is_told_before_a_training(root, tmp_path):
    write(root / "images/test/0.png", scene(np.random.default_rng(0))[0])
    grid = Grid.of(read(flags(root)), tmp_path / "grid")
    with pytest.raises(FileNotFoundError, match=r"images/test/0\.png has no mask"):
        list(compare.run(grid))
    assert not list(tmp_path.glob("grid/*/*/curves.csv"))


def test_masks_that_cannot_be_used_are_told_before_a_training(root, tmp_path, capsys):
    for name in ("images", "masks"):
        shutil.copytree(root / name / "val", root / name / "test")
    write(root / "masks/test/0.png", np.zeros((40, 56, 3)))
    with pytest.raises(ValueError, match=r"masks/test/0\.png is a picture of mode RGB"):
        list(compare.run(Grid.of(read(flags(root)), tmp_path / "grid")))
    assert not list(tmp_path.glob("grid/*/*/curves.csv"))
    write(root / "masks/val/0.png", np.full((40, 56), 7))
    assert main(["fit", *flags(root, "--trainer.check_val_every_n_epoch", "2"), "--out", str(tmp_path / "run")]) == 2
    assert "masks/val/0.png has a pixel of value 7" in capsys.readouterr().err
    assert not (tmp_path / "run/curves.csv").exists()


@pytest.mark.parametrize("wrong", [-1, 3, 256, 300, 2**16 - 1])
def test_labels_that_are_no_classes_are_named(wrong):
    task, target = Segment(torch.nn.Identity()), torch.zeros(1, 2, 2, dtype=torch.long)
    target[0, 0, 0] = wrong
    with pytest.raises(ValueError, match=f"a label is {wrong}, but must be in 0 … 2, or 255"):
        task.loss(torch.zeros(1, 3, 2, 2), target)
    with pytest.raises(ValueError, match=f"a label is {wrong}, but"):
        task.counts(torch.zeros(1, 3, 2, 2), target)


def test_a_label_that_counts_for_nothing_limits_how_many_classes_there_are():
    task = Segment(torch.nn.Identity())
    task.check_classes([str(k) for k in range(255)])
    with pytest.raises(ValueError, match="the data have 256 classes, but 255 are the most"):
        task.check_classes([str(k) for k in range(256)])


@pytest.mark.unchecked
def test_a_picture_is_evaluated_as_the_task_says():
    net, x = torch.nn.Conv2d(3, 4, 3, padding=1), torch.randn(2, 3, 24, 40)
    views = {"window": (16, 16), "overlap": 0.75, "scales": (0.5, 1.0), "flip": True}
    task = Segment(net, **views).eval()
    assert torch.equal(task.infer(x), probabilities(net, x, **views))
    assert task.seen(x).shape == (2, 3, 12, 20)
    plain = Segment(net).eval()
    assert torch.equal(plain.infer(x), net(x).softmax(1))
    assert (plain.views["overlap"], plain.ohem_min_kept) == (1 / 3, 0.1)
    for name in ("window", "scales", "flip"):
        assert not torch.allclose(Segment(net, **{name: views[name]}).eval().infer(x), plain.infer(x))


@pytest.mark.unchecked
def test_samples_without_masks_are_told(root, tmp_path):
    this = runs.prepare(Recipe(read(flags(root))), tmp_path / "run")
    this.data.splits["val"] = this.data.split("val").unlabelled()
    with pytest.raises(ValueError, match="the first sample of val has no target"):
        this.fit()
    with pytest.raises(ValueError, match="samples without masks cannot be learnt from or scored: glore predict"):
        this.task.counts(torch.zeros(2, 3, 4, 4), torch.tensor([-1, -1]))


def test_a_class_file_is_not_replaced(root, capsys):
    before = (root / "classes.txt").read_bytes()
    assert main(["fit", *flags(root), "--out", str(root)]) == 2
    assert "has a classes.txt that is no run's, which a training would replace" in capsys.readouterr().err
    assert (root / "classes.txt").read_bytes() == before
    assert not (root / "recipe.yaml").exists()


class Steps(Callback):
    """Keeps the steps that are made, and fails at one, as a crash would."""

    def __init__(self, stop=None):
        self.seen, self.stop = [], stop

    def on_train_batch_start(self, trainer, task, batch, index):
        if trainer.global_step == self.stop:
            raise ZeroDivisionError
        self.seen.append(trainer.global_step)


def test_an_interrupted_training_ends_as_an_uninterrupted_one(root, tmp_path):
    made = Recipe(read(flags(root, "--epochs", "2")))
    runs.prepare(made, tmp_path / "whole").fit()
    stopped = runs.prepare(made, tmp_path / "parts")
    stopped.trainer.callbacks.append(Steps(stop=5))
    with pytest.raises(ZeroDivisionError):
        stopped.fit()
    resumed = runs.prepare(made, tmp_path / "parts", empty=True)
    resumed.trainer.callbacks.append(steps := Steps())
    resumed.fit()
    assert steps.seen == [4, 5, 6, 7], "an epoch of four was kept"
    whole, parts = (load_file(tmp_path / out / "last.safetensors") for out in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_classes_that_disagree_with_the_checkpoint_are_named(root, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["fit", *flags(root, "--epochs", "1"), "--out", str(out)]) == 0
    (root / "classes.txt").write_text("b\ng\nred\n")
    assert main(["test", "--out", str(out)]) == 2
    assert "the first that differs is 'r' there and 'red' here" in capsys.readouterr().err
    (root / "classes.txt").write_text("b\ng\nr\nmore\n")
    assert main(["test", "--out", str(out)]) == 2
    assert "trained on other classes than these data have: 3 and 4" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_mask_that_says_nothing_sensible_stops_the_training(root, tmp_path, capsys, workers):
    write(root / "masks/train/3.png", np.zeros((40, 56, 3)))
    assert main(["fit", *flags(root, "--data.workers", workers), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"glore: \S*masks/train/3.png is a picture of mode RGB", said)


def test_a_test_split_is_told_by_its_files_and_not_their_names(root):
    assert Recipe(read(flags(root))).make_data().tested_on == "val"
    for name in ("images", "masks"):
        shutil.copytree(root / name / "val", root / name / "test")
    assert Recipe(read(flags(root))).make_data().tested_on == "test"
    assert Recipe(read(["--config", "digits"])).make_data().tested_on == "test"


@pytest.mark.parametrize("ignored", ["[0, 1, 2]", "[0, 2]"])
def test_a_class_alone_that_counts_stops_the_training(root, tmp_path, capsys, ignored):
    assert main(["fit", *flags(root, "--data.dataset.ignored", ignored), "--out", str(tmp_path / "run")]) == 2
    assert "fewer than two classes count, so nothing can be learnt" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["glore.data.segments.SegmentFolder", "made.Arrays"])
def test_masks_of_one_class_alone_stop_the_training(root, tmp_path, capsys, dataset):
    """Of two classes as 0 and 255, the second would be ignored, and the training end with a perfect score."""
    for mask in root.glob("masks/*/*.png"):
        write(mask, np.where(np.array(Image.open(mask)) == 1, 0, 255))
    (root / "classes.txt").write_text("background\nobject\n")
    assert main(["fit", *flags(root, "--data.dataset.class_path", dataset), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "the masks have pixels of 'background' alone, so nothing can be learnt: 255 counts for" in said
    assert not (tmp_path / "run/curves.csv").exists()


def test_a_data_set_of_ones_own_takes_files_by_its_preset(root, tmp_path, capsys):
    own = ("--data.dataset.class_path", "made.Masked")
    assert main(["fit", *flags(root, *own, "--epochs", "1"), "--out", str(tmp_path / "run")]) == 0
    write(tmp_path / "new.png", scene(np.random.default_rng(7), 24, 64)[0])
    assert main(["predict", str(tmp_path / "new.png"), "--out", str(tmp_path / "run")]) == 0
    with Image.open(tmp_path / "run/predictions/new.png") as mask:
        assert mask.size == (64, 24)


def test_validation_pictures_may_be_of_one_class_or_none(root, tmp_path):
    """As those without a defect are; what is learnt is in the others, and may be small."""
    for value, mask in zip((0, 0, 0, 255), sorted(root.glob("masks/val/*.png")), strict=True):
        write(mask, np.full((40, 56), value))
    for mask in root.glob("masks/train/*.png"):
        write(mask, np.eye(40, 56, 55) * (mask.name == "7.png"))
    assert main(["fit", *flags(root, "--epochs", "1"), "--out", str(tmp_path / "run")]) == 0


def test_a_unit_for_a_backbone_without_places_is_refused(root, tmp_path, capsys):
    assert main(["fit", *flags(root, "--model.net.unit", "null"), "--out", str(tmp_path / "run")]) == 2
    assert "that in the head is model.net.head.unit" in capsys.readouterr().err
    variants = ("--compare.variants", "{plain: {model.net.unit: null}, glore: {model.net.unit: glore.GloRe2d}}")
    assert main(["compare", *flags(root, *variants), "--out", str(tmp_path / "compared")]) == 2
    assert "that in the head is model.net.head.unit" in capsys.readouterr().err
    for given in (("--model.net.unit", "glore.GloRe2d"), variants):
        tree = read(flags(root, *given, "--model.net.units", "{res4: 1}"))
    assert len(Grid.of(tree, tmp_path).cells) == 4


@pytest.mark.unchecked
def test_masks_of_a_dataset_of_ones_own_do_not_replace_files(tmp_path):
    class Own(list):
        classes = ("a", "b")

    write(tmp_path / "000001.png", np.zeros((4, 4)))
    logits = torch.zeros(2, 2, 4, 4)
    with pytest.raises(ValueError, match=r"000001\.png is there already"):
        Write(tmp_path, Own([0, 0]), replace=False).write_on_batch_end(
            None, None, (torch.arange(2), logits), None, None, 0, 0
        )
    with pytest.raises(ValueError, match="a mask holds at most 256 classes, and the network has 257: join some"):
        Write(tmp_path, Own([0])).write_on_batch_end(
            None, None, (torch.arange(1), torch.zeros(1, 257, 4, 4)), None, None, 0, 0
        )
    assert [path.name for path in tmp_path.iterdir()] == ["000001.png"]


def test_a_mask_that_cannot_be_read_is_replaced_and_named(root, tmp_path):
    (root / "masks/train/3.png").write_bytes(b"\x89PNG")
    this = runs.prepare(Recipe(read(flags(root, "--epochs", "2"))), tmp_path / "run")
    this.fit()
    with (tmp_path / "run/broken.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["name"] == str(root / "images/train/3.png")
    assert row["error"].startswith(f"{root}/masks/train/3.png cannot be read as a mask")


def test_pictures_are_normalised_as_the_backbones_weights_want_it(root):
    for name, mean in (("resnetv2_18", 0.5), ("resnet18", 0.485)):
        made = Recipe(read(flags(root, "--model.backbone", name, "--model.net.options", "null")))
        preset = made.resolved["data"]["dataset"]["init_args"]["preset"]
        assert preset["init_args"]["mean"][0] == mean


def test_what_could_not_be_read_stays_named_when_a_training_goes_on(root, tmp_path):
    (root / "masks/val/3.png").write_bytes(b"")
    made = Recipe(read(flags(root, "--epochs", "3", "--trainer.check_val_every_n_epoch", "2")))
    stopped = runs.prepare(made, tmp_path / "run")
    stopped.trainer.callbacks.append(Steps(stop=9))
    with pytest.raises(ZeroDivisionError):
        stopped.fit()
    (root / "masks/train/5.png").write_bytes(b"")
    assert runs.prepare(made, tmp_path / "run", empty=True).fit()
    with (tmp_path / "run/broken.csv").open() as file:
        rows = [(row["split"], row["name"]) for row in csv.DictReader(file)]
    assert rows == [("train", str(root / "images/train/5.png")), ("val", str(root / "images/val/3.png"))]


def test_masks_of_which_none_can_be_read_are_told_with_a_reason(root, tmp_path, capsys):
    for mask in (root / "masks/train").iterdir():
        mask.write_bytes(b"")
    assert main(["fit", *flags(root), "--out", str(tmp_path / "run")]) == 2
    assert re.search(r"none can be read, such as: .*masks/train/\d+\.png cannot be read", capsys.readouterr().err)


def test_an_ignored_class_is_left_out_of_scores_and_masks(root, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["fit", *flags(root, "--data.dataset.ignored", "[0]", "--epochs", "1"), "--out", str(out)]) == 0
    assert main(["test", "--out", str(out)]) == 0
    scores = dict(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("iou", "miou")))
    assert scores["iou_b"] == "nan"
    assert float(scores["miou"]) == pytest.approx((float(scores["iou_g"]) + float(scores["iou_r"])) / 2, abs=1e-4)
    assert main(["predict", str(root / "images/val"), "--out", str(out)]) == 0
    assert all(np.array(Image.open(mask)).min() > 0 for mask in (out / "predictions").glob("*.png"))


def test_pictures_of_several_sizes_go_one_by_one(root, tmp_path, capsys):
    picture, labels = scene(np.random.default_rng(1), 48, 48)
    write(root / "images/val/0.png", picture)
    write(root / "masks/val/0.png", labels)
    out = tmp_path / "run"
    assert main(["fit", *flags(root, "--epochs", "1"), "--out", str(out)]) == 0
    assert main(["test", "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["test", "--out", str(out), "--data.eval_batch_size", "4"]) == 2
    said = capsys.readouterr().err
    assert "differ in size (3×40×56, 3×48×48): give --data.eval_batch_size 1" in said
    (root / "images/train/0.png").write_bytes(b"")
    assert main(["predict", str(root / "images/train"), "--out", str(out), "--data.eval_batch_size", "4"]) == 1
    said = capsys.readouterr().out
    assert "15 predictions in" in said
    assert "; could not be read: 1\n" in said


def test_variants_keep_what_flags_give_their_units_and_heads(root):
    tree = read(flags(root))
    resolved = {name: Recipe(varied(tree, name)).resolved for name in ("glore", "plain+conv", "psp")}
    heads = {name: of["model"]["init_args"]["net"]["init_args"]["head"]["init_args"] for name, of in resolved.items()}
    assert heads["psp"]["width"] == 8
    for name in ("glore", "plain+conv"):
        assert (heads[name]["unit"]["init_args"]["nodes"], heads[name]["unit"]["init_args"]["states"]) == (4, 8)


def test_head_auxiliary_and_units_learn_ten_times_as_fast(root, tmp_path):
    given = flags(root, "--model.net.auxiliary", "true", "--model.net.units", "{res4: 1}")
    tree = read(["--config", "segment", *given[2:], "--model.net.pretrained", "true", "--model.old_rate", "0.1"])
    task, data, trainer = Recipe(tree).build(tmp_path, empty=True)
    task._trainer, trainer.datamodule, data.trainer = trainer, data, trainer
    optimizer = task.configure_optimizers()["optimizer"]
    rates = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    fast = {name for name, p in task.net.named_parameters() if rates[id(p)] == pytest.approx(0.01)}
    new = ("head.", "auxiliary.")
    assert fast == {name for name, _ in task.net.named_parameters() if name.startswith(new) or "_glore." in name}
    assert any("_glore." in name for name in fast)
    assert sorted({rates[id(p)] for p in task.net.parameters()}) == pytest.approx([0.001, 0.01])


def test_networks_of_torchvision_can_be_trained(root, tmp_path):
    tree = read(flags(root, "--epochs", "1", "--trainer.limit_val_batches", "1"))
    network = "torchvision.models.segmentation.lraspp_mobilenet_v3_large"
    tree["model"]["init_args"]["net"] = {"class_path": network, "init_args": {"num_classes": 3}}
    tree["model"]["init_args"]["net"]["init_args"]["weights_backbone"] = None
    this = runs.prepare(Recipe(tree), tmp_path / "run")
    assert this.fit()
    assert this.evaluate("test")["miou"] > 0


def test_networks_of_torchvision_say_out_and_aux():
    net = torch.nn.Module()
    net.forward = lambda x: {"out": x, "aux": 2 * x}
    task, x = Segment(net), torch.randn(1, 2, 4, 4)
    assert [torch.equal(told, k * x) for told, k in zip(task.train()(x), (1, 2), strict=True)] == [True, True]
    assert torch.equal(task.eval()(x), x)
    net.forward = lambda x: {"out": x}
    assert torch.equal(task.train()(x), x)


def test_a_comparison_ends_in_a_page(root, tmp_path):
    tree = read(flags(root, "--epochs", "1"))
    variants = tree["compare"]["variants"]
    tree["compare"]["variants"] = {name: variants[name] for name in ("plain", "psp", "glore")}
    put(tree, "compare.seeds", [0])
    put(tree, "model.scales", [0.5])
    grid = Grid.of(tree, tmp_path / "grid")
    assert list(compare.run(grid, grid.cells)) == []
    heads = {cell.variant: cell.recipe.make(empty=True)[0].net.head for cell, _ in grid.finished()}
    assert sum(isinstance(module, GloRe) for module in heads["glore"].modules()) == 1
    assert not any(isinstance(module, GloRe) for module in heads["plain"].modules())
    assert type(heads["psp"]).__name__ == "PSP"
    page = report.page(grid).read_text()
    assert "miou on the validation split" in page, "there is no other"
    for cell, _ in grid.finished():  # what it shows is trained
        kept, shown = load_file(cell.folder / "last.safetensors"), report._task(cell).net.state_dict()
        assert all(torch.equal(kept[name], tensor) for name, tensor in shown.items())
    assert "head.context.0" in page  # its maps
    assert "rgb(30,60,220)" in page  # the classes' own colours


def test_the_palette_is_the_data_sets_or_tells_all_classes_apart(root):
    data = Recipe(read(flags(root))).make()[1].split("val")
    assert palette(data) == COLOURS.astype(np.uint8).tobytes()
    data.palette, data.classes = None, [str(k) for k in range(200)]
    colours = np.frombuffer(palette(data), np.uint8).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) == 200


@pytest.mark.parametrize("arguments", [{"train": "units"}, {"old_rate": 0.1}])
def test_what_is_new_in_a_network_has_a_usual_name_or_is_told(arguments):
    net = torch.nn.Sequential()
    net.encoder, net.decoder, net.out = (torch.nn.Conv2d(1, 1, 1) for _ in range(3))
    with pytest.raises(ValueError, match=r"where the classifier of Sequential is, .* cannot be told"):
        Segment(net, **arguments)
    net.default_cfg = {"classifier": ("decoder", "out")}
    new = Segment(net, **arguments).new
    assert [name for name, module in net.named_children() if id(module.weight) in new] == ["decoder", "out"]


LOGITS = torch.tensor([[4.0, 0.0], [1.0, 0.0], [0.1, 0.0], [0.0, 2.0]]).T.view(1, 2, 2, 2)  # all of class 0
ALL = torch.zeros(1, 2, 2, dtype=torch.long)


def test_logits_of_another_size_than_the_masks_are_named():
    task, target = Segment(torch.nn.Identity()), torch.zeros(1, 5, 7, dtype=torch.long)
    for judge in (task.loss, task.counts):
        with pytest.raises(ValueError, match="the network answers for 8×8 positions, and the masks have 5×7"):
            judge(torch.zeros(1, 3, 8, 8), target)


def test_only_hard_positions_enter_the_loss():
    sure = LOGITS.softmax(1)[0, 0].flatten()  # 0.98, 0.73, 0.52, 0.12
    losses = -sure.log()
    for hardest, least, count in ((0.6, 0.25, 2), (0.05, 0.25, 1), (0.05, 0.75, 3), (0.99, 0.25, 4)):
        task = Segment(torch.nn.Identity(), ohem_threshold=hardest, ohem_min_kept=least)
        expected = losses.sort(descending=True).values[:count].mean()
        torch.testing.assert_close(task.loss(LOGITS, ALL), expected)


def test_hard_positions_are_among_those_that_count():
    task = Segment(torch.nn.Identity(), ohem_threshold=0.05, ohem_min_kept=0.5)
    target = torch.tensor([[[0, 0], [IGNORED, IGNORED]]])
    torch.testing.assert_close(task.loss(LOGITS, target), -LOGITS.softmax(1)[0, 0, 0, 1].log())
    assert task.loss(LOGITS, torch.full_like(target, IGNORED)) == 0


def test_classes_may_weigh_differently_and_ignored_positions_nothing():
    target = torch.tensor([[[0, 1], [IGNORED, 1]]])
    task = Segment(torch.nn.Identity(), class_weights=(0.2, 3.0))
    expected = torch.nn.functional.cross_entropy(LOGITS, target, torch.tensor([0.2, 3.0]), ignore_index=IGNORED)
    torch.testing.assert_close(task.loss(LOGITS, target), expected)
    assert task.loss(LOGITS, torch.full_like(target, IGNORED)) == 0
    both = Segment(torch.nn.Identity(), auxiliary_weight=0.4)
    torch.testing.assert_close(
        both.loss((LOGITS, 2 * LOGITS), ALL), both.loss(LOGITS, ALL) + 0.4 * both.loss(2 * LOGITS, ALL)
    )


@pytest.mark.parametrize("task", [Segment, CityscapesSegment])
def test_each_class_has_a_weight_in_the_loss(task):
    classes = [label.name for label in LABELS]
    task(torch.nn.Identity(), class_weights=range(19)).check_classes(classes)
    with pytest.raises(ValueError, match="class_weights has 3 numbers, but there are 19 classes: give each"):
        task(torch.nn.Identity(), class_weights=(1, 2, 3)).check_classes(classes)
    with pytest.raises(ValueError, match="class_weights has 3 numbers, but there are 2 classes"):
        task(torch.nn.Identity(), class_weights=(1, 2, 3)).loss(LOGITS, ALL)


@pytest.mark.parametrize(
    "arguments",
    [
        {"ohem_threshold": 1.0},
        {"ohem_min_kept": 0.0},
        {"auxiliary_weight": -1.0},
        {"class_weights": (-1.0,)},
        {"class_weights": (0.0, 0.0)},
        {"window": (0, 1)},
        {"scales": ()},
    ],
)
def test_what_is_out_of_range_is_named(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}="):
        Segment(torch.nn.Identity(), **arguments)


ROWS = Recipe(read(["--config", "cityscapes"])).comparison.variants
QUICK = ("resnet50 glore", "resnet50 psp")


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes")
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(2):
            ids = draw.choice([label.id for label in LABELS], (72, 100))
            stem = f"ulm/ulm_{i:06d}_000019"
            write(root / f"leftImg8bit/{split}/{stem}_leftImg8bit.png", draw.integers(0, 255, (72, 100, 3)))
            write(root / f"gtFine/{split}/{stem}_gtFine_labelIds.png", ids)
            instances = np.where(ids >= 24, 1000 * ids, ids)
            Image.fromarray(instances.astype(np.uint16)).save(root / f"gtFine/{split}/{stem}_gtFine_instanceIds.png")
    return root


def city(root, *more):
    return [
        *("--config", "cityscapes", "--data.root", str(root), "--data.dataset.preset.crop", "[64, 64]"),
        *("--data.workers", "0", "--data.batch_size", "2", "--trainer.accelerator", "cpu"),
        *("--model.net.pretrained", "false", "--model.old_rate", "1", *more),
    ]


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ROWS])
def test_a_row_of_cityscapes_is_built_and_stepped(cityscapes, name):
    task, data = Recipe(read(city(cityscapes), name)).make()
    units = [module for module in task.modules() if isinstance(module, GloRe)]
    assert [(unit.channels, unit.n_nodes, unit.n_states) for unit in units] == [(512, 64, 128)] * name.count("glore")
    optimizer = task.make_optimizer(task.parameters())
    assert isinstance(optimizer, torch.optim.SGD)
    assert {key: optimizer.defaults[key] for key in ("lr", "momentum")} == {"lr": 0.1, "momentum": 0.9}
    assert task.schedule(50, 100) == pytest.approx(0.5**0.9)
    assert (task.auxiliary_weight, task.net.output_stride) == (0.4, 8)
    assert task.net.auxiliary is not None
    assert read(["--config", "cityscapes"])["model"]["init_args"]["old_rate"] == 0.1
    step(task, data)


def test_the_scores_of_cityscapes_want_its_classes(root, tmp_path, capsys):
    other = ("--data.dataset", "glore.data.segments.SegmentFolder", "--model.net.classes", "3", *flags(root)[4:])
    assert main(["fit", *city(root, *other), "--out", str(tmp_path / "run")]) == 2
    assert "but the data have others (b): give --model glore.train.segment.Segment" in capsys.readouterr().err
    more = ("--model", "glore.train.segment.Segment", "--trainer.check_val_every_n_epoch", "1", "--epochs", "1")
    assert main(["fit", *city(root, *other, *more), "--out", str(tmp_path / "other")]) == 0


def test_cityscapes_from_its_folders_to_a_submission(cityscapes, tmp_path, capsys):
    small = ("--model.backbone", "resnetv2_18", "--model.net.options", "{channels: [8, 8, 8, 16], stem_chs: 8}")
    out = tmp_path / "run"
    one = ("--model.net.head.width", "8", "--epochs", "1", "--trainer.check_val_every_n_epoch", "1")
    assert main(["fit", *city(cityscapes, *small, *one), "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["test", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for score in ("iou_traffic light", "miou", "iiou", "iou_category", "iiou_category"):
        assert f"{score} " in said
    assert main(["predict", "--out", str(out), str(cityscapes / "leftImg8bit/val")]) == 0
    name = "ulm_000001_000019_leftImg8bit.png"
    with Image.open(out / "predictions" / name) as mask, Image.open(out / "predictions/submission" / name) as ids:
        assert np.array_equal(np.array([label.id for label in LABELS])[np.asarray(mask)], np.asarray(ids))
        assert mask.getpalette()[:3] == [128, 64, 128]
    assert json.loads((out / "last.json").read_text())["class_path"] == "glore.nets.segmenter.segmenter"
