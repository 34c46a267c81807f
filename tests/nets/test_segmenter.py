"""Segmentation networks: any size in, logits of that size out; dilation; heads; what cannot be built."""

from functools import partial

import pytest
import torch
from torch import nn

pytest.importorskip("timm")
import timm
from safetensors.torch import save_file

import glore
from glore import units
from glore.nets.heads import FCN, PSP, DenseASPP
from glore.nets.images import backbone
from glore.nets.segmenter import Segmenter, segmenter
from oracle import live

HEADS = {
    "fcn": partial(FCN, width=16),
    "fcn, glore": partial(FCN, width=16, unit=glore.GloRe2d, units=2),
    "fcn, non-local": partial(FCN, width=16, unit=units.NonLocal2d),
    "psp": partial(PSP, width=16),
    "dense aspp": partial(DenseASPP, width=16, inner=8, growth=4),
}
SMALL = {"channels": (16, 16, 24, 32), "stem_chs": 16}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_any_size(head, output_stride):
    net = segmenter("resnetv2_18", 5, HEADS[head], output_stride, options=SMALL)
    x = torch.randn(2, 3, 71, 93)
    main, side = net.train()(x)
    assert main.shape == side.shape == (2, 5, 71, 93)
    (main.mean() + side.mean()).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert net.eval()(x[:1]).shape == (1, 5, 71, 93)


@pytest.mark.parametrize(("output_stride", "size"), [(8, 8), (16, 4), (32, 2)])
def test_the_last_map_is_that_much_smaller(output_stride, size):
    seen = []

    class Head(nn.Conv2d):
        def forward(self, x):
            seen.append(x.shape[2:])
            return super().forward(x)

    segmenter("resnet18", 3, lambda inputs, classes: Head(inputs, classes, 1), output_stride)(torch.zeros(2, 3, 64, 64))
    assert seen == [(size, size)]


@pytest.mark.parametrize("head", ["fcn, glore", "fcn, non-local"])
def test_units_of_the_head_start_as_the_identity(head):
    """A plain head and one with units give the same from the same weights."""
    with_units = HEADS[head](8, 3).eval()
    plain = FCN(8, 3, width=16).eval()
    weights = {k: v for k, v in with_units.state_dict().items() if not k.startswith("context.")}
    plain.load_state_dict(weights)
    x = torch.randn(1, 8, 9, 7)
    assert torch.equal(plain(x), with_units(x))


@torch.no_grad()
def test_the_fcn_head_is_the_published_one():
    head = live(FCN(8, 3, width=16, unit=glore.GloRe2d)).eval()
    block = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)
    before = [block(8, 16), nn.BatchNorm2d(16), nn.ReLU(), glore.GloRe2d(16)]
    written = nn.Sequential(*before, block(16, 16), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 3, 1)).eval()
    written.load_state_dict(dict(zip(written.state_dict(), head.state_dict().values(), strict=True)))
    x = torch.randn(1, 8, 9, 7)
    torch.testing.assert_close(head(x), written(x))
    assert [type(module) for module in head][-2:] == [nn.Dropout2d, nn.Conv2d]
    usual = FCN(8, 3)
    assert (usual.dropout.p, usual.classify.in_channels) == (0.1, 512)
    assert len(HEADS["fcn, glore"](8, 3).context) == 2


def test_dense_aspp_looks_as_far_as_its_dilations():
    head = DenseASPP(4, 2, width=4, inner=16, growth=16, dilations=(3, 6)).eval()
    x = torch.randn(1, 4, 41, 41, requires_grad=True)
    head(x)[0, :, 20, 20].sum().backward()
    seen = x.grad.abs().sum((0, 1)).nonzero() - 20
    assert seen.unique().tolist() == [-9, -6, -3, 0, 3, 6, 9]
    assert [branch[1][0].dilation[0] for branch in DenseASPP(8, 3, width=8).branches] == [3, 6, 12, 18, 24]


