"""The commands that use networks: score them, ask them, look into them, hand them on."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from glore.commands.options import SIDES, Command, Once, default_out, positive, sides

if TYPE_CHECKING:
    from glore.train.run import Run

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}  # of exported files


def _using(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of a run that `glore fit` made")
    parser.add_argument("--config", action=Once, metavar="RECIPE", help="another recipe than the run's own")
    parser.add_argument(
        "--weights",
        default="last",
        metavar="W",
        help="last (default), best, a .safetensors file, or start: what the recipe's network starts with",
    )


def _of_folder(options: argparse.Namespace, flags: list[str], alone: bool = True) -> Run:
    """The run of a folder; alone: on one device of this machine, whatever trained it, unless a flag says otherwise."""
    from glore.train import recipe, run, tree
    from glore.train.progress import Progress

    if not options.out and not options.config:
        raise ValueError("give --out DIR, the folder of a run, or --config RECIPE")
    options.out = options.out or default_out(options.config)
    own = options.out / run.RECIPE
    if not options.config and not own.is_file():
        raise FileNotFoundError(f"--out {options.out} holds no run: train one with glore fit --config RECIPE --out DIR")
    one = ("--trainer.accelerator=auto", "--trainer.strategy=auto", "--trainer.devices=1", "--trainer.num_nodes=1")
    parsed = recipe.Recipe(tree.read(["--config", options.config or str(own), *(one if alone else ()), *flags]))
    return run.prepare(parsed, options.out, Progress(), empty=options.weights != "start")


def _folder(options: argparse.Namespace, name: str) -> Path:
    """Where to write: the folder of --to, or else one of the run's."""
    folder: Path = options.to or options.out / name
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--to {folder} is a file: give a folder")
    return folder


def validate(options: argparse.Namespace, flags: list[str]) -> int:
    """Print the scores on the validation split."""
    from glore.train import run

    scores = _of_folder(options, flags, alone=False).evaluate("val", options.weights)
    if run.first_process():
        _print_scores(scores)
    return 0


def test(options: argparse.Namespace, flags: list[str]) -> int:
    """Print the scores on the test split, and show which classes are taken for which."""
    from glore.show import classes
    from glore.train import run

    this = _of_folder(options, flags, alone=False)
    scores = this.evaluate("test", options.weights)
    if run.first_process():
        _print_scores(scores)
        with suppress(Exception):  # there may be no val here
            if this.data.tested_on == "val":
                chosen = ", which chose these weights" if options.weights == "best" else ""
                print(f"of the samples of val{chosen}: there are none for testing alone")
        print(*classes.write(this, options.out / "test"), sep="\n")
    return 0


def _print_scores(scores: dict[str, float]) -> None:
    width = max(map(len, scores))
    for name, score in scores.items():
        print(f"{name:{width}} {score:.4f}")


def _predicting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="pictures, videos, folders, or .txt lists of pictures"
    )
    _using(parser)
    parser.add_argument("--to", type=Path, metavar="DIR", help="where to write (default: OUT/predictions)")
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="classes told of each sample (default: 5)")


def predict(options: argparse.Namespace, flags: list[str]) -> int:
    """Write predictions for pictures, or for the test split."""
    this = _of_folder(options, flags)
    folder = _folder(options, "predictions")
    replaced = (folder / "predictions.csv").is_file()
    before = {path.name for path in folder.glob("*.png")} if replaced else set()
    rows = this.predict(folder, options.weights, options.paths, options.top, options.to is None or replaced)
    for row in rows if options.paths else [row for row in rows if "error" in row]:
        print(row["name"] + (f"  {row['from_s']:.1f} to {row['to_s']:.1f} s" if "from_s" in row else ""))
        if "error" in row:
            print(f"  {row['error']}")
        if "mask" in row:
            print(f"  {folder / row['mask']}")
        for place in range(1, options.top + 1):
            if f"class_{place}" in row:
                print(f"  {100 * row[f'probability_{place}']:5.1f} %  {row[f'class_{place}']}")
        print()
    masks = {row["mask"] for row in rows if "mask" in row}
    kept = len(before - masks) if masks else 0
    earlier = ", in place of earlier ones: another --to DIR keeps both" if replaced else ""
    if kept:
        earlier = f", beside {kept} earlier ones of other pictures: another --to DIR keeps them apart"
    faults = sum("error" in row for row in rows)
    unread = f"; could not be read: {faults}" if faults else ""
    print(f"{len(rows) - faults} predictions in {folder}{earlier}{unread}")
    return 1 if faults else 0


def _mapping(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="as predict takes them; the test split by default"
    )
    _using(parser)
    parser.add_argument("--to", type=Path, metavar="DIR", help="where to write (default: OUT/maps)")
    parser.add_argument("--samples", type=positive, default=8, metavar="N", help="how many, from all over (default: 8)")
    parser.add_argument(
        "--nodes", type=positive, default=4, metavar="N", help="maps of each unit in a picture (default: 4)"
    )
    parser.add_argument(
        "--unit", action="append", default=[], metavar="PATH", help="only this; may be given repeatedly"
    )


