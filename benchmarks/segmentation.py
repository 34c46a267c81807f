"""What a unit costs in a head on a picture of Cityscapes' size: a table of docs/results.md.

One picture of 1024×2048 through FCN on ResNet-50 at stride 8 in evaluation mode, float32. Times are medians of forwards
that the networks take in turns, and of the unit within them; the peak of memory is that of a process of its own.
"""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

import glore
import page
from glore import measure
from glore.nets.heads import FCN, PSP
from glore.nets.segmenter import Segmenter, segmenter
from glore.units import NonLocal2d

SIZE = (1024, 2048)
HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "plain": FCN,
    "GloRe, n = 64, s = 128": partial(FCN, unit=partial(glore.GloRe2d, nodes=64, states=128)),
    "non-local, softmax": partial(FCN, unit=NonLocal2d),
    "non-local, dot product": partial(FCN, unit=partial(NonLocal2d, form="dot_product")),
    "PSP": PSP,
}


def network(name: str) -> Segmenter:
    return segmenter("resnetv2_50", 19, HEADS[name], auxiliary=False).eval()


def peak(name: str) -> None:
    """Print by how much a forward raises the most memory that this process ever had, in GiB."""
    net, x = network(name), torch.zeros(1, 3, *SIZE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        net(x)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)


def timed(module: nn.Module, seconds: list[float]) -> None:
    module.register_forward_pre_hook(lambda *call: seconds.append(-measure.now()))

    def end(*call: object) -> None:
        seconds[-1] += measure.now()

    module.register_forward_hook(end)


def main(rounds: int = 3) -> None:
    peaks = {}
    for name in HEADS:
        told = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True).stdout
        peaks[name] = float(told.split()[-1])
        print(f"{name}: {peaks[name]:.2f} GiB", flush=True)
    nets = {name: network(name) for name in HEADS}
    units: dict[str, list[float]] = {name: [] for name in HEADS}
    for name, net in nets.items():
        timed(getattr(net.head, "context", nn.Identity()), units[name])
    x = torch.randn(1, 3, *SIZE)

    def forward(net: Segmenter) -> Tensor:
        with torch.no_grad():
            return net(x)

    whole = measure.medians_ms({name: partial(forward, net) for name, net in nets.items()}, 1e9, rounds)
    features = torch.zeros(1, 2048, SIZE[0] // 8, SIZE[1] // 8)
    lines = [
        f"Measured on {platform.processor() or platform.machine()} ({torch.get_num_threads()} threads), torch "
        f"{torch.__version__}, {date.today()}, by `make bench-segmentation`: one picture of {SIZE[0]}×{SIZE[1]} "
        "through a dilated ResNet-50 at stride 8 and a head of 512 channels, float32, evaluation mode. Medians of "
        f"{rounds} forwards in turns. The unit's own time is measured within them, and given as a share of the plain "
        "network's. The peak is what a forward adds to the memory of a process that holds network and picture.",
        "",
        "| head | forward, s | unit alone, ms | share of plain | peak, GiB | multiply-adds of the head, 10⁹ |",
        "|---|---|---|---|---|---|",
    ]
    for name, net in nets.items():
        own = 1000 * median(units[name]) if units[name] else 0.0
        there = len(getattr(net.head, "context", ())) > 0
        cells = [f"{own:.0f}", f"{100 * own / whole['plain']:.1f} %"] if there else ["", ""]
        counted = measure.multiply_adds(net.head, features) / 1e9
        cells = [name, f"{whole[name] / 1000:.2f}", *cells, f"{peaks[name]:.2f}", f"{counted:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    page.put("segmentation", "\n".join(lines))


if __name__ == "__main__":
    peak(sys.argv[1]) if len(sys.argv) > 1 else main()
