"""What every task does: a network, a loss, an optimizer with a schedule, and metrics from what each sample adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from glore.train.schedules import Schedule, constant
from glore.units.ndim import BATCH_NORMS


class Task(LightningModule):
    """A network in training; subclasses give the loss and the metrics.

    Args:
        net: the network.
        optimizer: makes the optimizer from parameters: a class path with its arguments, without the parameters.
            Biases, norms and other vectors get no weight decay.
        schedule: share of the learning rate at a step of how many: a class path in `glore.train.schedules`.
        channels_last: keep maps and weights with channels last, which convolutions in mixed precision are fastest with.
        frozen_norms: keep batch norms in evaluation mode, with the statistics that they came with.
    """

    metric: ClassVar[str]  # the score that tells which epoch is best, and which comparisons are about

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer] = torch.optim.AdamW,
        schedule: Schedule = constant,
        channels_last: bool = False,
        frozen_norms: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.make_optimizer, self.schedule = net, optimizer, schedule
        self.channels_last, self.frozen_norms = channels_last, frozen_norms
        self.counted: list[tuple[Tensor, Tensor]] = []  # of each evaluated batch: indices and counts
        self.samples: dict[int, Tensor] = {}  # of the last evaluation: index → counts, in order
        if channels_last:
            for tensor in (*self.net.parameters(), *self.net.buffers()):
                tensor.data = last(tensor.data)
        self.train()

    def train(self, mode: bool = True) -> Task:
        """As torch's, but norms that are frozen stay in evaluation mode."""
        super().train(mode)
        for module in self.net.modules():
            if self.frozen_norms and isinstance(module, BATCH_NORMS):
                module.eval()
        return self

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean loss of a batch."""
        raise NotImplementedError

    def counts(self, logits: Tensor, target: Tensor) -> Tensor:
        """What each sample adds to the scores, whole numbers: (b, …)."""
        raise NotImplementedError

    @staticmethod
    def names(classes: Sequence[str]) -> list[str]:
        """The names of the scores."""
        raise NotImplementedError

    @staticmethod
    def scores(counts: Tensor) -> tuple[Tensor, ...]:
        """The scores, in the order of their names, from sums of counts (*sums, …): each (*sums)."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(last(inputs) if self.channels_last else inputs)

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        inputs, target, index = batch
        loss = self.loss(self._logits(inputs, "train"), target)
        finite = torch.as_tensor(self.all_gather(loss.detach().isfinite()))  # of all processes: they stop together
        if not finite.all():
            rate: float = self.trainer.optimizers[0].param_groups[0]["lr"]
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.global_step}, epoch {self.current_epoch}, learning rate "
                f"{rate:.3g}: try a lower rate, a longer warm-up or --trainer.gradient_clip_val 1"
            )
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(index), sync_dist=True)
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_index: int) -> None:
        inputs, target, index = batch
        self.counted.append((index.cpu(), self.counts(self._logits(inputs, "val"), target).cpu()))

    test_step = validation_step

    def _logits(self, inputs: Tensor, split: str) -> Tensor:
        logits = self(inputs)
        classes = self.trainer.datamodule.split(split).classes  # type: ignore[attr-defined]
        if logits.shape[1] != len(classes):
            raise ValueError(
                f"the network tells {logits.shape[1]} classes apart, but the data have {len(classes)}: "
                "set --model.net.classes, or whatever your network calls it"
            )
        return logits

    def predict_step(self, batch: Sequence[Tensor], batch_index: int) -> tuple[Tensor, Tensor]:
        inputs, _, index = batch
        return index, self(inputs)

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
        scores = self.scores(torch.stack(list(self.samples.values())).sum(0))
        return dict(zip(self.names(classes), scores, strict=True))

    def on_train_epoch_start(self) -> None:
        """Dropout and the like draw anew each epoch, so a resumed training draws what an uninterrupted one would."""
        seed = self.trainer.datamodule.seed  # type: ignore[attr-defined]
        torch.manual_seed(1_000_003 * (seed + 1) + 1_009 * self.current_epoch + self.global_rank)

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.dim() > 1]},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        optimizer = self.make_optimizer([group for group in groups if group["params"]])
        steps = self.trainer.datamodule.training_steps  # type: ignore[attr-defined]
        scheduler = LambdaLR(optimizer, lambda step: self.schedule(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def last(tensor: Tensor) -> Tensor:
    """The tensor with its channels last in memory, if it is a map of two or three space axes or such a weight."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.contiguous(memory_format=formats[tensor.dim()]) if tensor.dim() in formats else tensor
