"""Counts of parameters and multiply-adds."""

from pathlib import Path

import pytest
import torch
from torch import nn

from glore import GloRe2d, measure
from glore.units import NonLocal2d
from glore.weights import files


def test_convolutions_and_linear_layers():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 100, 5))
    assert measure.multiply_adds(net, torch.zeros(1, 3, 10, 10)) == 100 * 9 * 3 * 8 + 800 * 5
    assert measure.parameters(net) == 3 * 9 * 8 + 8 + 800 * 5 + 5


def test_attention_is_counted():
    unit, c, positions = NonLocal2d(16), 8, 100
    products = positions * (3 * 16 * c + c * 16) + 2 * positions**2 * c
    assert measure.multiply_adds(unit, torch.zeros(1, 16, 10, 10)) == products


def test_what_runs_is_counted():
    short = measure.multiply_adds(GloRe2d(512), torch.zeros(1, 512, 7, 7))
    long = measure.multiply_adds(GloRe2d(512), torch.zeros(1, 512, 28, 28))
    assert long < 16 * short  # the cheap order: less than in proportion


def test_modes_and_statistics_stay():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    measure.multiply_adds(net, torch.randn(2, 3, 5, 5))
    assert [module.training for module in net] == [True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_modes_stay_when_the_forward_fails():
    net = nn.Sequential(nn.Conv2d(3, 4, 1)).train()
    with pytest.raises(RuntimeError):
        measure.multiply_adds(net, torch.zeros(1, 5, 4, 4))
    assert net[0].training


@pytest.mark.unchecked
def test_costs_of_a_batch_are_those_of_its_samples():
    small = {
        "class_path": "glore.nets.small.small_segmenter",
        "init_args": {"classes": 3, "widths": [8, 8], "depths": [1, 1]},
    }
    one = files.construct(small)
    (many,) = measure.costs({"small": small}, [40, 56], batch=32, training=True, seconds=0)
    assert many["multiply_adds"] == 32 * measure.multiply_adds(one, torch.zeros(1, 1, 40, 56))
    assert many["parameters"] == measure.parameters(one)
    activation = 32 * 8 * 20 * 28 * 4 / 2**20
    assert activation < many["forward_mib"] < many["step_mib"] < 100 * activation
    assert many["step_ms"] > 0


@pytest.mark.unchecked
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_memory_is_that_of_running_not_of_making():
    hungry = {"class_path": "made.hungry_builder", "init_args": {"mib": 300}}
    (row,) = measure.costs({"hungry": hungry}, [258, 258], seconds=0)
    assert 16 <= row["forward_mib"] < 200


@pytest.mark.slow
@pytest.mark.unchecked
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_memory_of_a_fresh_unit_is_not_less_than_nothing():
    """Units are put in by running the network once: what that leaves behind counts for neither."""
    plain = {"class_path": "glore.nets.small.small_classifier", "init_args": {"classes": 3}}
    units = {"class_path": "glore.nets.small.small_classifier", "init_args": {"classes": 3, "units": {"res4": 1}}}
    rows = measure.costs({"plain": plain, "units": units}, [64, 64], batch=8, seconds=0)
    assert rows[1]["forward_mib"] > 0.9 * rows[0]["forward_mib"]


@pytest.mark.unchecked
def test_a_process_that_fails_is_told():
    norm = {"class_path": "torch.nn.BatchNorm1d", "init_args": {"num_features": 3}}
    with pytest.raises(ValueError, match="memory on an input of 1×3 cannot be measured: ValueError: Expected"):
        measure.peaks_mib(norm, [1, 3], ["step"])
    with pytest.raises(ValueError, match="device='meta' must be cpu or cuda"):
        measure.costs({"net": norm}, [32, 32], device="meta")


@pytest.mark.unchecked
def test_what_cannot_be_measured_is_named():
    clips = {"class_path": "glore.nets.video.resnet18_3d", "init_args": {"classes": 2, "width": 4}}
    with pytest.raises(ValueError, match="clips does not take an input of 1×3×32×32"):
        measure.costs({"clips": clips}, [32, 32])
    with pytest.raises(ValueError, match="size makes a tuple, which is no network"):
        measure.costs(
            {
                "size": {
                    "class_path": "glore.units.glore.default_sizes",
                    "init_args": {"channels": 8, "states": 1, "nodes": 1},
                }
            },
            [32, 32],
        )


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "must be cpu or cuda"), ("cuda", "torch finds no such device")]
)
def test_devices_that_are_not_there_are_named(device, message):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match=message):
        measure.costs({"relu": {"class_path": "torch.nn.ReLU"}}, [8, 8], device=device)
