"""What a comparison says: a table, a verdict, and one page that needs nothing but a browser."""

from __future__ import annotations

import csv
import html
import importlib.resources
import platform
import statistics
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from torch import Tensor

import glore
from glore.data.broken import BrokenSampleError
from glore.show import figures, maps, pictures, tables
from glore.train import results
from glore.train.folder import locked
from glore.train.grid import Cell, Grid
from glore.train.predict import palette
from glore.train.results import Verdict
from glore.train.task import Task, taught
from glore.units import GloRe
from glore.weights import files

SCENES, NODES = 4, 7
FEW = 6  # scores that a table shows before the costs
SMALL = 100  # pixels of width up to which many pictures stand in a row


def summary(grid: Grid) -> str:
    """What to print of a comparison, whose files are written anew: a table with a row a variant, and the verdict."""
    rows, verdict = results.write(grid)
    return f"{tables.aligned(_summary(grid, rows))}\n\n{verdict}\n\nresults: {grid.out / results.TABLE}"


def page(grid: Grid) -> Path:
    """Write `report.html` into the comparison's folder; return its path."""
    path = grid.out / results.PAGE
    with locked(grid.out / results.LOCK, wait=True):
        files.write(path, _page(grid, results.rows(grid), results.verdicts(grid)))
    return path


