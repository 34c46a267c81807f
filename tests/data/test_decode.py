"""Videos, good and broken, made here: every frame is the one that was asked for, and every fault is named."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av")

from glore.data.broken import BrokenSampleError
from glore.data.decode import Video
from videos import audio_only, write

FRAMES, HIGH, WIDE = 40, 48, 64


def picture(number, high=HIGH, wide=WIDE):
    """A frame that tells its number: six blocks of bits, bright or dark, above a slope."""
    frame = np.zeros((high, wide, 3), np.uint8)
    for bit in range(6):
        frame[: high // 2, bit * wide // 6 : (bit + 1) * wide // 6] = 230 if number >> bit & 1 else 20
    frame[high // 2 :] = np.linspace(0, 200, wide).astype(np.uint8)[None, :, None]
    return frame


def number(frame):
    high, wide = frame.shape[:2]
    return sum(
        int(frame[high // 8 : high // 3, (bit * wide // 6) + 3 : ((bit + 1) * wide // 6) - 3].float().mean() > 125)
        << bit
        for bit in range(6)
    )


def read_clip(path, indices, side=None):
    with Video(path) as video:
        return video.read(indices, side)


def make(path, count=FRAMES, *, high=HIGH, wide=WIDE, **options):
    return write(path, [picture(i, high, wide) for i in range(count)], **options)


KINDS = {
    "mp4": ("a.mp4", {}),
    "a key frame in five": ("a.mp4", {"g": 5}),
    "open groups, frames out of order": ("a.mp4", {"g": 12, "bf": 3, "x264-params": "open-gop=1"}),
    "one key frame": ("a.mkv", {"g": 1000}),
    "ten bits": ("a.mp4", {"pixels": "yuv420p10le"}),
    "odd sizes": ("a.mkv", {"codec": "ffv1", "high": 47, "wide": 63, "pixels": "yuv444p"}),
    "avi": ("a.avi", {"codec": "mpeg4", "g": 6}),
    "variable rate": ("a.mkv", {"g": 7, "times": [round(3 * i**1.3) for i in range(FRAMES)]}),
    "transport stream": ("a.ts", {"codec": "mpeg2video", "g": 9, "bf": 2}),
    "motion jpeg": ("a.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_by_number(tmp_path, kind):
    name, options = KINDS[kind]
    path = make(tmp_path / name, **options)
    with Video(path) as video:
        assert video.frames == FRAMES
        for wanted in ([0], [FRAMES - 1], [17], [3, 4, 5], [30, 2, 30, 11], list(range(0, FRAMES, 7)), range(FRAMES)):
            clip = video.read(wanted)
            assert clip.shape == (len(wanted), options.get("high", HIGH), options.get("wide", WIDE), 3)
            assert clip.dtype == torch.uint8
            assert [number(frame) for frame in clip] == list(wanted)


def test_the_rate_is_that_of_the_frames(tmp_path):
    with Video(make(tmp_path / "a.mp4")) as video:
        assert video.rate == pytest.approx(25)
    with Video(make(tmp_path / "b.mkv", 11, times=[50 * i for i in range(11)])) as video:
        assert video.rate == pytest.approx(2, rel=0.01)


def test_no_more_is_decoded_than_is_needed(tmp_path, monkeypatch):
    path = make(tmp_path / "a.mp4", g=5, bf=0, sc_threshold=0)
    with Video(path) as video:
        seen, frames = [], video._frames
        video._frames = lambda: (seen.append(frame.pts) or frame for frame in frames())
        video.read([12])
        assert 0 < len(seen) <= 3, "from frame 10 on"
        seen.clear()
        video.read([1, 36])
        assert 0 < len(seen) <= 4, "what lies between is skipped"


def test_scaled_frames(tmp_path):
    path = make(tmp_path / "a.mp4")
    assert read_clip(path, [5], side=24).shape == (1, 24, 32, 3)
    assert number(read_clip(path, [21], side=96)[0]) == 21


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotated_frames_stand_upright(tmp_path, turns):
    """A camera that was turned notes a matrix in the track's header."""
    path = make(tmp_path / "a.mp4", 3)
    plain = read_clip(path, [1])
    one = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}[turns]  # a, b, c, d: clockwise by quarters
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0
    a, b, c, d = (value * 0x10000 for value in one)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    assert torch.equal(read_clip(path, [1]), torch.rot90(plain, -turns, (1, 2)))


def test_one_frame(tmp_path):
    path = make(tmp_path / "a.mp4", 1)
    with Video(path) as video:
        assert video.frames == 1
        assert number(video.read([0, 0])[1]) == 0


