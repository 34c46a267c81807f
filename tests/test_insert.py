"""Insertion into many networks, each refusal, and the way back."""

import copy
import functools
import pickle

import pytest
import torch
from torch import nn

from glore import GloRe1d, GloRe2d, GloRe3d, insert, remove, spread, units_of
from glore.units import DoubleAttention2d, GlobalContext2d, NonLocal2d, SqueezeExcite2d
from oracle import relative

PICTURE = (1, 3, 64, 64)
CLIP = (1, 3, 4, 32, 32)


def block(channels):
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())


class Net(nn.Module):
    """A small CNN of the tests: a stem, a stage of four blocks, a stage of two, a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stage1 = nn.Sequential(*(block(8) for _ in range(4)))
        self.down = nn.Conv2d(8, 12, 3, stride=2)
        self.stage2 = nn.Sequential(*(block(12) for _ in range(2)))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stage2(self.down(self.stage1(self.stem(x))))
        return self.head(x.mean((2, 3)))


class Sequence(nn.Module):
    """A 1-D CNN."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Conv1d(6, 6, 3, padding=1), nn.ReLU()) for _ in range(3)))
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.blocks(x).mean(-1))


EXAMPLE = torch.randn(1, 3, 16, 16)


def children(module):
    return [name for name, _ in module.named_children()]


@pytest.mark.parametrize(
    ("blocks", "units", "places"),
    [
        *((4, 2, (0, 2)), (6, 3, (0, 2, 4)), (23, 3, (0, 7, 15)), (3, 1, (1,)), (4, 1, (1,)), (1, 1, (0,))),
        *((3, 3, (0, 1, 2)), (5, 0, ()), (0, 0, ()), (23, 1, (11,))),
    ],
)
def test_spread(blocks, units, places):
    assert spread(blocks, units) == places


def test_spread_refuses():
    with pytest.raises(ValueError, match="units=5 is more than there are places: at most 4"):
        spread(4, 5)
    with pytest.raises(ValueError, match="must not be negative"):
        spread(4, -1)


def network(library, name):
    if library == "timm":
        return pytest.importorskip("timm").create_model(name)
    models = pytest.importorskip("torchvision").models
    return models.get_model(name, weights=None)


NETWORKS = [
    ("timm", "resnet18", {"layer2": 1, "layer3": 2}, GloRe2d),
    ("timm", "resnet50", {"layer2": 2, "layer3": 3}, GloRe2d),
    ("timm", "resnetv2_50", {"stages.1.blocks": 2, "stages.2.blocks": (0, 5)}, GloRe2d),
    ("timm", "resnext50_32x4d", {"layer3": 3}, GloRe2d),
    ("timm", "seresnet50", {"layer2": 4}, GloRe2d),
    ("timm", "convnext_atto", {"stages.2.blocks": 2}, GloRe2d),
    ("timm", "regnety_002", {"s3": 2}, GloRe2d),
    ("timm", "efficientnet_b0", {"blocks.4": 1, "blocks.3": 1}, GloRe2d),
    ("timm", "tf_efficientnet_lite0", {"blocks.3": 2}, GloRe2d),
    ("timm", "mobilenetv2_100", {"blocks.3": 2, "blocks.4": 1}, GloRe2d),
    ("timm", "mobilenetv3_small_100", {"blocks.3": 2}, GloRe2d),
    ("timm", "xception41", {"blocks": (3, 5)}, GloRe2d),
    ("timm", "densenet121", {"features": (5, 7)}, GloRe2d),
    ("timm", "dpn68", {"features": (6, 11)}, GloRe2d),
    ("timm", "repvgg_a0", {"stages.2": 3}, GloRe2d),
    ("timm", "darknet53", {"stages.2.blocks": 1}, GloRe2d),
    ("timm", "poolformer_s12", {"stages.2.blocks": 2}, GloRe2d),
    ("timm", "cspresnet50", {"stages.2.blocks": 1}, GloRe2d),
    ("timm", "res2net50_14w_8s", {"layer2": 1}, GloRe2d),
    ("torchvision", "resnet18", {"layer3": 2}, GloRe2d),
    ("torchvision", "mobilenet_v2", {"features": (6,)}, GloRe2d),
    ("torchvision", "regnet_y_400mf", {"trunk_output.block3": 2}, GloRe2d),
    ("torchvision", "shufflenet_v2_x0_5", {"stage3": 1}, GloRe2d),
    ("torchvision", "convnext_tiny", {"features.3": 1}, GloRe2d),
    ("torchvision", "vgg11", {"features": (5,)}, GloRe2d),
    ("torchvision", "r3d_18", {"layer2": 1, "layer3": 1}, GloRe3d),
    ("torchvision", "mc3_18", {"layer2": 2}, GloRe3d),
    ("torchvision", "r2plus1d_18", {"layer3": 1}, GloRe3d),
    ("tests", "sequence", {"blocks": 2}, GloRe1d),
]


