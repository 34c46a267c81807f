"""What a unit costs in a head on a picture of Cityscapes' size: a table of docs/results.md.

One picture of 1024×2048 through FCN on ResNet-50 at stride 8 in evaluation mode, float32. Times are medians of forwards
that the networks take in turns, and of the unit within them; the peak of memory is that of a process of its own.
"""

from __future__ import annotations

import platform
from datetime import date
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import page
from glore import measure
from glore.weights import files

SIZE = (1024, 2048)


def fcn(unit: str, **sizes: Any) -> files.Constructor:
    unit_of = {"class_path": f"glore.{unit}", "init_args": sizes}
    return {"class_path": "glore.nets.heads.FCN", "init_args": {"unit": unit_of}}


HEADS: dict[str, files.Constructor] = {
    "plain": {"class_path": "glore.nets.heads.FCN", "init_args": {}},
    "GloRe, n = 64, s = 128": fcn("GloRe2d", nodes=64, states=128),
    "non-local, softmax": fcn("units.NonLocal2d"),
    "non-local, dot product": fcn("units.NonLocal2d", form="dot_product"),
    "PSP": {"class_path": "glore.nets.heads.PSP", "init_args": {}},
}


def network(head: files.Constructor) -> files.Constructor:
    arguments = {"name": "resnetv2_50", "classes": 19, "head": head, "auxiliary": False}
    return {"class_path": "glore.nets.segmenter.segmenter", "init_args": arguments}


def timed(module: nn.Module, seconds: list[float]) -> None:
    module.register_forward_pre_hook(lambda *call: seconds.append(-measure.now()))

    def end(*call: object) -> None:
        seconds[-1] += measure.now()

    module.register_forward_hook(end)


def main(rounds: int = 3) -> None:
    peaks = {}
    for name, head in HEADS.items():
        peaks[name] = measure.peaks_mib(network(head), (1, 3, *SIZE))["forward"] / 1024
        print(f"{name}: {peaks[name]:.2f} GiB", flush=True)
    nets: dict[str, Any] = {name: files.construct(network(head), trust=True).eval() for name, head in HEADS.items()}
    units: dict[str, list[float]] = {name: [] for name in HEADS}
    for name, net in nets.items():
        timed(getattr(net.head, "context", nn.Identity()), units[name])
    x = torch.randn(1, 3, *SIZE)

    def forward(net: nn.Module) -> Tensor:
        with torch.no_grad():
            told: Tensor = net(x)
        return told

    whole = measure.medians_ms({name: partial(forward, net) for name, net in nets.items()}, 1e9, rounds)
    features = torch.zeros(1, 2048, SIZE[0] // 8, SIZE[1] // 8)
    lines = [
        f"Measured on {platform.processor() or platform.machine()} ({torch.get_num_threads()} threads), torch "
        f"{torch.__version__}, {date.today()}, by `make bench-segmentation`: one picture of {SIZE[0]}×{SIZE[1]} "
        "through a dilated ResNet-50 at stride 8 and a head of 512 channels, float32, evaluation mode. Medians of "
        f"{rounds} forwards in turns. The unit's own time is measured within them, and given as a share of the plain "
        "network's. The peak is what a forward adds to the memory of a process that holds network and picture.",
        "",
        "| head | forward, s | unit alone, ms | share of the plain network | peak, GiB | head's multiply-adds, 10⁹ |",
        "|---|---|---|---|---|---|",
    ]
    for name, net in nets.items():
        cells = ["", ""]
        if len(getattr(net.head, "context", ())):
            own = 1000 * median(units[name][1:])  # without the first forward, as the others' times
            cells = [f"{own:.0f}", f"{100 * own / whole['plain']:.1f} %"]
        counted = measure.multiply_adds(net.head, features) / 1e9
        cells = [name, f"{whole[name] / 1000:.2f}", *cells, f"{peaks[name]:.2f}", f"{counted:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    page.put("segmentation", "\n".join(lines))


if __name__ == "__main__":
    main()
