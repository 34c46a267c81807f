"""The four scores of Cityscapes against the official evaluation, on made trees with the real file names."""

import importlib
import math

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision")
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from glore.data.cityscapes import LABELS, Cityscapes
from glore.data.scenes import Scenes
from glore.train.cityscapes import CityscapesSegment

IDS = [label.id for label in LABELS]


@pytest.fixture(scope="module")
def official():
    pytest.importorskip("cityscapesscripts")
    patch = pytest.MonkeyPatch()
    patch.setattr(np, "in1d", np.isin, raising=False)  # numpy took it away
    module = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    module.args.quiet, module.args.JSONOutput = True, False
    yield module
    patch.undo()


def made(folder, number, labels, instances, split="val"):
    """Write a picture and its labels under their official names; return the path of the labels."""
    stem = f"ulm_{number:06d}_000019"
    for room, kind, values in (
        ("leftImg8bit", "leftImg8bit", np.zeros((*labels.shape, 3), np.uint8)),
        ("gtFine", "gtFine_labelIds", labels.astype(np.uint8)),
        ("gtFine", "gtFine_instanceIds", instances.astype(np.uint16)),
    ):
        path = folder / room / split / "ulm" / f"{stem}_{kind}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
    return path.with_name(f"{stem}_gtFine_labelIds.png")


def scores(folder, predictions):
    data = Cityscapes("test", str(folder))
    task = CityscapesSegment(torch.nn.Identity())
    counts = [
        task.counts(F.one_hot(torch.from_numpy(told)[None], len(LABELS)).movedim(-1, 1).float(), data[i][1][None])
        for i, told in enumerate(predictions)
    ]
    values = task.scores(torch.cat(counts).sum(0))
    return dict(zip(task.names(data.classes), map(float, values), strict=True))


def expected(official, folder, truths, predictions):
    paths = []
    for i, told in enumerate(predictions):
        paths.append(folder / f"told{i}.png")
        Image.fromarray(np.array(IDS, np.uint8)[told]).save(paths[-1])
    found = official.evaluateImgLists(list(map(str, paths)), list(map(str, truths)), official.args)
    return {
        **{f"iou_{label.name}": found["classScores"][label.name] for label in LABELS},
        "miou": found["averageScoreClasses"],
        "iiou": found["averageScoreInstClasses"],
        "iou_category": found["averageScoreCategories"],
        "iiou_category": found["averageScoreInstCategories"],
        **{f"iiou_{label.name}": found["classInstScores"][label.name] for label in LABELS if label.instance},
        **{f"iou_category_{name}": score for name, score in found["categoryScores"].items() if name != "void"},
        **{f"iiou_category_{name}": found["categoryInstScores"][name] for name in ("human", "vehicle")},
    }


def agree(official, folder, labels, instances, predictions):
    truths = [made(folder, i, *pair) for i, pair in enumerate(zip(labels, instances, strict=True))]
    ours, theirs = scores(folder, predictions), expected(official, folder, truths, predictions)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert math.isclose(ours[name], theirs[name], rel_tol=1e-9) or (
            math.isnan(ours[name]) and math.isnan(theirs[name])
        )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 3),
    kinds=st.integers(1, 34),
    instanced=st.floats(0, 1),
    right=st.floats(0, 1),
)
def test_random_scenes(official, tmp_path_factory, seed, count, kinds, instanced, right):
    draw = np.random.default_rng(seed)
    labels, instances, predictions = [], [], []
    for _ in range(count):
        occurring = draw.choice(34, kinds, replace=False)
        ids = draw.choice(occurring, (12, 20))
        thing = (ids >= 24) & (draw.random(ids.shape) < instanced)
        instances.append(np.where(thing, 1000 * ids + draw.integers(0, 4, ids.shape), ids))
        labels.append(ids)
        true = np.array([IDS.index(i) if i in IDS else 0 for i in range(34)])[ids]
        predictions.append(np.where(draw.random(ids.shape) < right, true, draw.integers(0, 19, ids.shape)))
    agree(official, tmp_path_factory.mktemp("scenes"), labels, instances, predictions)


