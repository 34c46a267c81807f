"""Predictions as files: a mask for each picture, or a table of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor

from glore.data.broken import BrokenSampleError
from glore.train.folder import write_csv
from glore.weights import files

# Colours of the classes 0, 1, 2, …: black, then those that matplotlib calls tab10
PALETTE = bytes.fromhex("000000 1f77b4 ff7f0e 2ca02c d62728 9467bd 8c564b e377c2 7f7f7f bcbd22 17becf")


class Write(BasePredictionWriter):
    """Writes predictions to a folder: masks `<index>.png` as they are made, and at the end a row a sample in a CSV.

    A mask is a PNG whose values are classes, with a palette that shows them. A sample that cannot be read has a row
    that says why.

    Args:
        folder: where to; made if need be.
        dataset: of what is predicted.
        classes: their names.
        top: how many classes a row of the table has.
    """

    def __init__(self, folder: Path, dataset: Any, classes: list[str], top: int = 5) -> None:
        super().__init__("batch")
        self.folder, self.dataset, self.classes, self.top = folder, dataset, classes, min(top, len(classes))
        self.rows: list[dict[str, Any]] = []
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
        if logits.shape[1] > 256:
            raise ValueError(f"a mask holds at most 256 classes, and the network has {logits.shape[1]}")
        for index, mask in zip(indices.tolist(), logits.argmax(1).to("cpu", torch.uint8), strict=True):
            picture = Image.fromarray(mask.numpy(), mode="P")
            picture.putpalette(PALETTE.ljust(3 * 256, b"\x80"))  # a shorter one makes Pillow cut the classes' high bits
            name = f"{index:06d}.png"
            with files.replacing(self.folder / name) as draft:
                picture.save(draft, "PNG")
            self.rows.append({"name": self._name(index), "mask": name})

    def _rows(self, indices: Tensor, logits: Tensor) -> None:
        best = logits.float().softmax(1).topk(self.top)
        for index, values, classes in zip(indices.tolist(), best.values.tolist(), best.indices.tolist(), strict=True):
            row: dict[str, Any] = {"name": self._name(index)}
            if index < 0:
                row["error"] = self._error(-1 - index)
                self.rows.append(row)
                continue
            for place, (value, k) in enumerate(zip(values, classes, strict=True), start=1):
                row |= {f"class_{place}": self.classes[k], f"probability_{place}": round(value, 6)}
            self.rows.append(row)

    def _name(self, index: int) -> str:
        item = index if index >= 0 else -1 - index
        return str(self.dataset.name(item)) if hasattr(self.dataset, "name") else str(item)

    def _error(self, item: int) -> str:
        try:
            self.dataset[item]
        except BrokenSampleError as error:
            return str(error)
        return "it could not be read"

    def on_predict_end(self, trainer: Trainer, task: LightningModule) -> None:
        if self.rows:
            write_csv(self.folder / f"predictions{trainer.global_rank or ''}.csv", self.rows)
