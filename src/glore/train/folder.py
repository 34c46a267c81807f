"""A run's folder: what is kept of a training, each file whole at any moment, and how an interrupted one goes on.

recipe.yaml                      the resolved recipe
resume.ckpt                      everything a training needs to go on, after its last completed epoch
last.safetensors, last.json      weights after the last completed epoch, and how the network is made
best.safetensors, best.json      the same of the epoch with the best score on the validation split
curves.csv                       a row an epoch
classes.txt                      the names of the classes, a line each
colours.txt                      their colours, if the data have some: red, green, blue
broken.csv                       samples of train and val that could not be read, and why, if there are any
"""

from __future__ import annotations

import csv
import fcntl
import math
import re
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from glore import measure
from glore.train.data import fault, named
from glore.weights import files

RESUME, CLASSES, COLOURS, BROKEN = "resume.ckpt", "classes.txt", "colours.txt", "broken.csv"


class WholeFiles(CheckpointIO):
    """Writes a checkpoint whole or not at all, with the weights as safetensors beside it; reads no code from it."""

    def __init__(self, constructor: files.Constructor) -> None:
        self.constructor = constructor

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: dict[str, Any] | None = None
    ) -> None:
        path = Path(path)
        weights = checkpoint["state_dict"]  # averaged ones, where a callback averages
        network = {name.removeprefix("net."): tensor for name, tensor in weights.items() if name.startswith("net.")}
        for name in ("last", "best") if (storage_options or {}).get("best") else ("last",):
            files.save(path.with_name(name), network, self.constructor)
        with files.replacing(path) as draft:
            torch.save(checkpoint, draft)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, OSError … for broken files
            if found := re.search(r"Unsupported (?:global|class)\W+(?:GLOBAL )?([\w.]+)", str(error)):
                raise ValueError(
                    f"{path} holds a {found[1]}, which could run code when it is read: callbacks may keep numbers, "
                    "strings, lists, dicts and tensors only"
                ) from error
            raise ValueError(
                f"{path} is damaged ({str(error).splitlines()[0][:100]}): remove it, and this run starts anew"
            ) from error

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class Keep(Checkpoint):
    """After each epoch, write the run's files; the curves and step times go on where an interrupted run stopped.

    Args:
        folder: of the run.
        metric: the logged score whose highest value makes an epoch the best one.
    """

    def __init__(self, folder: Path, metric: str) -> None:
        super().__init__()
        self.folder, self.metric = folder, metric
        self.curves: list[dict[str, float]] = []
        self.step_seconds: list[float] = []
        self.waited = self.spent = 0.0  # seconds, for data and in all, of the epochs' batches
        self.stopped = False  # early, by another callback
        self.data: str | None = None  # the fingerprint of the training samples
        self.validated = self.trained = False  # this epoch, and anything by this process
        self.faults: dict[tuple[str, int], dict[str, Any]] = {}  # by split and item: a row of what could not be read

    def state_dict(self) -> dict[str, Any]:
        kept = ("curves", "step_seconds", "waited", "spent", "stopped", "data", "faults")
        return {name: getattr(self, name) for name in kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_fit_start(self, trainer: Trainer, task: LightningModule) -> None:  # of a finished training, too
        data: str = trainer.datamodule.fingerprint("train")  # type: ignore[attr-defined]
        if self.data not in (None, data):
            raise ValueError(
                f"{self.folder} holds a training on other samples than the data have now: give it the same data, or "
                "choose another --out"
            )
        self.data = data

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        trainer.should_stop |= self.stopped or self._at_its_end(trainer)
        dataset = trainer.datamodule.split("train")  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            colours = [" ".join(map(str, colour)) for colour in getattr(dataset, "palette", None) or ()]
            (self.folder / COLOURS).unlink(missing_ok=True)  # of what never came to an epoch
            for name, lines in ((CLASSES, dataset.classes), (COLOURS, colours)):
                if lines:
                    files.write(self.folder / name, "".join(f"{line}\n" for line in lines))

    def on_train_epoch_start(self, trainer: Trainer, task: LightningModule) -> None:
        self.validated, self.trained = False, True
        self.ended = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        self.validated = True
        self.ended = time.perf_counter()  # one amid an epoch is not training

    def on_train_batch_start(self, trainer: Trainer, task: LightningModule, batch: Any, batch_index: int) -> None:
        self.waited += time.perf_counter() - self.ended
        self.timed = trainer.global_step < 10 or trainer.global_step % 10 == 0  # seldom: a device has to be waited for
        if self.timed:
            self.started = measure.now()

    def on_train_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        if self.timed:
            self.step_seconds.append(measure.now() - self.started)
        now = time.perf_counter()
        self.spent += now - self.ended
        self.ended = now
        trainer.should_stop |= self._at_its_end(trainer)

    @staticmethod
    def _at_its_end(trainer: Trainer) -> bool:
        limit: int = trainer.datamodule.max_steps  # type: ignore[attr-defined]
        return limit != -1 and trainer.global_step >= limit

    @property
    def waiting(self) -> float:
        """The share of the training's time in which the process waited for data."""
        return self.waited / self.spent if self.spent else float("nan")

    @property
    def step_ms(self) -> float:
        """The median time of a training step, without waiting for data, in ms."""
        return 1000 * statistics.median(self.step_seconds) if self.step_seconds else float("nan")

    def on_train_epoch_end(self, trainer: Trainer, task: LightningModule) -> None:
        logged = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if self.validated or not name.startswith("val/")  # those of an earlier epoch stay there
        }
        scores = (row.get(self.metric, math.nan) for row in self.curves)
        before = max((score for score in scores if not math.isnan(score)), default=float("-inf"))
        self.curves.append({"epoch": trainer.current_epoch + 1, **logged})
        best = logged.get(self.metric, float("-inf")) > before
        broken: list[Any] = [task.broken]
        if trainer.world_size > 1:
            broken = [None] * trainer.world_size
            torch.distributed.all_gather_object(broken, task.broken)
        unread = {split: set().union(*(own[split] for own in broken)) for split in ("train", "val")}
        if trainer.is_global_zero:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            write_csv(self.folder / "curves.csv", self.curves)
            new = {(split, item) for split, items in unread.items() for item in items} - self.faults.keys()
            for split, item in new:
                about = {"name": named(data.split(split), item), "error": fault(data.split(split), item)}
                self.faults[split, item] = {"split": split, "item": item, **about}
            if self.faults:
                write_csv(self.folder / BROKEN, [row for _, row in sorted(self.faults.items())])
        self.stopped = trainer.should_stop
        # last of all: what is written before it is written again when a killed run goes on from the epoch before
        trainer.save_checkpoint(self.folder / RESUME, storage_options={"best": best})
        for split, items in unread.items():  # of several processes, each has met a part
            task.check_broken(split, items)  # type: ignore[operator]


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a file, made if need be, against other processes; a killed process lets go of it.

    Raises:
        BlockingIOError: another process holds it, and `wait` is False.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write rows as a table, whole or not at all; a key that a row lacks is an empty cell.

    Args:
        path: of the file.
        rows: one a line.
        columns: those of the rows by default, in the order in which they occur.
    """
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    # a file's name may be bytes that are no text
    with (
        files.replacing(path) as draft,
        draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)
