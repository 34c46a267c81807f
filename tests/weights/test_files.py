"""Networks on disk: what comes back, what is refused, and what a fault leaves behind."""

import json
import os
import pickle
import resource
import signal

import pytest
import torch
from safetensors.torch import load_file

import glore
from glore.weights import files

CONSTRUCTOR = {
    "class_path": "glore.nets.small.small_segmenter",
    "init_args": {
        "classes": 3,
        "units": {"res3": [0]},
        "unit": {"class_path": "glore.GloRe2d", "init_args": {"nodes": 5, "graph_layers": 2}},
    },
}


@pytest.fixture
def saved(tmp_path):
    net = files.construct(CONSTRUCTOR).eval()
    files.save(tmp_path / "net", net.state_dict(), CONSTRUCTOR)
    return tmp_path, net


@pytest.mark.parametrize("name", ["net", "net.json", "net.safetensors"])
def test_a_network_comes_back(saved, name):
    folder, net = saved
    again = files.load(folder / name)
    assert not again.training
    x = torch.randn(2, 1, 48, 48)
    assert torch.equal(again(x), net(x))
    (unit,) = glore.units_of(again).values()
    assert (unit.n_nodes, len(unit.graph_layers)) == (5, 2)


@pytest.mark.parametrize(
    "class_path", ["os.system", "subprocess.run", "builtins.eval", "glore.weights.files.os.system", "eval"]
)
@pytest.mark.parametrize("place", ["whole", "argument", "unit"])
def test_foreign_builders_are_refused_and_not_run(saved, class_path, place, monkeypatch):
    folder, _ = saved
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    foreign = {"class_path": class_path, "init_args": {"command": "true"}}
    constructor = json.loads(json.dumps(CONSTRUCTOR))
    if place == "whole":
        constructor = foreign
    else:
        constructor["init_args"]["unit" if place == "unit" else "classes"] = foreign
    (folder / "net.json").write_text(json.dumps(constructor))
    with pytest.raises(ValueError, match=r"is not a builder of glore.*trust=True"):
        files.load(folder / "net")
    assert not ran


def test_trust_lets_foreign_builders_run(saved):
    folder, _ = saved
    linear = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3, "out_features": 2}}
    files.save(folder / "linear", torch.nn.Linear(3, 2).state_dict(), linear)
    with pytest.raises(ValueError, match=r"torch\.nn\.Linear"):
        files.load(folder / "linear")
    assert isinstance(files.load(folder / "linear", trust=True), torch.nn.Linear)