BIG = ("resnext50_32x4d", "seresnet50", "xception41", "densenet121", "dpn68", "darknet53", "res2net50_14w_8s")


@pytest.mark.parametrize(
    ("library", "name", "where", "unit"),
    [pytest.param(*row, marks=pytest.mark.slow) if row[1] in BIG else row for row in NETWORKS],
)
def test_networks_take_units(library, name, where, unit):
    model = Sequence() if library == "tests" else network(library, name)
    shape = {GloRe1d: (1, 6, 16), GloRe2d: PICTURE, GloRe3d: CLIP}[unit]
    x = torch.randn(2, *shape[1:])
    model.eval()
    with torch.no_grad():
        expected = model(x)
    before = {key: value.clone() for key, value in model.state_dict().items()}

    example = None if library == "timm" and name == "resnet18" else torch.randn(shape)
    assert insert(model, where, unit, example=example) is model
    added = units_of(model)
    assert len(added) == sum(w if isinstance(w, int) else len(w) for w in where.values())
    state = model.state_dict()
    assert [key for key in state if key in before] == list(before)
    assert all(torch.equal(state[key], before[key]) for key in before)
    with torch.no_grad():
        assert torch.equal(model(x), expected)

    gradients_reach(model, x)
    model.eval()
    for key, value in before.items():
        state[key].copy_(value)
    assert remove(model) is model
    assert list(model.state_dict()) == list(before)
    assert units_of(model) == {}
    with torch.no_grad():
        assert torch.equal(model(x), expected)


def gradients_reach(model, x):
    """Every new weight has a gradient by the second step."""
    model.train().requires_grad_(False)
    units = [unit.requires_grad_() for unit in units_of(model).values()]
    for _ in range(2):
        model.zero_grad()
        model(x).square().sum().backward()
        with torch.no_grad():
            for norm in (unit.norm for unit in units):
                assert norm.weight.grad.abs().max() > 0
                norm.weight -= 0.1 * norm.weight.grad.sign()
    for path, unit in units_of(model).items():
        for name, parameter in unit.named_parameters():
            assert parameter.grad.abs().max() > 0, f"{path}.{name}"


def test_resnet50_gains_the_published_parameters():
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet50")
    before = sum(p.numel() for p in model.parameters())
    insert(model, {"layer2": 2, "layer3": 3}, GloRe2d)
    assert sum(p.numel() for p in model.parameters()) - before == 5_746_688
    assert list(units_of(model)) == [
        "layer2.0_glore",
        "layer2.2_glore",
        "layer3.0_glore",
        "layer3.2_glore",
        "layer3.4_glore",
    ]


@pytest.mark.parametrize("unit", [NonLocal2d, DoubleAttention2d, SqueezeExcite2d, GlobalContext2d])
def test_rivals_go_the_same_way(unit):
    model = insert(Net(), {"stage1": 1}, unit, example=EXAMPLE)
    assert children(model.stage1) == ["0", "1", f"1_{unit.__name__[:-2].lower()}", "2", "3"]


def test_indices_count_blocks():
    model = insert(Net(), {"stage1": (3, 0)}, functools.partial(GloRe2d, nodes=3), example=EXAMPLE)
    assert children(model.stage1) == ["0", "0_glore", "1", "2", "3", "3_glore"]
    assert {unit.n_nodes for unit in units_of(model).values()} == {3}
    assert {unit.channels for unit in units_of(model).values()} == {8}


def test_the_root_can_be_the_container():
    model = insert(block(8), {"": (2,)}, GloRe2d, example=torch.randn(1, 8, 6, 6))
    assert list(units_of(model)) == ["2_glore"]


def test_no_units_are_no_change():
    model = Net()
    assert list(insert(model, {"stage1": 0, "stage2": ()}, GloRe2d, example=EXAMPLE).state_dict()) == list(
        Net().state_dict()
    )
    assert len(units_of(insert(model, {"stage1": 1}, GloRe2d, example=EXAMPLE))) == 1


