"""The one data module: any dataset by class path, in an order and with random draws that follow from the seed alone."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from glore.data.broken import BrokenSampleError
from glore.data.samples import Samples

SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


class Draw(NamedTuple):
    """Which item to take, and the seed of its random augmentation."""

    item: int
    seed: int


class Seeded(Dataset[Any]):
    """Items `(input, target, index)` of a dataset, each made with random states of its own.

    Where an item cannot be read, the index is −1 − index, and another item, drawn at random, takes its place; or, if
    nothing is drawn, another one of its batch, or the dataset's `blank()` in a batch of which none can be read.

    An item's augmentation then depends on nothing but the seed, the epoch and its index: not on the number of workers
    or processes, nor on where an interrupted training went on.
    """

    def __init__(self, dataset: Any, broken: Literal["raise", "replace", "blank"] = "raise") -> None:
        self.dataset, self.broken = dataset, broken

    def __getitem__(self, draw: Draw) -> tuple[Any, ...]:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: list[Any]) -> list[Any]:  # Any: to check a list, beartype draws one of its items
        """The items of a batch of draws; torch's loader asks for them at once, so states are kept once for all."""
        generator = torch.default_generator  # torch.manual_seed would seed the devices too, a third of a millisecond
        states = generator.get_state(), random.getstate(), np.random.get_state()
        try:
            items = [self._drawn(draw, generator) for draw in draws]
        finally:
            generator.set_state(states[0])
            random.setstate(states[1])
            np.random.set_state(states[2])
        if self.broken != "blank":
            return items
        readable = next((item for item in items if item[2] >= 0), items[0])  # of the size and kind that the batch has
        return [item if item[2] >= 0 else (*readable[:2], item[2]) for item in items]

    def _drawn(self, draw: Draw, generator: torch.Generator) -> tuple[Any, ...]:
        generator.manual_seed(draw.seed)
        random.seed(draw.seed)
        np.random.seed(draw.seed % 2**32)
        sample, target, index = self._read(draw.item)
        return torch.as_tensor(sample), -1 if target is None else target, index

    def _read(self, item: int) -> tuple[Any, Any, int]:
        try:
            return (*self.dataset[item], item)
        except BrokenSampleError as error:
            if self.broken == "raise":
                raise
            if self.broken == "blank":
                return self.dataset.blank(), None, -1 - item
            why = error
        for _ in range(100):
            with suppress(BrokenSampleError):
                return (*self.dataset[random.randrange(len(self.dataset))], -1 - item)
        raise BrokenSampleError(
            f"of 100 samples drawn at random none can be read, such as: {why}; glore scan finds them all"
        )


def named(dataset: Any, item: int) -> str:
    """What an item goes by: the name that its dataset has for it, or its index."""
    return str(dataset.name(item)) if hasattr(dataset, "name") else str(item)


def fault(dataset: Any, item: int) -> str:
    """Why an item of a dataset cannot be read."""
    try:
        Seeded(dataset)[Draw(item, 0)]  # which leaves the random state as it is
    except BrokenSampleError as error:
        return str(error)
    return "it could not be read, and can now"