def maps(options: argparse.Namespace, flags: list[str]) -> int:
    """Draw what the nodes of each GloRe unit look at."""
    from glore.show import viewer

    this = _of_folder(options, flags)
    this.load(options.weights)
    if options.paths:
        this.take_files(options.paths, options.weights)
    folder = _folder(options, "maps")
    folder.mkdir(parents=True, exist_ok=True)
    looks, faults = viewer.looks(this, options.samples, options.unit)
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    if not looks:
        raise ValueError("there is no sample to look at")
    grids = viewer.grids(looks, folder, options.nodes, options.to is None or (folder / viewer.PAGE).is_file())
    print(viewer.mixing(looks[0].units, folder), *grids, sep="\n")
    total = len(this.data.split("test"))
    told = f"{len(looks)} of {total} samples; --samples {total} for all" if total > options.samples else ""
    title = f"{'/'.join(options.out.resolve().parts[-2:])}, weights: {Path(options.weights).name}"
    print(f"page: {viewer.page(looks, folder, title)}" + (f" ({told})" if told else ""))
    return 1 if faults else 0


def _exporting(parser: argparse.ArgumentParser) -> None:
    _using(parser)
    parser.add_argument("--to", type=Path, metavar="PATH", help="file or folder (default: OUT/WEIGHTS.onnx)")
    parser.add_argument(
        "--format", choices=list(SUFFIXES), help="onnx (default), or torch: a program of torch.export, .pt2"
    )
    parser.add_argument("--fold", action="store_true", help="put batch norms into the convolutions before them")
    parser.add_argument("--size", type=sides, metavar="HxW", help=f"{SIDES} (default: as in the recipe)")
    parser.add_argument("--fixed-size", action="store_true", help="take inputs of that size only, in batches of any")


def export(options: argparse.Namespace, flags: list[str]) -> int:
    """Write a trained network as a file that runs without this library."""
    import torch

    from glore.export import to_onnx, to_program
    from glore.fold import folded

    this = _of_folder(options, flags)
    path = _exported(options)
    this.load(options.weights)
    net = this.task.net
    try:
        size = this.input_size(options.size)
    except FileNotFoundError as error:
        raise ValueError(f"the size of an input is not known ({error}): give --size, such as --size 224") from error
    if options.fold:
        net = folded(net, torch.randn(1, *size))
    about = {name: json.dumps(value) for name, value in this.about(options.weights).items()}
    write = to_onnx if path.suffix == SUFFIXES["onnx"] else to_program
    moved = write(net, path, size, free_size=not options.fixed_size, metadata=about)
    sides = " × ".join(map(str, size[1:]))
    print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")
    print(f"input: batches of {size[0]} channels, {sides}" + ("" if options.fixed_size else " or any other size"))
    print(f"its output differs from the network's by {moved:.1e} of the largest number, on other inputs")
    return 0


def _exported(options: argparse.Namespace) -> Path:
    """The file to write, whose suffix tells its format."""
    to: Path = options.to or options.out
    if to.suffix in SUFFIXES.values() and not to.is_dir():
        if options.format and to.suffix != SUFFIXES[options.format]:
            raise ValueError(f"--to {to}: a file of --format {options.format} ends in {SUFFIXES[options.format]}")
        return to
    return to / f"{Path(options.weights).stem}{SUFFIXES[options.format or 'onnx']}"


def _publishing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of a run that `glore fit` made")
    parser.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="where to write: a new folder, or one published before"
    )
    parser.add_argument("--weights", choices=("last", "best"), default="last", help="default: last")
    parser.add_argument("--test", action="store_true", help="score them on the test data first, for the card")
    parser.add_argument("--dataset", metavar="NAME", help="name of the data set (default: that of its class)")
    parser.add_argument("--license", metavar="ID", help="for the card, as the hub names it: mit, apache-2.0, …")
    parser.add_argument("--push", metavar="USER/NAME", help="upload the folder to the Hugging Face hub")
    parser.add_argument("--private", action="store_true", help="where only you see it")


def publish(options: argparse.Namespace, flags: list[str]) -> int:
    """Write a trained network into a folder that others can load, and upload it if asked."""
    from glore import hub

    if options.private and not options.push:
        raise ValueError("--private is about the hub: give --push USER/NAME as well")
    options.config = None
    about = {"test": options.test, "dataset": options.dataset, "license": options.license, "name": options.push}
    folder = hub.save_run(_of_folder(options, flags), options.to, options.weights, **about)
    print(*sorted(path for path in folder.iterdir() if path.is_file()), sep="\n")
    if options.push:
        print(f"pushed: {hub.push_to_hub(folder, options.push, private=options.private)}")
    return 0


COMMANDS = {
    "validate": Command(
        "Score a trained network on its validation data", "glore validate --out runs/one", _using, validate
    ),
    "test": Command(
        "Score a trained network on its test data", "glore test --out runs/one --weights best", _using, test
    ),
    "predict": Command(
        "Tell what a trained network sees in pictures or videos, or in its test data",
        "glore predict --out runs/one photo.jpg more_photos/",
        _predicting,
        predict,
    ),
    "maps": Command(
        "Draw what the nodes of a network's GloRe units look at, in pictures and on a page",
        "glore maps photo.jpg --out runs/one",
        _mapping,
        maps,
    ),
    "export": Command(
        "Write a trained network as an ONNX file, or as a program of torch.export",
        "glore export --out runs/one --weights best --to net.onnx --fold",
        _exporting,
        export,
    ),
    "publish": Command(
        "Write a trained network into a folder that others can load, with a model card",
        "glore publish --out runs/one --to my-network --weights best --license mit",
        _publishing,
        publish,
    ),
}
