"""What comes out of a comparison: a row a cell, and each variant against its baseline and its control."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glore.train import verdict
from glore.train.folder import locked, write_csv
from glore.train.grid import Cell, Grid
from glore.weights import files

TABLE, VERDICT, PAGE = "results.csv", "verdict.txt", "report.html"
COSTS = ("parameters", "multiply_adds", "step_ms")
LOCK = ".results.lock"  # the folder may be that of a run too, which has a lock of its own


def rows(grid: Grid) -> list[dict[str, Any]]:
    """A row for each finished cell."""
    return [
        {
            "variant": cell.variant,
            "seed": cell.seed,
            **result["metrics"],
            **{name: result[name] for name in COSTS},
        }
        for cell, result in grid.finished()
    ]


@dataclass(frozen=True)
class Verdict:
    """What came out for a variant, in words.

    Args:
        variant: its name.
        differences: of the score, by whom it is compared with.
        step_time: share by which a training step takes longer than the baseline's, forward and backward; the median
            over seeds, nan where it was measured against another one, or batches or precision differ.
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
        if not math.isnan(self.step_time):
            parts.append(f"step time {100 * self.step_time:+.0f} %".replace("-", "−"))
        return "; ".join(parts)

    def __str__(self) -> str:
        return f"{self.figures}: {self.word}"


def about(grid: Grid, verdicts: Sequence[Verdict]) -> str:
    """What the verdicts are about."""
    one_seed = any(d.seeds == 1 for verdict in verdicts for d in verdict.differences.values())
    caveat = " (one seed: the interval covers the test samples only)" if one_seed else ""
    split = "validation" if any(result.get("tested_on") == "val" for _, result in grid.finished()) else "test"
    return f"{grid.metric} on the {split} split, in points, with its 95 % interval{caveat}"


def write(grid: Grid) -> tuple[list[dict[str, Any]], str]:
    """Write `results.csv` and `verdict.txt` into the comparison's folder; return the rows, and what the latter says."""
    with locked(grid.out / LOCK, wait=True):  # other processes of a job array do the same
        for name in (TABLE, VERDICT, PAGE):  # a run may be writing others
            files.sweep(grid.out, name)
        table = rows(grid)
        write_csv(grid.out / TABLE, table)
        found = verdicts(grid)
        text = "\n".join([f"difference of {about(grid, found)}:", *map(str, found)])
        if not found:
            baselines = " or ".join(grid.comparison.baselines)
            text = f"no verdict yet: a variant and its baseline, {baselines}, have not both run with one seed"
        files.write(grid.out / VERDICT, text + "\n")
    return table, text


def verdicts(grid: Grid) -> list[Verdict]:
    """Each variant against its baseline, and the control if it ran, over the seeds that the two finished."""
    finished: dict[str, dict[int, tuple[Cell, dict[str, Any]]]] = {}
    for cell, result in grid.finished():
        finished.setdefault(cell.variant, {})[cell.seed] = cell, result
    out = []
    for variant, cells in finished.items():
        if variant in grid.comparison.baselines:
            continue
        baseline, control = grid.comparison.baseline_of(variant), control_of(grid, variant)
        rivals = {baseline: finished.get(baseline, {})}
        if control:
            rivals.setdefault(control, finished.get(control, {}))
        differences = {}
        for name, rival in rivals.items():
            if seeds := sorted(cells.keys() & rival.keys()):
                one, other = (torch.stack([of[seed][0].counts() for seed in seeds]) for of in (cells, rival))
                differences[name] = verdict.difference(one, other, _score(*cells[seeds[0]], grid.metric))
        if baseline not in differences:
            continue
        word = verdict.judge(list(differences.values()), grid.comparison.margin)
        times = [
            result["step_time"]
            for _, result in cells.values()
            if result.get("baseline", baseline) == baseline and not math.isnan(result["step_time"])
        ]
        step_time = statistics.median(times) if times else math.nan
        out.append(Verdict(variant, differences, step_time, word))
    return out


def control_of(grid: Grid, variant: str) -> str | None:
    """The control of a variant: of `glore in res4` it is `plain+conv in res4`, where the recipe has that.

    One that is compared with another baseline is none.
    """
    variants, control = grid.comparison.variants, grid.comparison.control
    controls = {name: control + name.removeprefix("glore") for name in variants if name.startswith("glore")}
    if variant in (control, *controls.values()):
        return None
    own = controls.get(variant, control)
    own = own if own in variants else control
    baseline_of = grid.comparison.baseline_of
    return own if baseline_of(own) == baseline_of(variant) else None


def _score(cell: Cell, result: dict[str, Any], metric: str) -> Callable[[Tensor], Tensor]:
    task = cell.recipe.task_class
    place = task.names(result["classes"]).index(metric)
    return lambda counts: task.scores(counts)[place]
