"""Runs: what they leave, how they go on, and what happens when something fails."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from safetensors.torch import load_file

from glore.cli import main
from glore.train import run as runs
from glore.train.agree import differences
from glore.train.blame import RecipeError
from glore.train.progress import Progress
from glore.train.recipe import Recipe
from glore.train.tree import flat, put
from glore.weights import files


def trained(tree, folder, *callbacks):
    recipe = Recipe(tree)
    with runs.claimed(folder, recipe):
        this = runs.prepare(recipe, folder)
        this.trainer.callbacks += callbacks
        this.fit()
    return this


class StopAt(Callback):
    """Fails at a step, as a crash would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, task, batch, index):
        if trainer.global_step == self.step:
            raise ZeroDivisionError("crash")


class Epochs(Callback):
    """Keeps which epochs are trained."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_start(self, trainer, task):
        self.seen.append(trainer.current_epoch)


def same(one, other):
    one, other = load_file(one), load_file(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_a_run_leaves(tree, tmp_path):
    this = trained(tree, tmp_path)
    this.finish(variant="glore", seed=0)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *(f"{which}.{kind}" for which in ("last", "best") for kind in ("json", "safetensors")),
        *("recipe.yaml", "resume.ckpt", "curves.csv", "result.json", "samples.safetensors", ".lock"),
        "classes.txt",
    }
    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"train/loss", "val/miou", "val/iou_odd"} <= rows[0].keys()
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["metrics"]) == {"iou_background", "iou_common", "iou_odd", "miou"}
    assert result["step_ms"] > 0
    assert 0 < result["waiting"] < 1
    counts = load_file(tmp_path / "samples.safetensors")["counts"]
    assert counts.shape == (48, 3, 3)
    assert counts.sum() == 48 * 48 * 48
    assert files.load(tmp_path / "last")(torch.zeros(1, 1, 48, 48)).shape == (1, 3, 48, 48)


def test_the_bar_of_an_evaluation_is_gone_before_anything_else_is_said(tree, tmp_path, capsys):
    trained(tree, tmp_path)
    progress = Progress()
    runs.prepare(Recipe(tree), tmp_path, progress).evaluate()
    assert progress.evaluation is None
    said = capsys.readouterr().err
    assert "evaluation: 100%" in said
    assert "\r" not in said, "which is a log, and no terminal"


@pytest.mark.parametrize(
    ("step", "workers", "left"),
    [
        (4, 2, [1, 2]),  # in the second epoch
        (6, 0, [2]),  # between two
        pytest.param(4, 0, [1, 2], marks=pytest.mark.slow),
        pytest.param(6, 2, [2], marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_bit_for_bit(tree, tmp_path, step, workers, left):
    put(tree, "data.workers", workers)
    put(tree, "trainer.callbacks", [{"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.5}}])
    trained(tree, tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        trained(tree, tmp_path / "stopped", StopAt(step))
    torch.manual_seed(99)
    epochs = Epochs()
    trained(tree, tmp_path / "stopped", epochs)
    assert epochs.seen == left, "it did not go on where it stopped"
    for name in ("last", "best"):
        assert same(tmp_path / f"whole/{name}.safetensors", tmp_path / f"stopped/{name}.safetensors"), name
    assert (tmp_path / "whole/curves.csv").read_text() == (tmp_path / "stopped/curves.csv").read_text()


@pytest.mark.parametrize("every", [1, 2])
def test_a_run_that_ends_by_steps_goes_on_bit_for_bit(tree, tmp_path, every):
    put(tree, "trainer.max_steps", 8)  # of nine
    put(tree, "trainer.check_val_every_n_epoch", every)
    trained(tree, tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        trained(tree, tmp_path / "stopped", StopAt(4))
    epochs = Epochs()
    trained(tree, tmp_path / "stopped", epochs)
    assert epochs.seen == [1, 2]
    assert same(tmp_path / "whole/last.safetensors", tmp_path / "stopped/last.safetensors")
    assert (tmp_path / "whole/curves.csv").read_text() == (tmp_path / "stopped/curves.csv").read_text()
    assert torch.load(tmp_path / "stopped/resume.ckpt", weights_only=True)["global_step"] == 8
    epochs = Epochs()
    trained(tree, tmp_path / "stopped", epochs)
    assert not epochs.seen


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            {"class_path": "EarlyStopping", "init_args": {"monitor": "val_miou"}},
            "metric `val_miou` which is not available",
        ),
        ({"class_path": "LearningRateMonitor"}, "Cannot use `LearningRateMonitor` callback"),
        (
            {"class_path": "GradientAccumulationScheduler", "init_args": {"scheduling": {0: 2}}},
            "give --trainer.accumulate_grad_batches",
        ),
    ],
)
def test_callbacks_that_cannot_work_are_told_in_one_line(tree, tmp_path, callback, message):
    put(tree, "trainer.callbacks", [callback])
    with pytest.raises(ValueError, match=message):
        trained(tree, tmp_path)


def test_augmentation_by_numpy_goes_on_bit_for_bit(tree, tmp_path):
    put(tree, "data.dataset", "made.Noise")
    trained(tree, tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        trained(tree, tmp_path / "stopped", StopAt(4))
    np.random.seed(99)
    epochs = Epochs()
    trained(tree, tmp_path / "stopped", epochs)
    assert epochs.seen == [1, 2]
    assert same(tmp_path / "whole/last.safetensors", tmp_path / "stopped/last.safetensors")


def test_what_stopped_early_stays_stopped(tree, tmp_path):
    stopping = {"monitor": "val/miou", "mode": "max", "patience": 1, "min_delta": 1.0}
    put(tree, "trainer.callbacks", [{"class_path": "EarlyStopping", "init_args": stopping}])
    put(tree, "epochs", 9)
    trained(tree, tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes(), (tmp_path / "curves.csv").read_text()
    assert len(before[1].splitlines()) == 3
    trained(tree, tmp_path)
    assert ((tmp_path / "last.safetensors").read_bytes(), (tmp_path / "curves.csv").read_text()) == before


def test_an_epoch_without_validation_has_no_scores(tree, tmp_path):
    put(tree, "trainer.check_val_every_n_epoch", 2)
    trained(tree, tmp_path)
    with (tmp_path / "curves.csv").open() as file:
        assert [bool(row["val/miou"]) for row in csv.DictReader(file)] == [False, True, False]


def test_what_a_callback_keeps_has_to_be_data(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(StopAt, "state_dict", lambda self: {"path": tmp_path})
    with pytest.raises(ZeroDivisionError):
        trained(tree, tmp_path, StopAt(6))
    with pytest.raises(ValueError, match=r"resume\.ckpt holds a pathlib\.PosixPath, which could run code"):
        trained(tree, tmp_path)


def test_other_classes_than_the_datas_are_named(tree, tmp_path):
    put(tree, "model.net.classes", 5)
    with pytest.raises(ValueError, match="the network tells 5 classes apart, but the data have 3"):
        trained(tree, tmp_path)


def test_samples_without_a_label_count_for_nothing(tree, tmp_path):
    put(tree, "data.dataset", "made.Noise")
    put(tree, "data.batch_size", 2)
    this = trained(tree, tmp_path)
    assert all(tensor.isfinite().all() for tensor in this.task.net.state_dict().values())
    assert len(this.predict(tmp_path / "masks")) == 48


def test_a_finished_run_is_left_as_it_is(tree, tmp_path):
    trained(tree, tmp_path)
    epochs = Epochs()
    trained(tree, tmp_path, epochs)
    assert not epochs.seen


def test_a_changed_recipe_is_refused_and_named(tree, tmp_path):
    trained(tree, tmp_path)
    put(tree, "epochs", 4)
    with pytest.raises(RecipeError, match=r"another recipe .trainer\.max_epochs is 4, was 3.*another --out"):
        trained(tree, tmp_path)


def test_recipes_differ_by_what_flags_would_change():
    unit = {"class_path": "glore.GloRe2d", "init_args": {"nodes": 4}}
    net = {"class_path": "mine.Net", "init_args": {"unit": unit, "width": 8}}
    one = flat({"model": {"init_args": {"net": net}}, "seed": 1})
    net["init_args"] |= {"unit": None, "depth": "4"}
    other = flat({"model": {"init_args": {"net": net}}, "seed": 1})
    assert differences(one, one) == []
    empty = [{"net.class_path": f"mine.{name}", "net.init_args": {}} for name in "AB"]
    assert differences(*empty) == [("net", '"mine.A"', '"mine.B"')]
    assert sorted(differences(other, one)) == [
        ("model.net.depth", '"4"', "not there"),
        ("model.net.unit", "null", '"glore.GloRe2d"'),
    ]


def test_a_folder_in_which_nothing_was_trained_is_taken_over(tree, tmp_path):
    put(tree, "data.batch_size", 1000)
    with pytest.raises(ValueError, match="at most the 48 training samples"):
        trained(tree, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"last\.safetensors is missing: glore fit writes it after an epoch"):
        runs.prepare(Recipe(tree), tmp_path).evaluate()
    put(tree, "data.batch_size", 8)
    trained(tree, tmp_path)


def test_others_may_read_what_is_written(tree, tmp_path):
    trained(tree, tmp_path)
    assert len({path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.name != ".lock"}) == 1


def test_what_a_killed_process_was_writing_is_swept_away(tree, tmp_path):
    with files.replacing(tmp_path / "weights") as draft:
        draft.write_text("half")
    draft.write_text("half")  # as a process leaves it that is killed while it writes
    with runs.claimed(tmp_path, Recipe(tree)):
        assert not draft.exists()
    assert (tmp_path / "weights").read_text() == "half"


def test_a_folder_has_one_process(tree, tmp_path):
    recipe = Recipe(tree)
    busy = pytest.raises(runs.BusyError, match="another process works in")
    with runs.claimed(tmp_path, recipe), busy, runs.claimed(tmp_path, recipe):
        pass
    with runs.claimed(tmp_path, recipe):
        pass


def test_a_damaged_checkpoint_is_named_and_left(tree, tmp_path):
    trained(tree, tmp_path)
    path = tmp_path / "resume.ckpt"
    broken = path.read_bytes()[:-500]
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r"resume\.ckpt is damaged .*: remove it, and this run starts anew"):
        trained(tree, tmp_path)
    assert path.read_bytes() == broken


def test_a_checkpoint_cannot_run_code(tree, tmp_path):
    trained(tree, tmp_path)

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    torch.save({"state_dict": Evil()}, tmp_path / "resume.ckpt")
    with pytest.raises(ValueError, match="damaged"):
        trained(tree, tmp_path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_named(tree, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RecipeError, match="cannot write to"):
        trained(tree, tmp_path / "run")


def test_a_folder_that_is_a_file_is_named(tree, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RecipeError, match=r"cannot write to .*run"):
        trained(tree, tmp_path / "run")


def test_a_loss_that_is_not_finite_names_step_and_rate(tree, tmp_path):
    put(tree, "model.optimizer.lr", 1e30)
    put(tree, "model.schedule.warmup", 0.0)
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step \d+, epoch \d+, learning rate \d"):
        trained(tree, tmp_path)


def test_frozen_norms_keep_their_statistics(tree, tmp_path):
    put(tree, "model.frozen_norms", True)
    this = trained(tree, tmp_path)
    statistics = {name: tensor for name, tensor in this.task.net.state_dict().items() if "running_mean" in name}
    assert statistics
    assert not any(tensor.any() for tensor in statistics.values())


def test_weights_of_another_network_are_refused(tree, tmp_path):
    this = trained(tree, tmp_path / "one")
    put(tree, "model.net.widths", [4, 12])
    other = trained(tree, tmp_path / "other")
    with pytest.raises(ValueError, match="does not fit this network"):
        this.evaluate(weights=tmp_path / "other/last.safetensors")
    assert other.evaluate().keys() == this.evaluate().keys()


def test_classification(tree, tmp_path):
    net = {
        "class_path": "glore.nets.small.small_classifier",
        "init_args": {"classes": 4, "widths": [16], "depths": [1], "strides": [2, 1]},
    }
    tree["model"] = {
        "class_path": "glore.train.classify.Classify",
        "init_args": {"net": net, "label_smoothing": 0.1, "channels_last": True},
    }
    tree["data"]["dataset"] = {"class_path": "made.Blobs"}
    put(tree, "epochs", 12)
    this = trained(tree, tmp_path)
    scores = this.evaluate()
    assert scores["top1"] > 0.9
    assert scores["top5"] == 1.0
    assert len(this.predict(tmp_path / "predictions")) == 40
    with (tmp_path / "predictions/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert rows[0]["class_1"] in {"red", "green", "blue", "grey"}
    assert sum(float(rows[0][f"probability_{k}"]) for k in range(1, 5)) == pytest.approx(1, abs=1e-4)


def test_segmentation_predicts_masks(tree, tmp_path):
    from PIL import Image

    this = trained(tree, tmp_path)
    assert len(this.predict(tmp_path / "masks")) == 48
    assert len(list((tmp_path / "masks").glob("*.png"))) == 48
    mask = Image.open(tmp_path / "masks/000003.png")
    picture = this.data.split("test")[3][0]
    expected = files.load(tmp_path / "last")(picture[None])[0].argmax(0)
    assert mask.size == (48, 48)
    assert np.array_equal(np.array(mask), expected.numpy())


@pytest.mark.unchecked
def test_masks_hold_more_classes_than_the_palette(tree, tmp_path, monkeypatch):
    from PIL import Image

    from glore.train.predict import Write

    classes = [str(k) for k in range(19)]
    dataset = type("Own", (list,), {"classes": classes})([0])
    writer = Write(tmp_path, dataset)
    logits = torch.eye(19)[torch.arange(19)].T[None, :, None]  # (1, 19, 1, 19)
    writer.write_on_batch_end(None, None, (torch.tensor([0]), logits), None, None, 0, 0)
    assert np.array(Image.open(tmp_path / "000000.png")).tolist() == [list(range(19))]


GOES_ON = "interrupted; the same command goes on from the last completed epoch"


@pytest.fixture
def heeding_interrupts():
    """As in a terminal: what a shell runs in the background is made to ignore SIGINT, tests too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding_interrupts")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_an_interrupted_training_says_how_to_go_on(tree, recipe_path, tmp_path, capsys, number):
    put(tree, "trainer.callbacks", [{"class_path": "made.Signal", "init_args": {"number": int(number)}}])
    recipe_path.write_text(json.dumps(tree))  # which YAML is
    assert main(["fit", "--config", str(recipe_path), "--out", str(tmp_path / "run")]) == 130
    assert GOES_ON in capsys.readouterr().err
    assert len((tmp_path / "run/curves.csv").read_text().splitlines()) == 2  # the head, and the epoch before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_whose_group_is_interrupted_says_how_to_go_on(recipe_path, tmp_path, number):
    """Its workers get the signal too: Ctrl-C and schedulers send it to all."""
    flags = ("--config", recipe_path, "--out", tmp_path, "--epochs", "5000", "--data.workers", "1")
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command("fit", *flags), preexec_fn=heed, start_new_session=True, **pipes) as process:
        try:
            deadline = time.monotonic() + 120
            while not (tmp_path / "curves.csv").is_file() and time.monotonic() < deadline:
                time.sleep(0.02)
            os.killpg(process.pid, number)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert GOES_ON in said


