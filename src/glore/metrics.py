"""What a sample adds to a metric, in numbers whose sums give the metric of any set of samples.

torchmetrics keeps sums over all it has seen; a paired bootstrap over test samples needs them by sample.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from glore.data.labels import IGNORED, MOST


def check_labels(target: Int[Tensor, "*b"], classes: int, ignored: int | None = None) -> None:
    """Refuse labels that are no classes.

    Args:
        target: of any shape.
        classes: how many classes there are.
        ignored: a label besides 0 … classes − 1, of what counts for nothing.

    Raises:
        ValueError: a label is neither a class nor `ignored`, or of another type than int64; the message names it.
    """
    if target.dtype != torch.int64:
        raise ValueError(f"the labels are {target.dtype}: give int64")
    wrong = (target < 0) | (target >= classes)
    if ignored is not None:
        wrong &= target != ignored
    if wrong.any():
        more = "" if ignored is None else f", or {ignored} to be left out"
        raise ValueError(f"a label is {int(target[wrong][0])}, but must be in 0 … {classes - 1}{more}")


def confusion(
    predicted: Int[Tensor, "b *space"], target: Int[Tensor, "b *space"], classes: int
) -> Int[Tensor, "b {classes} {classes}"]:
    """Count the positions of each sample by true class (rows) and predicted class (columns).

    Args:
        predicted: classes in 0 … classes − 1.
        target: the same, or 255 for positions to leave out.
        classes: how many classes there are.

    Raises:
        ValueError: a label is neither a class nor 255.
    """
    check_labels(target, classes, IGNORED)
    samples = torch.arange(len(target), device=target.device).view(-1, *[1] * (target.dim() - 1))
    cells = (samples * classes + target) * classes + predicted
    counts = torch.bincount(cells[target != IGNORED], minlength=len(target) * classes**2)
    return counts.view(len(target), classes, classes)


def iou(counts: Shaped[Tensor, "*sums k k"]) -> Float[Tensor, "*sums k"]:
    """Intersection over union of each class from (weighted) confusion matrices; nan for a class that is nowhere.

    Source: the Cityscapes evaluation, which leaves absent classes out of the mean.
    """
    both = counts.diagonal(dim1=-2, dim2=-1).double()
    either = counts.sum(-1) + counts.sum(-2) - both
    return both / either  # 0 / 0 is nan


def instances(
    predicted: Int[Tensor, "b *space"],
    instance: Int[Tensor, "b *space"],
    sizes: Float[Tensor, "k"],
    groups: Int[Tensor, "k"],
) -> Float[Tensor, "b 4 k"]:
    """Count the positions of each sample's instances, each weighted by the mean size of its class over its own.

    On the CPU, where `sizes` and `groups` lie.

    Args:
        predicted: classes.
        instance: 0 for none, or else `MOST` times (its class + 1) plus its number.
        sizes: mean size of the instances of each class, in positions.
        groups: the group of each class, as the index of its first class.

    Returns:
        For each class: positions of its instances that were given the class, those that were given another, and the
        same two for the class's group.

    Source: the Cityscapes evaluation, iIoU.
    """
    counts = torch.zeros(len(predicted), 4, len(sizes), dtype=torch.float64)
    for sample in range(len(predicted)):
        there = instance[sample] > 0
        found, which = instance[sample][there].unique(return_inverse=True)
        of = found // MOST - 1  # (instances): the class of each
        told = predicted[sample][there]
        size = which.bincount(minlength=len(found)).double()
        right = which[told == of[which]].bincount(minlength=len(found)).double()
        group = which[groups[told] == groups[of][which]].bincount(minlength=len(found)).double()
        weight = sizes.double()[of] / size
        for row, hits in enumerate((right, size - right, group, size - group)):
            counts[sample, row].index_add_(0, of, weight * hits)
    return counts


def top_k(ranked: Int[Tensor, "b most"], target: Int[Tensor, "b"], ks: tuple[int, ...]) -> Int[Tensor, "b n"]:
    """For each sample and each k of `ks`: 1 if the true class is among the first k of its ranked classes, else 0."""
    right = ranked == target[:, None]
    return torch.stack([right[:, :k].any(1) for k in ks], dim=1).long()
