"""What every task does: a network, a loss, an optimizer with a schedule, and metrics from what each sample adds."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from glore.insert import units_of
from glore.nets.pretrained import classifiers
from glore.train.data import fault
from glore.train.schedules import Schedule, constant
from glore.units.ndim import BATCH_NORMS, Unit

# in what torch and networks say of inputs that do not fit
WRONG_INPUT = re.compile("channels|size|shape|match model|divisible|should be the same|same dtype|expected scalar type")
MOST_BROKEN = 0.01  # share of the samples that may be unreadable in a training


class Task(LightningModule):
    """A network in training; subclasses give the loss and the metrics.

    Args:
        net: the network.
        optimizer: makes the optimizer from parameters: a class path with its arguments, without the parameters.
            Biases, norms and other vectors get no weight decay.
        schedule: share of the learning rate at a step of how many: a class path in `glore.train.schedules`.
        channels_last: keep maps and weights with channels last, which convolutions in mixed precision are fastest with.
        frozen_norms: keep batch norms in evaluation mode, with the statistics that they came with.
        train: `"all"` parameters, or those of the `"units"` and the classifier alone: the others stay as they are, and
            their norms in evaluation mode.
        old_rate: share of the learning rate for parameters that are neither a unit's nor the classifier's, as a network
            with trained weights needs.

    Raises:
        ValueError: `old_rate` is not in (0, 1], or which layers are new cannot be told of the network.
    """

    metric: ClassVar[str]  # the score that tells which epoch is best, and which comparisons are about

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer] = torch.optim.AdamW,
        schedule: Schedule = constant,
        channels_last: bool = False,
        frozen_norms: bool = False,
        train: Literal["all", "units"] = "all",
        old_rate: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < old_rate <= 1:
            raise ValueError(f"old_rate={old_rate} must be a share of the learning rate in (0, 1]")
        if not classifiers(net) and (train == "units" or old_rate < 1):
            raise ValueError(
                f"where the classifier of {type(net).__name__} is, which is new, cannot be told, as train='units' and "
                "an old_rate below 1 need: call it head, classifier or fc, or give the network a default_cfg with its "
                "name or names, such as {'classifier': 'decoder'}; or give --model.train all --model.old_rate 1"
            )
        self.net, self.make_optimizer, self.schedule = net, optimizer, schedule
        self.channels_last, self.old_rate = channels_last, old_rate
        new = {id(module) for part in new_parts(net) for module in part.modules()}
        self.new = {id(parameter) for part in new_parts(net) for parameter in part.parameters()}
        if train == "units":
            for parameter in net.parameters():
                parameter.requires_grad_(id(parameter) in self.new)
        self.frozen = [  # by name: Lightning may put other norms in their places, for several processes
            name
            for name, module in net.named_modules()
            if isinstance(module, BATCH_NORMS) and (frozen_norms or (train == "units" and id(module) not in new))
        ]
        self.counted: list[tuple[Tensor, Tensor]] = []  # of each evaluated batch: indices and counts
        self.broken: dict[str, set[int]] = {"train": set(), "val": set()}  # samples that could not be read
        self.samples: dict[int, Tensor] = {}  # of the last evaluation: index → counts, in order
        if channels_last:
            for tensor in (*self.net.parameters(), *self.net.buffers()):
                tensor.data = last(tensor.data)
        self.train()

    def train(self, mode: bool = True) -> Task:
        """As torch's, but norms that are frozen stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            self.net.get_submodule(name).eval()
        return self

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean loss of a batch."""
        raise NotImplementedError

    def counts(self, logits: Tensor, target: Tensor) -> Tensor:
        """What each sample adds to the scores, in numbers that are summed: (b, …)."""
        raise NotImplementedError

    def infer(self, inputs: Tensor) -> Tensor:
        """What the network says of a batch in evaluation: logits, or probabilities."""
        return self(inputs)

    def seen(self, inputs: Tensor) -> Tensor:
        """A batch at the size at which the network sees it in evaluation, whole; of several sizes, the first."""
        return inputs

    def mixed(self, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """A training batch as the loss takes it: where samples are mixed, here."""
        return inputs, target

    @staticmethod
    def confusion(counts: Tensor, classes: int) -> Tensor:
        """Test samples, or positions, by true (rows) and predicted class (columns), from the samples' counts."""
        raise NotImplementedError

    @staticmethod
    def names(classes: Sequence[str]) -> list[str]:
        """The names of the scores."""
        raise NotImplementedError

    @staticmethod
    def scores(counts: Tensor) -> tuple[Tensor, ...]:
        """The scores, in the order of their names, from sums of counts (*sums, …): each (*sums)."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Any:  # or a tuple, with auxiliary logits
        return self.net(last(inputs) if self.channels_last else inputs)

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        inputs, target, index = batch
        self._count_broken(index, "train")
        inputs, target = self.mixed(inputs, target)
        try:
            logits = self._logits(inputs, "train")
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"data.batch_size gives this process {len(index)} samples a step, of which a batch norm behind a "
                "pooling sees one value for each channel: give more, or in several processes --trainer.sync_batchnorm "
                "true"
            ) from error
        loss = self.loss(logits, target)
        finite = torch.as_tensor(self.all_gather(loss.detach().isfinite()))  # of all processes: they stop together
        if not finite.all():
            rate: float = self.trainer.optimizers[0].param_groups[0]["lr"]
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.global_step}, epoch {self.current_epoch}, learning rate "
                f"{rate:.3g}: try a lower rate, a longer warm-up or --trainer.gradient_clip_val 1"
            )
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(index), sync_dist=True)
        return loss

    def _count_broken(self, index: Tensor, split: str) -> None:
        """Note the samples that could not be read, whose index is negative; stop if they are more than a few."""
        self.broken[split] |= {int(-1 - i) for i in index[index < 0]}
        self.check_broken(split, self.broken[split])

    def check_broken(self, split: str, broken: Collection[int]) -> None:
        """Raise a ValueError if these samples, which could not be read, are more than a few of a split."""
        dataset = self.trainer.datamodule.split(split)  # type: ignore[attr-defined]
        if len(broken) > max(1, MOST_BROKEN * len(dataset)):
            faults = "; ".join(fault(dataset, item) for item in sorted(broken)[:20])
            raise ValueError(
                f"{len(broken)} of {len(dataset)} samples of {split} cannot be read, more than "
                f"{100 * MOST_BROKEN:.0f} %: {faults}; glore scan finds them all"
            )

    def validation_step(self, batch: Sequence[Tensor], batch_index: int) -> None:
        inputs, target, index = batch
        split = "test" if self.trainer.testing else "val"
        if split == "val":
            self._count_broken(index, split)
        counts, index = self.counts(self._logits(inputs, split), target).cpu(), index.cpu()
        self.counted.append((index[index >= 0], counts[index >= 0]))  # others stand for what is broken

    test_step = validation_step

    def _logits(self, inputs: Tensor, split: str) -> Any:
        dataset = self.trainer.datamodule.split(split)  # type: ignore[attr-defined]
        classes, views = dataset.classes, getattr(dataset, "views", 1)
        try:
            if views == 1:
                logits = self(inputs) if split == "train" else self.infer(inputs)
            else:  # (b, views, …): the mean of the views' probabilities, of one view at a time, for a clip has many
                logits = torch.stack([self(view).float().softmax(1) for view in inputs.unbind(1)]).mean(0).log()
        except (RuntimeError, AssertionError) as error:
            said = str(error) or "perhaps it wants another size (--data.dataset.preset.size)"
            if isinstance(error, torch.OutOfMemoryError) or not WRONG_INPUT.search(said):
                raise
            shape = "×".join(map(str, inputs[0].shape))
            raise ValueError(f"the network does not take these samples, {shape}: {said}") from error
        told = (logits[0] if isinstance(logits, tuple) else logits).shape[1]
        if told != len(classes):
            raise ValueError(
                f"the network tells {told} classes apart, but the data have {len(classes)}: "
                "set --model.net.classes, or whatever your network calls it"
            )
        return logits if split == "train" else taught(logits, dataset)

    def predict_step(self, batch: Sequence[Tensor], batch_index: int) -> tuple[Tensor, Tensor]:
        inputs, _, index = batch
        return index, self._logits(inputs, "test")

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": score for name, score in self._evaluated("val").items()}, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": score for name, score in self._evaluated("test").items()}, sync_dist=True)

    def _evaluated(self, split: str) -> dict[str, Tensor]:
        """The scores over all processes' samples, whose counts stay in `samples`."""
        parts: list[Any] = [self.counted]
        if self.trainer.world_size > 1:
            parts = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, self.counted)
        pairs = [pair for part in parts for indices, counts in part for pair in zip(indices, counts, strict=True)]
        self.counted = []
        self.samples = {int(index): counts for index, counts in sorted(pairs, key=lambda pair: int(pair[0]))}
        classes = self.trainer.datamodule.split(split).classes  # type: ignore[attr-defined]
        if not self.samples:
            raise ValueError(f"none of the samples of {split} can be read: glore scan tells why")
        self.sums = torch.as_tensor(sum(counts.to(_summed(counts)) for counts in self.samples.values()))
        scores = self.scores(self.sums)
        return {  # on the device, where processes compare them
            name: score.float().to(self.device) for name, score in zip(self.names(classes), scores, strict=True)
        }

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        """Dropout and the like draw anew each epoch, so a resumed training draws what an uninterrupted one would.

        From its first batch on: a loader draws when it begins, which a resumed training does earlier.
        """
        if batch_index:
            return
        seed = self.trainer.datamodule.seed  # type: ignore[attr-defined]
        seed = 1_000_003 * (seed + 1) + 1_009 * self.current_epoch + self.global_rank
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)

    def configure_optimizers(self) -> Any:
        groups: dict[tuple[bool, bool], dict[str, Any]] = {}
        for parameter in self.net.parameters():
            if parameter.requires_grad:
                old, vector = id(parameter) not in self.new, parameter.dim() <= 1
                group = groups.setdefault((old, vector), {"params": [], **({"weight_decay": 0.0} if vector else {})})
                group["params"].append(parameter)
        optimizer = self.make_optimizer(list(groups.values()))
        for (old, _), group in zip(groups, optimizer.param_groups, strict=True):
            group["lr"] *= self.old_rate if old else 1.0
        steps = self.trainer.datamodule.training_steps  # type: ignore[attr-defined]
        scheduler = LambdaLR(optimizer, lambda step: self.schedule(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _summed(counts: Tensor) -> torch.dtype:
    """The type of sums of counts."""
    return counts.dtype if counts.is_floating_point() else torch.int64


def taught(logits: Tensor, dataset: Any) -> Tensor:
    """The logits of a batch (b, classes, …), none of which is for a class that the data set leaves out."""
    untaught = getattr(dataset, "untaught", None)
    return logits.index_fill(1, torch.tensor(untaught, device=logits.device), -torch.inf) if untaught else logits


def new_parts(net: nn.Module) -> list[nn.Module]:
    """What has no trained weights where the rest of a network has: its units and its classifier."""
    units = dict.fromkeys([*units_of(net).values(), *(module for module in net.modules() if isinstance(module, Unit))])
    return [*units, *(net.get_submodule(name) for name in classifiers(net))]


def last(tensor: Tensor) -> Tensor:
    """The tensor with its channels last in memory, if it is a map of two or three space axes or such a weight."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.contiguous(memory_format=formats[tensor.dim()]) if tensor.dim() in formats else tensor
