"""Variants × seeds: the cells of a comparison, each a recipe with a folder of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from glore.train.blame import RecipeError
from glore.train.recipe import Comparison, Recipe
from glore.train.run import RESULT, SAMPLES
from glore.train.tree import Tree, check, check_unit, flat, put, varied


@dataclass(frozen=True)
class Cell:
    """One variant with one seed, in a folder of its own."""

    variant: str
    seed: int
    tree: Tree
    folder: Path

    @cached_property
    def recipe(self) -> Recipe:
        """Parsed when it is asked for: it takes a third of a second, and many cells are asked for nothing."""
        return Recipe(self.tree)

    @property
    def name(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    def result(self) -> dict[str, Any] | None:
        """The result, once the cell is finished."""
        path = self.folder / RESULT
        if not (path.is_file() and (self.folder / SAMPLES).is_file()):  # the latter, too, is made from what was trained
            return None
        try:
            result: dict[str, Any] = json.loads(path.read_text())
        except ValueError:  # damaged: it is made anew from what was trained
            return None
        self.recipe.take_classes(len(result.get("classes", ())))
        return result if result.get("hash") == self.recipe.hash else None

    def counts(self) -> Tensor:
        """What each test sample adds to the scores: (samples, *counts)."""
        path = self.folder / SAMPLES
        try:
            return load_file(path)["counts"]
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}): remove it, and {self.name} is finished anew") from error


@dataclass(frozen=True)
class Grid:
    """All cells of a comparison, seed by seed, the baselines first."""

    comparison: Comparison
    cells: list[Cell]
    out: Path

    @classmethod
    def of(cls, tree: Tree, out: Path, seeds: Sequence[int] = (), known: Sequence[Cell] = ()) -> Grid:
        """The cells of a recipe's comparison.

        Args:
            tree: the recipe.
            out: the comparison's folder. Seeds that have a folder there are part of the table.
            seeds: besides the recipe's.
            known: cells of the same recipe and folder, which are not parsed again.

        Raises:
            RecipeError: the recipe compares nothing, names a control that is none, or has a variant without effect.
        """
        comparison = Recipe(tree).comparison
        baselines, variants = comparison.baselines, comparison.variants
        if unknown := [name for name in baselines or [""] if name not in variants]:
            raise RecipeError(
                f"the recipe has no variant {unknown[0]!r} to compare with: "
                "give compare.variants, and name one of them in compare.baseline"
            )
        if comparison.control not in (*variants, Comparison.control):
            raise RecipeError(f"the recipe has no variant {comparison.control!r}, which compare.control names")
        if not comparison.seeds:
            raise RecipeError("compare.seeds=[] must have a seed at least")
        slugs = {_slug(name): name for name in variants}
        if len(slugs) < len(variants):
            twins = next(name for name in variants if name not in slugs.values())
            raise RecipeError(f"two variants would share the folder {_slug(twins)}: rename {twins!r}")
        found = [int(match[1]) for folder in out.glob("*/seed*") if (match := re.fullmatch(r"seed(\d+)", folder.name))]
        cells, parsed = [], {cell.folder: cell for cell in known}
        for seed in sorted({*comparison.seeds, *seeds, *found}):
            for name in dict.fromkeys((*baselines, *variants)):
                own = varied(tree, name)
                check_unit(own, variants[name] or ())
                put(own, "seed", seed)
                if "trainer.devices" not in flat(own):  # Lightning takes all that there are
                    put(own, "trainer.devices", 1)
                folder = out / _slug(name) / f"seed{seed}"
                cells.append(parsed.get(folder) or Cell(name, seed, own, folder))
        return cls(comparison, cells, out)

    @property
    def metric(self) -> str:
        """The name of the score that the verdict is about."""
        return self.comparison.metric or self.cells[0].recipe.task_class.metric

    def finished(self) -> list[tuple[Cell, dict[str, Any]]]:
        """The cells with a result."""
        return [(cell, result) for cell in self.cells if (result := cell.result()) is not None]

    def pick(self, variants: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Cell]:
        """The cells of these variants and seeds; where none are named, of all variants, and of the recipe's seeds.

        Raises:
            RecipeError: there is no such variant; the message lists them.
        """
        for name in variants:
            check(name, self.comparison.variants)
        return [
            cell
            for cell in self.cells
            if (not variants or cell.variant in variants) and cell.seed in (seeds or self.comparison.seeds)
        ]


def _slug(name: str) -> str:
    return re.sub(r"[^\w+.-]+", "-", name)
