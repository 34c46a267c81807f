"""Predictions as files: masks, and what they look like over the picture, or a table of classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor

from glore.data.pictures import read_picture
from glore.data.samples import Samples
from glore.train.data import fault, named
from glore.train.folder import write_csv
from glore.weights import files

# Colours of the classes 0, 1, 2, …: black, then those that matplotlib calls tab10
PALETTE = bytes.fromhex("000000 1f77b4 ff7f0e 2ca02c d62728 9467bd 8c564b e377c2 7f7f7f bcbd22 17becf")
SHADE = 0.55  # of the classes' colours, laid over a picture


def palette(dataset: Any) -> bytes:
    """Three bytes for each class of a data set: its own colours, or else black and tab10, then ever other ones."""
    own, count = getattr(dataset, "palette", None), len(dataset.classes)
    if own:
        return bytes(value for colour in own for value in colour)
    further = ((67 * k % 256, 131 * k % 256, 199 * k % 256) for k in range(len(PALETTE) // 3, count))
    return PALETTE[: 3 * count] + bytes(value for colour in further for value in colour)


class Write(BasePredictionWriter):
    """Writes predictions to a folder: masks as they are made, and at the end a row a sample in `predictions.csv`.

    A mask is a PNG whose values are classes, with a palette that shows them. It has its picture's name, or the number
    of the sample; pictures of one name have their numbers too. Where there are files of pictures, `overlays/` has each
    picture under its mask's colours; where the data set's own evaluation has other numbers for its classes,
    `submission/` has masks of those. A sample that cannot be read has a row that says why. A folder's table is of the
    last predictions in it; masks of other pictures stay. A folder from which pictures are read gets no masks.

    Args:
        folder: where to; made if need be.
        dataset: of what is predicted.
        top: how many classes a row of the table has.
        replace: whether files that are there may be replaced, as those of earlier predictions may; never those of the
            data set itself.
    """

    def __init__(self, folder: Path, dataset: Any, top: int = 5, replace: bool = True) -> None:
        super().__init__("batch")
        self.folder, self.dataset, self.classes = folder, dataset, list(dataset.classes)
        self.top = min(top, len(self.classes))
        self.rows: list[dict[str, Any]] = []
        samples = dataset.samples if isinstance(dataset, Samples) else []
        self.pictures = [path for path, *_ in samples]
        self.taken = {part.resolve() for sample in samples for part in sample if isinstance(part, Path)}
        self.replace, self.begun = replace, False
        self.named = Counter(path.stem for path in self.pictures)
        self.ids = getattr(dataset, "ids", None)
        folder.mkdir(parents=True, exist_ok=True)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        task: LightningModule,
        prediction: tuple[Tensor, Tensor],
        batch_indices: Any,
        batch: Any,
        batch_index: int,
        dataloader_index: int,
    ) -> None:
        indices, logits = prediction
        if logits.dim() == 2:
            self._rows(indices, logits)
            return
        if logits.shape[1] > 256:  # of a task of one's own: ours refuse them before
            raise ValueError(f"a mask holds at most 256 classes, and the network has {logits.shape[1]}: join some")
        if not self.begun:
            self._begin()
        self.begun = True
        for index, mask in zip(indices.tolist(), logits.argmax(1).to("cpu", torch.uint8), strict=True):
            if index < 0:
                self.rows.append({"name": self._name(index), "error": fault(self.dataset, -1 - index)})
                continue
            name = self._file(index)
            self._masks(index, name, mask.numpy())
            self.rows.append({"name": self._name(index), "mask": name})

    def _begin(self) -> None:
        """Refuse to replace or add pictures, before anything is written; then mark the folder as one of predictions."""
        read = {path.parent.resolve() for path in self.pictures}
        for folder in (self.folder, self.folder / "overlays", self.folder / "submission"):
            if folder.resolve() in read:
                raise ValueError(f"pictures are read from {folder}, which would have masks, too: give another --to")
            for index in range(len(self.dataset)):
                path = folder / self._file(index)
                if path.resolve() in self.taken or (path.exists() and not self.replace):
                    raise ValueError(f"{path} is there already, and a prediction would replace it: give another --to")
        write_csv(self.folder / "predictions.csv", [], ["name"])

    def _file(self, index: int) -> str:
        """The name of a mask's file."""
        if not self.pictures:
            return f"{index:06d}.png"
        stem = self.pictures[index].stem
        if self.named[stem] == 1:
            return f"{stem}.png"
        numbered = f"{stem}_{index:06d}"
        while numbered in self.named:  # another picture's own name
            numbered += "_"
        return f"{numbered}.png"

    def _masks(self, index: int, name: str, mask: np.ndarray) -> None:
        picture = Image.fromarray(mask, mode="P")
        colours = palette(self.dataset).ljust(3 * 256, b"\x80")  # a shorter one makes Pillow cut the classes' high bits
        picture.putpalette(colours)
        self._save(picture, self.folder / name)
        if self.pictures:
            below = read_picture(self.pictures[index])
            self._save(Image.blend(below, picture.convert("RGB"), SHADE), self.folder / "overlays" / name)
        if self.ids:
            self._save(Image.fromarray(np.array(self.ids, dtype=np.uint8)[mask]), self.folder / "submission" / name)

    def _rows(self, indices: Tensor, logits: Tensor) -> None:
        best = logits.float().softmax(1).topk(self.top)
        for index, values, classes in zip(indices.tolist(), best.values.tolist(), best.indices.tolist(), strict=True):
            row: dict[str, Any] = {"name": self._name(index), **self._seconds(index)}
            if index < 0:
                row["error"] = fault(self.dataset, -1 - index)
                self.rows.append(row)
                continue
            for place, (value, k) in enumerate(zip(values, classes, strict=True), start=1):
                row |= {f"class_{place}": self.classes[k], f"probability_{place}": round(value, 6)}
            self.rows.append(row)

    def _seconds(self, index: int) -> dict[str, float]:
        """When the sample is in its video, if it is of one."""
        if index < 0 or not hasattr(self.dataset, "seconds"):
            return {}
        return {name: round(s, 2) for name, s in zip(("from_s", "to_s"), self.dataset.seconds(index), strict=True)}

    def _name(self, index: int) -> str:
        item = index if index >= 0 else -1 - index
        return named(self.dataset, item)

    def _columns(self) -> list[str]:
        """The same for all predictions of a kind, whatever could not be read."""
        seconds = ["from_s", "to_s"] if hasattr(self.dataset, "seconds") else []
        ranked = [f"{what}_{place}" for place in range(1, self.top + 1) for what in ("class", "probability")]
        return ["name", *seconds, *(["mask"] if self.begun else ranked), "error"]

    def on_predict_end(self, trainer: Trainer, task: LightningModule) -> None:
        if self.rows:
            write_csv(self.folder / "predictions.csv", self.rows, self._columns())

    def on_exception(self, trainer: Trainer, task: LightningModule, exception: BaseException) -> None:
        self.on_predict_end(trainer, task)  # what is predicted is kept

    def _save(self, picture: Image.Image, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        with files.replacing(path) as draft:
            picture.save(draft, "PNG")
