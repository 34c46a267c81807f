"""How fast whole networks run folded, channels last, in bf16, compiled, in onnxruntime: a table of docs/results.md.

Each way of running a network takes turns with the others in one process; what is told is how many times faster than the
network as it is, in float32. `small` as argument tries it out on a small network and writes nothing.
"""

from __future__ import annotations

import copy
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

import glore
import page
from glore import measure
from glore.export import to_onnx
from glore.fold import folded
from glore.nets import images, video
from glore.nets.heads import FCN
from glore.nets.segmenter import segmenter
from glore.nets.small import small_classifier

UNITS = {"res3": 2, "res4": 3}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet50, 2 + 3 units": (partial(images.resnet50, UNITS), (3, 224, 224)),
    "FCN with a unit on ResNet-50": (
        lambda: segmenter("resnetv2_50", 19, partial(FCN, unit=glore.GloRe2d), auxiliary=False),
        (3, 512, 512),
    ),
    "resnet50_3d, 2 + 3 units": (partial(video.resnet50_3d, units=UNITS, unit=glore.GloRe3d), (3, 8, 224, 224)),
}
TRIAL = {
    "small classifier": (
        partial(small_classifier, 10, depths=(1, 1, 1), units={"res3": 1}, unit=glore.GloRe2d),
        (3, 32, 32),
    )
}


def forward(net: nn.Module, x: Tensor, *, bf16: bool = False) -> Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return net(x)


def ways(net: nn.Module, x: Tensor, folder: Path) -> dict[str, Callable[[], object]]:
    last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    one = folded(net, x)
    one_last = copy.deepcopy(one).to(memory_format=last)
    x_last = x.contiguous(memory_format=last)
    to_onnx(one, folder / "net.onnx", tuple(x.shape[1:]))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / "net.onnx", options)
    runs: dict[str, Callable[[], object]] = {
        "as it is": partial(forward, net, x),
        "folded": partial(forward, one, x),
        "folded, channels last": partial(forward, one_last, x_last),
        "folded, channels last, bf16": partial(forward, one_last, x_last, bf16=True),
        "folded, onnxruntime": lambda: session.run(None, {"input": x.numpy()}),
    }
    if shutil.which("g++") or shutil.which("clang++"):
        runs["folded, compiled"] = partial(forward, torch.compile(one), x)
    return runs


def main(small: bool = False) -> None:
    lines: list[str] = []
    for name, (build, size) in (TRIAL if small else NETWORKS).items():
        net, x = build().eval(), torch.randn(1, *size)
        with tempfile.TemporaryDirectory() as folder:
            runs = ways(net, x, Path(folder))
            times = measure.medians_ms(runs, 5 if small else 120, 3 if small else 15)
        if not lines:
            lines = [
                f"Measured on {platform.processor() or platform.machine()} ({torch.get_num_threads()} threads), torch "
                f"{torch.__version__}, onnxruntime {onnxruntime.__version__}, {date.today()}, by `make bench-export`: "
                "batches of one, medians over turns in one run. How many times faster than the network as it is, whose "
                "time is given. A processor without bf16 instructions emulates them.",
                "",
                f"| network | input | as it is, ms | {' | '.join(list(runs)[1:])} |",
                f"|---|---|---|{'---|' * (len(runs) - 1)}",
            ]
        own = times.pop("as it is")
        cells = [
            name,
            "×".join(map(str, x.shape[1:])),
            f"{own:.0f}",
            *(f"{own / took:.2f}×" for took in times.values()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if small:
        print("\n".join(lines))
    else:
        page.put("export", "\n".join(lines))


if __name__ == "__main__":
    main(small="small" in sys.argv[1:])
