"""Cityscapes with the four scores of its official evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glore import metrics
from glore.data.cityscapes import LABELS
from glore.data.labels import INSTANCE
from glore.train.segment import Segment

K = len(LABELS)
CATEGORIES = list(dict.fromkeys(label.category for label in LABELS))
GROUPS = torch.tensor([[label.category for label in LABELS].index(label.category) for label in LABELS])
SIZES = torch.tensor([label.instance for label in LABELS], dtype=torch.float64)
MEMBERS = torch.tensor([[label.category == name for label in LABELS] for name in CATEGORIES], dtype=torch.float64)
COUNTABLE = [all(label.instance for label in LABELS if label.category == name) for name in CATEGORIES]


class CityscapesSegment(Segment):
    """`Segment` on Cityscapes, with its official scores; the arguments are the same.

    Scores: `iou_<class>`; their mean, `miou`, which the benchmark calls IoU class; `iiou`, iIoU class; and the same two
    over categories, `iou_category` and `iiou_category`; then iIoU of each class and category with instances, and IoU
    of each category, by their names. What occurs nowhere is left out of a mean.

    Source: cityscapesscripts, evaluation/evalPixelLevelSemanticLabeling.py; a test compares with it.
    """

    def check_classes(self, classes: Sequence[str]) -> None:
        own = [label.name for label in LABELS]
        if classes != own:
            strange = next((name for name in classes if name not in own), f"{len(classes)} in another order")
            raise ValueError(
                f"model: {type(self).__name__} scores the {K} classes of Cityscapes, but the data have others "
                f"({strange}): give --model glore.train.segment.Segment"
            )
        super().check_classes(classes)

    def counts(self, logits: Tensor, target: Tensor) -> Tensor:
        pixels = super().counts(logits, target).cpu().flatten(1).double()  # (b, k²)
        weighted = metrics.instances(logits.argmax(1).cpu(), target.cpu() // INSTANCE, SIZES, GROUPS)  # (b, 4, k)
        return torch.cat([pixels, weighted.flatten(1)], dim=1)  # (b, k² + 4k)

    @staticmethod
    def confusion(counts: Tensor, classes: int) -> Tensor:
        return counts[:, : classes**2].sum(0).long().view(classes, classes)

    @staticmethod
    def names(classes: Sequence[str]) -> list[str]:
        means = [*Segment.names(classes), "iiou", "iou_category", "iiou_category"]
        classwise = [f"iiou_{label.name}" for label in LABELS if label.instance]
        categories = [f"iou_category_{name}" for name in CATEGORIES]
        countable = zip(CATEGORIES, COUNTABLE, strict=True)
        return [*means, *classwise, *categories, *(f"iiou_category_{name}" for name, known in countable if known)]

    @staticmethod
    def scores(counts: Tensor) -> tuple[Tensor, ...]:
        sums = counts.shape[:-1]
        pixels = counts[..., : K * K].view(*sums, K, K).double()
        right, wrong, near, far = counts[..., K * K :].view(*sums, 4, K).double().unbind(-2)  # (*sums, k) each
        told_of_others = pixels.sum(-2) - pixels.diagonal(dim1=-2, dim2=-1)  # false positives: (*sums, k)
        iiou = (right / (right + wrong + told_of_others))[..., SIZES > 0]
        members = MEMBERS.to(counts.device)
        grouped = members @ pixels @ members.mT  # (*sums, categories, categories)
        near, far = near @ members.mT, far @ members.mT
        grouped_others = grouped.sum(-2) - grouped.diagonal(dim1=-2, dim2=-1)
        parts = iiou, metrics.iou(grouped), (near / (near + far + grouped_others))[..., COUNTABLE]
        means = (torch.nanmean(part, -1) for part in parts)
        return (*Segment.scores(pixels), *means, *(score for part in parts for score in part.unbind(-1)))