def test_a_truncated_file_has_what_is_there(tmp_path):
    whole = make(tmp_path / "a.mkv", g=5).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole[: len(whole) // 2])
    with Video(path) as video:
        assert 0 < video.frames < FRAMES
        good = max(1, video.frames - 6)
        assert [number(frame) for frame in video.read(range(good))] == list(range(good))


def test_a_packet_that_shows_no_frame_leaves_the_one_before(tmp_path):
    """VP8 has pictures from which others are made and which nobody sees."""
    import av

    whole, hidden = make(tmp_path / "a.webm", codec="libvpx"), (20, 21, FRAMES - 1)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "b.webm"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for i, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            data = bytearray(bytes(packet))
            if i in hidden:
                data[0] &= ~0x10  # the bit that shows it
            made = av.Packet(bytes(data))
            made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
            made.is_keyframe, made.stream = packet.is_keyframe, stream
            target.mux(made)
    with Video(tmp_path / "b.webm") as video:
        expected = [19 if i in (20, 21) else FRAMES - 2 if i == FRAMES - 1 else i for i in range(FRAMES)]
        assert [number(frame) for frame in video.read(range(FRAMES))] == expected
        assert [number(frame) for frame in video.read([FRAMES - 1, 21])] == [FRAMES - 2, 19]
        video.check()


def test_frames_that_build_on_what_was_cut_away_show_the_first_one_that_does_not(tmp_path):
    """As of clips that were cut out of films without coding them anew: the first group of frames is open."""
    import av

    options = "open-gop=1:keyint=12:min-keyint=12:b-adapt=0:scenecut=0"
    whole = make(tmp_path / "a.mp4", bf=3, **{"x264-params": options})
    with av.open(str(whole)) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        second = [i for i, packet in enumerate(packets) if packet.is_keyframe][1]
        shown = sum(packet.pts < packets[second].pts for packet in packets)  # the number of the key frame
        stream, start = target.add_stream_from_template(source.streams.video[0]), packets[second].dts
        for packet in packets[second:]:
            packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, stream
            target.mux(packet)
    with Video(tmp_path / "b.mkv") as video:
        first = FRAMES - video.frames
        assert first < shown, "some frames come before the key frame"
        expected = [max(first + i, shown) for i in range(video.frames)]
        assert [number(frame) for frame in video.read(range(video.frames))] == expected
        assert [number(frame) for frame in video.read([video.frames - 1, 0])] == [FRAMES - 1, shown]
        video.check()


@pytest.mark.parametrize("kind", ["empty", "text", "audio", "cut", "folder", "missing", "header"])
def test_what_is_no_video_is_named(tmp_path, kind):
    path = tmp_path / "a.mp4"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no video at all\n" * 50)
    elif kind == "audio":
        audio_only(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in ("cut", "header"):  # the table of its frames stands at its end
        whole = make(tmp_path / "whole.mp4").read_bytes()
        path.write_bytes(whole[: len(whole) // 2 if kind == "cut" else 40])
    with pytest.raises(BrokenSampleError, match=r"a\.mp4 cannot be read as a video \(.+\)"):
        read_clip(path, [0])


def test_what_was_damaged_inside_is_named_or_read(tmp_path):
    """A decoder hides much; what it cannot show has to be said."""
    data = bytearray(make(tmp_path / "a.mkv", codec="ffv1", pixels="yuv444p", slicecrc=1).read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 3] = bytes(len(data) // 3)
    (tmp_path / "a.mkv").write_bytes(data)
    with Video(tmp_path / "a.mkv") as video:
        assert number(video.read([2])[0]) == 2
        told = []
        for index in range(video.frames):
            try:
                told.append(number(video.read([index])[0]))
            except BrokenSampleError as error:
                assert "a.mkv cannot be read as a video" in str(error)  # noqa: PT017
    assert told == sorted(told), "where it is damaged, a decoder may repeat what it had"
    assert told[:3] == [0, 1, 2]
    assert told[-1] == FRAMES - 1


def test_frames_that_are_not_there(tmp_path):
    with Video(make(tmp_path / "a.mp4", 5)) as video:
        for wanted in ([5], [-1], []):
            with pytest.raises(IndexError, match=r"a\.mp4 has frames 0 … 4, not"):
                video.read(wanted)


def test_a_name_may_have_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.mkv", [np.full((24, 32, 3), 9, np.uint8)] * 3, codec="ffv1", pixels="yuv444p")
    path.rename("12:30.mkv")
    assert read_clip(Path("12:30.mkv"), [2]).shape == (1, 24, 32, 3)


def test_small_frames_are_not_enlarged(tmp_path):
    path = write(tmp_path / "a.mkv", [np.full((24, 32, 3), 9, np.uint8)], codec="ffv1", pixels="yuv444p")
    assert read_clip(path, [0], side=48).shape == (1, 24, 32, 3)
