"""Videos with a class each, from folders and tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from glore.data.broken import BrokenSampleError
from glore.data.decode import SUFFIXES, Packets, Video
from glore.data.folders import FOLDERS, checked, labelled, listed, read_text
from glore.data.frames import Frames
from glore.data.samples import Samples


class Clips(Samples):
    """Clips of video files, and the files' classes.

    Shapes:
        In training, an item is a clip from anywhere in its file, `(3, frames, size, size)` float32, and the number of
        its class. In testing it is `(clips · crops, 3, frames, size, size)`, or without the first axis if that is one:
        clips from all over the file, in order of time, and crops of each.

    Args:
        samples: path and class of each file; None for a class that is not known.
        classes: their names, in order.
        frames: of a clip.
        stride_frames: from one frame of a clip to its next one. A file that is too short for a clip is looped.
        clips: of each file in testing, spread evenly; one is in its middle.
        preset: makes views of frames; `Frames()` by default.
        training: whether to take clips of training, or of testing.

    Raises:
        BrokenSampleError: a file cannot be read; raised when its item is asked for.
        ValueError: an argument is out of range.
    """

    default_preset: ClassVar[type[Frames]] = Frames

    def __init__(
        self,
        samples: Sequence[tuple[Path, int | None]],
        classes: Sequence[str],
        frames: int = 8,
        stride_frames: int = 8,
        clips: int = 1,
        preset: Frames | None = None,
        training: bool = False,
    ) -> None:
        for name, value in {"frames": frames, "stride_frames": stride_frames, "clips": clips}.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        super().__init__(samples, classes)
        self.frames, self.stride_frames, self.clips = frames, stride_frames, clips
        self.preset, self.training = preset or self.default_preset(), training
        self.views = 1 if training else clips * self.preset.crops

    @classmethod
    def for_paths(
        cls,
        paths: Sequence[Path],
        classes: Sequence[str],
        arguments: Mapping[str, Any],
        palette: Sequence[Sequence[int]] | None = None,
    ) -> Moments:
        timing = {name: arguments[name] for name in ("frames", "stride_frames") if name in arguments}
        preset = arguments.get("preset") or cls.default_preset()
        return Moments(listed(paths, SUFFIXES, "videos"), classes, **timing, preset=preset)

    def __getitem__(self, index: int) -> tuple[Tensor, int | None]:
        path, label = self.samples[index]
        with self._open(path) as video:
            begins = self._begins(index, video.frames)
            numbers = [self._numbers(begin, video.frames) for begin in begins]
            read = video.read([number for clip in numbers for number in clip], self.preset.side(self.training))
        clips = read.split(self.frames)
        if self.training:
            return self.preset.training(clips[0]), label
        views = [view for clip in clips for view in self.preset.testing(clip)]
        return (views[0] if self.views == 1 else torch.stack(views)), label

    def _open(self, path: Path) -> Video:
        return Video(path)

    def _last(self, count: int) -> int:
        """The last frame at which a clip of so many frames can begin without looping."""
        return max(0, count - 1 - (self.frames - 1) * self.stride_frames)

    def _begins(self, index: int, count: int) -> list[int]:
        """The first frames of the clips of an item, whose file has so many frames."""
        last = self._last(count)
        if self.training:
            return [int(torch.randint(last + 1, ()))]
        if self.clips == 1:
            return [last // 2]
        return [round(i * last / (self.clips - 1)) for i in range(self.clips)]

    def _numbers(self, begin: int, count: int) -> list[int]:
        return [(begin + i * self.stride_frames) % count for i in range(self.frames)]

    def check(self, index: int) -> None:
        """Read all frames of an item's file; raises what reading it raises."""
        with Video(self.samples[index][0]) as video:
            video.check()

    def blank(self) -> Tensor:
        """What stands for a file that cannot be read, where no other one may."""
        blank = torch.zeros(3, self.frames, *self.preset.size)
        return blank if self.views == 1 else blank.expand(self.views, *blank.shape)


