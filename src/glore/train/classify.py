"""Classification of pictures or clips: one class a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from glore import metrics
from glore.train.schedules import Schedule, constant
from glore.train.task import Task


class Classify(Task):
    """Train a network whose logits are `(b, classes)`, with cross-entropy; see `Task` for the other arguments.

    Scores: `top1` and `top5`, the shares of samples whose class is the first, or among the first five.

    Args:
        label_smoothing: share of the target spread over all classes, in [0, 1).
        mix: mixes the samples of a training batch and their one-hot targets, as `glore.data.transforms.Mix` does.

    Raises:
        ValueError: `label_smoothing` is not in [0, 1).
    """

    metric = "top1"

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer] = torch.optim.AdamW,
        schedule: Schedule = constant,
        channels_last: bool = False,
        frozen_norms: bool = False,
        train: Literal["all", "units"] = "all",
        old_rate: float = 1.0,
        label_smoothing: float = 0.0,
        mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        super().__init__(net, optimizer, schedule, channels_last, frozen_norms, train, old_rate)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} must be in [0, 1)")
        self.label_smoothing, self.mix = label_smoothing, mix

    def mixed(self, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        classes = len(self.trainer.datamodule.split("train").classes)  # type: ignore[attr-defined]
        metrics.check_labels(target, classes)
        if self.mix is None:
            return inputs, target
        return self.mix(inputs, F.one_hot(target, classes).to(inputs.dtype))

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)

    def counts(self, logits: Tensor, target: Tensor) -> Tensor:
        metrics.check_labels(target, logits.shape[1])
        ranked = logits.topk(min(5, logits.shape[1])).indices  # (b, at most 5), which breaks ties for all scores
        hits = metrics.top_k(ranked, target, (1, 5))  # (b, 2)
        rest = torch.stack([torch.ones_like(target), target, ranked[:, 0]], dim=1)  # (b, 3)
        return torch.cat([hits, rest], dim=1)  # (b, 5): hit, among five, one sample, true class, predicted class

    @staticmethod
    def confusion(counts: Tensor, classes: int) -> Tensor:
        # one matrix for each sample, as of pictures' positions, would not fit into memory
        cells = counts[:, 3].long() * classes + counts[:, 4]
        return torch.bincount(cells, minlength=classes**2).view(classes, classes)

    @staticmethod
    def names(classes: Sequence[str]) -> list[str]:
        return ["top1", "top5"]

    @staticmethod
    def scores(counts: Tensor) -> tuple[Tensor, ...]:
        top1, top5, samples = counts[..., :3].double().unbind(-1)
        return top1 / samples, top5 / samples
