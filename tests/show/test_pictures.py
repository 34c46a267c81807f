"""Samples and maps as pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from glore.show import pictures


def test_a_sample_is_stretched_to_the_full_range():
    (grey,) = pictures.picture(torch.tensor([[[0.0, 2.0], [4.0, 1.0]]]))
    assert grey.shape == (2, 2, 3)
    assert grey[..., 0].tolist() == [[0, 128], [255, 64]]
    assert pictures.picture(torch.zeros(3, 4, 4)).max() == 0


def test_frames_of_a_clip_share_their_range():
    clip = torch.zeros(3, 5, 4, 6)
    clip[:, 1] = 1
    clip[:, 2] = 2
    assert pictures.picture(clip).shape == (5, 4, 6, 3)
    assert pictures.picture(clip)[:, 0, 0, 0].tolist() == [0, 128, 255, 0, 0]


def test_masks_have_the_palettes_colours():
    (mask,) = pictures.mask(torch.tensor([[0, 1], [255, 0]]), bytes([9, 9, 9, 1, 2, 3]))
    assert mask.tolist() == [[[9, 9, 9], [1, 2, 3]], [[128, 128, 128], [9, 9, 9]]]


def test_a_map_is_red_above_its_median_and_blue_below():
    weights = torch.tensor([[5.0, 1.0], [1.0, -3.0]])
    (shown,) = pictures.overlay(torch.zeros(1, 2, 2), weights, (1, 1)).astype(int)
    assert shown[0, 0, 0] > shown[0, 0, 2]
    assert shown[1, 1, 2] > shown[1, 1, 0]
    assert shown[0, 1].tolist() == [0, 0, 0]


def test_a_map_of_fewer_frames_lies_over_all_of_them():
    weights = torch.stack([k * torch.ones(2, 2) for k in (1, 0, -1)])
    shown = pictures.overlay(torch.zeros(3, 8, 6, 6), weights, (1, 1, 1)).astype(int)
    assert shown.shape == (8, 6, 6, 3)
    assert (shown[0, ..., 0] > shown[0, ..., 2]).all()
    assert (shown[7, ..., 2] > shown[7, ..., 0]).all()


def test_a_map_of_a_filled_sample_lies_where_its_cells_do():
    weights = torch.zeros(4, 4)
    weights[2, 3] = 1
    (shown,) = pictures.overlay(torch.zeros(3, 90, 100), weights, (128 / 90, 128 / 100)).astype(int)
    row, column = np.unravel_index(shown[..., 0].argmax(), (90, 100))
    assert (64 < row < 89, column) == (True, 99)  # the cell's centre is at 80, 112
    assert not shown[:48].any()
    assert not shown[:, :80].any()


@pytest.mark.parametrize("shape", [(1, 20, 30), (4, 20, 30), (3, 500, 900)])
def test_a_grid_has_a_page_for_each_frame(shape, tmp_path):
    frames = np.zeros((*shape, 3), np.uint8) + 10 * np.arange(shape[0], dtype=np.uint8)[:, None, None, None]
    pages = pictures.grid([[(frames, "input"), (frames + 90, "node 3")], [(frames, "input")]])
    assert len(pages) == shape[0]
    path = pictures.save(pages, tmp_path / "some.name")
    assert path.name == ("some.name.gif" if shape[0] > 1 else "some.name.png")
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == shape[0]
        assert image.size == pages[0].size
        wide = (image.width - 3 * pictures.GAP) // 2
        assert pictures.SMALLEST <= wide <= pictures.LONGEST
        assert list(tmp_path.iterdir()) == [path]


def test_frames_side_by_side():
    frames = np.stack([np.full((4, 6, 3), value, np.uint8) for value in (10, 20)])
    joined = np.asarray(pictures.strip(frames))
    assert joined.shape == (4, 12, 3)
    assert joined[0, 5, 0] == 10
    assert joined[0, 6, 0] == 20
