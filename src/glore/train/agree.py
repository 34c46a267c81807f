"""Several processes that train one network do it by one recipe, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from glore.train.blame import RecipeError


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ in two recipes, with both values; a key that is not there has the value `"absent"`."""
    keys = dict.fromkeys((*one, *other))
    pairs = ((key, one.get(key, "absent"), other.get(key, "absent")) for key in keys)
    return [(key, a, b) for key, a, b in pairs if a != b]


class Agree(Callback):
    """Stops all processes of a training, validation, test or prediction if one of them has another recipe.

    Args:
        decisive: the values that decide what a run computes, flat.
    """

    def __init__(self, decisive: Mapping[str, Any]) -> None:
        self.decisive = dict(decisive)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        told: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(told, self.decisive)
        for rank, other in enumerate(told):
            if found := differences(told[0], other):
                said = "; ".join(f"{key} is {a!r} in process 0 and {b!r} in process {rank}" for key, a, b in found[:3])
                raise RecipeError(f"the processes have different recipes ({said}): give all of them the same command")
