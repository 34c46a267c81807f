"""Run a comparison: the same network, data and training with and without units."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any

import torch
from torch.utils.data import default_collate

from glore import measure
from glore.data.broken import BrokenSampleError
from glore.train import results
from glore.train.blame import RecipeError
from glore.train.data import Data, Draw, Seeded
from glore.train.folder import RESUME
from glore.train.grid import Cell, Grid
from glore.train.progress import Progress
from glore.train.recipe import Recipe
from glore.train.run import BusyError, Run, claimed, first_process, prepare
from glore.train.task import Task


def run(grid: Grid, only: Sequence[Cell] | None = None) -> Iterator[str]:
    """Run the cells that are not finished, each from where it stopped; yield what there is to tell.

    After each, table and verdict are written anew. A cell whose loss is not finite is told and left, and so are
    one that another process runs and one for which a sample cannot be read.

    Args:
        grid: the comparison.
        only: some of its cells; all by default.

    Raises:
        RecipeError: a variant puts in what cannot be used, or finished cells are of other data.
    """
    chosen = grid.cells if only is None else only
    todo = [cell for cell in chosen if cell.result() is None]
    for _, result in grid.finished():
        _check_metric(grid, result["metrics"])
    if chosen and not todo:
        with suppress(FileNotFoundError):  # a result may be looked at without its data
            _check_data(grid, chosen[0], _fingerprints(chosen[0].recipe.make_data()))
    for cell in {cell.variant: cell for cell in todo}.values():
        cell.recipe.make(empty=True)  # what cannot be made is told before anything is trained
    with closing(Progress(len(todo), grid.metric)) as progress:
        for cell in todo:
            try:
                with claimed(cell.folder, cell.recipe):
                    if cell.result() is None:  # another process may have finished it meanwhile
                        progress.begin(cell.name)
                        _run(grid, cell, progress, alone=len(todo) == 1)
                        if first_process():
                            results.write(grid)
            except BusyError as error:
                yield f"left out {cell.name}: {error}"
            except (FloatingPointError, BrokenSampleError) as error:  # of which the latter needs no training again
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
    (baseline,) = grid.pick([grid.comparison.baseline_of(cell.variant)], [cell.seed])
    rival, _ = baseline.recipe.make(empty=going_on)
    alike = _source(cell.recipe) == _source(baseline.recipe)
    data = _fingerprints(this.data)  # told before, if it cannot be read
    _check_data(grid, cell, data)
    this.try_one("test")
    this.fit(start=rival.net.state_dict() if alike else None)  # the same for all, wherever their networks agree
    step_time = 0.0 if cell == baseline else math.nan
    if cell != baseline and this.trainer.is_global_zero and _batches(cell.recipe) == _batches(baseline.recipe):
        step_time = _step_time(this, rival)
    about = {"variant": cell.variant, "seed": cell.seed, "baseline": baseline.variant, "tested_on": this.data.tested_on}
    this.finish(**about, step_time=step_time, data=data)


def _check_metric(grid: Grid, known: Collection[str]) -> None:
    if grid.metric not in known:
        raise RecipeError(f"compare.metric={grid.metric!r} must be one of {', '.join(known)}")


def _fingerprints(data: Data) -> dict[str, str]:
    return {split: data.fingerprint(split) for split in ("train", "test")}


def _check_data(grid: Grid, cell: Cell, data: Mapping[str, str]) -> None:
    """Refuse data, by their fingerprints, on which finished cells were not tested, or the variant's not trained."""
    for other, result in grid.finished():
        for split, known in result.get("data", {}).items():
            if (split == "test" or other.variant == cell.variant) and known != data[split]:
                raise RecipeError(
                    f"{grid.out} has results on other data than these ({split} split of {other.name}): give the same "
                    "data, or choose another --out"
                )


def _source(recipe: Recipe) -> list[Any]:
    """Where the first weights of a network come from: a variant may be about that."""
    net = recipe.resolved["model"]["init_args"]["net"]
    return [net["class_path"], *(net.get("init_args", {}).get(key) for key in ("name", "pretrained"))]


def _batches(recipe: Recipe) -> list[Any]:
    """What a step gets: the two of a variant that is about that cannot take turns on one batch."""
    return [recipe.resolved["data"], recipe.resolved["trainer"]["precision"]]


def _step_time(this: Run, rival: Task) -> float:
    """The share by which a training step takes longer than a rival's, the two taking turns on one batch, or nan."""
    device, precision = this.trainer.strategy.root_device, this.trainer.precision_plugin
    own = this.data.batch_size // this.trainer.world_size
    items = [Seeded(this.data.split("train"), "replace")[Draw(i, i)] for i in range(own)]
    inputs, target, _ = (part.to(device) for part in precision.convert_input(default_collate(items)))
    inputs, target = this.task.mixed(inputs, target)

    def step(task: Task) -> None:
        with precision.forward_context():
            loss = task.loss(task(inputs), target)
        loss.backward()
        task.zero_grad()

    precision.convert_module(rival)  # in place
    tasks = {"this": this.task, "rival": rival}
    try:
        runs = {name: partial(step, task.to(device).train()) for name, task in tasks.items()}
        ms = measure.medians_ms(runs, seconds=15)  # small networks are through in a second
    except torch.OutOfMemoryError:  # of two at once
        return math.nan
    except ValueError as error:
        if "more than 1 value per channel" in str(error):  # for a norm that was synchronised a process had one sample
            return math.nan
        raise
    return ms["this"] / ms["rival"] - 1
