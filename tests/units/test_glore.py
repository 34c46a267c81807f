"""The unit against its oracle: both orders, every kind of norm, mixed precision, derivatives."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from glore import GloRe1d, GloRe2d, GloRe3d
from glore.units import products
from oracle import GLORE, direct, live, relative


def agree(unit, x, tolerance=1e-10):
    """Output, all gradients and statistics of a unit equal those of the direct order."""
    oracle = direct(unit)
    w = torch.randn_like(x)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [module(part) for module, part in zip((unit, oracle), inputs, strict=True)]
    for out in outputs:
        (out * w).sum().backward()
    assert outputs[0].shape == x.shape
    assert relative(*outputs) < tolerance
    assert relative(*(part.grad for part in inputs)) < tolerance
    expected = dict(oracle.named_parameters())
    scale = max(float(p.grad.abs().max()) for p in expected.values())
    for name, parameter in unit.named_parameters():
        assert float((parameter.grad - expected[name].grad).abs().max()) < tolerance * scale, name
    for name, buffer in unit.named_buffers():
        torch.testing.assert_close(buffer, oracle.get_buffer(name), rtol=tolerance, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(
    axes=st.integers(1, 3),
    batch=st.integers(1, 3),
    channels=st.integers(1, 12),
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(2, 5)),
    states=st.integers(1, 9),
    nodes=st.integers(1, 9),
    graph_layers=st.integers(1, 3),
    normalize=st.booleans(),
    training=st.booleans(),
    folded=st.booleans(),
)
def test_orders_agree(axes, batch, channels, sizes, states, nodes, graph_layers, normalize, training, folded):
    torch.manual_seed(0)
    unit = GLORE[axes](channels, states=states, nodes=nodes, graph_layers=graph_layers, normalize=normalize)
    live(unit.double()).train(training)
    x = torch.randn(batch, channels, *sizes[-axes:], dtype=torch.double)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "folds", lambda *sizes, **mode: folded)
        agree(unit, x, 1e-7)  # relative to inputs: a norm over very few values magnifies rounding


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("length", [2, 5, 6, 7, 8, 9, 40])
def test_both_sides_of_the_threshold(length, training):
    unit = live(GloRe1d(16).double()).train(training)
    assert products.folds(length, 16, 8, 4, training=training) == (length > (16 / 2 if training else 16 / 3))
    agree(unit, torch.randn(3, 16, length, dtype=torch.double))


@pytest.mark.parametrize(
    ("channels", "positions", "folded"),
    [
        (1024, 14 * 14, False),
        (2048, 7 * 7, False),
        (512, 28 * 28, True),
        (1024, 4 * 14 * 14, True),
        (512, 96 * 96, True),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_short_maps_take_the_direct_order(channels, positions, folded, training):
    assert products.folds(positions, channels, channels // 2, channels // 4, training=training) == folded


def test_more_nodes_than_pay_off_take_the_direct_order():
    assert not products.folds(10**6, 8, 4, 64)


@pytest.mark.parametrize("training", [True, False])
def test_direct_order_is_what_runs_on_short_maps(training, monkeypatch):
    monkeypatch.setattr(products, "pool", lambda *_, **__: pytest.fail("folded"))
    unit = GloRe2d(64).train(training)
    unit(torch.randn(2, 64, 4, 4))
    with pytest.raises(pytest.fail.Exception):
        unit(torch.randn(2, 64, 8, 8))


def replace(name, layer):
    return lambda unit: setattr(unit, name, layer)


class Doubled(nn.Conv2d):
    """Stands for a convolution with something added to it, as LoRA or quantisation do."""

    def forward(self, x):
        return 2 * super().forward(x)


def doubled(unit, name):
    old = getattr(unit, name)
    new = Doubled(old.in_channels, old.out_channels, 1, bias=old.bias is not None).double()
    new.load_state_dict(old.state_dict())
    setattr(unit, name, new)


@pytest.mark.parametrize("name", ["projection", "state", "extend"])
def test_a_swapped_convolution_is_called(name):
    torch.manual_seed(0)
    unit = live(GloRe2d(16).double())
    changed = copy.deepcopy(unit)
    doubled(changed, name)
    with torch.no_grad():
        getattr(unit, name).weight.mul_(2)
        if getattr(unit, name).bias is not None:
            getattr(unit, name).bias.mul_(2)
    x = torch.randn(2, 16, 6, 6, dtype=torch.double)
    assert relative(changed(x), unit(x)) < 1e-10


@pytest.mark.parametrize("name", ["projection", "state", "extend", "norm", "graph_layers.0.nodes"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooks_on_children_run(name, kind):
    unit = live(GloRe2d(16).double())
    called = []
    getattr(unit.get_submodule(name), kind)(lambda *_: called.append(name))
    agree(unit, torch.randn(2, 16, 6, 6, dtype=torch.double))
    assert called == [name]


def test_a_changed_hook_output_counts():
    unit = live(GloRe2d(16).eval())
    unit.norm.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    x = torch.randn(2, 16, 6, 6)
    torch.testing.assert_close(unit(x), x, rtol=0, atol=0)


def test_a_replaced_forward_and_a_wider_kernel_are_called():
    unit = live(GloRe2d(16)).eval()
    x = torch.randn(2, 16, 9, 9)
    unit.projection = nn.Conv2d(16, 4, 3, padding=1)
    wide = unit(x)
    assert relative(wide, direct_with(unit, x)) < 1e-5
    unit.extend.forward = lambda y: torch.zeros(2, 16, 9, 9)
    assert relative(unit(x) - x, unit.norm(torch.zeros(2, 16, 9, 9))) < 1e-5


def direct_with(unit, x):
    p = unit.projection(x).flatten(2)
    v = unit.state(x).flatten(2) @ p.mT / p.shape[-1]
    return x + unit.norm(unit.extend((unit.graph_layers(v) @ p).unflatten(2, x.shape[2:])))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.GroupNorm(4, 16),
        lambda: nn.InstanceNorm2d(16, affine=True),
        lambda: nn.BatchNorm2d(16, affine=False),
        lambda: nn.BatchNorm2d(16, track_running_stats=False),
        lambda: nn.BatchNorm2d(16, momentum=None),
        lambda: nn.Identity(),
    ],
)
def test_another_norm_is_used(norm, training):
    unit = GloRe2d(16)
    unit.norm = norm()
    unit.double().train(training)
    oracle = copy.deepcopy(unit)
    for _ in range(3):
        x = torch.randn(2, 16, 6, 6, dtype=torch.double)
        assert relative(unit(x), direct_with(oracle, x)) < 1e-10
    for name, buffer in unit.named_buffers():
        torch.testing.assert_close(buffer, oracle.get_buffer(name))


def test_a_norm_kept_in_evaluation_mode_keeps_its_statistics():
    unit = live(GloRe2d(16).double()).train()
    unit.norm.eval()
    oracle = copy.deepcopy(unit)
    x = torch.randn(2, 16, 6, 6, dtype=torch.double)
    assert relative(unit(x), direct_with(oracle, x)) < 1e-10
    torch.testing.assert_close(unit.norm.running_mean, oracle.norm.running_mean)


@pytest.mark.parametrize("training", [True, False])
def test_conversion_to_sync_batch_norm(training, order):
    # one process only: several ranks need a GPU each
    unit = live(GloRe2d(16).double()).train(training)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(unit))
    assert type(synced.norm) is nn.SyncBatchNorm
    x = torch.randn(2, 16, 6, 6, dtype=torch.double)
    assert relative(synced(x), unit(x)) < 1e-10
    torch.testing.assert_close(synced.norm.running_var, unit.norm.running_var)


def test_one_value_a_channel_has_no_variance(order):
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        GloRe1d(3)(torch.randn(1, 3, 1))


def test_frozen_parts_get_no_gradient(order):
    unit = live(GloRe2d(16))
    unit.state.requires_grad_(False)
    unit.norm.requires_grad_(False)
    unit(torch.randn(2, 16, 6, 6)).sum().backward()
    assert unit.state.weight.grad is None
    assert unit.norm.weight.grad is None
    assert unit.projection.weight.grad is not None


def functional(unit):
    names = list(dict(unit.named_parameters()))
    return lambda x, *parameters: torch.func.functional_call(unit, dict(zip(names, parameters, strict=True)), (x,))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_gradcheck(training, normalize, order):
    unit = live(GloRe2d(5, states=3, nodes=2, graph_layers=2, normalize=normalize).double()).train(training)
    x = torch.randn(2, 5, 2, 3, dtype=torch.double, requires_grad=True)
    parameters = [p.detach().clone().requires_grad_() for p in unit.parameters()]
    assert torch.autograd.gradcheck(functional(unit), (x, *parameters))


def test_second_derivatives_are_right_or_raise(order):
    unit = live(GloRe2d(3, states=3, nodes=2).double()).eval()
    x = torch.randn(2, 3, 2, 3, dtype=torch.double, requires_grad=True)
    parameters = [p.detach().clone().requires_grad_() for p in unit.parameters()]
    assert torch.autograd.gradgradcheck(functional(unit), (x, *parameters))
    unit.train()
    if order == "direct":
        assert torch.autograd.gradgradcheck(functional(unit), (x, *parameters))
        return
    net = nn.Sequential(nn.Conv2d(3, 3, 1), unit, nn.Conv2d(3, 3, 1)).double()
    for twice in (
        lambda: penalty(net, x).backward(),
        lambda: torch.autograd.grad(penalty(net, x), net[0].weight),
        lambda: torch.autograd.grad(penalty(net, x), net[2].weight),
        lambda: torch.autograd.functional.hvp(lambda x: unit(x).square().sum(), x, torch.ones_like(x)),
        lambda: torch.func.grad(lambda x: torch.func.grad(lambda x: stateless(unit)(x).pow(3).sum())(x).sum())(x),
    ):
        with pytest.raises(RuntimeError, match="differentiated once only: for second derivatives"):
            twice()


def penalty(net, x):
    (gradient,) = torch.autograd.grad(net(x).pow(3).sum(), x, create_graph=True)
    return gradient.square().sum()


def stateless(unit):
    """The unit without running statistics, which torch.func does not let anyone move."""
    unit = copy.deepcopy(unit)
    unit.norm.track_running_stats = False
    unit.norm.running_mean = unit.norm.running_var = unit.norm.num_batches_tracked = None
    return unit


def test_a_graph_for_second_derivatives_gives_the_same_first_ones():
    unit = live(GloRe2d(8).double())
    x = torch.randn(2, 8, 5, 5, dtype=torch.double, requires_grad=True)
    kept = torch.autograd.grad(unit(x).pow(3).sum(), (x, *unit.parameters()), create_graph=True)
    plain = torch.autograd.grad(unit(x).pow(3).sum(), (x, *unit.parameters()))
    for a, b in zip(kept, plain, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("training", [True, False])
def test_functional_gradients(training):
    unit = live(GloRe2d(16)).train(training)
    unit = stateless(unit) if training else unit
    x = torch.randn(2, 16, 6, 6)
    parameters = {name: p.detach() for name, p in unit.named_parameters()}

    def loss(parameters):
        return torch.func.functional_call(unit, parameters, (x,)).square().sum()

    gradients = torch.func.grad(loss)(parameters)
    unit(x).square().sum().backward()
    for name, p in unit.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad)


def autocast_errors(seed, dtype, training, map_dtype):
    """Relative errors against float32, of our unit and of the direct order: output, gradients, statistics."""
    torch.manual_seed(seed)
    unit = live(GloRe2d(32)).train(training)
    x = torch.randn(2, 32, 16, 16).to(map_dtype)
    w = torch.randn(2, 32, 16, 16)
    results = {}
    for name, module in {"exact": direct(unit), "direct": direct(unit), "ours": unit}.items():
        given = (x.float() if name == "exact" else x).clone().requires_grad_()
        with torch.autocast("cpu", dtype=dtype, enabled=name != "exact"):
            out = module(given)
        (out.float() * w).sum().backward()
        assert out.dtype == given.dtype
        assert module.norm.running_var.dtype == torch.float32
        results[name] = [out.detach().float() - x.float(), given.grad.float(), *(p.grad for p in module.parameters())]
        results[name] += [module.norm.running_mean, module.norm.running_var]
    return [
        torch.stack([(a - b).norm() / b.norm() for a, b in zip(results[name], results["exact"], strict=True)])
        for name in ("ours", "direct")
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("map_is_low", [True, False])
def test_autocast_is_as_near_to_float32_as_the_direct_order_is(dtype, training, map_is_low):
    errors = [autocast_errors(seed, dtype, training, dtype if map_is_low else torch.float32) for seed in range(7)]
    # the median, since in a single run a relu may switch
    ours, plain = (torch.stack(side).median(0).values for side in zip(*errors, strict=True))
    assert (ours <= 1.5 * plain + 1e-3).all(), (ours, plain)


def test_pooled_sums_do_not_overflow_in_half_precision(order):
    unit = GloRe2d(16).eval()
    nn.init.ones_(unit.norm.weight)
    signs = torch.tensor([1.0, -1.0]).repeat(2048).reshape(64, 64)  # what varies over positions is what is summed up
    x = 8 * signs * torch.sign(torch.randn(1, 16, 1, 1))
    with torch.autocast("cpu", dtype=torch.float16):
        out = unit(x.half())
    assert out.isfinite().all()
    assert relative(out.float() - x, unit(x) - x) < 1e-2


def test_nearly_equal_nodes_do_not_make_a_negative_variance():
    for seed in range(6):
        torch.manual_seed(seed)
        unit = GloRe1d(16, states=8, nodes=2, normalize=False)
        with torch.no_grad():
            unit.projection.weight[1] = unit.projection.weight[0] + 1e-4 * torch.randn(16, 1)
            unit.graph_layers[0].nodes.weight[..., 0] = torch.tensor([[0.0, -2.0], [-2.0, 0.0]])
            unit.norm.weight.fill_(1)
        x = torch.randn(1, 16, 3136)
        assert unit(x).isfinite().all()
        assert unit.norm.running_var.isfinite().all()
        assert (unit.norm.running_var >= 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_a_unit_all_in_half_precision(dtype, training, order):
    unit = live(GloRe2d(32)).train(training)
    x = torch.randn(2, 32, 12, 12)
    expected = copy.deepcopy(unit)(x)
    out = unit.to(dtype)(x.to(dtype))
    assert out.dtype == dtype
    assert relative(out.float(), expected) < 3e-2
    out.sum().backward()
    assert all(p.grad.dtype == dtype for p in unit.parameters())


def test_an_unfit_type_is_an_error(order):
    with pytest.raises(RuntimeError):
        GloRe2d(16)(torch.randn(2, 16, 6, 6).bfloat16())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [GloRe2d, GloRe3d])
def test_channels_last_maps_stay_so(kind, training):
    unit = live(kind(16).double()).train(training)
    x = torch.randn(2, 16, *(6,) * unit.space_axes, dtype=torch.double)
    layout = torch.channels_last if unit.space_axes == 2 else torch.channels_last_3d
    agree(unit, x.contiguous(memory_format=layout))
    assert unit(x.contiguous(memory_format=layout)).is_contiguous(memory_format=layout)


def test_a_map_with_odd_strides(order):
    unit = live(GloRe2d(16).double())
    agree(unit, torch.randn(16, 9, 3, 7, dtype=torch.double).permute(2, 0, 1, 3)[..., ::2])


@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch(training, order):
    unit = live(GloRe2d(16)).train(training)
    before = unit.norm.running_mean.clone()
    out = unit(torch.zeros(0, 16, 6, 6))
    assert out.shape == (0, 16, 6, 6)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in unit.parameters())
    assert unit.norm.running_mean.isfinite().all()
    assert training or torch.equal(unit.norm.running_mean, before)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("change", [{"track_running_stats": False}, {"num_batches_tracked": None}])
def test_a_norm_changed_later_is_followed(change, momentum, order):
    unit = live(GloRe2d(16).double())
    unit.norm.momentum = momentum
    for name, value in change.items():
        setattr(unit.norm, name, value)
    oracle = copy.deepcopy(unit)
    x = torch.randn(2, 16, 6, 6, dtype=torch.double)
    for training in (True, False):
        for norm in (unit, oracle):
            norm.train(training)
        assert relative(unit(x), direct_with(oracle, x)) < 1e-10
    for name, buffer in oracle.named_buffers():
        torch.testing.assert_close(unit.get_buffer(name), buffer)


def test_copies_and_files_carry_everything(tmp_path):
    unit = live(GloRe2d(16, states=6, nodes=3, graph_layers=2)).eval()
    x = torch.randn(2, 16, 6, 6)
    again = GloRe2d(16, states=6, nodes=3, graph_layers=2).eval()
    torch.save(unit.state_dict(), tmp_path / "unit.pt")
    again.load_state_dict(torch.load(tmp_path / "unit.pt", weights_only=True))
    for other in (copy.deepcopy(unit), pickle.loads(pickle.dumps(unit)), again):
        torch.testing.assert_close(other(x), unit(x), rtol=0, atol=0)


def saved_bytes(run, x):
    """Memory that the backward keeps, input and parameters aside, each storage once."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run(x)
    for known in (x, *run.parameters(), *run.buffers()):
        storages.pop(known.untyped_storage().data_ptr(), None)
    assert out.requires_grad
    return sum(storages.values())


