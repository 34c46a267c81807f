"""What `glore` can do: the options of each command, and what it runs; imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from glore.train.run import Run

SIDES = "sides of an input: 224, 1024x2048, or of clips 8x224x224"
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}  # of exported files


class Once(argparse.Action):
    """Keeps a value, and refuses a second one."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values, option=None) -> None:  # type: ignore[no-untyped-def]
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option} is given twice")
        setattr(namespace, self.dest, values)


class Command(NamedTuple):
    """A subcommand."""

    summary: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, list[str]], int]


def _recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", action=Once, required=True, metavar="RECIPE", help="path of a recipe, or name of a shipped one"
    )


def _using(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of a run that `glore fit` made")
    parser.add_argument("--config", action=Once, metavar="RECIPE", help="another recipe than the run's own")
    parser.add_argument(
        "--weights",
        default="last",
        metavar="W",
        help="last (default), best, a .safetensors file, or start: what the recipe's network starts with",
    )


def _comparing(parser: argparse.ArgumentParser) -> None:
    _recipe(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the comparison (default: runs/RECIPE)")
    parser.add_argument("--variant", action="append", default=[], help="only this variant; may be given more than once")
    parser.add_argument("--seed", action="append", type=int, default=[], help="only this seed; likewise")


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")


def demo(options: argparse.Namespace, flags: list[str]) -> int:
    """Compare a plain network with squeeze-and-excitation, non-local and GloRe on the odd digit."""
    from glore.train import recipe, tree

    compared = _compared("digits", flags)
    variants = recipe.Recipe(compared).comparison.demo or []
    tree.put(compared, "compare.seeds", [options.seed])
    return _compare(compared, options.out, variants, [options.seed])


def compare(options: argparse.Namespace, flags: list[str]) -> int:
    """Run the cells that are not finished, then tell what came out."""
    return _compare(
        _compared(options.config, flags), options.out or _default_out(options.config), options.variant, options.seed
    )


def _compared(config: str, flags: list[str]) -> dict[str, object]:
    from glore.train import tree

    if any(flag.partition("=")[0] == "--seed_everything" for flag in flags):
        raise ValueError("--seed_everything: a comparison has a seed for each cell; give --seed N, or compare.seeds")
    return tree.read(["--config", config, *flags])


def _compare(tree: dict[str, object], out: Path, variants: list[str], seeds: list[int]) -> int:
    from glore.show import report
    from glore.train import compare, run

    grid = compare.grid(tree, out, seeds=seeds)
    chosen = grid.pick(variants, seeds)
    if not all(cell.result() for cell in chosen):
        print(f"trainings: {len(chosen)}, each at most once; stop and go on at any time with the same command")
    failures = 0
    for message in compare.run(grid, chosen):
        failures += 1
        print(f"glore: {message}", file=sys.stderr)
    if grid.finished() and run.first_process():
        print(report.results(grid))
        print(f"page: {report.page(grid)}")
    return 1 if failures else 0


def _running(parser: argparse.ArgumentParser) -> None:
    _recipe(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--variant", action=Once, help="one of those that the recipe compares")


def fit(options: argparse.Namespace, flags: list[str]) -> int:
    """Train, or go on where it stopped."""
    from glore.train import recipe, run, tree
    from glore.train.folder import RESUME
    from glore.train.progress import Progress

    out = options.out or _default_out(options.config)
    parsed = recipe.Recipe(tree.read(["--config", options.config, *flags], options.variant))
    with run.claimed(out, parsed), closing(Progress()) as progress:
        progress.begin(out.name)
        run.prepare(parsed, out, progress, empty=(out / RESUME).is_file()).fit()
    if run.first_process():
        names = ("last.safetensors", "best.safetensors", "curves.csv")
        print(*(str(path) for name in names if (path := out / name).is_file()), sep="\n")
        print(f"next: glore test --out {out}")
    return 0


def validate(options: argparse.Namespace, flags: list[str]) -> int:
    """Print the scores on the validation split."""
    _print_scores(_of_folder(options, flags).evaluate("val", options.weights))
    return 0


def test(options: argparse.Namespace, flags: list[str]) -> int:
    """Print the scores on the test split, and show which classes are taken for which."""
    from glore.show import report
    from glore.train import run

    this = _of_folder(options, flags)
    _print_scores(this.evaluate("test", options.weights))
    if run.first_process():
        print(*report.classes(this, options.out / "test"), sep="\n")
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


def predict(options: argparse.Namespace, flags: list[str]) -> int:
    """Write predictions for pictures, or for the test split."""
    this = _of_folder(options, flags)
    folder = options.to or options.out / "predictions"
    replaced = (folder / "predictions.csv").is_file()
    rows = this.predict(folder, options.weights, options.paths)
    for row in rows if options.paths else [row for row in rows if "error" in row]:
        print(row["name"] + (f"  {row['from_s']:.1f} to {row['to_s']:.1f} s" if "from_s" in row else ""))
        if "error" in row:
            print(f"  {row['error']}")
        if "mask" in row:
            print(f"  {folder / row['mask']}")
        for place in range(1, 6):
            if f"class_{place}" in row:
                print(f"  {100 * row[f'probability_{place}']:5.1f} %  {row[f'class_{place}']}")
        print()
    print(f"{len(rows)} predictions in {folder}" + ", in place of earlier ones: another --to DIR keeps both" * replaced)
    return 1 if any("error" in row for row in rows) else 0


def _mapping(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="as predict takes them; the test split by default"
    )
    _using(parser)
    parser.add_argument("--to", type=Path, metavar="DIR", help="where to write (default: OUT/maps)")
    parser.add_argument(
        "--samples", type=_positive, default=8, metavar="N", help="how many, from all over (default: 8)"
    )
    parser.add_argument(
        "--nodes", type=_positive, default=4, metavar="N", help="maps of each unit in a picture (default: 4)"
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
        this.open(options.paths, options.weights)
    folder = options.to or options.out / "maps"
    folder.mkdir(parents=True, exist_ok=True)
    faults: list[str] = []
    looks = list(viewer.looks(this, options.samples, options.unit, faults))
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    if not looks:
        raise ValueError("there is no sample to look at")
    for path in viewer.grids(looks, folder, options.nodes):
        print(path)
    print(viewer.mixing(looks[0].units, folder))
    total = len(this.data.split("test"))
    told = f"{len(looks)} of {total} samples; --samples {total} for all" if total > options.samples else ""
    title = f"{'/'.join(options.out.resolve().parts[-2:])}, weights: {Path(options.weights).name}"
    print(f"page: {viewer.page(looks, folder, title)}" + (f" ({told})" if told else ""))
    return 1 if faults else 0


def _measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NETWORK",
        help="name of a network of timm's, import path of one of ours or yours, or folder of a run",
    )
    parser.add_argument("--config", action=Once, metavar="RECIPE", help="the networks of a recipe's variants")
    parser.add_argument("--variant", action="append", default=[], help="only this variant; may be given more than once")
    parser.add_argument("--size", type=_sides, metavar="HxW", help=f"{SIDES} (default: as the network declares)")
    parser.add_argument("--batch", type=_positive, default=1, metavar="N", help="samples (default: 1)")
    parser.add_argument("--training", action="store_true", help="measure forward and backward in training mode, too")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="for times, once each was taken three times (default: 10)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")


def measure(options: argparse.Namespace, flags: list[str]) -> int:
    """Tell what networks cost."""
    from glore import measure
    from glore.show import tables

    networks = {name: _constructor(name) for name in options.names}
    if options.config:
        from glore.train import recipe, tree

        given = ["--config", options.config, *flags]
        for variant in options.variant or recipe.Recipe(tree.read(given)).comparison.variants:
            networks[variant] = recipe.Recipe(tree.read(given, variant)).constructor
    elif flags:
        option = flags[0].partition("=")[0]
        raise ValueError(f"{option} is no option of glore measure; see glore measure --help")
    if not networks:
        raise ValueError("give the names of networks, or --config RECIPE")
    rows = measure.costs(networks, options.size, options.batch, options.training, options.device, options.seconds)
    print(json.dumps(rows, indent=2) if options.json else tables.costs(rows))
    return 0


def _constructor(name: str) -> dict[str, object]:
    """How a network is made that is called by its name in timm, its import path or the folder of its run."""
    from glore.weights import files

    if Path(name).is_dir():
        return files.constructor_in(Path(name) / "last.json")
    if "/" in name:
        raise FileNotFoundError(f"{name}: no such folder; give that of a run, a network's name in timm or import path")
    if "." in name:
        return {"class_path": name}
    if name.startswith("glore_"):
        from glore.hub import BACKBONES

        name = name.removeprefix("glore_")
        if name in BACKBONES:
            arguments = {"name": name, "units": BACKBONES[name].units}
            return {"class_path": "glore.nets.images.backbone", "init_args": arguments}
    return {"class_path": "glore.nets.images.backbone", "init_args": {"name": name}}


def _exporting(parser: argparse.ArgumentParser) -> None:
    _using(parser)
    parser.add_argument("--to", type=Path, metavar="PATH", help="file or folder (default: OUT/WEIGHTS.onnx)")
    parser.add_argument(
        "--format", choices=list(SUFFIXES), help="onnx (default), or torch: a program of torch.export, .pt2"
    )
    parser.add_argument("--fold", action="store_true", help="put batch norms into the convolutions before them")
    parser.add_argument("--size", type=_sides, metavar="HxW", help=f"{SIDES} (default: as in the recipe)")
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
        net = folded(net, torch.zeros(1, *size))
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


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 is needed")
    return int(text)


def _sides(text: str) -> list[int]:
    """The sides of an input; of a square, one is enough."""
    try:
        sides = [_positive(side) for side in text.lower().split("x")]
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give {SIDES}") from error
    return sides * 2 if len(sides) == 1 else sides


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


def _scanning(parser: argparse.ArgumentParser) -> None:
    _recipe(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: runs/RECIPE/scan)")


def scan(options: argparse.Namespace, flags: list[str]) -> int:
    """Read every file of the data once, and tell which ones are missing or broken."""
    from glore.train import recipe, tree
    from glore.train.scan import GOOD, SCAN, scan

    data = recipe.Recipe(tree.read(["--config", options.config, *flags])).make_data()
    out = options.out or _default_out(options.config) / "scan"
    rows = scan(data, out)
    faults = [row for row in rows if row["fault"]]
    for row in faults[:20]:
        print(f"{row['name']}: {row['fault']}")
    if len(faults) > 20:
        print(f"… and {len(faults) - 20} more")
    print(f"{len(rows)} files, of which {len(faults)} cannot be used: {out / SCAN}; the others: {out / GOOD}")
    return 1 if faults else 0


def _named(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="path or name; without one, the names of the shipped recipes")


def show_recipe(options: argparse.Namespace, flags: list[str]) -> int:
    """Print a recipe with every value, or the names of all."""
    import yaml

    from glore.train import recipe, tree

    if options.name is None:
        print("\n".join(tree.names()))
        return 0
    parsed = recipe.Recipe(tree.read(["--config", options.name, *flags]))
    print(yaml.safe_dump(parsed.resolved, sort_keys=False), end="")
    return 0


def _default_out(config: str) -> Path:
    return Path("runs") / Path(config).stem


def _of_folder(options: argparse.Namespace, flags: list[str]) -> Run:
    from glore.train import recipe, run, tree
    from glore.train.progress import Progress

    if not options.out and not options.config:
        raise ValueError("give --out DIR, the folder of a run, or --config RECIPE")
    options.out = options.out or _default_out(options.config)
    own = options.out / run.RECIPE
    if not options.config and not own.is_file():
        raise FileNotFoundError(f"--out {options.out} holds no run: train one with glore fit --config RECIPE --out DIR")
    parsed = recipe.Recipe(tree.read(["--config", options.config or str(own), *flags]))
    return run.prepare(parsed, options.out, Progress(), empty=options.weights != "start")


COMMANDS = {
    "demo": Command(
        "Compare units on a small task, from nothing to a page of results", "glore demo", _demo_options, demo
    ),
    "compare": Command(
        "Train a recipe's variants and seeds, and tell which unit is worth it",
        "glore compare --config digits --out runs/digits --variant glore --variant plain",
        _comparing,
        compare,
    ),
    "fit": Command(
        "Train one network",
        "glore fit --config digits --out runs/one --epochs 2 --model.optimizer.lr 0.005",
        _running,
        fit,
    ),
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
    "measure": Command(
        "Count a network's parameters and multiply-adds, and measure its time and memory",
        "glore measure resnet50 glore_resnet50 --size 224 --training",
        _measuring,
        measure,
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
    "scan": Command(
        "Read every file of a data set once, and tell which ones are missing or broken",
        "glore scan --config kinetics400 --data.root kinetics400 --data.workers 8",
        _scanning,
        scan,
    ),
    "recipe": Command("Print a recipe with all its keys", "glore recipe digits", _named, show_recipe),
}
