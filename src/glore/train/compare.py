"""Variants × seeds: the same network, data and training with and without units, and what comes out."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import default_collate

from glore import measure
from glore.train import verdict
from glore.train.blame import RecipeError
from glore.train.data import Data, Draw, Seeded
from glore.train.folder import RESUME
from glore.train.progress import Progress
from glore.train.recipe import Comparison, Recipe
from glore.train.run import RESULT, SAMPLES, BusyError, Run, claimed, first_process, prepare
from glore.train.task import Task
from glore.train.tree import Tree, check, flat, put, varied

CONTROL = "plain+conv"


@dataclass(frozen=True)
class Cell:
    """One variant with one seed, in a folder of its own."""

    variant: str
    seed: int
    tree: Tree = field(hash=False)
    folder: Path

    @cached_property
    def recipe(self) -> Recipe:
        """Parsed when it is asked for: it takes a third of a second, and many cells are asked for nothing."""
        return Recipe(self.tree)

    @property
    def name(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    def result(self) -> dict[str, Any] | None:
        """The result, once the cell is finished."""
        path = self.folder / RESULT
        if not path.is_file():
            return None
        try:
            result: dict[str, Any] = json.loads(path.read_text())
        except ValueError:  # damaged: it is made anew from what was trained
            return None
        return result if result.get("hash") == self.recipe.hash else None

    def counts(self) -> Tensor:
        """What each test sample adds to the scores: (samples, *counts)."""
        return load_file(self.folder / SAMPLES)["counts"]


@dataclass(frozen=True)
class Grid:
    """All cells of a comparison, seed by seed, the baseline first."""

    comparison: Comparison
    cells: list[Cell]
    out: Path

    @property
    def metric(self) -> str:
        """The name of the score that the verdict is about."""
        return self.comparison.metric or self.cells[0].recipe.task_class.metric

    def finished(self) -> list[tuple[Cell, dict[str, Any]]]:
        """The cells with a result."""
        return [(cell, result) for cell in self.cells if (result := cell.result()) is not None]

    def pick(self, variants: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Cell]:
        """The cells of these variants and seeds; of all where none are named.

        Raises:
            RecipeError: there is no such variant; the message lists them.
        """
        for name in variants:
            check(name, self.comparison.variants)
        return [
            cell
            for cell in self.cells
            if (not variants or cell.variant in variants) and (not seeds or cell.seed in seeds)
        ]


def grid(tree: Tree, out: Path, seeds: Sequence[int] = ()) -> Grid:
    """The cells of a recipe's comparison.

    Args:
        tree: the recipe.
        out: the comparison's folder. Seeds that have a folder there are part of it.
        seeds: besides the recipe's.

    Raises:
        RecipeError: the recipe compares nothing.
    """
    comparison = Recipe(tree).comparison
    baseline, variants = comparison.baseline, comparison.variants
    if baseline not in variants:
        raise RecipeError(
            f"the recipe has no variant {baseline!r} to compare with: "
            "give compare.variants, and name one of them in compare.baseline"
        )
    slugs = {_slug(name): name for name in variants}
    if len(slugs) < len(variants):
        twins = next(name for name in variants if name not in slugs.values())
        raise RecipeError(f"two variants would share the folder {_slug(twins)}: rename {twins!r}")
    found = [int(match[1]) for folder in out.glob("*/seed*") if (match := re.fullmatch(r"seed(\d+)", folder.name))]
    cells = []
    for seed in sorted({*comparison.seeds, *seeds, *found}):
        for name in dict.fromkeys((baseline, *variants)):
            own = varied(tree, name)
            put(own, "seed", seed)
            if "trainer.devices" not in flat(own):  # Lightning takes all that there are
                put(own, "trainer.devices", 1)
            cells.append(Cell(name, seed, own, out / _slug(name) / f"seed{seed}"))
    return Grid(comparison, cells, out)


def _slug(name: str) -> str:
    return re.sub(r"[^\w+.-]+", "-", name)


def run(grid: Grid, only: Sequence[Cell] | None = None, after: Callable[[Grid], object] | None = None) -> Iterator[str]:
    """Run the cells that are not finished, each from where it stopped; yield what there is to tell.

    A cell whose loss is not finite is told and left, and so is one that another process runs.

    Args:
        grid: the comparison.
        only: some of its cells; all by default.
        after: called once each of them is finished.

    Raises:
        RecipeError: a variant puts in what cannot be used, or finished cells are of other data.
    """
    chosen = grid.cells if only is None else only
    todo = [cell for cell in chosen if cell.result() is None]
    for _, result in grid.finished():
        _check_metric(grid, result["metrics"])
    for cell in [] if todo else chosen[:1]:
        with suppress(FileNotFoundError):  # a result may be looked at without its data
            _check_data(grid, cell, cell.recipe.make_data())
    for cell in {cell.variant: cell for cell in todo}.values():
        cell.recipe.make(empty=True)  # what cannot be made is told before anything is trained
    with closing(Progress(len(todo), grid.metric)) as progress:
        for cell in todo:
            try:
                with claimed(cell.folder, cell.recipe):
                    if cell.result() is None:  # another process may have finished it meanwhile
                        progress.begin(cell.name)
                        _run(grid, cell, progress, alone=len(todo) == 1)
                        if after is not None and first_process():
                            after(grid)
            except BusyError as error:
                yield f"left out {cell.name}: {error}"
            except FloatingPointError as error:
                yield f"stopped {cell.name}: {error}"
            progress.end()


def _run(grid: Grid, cell: Cell, progress: Progress, alone: bool) -> None:
    going_on = (cell.folder / RESUME).is_file()  # which has all weights
    this = prepare(cell.recipe, cell.folder, progress, empty=going_on)
    if this.trainer.world_size > 1 and not alone:  # one that has to leave a cell out could not tell the others
        raise RecipeError(
            "several processes train one cell at a time: give one --variant and one --seed, and loop over them; or "
            "--trainer.devices 1"
        )
    _check_metric(grid, this.task.names(this.data.split("train").classes))
    _check_data(grid, cell, this.data)
    (baseline,) = grid.pick([grid.comparison.baseline], [cell.seed])
    rival, _ = baseline.recipe.make(empty=going_on)
    alike = _source(cell.recipe) == _source(baseline.recipe)
    data = {split: this.data.fingerprint(split) for split in ("train", "test")}  # told before, if it cannot be read
    this.fit(start=rival.net.state_dict() if alike else None)  # the same for all, wherever their networks agree
    step_time = 0.0 if cell == baseline or not this.trainer.is_global_zero else _step_time(this, rival)
    this.finish(variant=cell.variant, seed=cell.seed, step_time=step_time, data=data)


def _check_metric(grid: Grid, known: Collection[str]) -> None:
    if grid.metric not in known:
        raise RecipeError(f"compare.metric={grid.metric!r} must be one of {', '.join(known)}")


def _check_data(grid: Grid, cell: Cell, data: Data) -> None:
    """Refuse data on which finished cells were not tested, or those of the same variant not trained."""
    for other, result in grid.finished():
        for split, known in result.get("data", {}).items():
            if (split == "test" or other.variant == cell.variant) and known != data.fingerprint(split):
                raise RecipeError(
                    f"{grid.out} has results on other data than these ({split} split of {other.name}): give the same "
                    "data, or choose another --out"
                )


def _source(recipe: Recipe) -> list[Any]:
    """Where the first weights of a network come from: a variant may be about that."""
    net = recipe.resolved["model"]["init_args"]["net"]
    return [net["class_path"], *(net.get("init_args", {}).get(key) for key in ("name", "pretrained"))]


def _step_time(this: Run, rival: Task) -> float:
    """The share by which a training step takes longer than a rival's, the two taking turns on one batch."""
    device, precision = this.trainer.strategy.root_device, this.trainer.precision_plugin
    own = this.data.batch_size // this.trainer.world_size
    items = [Seeded(this.data.split("train"), "replace")[Draw(i, i)] for i in range(own)]
    inputs, target, _ = (part.to(device) for part in precision.convert_input(default_collate(items)))

    def step(task: Task) -> None:
        with precision.forward_context():
            loss = task.loss(task(inputs), target)
        loss.backward()
        task.zero_grad()

    precision.convert_module(rival)  # in place
    tasks = {"this": this.task, "rival": rival}
    runs = {name: partial(step, task.to(device).train()) for name, task in tasks.items()}
    ms = measure.medians_ms(runs, seconds=15)  # small networks are through in a second
    return ms["this"] / ms["rival"] - 1