def test_new_units_take_device_type_and_mode():
    model = Net().double().train()
    model.stage2.eval()
    insert(model, {"stage1": 1, "stage2": 1}, GloRe2d, example=EXAMPLE.double())
    first, second = units_of(model).values()
    assert first.training
    assert first.norm.training
    assert not second.training
    assert {p.dtype for p in first.parameters()} == {torch.float64}


def test_the_probe_touches_nothing():
    model = Net().train()
    model.head.eval()
    buffers = copy.deepcopy(dict(model.named_buffers()))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    expected = GloRe2d(8).state_dict()
    torch.manual_seed(1)
    insert(model, {"stage1": 1}, GloRe2d, example=EXAMPLE)
    drawn = torch.get_rng_state()
    for key, value in model.stage1[2].state_dict().items():
        assert torch.equal(value, expected[key])
    torch.manual_seed(1)
    GloRe2d(8)
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.set_rng_state(state)
    assert model.training
    assert not model.head.training
    assert all(not module._forward_hooks for module in model.modules())
    assert all(torch.equal(buffers[name], model.get_buffer(name)) for name in buffers)
    assert all(p.grad is None for p in model.parameters())


def test_a_declared_size_follows_the_first_layer():
    timm = pytest.importorskip("timm")
    assert len(units_of(insert(timm.create_model("resnet18", in_chans=1), {"layer2": 1}, GloRe2d))) == 1


def test_copies_and_pickles_know_their_units():
    model = insert(Net(), {"stage1": 2}, GloRe2d, example=EXAMPLE)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(units_of(other)) == ["stage1.0_glore", "stage1.2_glore"]
        assert children(remove(other).stage1) == ["0", "1", "2", "3"]
    assert len(units_of(model)) == 2


def test_remove_on_a_plain_network_is_no_change():
    model = Net()
    assert list(remove(model).state_dict()) == list(Net().state_dict())


def test_units_survive_features_only():
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18", features_only=True)
    x = torch.randn(2, *PICTURE[1:])
    expected = [f.shape for f in model.eval()(x)]
    insert(model, {"layer2": 2, "layer3": 1}, GloRe2d, example=x)
    assert [f.shape for f in model(x)] == expected


# --- refusals -------------------------------------------------------------------------------------------------------


def refuses(model, where, message, unit=GloRe2d, example=EXAMPLE):
    before = [(path, type(module)) for path, module in model.named_modules()]
    modes = [module.training for module in model.modules()]
    with pytest.raises(ValueError, match=message):
        insert(model, where, unit, example=example)
    assert [(path, type(module)) for path, module in model.named_modules()] == before
    assert [module.training for module in model.modules()] == modes
    assert units_of(model) == {}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"stage3": 1}, r"where='stage3' is no module of this Net: .*'stage1'"),
        ({"stage1": 5}, r"units=5 is more than there are places: at most 4"),
        ({"stage1": -1}, "units=-1 must not be negative"),
        ({"stage1": (0, 4)}, r"4 is no index of its 4 blocks: give whole numbers from 0 to 3"),
        ({"stage1": (-1,)}, r"-1 is no index"),
        ({"stage1": (1, 1)}, "names a block twice"),
        ({"stem": 1}, "is a Conv2d without children"),
        ({"": 1}, "Net does not run every child|does not run its children in order"),
        ({"stage1": 1, "stage2": (7,)}, "7 is no index"),
    ],
)
def test_wrong_places_are_named(where, message):
    refuses(Net(), where, message)


@pytest.mark.unchecked
def test_an_index_that_is_no_whole_number():
    refuses(Net(), {"stage1": (1.5,)}, "1.5 is no index")


class Tapped(Net):
    """Hands on what comes out behind a child of a certain name, as torchvision's IntermediateLayerGetter does."""

    def forward(self, x):
        x = self.stem(x)
        for name, block in self.stage1.named_children():
            x = block(x)
            if name == "3":
                kept = x
        return self.head(self.stage2(self.down(kept)).mean((2, 3)))


def test_a_unit_whose_output_nobody_takes_is_refused():
    refuses(Tapped(), {"stage1": (3,)}, "what comes out behind some children of Sequential is not used")
    assert len(units_of(insert(Tapped(), {"stage1": (2,)}, GloRe2d, example=EXAMPLE))) == 1


