"""timm's networks with units: where units can stand, what is refused, and weights from files."""

from functools import partial

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import glore
from glore import measure, probe
from glore.nets import images, pretrained
from glore.nets.small import small_classifier
from glore.units import SqueezeExcite2d
from glore.weights import files
from oracle import live

PICTURE = torch.zeros(1, 3, 64, 64)
# places of res2 … res5 in the paper's networks; DenseNet's include its transitions
PLACES = {
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
    "resnet200": (3, 24, 36, 3),
    "resnext101_32x4d": (3, 4, 23, 3),
    "se_resnet50": (3, 4, 6, 3),
    "se_resnet101": (3, 4, 23, 3),
    "dpn92": (3, 4, 20, 3),
    "dpn98": (3, 6, 20, 3),
    "dpn131": (4, 8, 28, 3),
    "densenet121": (1, 2, 2, 2),
    "mobilenetv2": (2, 3, 7, 4),
}


def counted(name):
    return {stage: len(where) for stage, where in images.places(getattr(images, name)(unit=None), PICTURE).items()}


@pytest.mark.parametrize("name", ["resnet50", "dpn92", "densenet121", "mobilenetv2"])
def test_places(name):
    found = counted(name)
    assert tuple(found[f"res{k}"] for k in range(2, 6)) == PLACES[name]


@pytest.mark.parametrize("name", ["dpn68", "densenet121", "xception41"])
@torch.no_grad()
def test_networks_that_count_their_blocks_find_the_maps_of_their_stages(name):
    def maps():
        return net.forward_intermediates(PICTURE + 1, intermediates_only=True)

    net = images.backbone(name, unit=None).eval()
    plain, ends, example = maps(), net.feature_ends, PICTURE
    glore.insert(net, images.where(net, {"res3": 1, "res4": 1, "res5": 2}, example), glore.GloRe2d)
    assert all(map(probe.same, plain, maps())), "fresh units are the identity"
    live([*glore.units_of(net).values()][-1])
    *before, last = maps()
    assert all(map(probe.same, plain, before))
    assert not probe.same(plain[-1], last), "the last unit stands behind the last block"
    assert glore.remove(net).feature_ends == ends
    assert all(map(probe.same, plain, maps()))


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_places_of_every_network(name):
    found = counted(name)
    assert tuple(found[f"res{k}"] for k in range(2, 6)) == PLACES[name]


LARGE = ("resnet101", "resnet152", "resnet200", "se_resnet101", "dpn98", "dpn131")  # others of their families are quick


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in files.PAPER]
)
def test_every_builder_passes_forward_and_backward(name):
    net = getattr(images, name)({"res3": 1, "res4": 2}, classes=5)
    assert len(glore.units_of(net)) == 3
    out = net(torch.randn(2, 3, 64, 64))
    assert out.shape == (2, 5)
    out.square().sum().backward()
    for unit in glore.units_of(net).values():
        assert unit.norm.weight.grad.abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", files.PAPER)
def test_every_builder_passes_at_full_size(name):
    net = getattr(images, name)({"res3": 1, "res4": 3} if name != "densenet121" else {"res3": 1, "res4": 2})
    net(torch.randn(2, 3, 224, 224)).sum().backward()


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "dpn92"])
def test_plain_networks_are_timms(name):
    ours = getattr(images, name)(unit=None)
    theirs = timm.create_model({"resnet50": "resnetv2_50"}.get(name, name))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert measure.parameters(ours) == measure.parameters(theirs)
    assert measure.multiply_adds(ours, PICTURE) == measure.multiply_adds(theirs, PICTURE)


def test_three_units_among_23_blocks_stand_where_they_were_published():
    def places(units):
        options = {"layers": [1, 1, 23, 1], "channels": [8, 8, 8, 8]}
        return list(glore.units_of(images.backbone("resnet101", {"res4": units}, options=options)))

    assert places(3) == [f"layer3.{block}_glore" for block in (5, 11, 17)]
    assert places((0, 22)) == ["layer3.0_glore", "layer3.22_glore"]


def test_stages_may_span_containers():
    net = images.mobilenetv2({"res4": 7})
    paths = list(glore.units_of(net))
    assert {path.split(".")[1] for path in paths} == {"3", "4"}
    assert len(paths) == 7


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "regnety_002", "efficientnet_b0", "tf_efficientnet_lite0"]
)
def test_other_networks(name):
    net = images.backbone(name, {"res3": 1, "res4": 2}, classes=3).eval()
    assert len(glore.units_of(net)) == 3
    assert net(torch.randn(1, 3, 64, 64)).shape == (1, 3)


