"""Every unit compiles, exports with free sizes, and can be traced."""

import copy

import pytest
import torch
from test_units import EVERY_UNIT, SPACE, make

from oracle import live, relative

pytestmark = pytest.mark.unchecked
LARGE, SMALL = (2, 16, 14, 15), (2, 16, 2, 2)  # on both sides of the cheap order's threshold


@EVERY_UNIT
@pytest.mark.parametrize(
    ("shape", "training"),
    [(LARGE, True), (LARGE, False), (SMALL, True), pytest.param(SMALL, False, marks=pytest.mark.slow)],
)
def test_compiles_into_one_graph(kind, options, cancelled, shape, training):
    torch.compiler.reset()
    unit = live(make(kind, options)).train(training)
    other = copy.deepcopy(unit)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    x, w = torch.randn(shape), torch.randn(shape)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = unit(inputs[0]), compiled(inputs[1])
    for out in outputs:
        (out * w).sum().backward()
    assert relative(outputs[1], outputs[0]) < 1e-5
    assert relative(inputs[1].grad, inputs[0].grad) < 1e-4
    for ours, theirs in zip(other.parameters(), unit.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(other.buffers(), unit.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_compiled_unit_takes_other_sizes():
    torch.compiler.reset()
    unit = live(make("glore", {})).eval()
    compiled = torch.compile(unit, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in (LARGE, (3, 16, 9, 11), SMALL):
        x = torch.randn(shape)
        assert relative(compiled(x), unit(x)) < 1e-5


def test_glore_exports_strictly():
    test_exports_with_free_sizes("glore", {}, None, 2, True)


@EVERY_UNIT
@pytest.mark.parametrize(
    ("axes", "strict"),
    [*((n, False) for n in (1, 2, 3)), *(pytest.param(n, True, marks=pytest.mark.slow) for n in (1, 2, 3))],
)
def test_exports_with_free_sizes(kind, options, cancelled, axes, strict):
    unit = live(make(kind, options, axes)).eval()
    x = torch.randn(2, 16, *SPACE[axes])
    free = {0: torch.export.Dim("batch"), **{i + 2: torch.export.Dim(f"size{i}") for i in range(axes)}}
    program = torch.export.export(unit, (x,), dynamic_shapes=(free,), strict=strict).module()
    for batch, size in ((1, 2), (3, 3), (2, 9), (5, 4)):
        other = torch.randn(batch, 16, *(size + i for i in range(axes)))
        assert relative(program(other), unit(other)) < 1e-4


@EVERY_UNIT
def test_feature_extractor(kind, options, cancelled):
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 1), live(make(kind, options)), torch.nn.Conv2d(16, 4, 1))
    extractor = extraction.create_feature_extractor(net, ["1", "2"])
    other = copy.deepcopy(net)
    for training in (True, False):
        for model in (extractor, other):
            model.train(training)
        for size in (2, 14):
            x = torch.randn(2, 3, size, size)
            assert relative(extractor(x)["2"], other(x)) < 1e-4
    for name, tensor in extractor.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name])


@EVERY_UNIT
@pytest.mark.parametrize("training", [True, False])
def test_a_symbolic_trace_follows_the_training_flag_of_later(kind, options, cancelled, training):
    unit = live(make(kind, options)).train(training)
    traced = torch.fx.symbolic_trace(copy.deepcopy(unit))
    for later in (not training, training):
        for module in (unit, traced):
            module.train(later)
        for shape in (LARGE, SMALL):
            x = torch.randn(shape)
            assert relative(traced(x), unit(x)) < 1e-4
    for name, buffer in unit.named_buffers():
        torch.testing.assert_close(traced.get_buffer(name), buffer)


@pytest.mark.slow
def test_inductor_agrees_where_a_compiler_is_installed():
    import shutil

    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler")
    torch.compiler.reset()
    unit = live(make("glore", {})).train()
    other = copy.deepcopy(unit)
    x = torch.randn(LARGE)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    unit(inputs[0]).square().sum().backward()
    torch.compile(other, fullgraph=True)(inputs[1]).square().sum().backward()
    assert relative(inputs[1].grad, inputs[0].grad) < 1e-4
