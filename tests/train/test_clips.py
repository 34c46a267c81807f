"""From a folder of videos to predictions over time: the everyday use, with what goes wrong in it."""

import csv

import numpy as np
import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("torchvision")

import glore
from glore.cli import main
from glore.data.decode import SUFFIXES
from glore.data.folders import listed
from glore.train import run as runs
from glore.train.recipe import Recipe
from glore.train.tree import read
from stepped import step
from videos import audio_only, write

COLOURS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}


def clip(draw, colour, count=12):
    return (np.array(colour) + draw.integers(-30, 30, (count, 24, 40, 3))).clip(0, 255)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    draw = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        for i in range(8):
            write(root / name / f"{i}.mp4", clip(draw, colour))
    return root


@pytest.fixture
def videos(made, tmp_path):
    root = tmp_path / "videos"
    for path in made.rglob("*.mp4"):
        target = root / path.relative_to(made)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return root


def flags(root, *more):
    return [
        *("--config", "tennis", "--data.dataset", "glore.data.clips.ClipFolder", "--data.root", str(root)),
        *("--data.dataset.frames", "4", "--data.dataset.stride_frames", "2", "--data.batch_size", "6"),
        *("--data.dataset.preset", "{class_path: glore.data.frames.Frames, init_args: {size: 16, jitter: 0}}"),
        *("--model.net.width", "4", "--model.net.classes", "3", "--model.optimizer.lr", "0.01", "--epochs", "12"),
        *("--data.workers", "0", "--trainer.accelerator", "cpu", "--model.schedule.warmup", "0", *more),
    ]