def command(*arguments):
    return [sys.executable, "-m", "glore.cli", *map(str, arguments)]


@pytest.mark.slow
def test_a_killed_comparison_goes_on_bit_for_bit(recipe_path, tmp_path, capsys, monkeypatch):
    """Killed in its second cell, after an epoch; the cells before are kept, and all ends as if nothing had happened."""
    variants = ("--variant", "plain", "--variant", "glore", "--seed", "0", "--epochs", "6")

    def compare(out):
        return ["compare", "--config", recipe_path, "--out", out, *variants]

    monkeypatch.setattr("glore.show.report.page", lambda grid: grid.out)  # not looked at
    assert main([*map(str, compare(tmp_path / "whole"))]) == 0
    process = subprocess.Popen(
        command(*compare(tmp_path / "killed")), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    second = tmp_path / "killed/glore/seed0"
    deadline = time.monotonic() + 120
    while not (second / "resume.ckpt").is_file() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (second / "result.json").exists(), "the run was over before it was killed"
    assert (second / "resume.ckpt").is_file(), "it was killed before there was anything to go on from"
    first = tmp_path / "killed/plain/seed0/last.safetensors"
    written = first.stat().st_mtime_ns
    capsys.readouterr()
    assert main([*map(str, compare(tmp_path / "killed"))]) == 0
    assert "glore − plain = " in capsys.readouterr().out
    assert first.stat().st_mtime_ns == written, "a finished cell was run again"
    for cell in ("plain/seed0", "glore/seed0"):
        for name in ("last.safetensors", "best.safetensors", "samples.safetensors"):
            assert same(tmp_path / "whole" / cell / name, tmp_path / "killed" / cell / name), (cell, name)
        assert (tmp_path / "whole" / cell / "curves.csv").read_text() == (
            tmp_path / "killed" / cell / "curves.csv"
        ).read_text()
    scores = [
        [
            {k: v for k, v in row.items() if k != "step_ms"}
            for row in csv.DictReader((tmp_path / out / "results.csv").read_text().splitlines())
        ]
        for out in ("whole", "killed")
    ]
    assert scores[0] == scores[1]
