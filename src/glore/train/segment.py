"""Semantic segmentation: a class for each position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from glore import metrics
from glore.train.task import Task


class Segment(Task):
    """Train a network whose logits have a class for each position, with cross-entropy; see `Task` for the arguments.

    Scores: intersection over union of each class, `iou_<class>`, and its mean over the classes that occur, `miou`.
    Positions with label 255 count for nothing.
    """

    metric = "miou"

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        total = F.cross_entropy(logits, target, ignore_index=metrics.IGNORED, reduction="sum")
        return total / (target != metrics.IGNORED).sum().clamp_min(1)  # a batch may have nothing to learn from

    def counts(self, logits: Tensor, target: Tensor) -> Tensor:
        return metrics.confusion(logits.argmax(1), target, logits.shape[1])

    @staticmethod
    def confusion(counts: Tensor, classes: int) -> Tensor:
        return counts.sum(0)

    @staticmethod
    def names(classes: Sequence[str]) -> list[str]:
        return [*(f"iou_{name}" for name in classes), "miou"]

    @staticmethod
    def scores(counts: Tensor) -> tuple[Tensor, ...]:
        iou = metrics.iou(counts)  # (*sums, k)
        return (*iou.unbind(-1), torch.nanmean(iou, -1))
