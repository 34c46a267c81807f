"""Several processes that train one network do it by one recipe, or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from glore.train.blame import RecipeError


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Keys whose values differ in two recipes, as flags have them, and both values as text.

    Of a key that is not there the value is "not there". What a value of another class is called with is left out.
    """
    differ = [key for key in {**one, **other} if one.get(key, ...) != other.get(key, ...)]
    names = {key: key.replace(".init_args", "").removesuffix(".class_path") for key in differ}
    mine, theirs = (
        {names[key]: json.dumps(side[key], ensure_ascii=False) for key in differ if key in side}
        for side in (one, other)
    )
    return [
        (name, mine.get(name, "not there"), theirs.get(name, "not there"))
        for name in dict.fromkeys(names.values())
        if not any(name.startswith(f"{head}.") for head in names.values())
    ]


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
                said = "; ".join(f"{key} is {a} in process 0 and {b} in process {rank}" for key, a, b in found[:3])
                raise RecipeError(f"the processes have different recipes ({said}): give all of them the same command")