def test_units_that_were_wrapped_since_are_taken_out_whole():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = insert(Net(), {"stage1": 2}, GloRe2d, example=EXAMPLE)
    expected = model.eval()(EXAMPLE)
    model.stage1._modules["0_glore"] = checkpoint_wrapper(model.stage1._modules["0_glore"])
    model.stage1._modules["2_glore"] = torch.compile(model.stage1._modules["2_glore"])
    assert list(units_of(model)) == ["stage1.0_glore", "stage1.2_glore"]
    torch.testing.assert_close(remove(model)(EXAMPLE), expected)
    assert children(model.stage1) == ["0", "1", "2", "3"]


class Checkpointed(Net):
    """Runs its last stage once more for its gradients, and keeps a map, as networks that draw attention do."""

    def forward(self, x):
        x = self.down(self.stage1(self.stem(x)))
        self.kept = torch.utils.checkpoint.checkpoint(self.stage2, x, use_reentrant=False)
        return self.head(self.kept.mean((2, 3)))


def test_the_probes_gradients_leave_nothing_behind():
    model = Checkpointed().train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    insert(model, {"stage1": 1}, GloRe2d, example=EXAMPLE)
    for name, buffer in before.items():
        assert torch.equal(model.get_buffer(name), buffer), name
    assert not model.kept.requires_grad
    copy.deepcopy(model)

    class Unused(Checkpointed):
        def forward(self, x):
            super().forward(x)
            return self.head(self.down(self.stem(x)).mean((2, 3)))

    model = Unused()
    refuses(model, {"stage2": 1}, "is not used, so a unit there would never learn")
    copy.deepcopy(model)


class Told(Net):
    """Tells classes, of which no gradient comes."""

    def forward(self, x):
        return super().forward(x).argmax(1)


def test_a_network_that_tells_classes_is_compared_by_them():
    assert len(units_of(insert(Told(), {"stage1": 1}, GloRe2d, example=EXAMPLE))) == 1

    class Counts(Told):
        def forward(self, x):
            return super().forward(x) + len(self.stage1)

    refuses(Counts(), {"stage1": 1}, "change the output of Counts even if they do nothing")


