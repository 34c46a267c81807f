"""From a folder of pictures to predictions: the everyday use, with what goes wrong in it."""

import csv
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("timm")
import timm
from PIL import Image
from pytorch_lightning import Callback
from safetensors.torch import load_file

import glore
from glore.cli import main
from glore.train import compare
from glore.train import run as runs
from glore.train.blame import RecipeError
from glore.train.classify import Classify
from glore.train.grid import Grid
from glore.train.recipe import Recipe
from glore.train.task import new_parts
from glore.train.tree import put, read

COLOURS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for i in range(20):
            noise = generator.integers(-30, 30, (24, 30, 3))
            Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg")
    return tmp_path / "pictures"


def flags(root, *more):
    preset = "{class_path: glore.data.transforms.Small, init_args: {size: 32}}"
    return [
        *("--config", "finetune", "--data.root", str(root), "--model.backbone", "test_resnet"),
        *("--model.net.pretrained", "false", "--model.net.units", "{res3: 1}", f"--data.dataset.preset={preset}"),
        *("--data.batch_size", "8", "--data.workers", "0", "--epochs", "3", "--model.schedule.warmup", "0"),
        *("--model.old_rate", "1", "--trainer.accelerator", "cpu", *more),
    ]


def recipe(root, *more):
    return Recipe(read(flags(root, *more)))


