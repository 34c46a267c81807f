"""The page: whole, self-contained, and true to the results."""

import io
import re
from html.parser import HTMLParser
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")
import browser
from glore.show import figures, report, tables
from glore.train import compare
from glore.train.grid import Grid
from glore.train.recipe import Comparison
from glore.train.tree import put


class Page(HTMLParser):
    """Open and close tags match; what the page refers to is kept."""

    def __init__(self, text):
        super().__init__()
        self.open, self.refers, self.ids, self.text = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.refers += [attributes[name] for name in ("src", "href", "xlink:href") if name in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    tree = {
        "model": {
            "class_path": "glore.train.segment.Segment",
            "init_args": {
                "net": {
                    "class_path": "glore.nets.small.small_segmenter",
                    "init_args": {"classes": 3, "widths": [4, 8], "depths": [1, 1], "units": {"res3": 1}},
                }
            },
        },
        "data": {
            "dataset": {"class_path": "glore.data.odd_digits.OddDigits", "init_args": {"scenes": 32}},
            "batch_size": 16,
        },
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
        "compare": {
            "note": "a < b & c",
            "seeds": [0, 1],
            "published": {"glore": 0.918},
            "variants": {"plain": {"model.net.unit": None}, "glore": {}},
        },
    }
    out = tmp_path_factory.mktemp("page")
    grid = Grid.of(tree, out)
    list(compare.run(grid))
    report.summary(grid)
    return report.page(grid)


def test_the_page_is_whole_and_needs_nothing_else(page):
    text = page.read_text()
    parsed = Page(text)
    assert not parsed.open
    assert parsed.refers
    assert all(address.startswith(("data:", "#")) for address in parsed.refers)
    assert len(parsed.ids) == len(set(parsed.ids)), "two figures share an id"
    assert not re.search(r"@import|url\((?!#|data:)", text)
    assert "prefers-color-scheme: dark" in text
    assert "$" not in "".join(parsed.text), "a placeholder was left"


def test_the_page_says_what_the_files_say(page):
    text = " ".join("".join(Page(page.read_text()).text).split())
    assert "glore − plain = " in text
    assert "a < b & c" in text
    for word in ("plain", "glore", "miou", "truth", "node", "I − A"):
        assert word in text
    scores = [line.split(",") for line in (page.parent / "results.csv").read_text().splitlines()[1:]]
    plain = [100 * float(line[5]) for line in scores if line[0] == "plain"]
    assert f"{sum(plain) / 2:.1f} ± " in text
    assert "published" in text
    assert "91.8" in text


@browser.needed
def test_the_page_opens_in_a_browser(page):
    with browser.opened(page, 1280) as shown:
        for width in (1280, 390):
            shown.set_viewport_size({"width": width, "height": 800})
            picture = Image.open(io.BytesIO(shown.screenshot()))
            assert np.asarray(picture.convert("L")).std() > 10, "the page is blank"


def test_a_sample_without_a_score_leaves_the_table_whole(tmp_path):
    row = {"variant": "a", "miou": float("nan"), "parameters": 1, "multiply_adds": 1, "step_ms": 1.0}
    rows = [{**row, "seed": seed} for seed in (0, 1)]
    grid = Grid(Comparison(metric="miou"), [], tmp_path)
    assert "nan ± nan" in tables.aligned(report._summary(grid, rows))
    assert "<svg" in figures.cost({"a": (1, [float("nan")] * 2, 1)}, "miou", {"a": "grey"})


@pytest.fixture
def classification(tree):
    arguments = {"classes": 4, "widths": [8], "depths": [1], "strides": [2, 1]}
    net = {"class_path": "glore.nets.small.small_classifier", "init_args": arguments}
    tree["model"] = {"class_path": "glore.train.classify.Classify", "init_args": {"net": net}}
    tree["data"]["dataset"] = {"class_path": "made.Blobs"}
    units = {"model.net.units": {"res2": 1}, "model.net.unit": "glore.GloRe2d"}
    tree["compare"] = {"variants": {"plain": {}, "glore": units}, "seeds": [0]}
    put(tree, "epochs", 1)
    return tree


def test_pictures_with_a_class_have_what_each_variant_says_below(tmp_path, classification):
    grid = Grid.of(classification, tmp_path)
    assert not list(compare.run(grid))
    page = Page(report.page(grid).read_text())
    said = [text for text in page.text if text.startswith("truth: ")]
    assert len(said) == report.SCENES
    assert sum(text.startswith("glore: ") for text in page.text) == report.SCENES
    with pytest.MonkeyPatch.context() as patch:  # results may be kept without their data, and without weights
        patch.setattr("glore.train.data.Data.item", Mock(side_effect=FileNotFoundError))
        assert "truth: " not in report.page(grid).read_text()
    for weights in tmp_path.glob("*/seed*/last.safetensors"):
        weights.unlink()
    assert "truth: " not in report.page(grid).read_text()


def test_sequences_have_a_page_without_pictures(tmp_path, tree):
    tree["model"] = {
        "class_path": "glore.train.classify.Classify",
        "init_args": {"net": {"class_path": "made.sequence_classifier", "init_args": {"width": 8}}},
    }
    tree["data"]["dataset"] = "made.Waves"
    tree["compare"] |= {"metric": "top1", "variants": {"plain": {}, r"lr $\lr$": {"model.net.width": 16}}, "seeds": [0]}
    grid = Grid.of(tree, tmp_path)
    assert not list(compare.run(grid))
    assert r"lr $\lr$ − plain" in report.summary(grid)
    assert "<img" not in report.page(grid).read_text()