class Moments(Clips):
    """Clips one after the other over whole videos whose classes are not known; the last ends with the video.

    Shapes:
        An item is a clip as `Clips` gives it in testing, and None.

    Args:
        paths: of the files.
        classes: names of the classes that a network tells apart.
        frames: of a clip.
        stride_frames: from one frame of a clip to its next one.
        preset: makes views of frames; `Frames()` by default.

    Raises:
        BrokenSampleError: a file cannot be read; raised when its item is asked for.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        classes: Sequence[str],
        frames: int = 8,
        stride_frames: int = 8,
        preset: Frames | None = None,
    ) -> None:
        super().__init__([], classes, frames, stride_frames, 1, preset)
        self.spans: list[tuple[int, float, float]] = []  # of each item: first frame, and seconds from when to when
        self.packets: dict[Path, Packets] = {}  # of each file: read once, not for each of its clips
        for path in paths:
            for span in self._spans(path):
                self.samples.append((path, None))
                self.spans.append(span)

    def _spans(self, path: Path) -> list[tuple[int, float, float]]:
        try:
            with Video(path) as video:
                self.packets[path] = video.packets
        except BrokenSampleError:  # raised again, and told, when the item is asked for
            return [(0, float("nan"), float("nan"))]
        count, length = video.frames, self.frames * self.stride_frames
        begins = sorted({min(begin, self._last(count)) for begin in range(0, count, length)})
        return [(begin, video.seconds(begin), video.seconds(min(begin + length, count))) for begin in begins]

    def _open(self, path: Path) -> Video:
        return Video(path, self.packets.get(path))

    def _begins(self, index: int, count: int) -> list[int]:
        return [self.spans[index][0]]

    def seconds(self, index: int) -> tuple[float, float]:
        """From when to when an item is in its video, whose first frame is at 0; nan where the file tells no times."""
        return self.spans[index][1:]


class ClipFolder(Clips):
    """Videos in a folder for each class, split as `glore.data.images.ImageFolder` splits pictures.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        root: the folder.
        frames: of a clip; see `Clips` for this and the next ones.
        stride_frames: from one frame of a clip to its next one.
        clips: of each file in testing.
        preset: makes views of frames.
        held_out: share of each class that is held out for a split without a folder, one file at least.

    Raises:
        FileNotFoundError: there is no such folder, or a class has too few videos to train and to hold out.
        ValueError: an argument is out of range, or a split has a class that the training videos have not.
    """

    def __init__(
        self,
        split: str,
        root: str,
        frames: int = 8,
        stride_frames: int = 8,
        clips: int = 1,
        preset: Frames | None = None,
        held_out: float = 0.1,
    ) -> None:
        samples, classes = labelled(split, root, SUFFIXES, held_out, "videos")
        super().__init__(samples, classes, frames, stride_frames, clips, preset, split == "train")


class ClipTable(Clips):
    """Videos in a CSV file with the columns `path`, from `root`, `label` and `split`; classes are the labels, sorted.

    Without rows of the split `test`, `val` is the test split too. Other columns are left alone.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        root: the folder.
        table: the CSV file, from `root`.
        frames: of a clip; see `Clips` for this and the next ones.
        stride_frames: from one frame of a clip to its next one.
        clips: of each file in testing.
        preset: makes views of frames.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: a column is missing, a row has no path or label or another split, or a split has no rows; the
            message names the line.
    """

    def __init__(
        self,
        split: str,
        root: str,
        table: str = "clips.csv",
        frames: int = 8,
        stride_frames: int = 8,
        clips: int = 1,
        preset: Frames | None = None,
    ) -> None:
        base = checked(split, root)
        lines = read_table(base / table, ("path", "label", "split"))
        for number, row in lines.items():
            if row["split"] not in FOLDERS:
                raise ValueError(
                    f"{base / table}, line {number}: split {row['split']!r} must be {', '.join(map(repr, FOLDERS))}"
                )
        rows = list(lines.values())
        classes = sorted({row["label"] for row in rows})
        known = {name: k for k, name in enumerate(classes)}
        told = {row["split"] for row in rows}
        there = next((name for name in FOLDERS[split] if name in told), None)
        if there is None:
            raise ValueError(
                f"{base / table} has no rows of the split {split!r}, but of {', '.join(map(repr, sorted(told)))}"
            )
        samples = [(base / row["path"], known[row["label"]]) for row in rows if row["split"] == there]
        super().__init__(samples, classes, frames, stride_frames, clips, preset, split == "train")


def read_table(path: Path, columns: Sequence[str]) -> dict[int, dict[str, str]]:
    """The rows of a CSV file by the numbers of their lines; each has some columns, with a value in each of them."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a CSV file with the columns {', '.join(columns)}")
    table = csv.reader(io.StringIO(read_text(path), newline=""))
    lines: dict[int, list[str]] = {}
    try:
        for cells in table:
            lines[table.line_num] = [cell.strip() for cell in cells]
    except csv.Error as error:
        raise ValueError(f"{path}, line {table.line_num}: {error}; give a CSV file as spreadsheets write it") from error
    head = lines.pop(1, [])
    if missing := [name for name in columns if name not in head]:
        raise ValueError(
            f"{path} lacks the column {missing[0]!r}: its first line must name {', '.join(columns)}, and names "
            f"{', '.join(head) or 'none'}"
        )
    rows = {number: dict(zip(head, cells, strict=False)) for number, cells in lines.items() if any(cells)}
    for number, row in rows.items():
        if empty := [name for name in columns if not row.get(name)]:
            raise ValueError(f"{path}, line {number}: no {empty[0]}")
        if not row.get("label", "").isprintable():  # nor does a run's list of classes keep it
            raise ValueError(f"{path}, line {number}: the label {row['label']!r} cannot be shown: rename it")
    if not rows:
        raise ValueError(f"{path} has no rows")
    return rows
