"""Plots: SVG whose ink follows the colour of the page around them, and PNG."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

INK = "#010203"  # stands for the page's text colour in a figure, and becomes `currentColor`
COLOURS = ("#4c9be8", "#e8913c", "#43b581", "#e05a6d", "#a78bdb", "#c9a227", "#3fb8c4", "#d779b5", "#8f9bb3", "#a0784f")
PLAIN = "#8a8f98"
STYLE: Any = {  # matplotlib annotates its settings with every key there is
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor", "grid.color"), INK
    ),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), "none"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 11,
    "legend.frameon": False,
}
LEGEND: Any = {"loc": "outside upper left", "ncols": 4, "columnspacing": 1.2, "handletextpad": 0.5, "handlelength": 1.2}


def colours(variants: Sequence[str], baseline: str) -> dict[str, str]:
    """A colour for each variant; grey for the baseline."""
    rest = [name for name in variants if name != baseline]
    return {baseline: PLAIN, **{name: COLOURS[i % len(COLOURS)] for i, name in enumerate(rest)}}


def curves(series: Mapping[str, Sequence[Sequence[tuple[float, float]]]], label: str, colour: Mapping[str, str]) -> str:
    """Lines of (epoch, value), one for each seed of each variant, as SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.9), layout="constrained")
        axes = figure.subplots()
        for name, seeds in series.items():
            for i, points in enumerate(seeds):
                x, y = zip(*points, strict=True)
                axes.plot(x, y, color=colour[name], label=name if i == 0 else None, marker="o", markersize=3, alpha=0.9)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if any(series.values()):  # a short training may have no validation
            figure.legend(**LEGEND)
        return _svg(figure)


def cost(points: Mapping[str, tuple[float, Sequence[float], float]], label: str, colour: Mapping[str, str]) -> str:
    """A circle for each variant at (multiply-adds, mean of scores), its area its parameters, as SVG.

    A line spans the standard deviation of the scores, which are of several seeds.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.9), layout="constrained")
        axes = figure.subplots()
        most = max(parameters for _, _, parameters in points.values())
        for name, (multiply_adds, scores, parameters) in points.items():
            x, y, area = multiply_adds / 1e6, statistics.mean(scores), 900 * parameters / most
            axes.scatter(x, y, s=area, color=colour[name], alpha=0.75, linewidth=0, label=name)
            if len(scores) > 1:
                axes.errorbar(x, y, np.std(scores, ddof=1), color=colour[name], capsize=3)
        axes.set(xlabel="million multiply-adds a sample", ylabel=label)
        axes.margins(0.15, 0.2)
        legend = figure.legend(**LEGEND)
        for handle in legend.legend_handles:
            handle.set_sizes([60])  # type: ignore[union-attr]
        return _svg(figure)


def heat(matrix: Tensor, label: str) -> str:
    """A square matrix as a heat map around zero, as SVG."""
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(4.2, 3.6), layout="constrained")
        _heat(figure, figure.subplots(), matrix, label)
        return _svg(figure)


def heats(stacks: Mapping[str, Sequence[Tensor] | Tensor]) -> bytes:
    """Rows of square matrices as heat maps, each row under its name, as PNG."""
    columns = max(map(len, stacks.values()))
    with matplotlib.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(4.2 * columns, 3.6 * len(stacks)), layout="constrained")
        axes = figure.subplots(len(stacks), columns, squeeze=False)
        for row, (name, matrices) in zip(axes, stacks.items(), strict=True):
            for i, cell in enumerate(row):
                if i < len(matrices):
                    _heat(figure, cell, matrices[i], f"{name}, layer {i + 1}")
                else:
                    cell.axis("off")
        return _png(figure)


def _heat(figure: Figure, axes: Any, matrix: Tensor, label: str) -> None:
    limit = float(matrix.abs().max()) or 1.0
    image = axes.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.9)
    axes.set(xlabel="from node", ylabel="to node", title=label)


def confusion(counts: Tensor, classes: Sequence[str]) -> bytes:
    """How often each class (row) was taken for each (column), as shares of the row, as PNG."""
    shares = counts.double() / counts.sum(1, keepdim=True).clamp_min(1)
    side = min(16.0, 3.5 + 0.32 * len(classes))
    with matplotlib.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
        axes.set(xlabel="predicted class", ylabel="true class")
        if len(classes) <= 40:
            axes.set_xticks(range(len(classes)), classes, rotation=90)
            axes.set_yticks(range(len(classes)), classes)
        if len(classes) <= 12:
            for row, column in itertools.product(range(len(classes)), repeat=2):
                share = float(shares[row, column])
                ink = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=ink, fontsize=9)
        return _png(figure)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "glore"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg[svg.index("<svg") :], count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img"', svg, count=1)
    own = hashlib.sha256(svg.encode()).hexdigest()[:8]  # ids of two figures on one page must differ
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{own}-", svg).replace(INK, "currentColor")
