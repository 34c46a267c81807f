"""What came out for each class of a tested run: a table, and which classes were taken for which."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from glore.show import figures
from glore.train.folder import write_csv
from glore.train.run import Run
from glore.weights import files


def write(this: Run, folder: Path) -> tuple[Path, ...]:
    """Write what came out for each class of the test split, once evaluated, and the confusions as counts and a picture.

    Returns:
        The paths of `classes.csv`, a row a class; of `confusion.csv`, a row a true class and a column a predicted one;
        and of `confusion.png`, their shares.
    """
    names = list(this.data.split("test").classes)
    counts = this.task.confusion(torch.stack(list(this.task.samples.values())), len(names))
    hits, true, told = counts.diagonal(), counts.sum(1), counts.sum(0)
    shares = {"recall": hits / true, "precision": hits / told, "iou": hits / (true + told - hits)}
    rows = [
        {
            "class": name,
            "count": int(true[k]),
            **{score: round(float(values[k]), 6) for score, values in shares.items()},
        }
        for k, name in enumerate(names)
    ]
    table, confusions, picture = (folder / name for name in ("classes.csv", "confusion.csv", "confusion.png"))
    write_csv(table, rows)
    with files.replacing(confusions) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        lines = zip(names, counts.tolist(), strict=True)
        csv.writer(file).writerows([["true class", *names], *([name, *line] for name, line in lines)])
    files.write(picture, figures.confusion(counts, names))
    return table, confusions, picture
