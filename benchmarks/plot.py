"""Draw a comparison whose cells are in benchmarks/results: `python benchmarks/plot.py cifar10 top1`.

On the left the score on validation data by epoch, a line for each seed; on the right that on test data, a dot for each
seed and a bar at their mean.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from glore.show.figures import colours

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
FIRST = ("plain", "plain+conv")


def main(name: str, score: str) -> None:
    cells: dict[str, list[Path]] = defaultdict(list)
    for path in sorted((RESULTS / name).glob("*/seed*/result.json")):
        cells[json.loads(path.read_text())["variant"]].append(path.parent)
    variants = sorted(cells, key=lambda variant: (variant not in FIRST, variant))
    colour = colours(variants, "plain")
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    learning, ending = figure.subplots(1, 2)
    for place, variant in enumerate(variants):
        scores = []
        for folder in cells[variant]:
            rows = [row for row in csv.DictReader((folder / "curves.csv").open()) if row[f"val/{score}"]]
            points = [(int(row["epoch"]), 100 * float(row[f"val/{score}"])) for row in rows]
            learning.plot(*zip(*points, strict=True), color=colour[variant], marker="o", markersize=3, alpha=0.8)
            scores.append(100 * json.loads((folder / "result.json").read_text())["metrics"][score])
        ending.plot([place] * len(scores), scores, "o", color=colour[variant], alpha=0.7)
        ending.plot([place - 0.25, place + 0.25], [statistics.mean(scores)] * 2, color=colour[variant], linewidth=2)
    learning.set(xlabel="epoch", ylabel=f"{score} on validation data")
    learning.xaxis.set_major_locator(MaxNLocator(integer=True))
    ending.set(ylabel=f"{score} on test data")
    ending.set_xticks(range(len(variants)), variants, rotation=25, ha="right")
    for axes in (learning, ending):
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURES / f"{name}.png", dpi=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
