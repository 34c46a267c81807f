"""Windows, scales and mirror images: what they cover, and when they change nothing."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from glore.nets.inference import probabilities, starts

NET = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1))


@given(length=st.integers(1, 300), window=st.integers(1, 100), overlap=st.floats(0, 0.99))
def test_windows_cover_everything(length, window, overlap):
    begins = starts(length, window, overlap)
    assert begins[0] == 0
    step = max(1, int(window * (1 - overlap)))
    gaps = [after - before for before, after in pairwise(begins)]
    assert all(0 < gap <= step for gap in gaps)
    assert length <= window or begins[-1] + window == length


def test_one_window_is_the_whole_picture():
    x = torch.randn(2, 3, 20, 30)
    whole = NET(x).softmax(1)
    assert torch.equal(probabilities(NET, x), whole)
    assert torch.equal(probabilities(NET, x, window=(20, 30)), whole)
    assert torch.equal(probabilities(NET, x, window=(64, 64)), whole)


def test_windows_of_a_local_network_say_what_the_whole_says():
    """Away from the windows' borders; a 1×1 network has none."""
    local, x = nn.Conv2d(3, 5, 1), torch.randn(1, 3, 37, 53)
    torch.testing.assert_close(probabilities(local, x, window=(16, 20), overlap=0.4), local(x).softmax(1))


@pytest.mark.parametrize("views", [{}, {"window": (9, 9)}, {"scales": (0.5,)}])
def test_a_network_that_answers_at_another_size_is_refused(views):
    coarse = nn.Sequential(nn.Conv2d(3, 5 * 16, 4, stride=4, padding=2), nn.PixelShuffle(4))
    with pytest.raises(ValueError, match=r"the network answers for \d+×\d+ positions, and the pictures have \d+×\d+"):
        probabilities(coarse, torch.randn(1, 3, 22, 30), **views)


@pytest.mark.parametrize("views", [{}, {"window": (9, 9)}, {"flip": True, "scales": (1.0, 0.5)}])
def test_gradients_go_through_all_views(views):
    x = torch.randn(1, 3, 12, 14, requires_grad=True)
    probabilities(NET, x, **views)[:, 0].sum().backward()
    assert x.grad.abs().amin() > 0


def test_overlapping_windows_are_averaged():
    x = torch.randn(1, 3, 8, 12)
    left, right = NET(x[..., :8]).softmax(1), NET(x[..., 4:]).softmax(1)
    both = probabilities(NET, x, window=(8, 8), overlap=0.5)
    torch.testing.assert_close(both[..., :4], left[..., :4])
    torch.testing.assert_close(both[..., 4:8], (left[..., 4:] + right[..., :4]) / 2)
    torch.testing.assert_close(both[..., 8:], right[..., 4:])


def test_a_mirrored_picture_is_answered_for_mirrored():
    x = torch.randn(1, 3, 9, 14)
    seen = probabilities(NET, x, flip=True)
    torch.testing.assert_close(probabilities(NET, x.flip(3), flip=True), seen.flip(3))
    torch.testing.assert_close(seen, (NET(x).softmax(1) + NET(x.flip(3)).softmax(1).flip(3)) / 2)


@pytest.mark.parametrize("scale", [0.4, 1.7])
def test_a_scaled_picture_is_answered_for_at_its_own_size(scale):
    x = torch.randn(1, 3, 33, 47)
    scaled = F.interpolate(x, [round(scale * side) for side in (33, 47)], mode="bilinear", antialias=scale < 1)
    alone = F.interpolate(NET(scaled).softmax(1), (33, 47), mode="bilinear")
    torch.testing.assert_close(probabilities(NET, x, scales=(scale,)), alone)
    both = (alone + NET(x).softmax(1)) / 2
    torch.testing.assert_close(probabilities(NET, x, scales=(scale, 1.0)), both)


def test_the_answer_has_the_pictures_size_and_sums_to_one():
    x = torch.randn(1, 3, 33, 47)
    seen = probabilities(NET, x, window=(16, 16), scales=(0.5, 1.0, 1.7), flip=True)
    assert seen.shape == (1, 5, 33, 47)
    torch.testing.assert_close(seen.sum(1), torch.ones(1, 33, 47))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": (0, 4)}, "window="),
        ({"overlap": 1.0}, "overlap=1.0"),
        ({"scales": ()}, "scales="),
        ({"scales": (0.0,)}, "scales="),
    ],
)
def test_what_is_out_of_range_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        probabilities(NET, torch.zeros(1, 3, 8, 8), **arguments)
