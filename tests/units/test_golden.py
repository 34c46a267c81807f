"""Equality with numbers that the published implementation gave."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from glore.weights import from_official
from oracle import GLORE, relative

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "units.safetensors")
CASES = sorted({key.split("/")[0] for key in GOLDEN})


def group(case, prefix):
    start = f"{case}/{prefix}"
    return {key.removeprefix(start): tensor for key, tensor in GOLDEN.items() if key.startswith(start)}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_published_unit(case, order):
    x, w = GOLDEN[f"{case}/x"].clone().requires_grad_(), GOLDEN[f"{case}/w"]
    published = group(case, "param/")
    states, channels = published["conv_state.weight"].shape[:2]
    nodes = published["conv_proj.weight"].shape[0]
    unit = GLORE[x.dim() - 2](channels, states=states, nodes=nodes, normalize=case.endswith("normalized"))
    unit.load_state_dict({**unit.state_dict(), **from_official(published)})

    unit.eval()
    assert relative(unit(x), GOLDEN[f"{case}/out_eval"]) < 1e-5
    unit.train()
    out = unit(x)
    assert relative(out, GOLDEN[f"{case}/out_train"]) < 1e-5
    assert relative(unit.norm.running_mean, GOLDEN[f"{case}/running_mean_after"]) < 1e-5
    assert relative(unit.norm.running_var, GOLDEN[f"{case}/running_var_after"]) < 1e-5

    (out * w).sum().backward()
    assert relative(x.grad, GOLDEN[f"{case}/grad/x"]) < 1e-4
    gradients = group(case, "grad/")
    gradients.pop("x")
    expected = from_official(gradients)
    assert expected.keys() == {name for name, _ in unit.named_parameters()}
    for name, parameter in unit.named_parameters():
        assert relative(parameter.grad, expected[name]) < 1e-4, name


def test_all_cases_are_there():
    assert len(CASES) == 8
