"""How fast clips are decoded, against decoding whole files: a table of docs/results.md.

Of made videos (ten seconds of moving patterns, as long as Kinetics'), and of a folder of yours, if you give one.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch

import page
from glore import measure
from glore.data.decode import Video
from glore.data.folders import files_in

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from videos import write  # noqa: E402

FRAMES, STRIDE = 8, 8
MOST = 40  # files of a folder
SUFFIXES = (".mp4", ".avi", ".mkv", ".webm")
SEED = 0


def moving(count: int, high: int, wide: int) -> list[np.ndarray]:
    """Frames of smooth patterns that move, with a little noise."""
    draw = np.random.default_rng(SEED)
    y, x = np.mgrid[:high, :wide] / wide
    waves = draw.uniform(5, 40, (3, 3))
    return [
        (128 + 60 * np.sin(waves[:, 0] * x[..., None] + waves[:, 1] * y[..., None] + waves[:, 2] * i / 60))
        + draw.normal(0, 6, (high, wide, 3))
        for i in range(count)
    ]


def read(path: Path, side: int | None, whole: bool) -> None:
    """A clip from a random place, or all frames."""
    with Video(path) as video:
        last = max(0, video.frames - 1 - (FRAMES - 1) * STRIDE)
        begin = int(torch.randint(last + 1, ()))
        numbers = range(video.frames) if whole else [(begin + i * STRIDE) % video.frames for i in range(FRAMES)]
        video.read(numbers, side)


def all_of(paths: list[Path], side: int | None, whole: bool) -> None:
    for path in paths:
        read(path, side, whole)


def row(name: str, paths: list[Path], side: int | None) -> str:
    runs: dict[str, Callable[[], None]] = {
        kind: partial(all_of, paths, side, kind == "whole") for kind in ("clip", "whole")
    }
    times = {kind: ms / len(paths) for kind, ms in measure.medians_ms(runs, 60, rounds=7).items()}
    with Video(paths[0]) as video:
        frames = video.frames
    ratio = times["whole"] / times["clip"]
    cells = [name, str(frames), f"{1000 / times['clip']:.0f}", f"{1000 / times['whole']:.1f}", f"{ratio:.1f}×"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    torch.set_num_threads(1)
    lines = [
        f"Measured on {platform.processor() or platform.machine()}, one thread, {date.today()}, by "
        f"`make bench-decoding`: {FRAMES} frames, every {STRIDE}th, from a random place of a file, against all of its "
        "frames, H.264, converted to RGB. Medians, in turns.",
        "",
        "| video | frames | clips a second | whole files a second | ratio |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for gap in (250, 30):
            paths = [write(Path(folder) / f"{gap}.mp4", moving(300, 256, 340), rate=30, g=gap)]
            lines.append(row(f"340×256, a key frame in {gap}", paths, None))
    if len(sys.argv) > 1:
        paths = files_in(Path(sys.argv[1]), SUFFIXES)[:MOST]
        lines.append(row(f"{len(paths)} files of {Path(sys.argv[1]).name}", paths, None))
    page.put("decoding", "\n".join(lines))


if __name__ == "__main__":
    main()
