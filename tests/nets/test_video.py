"""3-D networks: any clip, units of any kind at their places, and 2-D weights taken over."""

from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import glore
from glore import units
from glore.nets.video import inflate, resnet18_3d, resnet50_3d, resnet101_3d


@pytest.mark.parametrize("build", [resnet18_3d, resnet50_3d])
@pytest.mark.parametrize("clip", [(1, 33, 47), (8, 32, 32), (5, 64, 40)])
def test_any_clip(build, clip):
    net = build(7, {"res3": 1, "res4": 2}, glore.GloRe3d, width=4)
    logits = net(torch.randn(2, 3, *clip))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("unit", [units.NonLocal3d, units.DoubleAttention3d, units.GlobalContext3d, units.Bottleneck3d])
def test_a_fresh_unit_changes_nothing(unit):
    torch.manual_seed(0)
    plain = resnet18_3d(3, width=8).eval()
    torch.manual_seed(0)
    net = resnet18_3d(3, {"res3": 1}, unit, width=8).eval()
    weights = net.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in plain.state_dict().items())
    x = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(plain(x), net(x))


def test_the_published_places():
    net = resnet101_3d(3, {"res3": 2, "res4": 3}, glore.GloRe3d, width=4)
    assert list(glore.units_of(net)) == [f"{at}_glore" for at in ("res3.0", "res3.2", "res4.5", "res4.11", "res4.17")]


def test_the_sizes_of_the_stages():
    sizes = {}
    net = resnet50_3d(3, width=8)
    for name, module in net.named_children():
        module.register_forward_hook(lambda _, inputs, output, name=name: sizes.update({name: tuple(output.shape[1:])}))
    net(torch.zeros(1, 3, 8, 64, 96))
    assert sizes["stem"] == (32, 8, 16, 24)
    assert [sizes[f"res{k}"] for k in range(2, 6)] == [(32, 8, 16, 24), (64, 4, 8, 12), (128, 4, 4, 6), (256, 4, 2, 3)]


def test_weights_from_a_file_with_and_without_units(tmp_path):
    pytest.importorskip("timm")
    plain = resnet18_3d(5, width=4)
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    places = ({"res4": 1}, partial(glore.GloRe3d, nodes=2, states=4))
    net = resnet18_3d(9, *places, width=4, pretrained=str(tmp_path / "plain.safetensors"))
    taken = net.state_dict()
    assert all(torch.equal(v, taken[k]) for k, v in plain.state_dict().items() if not k.startswith("classifier"))
    nn.init.normal_(net.res4[1].norm.weight)
    save_file(net.state_dict(), tmp_path / "units.safetensors")
    again = resnet18_3d(9, *places, width=4, pretrained=str(tmp_path / "units.safetensors"))
    copied = again.state_dict()
    assert all(torch.equal(v, copied[k]) for k, v in net.state_dict().items())


def test_a_2d_networks_weights_are_taken_over():
    """A clip of equal frames gives what the picture gives, if no convolution reaches over its ends."""

    class Flat(nn.Module):
        def __init__(self, conv, norm, size):
            super().__init__()
            self.conv, self.norm = conv(3, 4, size, padding=1 if conv is nn.Conv2d else (0, 1, 1)), norm(4)

        def forward(self, x):
            return self.norm(self.conv(x))

    flat, deep = Flat(nn.Conv2d, nn.BatchNorm2d, 3).eval(), Flat(nn.Conv3d, nn.BatchNorm3d, (5, 3, 3)).eval()
    flat.norm.running_mean.normal_()
    assert set(inflate(deep, flat.state_dict())) == set(flat.state_dict())
    x = torch.randn(1, 3, 9, 9)
    torch.testing.assert_close(deep(x[:, :, None].expand(-1, -1, 5, -1, -1))[:, :, 0], flat(x))
    with pytest.raises(ValueError, match="none of the 1 weights has a key and a shape of this Flat"):
        inflate(deep, {"other": torch.zeros(3)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "classes=0"),
        ({"width": 0}, "width=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"unit": glore.GloRe3d, "units": {"res7": 1}}, "no res7; this network has res2, res3, res4, res5"),
        ({"unit": glore.GloRe3d, "units": {"res3": 3}}, r"units=\{'res3': 3\}: .*at most 2"),
        ({"unit": glore.GloRe3d, "units": {"res3": [2]}}, r"units=\{'res3': \[2\]\}: 2 is no index of its 2 blocks"),
        ({"unit": glore.units.NonLocal3d}, "unit=NonLocal3d is given, but no place"),
        ({"pretrained": True}, "pretrained=True: give the path"),
    ],
)
def test_what_cannot_be_built_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnet18_3d(**arguments)