def test_from_a_folder_to_predictions_over_time(videos, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["fit", *flags(videos), "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["test", "--out", str(out), "--data.dataset.clips", "3", "--data.dataset.preset.crops", "3"]) == 0
    assert "top1" in capsys.readouterr().out
    draw = np.random.default_rng(1)
    both = write(tmp_path / "both.mp4", [*clip(draw, COLOURS["red"], 8), *clip(draw, COLOURS["blue"], 8)])
    (tmp_path / "broken.mp4").write_text("no video")
    assert main(["predict", str(both), str(tmp_path / "broken.mp4"), "--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert "both.mp4  0.0 to 0.3 s" in said
    assert "broken.mp4 cannot be read as a video" in said
    with (out / "predictions/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class_1"] for row in rows] == ["red", "blue", ""]
    assert [row["from_s"] for row in rows] == ["0.0", "0.32", ""]
    assert main(["maps", str(both), "--out", str(out), "--to", str(tmp_path / "maps")]) == 0
    assert sorted(path.name for path in (tmp_path / "maps").glob("*.gif")) == ["both_0.0s.gif", "both_0.3s.gif"]


def test_another_data_set_keeps_the_arguments_that_it_takes_too():
    recipe = Recipe(read(["--config", "tennis", "--data.dataset", "glore.data.clips.ClipFolder", "--data.root", "x"]))
    arguments = recipe.resolved["data"]["dataset"]["init_args"]
    assert (arguments["root"], arguments["frames"], arguments["stride_frames"]) == ("x", 8, 7)
    assert arguments["preset"]["init_args"]["size"] == [96, 208]
    assert "table" not in arguments


def test_views_are_averaged(videos, tmp_path):
    views = ("--data.dataset.clips", "2", "--data.dataset.preset.crops", "3")
    this = runs.prepare(Recipe(read(flags(videos, "--epochs", "1", *views))), tmp_path / "run")
    this.fit()
    this.evaluate("test")
    counts = torch.stack(list(this.task.samples.values()))
    net, data = this.task.net.eval(), this.data.split("test")
    with torch.no_grad():
        told = [net(data[i][0]).softmax(1).mean(0).argmax().item() for i in range(len(data))]
    assert counts[:, 4].tolist() == told


def break_some(root):
    """A folder of what video folders are full of; returns the files that cannot be used."""
    draw = np.random.default_rng(2)
    odd = clip(draw, COLOURS["red"], 9)[:, :23, :39]
    write(root / "red/odd.mkv", odd, codec="ffv1", pixels="yuv444p")
    write(root / "red/deep.mp4", clip(draw, COLOURS["red"], 9), pixels="yuv420p10le")
    write(root / "red/single.mp4", clip(draw, COLOURS["red"], 1))
    write(root / "red/uneven.mkv", clip(draw, COLOURS["red"], 9), times=[0, 1, 9, 10, 30, 31, 32, 70, 71])
    whole = write(root / "red/cut.mkv", clip(draw, COLOURS["red"], 12), g=1)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    broken = {"empty": b"", "text": b"no video", "cut": (root / "red/0.mp4").read_bytes()[:500]}
    for name, data in broken.items():
        (root / f"red/{name}.mp4").write_bytes(data)
    audio_only(root / "red/audio.mp4")
    return {f"{name}.mp4" for name in (*broken, "audio")}


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_scan_names_what_cannot_be_used(videos, tmp_path, capsys, workers):
    broken = break_some(videos)
    (videos / "red/link.mp4").symlink_to(videos / "red/1.mp4")
    arguments = ["scan", *flags(videos, "--data.workers", workers), "--out", str(tmp_path / "scan")]
    assert main(arguments) == 1
    said = capsys.readouterr().out
    count = len(list(videos.rglob("*.*")))
    assert f"{count} files, of which {len(broken)} cannot be used" in said
    with (tmp_path / "scan/scan.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["name"].rpartition("/")[2] for row in rows if row["fault"]} == broken
    good = listed([tmp_path / "scan/good.txt"], SUFFIXES, "videos")
    assert len(good) == count - len(broken)
    assert all(path.is_file() and path.is_absolute() for path in good)
    assert "link.mp4" in {path.name for path in good}, "by the data set's own names"

    (videos / "red/text.mp4").write_bytes((videos / "red/1.mp4").read_bytes())  # mended
    table = (tmp_path / "scan/scan.csv").read_bytes()
    other = table[:-30].replace(b"train,", b"val,")  # a scan that was stopped, of files that were in other splits
    (tmp_path / "scan/scan.csv").write_bytes(other)
    assert main(arguments) == 1
    assert f"{count} files, of which {len(broken) - 1} cannot be used" in capsys.readouterr().out
    with (tmp_path / "scan/scan.csv").open() as file:
        assert {(row["name"], row["split"]) for row in csv.DictReader(file)} == {(r["name"], r["split"]) for r in rows}


def test_what_kinds_of_videos_can_be_trained_on(videos, tmp_path):
    """Odd sizes, ten bits, a single frame, an uneven rate, a cut file: all but the broken ones, which are few."""
    for name in break_some(videos):
        (videos / "red" / name).unlink()
    this = runs.prepare(Recipe(read(flags(videos, "--epochs", "2"))), tmp_path / "run")
    this.fit()
    assert not (tmp_path / "run/broken.csv").exists()


def test_a_video_that_cannot_be_read_is_replaced_and_named(videos, tmp_path):
    made = Recipe(read(flags(videos, "--epochs", "2")))
    path, _ = made.make()[1].split("train").samples[0]
    path.write_bytes(b"")
    this = runs.prepare(made, tmp_path / "run")
    this.fit()
    with (tmp_path / "run/broken.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == [str(path)]


ROWS = Recipe(read(["--config", "kinetics400"])).comparison.variants
QUICK = ("resnet50 glore",)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ROWS])
def test_a_row_of_kinetics_is_built_and_stepped(tmp_path, name):
    head = "label,youtube_id,time_start,time_end,split\n"
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        rows = ""
        for label in ("abseiling", "zumba"):
            write(tmp_path / split / label / "abc_000001_000011.mp4", clip(draw, (90, 90, 90), 4))
            rows += f"{label},abc,1,11,{split}\n"
        (tmp_path / f"{split}.csv").write_text(head + rows)
    recipe = Recipe(
        read(
            [
                *("--config", "kinetics400", "--data.root", str(tmp_path), "--data.dataset.preset.size", "32"),
                *("--data.batch_size", "2", "--data.workers", "0", "--trainer.accelerator", "cpu"),
                *("--data.dataset.frames", "4", "--model.net.classes", "2"),
            ],
            name,
        )
    )
    task, data = recipe.make()
    assert len(glore.units_of(task.net)) == (0 if name in ("resnet50", "resnet101") else 5)
    if "glore" in name:
        assert not any(unit.normalize for unit in glore.units_of(task.net).values())
    step(task, data)