@torch.no_grad()
def test_psp_puts_means_over_grids_beside_the_map():
    head, seen, x = PSP(8, 3, width=4).eval(), [], torch.randn(1, 8, 12, 24)
    head.reduce.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    head(x)
    assert torch.equal(seen[0][:, :8], x)
    for i, (grid, cells) in enumerate(zip(head.grids, (1, 2, 3, 6), strict=True)):
        told = grid[1](nn.functional.avg_pool2d(x, (12 // cells, 24 // cells)))
        told = nn.functional.interpolate(told, (12, 24), mode="bilinear")
        torch.testing.assert_close(seen[0][:, 8 + 2 * i : 10 + 2 * i], told)


@pytest.mark.parametrize(
    "name", ["resnet18", "seresnet50", "mobilenetv2_100", "tf_efficientnet_lite0", "convnext_atto"]
)
def test_stages_keep_their_names_when_dilated(name):
    """Units stand behind the same blocks, whether the backbone is dilated or not."""
    units = {"res3": 1, "res4": 2}
    plain = backbone(name, units)
    net = segmenter(name, 3, units=units, unit=glore.GloRe2d, auxiliary=False)
    assert [f"backbone.{path}" for path in glore.units_of(plain)] == list(glore.units_of(net))


@pytest.mark.parametrize("name", ["dpn68", "densenet121"])
def test_units_go_into_backbones_that_count_their_blocks(name):
    net = segmenter(name, 3, HEADS["fcn"], output_stride=32, units={"res4": 1}, auxiliary=False)
    assert len(glore.units_of(net)) == 1
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 3, 64, 64)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_atto", "xception41", "dpn68", "densenet121"])
def test_nothing_is_kept_that_does_not_run(name):
    """Several processes that train together stop at a parameter without a gradient."""
    net = segmenter(name, 3, HEADS["fcn"], output_stride=32).train()
    sum(logits.mean() for logits in net(torch.randn(2, 3, 64, 64))).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_weights_of_a_classifier_are_taken(tmp_path):
    net = timm.create_model("resnetv2_18", **SMALL)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    options = {"options": SMALL, "pretrained": str(tmp_path / "net.safetensors")}
    made = segmenter("resnetv2_18", 3, units={"res4": 1}, unit=glore.GloRe2d, **options)
    taken = made.backbone.state_dict()
    assert all(torch.equal(value, taken[key]) for key, value in net.state_dict().items() if not key.startswith("head."))


def test_a_head_without_weights_is_known(tmp_path):
    made = partial(segmenter, "resnetv2_18", 3, HEADS["fcn"], options=SMALL)
    save_file(timm.create_model("resnetv2_18", **SMALL).state_dict(), tmp_path / "backbone.safetensors")
    first = made(pretrained=str(tmp_path / "backbone.safetensors"))
    assert first.fresh_classifier
    save_file(first.state_dict(), tmp_path / "whole.safetensors")
    assert not made(pretrained=str(tmp_path / "whole.safetensors")).fresh_classifier


@pytest.mark.parametrize("classes", [3, 5])
def test_weights_of_a_segmenter_are_taken(tmp_path, classes):
    """All of them; of a head for other classes, all but those of the classes."""
    options = {"units": {"res4": 1}, "options": SMALL}
    net = segmenter("resnetv2_18", 3, **options)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    made = segmenter("resnetv2_18", classes, pretrained=str(tmp_path / "net.safetensors"), **options).state_dict()
    differ = [key for key, value in net.state_dict().items() if not torch.equal(value, made[key])]
    assert bool(differ) == (classes == 5)
    assert all(made[key].shape[0] == 5 for key in differ)
    narrow = partial(FCN, width=64)  # which is no matter of classes
    with pytest.raises(ValueError, match=r"does not fit Segmenter: head\."):
        segmenter("resnetv2_18", classes, narrow, pretrained=str(tmp_path / "net.safetensors"), **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "densenet121"}, "name='densenet121' cannot be dilated to output_stride=8"),
        ({"name": "dpn68"}, "name='dpn68' cannot be dilated"),
        ({"name": "vgg11"}, "name='vgg11' cannot be dilated"),
        ({"name": "resnet18", "output_stride": 4}, "output_stride=4 must be 8, 16 or 32"),
        (
            {"name": "rexnet_100", "output_stride": 32, "units": {"res4": 1}, "unit": glore.GloRe2d},
            "by counting its blocks, which units among them shift",
        ),
        ({"name": "resnet18", "units": {"res9": 1}, "unit": glore.GloRe2d}, "no res9; this network has res2, res3"),
    ],
)
@pytest.mark.unchecked
def test_what_cannot_be_built_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        segmenter(classes=3, **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(FCN, units=0), "units=0 must be at least 1"),
        (partial(FCN, width=0), "width=0 must be at least 1"),
        (partial(PSP, bins=()), r"bins=\[\] must be"),
        (partial(DenseASPP, dilations=(0,)), r"dilations=\[0\] must be"),
        (partial(DenseASPP, dropout=1.0), r"dropout=1.0 must be a share in \[0, 1\)"),
    ],
)
def test_heads_refuse_what_is_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make(8, 3)


