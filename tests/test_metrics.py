"""Metrics from what each sample adds, against torchmetrics."""

import pytest
import torch

from glore import metrics

torchmetrics = pytest.importorskip("torchmetrics")
from torchmetrics.functional.classification import (  # noqa: E402
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)


def labels(samples=5, classes=4, shape=(6, 7), ignored=0.2):
    target = torch.randint(classes, (samples, *shape))
    target[torch.rand(target.shape) < ignored] = metrics.IGNORED
    return torch.randint(classes, (samples, *shape)), target


@pytest.mark.parametrize("shape", [(9,), (6, 7), (2, 3, 4)])
def test_confusion_is_the_samples_confusion(shape):
    predicted, target = labels(shape=shape)
    counts = metrics.confusion(predicted, target, 4)
    for sample in range(5):
        expected = multiclass_confusion_matrix(predicted[sample], target[sample], 4, ignore_index=metrics.IGNORED)
        assert torch.equal(counts[sample], expected)


def test_iou_of_the_sum_is_the_data_sets_iou():
    predicted, target = labels()
    iou = metrics.iou(metrics.confusion(predicted, target, 4).sum(0))
    expected = multiclass_jaccard_index(predicted, target, 4, average="none", ignore_index=metrics.IGNORED)
    torch.testing.assert_close(iou.float(), expected)


def test_an_absent_class_has_no_iou():
    counts = metrics.confusion(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long), 3)
    assert metrics.iou(counts)[0].tolist() == [
        1.0,
        pytest.approx(float("nan"), nan_ok=True),
        pytest.approx(float("nan"), nan_ok=True),
    ]


@pytest.mark.parametrize("wrong", [4, 254, -1])
def test_an_unknown_label_is_named(wrong):
    target = torch.zeros(2, 3, dtype=torch.long)
    target[1, 2] = wrong
    with pytest.raises(ValueError, match=rf"a label is {wrong}, but must be in 0 … 3"):
        metrics.confusion(torch.zeros(2, 3, dtype=torch.long), target, 4)


def test_top_k():
    logits, target = torch.randn(50, 8), torch.randint(8, (50,))
    hits = metrics.top_k(logits.topk(5).indices, target, (1, 5)).double().mean(0)
    for hit, k in zip(hits, (1, 5), strict=True):
        expected = multiclass_accuracy(logits, target, 8, top_k=k, average="micro")
        assert float(hit) == pytest.approx(float(expected))


def test_top_5_of_three_classes_is_certain():
    ranked = torch.randn(4, 3).argsort(1)
    assert metrics.top_k(ranked, torch.randint(3, (4,)), (1, 5))[:, 1].tolist() == [1, 1, 1, 1]


def test_labels_without_an_ignored_one():
    metrics.check_labels(torch.tensor([0, 3]), 4)
    with pytest.raises(ValueError, match=r"a label is 255, but must be in 0 … 3$"):
        metrics.check_labels(torch.tensor([0, 255]), 4)