SKY = np.full((4, 6), 23)
CAR = np.full((4, 6), 26)
ADVERSARIAL = {
    "all ignored": (np.zeros((4, 6), int), np.zeros((4, 6), int), np.full((4, 6), 3)),
    "one class, right": (SKY, SKY, np.full((4, 6), 10)),
    "one class, wrong": (SKY, SKY, np.full((4, 6), 13)),
    "cars nobody told apart": (CAR, CAR, np.full((4, 6), 13)),
    "instances of one pixel": (CAR, 26000 + np.arange(24).reshape(4, 6), np.arange(24).reshape(4, 6) % 2 * 13),
    "caravans, which count for nothing": (np.full((4, 6), 29), np.full((4, 6), 29000), np.full((4, 6), 13)),
    "another class of the category": (CAR, np.full((4, 6), 26003), np.full((4, 6), 14)),
    "instances where labels are ignored": (np.zeros((4, 6), int), np.full((4, 6), 24000), np.full((4, 6), 11)),
    "instances of another class than the labels": (CAR, np.full((4, 6), 24007), np.full((4, 6), 11)),
}


@pytest.mark.parametrize("case", ADVERSARIAL)
def test_adversarial_scenes(official, tmp_path, case):
    labels, instances, told = ADVERSARIAL[case]
    agree(official, tmp_path, [labels], [instances], [told])


def test_the_table_is_the_official_one():
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    theirs = {label.trainId: label for label in labels if not label.ignoreInEval}
    for k, own in enumerate(LABELS):
        label = theirs.pop(k)
        assert (own.name, own.id, own.category, own.colour) == (label.name, label.id, label.category, label.color)
        assert bool(own.instance) == label.hasInstances
    assert not theirs


def test_training_takes_classes_without_instances(tmp_path):
    path = made(tmp_path, 0, CAR, np.full((4, 6), 26001), "train")
    data = Cityscapes("train", str(tmp_path))
    assert (data.labels(path) == 13).all()
    assert 13 in data[0][1].unique().tolist()
    assert Cityscapes("train", str(tmp_path), Scenes((2, 3)))[0][1].shape == (2, 3)


def test_an_item_is_read_from_its_instances_too(tmp_path):
    mask = made(tmp_path, 0, np.full((2, 2), 7), np.full((2, 2), 7))
    picture = tmp_path / "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png"
    instances = mask.with_name("ulm_000000_000019_gtFine_instanceIds.png")
    assert Cityscapes("val", str(tmp_path)).files(0) == [picture, mask, instances]


def test_missing_labels_and_strange_ids_are_named(tmp_path):
    path = made(tmp_path, 7, np.full((4, 6), 40), CAR)
    with pytest.raises(ValueError, match=r"ulm_000007_000019_gtFine_labelIds\.png has a pixel of value 40"):
        Cityscapes("val", str(tmp_path))[0]
    instances = path.with_name(path.name.replace("labelIds", "instanceIds"))
    made(tmp_path, 7, CAR, np.full((4, 6), 34000))
    with pytest.raises(ValueError, match=r"_gtFine_instanceIds\.png has a pixel of value 34000, whose class is none"):
        Cityscapes("val", str(tmp_path))[0]
    Image.fromarray(np.zeros((3, 6), np.uint16)).save(instances)
    with pytest.raises(ValueError, match=r"_gtFine_instanceIds\.png is 6×3 pixels, but ulm_\S*_labelIds\.png 6×4"):
        Cityscapes("val", str(tmp_path))[0]
    instances.unlink()
    with pytest.raises(FileNotFoundError, match=r"leftImg8bit\.png has no mask .*_gtFine_instanceIds\.png"):
        Cityscapes("val", str(tmp_path)).check_files()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"leftImg8bit\.png has no mask .*_gtFine_labelIds\.png"):
        Cityscapes("val", str(tmp_path)).check_files()
    with pytest.raises(FileNotFoundError, match="no folder leftImg8bit/train"):
        Cityscapes("train", str(tmp_path))


def test_scores_of_instances_are_no_whole_numbers(tmp_path):
    made(tmp_path, 0, CAR, 26000 + np.arange(24).reshape(4, 6))
    task = CityscapesSegment(torch.nn.Identity())
    _, labels = Cityscapes("test", str(tmp_path))[0]
    counts = task.counts(torch.randn(1, 19, 4, 6), labels[None])
    assert counts.dtype == torch.float64
    assert not torch.equal(counts, counts.round())


def test_other_classes_are_refused():
    names = [label.name for label in LABELS]
    task = CityscapesSegment(torch.nn.Identity())
    task.check_classes(names)
    for classes, strange in {("road", "a"): "a", tuple(names[::-1]): "19 in another order", ("sky",): "1 in"}.items():
        with pytest.raises(ValueError, match=rf"the 19 classes of Cityscapes, but .* \({strange}.*\): give"):
            task.check_classes(list(classes))
