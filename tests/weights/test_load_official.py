"""The published 3-D networks from their checkpoints: their logits, and what is no such checkpoint."""

import functools
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import glore
from glore.units.glore import GloRe
from glore.weights import load_official
from oracle import direct, relative

GOLDEN = Path(__file__).parents[1] / "golden"
PLACES = {50: (0, 2, 4), 101: (5, 11, 17)}  # of Res4


def noise(name, count):
    """Numbers in −0.5 … 0.5 that follow from a name."""
    with np.errstate(over="ignore"):
        z = np.arange(count, dtype=np.uint64) + (np.uint64(zlib.crc32(name.encode())) << np.uint64(32))
        z += np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5


def tensor(key, shape):
    if key.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.long)
    v = noise(key, int(np.prod(shape)))
    small = 0.02 if "conv_proj" in key or "conv_state" in key else 1
    if key.endswith("running_var"):
        v = 1 + 0.4 * v
    elif key.endswith("running_mean"):
        v = 0.2 * v
    elif len(shape) >= 2:
        v = v * 2 * np.sqrt(3 / np.prod(shape[1:])) * small
    elif key.endswith("bias"):
        v = 0.2 * v * small
    else:
        v = (1 + 0.2 * v) * (0.2 if "blocker" in key else 1)
    return torch.from_numpy(v.astype(np.float32).reshape(shape))


def golden(depth):
    return json.loads((GOLDEN / f"video_resnet{depth}.json").read_text())


@functools.cache
def checkpoint(depth):
    return {key: tensor(key, shape) for key, shape in golden(depth)["state_dict"]}


@pytest.fixture(scope="module")
def small():
    """A checkpoint of the smallest network with published keys: a block a stage, and a unit."""
    keep = ("conv1", "conv2.B01", "conv3.B01", "conv4.B01.", "conv5.B01", "tail", "classifier")
    return {key: value for key, value in checkpoint(50).items() if key.startswith(keep)}


@pytest.mark.parametrize("depth", [50, 101])
def test_equals_the_published_network(depth):
    published = golden(depth)
    net = load_official(checkpoint(depth))
    assert not net.training
    assert sum(p.numel() for p in net.parameters()) == sum(
        int(np.prod(shape))
        for key, shape in published["state_dict"]
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    assert list(glore.units_of(net)) == [
        *("res3.0_glore", "res3.2_glore"), *(f"res4.{index}_glore" for index in PLACES[depth])
    ]  # fmt: skip
    shape = published["input_shape"]
    clip = torch.from_numpy((noise("clip", int(np.prod(shape))) * 3.4).astype(np.float32).reshape(shape))
    with torch.no_grad():
        assert relative(net(clip)[0], torch.tensor(published["logits"])) < 1e-4


@pytest.mark.parametrize(
    ("depth", "clip"),
    [(50, (2, 3, 4, 64, 80)), pytest.param(101, (1, 3, 11, 49, 33), marks=pytest.mark.slow)],
)
def test_other_clips_equal_the_direct_order(depth, clip):
    net = load_official(checkpoint(depth))
    x = torch.randn(clip)
    with torch.no_grad():
        ours = net(x)
        for path, unit in glore.units_of(net).items():
            assert isinstance(unit, GloRe)
            assert not unit.normalize
            net.set_submodule(path, direct(unit))
        assert relative(ours, net(x)) < 1e-4


def test_from_files_of_several_kinds(small, tmp_path):
    x = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        expected = load_official(small)(x)
        wrapped = {"state_dict": {f"module.{key}": value for key, value in small.items()}, "epoch": 7}
        torch.save(wrapped, tmp_path / "net.pth")
        assert torch.equal(load_official(tmp_path / "net.pth")(x), expected)
        save_file(small, tmp_path / "net.safetensors")
        assert torch.equal(load_official(str(tmp_path / "net.safetensors"))(x), expected)


class Evil:
    def __reduce__(self):
        return print, ("ran",)


def test_what_is_no_checkpoint_is_named(small, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth' is no file"):
        load_official(tmp_path / "nowhere.pth")
    torch.save({"state_dict": small, "extra": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth' is damaged, or holds more than tensors"):
        load_official(tmp_path / "evil.pth")
    assert capsys.readouterr().out == ""
    (tmp_path / "cut.pth").write_bytes((tmp_path / "evil.pth").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut\.pth' is damaged"):
        load_official(tmp_path / "cut.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"has none"):
        load_official(tmp_path / "list.pth")
    with pytest.raises(
        ValueError, match=r"no checkpoint of a published 3-D network, with keys such as .* has layer1\.x"
    ):
        load_official({"layer1.x": torch.zeros(1)})
    with pytest.raises(ValueError, match="is no state dict"):
        load_official({"state_dict": {"a": 1}})


def test_what_does_not_fit_is_named(small):
    weights = {key: value for key, value in small.items() if "conv_proj" not in key}
    with pytest.raises(ValueError, match=r"the published unit 'conv3\.B01_extra\.' lacks conv_proj\.weight"):
        load_official(weights)
    weights = dict(small)
    weights["conv2.B01.conv_m9.conv.weight"] = weights.pop("conv2.B01.conv_m2.conv.weight")
    with pytest.raises(
        ValueError, match=r"res2\.0\.convs\.1\.2\.weight is missing; res2\.0\.conv_m9\.2\.weight is unknown"
    ):
        load_official(weights)
    weights = {**small, "conv3.B01.conv_m2.conv.weight": torch.zeros(128, 128, 3, 3, 3)}
    with pytest.raises(
        ValueError, match=r"res3\.0\.convs\.1\.2\.weight is \(128, 128, 3, 3, 3\), not \(128, 128, 1, 3, 3\)"
    ):
        load_official(weights)
