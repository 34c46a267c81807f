"""Read every file of a data set once, before a training does, and write down which ones are missing or broken."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, Subset

from glore.data.broken import BrokenSampleError
from glore.train.data import Data
from glore.train.folder import write_csv
from glore.train.progress import bar
from glore.weights import files

SCAN, GOOD = "scan.csv", "good.txt"
COLUMNS = ("split", "name", "files", "fault")


class _Faults(Dataset[tuple[int, str]]):
    """What is wrong with each item of a dataset; nothing is an empty text."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, str]:
        try:
            check = getattr(self.dataset, "check", self.dataset.__getitem__)
            check(index)
        except (BrokenSampleError, ValueError, FileNotFoundError) as error:
            return index, " ".join(str(error).split())
        return index, ""


def scan(data: Data, folder: Path) -> list[dict[str, str]]:
    """Read each item of all splits, unless an earlier scan did and the files that it is read from are as they were.

    Writes to the folder, as it goes, `scan.csv`, a row an item: split, name, the state of each of its files, and what
    is wrong with it; and at the end `good.txt`, the names of those with which nothing is wrong, a line each: paths as
    absolute ones, since the list may lie anywhere.

    Returns:
        The rows of all items.

    Raises:
        ValueError: the data set does not tell which files its items are read from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = {(row["name"], row["files"]): row for row in _read(folder / SCAN)}
    write_csv(folder / SCAN, list(before.values()), COLUMNS)  # a last row that was cut off is gone
    rows: dict[str, dict[str, str]] = {}
    for split in ("train", "val", "test"):
        dataset = data.split(split)
        if not hasattr(dataset, "files"):
            raise ValueError(
                f"{type(dataset).__name__} does not tell which files its items are read from, so there is nothing to "
                "scan: give it the methods name(index) and files(index)"
            )
        absent = {str(path): "it is missing" for path in getattr(dataset, "absent", ())}
        rows = {name: {"split": split, "name": name, "files": "", "fault": absent[name]} for name in absent} | rows
        new = []
        for index in range(len(dataset)):
            name = dataset.name(index)
            known = before.get((name, _state(dataset, index)))
            if known and not known["fault"]:  # what was wrong may have been mended elsewhere, as in a list of classes
                rows.setdefault(name, {**known, "split": split})
            elif name not in rows:
                new.append(index)
        with (folder / SCAN).open("a", newline="", encoding="utf-8", errors="backslashreplace") as file:
            table = csv.DictWriter(file, COLUMNS)
            for index, fault in _scanned(dataset, new, data.workers, split):
                name = dataset.name(index)
                rows[name] = {"split": split, "name": name, "files": _state(dataset, index), "fault": fault}
                table.writerow(rows[name])
                file.flush()
    write_csv(folder / SCAN, list(rows.values()), COLUMNS)
    good = [Path(name).absolute() if Path(name).exists() else name for name, row in rows.items() if not row["fault"]]
    files.write(folder / GOOD, "".join(f"{name}\n" for name in good))
    return list(rows.values())


def _scanned(dataset: Any, indices: list[int], workers: int, split: str) -> Iterator[tuple[int, str]]:
    if not indices:
        return
    loader = DataLoader(Subset(_Faults(dataset), indices), batch_size=None, num_workers=workers)
    with bar(len(indices), desc=split) as shown:
        for found in loader:
            yield found
            shown.update()


def _state(dataset: Any, index: int) -> str:
    """Size in bytes and time of the last change, in nanoseconds, of each file that an item is read from.

    With them, of masks, a checksum of the values that they may have.
    """
    stats = [path.stat() if path.is_file() else None for path in dataset.files(index)]
    known = [f"{stat.st_size}@{stat.st_mtime_ns}" if stat else "absent" for stat in stats]
    values = getattr(dataset, "values", None)
    return " ".join([*known, *([f"{zlib.crc32(repr(values).encode()):08x}"] if values else [])])


def _read(path: Path) -> list[dict[str, str]]:
    """The whole rows of an earlier scan."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if set(row) == set(COLUMNS) and None not in row.values()]