def test_units_by_path_and_other_units():
    net = images.backbone("resnet18", {"layer2": 2}, SqueezeExcite2d, options={"output_stride": 16})
    assert list(glore.units_of(net)) == ["layer2.0_squeezeexcite", "layer2.1_squeezeexcite"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet5"}, "name='resnet5' is no network of timm; near it are"),
        ({"units": {"res3": 3}}, r"units=\{'res3': 3\}: units=3 is more than there are places: at most 2"),
        ({"units": {"res3": (2,)}}, "2 is no index of its 2 blocks: give whole numbers from 0 to 1"),
        ({"units": {"res7": 1}}, "no res7; this network has res2, res3, res4, res5"),
        ({"name": "vit_tiny_patch16_224", "units": {"res3": 1}}, "the stages of this VisionTransformer are not known"),
        ({"name": "swin_tiny_patch4_window7_224"}, "the stages of this SwinTransformer are not known"),
        ({"units": {"layer2": 1, "res3": 1}}, "layer2 is named twice, by its path and by res3"),
        ({"units": {"res3": (0,), "layer2": 1}}, "layer2 is named twice, by its path and by res3"),
        ({"name": "resnet18.nope"}, "name='resnet18.nope', pretrained=False: "),
        ({"options": {"checkpoint_path": "w.pth"}}, "checkpoint_path is refused: give weights as pretrained"),
        ({"units": None, "unit": partial(SqueezeExcite2d, reduction=2)}, "unit=SqueezeExcite2d is given, but no place"),
        ({"units": {"layer9": 1}}, "where='layer9' is no module"),
        ({"pretrained": "nowhere.pth"}, "pretrained='nowhere.pth' is no file"),
    ],
)
def test_what_cannot_be_had_is_named(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        images.backbone(**{"name": "resnet18", "units": {"res3": 1}, **options})


@pytest.mark.parametrize("kind", ["safetensors", "pth", "wrapped", "order", "other head", "order, other head"])
def test_weights_from_a_file(tmp_path, kind):
    source = timm.create_model("resnet18", num_classes=7 if "other head" in kind else 4).eval()
    weights = source.state_dict()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(weights, path)
    elif kind == "wrapped":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}, path)
    elif "order" in kind:
        values = [tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")]
        torch.save({f"tensor{i}": tensor for i, tensor in enumerate(values)}, path)
    else:
        torch.save(weights, path)
    net = images.backbone("resnet18", {"res3": 1}, classes=4, pretrained=str(path)).eval()
    x = torch.randn(1, 3, 64, 64)
    if "other head" in kind:
        torch.testing.assert_close(net.forward_features(x), source.forward_features(x))
    else:
        torch.testing.assert_close(net(x), source(x))


@pytest.mark.parametrize("kind", ["truncated", "other network", "pickle"])
def test_weights_that_do_not_fit_are_named(tmp_path, kind):
    path = tmp_path / "w.pth"
    torch.save(timm.create_model("resnet34" if kind == "other network" else "resnet18").state_dict(), path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    if kind == "pickle":
        torch.save(timm.create_model("resnet18"), path)
    message = (
        "does not fit ResNet: .* is unknown" if kind == "other network" else "is damaged, or holds more than tensors"
    )
    with pytest.raises(ValueError, match=message):
        images.backbone("resnet18", pretrained=str(path))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("1", "must be a number of units, or indices of blocks"),
        (None, "must be a number of units, or indices of blocks"),
        ((0.5,), r"0\.5 is no index of its 2 blocks"),
    ],
)
def test_places_of_a_wrong_type_are_named(wanted, message):
    with pytest.raises(ValueError, match=message):
        images.backbone("resnet18", {"res3": wanted})


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "resnet18"])
def test_a_fresh_classifier_on_trained_weights_starts_small(tmp_path, name):
    save_file(timm.create_model(name).state_dict(), tmp_path / "w.safetensors")
    net = images.backbone(name, unit=None, classes=3, pretrained=str(tmp_path / "w.safetensors"))
    classifier = net.get_classifier()
    assert classifier.weight.shape[0] == 3
    assert classifier.weight.std() < 1.5 / classifier.weight.shape[1] ** 0.5
    kept = images.backbone(name, unit=None, pretrained=str(tmp_path / "w.safetensors"))
    assert torch.equal(
        kept.get_classifier().weight, load_file(tmp_path / "w.safetensors")[f"{kept.default_cfg['classifier']}.weight"]
    )


