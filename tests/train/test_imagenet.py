"""Every row of the ImageNet recipe: built as a user gets it, and stepped on made pictures."""

import numpy as np
import pytest
import torch

pytest.importorskip("timm")
import timm
from PIL import Image

import glore
from glore.data.images import ImageNet
from glore.train.recipe import Recipe
from glore.train.tree import read
from stepped import step

ROWS = Recipe(read(["--config", "imagenet"])).comparison.variants
UNITS = {"0+3": 3, "2+3": 5, "1 unit": 1, "1 unit, 2 layers": 1, "1 unit, 3 layers": 1, "": 0}
QUICK = ("resnet50 1 unit, 3 layers", "se_resnet50 0+3")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    for split in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            (root / split / name).mkdir(parents=True)
            noise = np.random.default_rng(0).integers(0, 255, (70, 80, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / split / name / f"{name}_1.JPEG")
    return root


def row(root, name):
    flags = [
        *("--config", "imagenet", "--data.root", str(root), "--data.dataset.preset.size", "64", "--data.workers", "0"),
        *("--data.batch_size", "2", "--model.net.classes", "2", "--trainer.accelerator", "cpu"),
    ]
    return Recipe(read(flags, name))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ROWS]
)
def test_a_row_is_built_and_stepped(pictures, name):
    recipe = row(pictures, name)
    task, data = recipe.make()
    network, _, about = name.partition(" ")
    units = glore.units_of(task.net)
    assert recipe.constructor["class_path"] == f"glore.nets.images.{network}"
    assert len(units) == UNITS[about]
    layers = int(about.partition(", ")[2].partition(" ")[0] or 1)
    assert all(len(unit.adjacency()) == layers for unit in units.values())
    norms = [unit.norm.weight for unit in units.values()]
    assert not any(weight.any() for weight in norms)
    step(task, data)
    assert all(weight.any() for weight in norms)


def test_published_scores_are_those_of_rows():
    published = Recipe(read(["--config", "imagenet"])).comparison.published
    assert set(published) <= set(ROWS)
    assert all(0.7 < score < 0.85 for score in published.values())


def test_the_networks_own_mean_and_std_are_taken(pictures):
    for name, mean in {"resnet50": [0.5] * 3, "se_resnet50": [0.485, 0.456, 0.406]}.items():
        preset = row(pictures, name).resolved["data"]["dataset"]["init_args"]["preset"]["init_args"]
        assert preset["mean"] == mean
    values = row(pictures, "resnet50").make()[1].split("val")[0][0]
    assert torch.allclose((values * 0.5 + 0.5) * 255, ((values * 0.5 + 0.5) * 255).round(), atol=1e-3)


def test_classes_by_what_they_show(pictures, tmp_path):
    assert ImageNet("train", str(pictures)).classes == ["n01440764", "n01443537"]
    names = ImageNet.names()
    assert (len(names), names[0], names[985]) == (1000, "tench", "daisy")
    folders = timm.data.ImageNetInfo().label_names()
    for folder in folders:
        for split in ("train", "val"):
            (tmp_path / split / folder).mkdir(parents=True)
        (tmp_path / "train" / folder / "a.png").write_bytes(b"")
    (tmp_path / "val" / folders[7] / "a.png").write_bytes(b"")
    val = ImageNet("val", str(tmp_path))
    assert val.classes == names
    assert val.samples == [(tmp_path / "val" / folders[7] / "a.png", 7)]
    for split in ("train", "val"):
        (tmp_path / split / folders[8]).rename(tmp_path / split / "n00000008")
    others = sorted([*folders[:8], "n00000008", *folders[9:]])
    assert ImageNet("val", str(tmp_path)).classes == others