def test_every_listed_builder_exists():
    for class_path in files.BUILDERS:
        builder, _ = files._resolve({"class_path": class_path}, trust=False)
        assert callable(builder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", "must be {'class_path'"),
        ('{"class_path": 3}', "must be {'class_path'"),
        ('{"class_path": "glore.nets.small.small_segmenter", "init_args": {"classes": 3, "clases": 3}}', "clases"),
        ('{"class_path": "glore.nets.small.small_segmenter", "init_args": {"classes": 3, "widths": [4]}}', "widths"),
    ],
)
@pytest.mark.unchecked
def test_a_damaged_json_is_named(saved, text, message):
    folder, _ = saved
    (folder / "net.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        files.load(folder / "net")
    assert str(folder / "net.json") in str(error.value) or "class_path" in message


@pytest.mark.parametrize("damage", ["truncated", "empty", "pickle", "text"])
def test_damaged_weights_are_named(saved, damage):
    folder, _ = saved
    path = folder / "net.safetensors"
    content = {
        "truncated": path.read_bytes()[:-100],
        "empty": b"",
        "pickle": pickle.dumps({"weight": [1, 2, 3]}),
        "text": b"not weights at all",
    }[damage]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.safetensors is damaged or no safetensors file"):
        files.load(folder / "net")


def test_missing_files_are_named(saved):
    folder, _ = saved
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors is missing: a network is two files"):
        files.load(folder / "absent")
    (folder / "net.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"net\.json is missing"):
        files.load(folder / "net")


def test_weights_that_do_not_fit_are_named(saved):
    folder, net = saved
    weights = net.state_dict()
    weights["extra"] = torch.zeros(1)
    del weights["backbone.stem.weight"]
    weights["head.3.bias"] = torch.zeros(7)
    files.save(folder / "other", weights, CONSTRUCTOR)
    with pytest.raises(
        ValueError, match=r"stem\.weight is missing; extra is unknown; head\.3\.bias is \(7,\), not \(48,\)"
    ):
        files.load(folder / "other")


def test_a_full_disk_leaves_the_old_file(saved):
    folder, _ = saved
    before = (folder / "net.safetensors").read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*net\.safetensors .*what was there before is unharmed"):
            files.save(folder / "net", {"weight": torch.zeros(100_000)}, CONSTRUCTOR)
        with pytest.raises(OSError, match="cannot write"), files.replacing(folder / "big.ckpt") as draft:
            torch.save(torch.zeros(100_000), draft)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert (folder / "net.safetensors").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["net.json", "net.safetensors"]


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        files.save(tmp_path / "file" / "net", {"weight": torch.zeros(1)}, CONSTRUCTOR)


@pytest.mark.parametrize(
    "arguments",
    [
        {"options": {"checkpoint_path": "w.pth"}},
        {"options": {"pretrained_cfg_overlay": {"file": "w.pth"}}},
        {"options": {"norm_layer": "os.system"}},
    ],
)
def test_a_constructor_has_no_say_about_other_files(tmp_path, arguments):
    pytest.importorskip("timm")
    name = {"name": "test_resnet"}
    constructor = {"class_path": "glore.nets.images.backbone", "init_args": {**name, "pretrained": "w.pth"}}
    files.save(tmp_path / "net", files.construct(constructor).state_dict(), constructor)
    assert files.load(tmp_path / "net")
    constructor["init_args"] = {**name, **arguments}
    files.save(tmp_path / "net", {"weight": torch.zeros(1)}, constructor)
    with pytest.raises(ValueError, match="makes no network"):
        files.load(tmp_path / "net")


def test_names_may_have_dots(tmp_path):
    for rate in ("0.1", "0.2"):
        files.save(tmp_path / f"lr{rate}", {"weight": torch.full((1,), float(rate))}, CONSTRUCTOR)
    assert load_file(tmp_path / "lr0.1.safetensors")["weight"].item() == pytest.approx(0.1)
    with pytest.raises(FileNotFoundError, match=r"resume\.ckpt\.safetensors is missing"):
        files.load_weights(torch.nn.Linear(1, 1), tmp_path / "resume.ckpt")


def test_tensors_that_share_their_memory_are_saved(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    net[1].weight = net[0].weight
    files.save(tmp_path / "net", net.state_dict(), CONSTRUCTOR)
    files.load_weights(net, tmp_path / "net")


def build(layers: list, **options: int) -> torch.nn.Module:
    return torch.nn.Sequential(*layers, torch.nn.Linear(**options))


def test_arguments_may_be_lists_of_networks_and_free_ones(monkeypatch):
    monkeypatch.setattr(glore, "build", build, raising=False)
    relu = {"class_path": "torch.nn.ReLU"}
    sizes = {"in_features": 2, "out_features": 3}
    constructor = {"class_path": "glore.build", "init_args": {"layers": [relu, relu]}, "dict_kwargs": sizes}
    assert len(files.construct(constructor, trust=True)) == 3


def test_what_an_argument_makes_may_have_units_of_its_own():
    head = {"class_path": "glore.nets.heads.FCN", "init_args": {"width": 8, "unit": {"class_path": "glore.GloRe2d"}}}
    constructor = {"class_path": "glore.nets.segmenter.segmenter", "init_args": {"name": "test_resnet", "classes": 3}}
    constructor["init_args"]["head"] = head
    pytest.importorskip("timm")
    assert isinstance(files.construct(constructor).head.context[0], glore.GloRe2d)
    head["init_args"]["unit"] = {"class_path": "os.system"}
    with pytest.raises(ValueError, match=r"'os\.system' is not a builder of glore"):
        files.construct(constructor)


def test_foreign_builders_are_told_wherever_they_stand():
    constructor = json.loads(json.dumps(CONSTRUCTOR))
    assert files.foreign(constructor) == []
    constructor["init_args"]["widths"] = [{"class_path": "a.b", "init_args": {"c": {"class_path": "os.system"}}}]
    assert files.foreign(constructor) == ["a.b", "os.system"]


def test_maps_with_channels_last_are_saved_as_they_are(tmp_path):
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    files.save(tmp_path / "net", {"weight": weight}, CONSTRUCTOR)
    assert torch.equal(load_file(tmp_path / "net.safetensors")["weight"], weight)
