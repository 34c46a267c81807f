"""The documentation does what it says: its Python blocks run, and so do its command lines, on small made data."""

import json
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("av")
pytest.importorskip("pytorch_lightning")
pytest.importorskip("sklearn")
import timm
from PIL import Image

import videos
from glore.cli import COMMANDS, main
from published import Published

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COLOURS = np.array([(30, 60, 220), (40, 200, 60), (220, 40, 30)])

# what makes a line with a recipe quick, appended to it; --config names the recipe
CLASSIFY = "--data.batch_size 4 --data.workers 0 --epochs 1 --model.old_rate 1 --trainer.accelerator cpu"
SEGMENT = "--data.dataset.preset.crop [32,32] --data.batch_size 2 --data.workers 0 --epochs 1 --trainer.accelerator cpu"
CELLS = "--variant plain --variant glore --seed 0"
SMALL = {
    "digits": "--data.dataset.scenes 48 --data.batch_size 16 --epochs 1 --model.net.widths [4,8] "
    "--model.net.depths [1,1]",
    "finetune": f"{CLASSIFY} --model.backbone test_resnet --model.net.pretrained false --model.net.units '{{res3: 1}}' "
    "--data.dataset.preset.size 32",
    "segment": f"{SEGMENT} --model.backbone test_resnet --model.net.pretrained false --model.old_rate 1",
    "cityscapes": f"{SEGMENT} --model.backbone test_resnet --model.net.pretrained false --model.old_rate 1 "
    "--trainer.precision 32-true",
    "camvid": f"{SEGMENT} --model.net.options '{{channels: [8, 8, 8, 8], stem_chs: 8}}'",
    "tennis": f"{CLASSIFY} --model.net.width 4 --data.dataset.frames 4 --data.dataset.preset.size 16",
    "kinetics400": f"{CLASSIFY} --data.dataset.frames 4 --data.dataset.preset.size 32 --trainer.precision 32-true",
    "imagenet": f"{CLASSIFY} --model.net.classes 3 --trainer.precision 32-true --data.dataset.preset.size 64",
}
PREPARED = {  # lines that a page takes for done on another one
    "maps.md": [
        "glore fit --config finetune --data.root my_pictures --out runs/mine",
        "glore fit --config digits --out runs/demo/glore/seed0",
    ],
    "export.md": ["glore fit --config finetune --data.root my_pictures --out runs/mine"],
    "publish.md": ["glore fit --config finetune --data.root my_pictures --out runs/mine"],
}
EXCLUDED = {  # how a line begins, and why it is not run
    "glore publish --out runs/mine --to my-network --push": "needs the hub",
    "make ": "makes an environment, or takes minutes",
    "torchrun ": "several devices; tests/train/test_processes.py runs two processes",
    "srun ": "needs SLURM",
    "#SBATCH ": "needs SLURM",
    "variants=(": "a shell's",
    "glore compare --config cifar10 --data.root cifar10 --out": "a job array's, or the measurement itself",
    "glore fit --config camvid --data.root camvid --model.backbone": "another network than SMALL's, some minutes",
    "glore compare --config finetune --data.root cifar10_small": "the measurement itself, an hour",
    "glore compare --config camvid --data.root camvid --model.backbone": "likewise",
    "glore compare --config camvid --data.root camvid --variant": "likewise",
    "glore compare --config benchmarks/camvid_narrow.yaml": "likewise",
}


def blocks(page):
    """The fenced blocks of a page that can be run, in order: lists of command lines without comments, and Python."""
    known = (*(f"glore {name}" for name in COMMANDS), *EXCLUDED)
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        lines = re.sub(r"\\\n\s*", "", text).splitlines()
        commands = [line.split("  #")[0].strip() for line in lines if line.startswith(known)]
        if language == "python":
            yield text
        elif not language and commands:
            yield commands


def small(line):
    """The arguments of a line, with what makes it quick."""
    arguments = shlex.split(line)[1:]
    if "--config" in arguments and arguments[0] in ("fit", "compare"):
        name = arguments[arguments.index("--config") + 1]
        arguments += shlex.split(SMALL[name])
        if arguments[0] == "compare" and "--variant" not in arguments:
            arguments += shlex.split(CELLS)
    return [*arguments, "--size", "64", "--seconds", "0"] if arguments[0] == "measure" else arguments


