"""Videos with a class each: which frames are taken, and how folders and tables name them."""

import numpy as np
import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("torchvision")
from glore.data.broken import BrokenSampleError
from glore.data.clips import ClipFolder, Clips, ClipTable, Moments
from glore.data.decode import Video
from glore.data.frames import Frames
from videos import write

PLAIN = {"jitter": 0, "mean": (0, 0, 0), "std": (1, 1, 1)}


def grey(count, high=24, wide=32):
    """Frames whose brightness is four times their number."""
    return [np.full((high, wide, 3), 4 * i, np.uint8) for i in range(count)]


def video(path, count=50):
    return write(path, grey(count), codec="ffv1", pixels="yuv444p")


def numbers(clip):
    """Which frames a clip (3, t, h, w) is made of."""
    return (clip.mean((0, 2, 3)) * 255 / 4).round().long().tolist()


@pytest.fixture
def one(tmp_path):
    return [(video(tmp_path / "a.mkv"), 3)]


def test_a_clip_of_training_begins_anywhere(one):
    data = Clips(one, "abcd", frames=4, stride_frames=5, preset=Frames(16, **PLAIN), training=True)
    begins = set()
    for _ in range(60):
        clip, label = data[0]
        assert (clip.shape, label) == ((3, 4, 16, 16), 3)
        first, *rest = numbers(clip)
        assert rest == [first + 5, first + 10, first + 15]
        begins.add(first)
    assert min(begins) < 6
    assert 28 < max(begins) <= 34
    assert data.views == 1


@pytest.mark.parametrize(("clips", "begins"), [(1, [17]), (2, [0, 34]), (3, [0, 17, 34])])
def test_clips_of_testing_are_spread(one, clips, begins):
    data = Clips(one, "abcd", 4, 5, clips, Frames(16, crops=3, **PLAIN))
    item, _ = data[0]
    assert data.views == 3 * clips
    assert item.shape == (3 * clips, 3, 4, 16, 16)
    assert [numbers(clip) for clip in item[::3]] == [[b, b + 5, b + 10, b + 15] for b in begins]


def test_a_short_video_is_looped(tmp_path):
    data = Clips([(video(tmp_path / "a.mkv", 3), 0)], "a", 8, 2, preset=Frames(16, **PLAIN))
    assert numbers(data[0][0]) == [0, 2, 1, 0, 2, 1, 0, 2]
    data = Clips([(video(tmp_path / "b.mkv", 1), 0)], "a", 4, 8, preset=Frames(16, **PLAIN), training=True)
    assert numbers(data[0][0]) == [0, 0, 0, 0]


def test_moments_cover_a_video(tmp_path, one):
    (tmp_path / "b.mp4").write_text("no video")
    paths = [one[0][0], tmp_path / "b.mp4"]
    data = Moments(paths, "abcd", frames=4, stride_frames=5, preset=Frames(16, **PLAIN))
    assert [data.name(i) for i in range(len(data))] == [str(paths[0])] * 3 + [str(paths[1])]
    assert [numbers(data[i][0])[0] for i in range(3)] == [0, 20, 34], "the last one ends with the video"
    assert data.seconds(1) == pytest.approx((0.8, 1.6))
    with pytest.raises(BrokenSampleError, match=r"b\.mp4 cannot be read as a video"):
        data[3]
    assert data.blank().shape == (3, 4, 16, 16)


def test_moments_are_timed_by_their_frames(tmp_path):
    times = [*range(0, 80, 4), *range(100, 900, 40)]  # hundredths of a second: twenty frames quick, twenty slow
    path = write(tmp_path / "a.mkv", grey(40), codec="ffv1", pixels="yuv444p", times=times)
    data = Moments([path], "abcd", frames=4, stride_frames=5, preset=Frames(16, **PLAIN))
    assert data.seconds(0) == pytest.approx((0, 1))
    assert data.seconds(1)[0] == pytest.approx(1)
    assert data.seconds(1)[1] >= 8.6


def test_the_packets_of_a_long_video_are_read_once(tmp_path, monkeypatch):
    listed = []
    monkeypatch.setattr(Video, "_list", lambda video, once=Video._list: listed.append(video.path) or once(video))
    paths = [video(tmp_path / "a.mkv", 50), video(tmp_path / "b.mkv", 20)]
    data = Moments(paths, "abcd", frames=2, stride_frames=5, preset=Frames(16, **PLAIN))
    assert [numbers(data[i][0])[0] for i in range(len(data))] == [0, 10, 20, 30, 40, 0, 10]
    assert listed == paths


