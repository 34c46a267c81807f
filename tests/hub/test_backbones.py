"""The names `glore_…` in timm: whatever timm does with its own networks works with ours."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import load_checkpoint
from timm.models._hub import save_for_hf  # timm 1.0.15 has it there alone
from timm.optim import create_optimizer_v2
from torch import nn

import glore
from glore import probe
from glore.hub import BACKBONES

SMALL = "mobilenetv2_100"
LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnetv2_50", "dpn92")]
FAMILIES = ["resnet50", "densenet121", "xception41", SMALL, *LARGE]
PICTURE = torch.rand(1, 3, 64, 64)


def made(name=SMALL, **options):
    return timm.create_model(f"glore_{name}", **options)


def awake(model):
    """A network whose units are no longer the identity."""
    for unit in glore.units_of(model).values():
        nn.init.uniform_(unit.norm.weight)
    return model.eval()


@pytest.fixture
def trained(tmp_path):
    model = awake(made(num_classes=4))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    return model, str(tmp_path / "w.safetensors")


def test_timm_lists_them():
    assert set(timm.list_models("glore_*")) == {f"glore_{name}" for name in BACKBONES}
    assert all(map(timm.is_model, BACKBONES))


@pytest.mark.parametrize("name", ["densenet121", SMALL, *LARGE])
def test_a_network_is_timms_with_units(name):
    model, plain = made(name, num_classes=5, in_chans=1), timm.create_model(name, num_classes=5, in_chans=1)
    assert list(glore.remove(model).state_dict()) == list(plain.state_dict())
    ours, theirs = dict(model.pretrained_cfg), dict(plain.pretrained_cfg)
    assert (ours.pop("architecture"), theirs.pop("architecture")) == (f"glore_{name}", name)
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_network_has_its_units(name):
    assert len(glore.units_of(made(name))) == sum(BACKBONES[name].units.values())


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_maps_of_the_stages_are_those_behind_their_modules(name):
    maps = made(name, features_only=True).eval()
    assert maps.feature_info.reduction() == [2, 4, 8, 16, 32]
    assert [(x.shape[1], 64 // x.shape[2]) for x in maps(PICTURE)] == list(
        zip(maps.feature_info.channels(), maps.feature_info.reduction(), strict=True)
    )
    torch.manual_seed(0)  # as for every test: the same weights
    model = made(name).eval()
    modules = [model.get_submodule(info["module"]) for info in model.feature_info]
    with probe.recorded(modules) as calls:
        model(PICTURE)
    told = [next(call.output for call in calls if call.module is module) for module in modules]
    told = [torch.cat(x, 1) if isinstance(x, list | tuple) else x for x in told]
    for found in (maps(PICTURE), model.forward_intermediates(PICTURE, intermediates_only=True)):
        assert len(found) == 5
        assert all(map(probe.same, found, told))


def test_maps_of_some_stages():
    maps = made(features_only=True, out_indices=(2, 3))
    assert maps.feature_info.channels() == [32, 96]
    assert len(glore.units_of(maps)) == 5


def test_dilation_leaves_the_units_where_they_are():
    dilated = made(output_stride=16)
    assert dilated.forward_features(PICTURE).shape[-1] == 4
    assert list(glore.units_of(dilated)) == list(glore.units_of(made()))


def test_other_places_are_an_option():
    assert list(glore.units_of(made(units={"res4": 1}))) == ["blocks.3.3_glore"]
    with pytest.raises(ValueError, match="no res7; this network has"):
        made(units={"res7": 1})


@pytest.mark.parametrize("options", [{}, {"num_classes": 7}, {"in_chans": 1}])
def test_weights_with_units_from_a_file(trained, options):
    source, path = trained
    again = made(
        **{"num_classes": 4, **options}, pretrained=True, pretrained_cfg_overlay={"file": path, "num_classes": 4}
    )
    own, weights = again.state_dict(), source.state_dict()
    same = {name for name in own if own[name].shape == weights[name].shape and torch.equal(own[name], weights[name])}
    assert (
        own.keys() - same
        == {
            0: set(),
            7: {"classifier.weight", "classifier.bias"},
            1: {"conv_stem.weight"},
        }[options.get("num_classes", 0) or options.get("in_chans", 0)]
    )


@torch.no_grad()
def test_weights_without_units_leave_these_as_they_are(tmp_path):
    plain = timm.create_model(SMALL).eval()
    save_file(plain.state_dict(), tmp_path / "w.safetensors")
    model = made(pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "w.safetensors")}).eval()
    assert len(glore.units_of(model)) == 5
    torch.testing.assert_close(model(PICTURE), plain(PICTURE))


def test_weights_with_units_at_other_places_are_refused(trained):
    with pytest.raises(RuntimeError, match="_glore"):
        made(
            num_classes=4,
            units={"res4": 1},
            pretrained=True,
            pretrained_cfg_overlay={"file": trained[1], "num_classes": 4},
        )


@torch.no_grad()
def test_timm_loads_a_checkpoint_into_a_network_that_is_there(trained):
    source, path = trained
    model = made(num_classes=4)
    load_checkpoint(model, path)
    assert torch.equal(model.eval()(PICTURE), source(PICTURE))


@pytest.mark.parametrize("safe", [True, False])
@torch.no_grad()
def test_what_timm_saves_it_loads(tmp_path, safe):
    source = awake(made(num_classes=4, in_chans=1, units={"res3": 1}))
    save_for_hf(source, str(tmp_path), safe_serialization=safe)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert again.pretrained_cfg["architecture"] == f"glore_{SMALL}"
    assert torch.equal(again(PICTURE[:, :1]), source(PICTURE[:, :1]))


@torch.no_grad()
def test_head_and_features():
    model = awake(made(num_classes=4))
    features = model.forward_features(PICTURE)
    assert torch.equal(model.forward_head(features), model(PICTURE))
    assert model.get_classifier().out_features == 4
    model.reset_classifier(6)
    assert model(PICTURE).shape == (1, 6)
    model.reset_classifier(0)
    assert model(PICTURE).shape == (1, model.head_hidden_size)


def test_a_unit_learns_at_the_rate_of_its_block():
    model = made()
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5)
    rates = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for path, unit in glore.units_of(model).items():
        block = model.get_submodule(path.removesuffix("_glore"))
        assert {rates[id(p)] for p in unit.parameters()} == {rates[id(block.conv_pw.weight)]}
        assert decays[id(unit.norm.weight)] == 0
    assert len(set(rates.values())) > 10


def test_checkpointed_gradients_are_the_same():
    model = awake(made(num_classes=4))
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(PICTURE).sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max())) for a, b in zip(*grads, strict=True))
