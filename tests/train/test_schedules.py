"""Schedules against torch's own, and their edges."""

import pytest
import torch
from torch.optim import lr_scheduler

from glore.train import schedules

STEPS = 40


def rates(make):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = make(optimizer)
    out = []
    for _ in range(STEPS):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return out


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (schedules.Cosine(), lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS)),
        (schedules.Cosine(end=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.1)),
        (schedules.Poly(power=0.9), lambda o: lr_scheduler.PolynomialLR(o, STEPS, power=0.9)),
        (schedules.Steps(at=(0.25, 0.75)), lambda o: lr_scheduler.MultiStepLR(o, [10, 30])),
        (schedules.constant, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    ],
)
def test_they_equal_torchs(ours, torchs):
    assert [ours(step, STEPS) for step in range(STEPS)] == pytest.approx(rates(torchs))


@pytest.mark.parametrize("warmup", [0.25, 10])
@pytest.mark.parametrize("kind", [schedules.Cosine, schedules.Poly])
def test_a_warm_up_rises_to_the_full_rate_and_then_falls(kind, warmup):
    schedule = kind(warmup=warmup, warmup_from=0.1)
    values = [schedule(step, STEPS) for step in range(STEPS + 1)]
    assert 0.1 < values[0] < 0.2
    assert values[:11] == sorted(values[:11])
    assert values[10] == 1.0
    assert values[10:] == sorted(values[10:], reverse=True)
    assert values[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("options", "message"), [({"warmup": -1}, "warmup=-1"), ({"warmup_from": 2}, "warmup_from=2")])
def test_what_is_out_of_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        schedules.Cosine(**options)
