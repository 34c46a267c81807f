"""The command that tells what networks cost, trained or not."""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

from glore.commands.options import SIDES, Command, Once, positive, sides


def _measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NETWORK",
        help="name of a network of timm's, import path of one of ours or yours, or folder of a run",
    )
    parser.add_argument("--config", action=Once, metavar="RECIPE", help="the networks of a recipe's variants")
    parser.add_argument("--variant", action="append", default=[], help="only this variant; may be given more than once")
    parser.add_argument("--size", type=sides, metavar="HxW", help=f"{SIDES} (default: as networks of timm declare)")
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="samples (default: 1)")
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
    elif options.variant:
        raise ValueError(f"--variant {options.variant[0]}: give the recipe that has it, --config RECIPE")
    elif flags:
        raise ValueError(f"{flags[0].partition('=')[0]} is no option of glore measure; see glore measure --help")
    if not networks:
        raise ValueError("give the names of networks, or --config RECIPE")
    rows = measure.costs(networks, options.size, options.batch, options.training, options.device, options.seconds)
    known = [{key: None if value != value else value for key, value in row.items()} for row in rows]  # JSON has no nan
    print(json.dumps(known, indent=2) if options.json else tables.costs(rows))
    return 0


def _constructor(name: str) -> dict[str, object]:
    """How a network is made that is called by its name in timm, its import path or the folder of its run."""
    from glore.weights import files

    if Path(name).is_dir():
        return files.constructor_in(Path(name) / "last.json")
    if "/" in name:
        raise FileNotFoundError(f"{name}: no such folder; give that of a run, a network's name in timm or import path")
    if find_spec(name.partition(".")[0]) and "." in name:  # timm's names may have a tag behind a dot
        return {"class_path": name}
    arguments: dict[str, object] = {"name": name}
    if name.startswith("glore_"):
        from glore.hub import BACKBONES

        plain = name.removeprefix("glore_")
        if plain not in BACKBONES:
            raise ValueError(f"{name} is none of glore_{', glore_'.join(BACKBONES)}: give a recipe for other networks")
        arguments = {"name": plain, "units": BACKBONES[plain].units}
    return {"class_path": "glore.nets.images.backbone", "init_args": arguments}


COMMANDS = {
    "measure": Command(
        "Count a network's parameters and multiply-adds, and measure its time and memory",
        "glore measure resnet50 glore_resnet50 --size 224 --training",
        _measuring,
        measure,
    ),
}