def test_crops():
    """A picture of 80 columns, each brighter by one: three crops along it, five in corners and centre."""
    frames = torch.arange(80, dtype=torch.uint8).expand(2, 40, 80)[..., None].repeat(1, 1, 1, 3)
    for crops, lefts in ((1, [20]), (3, [0, 20, 40])):
        preset = Frames((40, 40), crops=crops, **PLAIN)
        preset.TESTING = 1.0
        views = preset.testing(frames)
        assert [view.shape for view in views] == [(3, 2, 40, 40)] * crops
        assert [round(float(view[0, 0, 0, 0]) * 255) for view in views] == lefts
    assert len(Frames(32, crops=5, **PLAIN).testing(frames)) == 5
    (view,) = Frames((20, 50), **PLAIN).testing(frames)
    assert view.shape == (3, 2, 20, 50)


@pytest.mark.parametrize("seed", range(5))
def test_all_frames_are_changed_alike(seed):
    torch.manual_seed(seed)
    frame = torch.randint(256, (1, 30, 50, 3), dtype=torch.uint8)
    clip = Frames(24, jitter=0.4).training(frame.repeat(4, 1, 1, 1))
    assert clip.shape == (3, 4, 24, 24)
    assert all(torch.equal(clip[:, 0], clip[:, i]) for i in range(4))


def test_folders(tmp_path):
    for name in ("run", "jump"):
        for i in range(12):
            video(tmp_path / name / f"{i}.mkv", 2)
    sets = {split: ClipFolder(split, str(tmp_path), 2, 1, preset=Frames(16)) for split in ("train", "val", "test")}
    assert sets["train"].classes == ["jump", "run"]
    assert [len(data) for data in sets.values()] == [20, 2, 2]
    assert len({path for data in sets.values() for path, _ in data.samples}) == 24
    with pytest.raises(FileNotFoundError, match="has no folders of videos, one a class"):
        ClipFolder("train", str(tmp_path / "run"))


def test_a_table(tmp_path):
    for name in ("a", "b", "c"):
        video(tmp_path / f"{name}.mkv", 2)
    table = tmp_path / "clips.csv"
    table.write_text("path, label,scene, split\n a.mkv,serve ,1,train\nb.mkv,lob,2, train\n , ,,\nc.mkv,lob,3,val\n")
    assert ClipTable("train", str(tmp_path)).samples == [(tmp_path / "a.mkv", 1), (tmp_path / "b.mkv", 0)]
    assert ClipTable("test", str(tmp_path)).samples == [(tmp_path / "c.mkv", 0)], "val stands for it"
    table.write_text("path,label,split\na.mkv,,train\n")
    with pytest.raises(ValueError, match=r"clips\.csv, line 2: no label"):
        ClipTable("train", str(tmp_path))
    table.write_text("file,label,split\n")
    with pytest.raises(
        ValueError, match=r"clips\.csv lacks the column 'path': its first line must name path, label, split"
    ):
        ClipTable("train", str(tmp_path))
    table.write_text("path,label,split\na.mkv,lob,val\n")
    with pytest.raises(ValueError, match=r"no rows of the split 'train', but of 'val'"):
        ClipTable("train", str(tmp_path))
    table.write_text("path,label,split\na.mkv,lob,train\n\nb.mkv,lob,training\n")
    with pytest.raises(ValueError, match=r"clips\.csv, line 4: split 'training' must be 'train', 'val', 'test'"):
        ClipTable("train", str(tmp_path))
    table.write_bytes("path,label,split\na.mkv,ü,train\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"clips\.csv is no UTF-8 text"):
        ClipTable("train", str(tmp_path))
    table.write_text("path,label,split\n" + "a" * 200_000)
    with pytest.raises(ValueError, match=r"clips\.csv, line 2: field larger than .*; give a CSV file"):
        ClipTable("train", str(tmp_path))
    table.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"clips\.csv is missing: a CSV file with the columns path, label, split"
    ):
        ClipTable("train", str(tmp_path))


@pytest.mark.parametrize(
    "arguments", [{"size": 0}, {"short": (2, 1)}, {"aspect": (0, 1)}, {"jitter": 1.0}, {"std": (1, 1, 0)}]
)
def test_presets_refuse_what_is_out_of_range(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}="):
        Frames(**arguments)
    with pytest.raises(ValueError, match="stride_frames=0 must be at least 1"):
        Clips([], [], stride_frames=0)
