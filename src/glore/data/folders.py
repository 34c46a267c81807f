"""Files in a folder for each class, and how they are split to train, to validate and to test."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

VALIDATION = ("val", "valid", "validation")
FOLDERS = {  # split → where it lies, the first that is there
    "train": ("train", "training"),
    "val": VALIDATION,
    "test": ("test", "testing", *VALIDATION),
}


def labelled(
    split: str, root: str, suffixes: Collection[str], held_out: float, what: str
) -> tuple[list[tuple[Path, int | None]], list[str]]:
    """The files of a split with their classes, and the classes' names; see `glore.data.images.ImageFolder`.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        root: the folder.
        suffixes: of the files that count.
        held_out: share of each class that is held out for a split without a folder, one file at least.
        what: the files are, for messages.

    Raises:
        FileNotFoundError: there is no such folder, or a class has too few files to train and to hold out.
        ValueError: an argument is out of range, a class's name cannot be shown, or a split has a class that the
            training files have not.
    """
    base = checked(split, root)
    if not 0 < held_out < 0.5:
        raise ValueError(f"held_out={held_out} must be a share between 0 and 0.5")
    there = {folder.name.lower(): folder for folder in sorted(base.iterdir()) if _is_split(folder)}
    if len(there) == 1 or not there.keys() & FOLDERS["train"]:  # a class may be called Train
        there = {name: folder for name, folder in there.items() if folder.name == name}
    own = {name: next((there[f] for f in folders if f in there), None) for name, folders in FOLDERS.items()}
    training = own["train"] or base
    classes = [name for name in _subfolders(training) if own["train"] or training / name not in there.values()]
    if strange := [name for name in classes if not name.isprintable()]:  # nor does a run's list of them keep it
        raise ValueError(f"{training} has a class {strange[0]!r}, whose name cannot be shown: rename it")
    for name in classes if own["train"] is None else ():
        inside = {inner.lower() for inner in _subfolders(base / name)}
        trains, tests = (bool(inside & {*FOLDERS[split]}) for split in ("train", "test"))
        if trains and (tests or len(classes) == 1):
            raise ValueError(f"root={root!r} has no split of its own, and {base / name} has: give that")
    source = own[split]
    if not classes and source is not None and split != "train":  # to test alone, no training pictures are needed
        classes = _subfolders(source)
    if not classes:
        raise FileNotFoundError(
            f"root={root!r}: {training} has no folders of {what}, one a class (none of them train, val or test)"
        )
    folder = training if source is None else source
    if folder != training and (unknown := set(_subfolders(folder)) - set(classes)):
        raise ValueError(f"{folder} has a class {min(unknown)!r}, which {training} has not")
    cut = [name for name in ("val", "test") if own[name] is None]
    kinds = ", ".join(sorted(suffixes))
    samples: list[tuple[Path, int | None]] = []
    for label, name in enumerate(classes):
        paths = files_in(folder / name, suffixes)
        if folder == training:
            each = max(1, round(held_out * len(paths)))
            if not paths:
                raise FileNotFoundError(f"{folder / name} has no {what} ({kinds})")
            if len(paths) <= each * len(cut):
                raise FileNotFoundError(
                    f"{folder / name} has {len(paths)} {what}: too few to train and to hold out {each} each for "
                    f"{' and '.join(cut)}; add some, lower held_out, or give {' and '.join(cut)} folders of their own"
                )
            paths = _part(paths, split, cut, each)
        samples += [(path, label) for path in paths]
    if folder != training and not _subfolders(folder) and files_in(folder, suffixes):
        cure = "glore predict takes those without one" if split == "test" else "sort them, or take the folder away"
        raise FileNotFoundError(f"{folder} has {what}, but in no folders of a class each: {cure}")
    if not samples:
        raise FileNotFoundError(f"root={root!r}: no {what} for {split} in {folder} ({kinds})")
    return samples, classes


def _part(paths: list[Path], split: str, cut: list[str], each: int) -> list[Path]:
    """What a split has of a class's training files, of which each split in `cut` gets so many."""
    drawn = sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(path.name)).digest())
    if split == "train":
        return sorted(drawn[each * len(cut) :])
    start = each * cut.index(split)
    return sorted(drawn[start : start + each])


def checked(split: str, root: str) -> Path:
    """The folder, if it is one and the split is known."""
    if split not in FOLDERS:
        raise ValueError(f"split={split!r} must be one of {', '.join(map(repr, FOLDERS))}")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"root={root!r} is no folder: give --data.root DIR")
    return Path(root)


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """All files of these suffixes in a folder and the folders in it, in order, but for hidden ones.

    A folder to which links lead, from beside it or from within, is walked once, by its own name if it is beside them.
    """
    found, walked = [], {folder.resolve()}
    for parent, folders, names in os.walk(folder, followlinks=True):
        places: dict[Path, str] = {}
        for name in sorted(folders, key=lambda name: (Path(parent, name).is_symlink(), name)):
            if not name.startswith("."):
                places.setdefault(Path(parent, name).resolve(), name)
        folders[:] = [name for place, name in places.items() if place not in walked]
        walked |= places.keys()
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in suffixes)


def listed(paths: Sequence[Path], suffixes: Collection[str], what: str) -> list[Path]:
    """The files that paths name: files, all in folders, and those in text files.

    A line of a text file is a path from where that lies, with a class behind it or not.

    Raises:
        FileNotFoundError: there is no such path, no file of these suffixes in a folder, or nothing in a text file.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = files_in(path, suffixes)
            if not files:
                raise FileNotFoundError(f"{path} has no {what} ({', '.join(sorted(suffixes))})")
            found += files
        elif not path.is_file():
            raise FileNotFoundError(f"{path}: no such file or folder")
        elif path.suffix.lower() == ".txt":
            lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
            if not lines:
                raise FileNotFoundError(f"{path} is empty: a line is the path of one of the {what}")
            found += [_of_line(path.parent, line) for line in lines]
        else:
            found.append(path)
    return found


def _of_line(folder: Path, line: str) -> Path:
    """The path that a line names, alone or, as in a list to train on, before a class."""
    alone, before = folder / line, folder / parted(line)[0]
    with suppress(OSError):  # a line may be too long for a name
        if before.is_file() and not alone.exists():
            return before
    return alone


def parted(line: str) -> list[str]:
    """A path and a class, which white space parts, or a tab where the class's name has spaces."""
    line = line.strip()
    return [part.strip() for part in line.rsplit("\t" if "\t" in line else None, maxsplit=1)]


def read_text(path: Path) -> str:
    """What a text file says; the error of one that is no UTF-8 names it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from error


def _is_split(path: Path) -> bool:
    """Whether a folder is a split's; where the name is as good for a class, it holds the classes' folders."""
    names = {name for folders in FOLDERS.values() for name in folders}
    return path.is_dir() and (path.name in FOLDERS or (path.name.lower() in names and bool(_subfolders(path))))


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
