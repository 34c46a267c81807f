"""Semantic segmentation: a class for each position."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from glore import metrics
from glore.data.labels import IGNORED, INSTANCE, MOST, check_taught
from glore.nets import inference
from glore.train.data import SPLITS, Data, Draw, Seeded
from glore.train.schedules import Schedule, constant
from glore.train.task import Task


class Segment(Task):
    """Train a network whose logits have a class for each position, with cross-entropy; the first arguments: `Task`.

    A network gives logits `(b, classes, h, w)`, in training a pair of them where it has an auxiliary head, or, as
    torchvision's networks do, a mapping of them, `out` and `aux`.

    Scores: intersection over union of each class, `iou_<class>`, and its mean over the classes that occur, `miou`.
    Positions with label 255 count for nothing.

    The loss is a mean over the positions of this process's batch.

    Args:
        class_weights: a weight for each class in the loss; all the same by default.
        ohem_threshold: where it is given, only positions whose class has a probability below it enter the loss (online
            hard example mining), in (0, 1).
        ohem_min_kept: of a batch's positions that count, this share enters the loss in any case, the hardest first, in
            (0, 1].
        auxiliary_weight: of the loss of a network's auxiliary logits.
        window: in evaluation, height and width of the windows in which a picture is seen; whole by default.
        overlap: of the windows, as a share of one.
        scales: in evaluation, sizes at which a picture is seen, as shares of its own. `[0.5]` sees it at half its size,
            and answers at its own.
        flip: in evaluation, whether the mirror image is seen as well.

    Raises:
        ValueError: an argument is out of range, or `class_weights` are not as many as the data have classes.

    Source: Shrivastava, Gupta, Girshick, CVPR 2016 (arXiv 1604.03540), for hard examples.
    """

    metric = "miou"

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer] = torch.optim.AdamW,
        schedule: Schedule = constant,
        channels_last: bool = False,
        frozen_norms: bool = False,
        train: Literal["all", "units"] = "all",
        old_rate: float = 1.0,
        class_weights: Sequence[float] | None = None,
        ohem_threshold: float | None = None,
        ohem_min_kept: float = 0.1,
        auxiliary_weight: float = 0.4,
        window: Sequence[int] | None = None,
        overlap: float = 1 / 3,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> None:
        super().__init__(net, optimizer, schedule, channels_last, frozen_norms, train, old_rate)
        if class_weights is not None and (min(class_weights, default=-1) < 0 or max(class_weights) == 0):
            raise ValueError(
                f"class_weights={list(class_weights)} must be a number for each class, none below 0 and one above"
            )
        if ohem_threshold is not None and not 0 < ohem_threshold < 1:
            raise ValueError(f"ohem_threshold={ohem_threshold} must be a probability in (0, 1)")
        if not 0 < ohem_min_kept <= 1:
            raise ValueError(f"ohem_min_kept={ohem_min_kept} must be a share in (0, 1]")
        if auxiliary_weight < 0:
            raise ValueError(f"auxiliary_weight={auxiliary_weight} must not be negative")
        inference.check(window, overlap, scales)
        self.class_weights, self.auxiliary_weight = class_weights, auxiliary_weight
        self.ohem_threshold, self.ohem_min_kept = ohem_threshold, ohem_min_kept
        self.views: dict[str, Any] = {"window": window, "overlap": overlap, "scales": scales, "flip": flip}

    def setup(self, stage: str) -> None:
        """Lightning calls it before each training and evaluation."""
        dataset = self._data.split(SPLITS[stage][0])
        self.check_classes(list(dataset.classes))
        if stage == "fit":
            if getattr(dataset, "as_they_are", False):
                dataset.check_masks()
            else:
                _check_drawn(self._data)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise a ValueError if the classes of the data cannot be learnt as the arguments say."""
        if len(classes) > IGNORED:
            raise ValueError(
                f"the data have {len(classes)} classes, but {IGNORED} are the most, since a label of {IGNORED} counts "
                "for nothing: join some"
            )
        self._check_weights(len(classes))

    def _check_weights(self, classes: int) -> None:
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ValueError(
                f"class_weights has {len(self.class_weights)} numbers, but there are {classes} classes: give each "
                "class one, in order, or null (--model.class_weights)"
            )

    @property
    def _data(self) -> Data:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def loss(self, logits: Tensor | tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        if isinstance(logits, tuple):
            main, side = logits
            return self.loss(main, target) + self.auxiliary_weight * self.loss(side, target)
        _check_size(logits, target)
        metrics.check_labels(target, logits.shape[1], IGNORED)
        self._check_weights(logits.shape[1])
        logits = logits.float()  # sums over a batch's positions overflow in half precision
        losses = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")  # (b, h, w)
        kept = target != IGNORED
        if self.ohem_threshold is not None:
            kept &= self._hard(losses.detach(), kept)
        weight = kept.float()
        if self.class_weights is not None:
            weight *= logits.new_tensor(self.class_weights)[target.where(kept, 0)]
        tiny = torch.finfo(weight.dtype).tiny  # a batch may have nothing to learn from
        return (losses * weight).sum() / weight.sum().clamp_min(tiny)

    def _hard(self, losses: Tensor, counted: Tensor) -> Tensor:
        """Which positions are hard: of a low probability for their class, or among the lowest."""
        assert self.ohem_threshold is not None
        sure = (-losses).exp()  # the probability of the true class
        some = math.ceil(self.ohem_min_kept * int(counted.sum()))
        limit = sure[counted].kthvalue(some).values if some else sure.new_zeros(())
        return sure <= limit.clamp_min(self.ohem_threshold)

    def forward(self, inputs: Tensor) -> Any:
        logits = super().forward(inputs)
        if not isinstance(logits, Mapping):
            return logits
        main, side = logits["out"], logits.get("aux")  # as torchvision's networks call them
        return (main, side) if self.training and side is not None else main

    def infer(self, inputs: Tensor) -> Tensor:
        return inference.probabilities(self, inputs, **self.views)

    def seen(self, inputs: Tensor) -> Tensor:
        return inference.resized(inputs, self.views["scales"][0])

    def counts(self, logits: Tensor, target: Tensor) -> Tensor:
        _check_size(logits, target)
        classes = target.where(target < INSTANCE * MOST, target.fmod(INSTANCE))  # no instance has a number below MOST
        return metrics.confusion(logits.argmax(1), classes, logits.shape[1]).int()  # kept of each sample

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


def _check_drawn(data: Data) -> None:
    """Raise a ValueError if the masks of val, and a thousand of train as they are drawn, tell no two classes apart."""
    classes = list(data.split("train").classes)
    found: set[int] = set()
    for split, count in (("val", len(data.split("val"))), ("train", 1000)):
        seeded = Seeded(data.split(split), "replace")  # which leaves the random states of the training as they are
        for index in data.chosen(split, count):
            target = seeded[Draw(index, index)][1]
            if len(getattr(target, "shape", ())) < 2:
                return  # it is no mask, as the loss will say
            found |= {int(label) % INSTANCE for label in torch.as_tensor(target).unique()}  # val may have instances
            if len(found - {IGNORED}) > 1 or not found <= {*range(len(classes)), IGNORED}:
                return
    if len(classes) > 1:
        check_taught(found, classes)


def _check_size(logits: Tensor, target: Tensor) -> None:
    if target.dim() < 3:
        raise ValueError("samples without masks cannot be learnt from or scored: glore predict takes them")
    inference.check_size(logits, target, "masks")