def test_weights_that_cannot_be_downloaded_are_named(monkeypatch):
    def offline(*arguments, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        ValueError, match=r"could not be downloaded \(Name or service not known\); give the path of a file"
    ):
        images.backbone("resnet18", pretrained=True)


def test_timms_weights_have_to_fit_whatever_the_classes(tmp_path, monkeypatch):
    """Of other classes than the weights', timm itself would let layers be missing."""
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "w.safetensors")
    make, overlay = timm.create_model, {"file": str(tmp_path / "w.safetensors")}
    monkeypatch.setattr(timm, "create_model", lambda *a, **told: make(*a, **told, pretrained_cfg_overlay=overlay))
    net = images.backbone("resnet18", unit=None, classes=3, pretrained=True)
    assert torch.equal(net.conv1.weight, load_file(tmp_path / "w.safetensors")["conv1.weight"])
    assert net.get_classifier().weight.shape[0] == 3
    assert net.fresh_classifier
    assert not images.backbone("resnet18", unit=None, pretrained=True).fresh_classifier
    with pytest.raises(ValueError, match=r"name='resnet18', pretrained=True: .*layer3\.2"):
        images.backbone("resnet18", unit=None, classes=3, pretrained=True, options={"layers": (2, 2, 3, 2)})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"num_classes": 3}, "give classes itself"),
        ("resnet18", {"stem_chs": 8}, r"options=\{'stem_chs': 8\} \(.*'stem_chs'\): give this network's own, or none"),
        ("hf-hub:timm/resnet18.a1_in1k", {}, "give the network's own name, and the path of its weights as pretrained"),
    ],
)
def test_options_that_a_network_does_not_take_are_told(name, options, message):
    with pytest.raises(ValueError, match=message):
        images.backbone(name, options=options)


def test_weights_that_are_no_state_dict_are_named(tmp_path):
    torch.save({"epoch": 3, "weights": {"a": torch.zeros(1)}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"is no state dict, but has epoch, weights"):
        images.backbone("resnet18", pretrained=str(tmp_path / "w.pth"))


def test_the_classifier_of_any_network_may_have_other_classes(tmp_path):
    save_file(small_classifier(10).state_dict(), tmp_path / "w.safetensors")
    net, same = (small_classifier(k, pretrained=str(tmp_path / "w.safetensors")) for k in (3, 10))
    assert torch.equal(net.backbone.stem.weight, same.backbone.stem.weight)
    assert pretrained.classifiers(net) == ["head"]
    assert pretrained.classifiers(images.resnet50(unit=None)) == ["head.fc"]
    assert pretrained.classifiers(timm.create_model("test_vit")) == ["head"]


@pytest.mark.slow
def test_stages_are_told_at_the_size_that_a_network_is_made_for():
    net = images.backbone("inception_v4", unit=None)
    assert {"res3", "res4", "res5"} <= images.places(net, torch.zeros(1, 3, 299, 299)).keys()


def test_a_stage_is_a_power_of_two():
    net = images.backbone("resnet18", unit=None)
    blocks = {
        net.get_submodule(f"{container}.{index}"): stage
        for stage, where in images.places(net, PICTURE).items()
        for container, index in where
    }
    with probe.recorded(blocks) as calls:
        net(torch.zeros(1, 3, 128, 128))
    strides = {blocks[call.module]: 128 // call.output.shape[-1] for call in calls}
    assert strides == {f"res{k}": 2**k for k in range(2, 6)}


@pytest.mark.parametrize(("name", "before"), [("repvit_m0_9", None), ("convformer_s18", "head.fc.fc1.weight")])
def test_a_classifier_for_other_classes_is_all_that_is_drawn_anew(name, before, tmp_path):
    weights = timm.create_model(name).state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    made = images.backbone(name, classes=7, pretrained=str(tmp_path / "w.safetensors"))
    assert made.state_dict().keys() == images.backbone(name, classes=7).state_dict().keys()
    assert before is None or torch.equal(made.state_dict()[before], weights[before])


def test_networks_whose_blocks_have_plain_paths_have_stages():
    assert list(glore.units_of(images.backbone("poolformer_s12", {"res3": 1}))) == ["stages.1.blocks.0_glore"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dla34", "legacy_xception"])
def test_blocks_in_the_network_itself_make_no_stages(name):
    with pytest.raises(ValueError, match=r"the stages of this .* are not known"):
        images.backbone(name, {"res3": 1})


def test_old_names_of_timms_have_the_statistics_of_their_weights():
    assert images.pretrained_statistics(images.backbone, "tf_efficientnetv2_s_in21ft1k")["mean"] == [0.5, 0.5, 0.5]
