"""Laws that every unit has to keep."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from glore import units
from oracle import live, relative

KINDS = {
    "glore": (units.GloRe1d, units.GloRe2d, units.GloRe3d),
    "non_local": (units.NonLocal1d, units.NonLocal2d, units.NonLocal3d),
    "double_attention": (units.DoubleAttention1d, units.DoubleAttention2d, units.DoubleAttention3d),
    "squeeze_excite": (units.SqueezeExcite1d, units.SqueezeExcite2d, units.SqueezeExcite3d),
    "bottleneck": (units.Bottleneck1d, units.Bottleneck2d, units.Bottleneck3d),
    "global_context": (units.GlobalContext1d, units.GlobalContext2d, units.GlobalContext3d),
}
# unit, options, parameters without a gradient because a softmax or a norm cancels them (a published layer has them)
UNITS = [
    ("glore", {}, set()),
    ("glore", {"graph_layers": 3}, set()),
    ("glore", {"normalize": False}, set()),
    ("non_local", {}, {"phi.bias", "g.bias", "extend.bias"}),
    ("non_local", {"form": "dot_product"}, {"extend.bias"}),
    ("double_attention", {}, set()),
    ("squeeze_excite", {}, set()),
    ("bottleneck", {}, set()),
    ("global_context", {}, {"attention.bias"}),
    ("global_context", {"fusion": "scale"}, {"attention.bias"}),
]
EVERY_UNIT = pytest.mark.parametrize(("kind", "options", "cancelled"), UNITS)
SPACE = {1: (60,), 2: (6, 10), 3: (3, 4, 5)}


def make(kind, options, axes=2, channels=16):
    return KINDS[kind][axes - 1](channels, **options)


def is_gate(kind, options):
    return kind == "squeeze_excite" or options.get("fusion") == "scale"


@EVERY_UNIT
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_fresh_unit_is_the_identity(kind, options, cancelled, axes, training):
    x = torch.randn(2, 16, *SPACE[axes])
    out = make(kind, options, axes).train(training)(x)
    assert out.shape == x.shape
    if is_gate(kind, options):
        assert ((out / x > 0) & (out / x < 1)).all()
    else:
        assert torch.equal(out, x)


@EVERY_UNIT
def test_gradients_reach_every_weight_by_the_second_step(kind, options, cancelled):
    unit = make(kind, options, channels=32).double()
    optimizer = torch.optim.SGD(unit.parameters(), lr=0.05)
    x, w = torch.randn(4, 32, 6, 10, dtype=torch.double), torch.randn(4, 32, 6, 10, dtype=torch.double)
    for step in (1, 2):
        optimizer.zero_grad()
        (unit(x) * w).sum().backward()
        alive = {name for name, p in unit.named_parameters() if p.grad.abs().max() > 1e-9}
        if step == 1 and isinstance(getattr(unit, "norm", None), nn.BatchNorm2d):
            assert "norm.weight" in alive
        optimizer.step()
    assert alive == {name for name, _ in unit.named_parameters()} - cancelled


@EVERY_UNIT
@pytest.mark.parametrize("training", [True, False])
def test_reordering_positions_reorders_the_output(kind, options, cancelled, training):
    unit = live(make(kind, options, axes=1).double()).train(training)
    x = torch.randn(2, 16, 60, dtype=torch.double)
    shuffle = torch.randperm(60)
    assert relative(unit(x[..., shuffle]), copy.deepcopy(unit)(x)[..., shuffle]) < 1e-12


@EVERY_UNIT
def test_numbers_of_axes_agree(kind, options, cancelled):
    flat = live(make(kind, options, axes=1).double())
    x = torch.randn(2, 16, 60, dtype=torch.double)
    expected = flat(x)
    for axes in (2, 3):
        unit = make(kind, options, axes).double()
        shapes = {name: tensor.shape for name, tensor in unit.state_dict().items()}
        weights = {name: tensor.reshape(shapes[name]) for name, tensor in flat.state_dict().items()}
        unit.load_state_dict(weights)
        assert relative(unit(x.reshape(2, 16, *SPACE[axes])).reshape(2, 16, 60), expected) < 1e-12


@EVERY_UNIT
@settings(max_examples=20, deadline=None)
@given(
    axes=st.integers(1, 3),
    batch=st.integers(1, 3),
    channels=st.integers(1, 40),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(2, 7)),
    training=st.booleans(),
)
def test_any_shape_comes_back(kind, options, cancelled, axes, batch, channels, sizes, training):
    unit = live(make(kind, options, axes, channels)).train(training)
    x = torch.randn(batch, channels, *sizes[-axes:], requires_grad=True)
    out = unit(x)
    assert out.shape == x.shape
    assert out.isfinite().all()
    out.sum().backward()
    assert x.grad.isfinite().all()


@EVERY_UNIT
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_autocast(kind, options, cancelled, dtype, training):
    unit = live(make(kind, options)).train(training)
    x = torch.randn(2, 16, 6, 10)
    expected = copy.deepcopy(unit)(x)
    with torch.autocast("cpu", dtype=dtype):
        out = unit(x.to(dtype))
    assert relative(out.float(), expected) < 5e-2


@EVERY_UNIT
@pytest.mark.parametrize("training", [True, False])
def test_gradcheck(kind, options, cancelled, training):
    unit = live(make(kind, options, channels=4).double()).train(training)
    x = torch.randn(2, 4, 2, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(unit, (x,))


@EVERY_UNIT
@pytest.mark.parametrize("training", [True, False])
def test_the_meta_device_gives_shapes(kind, options, cancelled, training):
    with torch.device("meta"):
        unit = make(kind, options).train(training)
        x = torch.randn(2, 16, 6, 10, requires_grad=True)
    unit(x).sum().backward()
    assert x.grad.shape == x.shape
    assert x.grad.device.type == "meta"


@EVERY_UNIT
def test_copies_and_state_dicts(kind, options, cancelled):
    unit = live(make(kind, options)).eval()
    again = make(kind, options).eval()
    again.load_state_dict(unit.state_dict())
    x = torch.randn(2, 16, 6, 10)
    assert torch.equal(again(x), unit(x))
    assert torch.equal(copy.deepcopy(unit)(x), unit(x))
    assert torch.equal(pickle.loads(pickle.dumps(unit))(x), unit(x))


@EVERY_UNIT
def test_channels_last_maps_stay_so(kind, options, cancelled):
    unit = live(make(kind, options)).eval()
    x = torch.randn(2, 16, 6, 10)
    out = unit(x.contiguous(memory_format=torch.channels_last))
    assert relative(out, unit(x)) < 1e-5
    assert out.is_contiguous(memory_format=torch.channels_last)


@EVERY_UNIT
def test_wrong_maps_are_named(kind, options, cancelled):
    unit = make(kind, options)
    name = type(unit).__name__
    with pytest.raises(ValueError, match=rf"{name} takes maps \(b, c, height, width\), .* \(2, 16, 60\)"):
        unit(torch.randn(2, 16, 60))
    with pytest.raises(ValueError, match=r"channels=16.* \(2, 8, 6, 6\).*channels=8"):
        unit(torch.randn(2, 8, 6, 6))


@EVERY_UNIT
def test_wrong_channels_are_named(kind, options, cancelled):
    with pytest.raises(ValueError, match="channels=0"):
        make(kind, options, channels=0)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("non_local", {"hidden": 0}, "hidden=0"),
        ("non_local", {"form": "gaussian"}, "form='gaussian' must be one of 'softmax', 'dot_product'"),
        ("non_local", {"form": "dot_product", "scale": 2.0}, "scale=2.0 is for form='softmax'"),
        ("double_attention", {"states": 0}, "states=0"),
        ("double_attention", {"nodes": 0}, "nodes=0"),
        ("squeeze_excite", {"hidden": 0}, "hidden=0"),
        ("global_context", {"hidden": 0}, "hidden=0"),
        ("global_context", {"fusion": "mul"}, "fusion='mul' must be one of 'add', 'scale'"),
    ],
)
def test_wrong_options_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        make(kind, options)


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_without_axes_says_which_to_use(kind):
    base = KINDS[kind][0].__mro__[1]
    with pytest.raises(TypeError, match=f"{base.__name__}1d, {base.__name__}2d or {base.__name__}3d"):
        base(16)
