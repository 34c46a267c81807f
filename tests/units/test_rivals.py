"""The rivals against timm's layers, where it has them, and against their equations."""

import pytest
import torch

from glore.units import DoubleAttention2d, GlobalContext2d, NonLocal2d, SqueezeExcite2d
from oracle import live, relative

layers = pytest.importorskip("timm.layers")


def copy_weights(ours, theirs, names):
    """Copy each of timm's layers into ours; a convolution of kernel 1 fits a linear layer."""
    for our, their in names.items():
        source = theirs.get_submodule(their).state_dict()
        target = ours.get_submodule(our)
        target.load_state_dict({key: value.reshape(target.state_dict()[key].shape) for key, value in source.items()})


@pytest.mark.parametrize("training", [True, False])
def test_non_local_equals_timms(training):
    theirs = live(layers.NonLocalAttn(32, rd_channels=16).double()).train(training)
    ours = NonLocal2d(32, hidden=16, scale=32**-0.5).double().train(training)
    copy_weights(ours, theirs, {"theta": "t", "phi": "p", "g": "g", "extend": "z", "norm": "norm"})
    x = torch.randn(2, 32, 7, 9, dtype=torch.double)
    assert relative(ours(x), theirs(x)) < 1e-12


def test_squeeze_excite_equals_timms():
    theirs = layers.SqueezeExcite(64, rd_channels=4).double()
    ours = SqueezeExcite2d(64).double()
    copy_weights(ours, theirs, {"squeeze": "fc1", "excite": "fc2"})
    x = torch.randn(2, 64, 7, 9, dtype=torch.double)
    assert relative(ours(x), theirs(x)) < 1e-12


@pytest.mark.parametrize("fusion", ["add", "scale"])
def test_global_context_equals_timms(fusion):
    theirs = layers.GlobalContext(64, fuse_add=fusion == "add", fuse_scale=fusion == "scale", rd_ratio=1 / 8).double()
    ours = GlobalContext2d(64, hidden=8, fusion=fusion).double()
    mlp = f"mlp_{fusion}"
    names = {"attention": "conv_attn", "reduce": f"{mlp}.fc1", "norm": f"{mlp}.norm", "expand": f"{mlp}.fc2"}
    torch.nn.init.normal_(theirs.get_submodule(f"{mlp}.fc2").weight)
    copy_weights(ours, theirs, names)
    ours.norm.eps = theirs.get_submodule(f"{mlp}.norm").eps
    x = torch.randn(2, 64, 7, 9, dtype=torch.double)
    assert relative(ours(x), theirs(x)) < 1e-12


@pytest.mark.parametrize("size", [(2, 3), (9, 11)])
def test_dot_product_non_local_is_its_equation(size):
    unit = live(NonLocal2d(16, form="dot_product").double()).eval()
    x = torch.randn(2, 16, *size, dtype=torch.double)
    theta, phi, g = (conv(x).flatten(2) for conv in (unit.theta, unit.phi, unit.g))
    similarities = theta.mT @ phi / theta.shape[-1]
    y = (similarities @ g.mT).mT.unflatten(2, size)
    assert relative(unit(x), x + unit.norm(unit.extend(y))) < 1e-12


@pytest.mark.parametrize("size", [(2, 3), (9, 11)])
def test_double_attention_is_its_equation(size):
    unit = live(DoubleAttention2d(16, states=6, nodes=3).double()).eval()
    x = torch.randn(2, 16, *size, dtype=torch.double)
    gathered = unit.features(x).flatten(2) @ unit.gather(x).flatten(2).softmax(-1).mT
    handed_out = gathered @ unit.distribute(x).flatten(2).softmax(1)
    assert relative(unit(x), x + unit.norm(unit.extend(handed_out.unflatten(2, size)))) < 1e-12


def test_a_hook_on_a_folded_convolution_runs():
    for unit in (live(NonLocal2d(16, form="dot_product")).eval(), live(DoubleAttention2d(16)).eval()):
        called = []
        x = torch.randn(1, 16, 9, 9)
        expected = unit(x)
        unit.extend.register_forward_hook(lambda *_, called=called: called.append(True))
        assert relative(unit(x), expected) < 1e-5
        assert called == [True]


def test_softmax_non_local_keeps_no_map_over_pairs():
    unit = NonLocal2d(8)
    x = torch.randn(1, 8, 40, 40, requires_grad=True)
    largest = 0

    def pack(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        unit(x)
    assert largest <= 8 * 1600


def test_global_context_has_a_bottleneck_that_its_norm_leaves_something_of():
    assert [GlobalContext2d(channels).reduce.out_features for channels in (4, 16, 64, 256)] == [4, 8, 8, 16]
