"""The one decoder of videos: frames by their number, decoding no more of a file than they need."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from glore.data.broken import BrokenSampleError

SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm", ".ogv", ".gif"),
        *(".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".wmv", ".asf", ".flv"),
    )
)


class Packets(NamedTuple):
    """What the packets of a file tell of its frames."""

    frames: int  # how many
    times: list[int] | None  # when each is shown, in order, in the stream's own unit; without, frames are counted
    keys: list[int]  # when those are shown that can be started from


class Video:
    """A video file that is open: how many frames it has, and any of them.

    The frames are counted by their packets, which is quick since nothing is decoded: so they are exact where the rate
    varies or the file tells no duration, and a truncated file has those that are there.

    Args:
        path: of the file.
        packets: what an earlier opening of the same file found; otherwise it is gone through.

    Attributes:
        frames: how many there are, at least 1.
        rate: frames a second, on average; nan if the file does not tell.
        packets: to open the file again with.

    Raises:
        BrokenSampleError: the file cannot be read as a video, or has no picture; the message names it.
        ModuleNotFoundError: PyAV is missing, which the extra `video` brings.

    Example:
        >>> with Video("clip.mp4") as video:  # doctest: +SKIP
        ...     clip = video.read(range(0, video.frames, 4))
    """

    def __init__(self, path: Path | str, packets: Packets | None = None) -> None:
        self.path = Path(path)
        self.container: Any = None
        try:
            with self._blamed():
                self._open()
                self.packets = packets or self._list()
        except BaseException:
            self.__exit__()
            raise
        self.frames, self.times, self.keys = self.packets
        span = (self.times[-1] - self.times[0]) * self.stream.time_base if self.times else 0
        self.rate = float((self.frames - 1) / span if span else self.stream.average_rate or "nan")

    def _open(self) -> None:
        import av

        self.__exit__()
        # titles may be of any encoding; later versions take them as they are
        told: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
        self.container = av.open(f"file:{self.path}", **told)  # a name may have a colon
        streams = [stream for stream in self.container.streams.video if not _is_cover(stream)]
        if not streams:
            raise ValueError("it has no pictures")
        self.stream = streams[0]
        if self.stream.codec_context is None:
            raise ValueError("there is no decoder for its codec")
        self.stream.codec_context.thread_count = 1  # the loader's processes share the cores

    def _list(self) -> Packets:
        """Note when each frame is shown, and which ones can be started from."""
        shown, keys = [], []
        for packet in self.container.demux(self.stream):
            if packet.size and not packet.is_corrupt and not packet.is_discard:  # an edit list discards
                shown.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    keys.append(packet.pts)
        if not shown:
            raise ValueError("it has no frames")
        times = sorted(shown) if None not in shown and len(set(shown)) == len(shown) else None
        return Packets(len(shown), times, sorted(keys))

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *error: object) -> None:
        if self.container is not None:
            self.container.close()

    def seconds(self, index: int) -> float:
        """When a frame is shown, counted from the first one; of the number of frames, when the last one ends.

        By the frames' own times, which need not be evenly spaced, or else by the rate.
        """
        if self.times is None:
            return index / self.rate
        if index == self.frames:
            return self.seconds(index - 1) + 1 / self.rate
        return float((self.times[index] - self.times[0]) * self.stream.time_base)

    def read(self, indices: Sequence[int], side: int | None = None) -> Tensor:
        """Frames by their numbers, in any order, upright.

        Decodes from the last key frame before a wanted one, and not beyond the last wanted one.

        Args:
            indices: numbers of frames, 0 … frames − 1; one may come more than once.
            side: length to which a longer shorter side is scaled, in pixels; as they are by default.

        Returns:
            RGB, `(len(indices), h, w, 3)`, uint8.

        Raises:
            BrokenSampleError: a frame cannot be decoded.
            IndexError: there is no such frame.
        """
        wanted = sorted(set(indices))
        if not wanted or wanted[0] < 0 or wanted[-1] >= self.frames:
            raise IndexError(f"{self.path} has frames 0 … {self.frames - 1}, not {list(indices)}")
        found: dict[int, np.ndarray] = {}
        with self._blamed():
            rest = wanted
            while rest:
                before = len(found)
                for search in (True, False):
                    for index, frame in self._decoded(rest, search):
                        found[index] = _upright(frame, side)
                    if len(found) > before:
                        break
                else:
                    raise ValueError(f"frame {rest[0]} of {self.frames} cannot be decoded")
                rest = [index for index in rest if index not in found]
            return torch.from_numpy(np.stack([found[index] for index in indices]))  # whose sizes may differ

    def check(self) -> None:
        """Decode all frames.

        Raises:
            BrokenSampleError: some cannot be decoded.
        """
        with self._blamed():
            self._open()
            count = sum(1 for _ in self._frames())
            if count < self.frames and (self.damaged or not count):
                raise ValueError(f"{self.frames - count} of {self.frames} frames cannot be decoded")

    def _frames(self) -> Iterator[Any]:
        """The frames from where the file stands, but for what is damaged, which is noted."""
        import av

        self.damaged = False
        for packet in self.container.demux(self.stream):
            if packet.is_corrupt:
                self.damaged = True
                continue
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:
                self.damaged = True
                if self.times is None:  # frames behind it could not be told apart
                    raise

    def _decoded(self, wanted: list[int], search: bool) -> Iterator[tuple[int, Any]]:
        """The first wanted frame, and those behind it until it would be quicker to start again from a key frame.

        A packet may show no frame, in a file that is not damaged: the frame before it stays, as in a player, or in a
        file that was cut out of another one, whose first packets build on what is gone, the first frame stands for it.

        Args:
            wanted: numbers of frames, in order.
            search: whether to start from the last key frame, which some files lead astray; or else from the beginning.
        """
        seen = 0
        if search and self.times is not None:
            key = self._key(self.times[wanted[0]])
            self.container.seek(key, stream=self.stream)
            seen = bisect.bisect_left(self.times, key)
        else:
            self._open()
        rest, before = list(wanted), None
        for frame in self._frames():
            if self.times is not None and frame.pts is not None:
                seen = bisect.bisect_left(self.times, frame.pts)
                if search and frame.pts not in self.times[seen : seen + 1]:
                    continue  # it stands for a packet that is damaged
            while rest and seen > rest[0]:  # it was left out by the decoder
                if search or self.damaged:
                    return
                yield rest.pop(0), frame if before is None else before
            if rest and seen == rest[0]:
                yield rest.pop(0), frame
                if rest and self.times is not None and self._key(self.times[rest[0]]) > self.times[seen]:
                    return
            if not rest:
                return
            before = frame
            seen += 1
        if not (search or self.damaged or before is None):
            yield from ((late, before) for late in rest)

    def _key(self, time: int) -> int:
        """When the last key frame is shown that is not later."""
        assert self.times is not None
        place = bisect.bisect_right(self.keys, time)
        return self.keys[place - 1] if place else self.times[0]

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except (BrokenSampleError, ImportError, KeyboardInterrupt):
            raise
        except Exception as error:  # FFmpeg's errors are of many kinds
            reason = str(error) or type(error).__name__
            raise BrokenSampleError(f"{self.path} cannot be read as a video ({reason})") from error


def _is_cover(stream: Any) -> bool:
    """Whether it is the picture of a piece of music."""
    import av

    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _upright(frame: Any, side: int | None) -> np.ndarray:
    size = {}
    if side is not None and min(frame.width, frame.height) > side:
        scale = side / min(frame.width, frame.height)
        size = {"width": round(scale * frame.width), "height": round(scale * frame.height)}
    rgb: np.ndarray = frame.to_ndarray(format="rgb24", **size)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
