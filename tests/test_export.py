"""Exported networks say what the network says at other sizes; what cannot be exported is told, and leaves no file."""

import json
from functools import partial
from itertools import count

import pytest
import torch
from torch import nn

import glore
from glore.export import to_onnx, to_program
from glore.fold import folded
from glore.nets import small, video
from glore.units import DoubleAttention3d, NonLocal2d
from oracle import live

pytestmark = pytest.mark.unchecked
RES3 = {"res3": 1}
SIZES = {1: (16, 9), 2: (16, 5, 6), 3: (16, 3, 4, 5)}


class Every(nn.Sequential):
    """A unit of each kind, one behind the other: exporting one by one takes most of its time for starting."""

    def __init__(self, axes):
        names = ("GloRe", "NonLocal", "DoubleAttention", "SqueezeExcite", "GlobalContext", "Bottleneck")
        kinds = {name: getattr(glore.units, f"{name}{axes}d") for name in names}
        kinds["dot"] = partial(kinds["NonLocal"], form="dot_product")
        super().__init__(*(kind(16) for kind in kinds.values()))


def segmenter():
    pytest.importorskip("timm")
    from glore.nets.heads import FCN
    from glore.nets.segmenter import segmenter

    options = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_chs": 8}
    return segmenter("resnetv2_18", 3, partial(FCN, width=8, unit=glore.GloRe2d), options=options)


def backbone():
    pytest.importorskip("timm")
    from glore.nets import images

    return images.backbone("resnet18", RES3, classes=3, options={"layers": [1, 2, 1, 1], "channels": [8, 8, 8, 8]})


tiny = {"widths": (4, 8), "depths": (1, 1), "units": RES3}
FAMILIES = {
    "classifier": (lambda: small.small_classifier(3, strides=(1, 1, 2), unit=glore.GloRe2d, **tiny), (3, 12, 12)),
    "small segmenter": (lambda: small.small_segmenter(3, unit=NonLocal2d, **tiny), (1, 16, 12)),
    "timm": (backbone, (3, 32, 32)),
    "segmenter": (segmenter, (3, 32, 40)),
    "clips": (lambda: video.resnet18_3d(3, RES3, DoubleAttention3d, width=4), (3, 4, 32, 32)),
    **{f"units {axes}d": (partial(Every, axes), size) for axes, size in SIZES.items()},
}


@pytest.fixture(scope="module")
def onnxruntime():
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(
    "family",
    [name if name in ("segmenter", "units 2d") else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def test_onnx_files_take_any_batch_and_size(tmp_path, onnxruntime, family):
    build, size = FAMILIES[family]
    net = live(build())
    path = tmp_path / "new/net.onnx"
    assert to_onnx(folded(net, torch.randn(1, *size)), path, size, metadata={"classes": '["a"]'}) < 1e-4
    assert list(path.parent.iterdir()) == [path]
    session = onnxruntime.InferenceSession(path)
    assert session.get_modelmeta().custom_metadata_map == {"classes": '["a"]'}
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    names = {2: ["length"], 3: ["height", "width"], 4: ["frames", "height", "width"]}[len(size)]
    assert (given.name, given.shape, made.name) == ("input", ["batch", size[0], *names], "output")
    x = torch.randn(1, size[0], *(side + 1 for side in size[1:]))
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), net.eval()(x), rtol=1e-3, atol=1e-3
        )


def test_programs_take_any_batch_and_size(tmp_path):
    build, size = FAMILIES["segmenter"]
    net = live(build()).train()
    path = tmp_path / "net.pt2"
    assert to_program(net, path, size, metadata={"mean": "[0.5]"}) < 1e-4
    assert net.training
    texts = {"mean": ""}
    program = torch.export.load(path, extra_files=texts).module()
    assert json.loads(texts["mean"]) == [0.5]
    x = torch.randn(1, size[0], *(side + 1 for side in size[1:]))
    with torch.no_grad():
        torch.testing.assert_close(program(x), net.eval()(x), rtol=1e-4, atol=1e-4)


class Rigid(nn.Module):
    """Takes pictures of 8×8 only, as a layer over flat maps does."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def forward(self, x):
        return self.linear(x.flatten(1))


class Branching(nn.Module):
    """Looks at numbers to choose what to do."""

    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


class Drifting(nn.Module):
    """Says something else each time."""

    numbers = count()

    def forward(self, x):
        return x + next(self.numbers)


def test_a_fixed_size(tmp_path):
    path = tmp_path / "net.pt2"
    with pytest.raises(ValueError, match=r"this Rigid cannot be exported .*; if .* give free_size=False"):
        to_program(Rigid(), path, (1, 8, 8))
    assert not list(tmp_path.iterdir())
    assert to_program(Rigid(), path, (1, 8, 8), free_size=False) < 1e-4


def test_padding_by_the_inputs_size(tmp_path):
    same = pytest.importorskip("timm").layers.create_conv2d(3, 4, 3, stride=2, padding="same")
    net = nn.Sequential(same)
    with pytest.raises(ValueError, match=r"0 of this Sequential pads by a rule .*--fixed-size"):
        to_program(net, tmp_path / "net.pt2", (3, 64, 64))
    assert to_program(net, tmp_path / "net.pt2", (3, 64, 64), free_size=False) < 1e-4


@pytest.mark.parametrize(
    ("net", "size", "message"),
    [
        (Branching(), (1, 4, 4), r"this Branching cannot be exported \(.+\)"),
        (Drifting(), (1, 4, 4), r"on an input of \(3, 1, 4, 4\) the exported network differs from this Drifting by"),
        (nn.Identity(), (1, 1, 4), r"size=\(1, 1, 4\) must be \(channels, \*space\)"),
        (nn.Identity(), (4,), r"size=\(4,\) must be"),
    ],
)
def test_what_cannot_be_exported_leaves_the_file_that_was_there(tmp_path, net, size, message):
    path = tmp_path / "net.pt2"
    path.write_text("before")
    with pytest.raises(ValueError, match=message):
        to_program(net, path, size, free_size=False)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/net\.pt2 \("):
        to_program(nn.Identity(), tmp_path / "file/net.pt2", (1, 4, 4))


def test_a_size_that_ends_in_one_position_is_free_too(tmp_path):
    net = pytest.importorskip("timm").create_model("test_resnet", num_classes=3).to(memory_format=torch.channels_last)
    assert to_program(net, tmp_path / "net.pt2", (3, 32, 32)) < 1e-5
    assert net.conv1[3].weight.is_contiguous(memory_format=torch.channels_last), "the network was changed"
