"""Folding: what is left of a network, that it says the same, and what must not be folded."""

import copy

import pytest
import torch
from test_units import EVERY_UNIT, SPACE, make
from torch import nn
from torch.nn.utils import parametrizations, prune

import glore
from glore import probe
from glore.fold import folded
from glore.nets import heads, small, video
from glore.units import products
from glore.units.glore import GloRe
from glore.units.ndim import BATCH_NORMS
from oracle import live

RES3 = {"res3": 1}


def norms(net):
    return sum(isinstance(module, BATCH_NORMS) for module in net.modules())


def assert_same(net, other, x):
    with torch.no_grad():
        assert probe.difference(other(x), net.eval()(x)) < 1e-5


@EVERY_UNIT
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_units_keep_their_class_but_no_norm(kind, options, cancelled, axes):
    unit = live(make(kind, options, axes))
    before = copy.deepcopy(unit.state_dict())
    other = folded(unit, torch.randn(2, 16, *SPACE[axes]))
    assert type(other) is type(unit)
    assert norms(other) == 0
    assert all(map(torch.equal, unit.state_dict().values(), before.values()))
    for size in (2, 13):  # the direct order, and the cheap one
        assert_same(unit, other, torch.randn(3, 16, *[size] * axes))


@pytest.mark.parametrize("graph_layers", [1, 2])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_glore_unit_loses_a_product_and_takes_the_cheap_order(monkeypatch, graph_layers, normalize):
    unit = live(glore.GloRe2d(16, graph_layers=graph_layers, normalize=normalize))
    other = folded(unit, torch.randn(1, 16, 4, 4))
    assert isinstance(other.graph_layers[-1].states, nn.Identity)
    assert isinstance(other.norm, nn.Identity)
    taken, cheap = [], GloRe._folded
    monkeypatch.setattr(GloRe, "_folded", lambda *call: taken.append(1) or cheap(*call))
    x = torch.randn(2, 16, 12, 15)
    assert_same(unit, other, x)
    assert len(taken) == 2
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert probe.difference(other(x), unit(x)) < 0.02


@pytest.mark.parametrize("size", [2, 12])
def test_a_folded_unit_is_trained_as_any_network(size):
    unit = live(glore.GloRe2d(16).double()).eval()
    x = torch.randn(2, 16, size, size, dtype=torch.double)
    other = folded(unit, x).train()
    grads = [
        torch.autograd.grad(net(v).square().sum(), v)[0] for net in (unit, other) for v in [x.clone().requires_grad_()]
    ]
    assert probe.difference(*grads) < 1e-9


def test_an_extend_with_a_bias_before_a_norm():
    unit = live(glore.GloRe2d(16)).eval()
    other = copy.deepcopy(unit)
    other.extend = nn.Conv2d(8, 16, 1)
    with torch.no_grad():
        other.extend.weight.copy_(unit.extend.weight)
        other.norm.running_mean.add_(other.extend.bias)
    x = torch.randn(2, 16, 12, 12)
    assert products.folds(144, 16, 8, 4)
    assert_same(unit, other, x)


@pytest.mark.unchecked
def test_a_folded_unit_can_be_traced_and_compiled():
    torch.compiler.reset()
    unit = folded(live(glore.GloRe2d(16)), torch.randn(1, 16, 4, 4))
    for other in (torch.fx.symbolic_trace(unit), torch.compile(unit, fullgraph=True, backend="aot_eager")):
        assert_same(unit, other, torch.randn(2, 16, 12, 12))


@pytest.mark.parametrize(
    ("build", "size", "left"),
    [
        (lambda: small.small_classifier(4, widths=(8, 8), depths=(1, 1), strides=(1, 1, 2)), (3, 12, 12), 3),
        (lambda: small.small_segmenter(3, widths=(8, 8), units=RES3, unit=glore.units.NonLocal2d), (1, 12, 12), 3),
        (lambda: heads.DenseASPP(8, 3, width=8, inner=4, growth=4), (8, 9, 9), 0),
        (lambda: heads.PSP(8, 3, width=8), (8, 9, 9), 0),
        (lambda: video.resnet18_3d(3, RES3, glore.GloRe3d, width=4), (3, 4, 16, 16), 13),
    ],
)
def test_networks_keep_the_norms_that_stand_behind_additions(build, size, left):
    net = live(build())
    other = folded(net, torch.randn(1, *size))
    assert norms(other) == left
    assert_same(net, other, torch.randn(2, size[0], *(side + 3 for side in size[1:])))


