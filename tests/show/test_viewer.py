"""What nodes look at, as pictures and as a page that answers to clicks."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import browser
from glore import GloRe2d, GloRe3d
from glore.show import maps, viewer
from oracle import live


def looks(kind=GloRe2d, space=(24, 36), layers=2, count=2):
    conv = nn.Conv2d if kind is GloRe2d else nn.Conv3d
    net = nn.Sequential(conv(3, 8, 3, stride=2, padding=1), live(kind(8, nodes=5, graph_layers=layers)), live(kind(8)))
    samples = [torch.randn(3, *space) for _ in range(count)]
    return [viewer.Look(f"some/{i}.jpg", f"{i}", x, maps.unit_maps(net, x[None])) for i, x in enumerate(samples)]


def test_a_picture_has_a_row_a_unit(tmp_path):
    seen = looks()
    paths = list(viewer.grids([*seen, seen[0]], tmp_path, nodes=3))
    assert [path.name for path in paths] == ["0.png", "1.png", "0_2.png"]
    with Image.open(paths[0]) as one:
        assert one.width > 4 * 160
        assert 2 * 100 < one.height < 3 * 160
    few = list(viewer.grids(seen, tmp_path, nodes=1))
    with Image.open(few[0]) as one:
        assert one.width < 3 * 190


def test_a_sample_is_not_replaced_by_its_maps(tmp_path):
    (look,) = looks(count=1)
    with pytest.raises(ValueError, match=r"0\.png would be replaced by maps"):
        next(viewer.grids([replace(look, name=str(tmp_path / "0.png"))], tmp_path))


def test_no_other_file_is_replaced_by_maps(tmp_path):
    (look,) = looks(count=1)
    (path,) = viewer.grids([replace(look, stem="mixing")], tmp_path)
    assert path.name == "mixing_0.png"
    for name in (viewer.MIXING, viewer.PAGE, "0.png"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(ValueError, match=f"{name} would be replaced by maps"):
            viewer.grids([look], folder, replace=False)


def test_a_clip_moves(tmp_path):
    (path,) = viewer.grids(looks(GloRe3d, (6, 16, 20), count=1), tmp_path)
    assert path.suffix == ".gif"
    with Image.open(path) as clip:
        assert clip.n_frames == 6


def test_mixing_is_a_picture(tmp_path):
    path = viewer.mixing(looks()[0].units, tmp_path)
    with Image.open(path) as image:
        assert np.asarray(image.convert("L")).std() > 10


@pytest.mark.parametrize("limit", [viewer.FINEST, 20])
def test_packed_maps_are_the_maps(limit, monkeypatch):
    monkeypatch.setattr(viewer, "FINEST", limit)
    unit = looks()[0].units[0]
    seen = viewer._seen(unit)
    n, t, h, w = seen["shape"]
    assert (n, t) == (5, 1)
    assert h * w <= limit
    if limit > 20:
        assert (h, w) == (12, 18)
        whole = np.frombuffer(base64.b64decode(seen["projection"]["values"]), "<i2").reshape(n, h, w)
        back = torch.from_numpy(whole * seen["projection"]["scale"]).float()
        torch.testing.assert_close(back, unit.projection, rtol=0, atol=float(unit.projection.abs().max()) / 60000)


def shot(page):
    picture = Image.open(io.BytesIO(page.locator("#view").screenshot()))
    return np.asarray(picture.convert("RGB")).astype(float)


@pytest.mark.unchecked
@browser.needed
def test_the_page_answers_to_clicks(tmp_path):
    seen = looks()
    path = viewer.page(seen, tmp_path, "a <b> & c")
    with browser.opened(path) as page:
        assert page.locator("p.soft").first.inner_text() == "a <b> & c"
        told = page.locator("#told")
        best = seen[0].units[0].ranked[0]
        page.wait_for_function("document.getElementById('told').textContent")
        assert told.inner_text().startswith(f"Node {best}:")
        node_map = shot(page)

        box = page.locator("#view").bounding_box()
        page.mouse.click(box["x"] + box["width"] * 3.5 / 18, box["y"] + box["height"] * 1.5 / 12)
        page.wait_for_function("document.getElementById('told').textContent.startsWith('Reach')")
        assert "row 2 of 12, column 4 of 18" in told.inner_text()
        assert "linear part" in told.inner_text()
        reach = torch.tensor(list(page.evaluate("Array.from(reach([0, 1, 3]))"))).view(12, 18)
        expected = seen[0].units[0].reach((1, 3))
        torch.testing.assert_close(reach, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
        assert np.abs(shot(page) - node_map).mean() > 1, "the picture did not change"

        page.locator("#view").press("ArrowDown")
        page.wait_for_function("document.getElementById('told').textContent.includes('row 3 of 12')")
        page.locator("#nodes button").nth(1).click()
        page.wait_for_function("document.getElementById('told').textContent.startsWith('Node')")
        assert told.inner_text().startswith(f"Node {seen[0].units[0].ranked[1]}:")

        page.locator("#unit").select_option(label="2")
        page.locator("#samples button").nth(1).click()
        page.wait_for_function("state.sample === 1 && state.unit === 1")
        page.wait_for_function(
            f"document.getElementById('told').textContent.startsWith('Node {seen[1].units[1].ranked[0]}:')"
        )


@pytest.mark.unchecked
@browser.needed
def test_cells_beyond_a_sample_are_not_seen(tmp_path):
    (look,) = looks(count=1)
    filled = [replace(unit, extent=(24 / 20, 36 / 30)) for unit in look.units]
    path = viewer.page([replace(look, sample=look.sample[:, :20, :30], units=filled)], tmp_path, "filled")
    with browser.opened(path) as page:
        page.wait_for_function("document.getElementById('told').textContent")
        box = page.locator("#view").bounding_box()
        page.mouse.click(box["x"] + box["width"] * 3.5 / 15, box["y"] + box["height"] * 9.5 / 10)
        page.wait_for_function("document.getElementById('told').textContent.includes('row 10 of 12, column 4 of 18')")
        page.locator("#view").press("ArrowDown")
        page.locator("#view").press("ArrowRight")
        page.wait_for_function("document.getElementById('told').textContent.includes('row 10 of 12, column 5 of 18')")


@pytest.mark.unchecked
@browser.needed
def test_the_page_of_a_clip_has_a_clock(tmp_path):
    seen = looks(GloRe3d, (6, 16, 20), layers=1, count=1)
    with browser.opened(viewer.page(seen, tmp_path, "clip"), width=390) as page:
        page.wait_for_function("document.getElementById('told').textContent")
        first = shot(page)
        page.locator("#time").fill("5")
        page.wait_for_function("state.frame === 5")
        page.locator("#view").click(position={"x": 5, "y": 5})
        page.wait_for_function("document.getElementById('told').textContent.startsWith('Reach')")
        assert "step 3 of 3" in page.locator("#told").inner_text()
        assert np.abs(shot(page) - first).mean() > 1
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, "the page is wider than a telephone"
