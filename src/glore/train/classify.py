"""Classification of pictures or clips: one class a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

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
    """

    metric = "top1"

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer] = torch.optim.AdamW,
        schedule: Schedule = constant,
        channels_last: bool = False,
        frozen_norms: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(net, optimizer, schedule, channels_last, frozen_norms)
        self.label_smoothing = label_smoothing

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing if self.training else 0.0)

    def counts(self, logits: Tensor, target: Tensor) -> Tensor:
        hits = metrics.top_k(logits, target, (1, 5))  # (b, 2)
        return torch.cat([hits, torch.ones_like(hits[:, :1])], dim=1)  # (b, 3)

    @staticmethod
    def names(classes: Sequence[str]) -> list[str]:
        return ["top1", "top5"]

    @staticmethod
    def scores(counts: Tensor) -> tuple[Tensor, ...]:
        top1, top5, samples = counts.double().unbind(-1)
        return top1 / samples, top5 / samples
