"""The odd digit out: real digits, fixed scenes, and a label that only the whole scene gives."""

import pytest
import torch

from glore.data.odd_digits import SIDE, OddDigits

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def scenes():
    return OddDigits("test", scenes=64)


def test_items(scenes):
    assert len(scenes) == 64
    picture, labels = scenes[5]
    assert picture.shape == (1, SIDE, SIDE)
    assert picture.dtype == torch.float32
    assert labels.shape == (SIDE, SIDE)
    assert labels.dtype == torch.int64
    assert 0 <= picture.min() < picture.max() <= 1


def test_every_scene_has_all_three_labels_where_there_is_ink(scenes):
    for picture, labels in (scenes[i] for i in range(len(scenes))):
        assert set(labels.unique().tolist()) == {0, 1, 2}
        assert torch.equal(labels > 0, picture[0] > 0)
        assert 4 * (labels == 2).sum() < 3 * (labels == 1).sum()  # one against four or more


def test_the_odd_digit_is_one_connected_place(scenes):
    for _, labels in (scenes[i] for i in range(len(scenes))):
        rows, columns = (labels == 2).nonzero().T
        assert rows.max() - rows.min() < 8
        assert columns.max() - columns.min() < 8


def test_scenes_follow_from_split_and_seed():
    first, again = OddDigits("train", scenes=4), OddDigits("train", scenes=4)
    assert torch.equal(first.pictures, again.pictures)
    others = (OddDigits("train", scenes=4, seed=1), OddDigits("val", scenes=4), OddDigits("test", scenes=4))
    for other in others:
        assert not torch.equal(first.pictures, other.pictures)


@pytest.mark.parametrize(("split", "low", "high"), [("train", 0, 1300), ("val", 0, 1300), ("test", 1300, 1797)])
def test_test_scenes_have_digits_that_no_other_scene_has(split, low, high):
    from sklearn.datasets import load_digits

    digits = torch.from_numpy(load_digits().images).to(torch.uint8)
    scenes = OddDigits(split, scenes=1)
    picture, labels = scenes.pictures[0], scenes.labels[0]
    rows, columns = (labels == 2).nonzero().T
    crops = [
        picture[top : top + 8, left : left + 8]
        for top in range(int(rows.max()) - 7, int(rows.min()) + 1)
        for left in range(int(columns.max()) - 7, int(columns.min()) + 1)
    ]
    found = {i for crop in crops for i in range(len(digits)) if torch.equal(crop, digits[i])}
    assert found
    assert low <= min(found) <= max(found) < high


@pytest.mark.parametrize(("options", "message"), [({"scenes": 0}, "scenes=0"), ({"split": "valid"}, "split='valid'")])
@pytest.mark.unchecked
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        OddDigits(**options)
