"""One run of a recipe in a folder: train or go on, then test what was trained."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_only
from safetensors.torch import save_file
from torch import Tensor

from glore import measure
from glore.data.broken import BrokenSampleError
from glore.train.agree import differences
from glore.train.blame import RecipeError
from glore.train.data import Data, Draw, Seeded
from glore.train.folder import CLASSES, COLOURS, RESUME, Keep, locked
from glore.train.predict import Write
from glore.train.progress import Progress
from glore.train.recipe import Recipe
from glore.train.task import Task
from glore.train.tree import read
from glore.units.ndim import CONVS
from glore.weights import files

RECIPE, RESULT, SAMPLES = "recipe.yaml", "result.json", "samples.safetensors"


class BusyError(OSError):
    """Another process works in the folder."""


@contextmanager
def claimed(folder: Path, recipe: Recipe) -> Iterator[None]:
    """Hold a folder for runs of this recipe alone; a killed process lets go of it, and what it left half written goes.

    Of several processes that train together, the first one holds it for all.

    Raises:
        BusyError: another process holds it.
        RecipeError: the folder belongs to another recipe; the message names what differs.
    """
    if not first_process():
        yield
        return
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder / ".lock", wait=False))
            files.sweep(folder)
        except BlockingIOError as error:
            raise BusyError(f"another process works in {folder}: wait for its end, or give another --out") from error
        except OSError as error:
            raise RecipeError(f"cannot write to {folder}: {error.strerror}") from error
        _same_recipe(folder, recipe)
        yield


def _same_recipe(folder: Path, recipe: Recipe) -> None:
    path = folder / RECIPE
    trained = any((folder / name).is_file() for name in (RESUME, RESULT, "last.safetensors", "best.safetensors"))
    if not (trained and path.is_file()):
        if (folder / CLASSES).is_file() and not path.is_file():
            raise RecipeError(
                f"{folder} has a {CLASSES} that is no run's, which a training would replace: choose another --out"
            )
        files.write(path, yaml.safe_dump(recipe.resolved, sort_keys=False))
        return
    recipe.count_classes()  # or data that are not where they are said to be would look like another recipe
    before = Recipe(read(["--config", str(path)])).decisive
    changed = [f"{key} is {now}, was {old}" for key, now, old in differences(recipe.decisive, before)]
    if changed:
        raise RecipeError(
            f"{folder} holds a run of another recipe ({'; '.join(changed[:3])}): "
            "choose another --out, or remove that folder to start anew"
        )


@dataclass
class Run:
    """A task with its data and trainer, whose files are in a folder."""

    recipe: Recipe
    folder: Path
    task: Task
    data: Data
    trainer: Trainer

    def fit(self, start: Mapping[str, Tensor] | None = None) -> bool:
        """Train from where an earlier run of the same recipe stopped, or from the start.

        Args:
            start: first weights; those that the network has too, with the same shape, are taken.

        Returns:
            Whether there was anything left to train.

        Raises:
            FloatingPointError: the loss is not finite.
            OSError: the folder cannot be written or the disk is full; the files of the last epoch are whole.
            ValueError: `resume.ckpt` is damaged, or the first validation sample cannot be used.
        """
        self.try_one("val")
        own = self.task.net.state_dict()
        shared = {k: v for k, v in (start or {}).items() if k in own and own[k].shape == v.shape}
        self.task.net.load_state_dict(own | shared)
        resume = self.folder / RESUME
        if resume.is_file():
            self._check_classes("train", "last")
        with quiet(), refusals():
            self.trainer.fit(self.task, datamodule=self.data, ckpt_path=str(resume) if resume.is_file() else None)
        return self.keep.trained

    def try_one(self, split: str) -> None:
        """Read a sample: what is wrong with all of a split is told before a training rather than after it."""
        self.data.check_files(split)
        with suppress(BrokenSampleError):  # of which there may be some
            _, target, _ = Seeded(self.data.split(split))[Draw(0, 0)]  # which leaves the random states as they are
            if isinstance(target, int) and target < 0:
                raise ValueError(f"the first sample of {split} has no target, so nothing can be scored: give it one")

    @property
    def keep(self) -> Keep:
        """The callback that writes the training's files."""
        (keep,) = (callback for callback in self.trainer.checkpoint_callbacks if isinstance(callback, Keep))
        return keep

    def evaluate(self, split: Literal["val", "test"] = "test", weights: str | Path = "last") -> dict[str, float]:
        """The scores on a split; what each sample added stays in `task.samples`.

        Args:
            split: which.
            weights: `"last"`, `"best"`, the path of a safetensors file, or `"start"` for those that the network has.

        Raises:
            FileNotFoundError: there are no such weights.
            ValueError: they are damaged, or of another network, or the network starts with a new classifier.
        """
        self._check_trained(weights)
        self.load(weights)
        self._check_classes(split, weights)
        with quiet(), refusals():
            evaluate = self.trainer.validate if split == "val" else self.trainer.test
            (logged,) = evaluate(self.task, datamodule=self.data, verbose=False)
        own = {name.removeprefix(f"{split}/"): score for name, score in logged.items() if name.startswith(split)}
        return {name: round(score, 6) for name, score in own.items()}  # processes compare them in single precision

    def _check_trained(self, weights: str | Path) -> None:
        if weights == "start" and getattr(self.task.net, "fresh_classifier", False):
            raise ValueError(
                "--weights start: the network starts with a new classifier, because its pretrained weights have none, "
                "or one of other classes: train it first, or give a file of weights with these classes"
            )

    def _check_classes(self, split: str, weights: str | Path) -> None:
        """Refuse data whose classes are not those that the weights were trained on."""
        trained, here = self._lines_beside(CLASSES, weights), list(map(str, self.data.split(split).classes))
        if trained and trained != here:
            one, other = next(((a, b) for a, b in zip(trained, here, strict=False) if a != b), ("", ""))
            raise ValueError(
                f"the {weights} weights were trained on other classes than these data have: {len(trained)} and "
                f"{len(here)}" + (f", the first that differs is {one!r} there and {other!r} here" if one else "")
            )

    def load(self, weights: str | Path) -> None:
        """Load `"last"` or `"best"` weights of the folder, or those of a file; `"start"` leaves the network's own."""
        if weights == "start":
            return
        own = weights in ("last", "best")
        path = self.folder / f"{weights}.safetensors" if own else Path(weights)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: glore fit writes it after an epoch (best: after one that is validated, see "
                "--trainer.check_val_every_n_epoch)"
                if own
                else f"weights {str(weights)!r}: give last, best, start or the path of a .safetensors file"
            )
        files.load_weights(self.task.net, path)

    def predict(
        self,
        folder: Path,
        weights: str | Path = "last",
        paths: Sequence[Path] = (),
        top: int = 5,
        replace: bool = True,
    ) -> list[dict[str, Any]]:
        """Write predictions to a folder.

        Args:
            folder: where to.
            weights: as `evaluate` takes them.
            paths: of pictures or videos, folders of them, or text files with a picture's path a line; the test split by
                default.
            top: how many classes are told of a sample that has one.
            replace: whether files that are there may be replaced; see `glore.train.predict.Write`.

        Returns:
            A row for each sample.

        Raises:
            FileNotFoundError: a path leads nowhere, or weights are missing.
            ValueError: weights are damaged, or of another network, or of other classes than the test split's; or there
                are several processes, of which each would write its own rows in place of the others'.
        """
        if self.trainer.world_size > 1:
            raise ValueError(
                f"predictions are written by one process, and here are {self.trainer.world_size}: give "
                "--trainer.devices 1, and no torchrun"
            )
        self._check_trained(weights)
        self.load(weights)
        if paths:
            self.take_files(paths, weights)
        else:
            self._check_classes("test", weights)
        writer = Write(folder, self.data.split("test"), top, replace)
        self.trainer.callbacks.append(writer)  # type: ignore[attr-defined]
        with quiet(), self.data.unlabelled():
            self.trainer.predict(self.task, datamodule=self.data, return_predictions=False)
        return writer.rows

    def take_files(self, paths: Sequence[Path], weights: str | Path = "last") -> None:
        """Take files in place of the test split, as the run's own dataset takes files in testing.

        Args:
            paths: as `predict` takes them.
            weights: of the network, beside which are the names of the classes it was trained on.

        Raises:
            FileNotFoundError: a path leads nowhere.
            ValueError: the dataset does not tell how a file becomes a sample.
        """
        from glore.data.images import Pictures  # needs torchvision
        from glore.data.scenes import Scenes
        from glore.data.segments import Segments

        own, arguments = self.recipe.dataset_class, dict(self._dataset_arguments())
        if preset := self._preset():
            arguments["preset"] = preset
        known = getattr(own, "names", None)  # without the data
        classes = self._lines_beside(CLASSES, weights) or (known() if known else list(self.data.split("train").classes))
        if not hasattr(own, "for_paths") and not preset:
            raise ValueError(
                f"{own.__name__} does not tell how a file becomes a sample, so none can be given: leave out the paths, "
                "or give it a for_paths as glore.data.images.Pictures has, or an argument preset"
            )
        if not hasattr(own, "for_paths"):
            own, arguments = Segments if isinstance(preset, Scenes) else Pictures, {"preset": preset}
        self.data.splits["test"] = own.for_paths(paths, classes, arguments, self._palette(weights))

    def input_size(self, sides: Sequence[int] | None = None) -> tuple[int, ...]:
        """Size of an input of the network without its batch, `(c, *space)`.

        Args:
            sides: of its space; by default as the preset makes them or, if there is none, as a test sample has them.

        Raises:
            FileNotFoundError: there is no preset, and the data are missing.
            ValueError: there are more or fewer sides than the network's first convolution has, or one is too short.
        """
        conv = next((module for module in self.task.net.modules() if isinstance(module, CONVS)), None)
        channels, axes = (conv.in_channels, len(conv.kernel_size)) if conv else (3, 2)
        if sides is None and (side := getattr(self._preset(), "size", None)):
            frames = self._dataset_arguments().get("frames")
            sides = [*([frames] if frames else []), *([side, side] if isinstance(side, int) else side)]
        if sides is None:
            example, _ = self.data.item("test", 0)
            sides = example.shape[1:]
        if len(sides) != axes or min(sides) < 2:
            raise ValueError(f"size {'x'.join(map(str, sides))} must be {axes} sides of at least 2 each (--size)")
        return (channels, *sides)

    def about(self, weights: str | Path = "last") -> dict[str, list[Any]]:
        """What to know to use the network elsewhere: `classes`, their `colours`, and `mean` and `std` of its input."""
        preset = self._preset()
        known = {name: getattr(preset, name, None) for name in ("mean", "std")}
        known = {"classes": self._lines_beside(CLASSES, weights), "colours": self._palette(weights), **known}
        return {name: list(values) for name, values in known.items() if values}

    def _dataset_arguments(self) -> dict[str, Any]:
        return self.recipe.resolved["data"]["dataset"].get("init_args", {})

    def _preset(self) -> Any:
        given = self._dataset_arguments().get("preset")
        return given and files.construct(given, trust=True)

    def _palette(self, weights: str | Path) -> list[tuple[int, ...]]:
        return [tuple(map(int, line.split())) for line in self._lines_beside(COLOURS, weights)]

    def _lines_beside(self, name: str, weights: str | Path) -> list[str]:
        """The lines of a file that the training of some weights left beside them; none if it did not."""
        path = (self.folder if weights in ("last", "best") else Path(weights).parent) / name
        if weights == "start" or not path.is_file() or not path.stat().st_size:
            return []
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")

    def finish(self, **about: Any) -> dict[str, Any]:
        """Test the last epoch's weights, and write the result and what each test sample added to it.

        Args:
            about: what else the result tells, such as the variant and the seed.
        """
        metrics = self.evaluate()
        example, _ = self.data.item("test", 0)
        example = self.trainer.precision_plugin.convert_input(example)
        result = {
            **about,
            "metrics": metrics,
            "classes": list(self.data.split("test").classes),
            "parameters": measure.parameters(self.task.net),
            "multiply_adds": measure.multiply_adds(self.task.net, self.task.seen(example[None])),
            "step_ms": self.keep.step_ms,
            "waiting": self.keep.waiting,
            "hash": self.recipe.hash,
        }
        if self.trainer.is_global_zero:
            counts = torch.stack(list(self.task.samples.values()))  # in order
            if not counts.is_floating_point():
                least, most, whole = counts.min(), counts.max(), (torch.uint8, torch.int32, torch.int64)
                smallest = next(t for t in whole if torch.iinfo(t).min <= least and most <= torch.iinfo(t).max)
                counts = counts.to(smallest)
            with files.replacing(self.folder / SAMPLES) as draft:
                save_file({"counts": counts}, draft)
            files.write(self.folder / RESULT, json.dumps(result, indent=2) + "\n")
        return result


