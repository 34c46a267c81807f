"""What the units of a network look at in some samples: pictures, and one page to explore them in a browser."""

from __future__ import annotations

import base64
import html
import importlib.resources
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glore.data.broken import BrokenSampleError
from glore.show import figures, pictures
from glore.show.maps import UnitMaps, unit_maps
from glore.train.run import Run
from glore.weights import files

PAGE = "maps.html"
MIXING = "mixing.png"
FINEST = 1600  # positions of a map on the page, for each frame; a larger one is pooled


@dataclass(frozen=True)
class Look:
    """What a network's units look at in one sample.

    Args:
        name: of the sample, for a reader.
        stem: of files about it.
        sample: as the network takes it, (c, h, w), or (c, t, h, w) of a clip.
        units: as `glore.show.maps.unit_maps` gives them.
    """

    name: str
    stem: str
    sample: Tensor
    units: list[UnitMaps]


def looks(this: Run, count: int, units: Sequence[str]) -> tuple[list[Look], list[str]]:
    """Look at samples from all over the test split of a run, whose weights are loaded.

    Args:
        this: the run.
        count: how many samples, at most.
        units: paths of the units to look at; all if there are none.

    Returns:
        The samples, and what is wrong with those that cannot be read.

    Raises:
        ValueError: the network has no GloRe unit, or none of such a path, or takes neither pictures nor clips.
    """
    with this.data.unlabelled():
        return _looks(this, count, units)


def _looks(this: Run, count: int, units: Sequence[str]) -> tuple[list[Look], list[str]]:
    dataset = this.data.split("test")
    found: list[Look] = []
    faults: list[str] = []
    for index in this.data.chosen("test", count):
        try:
            sample, _ = this.data.item("test", index)
        except BrokenSampleError as error:
            faults.append(str(error))
            continue
        if sample.dim() < 3:
            raise ValueError(f"a sample of shape {tuple(sample.shape)} is neither a picture nor a clip")
        seen = unit_maps(this.task.net, this.task.seen(sample[None]))
        known = [unit.path for unit in seen]
        if strange := [path for path in units if path not in known]:
            raise ValueError(f"--unit {strange[0]}: the network's units are {', '.join(known)}")
        name, stem = f"sample {index}", f"{index:06d}"
        if hasattr(dataset, "name"):
            name = str(dataset.name(index))
            stem = Path(name).stem
        if hasattr(dataset, "seconds"):
            begin, end = dataset.seconds(index)
            name, stem = f"{name}, {begin:.1f} to {end:.1f} s", f"{stem}_{begin:.1f}s"
        found.append(Look(name, stem, sample, [unit for unit in seen if unit.path in (units or known)]))
    return found, faults


def grids(looks: Iterable[Look], folder: Path, nodes: int = 4, replace: bool = True) -> Iterator[Path]:
    """Write a picture for each sample, a row a unit: the sample, then maps of the nodes that matter most.

    Args:
        looks: the samples.
        folder: where to; a file has its sample's name, and a number where two are the same.
        nodes: how many maps a row has; four, as in the paper's figure, by default.
        replace: whether other files there may be replaced, as those of earlier maps may.

    Returns:
        The path of each picture as it is written, which is when it is asked for: a PNG, or of a clip an animated GIF.

    Raises:
        ValueError: it, or what else is written there, would take the place of a sample, or of another file.
    """
    named: dict[str, Look] = {}
    for i, look in enumerate(looks):
        taken = (*named, Path(MIXING).stem)
        stem = f"{look.stem}_{i}" if look.stem in taken else look.stem
        while stem in taken:  # another sample's own name
            stem += "_"
        named[stem] = look
    samples = {Path(look.name).resolve() for look in named.values()}
    for name in (PAGE, MIXING, *(f"{stem}{suffix}" for stem in named for suffix in (".png", ".gif"))):
        path = folder / name
        if path.resolve() in samples or (path.exists() and not replace):
            raise ValueError(f"{path} would be replaced by maps: give another folder (--to)")
    return (
        pictures.save(pictures.grid([_row(look, unit, nodes) for unit in look.units]), folder / stem)
        for stem, look in named.items()
    )


def _row(look: Look, unit: UnitMaps, nodes: int) -> list[tuple[np.ndarray, str]]:
    first = (pictures.picture(look.sample), unit.path)
    ranked = unit.ranked[:nodes]
    maps = ((pictures.overlay(look.sample, unit.projection[k], unit.extent), unit.label(k)) for k in ranked)
    return [first, *maps]


def mixing(units: list[UnitMaps], folder: Path) -> Path:
    """Write I − A of each graph layer of each unit as heat maps into one picture, and return its path."""
    path = folder / MIXING
    files.write(path, figures.heats({unit.path: unit.mixing for unit in units}))
    return path


def page(looks: list[Look], folder: Path, title: str) -> Path:
    """Write a page on which unit, node and position are chosen by clicks, and which needs nothing but a browser.

    Args:
        looks: the samples, all of one network.
        folder: where to.
        title: what the page says below its head.

    Returns:
        Its path.
    """
    data = {
        "units": [{"path": unit.path, "mixing": _packed(unit.mixing)} for unit in looks[0].units],
        "samples": [
            {
                "name": look.name,
                "frames": [pictures.data_url(pictures.strip(frame[None])) for frame in pictures.picture(look.sample)],
                "units": [_seen(unit) for unit in look.units],
            }
            for look in looks
        ],
    }
    text = (importlib.resources.files("glore.show") / "viewer.html").read_text(encoding="utf-8")
    text = text.replace("@title@", html.escape(title)).replace("@data@", json.dumps(data).replace("</", r"<\/"))
    path = folder / PAGE
    files.write(path, text)
    return path


def _seen(unit: UnitMaps) -> dict[str, Any]:
    maps = unit.projection if unit.projection.dim() == 4 else unit.projection[:, None]  # (n, t, h, w)
    _, t, h, w = maps.shape
    factor = math.ceil(math.sqrt(h * w / FINEST))
    if factor > 1:
        maps = F.adaptive_avg_pool3d(maps.float(), (t, -(-h // factor), -(-w // factor)))
    return {
        "shape": list(maps.shape),
        "extent": unit.extent[-2:],
        "projection": _packed(maps),
        "energy": unit.energy.tolist(),
    }


def _packed(values: Tensor) -> dict[str, Any]:
    """Values as 16-bit whole numbers in base64, and what to multiply them by."""
    scale = float(values.abs().max().clamp_min(1e-30)) / 32767
    whole = (values.double() / scale).round().to(torch.int16).contiguous().numpy().astype("<i2")
    return {"scale": scale, "values": base64.b64encode(whole.tobytes()).decode()}
