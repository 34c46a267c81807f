"""Networks as folders: what comes back, what is refused, and what goes to the hub and comes from it."""

import json
import pickle
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

import glore
from glore import hub
from glore.hub import folders
from glore.weights import files

GLORE = {"class_path": "glore.GloRe2d"}
NETS = {  # constructor and an input
    "timm": ("nets.images.backbone", {"name": "test_resnet", "units": {"res3": 1}, "unit": GLORE, "classes": 5}, None),
    "small": (
        "nets.small.small_classifier",
        {"classes": 5, "widths": [4, 8], "depths": [1, 1], "strides": [1, 1, 2], "units": {"res3": 1}, "unit": GLORE},
        (3, 32, 32),
    ),
    "segmenter": (
        "nets.segmenter.segmenter",
        {
            "name": "test_resnet",
            "classes": 5,
            "head": {"class_path": "glore.nets.heads.FCN", "init_args": {"width": 8, "unit": GLORE}},
        },
        (3, 64, 64),
    ),
    "video": (
        "nets.video.resnet18_3d",
        {"classes": 5, "units": {"res3": 1}, "unit": {"class_path": "glore.GloRe3d"}},
        (3, 4, 32, 32),
    ),
}
CLASSES = ["Hund", "Käse", "Maus", "Tür", "Uhr"]


def saved(folder, kind="small", **options):
    builder, arguments, shape = NETS[kind]
    constructor = {"class_path": f"glore.{builder}", "init_args": arguments}
    net = files.construct(constructor).eval()
    for name, parameter in net.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.uniform_(parameter)
    example = None if shape is None else torch.rand(1, *shape)
    hub.save_pretrained(net, folder, constructor, example=example, classes=CLASSES, **options)
    return net, torch.rand(2, 3, 64, 64) if example is None else example


@pytest.fixture
def folder(tmp_path):
    saved(tmp_path / "net")
    return tmp_path / "net"


@pytest.mark.parametrize("kind", NETS)
@torch.no_grad()
def test_a_network_comes_back_and_the_cards_example_runs(tmp_path, monkeypatch, kind):
    net, x = saved(tmp_path / "net", kind)
    again = hub.from_pretrained(tmp_path / "net")
    assert not again.training
    assert torch.equal(again(x), net(x))
    assert again.classes == CLASSES
    text = (tmp_path / "net/README.md").read_text()
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert names["logits"].shape[1] == 5
    tasks = {"segmenter": "image-segmentation", "video": "video-classification"}
    assert huggingface_hub.ModelCard(text).data.pipeline_tag == tasks.get(kind, "image-classification")


def test_a_folder_has_weights_json_classes_and_a_card_alone(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "classes.txt",
        "model.json",
        "model.safetensors",
    ]


def test_paths_of_weights_stay_at_home(tmp_path):
    weights = files.construct({"class_path": "glore.nets.small.small_classifier", "init_args": {"classes": 2}})
    save_file(weights.state_dict(), tmp_path / "secret.safetensors")
    arguments = {"classes": 2, "pretrained": str(tmp_path / "secret.safetensors")}
    constructor = {"class_path": "glore.nets.small.small_classifier", "init_args": arguments}
    hub.save_pretrained(weights, tmp_path / "net", constructor, example=torch.zeros(1, 3, 8, 8))
    assert "secret" not in "".join((tmp_path / "net" / name).read_text() for name in ("model.json", "README.md"))


def test_a_constructor_of_another_network_is_refused(tmp_path):
    constructor = {"class_path": "glore.nets.small.small_classifier", "init_args": {"classes": 3}}
    net = files.construct({**constructor, "init_args": {"classes": 4}})
    with pytest.raises(
        ValueError, match=r"makes another network than this Sequential: head\.2\.weight is \(4, 64\), not"
    ):
        hub.save_pretrained(net, tmp_path / "net", constructor, example=torch.zeros(1, 3, 8, 8))
    assert not (tmp_path / "net").exists()


def test_a_network_that_tells_no_size_needs_an_example(tmp_path):
    constructor = {"class_path": "glore.nets.small.small_classifier", "init_args": {"classes": 3}}
    with pytest.raises(ValueError, match="example=None, and this Sequential does not declare its input size"):
        hub.save_pretrained(files.construct(constructor), tmp_path / "net", constructor)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds something else \(thesis\.tex\): give a new folder"):
        saved(tmp_path)
    with pytest.raises(ValueError, match="is a file: give a folder"):
        saved(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_network_published_before_is_replaced(folder):
    (folder / ".gitattributes").write_text("")
    (folder / "recipe.yaml").write_text("of another training")
    net, x = saved(folder, "timm")
    assert torch.equal(hub.from_pretrained(folder)(x), net(x))
    assert not (folder / "recipe.yaml").exists()


def test_foreign_builders_need_trust_and_the_card_says_so(tmp_path):
    linear = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3, "out_features": 2}}
    hub.save_pretrained(torch.nn.Linear(3, 2), tmp_path / "net", linear, example=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"'torch\.nn\.Linear' is not a builder of glore.*trust=True"):
        hub.from_pretrained(tmp_path / "net")
    assert isinstance(hub.from_pretrained(tmp_path / "net", trust=True), torch.nn.Linear)
    text = (tmp_path / "net/README.md").read_text()
    assert "needs code that is not glore's: `torch.nn.Linear`" in text
    assert "trust=True)" in text