def prepare(recipe: Recipe, folder: Path, progress: Progress | None = None, *, empty: bool = False) -> Run:
    """Make what a recipe names, to run in a folder; the arguments are those of `Recipe.build`."""
    with quiet():
        return Run(recipe, folder, *recipe.build(folder, progress, empty=empty))


def first_process() -> bool:
    """Whether this is the first of the processes that train together, as their launcher numbers them."""
    return getattr(rank_zero_only, "rank", 0) == 0


@contextmanager
def refusals() -> Iterator[None]:
    """Say in one line what Lightning refuses once it runs, such as a score that a callback asks for in vain."""
    try:
        yield
    except MisconfigurationException as error:
        raise RecipeError(f"trainer: {' '.join(str(error).split())}") from error
    except RuntimeError as error:
        if "Early stopping conditioned on metric" not in str(error):
            raise
        raise RecipeError(f"trainer.callbacks: {' '.join(str(error).split())}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from telling what we tell ourselves, or what a recipe decided on purpose."""
    logs = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric")]
    levels = [log.level for log in logs]
    with warnings.catch_warnings():
        for about in ("does not have many workers", "treespec, LeafSpec", "in eval mode at the start"):
            warnings.filterwarnings("ignore", f".*{about}")
        try:
            for log in logs:
                log.setLevel(logging.WARNING)
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)
