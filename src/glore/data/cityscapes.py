"""Cityscapes: street scenes of fifty cities, with finely drawn labels of nineteen classes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from glore.data.labels import IGNORED, INSTANCE, MOST
from glore.data.masks import Colour, read_mask
from glore.data.scenes import Scenes
from glore.data.segments import Segments, folder_of

ALL = 34  # labels, those that count for nothing included


class Label(NamedTuple):
    """A class that counts."""

    name: str
    id: int  # in the files
    category: str
    colour: Colour
    instance: float = 0.0  # mean size of its instances, in pixels; 0 for a class without instances


# Source: cityscapesscripts, helpers/labels.py and the mean sizes of evaluation/evalPixelLevelSemanticLabeling.py
LABELS = (
    Label("road", 7, "flat", (128, 64, 128)),
    Label("sidewalk", 8, "flat", (244, 35, 232)),
    Label("building", 11, "construction", (70, 70, 70)),
    Label("wall", 12, "construction", (102, 102, 156)),
    Label("fence", 13, "construction", (190, 153, 153)),
    Label("pole", 17, "object", (153, 153, 153)),
    Label("traffic light", 19, "object", (250, 170, 30)),
    Label("traffic sign", 20, "object", (220, 220, 0)),
    Label("vegetation", 21, "nature", (107, 142, 35)),
    Label("terrain", 22, "nature", (152, 251, 152)),
    Label("sky", 23, "sky", (70, 130, 180)),
    Label("person", 24, "human", (220, 20, 60), 3462.4756337644),
    Label("rider", 25, "human", (255, 0, 0), 3930.4788056518),
    Label("car", 26, "vehicle", (0, 0, 142), 12794.0202738185),
    Label("truck", 27, "vehicle", (0, 0, 70), 27855.1264367816),
    Label("bus", 28, "vehicle", (0, 60, 100), 35732.1511111111),
    Label("train", 31, "vehicle", (0, 80, 100), 67583.7075812274),
    Label("motorcycle", 32, "vehicle", (0, 0, 230), 6298.7200839748),
    Label("bicycle", 33, "vehicle", (119, 11, 32), 4672.3249222261),
)


class Cityscapes(Segments):
    """Cityscapes in its official folders, `root/leftImg8bit/train/<city>/…` and `root/gtFine/train/<city>/…`.

    The test split is `val`: the labels of the official one are not public. For a submission, predict pictures of
    `leftImg8bit/test` by their paths.

    Shapes:
        As `Segments`. In validation and testing, a label tells the instance to which the pixel belongs, too
        (`glore.data.labels`).

    Args:
        split: `"train"`, `"val"` or `"test"`.
        root: the folder.
        preset: makes the transforms; `Scenes()` by default.

    Raises:
        FileNotFoundError: a folder is not there or empty.

    Source: Cordts et al., "The Cityscapes Dataset", CVPR 2016 (arXiv 1604.01685).
    """

    PALETTE = tuple(label.colour for label in LABELS)
    IDS = tuple(label.id for label in LABELS)

    def __init__(self, split: str, root: str, preset: Scenes | None = None) -> None:
        pictures, _ = folder_of("val" if split == "test" else split, root, "leftImg8bit/{split}")
        found = sorted(pictures.glob("*/[!.]*_leftImg8bit.png"))
        if not found:
            raise FileNotFoundError(f"{pictures} has no pictures <city>/<city>_000000_000000_leftImg8bit.png")
        fine = Path(root, "gtFine", pictures.name)
        names = [(path.parent.name, path.name.replace("leftImg8bit", "gtFine_labelIds")) for path in found]
        samples = [(path, fine.joinpath(*name)) for path, name in zip(found, names, strict=True)]
        self.instances = split != "train"
        table = {**dict.fromkeys(range(ALL), IGNORED), **{label.id: k for k, label in enumerate(LABELS)}}
        super().__init__(samples, [label.name for label in LABELS], preset, split == "train", table)

    def files(self, index: int) -> list[Path]:
        picture, *masks = super().files(index)
        return [picture, *masks, *(_instances(mask) for mask in masks if self.instances)]

    def labels(self, mask: Path) -> np.ndarray:
        labels = super().labels(mask)
        if not self.instances:
            return labels
        values = read_mask(path := _instances(mask))
        if values.shape != labels.shape:
            raise ValueError(
                f"{path} is {values.shape[1]}×{values.shape[0]} pixels, but {mask.name} "
                f"{labels.shape[1]}×{labels.shape[0]}: take both from gtFine as they are"
            )
        if values.max(initial=0) >= ALL * MOST:
            raise ValueError(
                f"{path} has a pixel of value {values.max()}, whose class is none of 0 … {ALL - 1}: it is a class, "
                f"or {MOST} times one plus a number"
            )
        classes = self.table[values // MOST]  # of the instance, 0 … where there is none
        instance = np.where((values > MOST) & (classes != IGNORED), (classes + 1) * MOST + values % MOST, 0)
        return labels + INSTANCE * instance


def _instances(mask: Path) -> Path:
    """The mask of instances that belongs to one of labels."""
    return mask.with_name(mask.name.replace("labelIds", "instanceIds"))