class Random(Net):
    """Draws in evaluation, as a network with Monte Carlo dropout does."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5))


def test_a_network_that_draws_in_evaluation_is_taken():
    state = torch.get_rng_state()
    insert(Random(), {"stage1": 1}, lambda channels: GloRe2d(channels).eval(), example=EXAMPLE)
    assert not torch.equal(torch.get_rng_state(), state), "by the unit's first weights alone"


def test_units_are_known_in_containers_made_of_the_children():
    model = insert(Net(), {"stage1": (1, 3), "stage2": 1}, GloRe2d, example=EXAMPLE)
    cut = model.stage1[:4]
    assert list(units_of(cut)) == ["1_glore"]
    assert list(remove(cut)._modules) == ["0", "1", "2"]
    del model.stage2[0]  # after which torch counts the others anew
    assert [type(unit) for unit in units_of(model).values()] == 3 * [GloRe2d]
    assert units_of(remove(model)) == {}


def test_the_same_container_twice():
    model = insert(Net(), {"stage1": 1}, GloRe2d, example=EXAMPLE)
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=r"where='stage1' holds units already: glore.remove"):
        insert(model, {"stage1": 1}, GloRe2d, example=EXAMPLE)
    assert list(model.state_dict()) == before
    assert len(units_of(insert(model, {"stage2": 1}, GloRe2d, example=EXAMPLE))) == 2


def test_one_container_by_two_names():
    model = Net()
    model.alias = model.stage1
    refuses(model, {"stage1": 1, "alias": 1}, "names one container by two paths")


def test_no_declared_size():
    refuses(Net(), {"stage1": 1}, "does not declare its input size.*example=torch.zeros", example=None)


def test_an_example_that_does_not_fit():
    refuses(
        Net(), {"stage1": 1}, r"example: Net does not run on input \(1, 4, 16, 16\)", example=torch.randn(1, 4, 16, 16)
    )


def test_a_unit_that_is_a_module():
    refuses(Net(), {"stage1": 1}, "unit is a GloRe2d: give what makes a unit", unit=GloRe2d(8))


def test_a_unit_for_another_number_of_axes():
    refuses(Net(), {"stage1": 1}, r"GloRe3d takes maps .*\(1, 8, 16, 16\)", unit=GloRe3d)


def test_a_unit_that_changes_the_shape():
    refuses(Net(), {"stage1": 1}, "the shape must stay", unit=lambda channels: nn.Conv2d(channels, channels, 3))


@pytest.mark.parametrize(
    ("name", "where", "message"),
    [
        ("vit_tiny_patch16_224", {"blocks": 1}, "tokens or a channels-last map"),
        ("swin_tiny_patch4_window7_224", {"layers.2.blocks": 1}, "tokens or a channels-last map"),
        ("swinv2_tiny_window8_256", {"layers.1.blocks": 1}, "tokens or a channels-last map"),
        ("mixer_s32_224", {"blocks": 1}, "tokens or a channels-last map"),
        ("tiny_vit_5m_224", {"stages.1.blocks": 1}, "tokens or a channels-last map"),
        ("pvt_v2_b0", {"stages.2.blocks": 1}, r"takes \(Tensor, tuple\) and not a single map"),
        ("densenet121", {"features.denseblock2": 1}, r"takes \(list\) and not a single map"),
        ("selecsls42b", {"features": (2,)}, r"takes \(list\) and not a single map"),
        ("resnet18", {"layer2.0": 1}, "BasicBlock does not run its children in order"),
    ],
)
def test_blocks_without_single_channels_first_maps(name, where, message):
    model = network("timm", name)
    for unit in (GloRe2d, GloRe1d):
        refuses(model, where, message, unit=unit, example=None)


@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t"])
def test_torchvisions_swin(name):
    message = "tokens or a channels-last map"
    refuses(network("torchvision", name), {"features.5": 1}, message, example=torch.randn(PICTURE))


class OutOfOrder(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = block(8), block(8)

    def forward(self, x):
        return self.a(self.b(x))


class Skips(OutOfOrder):
    def forward(self, x):
        return self.b(self.a(x)) + x


class Rewrites(OutOfOrder):
    def forward(self, x):
        return self.b(self.a(x) + 1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (OutOfOrder, "does not run its children in order"),
        (Skips, "does not run every child"),
        (Rewrites, "the next block does not take what this one returns"),
    ],
)
def test_containers_that_are_no_chain(kind, message):
    refuses(nn.Sequential(kind()), {"0": (0,)}, message, example=torch.randn(1, 8, 6, 6))


class Sum(nn.Module):
    """Parallel branches."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(block(8) for _ in range(3))

    def forward(self, x):
        return sum(b(x) for b in self.blocks)


class Taps(Sum):
    """Takes maps out by the place of their block."""

    def forward(self, x):
        taken = []
        for i, b in enumerate(self.blocks):
            x = b(x)
            if i == 1:
                taken.append(x)
        return {"taps": taken, "out": [x]}


class Stack(Sum):
    """Keeps a map behind each block, as a U-Net does."""

    def forward(self, x):
        maps = []
        for b in self.blocks:
            x = b(x)
            maps.append(x)
        return sum((i + 1) * m for i, m in enumerate(maps))


class Range(Sum):
    """Runs a number of blocks that it wrote down."""

    def forward(self, x):
        for i in range(3):
            x = self.blocks[i](x)
        return x


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Sum, "the next block does not take what this one returns"),
        (Taps, "change the output of Taps even if they do nothing"),
        (Stack, "change the output of Stack even if they do nothing"),
        (Range, "does not run every child|no longer runs|change the output"),
    ],
)
@pytest.mark.parametrize("index", [0, 2])
def test_networks_that_count_their_blocks(kind, message, index):
    if kind is Sum and index == 2:
        message = "change the output of Sum"
    if kind is Taps and index == 2:
        pytest.skip("a unit behind the last tap is safe")
    refuses(kind(), {"blocks": (index,)}, message, example=torch.randn(1, 8, 6, 6))


def test_blocks_without_a_norm_on_sequences_of_tokens():
    net = nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)))
    message = "tokens or a channels-last map"
    refuses(nn.Sequential(net, nn.ReLU()), {"": (0,)}, message, unit=GloRe1d, example=torch.randn(1, 10, 6))


class Overflows(Net):
    def forward(self, x):
        out = super().forward(x)
        return torch.cat([out, out * float("inf"), out * float("nan")])


def test_a_network_that_overflows_takes_units_all_the_same():
    assert len(units_of(insert(Overflows(), {"stage1": 1}, GloRe2d, example=EXAMPLE))) == 1