def test_from_a_folder_to_predictions(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["fit", *flags(pictures), "--out", str(out)]) == 0
    assert (out / "classes.txt").read_text().split() == list(COLOURS)
    assert main(["test", "--out", str(out)]) == 0
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    (tmp_path / "odd").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd/\xe9.jpg")).write_text("no picture")
    assert main(["predict", str(tmp_path / "odd"), "--out", str(out)]) == 1
    assert "cannot be read as a picture" in capsys.readouterr().out
    red = pictures / "red/0.jpg"
    assert main(["predict", str(red), "--out", str(out), str(broken), str(pictures / "blue")]) == 1
    said = capsys.readouterr().out
    assert "broken.png cannot be read as a picture" in said
    assert said.index("0.jpg") < said.index("broken.png")
    with (out / "predictions/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 22
    assert rows[0]["name"] == str(red)
    columns = list(rows[0])
    assert main(["predict", str(broken), "--out", str(out)]) == 1
    capsys.readouterr()
    assert (out / "predictions/predictions.csv").read_text().splitlines()[0].split(",") == columns
    assert rows[0]["class_1"] == "red"
    assert rows[1]["class_1"] == ""
    assert "cannot be read" in rows[1]["error"]
    assert {row["class_1"] for row in rows[2:]} == {"blue"}
    assert main(["maps", str(red), str(broken), "--out", str(out), "--samples", "99"]) == 1
    said = capsys.readouterr()
    assert "broken.png cannot be read" in said.err
    assert "for all" not in said.out
    assert len(list((out / "maps").glob("*.png"))) == 2  # one a picture, and how the nodes mix
    assert (out / "maps/maps.html").is_file()
    assert main(["maps", str(pictures), "--out", str(out), "--to", str(tmp_path / "some"), "--samples", "2"]) == 0
    assert "(2 of 60 samples; --samples 60 for all)" in capsys.readouterr().out


def test_a_networks_first_weights_need_no_run(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = flags(pictures, "--model.net.units", "{layer2: 1}")
    assert main(["fit", *source, "--variant", "plain", "--out", "plain", "--epochs", "1"]) == 0
    weights = ("--model.net.pretrained", "plain/last.safetensors")
    capsys.readouterr()
    assert main(["test", "--out", "plain"]) == 0
    scores = capsys.readouterr().out.partition("plain/")[0]
    assert main(["test", *source, *weights, "--weights", "start"]) == 0  # units are the identity
    assert capsys.readouterr().out.startswith(scores)
    assert main(["predict", str(pictures / "red"), *source, *weights, "--weights", "start"]) == 0
    assert "20 predictions in runs/finetune/predictions" in capsys.readouterr().out


def test_the_classes_are_the_folders(pictures):
    assert recipe(pictures).resolved["model"]["init_args"]["net"]["init_args"]["classes"] == 3


def test_pictures_that_cannot_be_read_are_replaced_and_named(pictures, tmp_path):
    for i in range(200):
        Image.new("RGB", (4, 4), COLOURS["red"]).save(pictures / f"red/more{i}.png")
    made = recipe(pictures, "--epochs", "2")
    train = made.make()[1].split("train")
    (path, *_), _ = zip(*train.samples, strict=True)
    path.write_text("no picture")
    with runs.claimed(tmp_path / "run", made):
        this = runs.prepare(made, tmp_path / "run")
        this.fit()
    with (tmp_path / "run/broken.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == [str(path)]


def test_a_validation_picture_that_cannot_be_read_is_left_out_and_named(pictures, tmp_path):
    for i in range(1000):
        Image.new("RGB", (4, 4), COLOURS["red"]).save(pictures / f"red/more{i}.png")
    made = recipe(pictures, "--epochs", "1", "--data.batch_size", "64")
    path, _ = made.make()[1].split("val").samples[0]
    path.write_text("no picture")
    this = runs.prepare(made, tmp_path / "run")
    this.fit()
    assert len(this.task.samples) == len(this.data.split("val")) - 1
    with (tmp_path / "run/broken.csv").open() as file:
        assert [(row["split"], row["name"]) for row in csv.DictReader(file)] == [("val", str(path))]
    with pytest.raises(ValueError, match=f"{path} cannot be read"):
        runs.prepare(made, tmp_path / "run").evaluate("val")


def test_many_pictures_that_cannot_be_read_stop_the_training(pictures, tmp_path):
    made = recipe(pictures)
    for path, _ in made.make()[1].split("train").samples[:5]:
        path.write_text("no picture")
    with pytest.raises(ValueError, match=r"of 48 samples of train cannot be read, more than 1 %: .*\.jpg"):
        runs.prepare(made, tmp_path / "run").fit()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_test_picture_that_cannot_be_read_is_named(pictures, tmp_path, workers, capsys):
    out = tmp_path / "run"
    assert main(["fit", *flags(pictures, "--epochs", "1"), "--out", str(out)]) == 0
    path, _ = recipe(pictures).make()[1].split("test").samples[0]
    path.write_text("no picture")
    assert main(["test", "--out", str(out), "--data.workers", str(workers)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith(f"glore: {path} cannot be read as a picture")


def test_units_alone_are_trained(pictures, tmp_path):
    with pytest.raises(RecipeError, match=r"model.train='units' leaves all else as it is, but model.net.pretrained is"):
        recipe(pictures, "--model.train", "units")
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), weights)
    made = recipe(pictures, "--model.train", "units", "--epochs", "1", "--model.net.pretrained", str(weights))
    this = runs.prepare(made, tmp_path / "run")
    before = {name: tensor.clone() for name, tensor in this.task.net.state_dict().items()}
    this.fit()
    after = load_file(tmp_path / "run/last.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    new = ("fc.", "layer2.0_glore.")
    assert changed
    assert all(name.startswith(new) for name in changed)
    assert {"fc.weight", "layer2.0_glore.norm.running_mean", "layer2.0_glore.norm.weight"} <= changed
    assert not this.task.net.bn1.training
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(this.task)  # as Lightning does for several processes
    assert not this.task.train().net.bn1.training
    assert this.task.net.layer2[1].norm.training


def test_a_folder_too_high_has_one_class_and_is_refused(pictures, tmp_path, capsys):
    assert main(["fit", *flags(pictures.parent), "--out", str(tmp_path.parent / "run")]) == 2
    assert "the data have one class, of which nothing can be learnt" in capsys.readouterr().err


def test_old_layers_learn_slower_and_vectors_do_not_decay(pictures, tmp_path):
    with pytest.raises(RecipeError, match=r"model.old_rate=0.1 slows the layers that come with weights, but"):
        recipe(pictures, "--model.old_rate", "0.1")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    made = recipe(pictures, "--model.old_rate", "0.1", "--model.net.pretrained", str(tmp_path / "w.pth"))
    this = runs.prepare(made, tmp_path / "run")
    this.data.trainer = this.trainer
    this.trainer.datamodule = this.data
    this.task.trainer = this.trainer
    optimizer = this.task.configure_optimizers()["optimizer"]
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    net = this.task.net
    block = next(net.layer1.children())
    assert decay[id(block.conv1.weight)] > 0
    assert decay[id(block.bn1.weight)] == decay[id(block.bn1.bias)] == decay[id(net.fc.bias)] == 0
    assert rates[id(next(net.conv1.parameters()))] == pytest.approx(1e-4)
    assert rates[id(net.fc.weight)] == pytest.approx(1e-3)
    assert rates[id(net.fc.bias)] == pytest.approx(1e-3)
    (unit,) = glore.units_of(net).values()
    assert all(rates[id(p)] == pytest.approx(1e-3) for p in unit.parameters())
    assert len(rates) == len(list(net.parameters()))
    assert new_parts(net) == [unit, net.fc]
    net.layer1.append(glore.GloRe2d(net.layer2[0].conv1.in_channels))
    assert new_parts(net) == [unit, net.layer1[-1], net.fc], "as do units that stand there by hand"


def test_pretrained_weights_are_in_the_first_step_and_not_in_the_file(pictures, tmp_path):
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "w.pth")
    made = recipe(pictures, "--model.net.pretrained", str(tmp_path / "w.pth"))
    weights = made.make()[0].net.state_dict()
    key = "layer1.0.conv1.weight"
    assert torch.equal(weights[key], torch.load(tmp_path / "w.pth")[key])
    assert made.constructor["init_args"]["pretrained"] is False
    (tmp_path / "w.pth").unlink()
    assert not torch.equal(made.make(empty=True)[0].net.state_dict()[key], weights[key])


def test_mixing_and_smoothing(pictures, tmp_path):
    made = recipe(
        pictures, "--model.mix", "glore.data.transforms.Mix", "--model.label_smoothing", "0.3", "--epochs", "1"
    )
    this = runs.prepare(made, tmp_path / "run")
    seen = []
    this.task.loss = lambda logits, target: (
        seen.append((logits.detach(), target)) or Classify.loss(this.task, logits, target)
    )
    this.fit()
    logits, target = seen[0]
    torch.testing.assert_close(target.sum(1), torch.ones(8))
    assert ((target > 0).sum(1) > 1).any(), "no picture was mixed with one of another class"
    smoothed = 0.7 * target + 0.1
    torch.testing.assert_close(this.task.loss(logits, target), -(smoothed * logits.log_softmax(1)).sum(1).mean())


def test_views_are_averaged_as_probabilities(pictures, tmp_path):
    run = runs.prepare(recipe(pictures, "--epochs", "1"), tmp_path / "run")
    run.fit()
    preset = "{class_path: glore.data.transforms.Standard, init_args: {size: 16, views: 10}}"
    ten = runs.prepare(recipe(pictures, f"--data.dataset.preset={preset}"), tmp_path / "ten")
    ten.evaluate(weights=tmp_path / "run/last.safetensors")
    confusion = ten.task.confusion(torch.stack(list(ten.task.samples.values())), 3)
    told = torch.zeros(3, 3, dtype=torch.long)
    for views, label in (ten.data.split("test")[i] for i in range(6)):
        with torch.no_grad():
            told[label, ten.task.net.eval()(views).softmax(1).mean(0).argmax()] += 1
    assert views.shape == (10, 3, 16, 16)
    assert torch.equal(confusion, told)


def test_a_fine_tuning_that_was_stopped_goes_on_bit_for_bit(pictures, tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    more = ("--model.net.pretrained", str(tmp_path / "w.pth"), "--model.old_rate", "0.1")
    made = recipe(pictures, *more, "--model.mix", "glore.data.transforms.Mix")
    for out in ("whole", "stopped"):
        this = runs.prepare(made, tmp_path / out)
        if out == "stopped":
            this.trainer.callbacks.append(StopAfterOne())
            with runs.claimed(this.folder, made), pytest.raises(ZeroDivisionError):
                this.fit()
            (tmp_path / "w.pth").unlink()
            this = runs.prepare(made, tmp_path / out, empty=True)
        with runs.claimed(this.folder, made):
            assert this.fit()
    whole, parts = (load_file(tmp_path / out / "last.safetensors") for out in ("whole", "stopped"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_new_classifier_has_to_be_trained_first(pictures, tmp_path, capsys):
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "w.pth")
    source = [*flags(pictures, "--model.net.pretrained", str(tmp_path / "w.pth")), "--weights", "start"]
    for command in (["test"], ["predict", str(pictures / "red/0.jpg")]):
        assert main([*command, *source, "--out", str(tmp_path / "out")]) == 2
        assert "--weights start: the network starts with a new classifier" in capsys.readouterr().err


def test_a_trained_network_is_tested_on_a_folder_of_nothing_else(pictures, tmp_path, capsys):
    assert main(["fit", *flags(pictures, "--epochs", "1"), "--out", str(tmp_path / "run")]) == 0
    pictures.rename(tmp_path / "test")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "test").rename(tmp_path / "elsewhere/test")
    assert main(["test", "--out", str(tmp_path / "run"), "--data.root", str(tmp_path / "elsewhere")]) == 0
    assert main(["fit", *flags(tmp_path / "elsewhere"), "--out", str(tmp_path / "other")]) == 2
    assert "has no folders of pictures, one a class" in capsys.readouterr().err


def test_a_root_that_is_no_folder_is_one_line(tmp_path, capsys):
    assert main(["fit", *flags(tmp_path / "absent"), "--out", str(tmp_path / "run")]) == 2
    assert "is no folder: give --data.root DIR" in capsys.readouterr().err


def test_a_run_goes_on_without_its_pretrained_file(pictures, tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    weights = ("--model.net.pretrained", str(tmp_path / "w.pth"))
    assert main(["fit", *flags(pictures, *weights, "--epochs", "1"), "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "w.pth").unlink()
    assert main(["fit", *flags(pictures, *weights, "--epochs", "1"), "--out", str(tmp_path / "run")]) == 0
    assert main(["fit", *flags(pictures, *weights, "--epochs", "1"), "--out", str(tmp_path / "other")]) == 2


def test_a_damaged_pretrained_file_is_named(pictures, tmp_path, capsys):
    (tmp_path / "cut.safetensors").write_bytes(b"0" * 100)
    weights = ("--model.net.pretrained", str(tmp_path / "cut.safetensors"))
    assert main(["fit", *flags(pictures, *weights), "--out", str(tmp_path / "run")]) == 2
    assert f"pretrained='{tmp_path}/cut.safetensors' is damaged" in capsys.readouterr().err


def test_a_comparison_with_views_and_a_broken_picture(pictures, tmp_path):
    for i in range(200):
        Image.new("RGB", (4, 4), COLOURS["red"]).save(pictures / f"red/more{i}.png")
    tree = read(flags(pictures, "--epochs", "1", "--data.dataset.preset.views", "2"))
    tree["compare"] = {"seeds": [0], "variants": {"plain": {"model.net.unit": None}, "glore": {}}}
    grid = Grid.of(tree, tmp_path / "out")
    train = grid.cells[0].recipe.make()[1].split("train")
    train.samples[0][0].write_text("no picture")
    assert not list(compare.run(grid))
    assert len(grid.finished()) == 2
    tested = grid.cells[0].recipe.make()[1].split("test").samples[0][0]
    tested.rename(tested.with_stem("other"))
    with pytest.raises(RecipeError, match=r"has results on other data than these \(\w+ split of plain, seed 0\)"):
        list(compare.run(grid))


def test_data_of_other_classes_are_refused(pictures, tmp_path, capsys):
    assert main(["fit", *flags(pictures, "--epochs", "1"), "--out", str(tmp_path / "run")]) == 0
    (pictures / "red").rename(pictures / "amber")
    assert main(["test", "--out", str(tmp_path / "run")]) == 2
    assert "the first that differs is 'blue' there and 'amber' here" in capsys.readouterr().err


def test_class_names_are_shown_as_they_are(pictures, tmp_path):
    (pictures / "red").rename(pictures / "$a_$b_{")
    assert main(["fit", *flags(pictures, "--epochs", "1"), "--out", str(tmp_path / "run")]) == 0
    assert main(["test", "--out", str(tmp_path / "run")]) == 0


def test_flags_stand_above_a_variant_and_in_any_order(pictures):
    made = Recipe(read(flags(pictures, "--model.net.unit", "glore.units.NonLocal2d"), "plain"))
    assert made.constructor["init_args"]["unit"]["class_path"] == "glore.units.NonLocal2d"
    source = ["--config", "finetune", "--data.root", str(pictures)]
    for order in (1, -1):
        pair = ["--data.dataset.preset.size=99", "--data.dataset.preset=glore.data.transforms.Modern"][::order]
        preset = Recipe(read([*source, *pair])).resolved["data"]["dataset"]["init_args"]["preset"]
        assert preset["init_args"]["size"] == 99
        assert preset["class_path"].endswith("Modern")


def test_a_root_is_taken_as_it_is_written(tmp_path):
    for name in ("pics #2", "2024-01-05", "2024", "no"):
        tree = read(["--config", "finetune", "--data.root", name])
        assert tree["data"]["dataset"]["init_args"]["root"] == name


def test_what_a_recipe_leaves_open_is_the_datasets(pictures):
    tree = read(["--config", "finetune", "--data.root", str(pictures), "--data.dataset.preset", "null"])
    preset = Recipe(tree).resolved["data"]["dataset"]["init_args"]["preset"]
    assert preset["class_path"] == "glore.data.transforms.Standard"
    assert preset["init_args"]["mean"] == [0.485, 0.456, 0.406]
    put(tree, "data.dataset", {"class_path": "glore.data.images.Cifar", "init_args": {"root": "x"}})
    put(tree, "model.net", {"class_path": "glore.nets.images.resnet50", "init_args": {"pretrained": True}})
    preset = Recipe(tree).resolved["data"]["dataset"]["init_args"]["preset"]
    assert preset["class_path"] == "glore.data.transforms.Small"
    assert preset["init_args"]["mean"] == [0.5] * 3


class StopAfterOne(Callback):
    """Fails in the second epoch, as a crash would."""

    def on_train_epoch_start(self, trainer, task):
        if trainer.current_epoch == 1:
            raise ZeroDivisionError("crash")


def test_other_classes_or_pictures_are_refused_when_a_run_goes_on(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    stopped = runs.prepare(recipe(pictures), out)
    stopped.trainer.callbacks.append(StopAfterOne())
    with runs.claimed(out, stopped.recipe), pytest.raises(ZeroDivisionError):
        stopped.fit()
    (pictures / "red").rename(pictures / "amber")
    for command in (["fit", *flags(pictures), "--out", str(out)], ["predict", "--out", str(out)]):
        assert main(command) == 2
        assert "the first that differs is 'blue' there and 'amber' here" in capsys.readouterr().err
    assert (out / "classes.txt").read_text().split() == list(COLOURS)
    (pictures / "amber").rename(pictures / "red")
    for i in range(5):
        (pictures / f"red/{i}.jpg").rename(pictures / f"red/{i}.no")
    assert main(["fit", *flags(pictures), "--out", str(out)]) == 2
    assert "holds a training on other samples than the data have now" in capsys.readouterr().err


def test_a_variant_may_be_about_first_weights(pictures, tmp_path):
    for k in range(2):
        torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / f"{k}.pth")
    tree = read(flags(pictures, "--epochs", "1", "--model.optimizer.lr", "0"))
    sources = {"plain": f"{tmp_path}/0.pth", "other": f"{tmp_path}/1.pth"}
    tree["compare"] = {"seeds": [0], "variants": {n: {"model.net.pretrained": path} for n, path in sources.items()}}
    assert not list(compare.run(Grid.of(tree, tmp_path / "all")))
    for name, source in sources.items():
        trained = load_file(tmp_path / f"all/{name}/seed0/last.safetensors")
        given = torch.load(source)
        assert torch.equal(trained["conv1.0.weight"], given["conv1.0.weight"]), name


def test_a_batch_of_one_position_names_the_batch_size(pictures, tmp_path, capsys):
    root = ["--model.backbone", "tf_efficientnet_lite0", "--data.batch_size", "1", "--data.dataset.preset.size", "32"]
    assert main(["fit", *flags(pictures, *root), "--out", str(tmp_path)]) == 2
    assert "glore: data.batch_size gives this process 1 samples a step, of which" in capsys.readouterr().err


def test_more_classes_are_told_if_asked(pictures, tmp_path, capsys):
    assert main(["fit", *flags(pictures, "--epochs", "1"), "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["predict", str(pictures / "red/0.jpg"), "--out", str(tmp_path), "--top", "2"]) == 0
    assert capsys.readouterr().out.count(" %  ") == 2


def test_a_finished_training_says_so_and_that_its_data_changed(pictures, tmp_path, capsys):
    command = ["fit", *flags(pictures, "--epochs", "1"), "--out", str(tmp_path)]
    assert main(command) == 0
    assert "already" not in capsys.readouterr().out
    assert main(command) == 0
    assert f"{tmp_path} is trained to its end already" in capsys.readouterr().out
    for i in range(20):
        (pictures / f"red/{i}.jpg").with_stem(f"more{i}").write_bytes((pictures / f"red/{i}.jpg").read_bytes())
    assert main(command) == 2
    assert re.search(r"holds a training on other samples than the data have now", capsys.readouterr().err)


def test_a_list_whose_classes_changed_is_other_data(pictures, tmp_path, capsys):
    paths = sorted(path.relative_to(pictures) for path in pictures.rglob("*.jpg"))
    lines = [f"{path} {list(COLOURS).index(path.parent.name)}\n" for path in paths]
    lists = {"train": lines[::2], "val": lines[1::2]}
    for name, of in lists.items():
        (pictures / f"{name}.txt").write_text("".join(of))
    given = "{train: train.txt, val: val.txt}"
    command = ["fit", *flags(pictures, "--data.dataset", "glore.data.images.ImageList"), "--epochs", "1"]
    command += ["--data.dataset.lists", given, "--out", str(tmp_path / "run")]
    assert main(command) == 0
    (pictures / "train.txt").write_text("".join([lines[0].replace(" 0", " 1"), *lines[2::2]]))
    assert main(command) == 2
    assert "holds a training on other samples than the data have now" in capsys.readouterr().err


def test_predictions_are_written_by_one_process(pictures, tmp_path):
    this = runs.prepare(recipe(pictures), tmp_path / "run")
    this.trainer = SimpleNamespace(world_size=2)
    with pytest.raises(ValueError, match="predictions are written by one process, and here are 2"):
        this.predict(tmp_path / "predictions")


def test_unreadable_samples_of_all_processes_count_together(pictures, tmp_path, monkeypatch):
    this = runs.prepare(recipe(pictures, "--epochs", "1"), tmp_path / "run")

    def gather(into, own):
        into[:] = [{"train": {3}, "val": set()}, {"train": {5}, "val": set()}]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    monkeypatch.setattr(type(this.trainer), "world_size", 2)
    this.task._trainer, this.trainer.datamodule, this.data.trainer = this.trainer, this.data, this.trainer
    this.data.setup("fit")
    monkeypatch.setattr(this.trainer, "save_checkpoint", lambda *arguments, **options: None)
    this.keep.on_fit_start(this.trainer, this.task)
    with pytest.raises(ValueError, match="2 of 48 samples of train cannot be read"):
        this.keep.on_train_epoch_end(this.trainer, this.task)


def test_a_data_set_may_choose_its_preset_itself(pictures):
    own = Recipe(read(["--config", "finetune", "--data.dataset", "made.Own", "--data.root", str(pictures)]))
    assert own.make_data().split("train")[0][0].shape == (3, 32, 32)


def test_many_classes_have_one_matrix_and_none_is_left_out():
    logits, target = torch.randn(400, 1000), torch.randint(1000, (400,))
    target[:9] = 255  # a class like any other
    counts = Classify.confusion(Classify(torch.nn.Identity()).counts(logits, target), 1000)
    told = list(zip(target.tolist(), logits.argmax(1).tolist(), strict=True))
    assert counts.sum() == 400
    assert all(counts[pair] == told.count(pair) for pair in told)


@pytest.mark.parametrize("wrong", [-1, 3, 255])
def test_labels_that_are_no_classes_are_named(wrong):
    task, target = Classify(torch.nn.Identity()), torch.tensor([0, wrong])
    with pytest.raises(ValueError, match=f"a label is {wrong}, but must be in 0 … 2$"):
        task.counts(torch.zeros(2, 3), target)
    split = SimpleNamespace(classes=["a", "b", "c"])
    task._trainer = SimpleNamespace(datamodule=SimpleNamespace(split=lambda name: split))
    with pytest.raises(ValueError, match=f"a label is {wrong}, but must be in 0 … 2$"):
        task.mixed(torch.zeros(2, 3), target)
