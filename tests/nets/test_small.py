"""Small networks: shapes, where the units go, and that a plain one and one with units start alike."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import glore
from glore.nets.small import SmallResNet, small_classifier, small_segmenter

BUILDERS = pytest.mark.parametrize("build", [small_segmenter, small_classifier])


@settings(max_examples=15, deadline=None)
@given(
    classes=st.integers(1, 5),
    channels=st.integers(1, 4),
    widths=st.lists(st.integers(1, 8), min_size=1, max_size=3),
    data=st.data(),
)
def test_any_sizes(classes, channels, widths, data):
    depths = [data.draw(st.integers(1, 3)) for _ in widths]
    strides = [data.draw(st.integers(1, 2)) for _ in range(len(widths) + 1)]
    sizes = {"channels": channels, "widths": widths, "depths": depths, "strides": strides}
    x = torch.zeros(2, channels, 16, 32)
    assert small_segmenter(classes, **sizes)(x).shape == (2, classes, 16, 32)
    assert small_classifier(classes, **sizes)(x).shape == (2, classes)


@BUILDERS
def test_units_go_behind_the_blocks_and_change_nothing_at_first(build):
    sizes = {"channels": 3, "widths": [4, 8], "depths": [2, 3], "strides": [1, 1, 2]}
    torch.manual_seed(0)
    plain = build(5, **sizes).eval()
    torch.manual_seed(0)
    net = build(5, **sizes, units={"res2": [0], "res3": 2}, unit=glore.GloRe2d).eval()
    names = ["backbone.res2.0_glore", "backbone.res3.0_glore", "backbone.res3.1_glore"]
    assert list(glore.units_of(net)) == names
    weights = net.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in plain.state_dict().items())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(plain(x), net(x))


@BUILDERS
def test_units_are_glore_where_there_are_places(build):
    assert not glore.units_of(build(2))
    assert not glore.units_of(build(2, units={"res3": 1}, unit=None))
    assert [type(unit) for unit in glore.units_of(build(2, units={"res3": 1})).values()] == [glore.GloRe2d]


@BUILDERS
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": {"res9": 1}}, "res9"),
        ({"units": {"res2": 99}}, "99"),
        ({"unit": glore.units.NonLocal2d}, "unit=NonLocal2d is given, but no place"),
        ({"widths": [4]}, r"widths=\[4\]"),
    ],
)
def test_what_does_not_fit_is_named(build, options, message):
    with pytest.raises((ValueError, KeyError, AttributeError), match=message):
        build(3, **options)


def test_blocks_are_pre_activation():
    net = SmallResNet(3, [8], [2], [1, 1]).eval()
    block = net.res2[1]
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 8, 5, 5)
    assert torch.equal(block(x), x)  # nothing stands between the shortcut and the sum


def test_units_join_a_trained_network(tmp_path):
    pytest.importorskip("timm")
    trained = small_classifier(10).eval()
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    net = small_classifier(10, units={"res3": 1}, unit=glore.GloRe2d, pretrained=str(tmp_path / "w.safetensors")).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(x), trained(x))
    with pytest.raises(ValueError, match="does not fit"):
        small_classifier(10, channels=1, pretrained=str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match="give the path of a file"):
        small_classifier(10, pretrained=True)
