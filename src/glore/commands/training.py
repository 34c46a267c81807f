"""The commands that train, and what comes before a training."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

from glore.commands.options import Command, Once, default_out, recipe_option


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
    compared = _compared(options.config, flags, options.variant)
    return _compare(compared, options.out or default_out(options.config), options.variant, options.seed)


def _compared(config: str, flags: list[str], chosen: list[str] | None = None) -> dict[str, object]:
    from glore.train import recipe, tree
    from glore.train.blame import RecipeError

    if any(flag.partition("=")[0] == "--seed_everything" for flag in flags):
        raise ValueError("--seed_everything: a comparison has a seed for each cell; give --seed N, or compare.seeds")
    read = tree.read(["--config", config, *flags])
    variants = recipe.Recipe(read).comparison.variants
    names = [name for name in chosen or variants if name in variants]
    pairs = tree.pairs(flags)
    for key, _ in pairs if names else ():
        try:
            without = tree.read(["--config", config, *(f"--{k}={value}" for k, value in pairs if k != key)])
        except RecipeError:  # one flag may need another
            continue
        if read != without and all(tree.varied(read, name) == tree.varied(without, name) for name in names):
            raise ValueError(
                f"--{key}: each of the variants puts in another value, so it would change nothing: change the recipe's "
                "compare.variants, or train one network with glore fit"
            )
    return read


def _compare(tree: dict[str, object], out: Path, variants: list[str], seeds: list[int]) -> int:
    from glore.show import report
    from glore.train import compare, run
    from glore.train.grid import Grid

    grid = Grid.of(tree, out, seeds=seeds)
    chosen = grid.pick(variants, seeds)
    if not all(cell.result() for cell in chosen):
        print(f"trainings: {len(chosen)}, each at most once; stop and go on at any time with the same command")
    failures = 0
    for message in compare.run(grid, chosen):
        failures += 1
        print(f"glore: {message}", file=sys.stderr)
    grid = Grid.of(tree, out, seeds=seeds, known=grid.cells)  # others may have begun further seeds meanwhile
    if grid.finished() and run.first_process():
        print(report.summary(grid))
        print(f"page: {report.page(grid)}")
    return 1 if failures else 0


def _comparing(parser: argparse.ArgumentParser) -> None:
    recipe_option(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the comparison (default: runs/RECIPE)")
    parser.add_argument("--variant", action="append", default=[], help="only this variant; may be given more than once")
    parser.add_argument("--seed", action="append", type=int, default=[], help="only this seed; likewise")


def _running(parser: argparse.ArgumentParser) -> None:
    recipe_option(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--variant", action=Once, help="one of those that the recipe compares")


def fit(options: argparse.Namespace, flags: list[str]) -> int:
    """Train, or go on where it stopped."""
    from glore.train import recipe, run, tree
    from glore.train.folder import BROKEN, RESUME
    from glore.train.progress import Progress

    out = options.out or default_out(options.config)
    parsed = recipe.Recipe(tree.read(["--config", options.config, *flags], options.variant))
    with run.claimed(out, parsed), closing(Progress()) as progress:
        progress.begin(out.name)
        this = run.prepare(parsed, out, progress, empty=(out / RESUME).is_file())
        trained = this.fit()
    if run.first_process():
        if not trained:
            print(f"{out} is trained to its end already; a longer training is another run: choose another --out")
        names = ("last.safetensors", "best.safetensors", "curves.csv")
        print(*(str(path) for name in names if (path := out / name).is_file()), sep="\n")
        if (out / BROKEN).is_file():
            print(f"{out / BROKEN}: samples that could not be read")
        print(f"next: glore test --out {out}")
    return 0


def _scanning(parser: argparse.ArgumentParser) -> None:
    recipe_option(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: runs/RECIPE/scan)")


def scan(options: argparse.Namespace, flags: list[str]) -> int:
    """Read every file of the data once, and tell which ones are missing or broken."""
    from glore.train import recipe, tree
    from glore.train.scan import GOOD, SCAN, scan

    data = recipe.Recipe(tree.read(["--config", options.config, *flags])).make_data()
    out = options.out or default_out(options.config) / "scan"
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
    "scan": Command(
        "Read every file of a data set once, and tell which ones are missing or broken",
        "glore scan --config kinetics400 --data.root kinetics400 --data.workers 8",
        _scanning,
        scan,
    ),
    "recipe": Command("Print a recipe with all its keys", "glore recipe digits", _named, show_recipe),
}