def results(grid: Grid) -> list[dict[str, Any]]:
    """A row for each finished cell."""
    return [
        {
            "variant": result["variant"],
            "seed": result["seed"],
            **result["metrics"],
            **{name: result[name] for name in ("parameters", "multiply_adds", "step_ms")},
        }
        for _, result in grid.finished()
    ]


@dataclass(frozen=True)
class Verdict:
    """What came out for a variant, in words.

    Args:
        variant: its name.
        differences: of the score, by whom it is compared with.
        step_time: share by which a training step takes longer than the baseline's, forward and backward.
        word: what it means.
    """

    variant: str
    differences: dict[str, verdict.Difference]
    step_time: float
    word: str

    @property
    def figures(self) -> str:
        """The differences and the step time, against the baseline's."""
        parts = [f"{self.variant} − {other} = {d}" for other, d in self.differences.items()]
        step_time = f"{100 * self.step_time:+.0f}".replace("-", "−")
        return f"{'; '.join(parts)}; step time {step_time} %"

    def __str__(self) -> str:
        return f"{self.figures}: {self.word}"


def verdicts(grid: Grid) -> list[Verdict]:
    """Each variant against the baseline, and the control if it ran, over the seeds that all of them finished."""
    finished: dict[str, dict[int, tuple[Cell, dict[str, Any]]]] = {}
    for cell, result in grid.finished():
        finished.setdefault(cell.variant, {})[cell.seed] = cell, result
    baseline = finished.pop(grid.comparison.baseline, {})
    out = []
    for variant, cells in finished.items():
        rivals, control = {grid.comparison.baseline: baseline}, _control(grid, variant)
        if control and cells.keys() & baseline.keys() & finished.get(control, {}).keys():
            rivals[control] = finished[control]
        seeds = sorted(cells.keys() & set.intersection(*(set(rival) for rival in rivals.values())))
        if not seeds:
            continue

        def counts(cells: dict[int, tuple[Cell, dict[str, Any]]], seeds: list[int] = seeds) -> Tensor:
            return torch.stack([cells[seed][0].counts() for seed in seeds])

        score = _score(*cells[seeds[0]], grid.metric)
        differences = {name: verdict.difference(counts(cells), counts(rival), score) for name, rival in rivals.items()}
        word = verdict.judge(list(differences.values()), grid.comparison.margin)
        step_time = statistics.mean(cells[seed][1]["step_time"] for seed in seeds)
        out.append(Verdict(variant, differences, step_time, word))
    return out


def _control(grid: Grid, variant: str) -> str | None:
    """The control of a variant: of `glore in res4` it is `plain+conv in res4`, where the recipe has that."""
    own = CONTROL + variant.removeprefix("glore")
    return None if variant.startswith(CONTROL) else own if own in grid.comparison.variants else CONTROL


def _score(cell: Cell, result: dict[str, Any], metric: str) -> Callable[[Tensor], Tensor]:
    task = cell.recipe.task_class
    place = task.names(result["classes"]).index(metric)
    return lambda counts: task.scores(counts)[place]
