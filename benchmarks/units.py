"""Time, memory and multiply-adds of every unit, side by side with the published (direct) order of GloRe.

The baseline is the oracle of the tests: nn.ConvNd of kernel 1, torch.matmul, nn.BatchNormNd and an addition; eager,
contiguous, same threads. GloRe and its baseline take turns in one loop, and ratios are ratios of medians. Writes
benchmarks/results/units.json and the tables of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

import page  # noqa: E402
from glore import units  # noqa: E402
from glore.measure import medians_ms  # noqa: E402
from glore.units import products  # noqa: E402
from oracle import GLORE, direct, live  # noqa: E402

# batch, channels, space, options of GloRe, whether the bounds for long maps hold here
CASES = {
    "8 × 512 × 28×28": (8, 512, (28, 28), {}, True),
    "1 × 512 × 4×28×28": (1, 512, (4, 28, 28), {}, True),
    "1 × 1024 × 4×14×14": (1, 1024, (4, 14, 14), {}, True),
    "2 × 512 × 96×96": (2, 512, (96, 96), {}, True),
    "1 × 512 × 128×256, n = 64, s = 128": (1, 512, (128, 256), {"nodes": 64, "states": 128}, True),
    "8 × 1024 × 14×14": (8, 1024, (14, 14), {}, False),
    "16 × 2048 × 7×7": (16, 2048, (7, 7), {}, False),
}
RIVALS = {
    "NonLocal, softmax": ("NonLocal", {"form": "softmax"}),
    "NonLocal, dot product": ("NonLocal", {"form": "dot_product"}),
    "DoubleAttention": ("DoubleAttention", {}),
    "SqueezeExcite": ("SqueezeExcite", {}),
    "GlobalContext": ("GlobalContext", {}),
}
TYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def forward(unit: nn.Module, x: Tensor) -> None:
    unit.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        unit(x)


def train(unit: nn.Module, x: Tensor, w: Tensor) -> None:
    """One forward and backward in training mode, from and to no gradients."""
    unit.train()
    unit.zero_grad(set_to_none=True)
    x.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        out = unit(x)
    out.backward(w)


def kept_bytes(unit: nn.Module, x: Tensor) -> int:
    """What the backward keeps, input and parameters aside, each storage once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    low = torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.bfloat16)
    unit.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), low:
        out = unit(x)
    for known in (x, *unit.parameters(), *unit.buffers()):
        kept.pop(known.untyped_storage().data_ptr(), None)
    del out
    return sum(kept.values())