def test_logits_lie_where_their_cells_looked():
    """A picture whose sides the stride does not divide has the logits of one that is filled up."""
    net = segmenter("resnetv2_18", 3, HEADS["fcn, glore"], output_stride=16, auxiliary=False, options=SMALL).eval()
    x = torch.randn(1, 3, 67, 90)
    whole = net(nn.functional.pad(x, (0, 6, 0, 13)))
    assert torch.equal(net(x), whole[..., :67, :90])


class Pool(nn.Module):
    """A backbone whose cells are the means of what they look at."""

    def forward_intermediates(self, x, **options):
        return x, nn.functional.avg_pool2d(x, 8)


@pytest.mark.parametrize("sides", [(64, 80), (61, 75)])
def test_cells_answer_for_where_they_are(sides):
    rows = torch.arange(float(sides[0]))[None, None, :, None].expand(1, 1, *sides)
    out = Segmenter(Pool(), nn.Identity(), output_stride=8)(rows)
    inner = (..., slice(4, 52), slice(64))  # between the first and the last whole cell
    torch.testing.assert_close(out[inner], rows[inner])


@pytest.mark.parametrize(("name", "size"), [("convmixer_768_32", 70), ("shvit_s1", 128)])
def test_an_undilated_network_may_have_another_output_stride(name, size):
    net = segmenter(name, 3, HEADS["fcn"], output_stride=32, auxiliary=False).eval()
    assert net(torch.zeros(1, 3, size + 1, size)).shape == (1, 3, size + 1, size)


def test_weights_of_a_segmenter_fit_one_with_other_parts_in_its_head(tmp_path):
    plain, path = segmenter("resnetv2_18", 3, HEADS["fcn"], options=SMALL), str(tmp_path / "net.safetensors")
    save_file(plain.state_dict(), path)
    with_unit = segmenter("resnetv2_18", 3, HEADS["fcn, glore"], auxiliary=False, pretrained=path, options=SMALL).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(with_unit(x), plain.eval()(x))
    save_file(with_unit.state_dict(), path)
    again = segmenter("resnetv2_18", 3, HEADS["fcn, glore"], pretrained=path, options=SMALL).eval()
    assert torch.equal(again(x), plain(x))


def test_a_backbone_that_does_not_obey_its_output_stride_is_named(monkeypatch):
    plain = timm.create_model("resnetv2_18", **SMALL)
    monkeypatch.setattr("glore.nets.segmenter.backbone", lambda *arguments, **options: plain)
    with pytest.raises(
        ValueError, match="has a last map of 2×3 for a picture of 56×96, which is no output stride of 8"
    ):
        segmenter("resnetv2_18", 3, output_stride=8)
