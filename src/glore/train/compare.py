"""Variants × seeds: the same network, data and training with and without units, and what comes out."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from glore.train import verdict
from glore.train.blame import RecipeError
from glore.train.progress import Progress
from glore.train.recipe import Comparison, Recipe, Tree, put
from glore.train.run import RESULT, SAMPLES, BusyError, claimed, prepare

CONTROL = "plain+conv"


@dataclass(frozen=True)
class Cell:
    """One variant with one seed, in a folder of its own."""

    variant: str
    seed: int
    recipe: Recipe
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    def result(self) -> dict[str, Any] | None:
        """The result, once the cell is finished."""
        path = self.folder / RESULT
        if not path.is_file():
            return None
        result: dict[str, Any] = json.loads(path.read_text())
        return result if result["hash"] == self.recipe.hash else None

    def counts(self) -> Tensor:
        """What each test sample adds to the scores: (samples, *counts)."""
        return load_file(self.folder / SAMPLES)["counts"]


@dataclass(frozen=True)
class Grid:
    """All cells of a comparison, seed by seed, the baseline first."""

    comparison: Comparison
    cells: list[Cell]
    out: Path

    def finished(self) -> list[tuple[Cell, dict[str, Any]]]:
        """The cells with a result."""
        return [(cell, result) for cell in self.cells if (result := cell.result()) is not None]

    def pick(self, variants: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Cell]:
        """The cells of these variants and seeds; of all where none are named.

        Raises:
            RecipeError: there is no such variant; the message lists them.
        """
        known = self.comparison.variants
        for name in variants:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                raise RecipeError(
                    f"--variant {name}: the recipe has no such variant"
                    + (f"; did you mean {near[0]!r}?" if near else "")
                    + f" (it has {', '.join(known)})"
                )
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
        RecipeError: the recipe compares nothing, or a variant puts in what cannot be used.
    """
    comparison = Recipe(tree).comparison
    baseline, variants = comparison.baseline, comparison.variants
    if baseline not in variants:
        raise RecipeError(
            f"the recipe has no variant {baseline!r} to compare with: "
            "give compare.variants, and name one of them in compare.baseline"
        )
    found = [int(folder.name.removeprefix("seed")) for folder in out.glob("*/seed*")]
    cells = [
        Cell(name, seed, Recipe(_variant(tree, variants[name], seed)), out / _slug(name) / f"seed{seed}")
        for seed in sorted({*comparison.seeds, *seeds, *found})
        for name in dict.fromkeys((baseline, *variants))
    ]
    return Grid(comparison, cells, out)


def _variant(tree: Tree, puts: dict[str, Any], seed: int) -> Tree:
    tree = copy.deepcopy(tree)
    for key, value in {**puts, "seed": seed}.items():
        put(tree, key, value)
    return tree


def _slug(name: str) -> str:
    return re.sub(r"[^\w+.-]+", "-", name)


def run(grid: Grid, only: Sequence[Cell] | None = None) -> Iterator[str]:
    """Run the cells that are not finished, each from where it stopped; yield what there is to tell.

    A cell whose loss is not finite is told and left, and so is one that another process runs.

    Args:
        grid: the comparison.
        only: some of its cells; all by default.
    """
    todo = [cell for cell in (grid.cells if only is None else only) if cell.result() is None]
    progress = Progress(len(todo))
    try:
        for cell in todo:
            try:
                with claimed(cell.folder, cell.recipe):
                    if cell.result() is None:  # another process may have finished it meanwhile
                        progress.begin(cell.name)
                        _run(grid, cell, progress)
            except BusyError as error:
                yield f"left out {cell.name}: {error}"
            except FloatingPointError as error:
                yield f"stopped {cell.name}: {error}"
            progress.end()
    finally:
        progress.close()


def _run(grid: Grid, cell: Cell, progress: Progress) -> None:
    baseline = next(c for c in grid.cells if c.seed == cell.seed and c.variant == grid.comparison.baseline)
    this = prepare(cell.recipe, cell.folder, progress)
    this.fit(start=baseline.recipe.first_weights())  # the same for all variants, wherever their networks agree
    this.finish(variant=cell.variant, seed=cell.seed)


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
    """What came out for a variant, in words."""

    variant: str
    differences: dict[str, verdict.Difference]
    step_time: float
    word: str

    @property
    def figures(self) -> str:
        """The differences and the step time, against the baseline's."""
        parts = [f"{self.variant} − {other} = {d}" for other, d in self.differences.items()]
        return f"{'; '.join(parts)}; step time {100 * self.step_time:+.0f} %"

    def __str__(self) -> str:
        return f"{self.figures}: {self.word}"


def verdicts(grid: Grid) -> list[Verdict]:
    """Each variant against the baseline, and the control if it ran, over the seeds that all of them finished."""
    finished: dict[str, dict[int, tuple[Cell, dict[str, Any]]]] = {}
    for cell, result in grid.finished():
        finished.setdefault(cell.variant, {})[cell.seed] = cell, result
    comparison = grid.comparison
    out = []
    for variant, cells in finished.items():
        rivals = [name for name in (comparison.baseline, CONTROL) if name in finished and name != variant]
        seeds = sorted(set(cells).intersection(*(finished[name] for name in rivals)))
        if variant == comparison.baseline or comparison.baseline not in rivals or not seeds:
            continue

        def counts(name: str, seeds: list[int] = seeds) -> Tensor:
            return torch.stack([finished[name][seed][0].counts() for seed in seeds])

        def step_ms(name: str, seeds: list[int] = seeds) -> float:
            return sum(finished[name][seed][1]["step_ms"] for seed in seeds) / len(seeds)

        score = _score(grid)
        differences = {name: verdict.difference(counts(variant), counts(name), score) for name in rivals}
        word = verdict.judge(list(differences.values()), comparison.margin)
        out.append(Verdict(variant, differences, step_ms(variant) / step_ms(comparison.baseline) - 1, word))
    return out


def metric(grid: Grid) -> str:
    """The name of the score that the verdict is about.

    Raises:
        RecipeError: the task has no such score.
    """
    cell, result = grid.finished()[0]
    name = grid.comparison.metric or cell.recipe.task_class.metric
    if name not in result["metrics"]:
        raise RecipeError(f"compare.metric={name!r} must be one of {', '.join(result['metrics'])}")
    return name


def _score(grid: Grid) -> Callable[[Tensor], Tensor]:
    cell, result = grid.finished()[0]
    name, scores = metric(grid), cell.recipe.task_class.scores
    return lambda counts: scores(counts, result["classes"])[name]