def test_children_that_are_none_stay():
    container = Optional()
    insert(container, {"": (0,)}, GloRe2d, example=torch.randn(1, 8, 6, 6))
    assert list(container._modules) == ["0", "0_glore", "drop", "1"]
    assert list(remove(container)._modules) == ["0", "drop", "1"]


class Optional(nn.Module):
    """A chain with a child that is switched off."""

    def __init__(self):
        super().__init__()
        self.add_module("0", block(8))
        self.register_module("drop", None)
        self.add_module("1", block(8))

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


@pytest.mark.unchecked
@pytest.mark.parametrize("wanted", [1.5, None, True, "2"])
def test_places_that_are_neither_a_count_nor_indices(wanted):
    refuses(Net(), {"stage1": wanted}, rf"where={{'stage1': {wanted!r}}}: must be a number of units, or indices")


@pytest.mark.unchecked
def test_arguments_of_the_wrong_kind():
    refuses(Net(), ["stage1"], r"where=\['stage1'\] must map paths")
    refuses(Net(), {"stage1": 1}, "unit is a str: give what makes", unit="GloRe2d")
    refuses(Net(), {"stage1": 1}, "example is a tuple without a tensor: give an input", example=(1, 3, 16, 16))
    with pytest.raises(ValueError, match="model is a str: give the network itself"):
        insert("resnet18", {"layer2": 1}, GloRe2d)


@pytest.mark.unchecked
def test_numpys_whole_numbers_count():
    numpy = pytest.importorskip("numpy")
    model = insert(Net(), {"stage1": numpy.int64(2), "stage2": numpy.array([1])}, GloRe2d, example=EXAMPLE)
    assert list(units_of(model)) == ["stage1.0_glore", "stage1.2_glore", "stage2.1_glore"]


@pytest.mark.unchecked
def test_compiled_networks():
    refuses(torch.compile(Net()), {"stage1": 1}, "is compiled: insert first")
    model = Net()
    model.compile()
    refuses(model, {"stage1": 1}, "is compiled: insert first")


def test_wrapped_networks():
    refuses(nn.DataParallel(Net()), {"module.stage1": 1}, "wrapped for several devices: insert into model.module")


def test_ddp_networks(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(Net())
        refuses(model, {"module.stage1": 1}, "wrapped for several devices")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_scripted_and_quantised_networks():
    refuses(torch.jit.trace(Net(), EXAMPLE), {"stage1": 1}, "scripted or traced: insert first, then trace or export")
    quantised = torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear}, dtype=torch.qint8)
    refuses(quantised, {"stage1": 1}, "'head' is quantised: insert first")


def test_the_output_is_that_of_the_units():
    model = insert(Net().eval(), {"stage1": 1}, GloRe2d, example=EXAMPLE)
    plain = model(EXAMPLE)
    (unit,) = units_of(model).values()
    nn.init.ones_(unit.norm.weight)
    x = model.stage1[1](model.stage1[0](model.stem(EXAMPLE)))
    by_hand = model.stage2(model.down(model.stage1[4](model.stage1[3](unit(x)))))
    assert relative(model(EXAMPLE), model.head(by_hand.mean((2, 3)))) < 1e-6
    assert not torch.equal(model(EXAMPLE), plain)


def test_networks_that_can_be_quantised_later_take_units():
    models = pytest.importorskip("torchvision").models
    net = models.quantization.resnet18(weights=None)
    assert len(units_of(insert(net, {"layer3": 1}, GloRe2d, example=torch.randn(PICTURE)))) == 1


class Box:
    def __init__(self, logits):
        self.logits = logits


def test_outputs_of_a_class_of_ones_own_are_opened():
    class Boxed(Net):
        def forward(self, x):
            return Box(super().forward(x))

    class Empty(Net):
        def forward(self, x):
            super().forward(x)
            return Box(None)

    assert len(units_of(insert(Boxed(), {"stage1": 1}, GloRe2d, example=EXAMPLE))) == 1
    refuses(Empty(), {"stage1": 1}, "holds no tensor that can be compared")


def test_inputs_may_be_lists_of_tensors():
    class Listed(Net):
        def forward(self, pictures):
            return super().forward(torch.stack(pictures))

    insert(Listed(), {"stage1": 1}, GloRe2d, example=([torch.randn(3, 16, 16)],))
