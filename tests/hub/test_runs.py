"""A training as a folder to share: the network, and what the card says of it."""

import csv
import json
import shutil

import pytest
import torch
import yaml
from PIL import Image

pytest.importorskip("pytorch_lightning")
pytest.importorskip("sklearn")

from huggingface_hub import ModelCard

from glore import cli, hub
from glore.hub import runs
from glore.train import recipe, tree
from glore.weights import files


@pytest.fixture
def glore(capsys):
    def run(*arguments):
        code = cli.main([*map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    return tmp_path_factory.mktemp("once") / "run"


@pytest.fixture
def trained(once, tmp_path, recipe_path, glore):
    if not once.exists():
        assert glore("fit", "--config", recipe_path, "--out", once, "--epochs", "2")[0] == 0
    return shutil.copytree(once, tmp_path / "run")


def published(glore, trained, *flags):
    folder = trained.parent / "shared"
    code, out, err = glore("publish", "--out", trained, "--to", folder, *flags)
    assert code == 0, err
    assert set(out.split()) >= {str(path) for path in folder.iterdir()}
    return folder, ModelCard.load(folder / "README.md")


def test_a_training_becomes_a_folder(glore, trained):
    flags = ("--weights", "best", "--test", "--license", "mit", "--dataset", "Odd digits")
    folder, card = published(glore, trained, *flags)
    again, net = hub.from_pretrained(folder), files.load(trained / "best")
    x = torch.rand(2, 1, 48, 48)
    assert torch.equal(again(x), net(x))
    assert again.classes == ["background", "common", "odd"]

    with (trained / "curves.csv").open() as file:
        row = max(csv.DictReader(file), key=lambda row: float(row["val/miou"]))
    lines = glore("test", "--out", trained, "--weights", "best")[1].splitlines()
    tested = dict(line.split() for line in lines if " " in line)  # not the paths below
    told = {(result.dataset_split, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert {name: value for (split, name), value in told.items() if split == "val"} == {
        key.removeprefix("val/"): pytest.approx(float(value), abs=1e-5)
        for key, value in row.items()
        if key.startswith("val/")
    }
    assert {name: f"{value:.4f}" for (split, name), value in told.items() if split == "test"} == tested
    assert {result.dataset_name for result in card.data.eval_results} == {"Odd digits"}
    assert (card.data.license, card.data.library_name) == ("mit", "glore")
    assert card.data.pipeline_tag == "image-segmentation"
    for said in (
        "Of the `best` weights",
        "glore.nets.small.small_segmenter",
        "`backbone.res3.0_glore`: GloRe2d",
        f"| parameters | {sum(p.numel() for p in net.parameters()):,} |",
        "| multiply-adds | ",
        "`(b, 1, 48, 48)`",
        "background, common, odd",
        "glore fit --config recipe.yaml\n",
        "from_pretrained('shared')",
        "arXiv:1811.12814",
    ):
        assert said in card.text


def test_the_recipe_trains_the_same_network_again(glore, trained):
    folder, _ = published(glore, trained)
    first, second = (recipe.Recipe(tree.read(["--config", str(at / "recipe.yaml")])) for at in (trained, folder))
    assert second.decisive == first.decisive
    for path in folder.iterdir():
        assert str(trained.parent).encode() not in path.read_bytes()


def test_pictures_of_ones_own_are_named_and_not_placed(glore, tmp_path, tree, monkeypatch):
    pytest.importorskip("torchvision")
    for kind, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (tmp_path / "secret" / kind).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (20, 20), colour).save(tmp_path / "secret" / kind / f"{i}.png")
    arguments = {"classes": 2, "widths": [4], "depths": [1], "strides": [2, 2]}
    net = {"class_path": "glore.nets.small.small_classifier", "init_args": arguments}
    dataset = {
        "class_path": "glore.data.images.ImageFolder",
        "init_args": {"root": str(tmp_path / "secret"), "preset": {"class_path": "glore.data.transforms.Small"}},
    }
    tree["model"] = {"class_path": "glore.train.classify.Classify", "init_args": {"net": net}}
    tree["data"] = {"dataset": dataset, "batch_size": 2}
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(tree))
    assert glore("fit", "--config", tmp_path / "colours.yaml", "--out", tmp_path / "run", "--epochs", "1")[0] == 0

    folder, card = published(glore, tmp_path / "run", "--dataset", "Colours")
    assert "values in [0, 1], minus [0.4914, 0.4822, 0.4465], by [0.247, 0.2435, 0.2616]" in card.text
    assert "glore fit --config recipe.yaml --data.root DIR" in card.text
    assert card.data.pipeline_tag == "image-classification"
    assert not any(b"secret" in path.read_bytes() for path in folder.iterdir())
    start = ("--model.net.pretrained", tmp_path / "run/last.safetensors")
    fit = ("fit", "--config", tmp_path / "colours.yaml", "--epochs", "1", "--out", tmp_path / "again")
    assert glore(*fit, *start)[0] == 0
    assert "--data.root DIR --model.net.pretrained FILE" in published(glore, tmp_path / "again")[1].text
    monkeypatch.chdir(tmp_path)
    flags = ("--config", folder / "recipe.yaml", "--weights", folder / "model.safetensors")
    code, out, err = glore("predict", tmp_path / "secret/red/0.png", *flags)
    assert code == 0, err
    assert {"red", "blue"} <= set(out.split())


def test_the_last_weights_of_a_compared_run_have_its_test_scores(glore, trained):
    (trained / "result.json").write_text(json.dumps({"metrics": {"miou": 0.5}}))
    told = {
        weights: {
            result.dataset_split for result in published(glore, trained, "--weights", weights)[1].data.eval_results
        }
        for weights in ("last", "best")
    }
    assert told == {"last": {"val", "test"}, "best": {"val"}}


def test_a_training_is_pushed_by_its_name_there(glore, trained, monkeypatch):
    pushed = []

    def push_to_hub(folder, name, *, private):
        pushed.append((folder, name, private))
        return "https://huggingface.co/user/net/commit/1"

    monkeypatch.setattr(hub, "push_to_hub", push_to_hub)
    folder, card = published(glore, trained, "--push", "user/net", "--private")
    assert pushed == [(folder, "user/net", True)]
    assert "from_pretrained('user/net')" in card.text
    assert card.data.model_name == "net"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--out", "nowhere", "--to", "shared"), "--out nowhere holds no run"),
        (("--out", "{run}", "--to", "{run}"), "holds something else ("),
        (("--out", "{run}", "--to", "shared", "--private"), "--private is about the hub: give --push USER/NAME"),
        (("--out", "{run}", "--to", "shared", "--weights", "first"), "invalid choice: 'first'"),
        (("--out", "{run}"), "the following arguments are required: --to"),
    ],
)
def test_what_cannot_be_published_is_named(tmp_path, monkeypatch, glore, recipe_path, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.yaml").write_bytes(recipe_path.read_bytes())
    parsed = recipe.Recipe(tree.read(["--config", str(recipe_path)]))
    files.save(tmp_path / "run/last", parsed.make()[0].net.state_dict(), parsed.constructor)
    code, _, err = glore("publish", *(flag.format(run="run") for flag in flags))
    assert code == 2
    assert message in err
    assert not (tmp_path / "shared").exists()


@pytest.mark.parametrize(
    ("key", "value", "published"),
    [
        ("train", "/home/me/lists/train.txt", "train.txt"),
        ("files", [r"C:\me\w.pth", "~/w.pth", "../mine/w.pth"], ["w.pth"] * 3),
        ("pretrained", "mine/w.pth", "w.pth"),
        ("net", {"pretrained": "mine/w.pth"}, {"pretrained": "w.pth"}),
        ("images", "images/{split}", "images/{split}"),
        ("lists", {"train": "lists/train.txt"}, {"train": "lists/train.txt"}),
        ("stages.2.blocks", 1, 1),
    ],
)
def test_paths_become_names_and_patterns_stay(key, value, published):
    assert runs._named({"a": {key: value}}) == {"a": {key: published}}


def test_normalisation_is_told_if_it_is_known():
    assert runs._normalisation(mean=[0.5, 0.5, 0.5], std=[0.2, 0.2, 0.2], classes=["a"]) == (
        "values in [0, 1], minus [0.5, 0.5, 0.5], by [0.2, 0.2, 0.2], for red, green and blue"
    )
    assert runs._normalisation(classes=["a"]) == ""
