"""What `glore test` writes of each class."""

import csv
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("matplotlib")
from glore.show import classes, figures
from glore.train.segment import Segment


@pytest.mark.unchecked
def test_what_came_out_for_each_class(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_png", lambda figure: drawn.append(figure) or b"")
    split = SimpleNamespace(classes=["a", "b"])
    task = SimpleNamespace(samples={0: torch.tensor([[3, 1], [2, 4]])}, confusion=Segment.confusion)
    classes.write(SimpleNamespace(task=task, data=SimpleNamespace(split=lambda name: split)), tmp_path)
    with (tmp_path / "classes.csv").open() as file:
        first, _ = csv.DictReader(file)
    assert first == {"class": "a", "count": "4", "recall": "0.75", "precision": "0.6", "iou": "0.5"}
    axes = drawn[0].axes[0]
    assert axes.images[0].get_array()[0].tolist() == [0.75, 0.25]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
