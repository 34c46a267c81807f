"""What the published 3-D networks cost, with our order of a unit's products and with the published one.

A clip of 8 × 224×224, float32: forward in evaluation mode, and forward and backward in training mode, the networks of a
depth taking turns; the peak of memory is that of a process of its own. Writes a table of docs/results.md.
"""

from __future__ import annotations

import platform
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

import page  # noqa: E402
from glore import measure, units_of  # noqa: E402
from glore.nets import video  # noqa: E402
from oracle import direct  # noqa: E402

SIZE = (8, 224, 224)
UNITS = {"res3": 2, "res4": 3}
SECONDS = 120  # for the times of a depth, in each mode


def in_published_order(depth: int) -> nn.Module:
    """A network with GloRe units whose products run in the direct order, through torch's own layers."""
    net = getattr(video, f"resnet{depth}_3d")(units=UNITS)
    for path, unit in units_of(net).items():
        net.set_submodule(path, direct(unit))
    return net


def networks(depth: int) -> dict[str, dict[str, Any]]:
    def made(**arguments: Any) -> dict[str, Any]:
        return {"class_path": f"glore.nets.video.resnet{depth}_3d", "init_args": arguments}

    return {
        f"ResNet-{depth}": made(),
        "2 + 3 GloRe units, published order": {
            "class_path": "clips.in_published_order",
            "init_args": {"depth": depth},
        },
        "2 + 3 GloRe units": made(units=UNITS),
        "2 + 3 non-local blocks, softmax": made(units=UNITS, unit={"class_path": "glore.units.NonLocal3d"}),
    }


def main() -> None:
    lines = [
        f"Measured on {platform.processor() or platform.machine()} ({torch.get_num_threads()} threads), torch "
        f"{torch.__version__}, {date.today()}, by `make bench-clips`: one clip of {'×'.join(map(str, SIZE))}, float32. "
        "A step is forward and backward in training mode, without an optimizer. Times are medians, in turns; memory is "
        "what a forward or step needs besides the network and its input.",
        "",
        "| network | parameters, 10⁶ | multiply-adds, 10⁹ | forward, s | MiB | step, s | MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for depth in (50, 101):
        for row in measure.costs(networks(depth), SIZE, training=True, seconds=SECONDS):
            counts = [f"{row['parameters'] / 1e6:.2f}", f"{row['multiply_adds'] / 1e9:.2f}"]
            times = [f"{row['forward_ms'] / 1000:.2f}", f"{row['forward_mib']:.0f}"]
            times += [f"{row['step_ms'] / 1000:.2f}", f"{row['step_mib']:.0f}"]
            lines.append(f"| {' | '.join([row['network'], *counts, *times])} |")
            print(lines[-1], flush=True)
    page.put("clips", "\n".join(lines))


if __name__ == "__main__":
    main()
