from functools import partial

import hypothesis
import jaxtyping
import pytest
import torch

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def untimed():
    """What times steps times one: no test is about how long they take."""
    from glore import measure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "medians_ms", partial(measure.medians_ms, rounds=1))
        yield


@pytest.fixture(autouse=True)
def unchecked(request, monkeypatch):
    """Leave the checker of types and shapes, where there is one, out of what a test runs that is marked so."""
    if request.node.get_closest_marker("unchecked"):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=["direct", "folded"])
def order(request, monkeypatch):
    """Run a test in both orders, whatever the sizes would choose."""
    monkeypatch.setattr("glore.units.products.folds", lambda *sizes, **mode: request.param == "folded")
    return request.param


@pytest.fixture
def tree():
    """A recipe that trains in a second."""
    net = {
        "class_path": "glore.nets.small.small_segmenter",
        "init_args": {"classes": 3, "widths": [4, 8], "depths": [1, 1], "units": {"res3": 1}, "unit": "glore.GloRe2d"},
    }
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}
    schedule = {"class_path": "glore.train.schedules.Cosine", "init_args": {"warmup": 0.2}}
    return {
        "model": {
            "class_path": "glore.train.segment.Segment",
            "init_args": {"net": net, "optimizer": optimizer, "schedule": schedule},
        },
        "data": {
            "dataset": {"class_path": "glore.data.odd_digits.OddDigits", "init_args": {"scenes": 48}},
            "batch_size": 16,
        },
        "trainer": {"max_epochs": 3, "accelerator": "cpu"},
        "compare": {
            "metric": "iou_odd",
            "seeds": [0, 1],
            "variants": {
                "plain": {"model.net.unit": None},
                "plain+conv": {"model.net.unit": "glore.units.Bottleneck2d"},
                "glore": {},
                "glore 2 layers": {"model.net.unit.graph_layers": 2},
            },
        },
    }


@pytest.fixture
def recipe_path(tree, tmp_path):
    yaml = pytest.importorskip("yaml")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path