class Order(Sampler[Draw]):
    """The order of the items in an epoch, or this process's part of it.

    In training each global batch is cut into equal parts, one a process, and what does not fill a global batch is left
    out of that epoch. In evaluation every item comes once.

    Args:
        size: how many items there are.
        batch_size: of all processes together.
        shuffle: a new random order in each epoch, as in training; otherwise in their own order, all of them.
        seed: the order and the items' seeds follow from it and the epoch.
        rank: of this process.
        processes: how many there are.
    """

    def __init__(self, size: int, batch_size: int, *, shuffle: bool, seed: int, rank: int, processes: int) -> None:
        self.size, self.batch_size, self.shuffle = size, batch_size, shuffle
        self.seed, self.rank, self.processes = seed, rank, processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        seeds = torch.randint(2**62, (self.size,), generator=generator)
        if self.shuffle:
            order = torch.randperm(self.size, generator=generator)
            batches = order[: len(order) // self.batch_size * self.batch_size].view(-1, self.batch_size)
            order = batches.chunk(self.processes, dim=1)[self.rank].flatten()
        else:
            order = torch.arange(self.size)[self.rank :: self.processes]
        return (Draw(int(index), int(seeds[index])) for index in order)

    def __len__(self) -> int:
        if self.shuffle:
            return self.size // self.batch_size * self.batch_size // self.processes
        return len(range(self.rank, self.size, self.processes))


class Data(LightningDataModule):
    """Datasets of any kind, as batches.

    Args:
        dataset: makes a dataset from the name of a split, `"train"`, `"val"` or `"test"`: a class path whose first
            argument is the split, with its other arguments. An item is `(input, target)`, with None for the target
            where it is not known and only predictions are wanted; the attribute `classes` names the classes in order.
        batch_size: samples a training step, of all processes together.
        eval_batch_size: samples a step of validation, test and prediction in each process; `batch_size` by default.
        workers: processes that load data, for each training process; 0 loads in the training process itself.
        seed: the order of the data and its augmentation follow from it; a recipe's `seed_everything`.

    Raises:
        ValueError: `batch_size` cannot be shared among the processes, or is larger than the training set.
    """

    def __init__(
        self,
        dataset: Callable[[str], Dataset[Any]],
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": (batch_size, 1), "eval_batch_size": (eval_batch_size, 1), "workers": (workers, 0)}
        for name, (value, least) in sizes.items():
            if value is not None and value < least:
                raise ValueError(f"data.{name}={value} must be at least {least}")
        self.make, self.batch_size, self.workers, self.seed = dataset, batch_size, workers, seed
        self.eval_batch_size = eval_batch_size or batch_size
        self.splits: dict[str, Dataset[Any]] = {}
        self.max_steps = -1  # of a training that ends by steps

    def setup(self, stage: str) -> None:
        for split in SPLITS[stage]:
            self.check_files(split)

    def check_files(self, split: str) -> None:
        """Raise what a split's dataset raises where files are missing that its items need."""
        dataset = self.split(split)
        if hasattr(dataset, "check_files"):
            dataset.check_files()

    def split(self, name: str) -> Any:
        """The dataset of a split, made when first asked for.

        Raises:
            ValueError: it is empty, or does not name its classes.
        """
        if name not in self.splits:
            dataset = self.make(name)
            if not len(dataset):  # type: ignore[arg-type]
                raise ValueError(f"{name} has no samples: look at what data.dataset finds for it in --data.root")
            if not hasattr(dataset, "classes"):
                raise ValueError(f"{type(dataset).__name__} must have the names of its classes, in order, as classes")
            self.splits[name] = dataset
        return self.splits[name]

    @contextmanager
    def unlabelled(self) -> Iterator[None]:
        """Test on inputs alone, where the dataset tells them apart: a mask that cannot be read is no fault then."""
        dataset = self.split("test")
        self.splits["test"] = dataset.unlabelled() if hasattr(dataset, "unlabelled") else dataset
        try:
            yield
        finally:
            self.splits["test"] = dataset

    def chosen(self, split: str, count: int) -> list[int]:
        """The indices of so many items from all over a split, or of all, if there are fewer."""
        size = len(self.split(split))
        count = min(count, size)
        return [size * i // count for i in range(count)]

    def fingerprint(self, split: str) -> str:
        """What tells a split from another one: its classes, and the names and numbers that its items go by."""
        dataset = self.split(split)
        names = [Path(named(dataset, item)).name for item in range(len(dataset))]
        samples = dataset.samples if isinstance(dataset, Samples) else []
        labels = [part for sample in samples for part in sample[1:] if isinstance(part, int)]
        told = json.dumps([list(map(str, dataset.classes)), names, *([labels] if labels else [])])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def tested_on(self) -> str:
        """The split whose files the test split has: `"val"`, where a data set of files has no others, or `"test"`."""
        val, test = self.split("val"), self.split("test")
        same = isinstance(val, Samples) and isinstance(test, Samples) and val.samples == test.samples
        return "val" if same else "test"

    def item(self, split: str, index: int) -> tuple[torch.Tensor, Any]:
        """An item as a network takes it, of several views the first, and its target."""
        dataset = self.split(split)
        x, y = dataset[index]
        several = getattr(dataset, "views", 1) > 1
        return torch.as_tensor(x)[0] if several else torch.as_tensor(x), y

    @property
    def training_steps(self) -> int:
        """How many steps of the optimizer a whole training has.

        Lightning's own count makes the loader to get it, before a resumed training knows its epoch.
        """
        trainer = self.trainer
        assert trainer is not None
        batches, limit = len(self.split("train")) // self.batch_size, trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
        steps = math.inf if self.max_steps == -1 else self.max_steps
        if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                "trainer.callbacks: GradientAccumulationScheduler hides from the schedule how many steps there are: "
                "give --trainer.accumulate_grad_batches"
            )
        whole = min(steps, math.ceil(batches / trainer.accumulate_grad_batches) * epochs)
        if whole == math.inf:
            raise ValueError("trainer.max_epochs or trainer.max_steps is needed: the schedule has to know the end")
        return int(whole)

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        assert trainer is not None
        size, processes = len(self.split("train")), trainer.world_size
        self._check_enough("train")
        if self.batch_size % processes or self.batch_size > size:
            raise ValueError(
                f"data.batch_size={self.batch_size}, which is of all processes together, must be at most the {size} "
                f"training samples, and a multiple of the number of processes, {processes}: give --data.batch_size "
                f"{max(1, min(size, self.batch_size) // processes) * processes}"
            )
        self._check_enough("val")
        # Lightning makes the loader's iterator before it sets the epoch, and workers begin at once: a resumed training
        # has to start with the right one
        epoch = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        return self._loader("train", self.batch_size // processes, epoch, "replace")

    def val_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        alone = self.trainer.state.fn == TrainerFn.VALIDATING  # amid a training, it goes on
        return self._loader("val", self.eval_batch_size, broken="raise" if alone else "replace")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", self.eval_batch_size, broken="blank")

    def _check_enough(self, split: str) -> None:
        assert self.trainer is not None
        size, processes = len(self.split(split)), self.trainer.world_size
        if size < processes:
            raise ValueError(f"{split} has {size} samples for {processes} processes: give --trainer.devices {size}")

    def _loader(
        self, split: str, batch_size: int, epoch: int = 0, broken: Literal["raise", "replace", "blank"] = "raise"
    ) -> DataLoader[Any]:
        assert self.trainer is not None
        dataset = self.split(split)
        if split != "train":
            self._check_enough(split)
        order = Order(
            len(dataset),
            self.batch_size,
            shuffle=split == "train",
            seed=self.seed,
            rank=self.trainer.global_rank,
            processes=self.trainer.world_size,
        )
        order.set_epoch(epoch)
        workers = min(self.workers, math.ceil(len(order) / batch_size))  # a few photographs need not eight of them
        return DataLoader(
            Seeded(dataset, broken),
            batch_size=batch_size,  # by name: Lightning makes loaders again for prediction
            sampler=order,
            num_workers=workers,
            collate_fn=_collated,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # or a loader that begins would change what the training draws
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )


def _collated(items: list[Any]) -> Any:
    try:
        return default_collate(items)
    except RuntimeError as error:
        sizes = {"×".join(map(str, item[0].shape)) for item in items}
        if len(sizes) == 1:
            raise
        raise ValueError(
            f"the samples of a batch differ in size ({', '.join(sorted(sizes)[:3])}): give --data.eval_batch_size 1, "
            "and in training a preset that crops"
        ) from error