def picture(draw, labels):
    noise = draw.integers(-20, 20, (*labels.shape, 3))
    return Image.fromarray((COLOURS[labels] + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with data by the names that the documentation gives them."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    kinds = {"my_pictures": ("cat", "dog", "fox"), "imagenet/train": ("a", "b", "c"), "imagenet/val": ("a", "b", "c")}
    for root, classes in kinds.items():
        for label, name in enumerate(classes):
            for i in range(5):
                path = Path(root, name, f"{i}.jpg")
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(draw, np.full((40, 48), label)).save(path)
    for folder in ("more", "more_photos"):
        Path(folder).mkdir()
        picture(draw, np.zeros((64, 80), int)).save(f"{folder}/1.png")
    for name in ("photo.jpg", "street.jpg"):
        picture(draw, np.eye(80, 96, dtype=int)).save(name)
    Path("list.txt").write_text("photo.jpg\nmore/1.png\n")
    scenes(draw, "my_scenes/images/{}/{}.jpg", "my_scenes/masks/{}/{}.png", ("train", "val"))
    Path("my_scenes/classes.txt").write_text("sky\nroad\ncar\n")
    scenes(draw, "camvid/{}/{}.png", "camvid/{}annot/{}.png", ("train", "val"))
    city = "cityscapes/{kind}/{{}}/ulm/ulm_00000{{}}_000019_{end}.png"
    target = city.format(kind="gtFine", end="gtFine_labelIds")
    scenes(draw, city.format(kind="leftImg8bit", end="leftImg8bit"), target, ("train", "val", "test"), 7)
    for path in Path("cityscapes").rglob("*_labelIds.png"):
        Image.open(path).save(str(path).replace("labelIds", "instanceIds"))
    table = ["path,label,split"]
    for label, name in enumerate(("serve", "smash", "lob", "b", "c", "d", "e")):
        for i in range(3):
            frames = [np.asarray(picture(draw, np.full((24, 32), label % 3))) for _ in range(10)]
            videos.write(Path("my_clips", name, f"{i}.mp4"), frames)
            table.append(f"{name}/{i}.mp4,{name},{'val' if i == 2 else 'train'}")
    Path("my_clips/clips.csv").write_text("\n".join(table) + "\n")
    Path("my_clips/serve/0.mp4").rename("match.mp4")
    table.pop(1)
    Path("my_clips/clips.csv").write_text("\n".join(table) + "\n")
    for split in ("train", "val"):
        Path(f"kinetics_{split}_avi.txt").write_text("0\t3\tserve/1.mp4\n")
    monkeypatch.setattr("glore.measure.peaks_mib", lambda net, shape, kinds, device: dict.fromkeys(kinds, 1.0))
    unit = SimpleNamespace(GloRe_Unit_2D=Published)
    monkeypatch.setitem(sys.modules, "network.global_reasoning_unit", unit)  # where the published code has it
    return tmp_path


def scenes(draw, pictures, masks, splits, shift=0):
    """Pictures of three classes and their masks, the names of whose files take the split and a number."""
    for split in splits:
        for i in range(3):
            labels = np.kron(draw.integers(0, 3, (2, 2)), np.ones((24, 32), int))
            for path, image in (
                (Path(pictures.format(split, i)), picture(draw, labels)),
                (Path(masks.format(split, i)), Image.fromarray((labels + shift).astype(np.uint8))),
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)


QUICK = ("README.md", "insert.md", "maps.md", "migrate.md", "publish.md")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    "page",
    [page if page.name in QUICK else pytest.param(page, marks=pytest.mark.slow) for page in PAGES if [*blocks(page)]],
    ids=lambda page: page.name,
)
def test_a_page_does_what_it_says(page, world, capsys):
    """Its command lines run, each ending well, and its Python blocks, in one namespace."""
    text, names = page.read_text(), {}
    if "efficientnet-lite0.pth" in text:
        torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), "efficientnet-lite0.pth")
    if "checkpoint.pth" in text:
        published = json.loads((ROOT / "tests/golden/video_resnet50.json").read_text())
        torch.save({name: torch.zeros(shape) for name, shape in published["state_dict"]}, "checkpoint.pth")
    for block in (PREPARED.get(page.name, []), *blocks(page)):
        if isinstance(block, str):
            exec(compile(block, page.name, "exec"), names)
            continue
        for line in block:
            if line.startswith(tuple(EXCLUDED)):
                continue
            code = main(small(line))
            said = capsys.readouterr()
            assert code == 0, f"{line}\nas: {small(line)}\n{said.out}{said.err}"
