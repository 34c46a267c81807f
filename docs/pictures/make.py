"""Draw the pictures of how-it-works.md from a finished demo: `python docs/pictures/make.py runs/demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from glore.data.odd_digits import OddDigits
from glore.show import maps, pictures
from glore.train.predict import PALETTE
from glore.weights import files

HERE = Path(__file__).parent
SCENE = 0


def strip(name: str, tiles: list[tuple[str, object]], columns: int) -> None:
    rows = -(-len(tiles) // columns)
    figure = Figure(figsize=(1.7 * columns, 1.95 * rows), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, (title, rgb) in zip(figure.axes, tiles, strict=False):
        axes.imshow(rgb, interpolation="nearest")
        axes.set_title(title, fontsize=10)
    figure.savefig(HERE / name, dpi=110)


def main(run: Path) -> None:
    (seed,) = (folder.name for folder in (run / "glore").iterdir())
    sample, target = OddDigits("test")[SCENE]
    tiles = [("input", pictures.picture(sample)[0]), ("truth", pictures.mask(target, PALETTE)[0])]
    for variant in ("plain", "se", "non-local", "glore"):
        with torch.no_grad():
            labels = files.load(run / variant / seed / "last")(sample[None])[0].argmax(0)
        tiles.append((variant, pictures.mask(labels, PALETTE)[0]))
    strip("predictions.png", tiles, columns=6)

    (unit,) = maps.unit_maps(files.load(run / "glore" / seed / "last"), sample[None])
    tiles = [("input", pictures.picture(sample)[0])]
    for node in unit.ranked[:5]:
        (shown,) = pictures.overlay(sample, unit.projection[node], unit.extent)
        tiles.append((f"node {node}: {100 * float(unit.energy[node]):.0f} %", shown))
    strip("nodes.png", tiles, columns=6)

    figure = Figure(figsize=(4.2, 3.4), layout="constrained")
    axes = figure.subplots()
    mixing = unit.mixing[0]
    limit = float(mixing.abs().max())
    image = axes.imshow(mixing.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.colorbar(image, ax=axes)
    axes.set(xlabel="from node", ylabel="to node", title="I − A")
    figure.savefig(HERE / "adjacency.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
