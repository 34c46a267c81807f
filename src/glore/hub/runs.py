"""A training as a folder to share: its network, and a card filled from its recipe and its scores."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from glore.hub.card import Training
from glore.hub.folders import save_pretrained, vacant

if TYPE_CHECKING:
    from glore.train.run import Run

ROOT = "my_data"  # where the data of a published recipe lie, until --data.root says so


def save_run(
    run: Run,
    folder: Path | str,
    weights: Literal["last", "best"] = "last",
    *,
    test: bool = False,
    dataset: str | None = None,
    license: str | None = None,  # noqa: A002, as the hub calls it
    name: str | None = None,
) -> Path:
    """Write what a run trained into a folder that `from_pretrained` reads.

    The card has the scores that the run left: those on the validation split, and of the last weights of a compared run
    those on the test split. The data are read only if their preset does not tell the size of an input. Nothing tells
    where files of yours lie: paths become names.

    Args:
        run: as `glore.train.run.prepare` makes it, in the folder of its training.
        folder: where to; new, empty, or with a network that was published before.
        weights: `"last"`, or `"best"`, those of the epoch with the best score on the validation split.
        test: score them on the test split first.
        dataset: the name of the data set; by default that of its class.
        license: its identifier on the hub, such as `"mit"`.
        name: on the hub, `user/name`, for the card; the folder's by default.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: there are no such weights, or no data.
        ValueError: weights are damaged, or the folder holds something else.
        OSError: the folder cannot be written.
    """
    from glore.train.run import RESULT

    vacant(Path(folder))  # before anything takes long
    run.load(weights)
    scores = {"val": _validated(run.folder / "curves.csv", run.task.metric, weights)}
    result = run.folder / RESULT
    if test:
        scores["test"] = run.evaluate("test", weights)
    elif weights == "last" and result.is_file():
        with suppress(ValueError, KeyError):  # damaged
            scores["test"] = json.loads(result.read_text())["metrics"]
    about = run.about(weights)
    return save_pretrained(
        run.task.net.eval(),
        folder,
        run.recipe.constructor,
        example=torch.zeros(1, *run.input_size()),
        classes=about.get("classes", ()),
        colours=about.get("colours", ()),
        training=_training(run, weights, {split: told for split, told in scores.items() if told}, dataset, about),
        license=license,
        name=name,
    )


def _training(
    run: Run, weights: str, scores: Mapping[str, Mapping[str, float]], dataset: str | None, about: Mapping[str, Any]
) -> Training:
    import yaml

    values = run.recipe.portable
    given = values["data"]["dataset"]
    if rooted := "root" in (run.recipe.resolved["data"]["dataset"].get("init_args") or {}):
        given["init_args"]["root"] = ROOT
    command = "glore fit --config recipe.yaml" + (" --data.root DIR" if rooted else "")
    net = values["model"]["init_args"].get("net") or {}
    if isinstance((net.get("init_args") or {}).get("pretrained"), str):  # a file, which is not published
        command += " --model.net.pretrained FILE"
    return Training(
        dataset=dataset or given["class_path"].rpartition(".")[2],
        weights=weights,
        scores=scores,
        normalisation=_normalisation(**about),
        recipe=yaml.safe_dump(_named(values), sort_keys=False),
        command=command,
    )


def _validated(curves: Path, metric: str, weights: str) -> dict[str, float]:
    """The scores on the validation split after the last epoch, or after the first of the best ones."""
    if not curves.is_file():
        return {}
    with curves.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return {}
    row = max(rows, key=lambda row: _known(row.get(f"val/{metric}"))) if weights == "best" else rows[-1]
    return {key.removeprefix("val/"): float(value) for key, value in row.items() if key.startswith("val/") and value}


def _known(score: str | None) -> float:
    value = float(score or "nan")
    return float("-inf") if math.isnan(value) else value


def _normalisation(mean: Sequence[float] = (), std: Sequence[float] = (), **others: Any) -> str:
    return f"values in [0, 1], minus {list(mean)}, by {list(std)}, for red, green and blue" if mean and std else ""


def _named(value: Any, path: bool = False) -> Any:
    """A value with files by their names: what is a path, and what leads out of the folder of the data."""
    if isinstance(value, list):
        return [_named(item, path) for item in value]
    if isinstance(value, dict):
        return {key: _named(item, key == "pretrained") for key, item in value.items()}
    if isinstance(value, str) and (path or re.match(r"/|\\|~|\.\.|\w:[/\\]", value)):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value
