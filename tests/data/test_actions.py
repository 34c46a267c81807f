"""Data sets of actions, as their official lists have them on the disk."""

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("torchvision")
from glore.data.actions import HMDB51, UCF101, Kinetics
from videos import write

FRAMES = [np.full((24, 32, 3), 4 * i, np.uint8) for i in range(2)]


def test_kinetics(tmp_path):
    head = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "train.csv").write_text(head + "abseiling,-aB_c,10,20,train\nzumba,gone,7,17,train\n")
    (tmp_path / "val.csv").write_text(head + "zumba,xyz,3,13,val\n")
    first = write(tmp_path / "train/abseiling/-aB_c_000010_000020.mp4", FRAMES)
    write(tmp_path / "val/zumba/xyz_000003_000013.mp4", FRAMES)
    data = Kinetics("train", str(tmp_path))
    assert data.classes == ["abseiling", "zumba"]
    assert data.samples == [(first, 0)]
    assert data.absent == [tmp_path / "train/zumba/gone_000007_000017.mp4"]
    assert Kinetics("test", str(tmp_path)).samples == [(tmp_path / "val/zumba/xyz_000003_000013.mp4", 1)]
    (tmp_path / "val/zumba/xyz_000003_000013.mp4").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of the 1 videos is there; the first would be .*xyz_000003"):
        Kinetics("val", str(tmp_path))


def test_ucf101(tmp_path):
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 Archery\n")
    (lists / "trainlist02.txt").write_text("Archery/v_Archery_g08_c01.avi 2\n")
    (lists / "testlist02.txt").write_text("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n")
    for name in ("Archery/v_Archery_g08_c01.avi", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"):
        write(tmp_path / "UCF-101" / name, FRAMES, codec="mpeg4")
    (sample,) = UCF101("train", str(tmp_path), fold=2).samples
    assert sample == (tmp_path / "UCF-101/Archery/v_Archery_g08_c01.avi", 1)
    ((_, label),) = UCF101("val", str(tmp_path), fold=2).samples
    assert label == 0
    sample[0].unlink()
    with pytest.raises(FileNotFoundError, match=r"v_Archery_g08_c01\.avi is missing, as 1 of 1 videos are"):
        UCF101("train", str(tmp_path), fold=2)
    with pytest.raises(FileNotFoundError, match=r"trainlist01\.txt is missing: unpack the official lists there"):
        UCF101("train", str(tmp_path))
    (lists / "trainlist03.txt").write_text("Juggling/v_Juggling_g08_c01.avi 3\n")
    with pytest.raises(
        ValueError, match=r"trainlist03\.txt: .* is of the class 'Juggling', which classInd\.txt has not"
    ):
        UCF101("train", str(tmp_path), fold=3)
    (lists / "classInd.txt").write_text("ApplyEyeMakeup\n")
    with pytest.raises(ValueError, match=r"classInd\.txt, line 1: 'ApplyEyeMakeup' must be: number class"):
        UCF101("train", str(tmp_path), fold=3)


def test_hmdb51(tmp_path):
    (tmp_path / "splits").mkdir()
    for name in ("brush_hair", "cartwheel"):
        (tmp_path / f"splits/{name}_test_split1.txt").write_text("a.avi 1 \nb.avi 2 \nc.avi 0 \n")
        for stem in "abc":
            write(tmp_path / f"videos/{name}/{stem}.avi", FRAMES, codec="mpeg4")
    data = HMDB51("train", str(tmp_path))
    assert data.classes == ["brush_hair", "cartwheel"]
    assert [(path.name, label) for path, label in data.samples] == [("a.avi", 0), ("a.avi", 1)]
    assert [path.name for path, _ in HMDB51("test", str(tmp_path)).samples] == ["b.avi", "b.avi"]
    with pytest.raises(FileNotFoundError, match=r"has no lists <class>_test_split3\.txt"):
        HMDB51("train", str(tmp_path), fold=3)