@pytest.mark.parametrize(("name", "left"), [("resnet18", 0), ("resnetv2_18", 9), ("mobilenetv3_small_050", 0)])
def test_networks_of_timm(name, left):
    pytest.importorskip("timm")
    from glore.nets import images

    net = live(images.backbone(name, classes=3))
    for norm in (module for module in net.modules() if isinstance(module, BATCH_NORMS)):
        norm.running_mean.mul_(0.1)
    other = folded(net, torch.randn(1, 3, 64, 64))
    assert norms(other) == left
    assert_same(net, other, torch.randn(2, 3, 70, 50))


class Twice(nn.Module):
    """A convolution and a norm whose output is used as `use` says."""

    def __init__(self, use, conv=None, norm=None):
        super().__init__()
        self.use, self.conv, self.norm = use, conv or nn.Conv2d(3, 4, 3), norm or nn.BatchNorm2d(4)
        self.more = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.use(self, x)


class Subtle(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).abs()


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


def added(net, x):
    y = net.conv(x)
    return y + net.norm(y)


def handed_out(net, x):
    y = net.conv(x)
    return y, net.norm(y)


CHAIN = lambda net, x: net.norm(net.conv(x))  # noqa: E731


@pytest.mark.parametrize(
    ("net", "left"),
    [
        (Twice(CHAIN), 1),
        (Twice(lambda net, x: net.norm(net.conv(x) + 1)), 2),
        (Twice(lambda net, x: net.norm(net.conv(x).relu_())), 2),
        (Twice(lambda net, x: net.norm(net.conv(x)) + net.more(net.conv(x + 1))), 2),
        (Twice(lambda net, x: net.norm(net.conv(x)) + net.norm(x[:, :1].repeat(1, 4, 1, 1)[..., 2:, 2:])), 2),
        (Twice(added), 2),
        (Twice(handed_out), 2),
        (Twice(CHAIN, norm=nn.BatchNorm2d(4, track_running_stats=False)), 2),
        (Twice(CHAIN, norm=nn.BatchNorm2d(4, affine=False)), 1),
        (Twice(CHAIN, norm=Subtle(4)), 2),
        (Twice(CHAIN, conv=Standardised(3, 4, 3)), 2),
        (Twice(CHAIN, conv=parametrizations.weight_norm(nn.Conv2d(3, 4, 3))), 2),
        (Twice(CHAIN, conv=nn.Conv2d(3, 4, 3, groups=1, stride=2, padding_mode="reflect", padding=1)), 1),
    ],
)
def test_a_norm_is_folded_only_where_it_is_all_that_takes_a_convolutions_output(net, left):
    for norm in (module for module in net.modules() if isinstance(module, BATCH_NORMS)):
        if norm.running_mean is not None:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 8, 8)
    other = folded(net, x)
    assert norms(other) == left
    assert_same(net, other, x)


def test_a_module_with_two_names_is_replaced_under_both():
    net = Twice(lambda net, x: net.norm(net.again(x)))
    net.again = net.conv
    x = torch.randn(2, 3, 8, 8)
    other = folded(net, x)
    assert norms(other) == 1
    assert other.again is other.conv
    assert_same(net, other, x)


def test_a_network_that_says_something_else_each_time_is_refused():
    count = iter(range(9))
    net = Twice(lambda net, x: net.norm(net.conv(x)) + next(count))
    with pytest.raises(ValueError, match="the outputs of this Twice move by"):
        folded(net, torch.randn(1, 3, 4, 4))


def test_the_random_state_stays():
    unit, before = glore.GloRe2d(16), torch.get_rng_state()
    folded(unit, torch.zeros(1, 16, 4, 4))
    assert torch.equal(before, torch.get_rng_state())


def test_pruned_convolutions_are_left_as_they_are():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    prune.l1_unstructured(net[0], "weight", 0.5)
    x = torch.randn(2, 3, 9, 9)
    assert_same(live(net), folded(net, x), x)


def test_half_precision_is_folded_as_far_as_it_goes():
    net = live(small.small_classifier(10, depths=(1, 1, 1), units={"res3": 1}, unit=glore.GloRe2d)).bfloat16()
    other = folded(net, torch.randn(1, 3, 32, 32, dtype=torch.bfloat16))
    assert norms(other) < norms(net)