def multiply_adds(run: Callable[[], None]) -> int:
    """Counted by torch, which counts two operations for each; attention under its plain form, to be seen at all."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


def contenders(batch: int, channels: int, space: tuple[int, ...], options: dict[str, int]) -> dict[str, nn.Module]:
    axes = len(space)
    glore = live(GLORE[axes](channels, **options))
    made: dict[str, nn.Module] = {"direct order": direct(glore), "GloRe": glore}
    for name, (kind, rival_options) in RIVALS.items():
        made[name] = live(getattr(units, f"{kind}{axes}d")(channels, **rival_options))
    return made


def measure_case(name: str, dtype: str, seconds: float) -> list[dict[str, object]]:
    batch, channels, space, options, long = CASES[name]
    x = torch.randn(batch, channels, *space).to(TYPES[dtype]).requires_grad_()
    w = torch.randn_like(x)
    made = contenders(batch, channels, space, options)
    if dtype != "float32":  # the rivals' half precision is torch's own affair
        made = {key: made[key] for key in ("direct order", "GloRe")}
    forward_ms, train_ms = {}, {}
    for turn_takers in (list(made)[:2], list(made)[2:]):  # GloRe and its baseline alone, then the rivals
        forward_ms |= medians_ms({key: partial(forward, made[key], x) for key in turn_takers}, seconds)
        train_ms |= medians_ms({key: partial(train, made[key], x, w) for key in turn_takers}, seconds)
    rows = []
    for key, unit in made.items():
        huge = key == "NonLocal, softmax" and math.prod(space) > 10_000  # counting would form an (l, l) map of floats
        rows.append(
            {
                "case": name,
                "type": dtype,
                "unit": key,
                "long": long,
                "forward_ms": forward_ms[key],
                "train_ms": train_ms[key],
                "kept_mib": kept_bytes(unit, x) / 2**20,
                "forward_multiply_adds": None if huge else multiply_adds(partial(forward, unit, x)),
                "train_multiply_adds": None if huge else multiply_adds(partial(train, unit, x, w)),
                "forward_ratio": forward_ms["direct order"] / forward_ms[key],
                "train_ratio": train_ms["direct order"] / train_ms[key],
            }
        )
        print(f"  {dtype:8} {key:22} {forward_ms[key]:10.1f} ms {train_ms[key]:10.1f} ms", flush=True)
    return rows


def measure_scaling(seconds: float) -> list[dict[str, float]]:
    """Time of GloRe against the side of the map; non-local beside it as far as 96×96."""
    rows = []
    channels = 512
    for side in (32, 64, 96, 128, 256):
        x = torch.randn(1, channels, side, side, requires_grad=True)
        w = torch.randn_like(x)
        made = {"glore": live(units.GloRe2d(channels))}
        if side <= 96:
            made["non_local"] = live(units.NonLocal2d(channels))
        row: dict[str, float] = {"side": side}
        modes = {
            "forward": {key: partial(forward, unit, x) for key, unit in made.items()},
            "train": {key: partial(train, unit, x, w) for key, unit in made.items()},
        }
        for mode, runs in modes.items():
            row |= {f"{key}_{mode}_ms": value for key, value in medians_ms(runs, seconds).items()}
        rows.append(row)
        print("  " + ", ".join(f"{key} {value:.1f}" for key, value in row.items()), flush=True)
    return rows


def slope(rows: list[dict[str, float]], key: str) -> float:
    """Least-squares slope of log time over log positions."""
    points = [(2 * math.log(row["side"]), math.log(row[key])) for row in rows]
    mean_x, mean_y = (statistics.mean(side) for side in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def measure_threshold(seconds: float) -> list[dict[str, float]]:
    """Both orders of GloRe where they should tip: l around c/3."""
    rows = []
    choose = products.folds
    for channels, batch in ((512, 8), (1024, 4)):
        for share in (0.125, 0.25, 1 / 3, 0.5, 0.75, 1.0):
            side = round(math.sqrt(share * channels))
            x = torch.randn(batch, channels, side, side, requires_grad=True)
            w = torch.randn_like(x)
            unit = live(units.GloRe2d(channels))

            def ordered(fold: bool, run: Callable[[], None]) -> None:
                products.folds = lambda *sizes, **mode: fold
                run()

            row: dict[str, float] = {"channels": channels, "batch": batch, "positions": side * side}
            for mode, run in (("forward", partial(forward, unit, x)), ("train", partial(train, unit, x, w))):
                ms = medians_ms({str(fold): partial(ordered, fold, run) for fold in (False, True)}, seconds)
                row[f"{mode}_ratio"] = ms["False"] / ms["True"]
            products.folds = choose
            for mode in ("forward", "train"):
                sizes = (side * side, channels, channels // 2, channels // 4)
                row[f"{mode}_folds"] = choose(*sizes, training=mode == "train")
            rows.append(row)
            print("  " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()), flush=True)
    return rows


def machine() -> dict[str, object]:
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "cpu": cpu,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": git.stdout.strip(),
        "date": date.today().isoformat(),
    }


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.mean(map(math.log, values)))


def tables(results: dict[str, object]) -> str:
    rows = results["cases"]
    by = {(row["case"], row["type"], row["unit"]): row for row in rows}
    where = results["machine"]
    out = [
        f"Measured on {where['cpu']} ({where['instructions']}, {where['threads']} threads), torch {where['torch']}, "
        f"{where['date']}, commit {where['commit']}, by `make bench-units`. Times are medians over turns that both "
        f"sides take in one run, in random order; ratios are ratios of medians. A processor without bf16 instructions "
        f"emulates them: there the bf16 rows say little.",
        "",
        "**GloRe against the direct order**: how many times faster. Forward is in evaluation mode without gradients; "
        "training is forward and backward in training mode. By arithmetic is the ratio of multiply-adds, all small "
        "products counted; what lies above it is memory traffic saved. Kept is what the backward holds besides input "
        "and parameters, as a share of what the direct order holds. On the two short maps the unit takes the direct "
        "order.",
        "",
        "| case (b × c × space) | type | forward | by arithmetic | training | by arithmetic | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in CASES:
        for dtype in TYPES:
            if (name, dtype, "GloRe") not in by:
                continue
            ours, base = by[name, dtype, "GloRe"], by[name, dtype, "direct order"]
            limits = [base[f"{m}_multiply_adds"] / ours[f"{m}_multiply_adds"] for m in ("forward", "train")]
            out.append(
                f"| {name} | {dtype} | {ours['forward_ratio']:.2f}× | {limits[0]:.2f}× | {ours['train_ratio']:.2f}× "
                f"| {limits[1]:.2f}× | {ours['kept_mib'] / base['kept_mib']:.2f}× |"
            )
    for dtype in TYPES:
        ours = [row for row in rows if row["unit"] == "GloRe" and row["type"] == dtype and row["long"]]
        if ours:
            means = [geometric_mean([row[f"{mode}_ratio"] for row in ours]) for mode in ("forward", "train")]
            out.append(
                f"| **geometric mean, five long cases** | {dtype} | **{means[0]:.2f}×** | | **{means[1]:.2f}×** | | |"
            )
    out += [
        "",
        "<details>",
        "<summary><b>Every unit</b></summary>",
        "",
        "float32: forward and training in milliseconds, memory that the backward keeps besides input and parameters in "
        "MiB, multiply-adds of the forward in 10⁹. Lower is better, and says nothing about accuracy.",
        "",
        "| case | unit | forward | training | kept | multiply-adds |",
        "|---|---|---|---|---|---|",
    ]
    for name in CASES:
        for unit in ("direct order", "GloRe", *RIVALS):
            row = by[name, "float32", unit]
            count = row["forward_multiply_adds"]
            out.append(
                f"| {name} | {unit} | {row['forward_ms']:.1f} | {row['train_ms']:.1f} | {row['kept_mib']:.1f} "
                f"| {'not counted' if count is None else f'{count / 1e9:.2f}'} |"
            )
    scaling = results["scaling"]
    out += [
        "",
        "</details>",
        "",
        f"**Time over positions**, 1 × 512 × side×side, milliseconds. Slope of log time over log positions: "
        f"forward {slope(scaling, 'glore_forward_ms'):.2f}, training {slope(scaling, 'glore_train_ms'):.2f}.",
        "",
        "| side | GloRe forward | non-local forward | GloRe training | non-local training |",
        "|---|---|---|---|---|",
    ]
    for row in scaling:
        cells = [row.get(f"{unit}_{mode}_ms") for mode in ("forward", "train") for unit in ("glore", "non_local")]
        out.append(f"| {row['side']} | " + " | ".join("–" if c is None else f"{c:.1f}" for c in cells) + " |")
    out += [
        "",
        "**Where the orders tip**: the direct order's time over the cheap order's, each forced; where it "
        "says taken, the unit takes the cheap order by itself.",
        "",
        "| channels | batch | positions | forward | training |",
        "|---|---|---|---|---|",
    ]
    for row in results["threshold"]:
        out.append(
            f"| {row['channels']} | {row['batch']} | {row['positions']} "
            + " ".join(
                f"| {row[f'{mode}_ratio']:.2f}×{' (taken)' if row[f'{mode}_folds'] else ''}"
                for mode in ("forward", "train")
            )
            + " |"
        )
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="time for each loop of turns, at least three turns")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "units.json")
    parser.add_argument("--tables-only", action="store_true", help="write docs/results.md again from the file --out")
    options = parser.parse_args()
    torch.manual_seed(0)
    random.seed(0)
    if not options.tables_only:
        results: dict[str, object] = {"machine": machine(), "cases": []}
        for name in CASES:
            print(name, flush=True)
            for dtype in options.types:
                results["cases"] += measure_case(name, dtype, options.seconds)
        print("time over positions", flush=True)
        results["scaling"] = measure_scaling(options.seconds)
        print("where the orders tip", flush=True)
        results["threshold"] = measure_threshold(options.seconds)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    page.put("units", tables(json.loads(options.out.read_text())))


if __name__ == "__main__":
    main()