def changed_json(change):
    def damage(folder):
        constructor = json.loads((folder / "model.json").read_text())
        change(constructor)
        (folder / "model.json").write_text(json.dumps(constructor))

    return damage


def changed_weights(change):
    def damage(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            changed_json(lambda c: c.update(class_path="os.system")),
            r"model\.json.*'os\.system' is not a builder of glore",
        ),
        (
            changed_json(lambda c: c["init_args"].update(unit={"class_path": "os.system"})),
            r"model\.json.*not a builder",
        ),
        (changed_json(lambda c: c["init_args"].update(clases=3)), r"model\.json makes no network: .*clases"),
        (changed_json(lambda c: c["init_args"].update(widths=[4])), r"model\.json makes no network: widths=\[4\]"),
        (changed_json(lambda c: c.pop("class_path")), r"model\.json makes no network: .*must be \{'class_path'"),
        (changed_json(lambda c: c["init_args"].pop("classes")), r"model\.json makes no network: .*'classes'"),
        (lambda f: (f / "model.json").write_text("{"), r"model\.json is not a JSON file"),
        (lambda f: (f / "model.json").write_bytes(b"\xff\xfe"), r"model\.json is not a JSON file"),
        (lambda f: (f / "model.json").unlink(), r"has no model\.json: give a folder that save_pretrained"),
        (
            lambda f: (f / "model.safetensors").write_bytes(pickle.dumps({"weight": [1]})),
            r"model\.safetensors is damaged or no safetensors file",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
            r"model\.safetensors is damaged or no safetensors file",
        ),
        (changed_weights(lambda w: w.pop("head.2.bias")), r"model\.safetensors does not fit.*head\.2\.bias is missing"),
        (changed_weights(lambda w: w.update(more=torch.zeros(1))), r"model\.safetensors does not fit.*more is unknown"),
        (
            changed_weights(lambda w: w.update({"head.2.bias": torch.zeros(9)})),
            r"model\.safetensors does not fit.*head\.2\.bias is \(9,\), not \(5,\)",
        ),
        (lambda f: (f / "classes.txt").write_bytes(b"\xff\xfe"), r"classes\.txt is no text"),
        (lambda f: [path.unlink() for path in f.iterdir()], r"has no model\.safetensors and no model\.json"),
    ],
)
@pytest.mark.unchecked
def test_what_is_damaged_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        hub.from_pretrained(folder)


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"is no folder: give one that save_pretrained wrote, or user/name"):
        hub.from_pretrained(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"revision='v1' is one of the hub, but .* is a folder here"):
        hub.from_pretrained(tmp_path, revision="v1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        OSError, match=r"name='user/net', revision='v1' is no folder here, and cannot be had from the hub"
    ):
        hub.from_pretrained("user/net", revision="v1")


def test_a_network_of_the_hub_is_downloaded_without_anything_else(folder, monkeypatch):
    asked = {}

    def snapshot_download(name, **options):
        asked.update(name=name, **options)
        return str(folder)

    monkeypatch.setattr(folders, "snapshot_download", snapshot_download)
    assert hub.from_pretrained("user/net", "v1").classes == CLASSES
    assert asked.pop("allow_patterns") == ["model.safetensors", "model.json", "classes.txt"]
    assert asked == {"name": "user/net", "revision": "v1", "library_name": "glore"}


class Hub:
    """What of HfApi is used."""

    calls: list = []  # noqa: RUF012, of all

    def __init__(self, **about):
        self.calls.append(about)

    def create_repo(self, name, *, private, exist_ok):
        if name == "other/net":
            raise huggingface_hub.errors.LocalTokenNotFoundError("Token is required\nbut no token found")
        self.calls.append({"name": name, "private": private, "exist_ok": exist_ok})

    def repo_info(self, name):
        return SimpleNamespace(private=name != "user/public")

    def upload_folder(self, **options):
        self.calls.append(options)
        return "https://huggingface.co/user/net/commit/1"


def test_a_folder_is_pushed(folder, monkeypatch):
    monkeypatch.setattr(folders, "HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [])
    assert hub.push_to_hub(folder, "user/net", private=True).endswith("commit/1")
    about, made, uploaded = Hub.calls
    assert about["library_name"] == "glore"
    assert made == {"name": "user/net", "private": True, "exist_ok": True}
    assert uploaded["folder_path"] == folder
    assert uploaded["delete_patterns"] == uploaded["allow_patterns"]
    with pytest.raises(OSError, match="it is there already, and everybody sees it"):
        hub.push_to_hub(folder, "user/public", private=True)
    assert set(uploaded["allow_patterns"]) == {path.name for path in folder.iterdir()} | {"recipe.yaml", "colours.txt"}
    with pytest.raises(
        OSError, match=r"name='other/net' cannot be pushed to the hub \(Token is required\): log in with"
    ):
        hub.push_to_hub(folder, "other/net")
    (folder / "model.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.json"):
        hub.push_to_hub(folder, "user/net")


def test_weights_start_another_network(folder):
    arguments = {**NETS["small"][1], "pretrained": str(folder / "model.safetensors")}
    net = files.construct({"class_path": "glore.nets.small.small_classifier", "init_args": arguments}, trust=True)
    assert len(glore.units_of(net)) == 1
    assert torch.equal(net.head[2].bias, load_file(folder / "model.safetensors")["head.2.bias"])