def _summary(grid: Grid, rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A row a variant: each score as mean ± standard deviation over seeds in points, then what it costs."""
    published = grid.comparison.published
    variants = dict.fromkeys(row["variant"] for row in rows)
    out = []
    for variant in variants:
        own = [row for row in rows if row["variant"] == variant]
        line = {"variant": variant, "seeds": str(len(own))}
        scores = [name for name in own[0] if name not in ("variant", "seed", *results.COSTS)]
        scores.sort(key=lambda name: name != grid.metric)  # the verdict's first, for narrow screens
        first = len(scores) if len(scores) <= FEW else 1  # many come behind the costs
        line |= {name: _mean([100 * row[name] for row in own]) for name in scores[:first]}
        if published:
            line["published"] = f"{100 * published[variant]:.1f}" if variant in published else ""
        line["parameters"] = f"{own[0]['parameters']:,}"
        line["M multiply-adds"] = f"{own[0]['multiply_adds'] / 1e6:.1f}"
        line["ms a step"] = f"{statistics.mean(row['step_ms'] for row in own):.1f}"
        line |= {name: _mean([100 * row[name] for row in own]) for name in scores[first:]}
        out.append(line)
    return out


def _mean(values: list[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""  # which may be undefined
    return f"{statistics.mean(values):.1f}{spread}"


def _page(grid: Grid, rows: list[dict[str, Any]], verdicts: list[Verdict]) -> str:
    template = Template((importlib.resources.files("glore.show") / "page.html").read_text(encoding="utf-8"))
    finished, metric = grid.finished(), grid.metric
    variants = list(dict.fromkeys(cell.variant for cell, _ in finished))
    colour = figures.colours(variants, grid.comparison.baselines[0])
    series = {
        variant: [_curve(cell, metric) for cell, _ in finished if cell.variant == variant] for variant in variants
    }
    series = {variant: [points for points in seeds if points] for variant, seeds in series.items()}
    points = {
        variant: (own[0]["multiply_adds"], [100 * row[metric] for row in own], own[0]["parameters"])
        for variant in variants
        if (own := [row for row in rows if row["variant"] == variant])
    }
    seeds = sorted({cell.seed for cell, _ in finished})
    weights = "last.safetensors"  # which may have been deleted
    shown = [cell for cell, _ in finished if cell.seed == seeds[0] and (cell.folder / weights).is_file()]
    data = shown[0].recipe.make_data() if shown else None
    scenes = []
    with suppress(FileNotFoundError, BrokenSampleError):  # results may be looked at without their data
        items = (data.item("test", index) for index in data.chosen("test", SCENES)) if data else ()
        scenes = [(x, torch.as_tensor(y)) for x, y in items]
    visible = bool(scenes) and scenes[0][0].dim() > 2  # not of sequences
    labels = visible and scenes[0][1].dim() > 0  # a class for each position
    names = finished[0][1]["classes"]
    dataset = data.split("test") if data and visible else None
    tasks = {cell.variant: _task(cell) for cell in shown if visible}
    tell = _masks if labels else _answers
    samples = tell(tasks, scenes, dataset) if visible else ()
    waiting = statistics.mean(result["waiting"] for _, result in finished)
    return template.substitute(
        title=html.escape(f"{' · '.join(variants)}"),
        verdicts="".join(f"<li>{html.escape(v.figures)}: <strong>{html.escape(v.word)}</strong></li>" for v in verdicts)
        or "<li>A variant and its baseline have not both run yet.</li>",
        note=html.escape(grid.comparison.note),
        about=html.escape(results.about(grid, verdicts)),
        table=_table(_summary(grid, rows), colour, metric),
        curves=figures.curves(series, f"{metric}, validation", colour),
        cost=figures.cost(points, f"{metric}, test", colour),
        legend=_legend(names, palette(dataset)) if labels else "",
        samples="".join(samples),
        maps="".join(_maps(tasks, scenes[0][0])) if visible else "",
        seeds=", ".join(map(str, seeds)),
        samples_tested=len(finished[0][0].counts()),
        waiting=f"{100 * waiting:.0f} %",
        versions=html.escape(
            f"glore {glore.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
            f"{platform.machine()}, {torch.get_num_threads()} threads"
        ),
    )


def _table(rows: list[dict[str, str]], colour: dict[str, str], metric: str) -> str:
    head = "".join(f"<th{' class=main' if name == metric else ''}>{html.escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>"
        + f'<th scope="row"><i style="background:{colour[row["variant"]]}"></i>{html.escape(row["variant"])}</th>'
        + "".join(
            f"<td{' class=main' if name == metric else ''}>{html.escape(value)}</td>"
            for name, value in row.items()
            if name != "variant"
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _curve(cell: Cell, metric: str) -> list[tuple[float, float]]:
    path = cell.folder / "curves.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [(float(row["epoch"]), 100 * float(row[f"val/{metric}"])) for row in rows if row.get(f"val/{metric}")]


def _legend(classes: list[str], palette: bytes) -> str:
    """The colours of the masks."""
    colours = pictures.mask(torch.arange(len(classes))[None], palette).reshape(-1, 3).tolist()
    marks = (
        f'<span><i style="background:rgb({r},{g},{b})"></i>{html.escape(name)}</span>'
        for name, (r, g, b) in zip(classes, colours, strict=True)
    )
    return f'<p class="soft legend">{" ".join(marks)}</p>'


def _masks(tasks: dict[str, Task], scenes: list[tuple[Tensor, Tensor]], dataset: Any) -> Iterator[str]:
    """Some test samples, with the truth and what each variant says, as masks."""
    told = _told(tasks, scenes, dataset)
    for i, (sample, target) in enumerate(scenes):
        masks = {"truth": target, **{variant: labels[i] for variant, labels in told.items()}}
        tiles = [_tile(pictures.mask(labels, palette(dataset)), name) for name, labels in masks.items()]
        yield f'<div class="{_tiles(sample)}">{_tile(pictures.picture(sample), "input")}{"".join(tiles)}</div>'


def _answers(tasks: dict[str, Task], scenes: list[tuple[Tensor, Tensor]], dataset: Any) -> Iterator[str]:
    """Some test samples, with their class and the one that each variant says."""
    told = _told(tasks, scenes, dataset)
    tiles = []
    for i, (sample, target) in enumerate(scenes):
        names = {"truth": target, **{variant: labels[i] for variant, labels in told.items()}}
        tiles.append(
            _tile(pictures.picture(sample), *(f"{name}: {dataset.classes[int(k)]}" for name, k in names.items()))
        )
    yield f'<div class="{_tiles(scenes[0][0], large=True)}">{"".join(tiles)}</div>'


def _told(tasks: dict[str, Task], scenes: list[tuple[Tensor, Tensor]], dataset: Any) -> dict[str, list[Tensor]]:
    """The classes that each variant's network says of each sample."""
    with torch.no_grad():
        return {
            variant: [taught(task.infer(sample[None]), dataset)[0].argmax(0) for sample, _ in scenes]
            for variant, task in tasks.items()
        }


def _task(cell: Cell) -> Task:
    task = cell.recipe.make(empty=True)[0]
    files.load_weights(task.net, cell.folder / "last")
    return task.eval()


def _maps(tasks: dict[str, Task], sample: Tensor) -> Iterator[str]:
    """For each variant with GloRe units: the nodes that matter most on a sample, and I − A."""
    for variant, task in tasks.items():
        if not any(isinstance(module, GloRe) for module in task.modules()):
            continue
        for unit in maps.unit_maps(task.net, task.seen(sample[None])):
            tiles = [_tile(pictures.picture(sample), "input")]
            for node in unit.ranked[:NODES]:
                tiles.append(_tile(pictures.overlay(sample, unit.projection[node], unit.extent), unit.label(node)))
            heats = "".join(figures.heat(mixing, f"I − A, layer {i}") for i, mixing in enumerate(unit.mixing, start=1))
            yield (
                f"<h3>{html.escape(variant)}, unit {html.escape(unit.path)}</h3>"
                f'<div class="{_tiles(sample)}">{"".join(tiles)}</div><div class="heats">{heats}</div>'
            )


def _tiles(sample: Tensor, *, large: bool = False) -> str:
    """The style of pictures that belong together; clips are strips of frames, one below the other."""
    if sample.dim() == 4:
        return "tiles strips"
    return "tiles large" if large or sample.shape[-1] > SMALL else "tiles"


def _tile(frames: Any, *captions: str) -> str:
    lines = "<br>".join(map(html.escape, captions))
    address = pictures.data_url(pictures.strip(frames))
    return f'<figure><img src="{address}" alt=""><figcaption>{lines}</figcaption></figure>'