@pytest.mark.parametrize(
    ("batch", "channels", "positions", "share"),
    [(2, 64, 4 * 64, 0.2), (1, 64, 16 * 64, 0.2), (2, 128, 4 * 128, 0.2), (1, 128, 98, 0.5), (4, 128, 196, 0.5)],
)
def test_the_backward_keeps_little(batch, channels, positions, share):
    unit = GloRe1d(channels)
    x = torch.randn(batch, channels, positions, requires_grad=True)
    assert saved_bytes(unit, x) <= share * saved_bytes(direct(unit), x)


@pytest.mark.parametrize("length", [8, 400])
def test_autocast_copies_no_weight_for_each_sample(length):
    unit = GloRe1d(64)
    x = torch.randn(16, 64, length, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert saved_bytes(unit, x) <= 1.05 * saved_bytes(direct(unit), x)


def test_graph_layer_is_the_dense_formula():
    unit = GloRe2d(16, states=5, nodes=7).double()
    (layer,) = unit.graph_layers
    nn.init.normal_(layer.nodes.bias)
    v = torch.randn(2, 5, 7, dtype=torch.double)
    mixing = torch.eye(7, dtype=torch.double) - unit.adjacency()[0]
    expected = layer.states.weight[..., 0] @ torch.relu(v @ mixing.T + layer.nodes.bias)
    assert relative(layer(v), expected) < 1e-14
    # with the relu open and no bias it is the paper's (I − A) V W, nodes before states
    nn.init.zeros_(layer.nodes.bias)
    nn.init.uniform_(layer.nodes.weight, 0, 0.1)
    mixing = torch.eye(7, dtype=torch.double) - unit.adjacency()[0]
    assert relative(layer(v.abs()).mT, mixing @ v.abs().mT @ layer.states.weight[..., 0].T) < 1e-14


def test_the_map_and_the_adjacency_can_be_read():
    unit = GloRe3d(16, nodes=3, graph_layers=2)
    x = torch.randn(2, 16, 2, 5, 4)
    assert unit.project(x).shape == (2, 3, 2, 5, 4)
    torch.testing.assert_close(unit.project(x), unit.projection(x))
    assert unit.adjacency().shape == (2, 3, 3)
    torch.testing.assert_close(unit.adjacency()[1], -unit.graph_layers[1].nodes.weight[..., 0])


def test_a_pruned_graph_layer_shows_its_adjacency():
    unit = GloRe2d(16)
    prune.l1_unstructured(unit.graph_layers[0].nodes, "weight", amount=0.5)
    assert (unit.adjacency() == 0).sum() == 8


def test_sizes_default_to_half_and_a_quarter():
    assert (GloRe2d(64).n_states, GloRe2d(64).n_nodes) == (32, 16)
    assert (GloRe2d(1).n_states, GloRe2d(1).n_nodes) == (1, 1)
    assert sum(p.numel() for p in GloRe2d(512).parameters()) == 411_136  # 0.41 M, as published


@pytest.mark.unchecked
@pytest.mark.parametrize("name", ["states", "nodes", "graph_layers"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "8"])
def test_bad_sizes_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        GloRe2d(16, **{name: value})


@pytest.mark.unchecked
@pytest.mark.filterwarnings("ignore")  # of the tracer, which is deprecated, and of vmap, which is slow
@pytest.mark.parametrize("side", [4, 24])
def test_traces_and_vmap_compute_the_same(side):
    unit = live(GloRe2d(16)).eval()
    maps = torch.randn(3, 2, 16, side, side)
    traced = torch.jit.trace(unit, maps[0])
    for x, told in zip(maps, torch.vmap(unit)(maps), strict=True):
        torch.testing.assert_close(told, unit(x))
        torch.testing.assert_close(traced(x), unit(x))


def test_first_derivatives_go_through_a_checkpoint():
    unit, x = live(GloRe2d(8, states=3, nodes=2)).train(), torch.randn(2, 8, 12, 13, requires_grad=True)
    out = torch.utils.checkpoint.checkpoint(unit, x, use_reentrant=False)
    (dx,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(unit(x).square().sum(), x)
    torch.testing.assert_close(dx, expected)
