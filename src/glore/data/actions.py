"""Kinetics, UCF101 and HMDB51, by their official lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from glore.data.clips import Clips, read_table
from glore.data.folders import checked, read_text
from glore.data.frames import Frames


class Kinetics(Clips):
    """Kinetics-400, -600 or -700 by its official tables, `root/train.csv` and `root/val.csv`.

    A row's video is `root/train/<label>/<youtube_id>_<start>_<end>.mp4`, or in `root/val`, the times being seconds with
    six digits. As many of its videos are gone, those that are not there are left out, and listed in `absent`.

    Arguments: `glore.data.clips.ClipTable`, without `table`.

    Raises:
        FileNotFoundError: there is no such folder or table, or no video at all.
        ValueError: a column of the table is missing.
    """

    def __init__(
        self,
        split: str,
        root: str,
        frames: int = 8,
        stride_frames: int = 8,
        clips: int = 1,
        preset: Frames | None = None,
    ) -> None:
        base = checked(split, root)
        there = "train" if split == "train" else "val"
        rows = {
            name: read_table(base / f"{name}.csv", ("label", "youtube_id", "time_start", "time_end"))
            for name in {"train", there}
        }
        classes = sorted({row["label"] for row in rows["train"].values()})
        known = {name: k for k, name in enumerate(classes)}
        samples, self.absent = [], []
        for number, row in rows[there].items():
            try:
                times = [int(float(row[name])) for name in ("time_start", "time_end")]
            except ValueError as error:
                raise ValueError(f"{base / there}.csv, line {number}: the times must be seconds ({error})") from None
            stem = "_".join([row["youtube_id"], *(f"{time:06d}" for time in times)])
            path = base / there / row["label"] / f"{stem}.mp4"
            if row["label"] not in known:
                raise ValueError(f"{base / there}.csv, line {number}: train.csv has no class {row['label']!r}")
            if path.is_file():
                samples.append((path, known[row["label"]]))
            else:
                self.absent.append(path)
        if not samples:
            raise FileNotFoundError(
                f"none of the {len(self.absent)} videos is there; the first would be {self.absent[0]}"
            )
        super().__init__(samples, classes, frames, stride_frames, clips, preset, split == "train")


class UCF101(Clips):
    """UCF101 by its official lists, `root/ucfTrainTestlist/trainlist01.txt`, and videos in `root/UCF-101/<class>/…`.

    The test list is `val` and `test`.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        root: the folder.
        fold: which of the three official splits.
        frames: of a clip; see `glore.data.clips.Clips` for this and the next ones.
        stride_frames: from one frame of a clip to its next one.
        clips: of each file in testing.
        preset: makes views of frames.

    Raises:
        FileNotFoundError: a folder, list or video is missing.
    """

    def __init__(
        self,
        split: str,
        root: str,
        fold: Literal[1, 2, 3] = 1,
        frames: int = 8,
        stride_frames: int = 8,
        clips: int = 1,
        preset: Frames | None = None,
    ) -> None:
        base = checked(split, root)
        lists = base / "ucfTrainTestlist"
        classes = [name for _, name, *_ in _lines(lists / "classInd.txt", ("number", "class"))]
        known = {name: k for k, name in enumerate(classes)}
        path = lists / f"{'train' if split == 'train' else 'test'}list{fold:02d}.txt"
        samples = []
        for name, *_ in _lines(path, ("<class>/<video>",)):
            if (label := name.split("/")[0]) not in known:
                raise ValueError(f"{path}: {name} is of the class {label!r}, which classInd.txt has not")
            samples.append((base / "UCF-101" / name, known[label]))
        _all(samples)
        super().__init__(samples, classes, frames, stride_frames, clips, preset, split == "train")


class HMDB51(Clips):
    """HMDB51 by its official lists, `root/splits/<class>_test_split1.txt`, and videos in `root/videos/<class>/…`.

    The lists mark each class's videos with 1 to train, 2 to test, which is `val` and `test`, and 0 for neither.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        root: the folder.
        fold: which of the three official splits.
        frames: of a clip; see `glore.data.clips.Clips` for this and the next ones.
        stride_frames: from one frame of a clip to its next one.
        clips: of each file in testing.
        preset: makes views of frames.

    Raises:
        FileNotFoundError: a folder, list or video is missing.
    """

    def __init__(
        self,
        split: str,
        root: str,
        fold: Literal[1, 2, 3] = 1,
        frames: int = 8,
        stride_frames: int = 8,
        clips: int = 1,
        preset: Frames | None = None,
    ) -> None:
        base = checked(split, root)
        ending = f"_test_split{fold}.txt"
        lists = sorted((base / "splits").glob(f"*{ending}"))
        if not lists:
            raise FileNotFoundError(f"{base / 'splits'} has no lists <class>{ending}")
        classes = [path.name.removesuffix(ending) for path in lists]
        mark = "1" if split == "train" else "2"
        samples = [
            (base / "videos" / name / video, k)
            for k, (name, path) in enumerate(zip(classes, lists, strict=True))
            for video, own, *_ in _lines(path, ("video", "mark"))
            if own == mark
        ]
        _all(samples)
        super().__init__(samples, classes, frames, stride_frames, clips, preset, split == "train")


def _lines(path: Path, words: Sequence[str]) -> list[list[str]]:
    """The words of each line of a list, of which it has at least these."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: unpack the official lists there")
    lines = [line.split() for line in read_text(path).splitlines()]
    for number, line in enumerate(lines, start=1):
        if line and len(line) < len(words):
            raise ValueError(f"{path}, line {number}: {' '.join(line)!r} must be: {' '.join(words)}")
    return [line for line in lines if line]


def _all(samples: Sequence[tuple[Path, int]]) -> None:
    absent = [path for path, _ in samples if not path.is_file()]
    if absent:
        raise FileNotFoundError(f"{absent[0]} is missing, as {len(absent)} of {len(samples)} videos are")
