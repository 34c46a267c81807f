"""Published names to ours, and published modules to ours."""

import copy

import pytest
import torch
from torch import nn

import glore
from glore import GloRe1d, GloRe2d, GloRe3d, adopt
from glore.weights import from_official
from oracle import live, relative
from published import Published

GLORE = {1: GloRe1d, 2: GloRe2d, 3: GloRe3d}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.body = nn.Sequential(Published(16, 4), nn.ReLU(), Published(16, 6, normalize=True))

    def forward(self, x):
        return self.body(self.stem(x))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("prefix", ["", "module.", "conv3.B01_extra.", "module.body.0."])
def test_published_weights_load(axes, prefix):
    published = live(Published(12, 4, axes=axes)).eval()
    state = {prefix + key: value for key, value in published.state_dict().items()}
    ours = from_official(state)
    short = prefix.removeprefix("module.")
    unit = GLORE[axes](12, states=8, nodes=4, normalize=False).eval()
    assert list(unit.load_state_dict({key.removeprefix(short): ours[key] for key in ours})) == [[], []]
    x = torch.randn(2, 12, *(5, 4, 3)[:axes])
    assert relative(unit(x), published(x)) < 1e-5


def test_other_layers_keep_their_names():
    names = list(from_official({f"module.{key}": value for key, value in Network().state_dict().items()}))
    assert names[:2] == ["stem.weight", "stem.bias"]
    assert "body.2.graph_layers.0.nodes.weight" in names
    assert len(names) == len(Network().state_dict())


def test_tensors_are_the_same():
    state = Published(8, 2).state_dict()
    assert from_official(state)["extend.weight"] is state["conv_extend.weight"]


def test_state_dicts_that_do_not_fit():
    with pytest.raises(ValueError, match="2 keys, but none of a published GloRe unit"):
        from_official(nn.Linear(2, 2).state_dict())
    state = Published(8, 2).state_dict()
    del state["gcn.conv2.weight"]
    with pytest.raises(ValueError, match=r"at the root.* lacks gcn.conv2.weight"):
        from_official(state)
    state = {f"layer.{key}": value for key, value in Published(8, 2).state_dict().items()}
    del state["layer.blocker.weight"]
    with pytest.raises(ValueError, match=r"'layer.' lacks blocker.weight"):
        from_official(state)


def test_another_layer_of_that_name_stays():
    state = {f"unit.{key}": value for key, value in Published(8, 2).state_dict().items()}
    names = from_official({"conv_proj.weight": torch.zeros(4, 3, 16, 16), **state})
    assert "conv_proj.weight" in names
    assert "unit.projection.weight" in names


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fresh", [True, False])
def test_adopt_keeps_everything(training, fresh):
    model = Network().double().train(training)
    model.body[2].eval()
    model.body[0].blocker.momentum = 0.3
    model.body[0].conv_state.requires_grad_(False)
    if not fresh:
        live(model)
    parameters = {id(p) for p in model.parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    other = copy.deepcopy(model)
    state = torch.get_rng_state()

    assert adopt(model) is model
    assert torch.equal(torch.get_rng_state(), state)
    first, second = model.body[0], model.body[2]
    assert type(first) is type(second) is GloRe2d
    assert (first.normalize, second.normalize) == (False, True)
    assert (first.training, second.training, second.graph_layers[0].training) == (training, False, False)
    assert {id(p) for p in model.parameters()} == parameters
    assert not first.state.weight.requires_grad
    assert all(not module._forward_pre_hooks for module in model.modules())
    for name, buffer in other.body[0].blocker.named_buffers():
        assert torch.equal(first.norm.get_buffer(name), buffer)

    x = torch.randn(2, 3, 9, 9, dtype=torch.double)
    theirs = torch.optim.SGD([p for p in other.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        for net, optim in ((model, optimizer), (other, theirs)):
            optim.zero_grad()
            net(x).square().mean().backward()
            optim.step()
    assert relative(model(x), other(x)) < 1e-8
    assert relative(model.body[0].norm.running_var, other.body[0].blocker.running_var) < 1e-8


def test_a_published_module_itself_is_exchanged():
    published = live(Published(16, 4, axes=3)).eval()
    unit = adopt(published)
    assert type(unit) is GloRe3d
    x = torch.randn(2, 16, 3, 9, 9)
    assert relative(unit(x), published(x)) < 1e-5


def test_one_module_in_two_places_stays_one():
    shared = Published(16, 4)
    model = adopt(nn.Sequential(shared, nn.Sequential(shared)))
    assert model[0] is model[1][0]
    assert type(model[0]) is GloRe2d


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_adopt_in_half_precision(dtype):
    assert next(adopt(Published(16, 4).to(dtype)).parameters()).dtype == dtype


@pytest.mark.parametrize("normalize", [True, False])
def test_adopt_refuses_what_computes_something_else(normalize):
    model = nn.Sequential(Published(16, 4, normalize), nn.Sequential(Published(16, 4, normalize, wrong=1.05)))
    model.train()
    with pytest.raises(ValueError, match=r"'1.0' is not the published unit: .* Nothing was changed"):
        adopt(model)
    assert type(model[0]) is Published
    assert all(module.training for module in model.modules())


class Doubles(Published):
    def forward(self, x):
        out = super().forward(x)
        return 2 * out if self.training else out


def test_adopt_refuses_what_it_would_lose():
    with pytest.raises(ValueError, match="'0' is not the published unit"):
        adopt(nn.Sequential(Doubles(16, 4)))
    model = Published(16, 4)
    model.drop = nn.Dropout()
    with pytest.raises(ValueError, match="Published has more in it than the published module: drop"):
        adopt(model)
    model = Published(16, 4)
    model.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="more in it than the published module: scale"):
        adopt(model)
    model = Published(16, 4)
    model.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="more in it than the published module: 1 hooks"):
        adopt(model)


def test_adopt_refuses_what_holds_nothing():
    with pytest.raises(ValueError, match="this Linear holds no published GloRe module"):
        adopt(nn.Linear(2, 2))


def test_adopt_refuses_layers_that_are_no_convolutions():
    model = Published(16, 4)
    model.conv_state = nn.Linear(16, 8)
    with pytest.raises(ValueError, match="conv_extend are Linear, Conv2d, Conv2d"):
        adopt(model)


def test_the_face_has_it():
    assert glore.adopt is glore.weights.adopt
