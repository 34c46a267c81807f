"""What the labels of pixels mean, to those who write them and to those who count them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

IGNORED = 255  # the label of pixels that count for nothing
INSTANCE = 256  # a label is a class, plus this many times the instance to which the pixel belongs, 0 for none
MOST = 1000  # instances of a class in a picture; an instance is this many times (its class + 1), plus its number


def check_taught(found: Collection[int], classes: Sequence[str]) -> None:
    """Raise a ValueError if the labels of all masks together tell no two classes apart."""
    alone = [f"of {classes[label]!r} alone" for label in found if label < len(classes)] or ["of no class"]
    if len({*found} - {IGNORED}) < 2:
        raise ValueError(
            f"the masks have pixels {alone[0]}, so nothing can be learnt: {IGNORED} counts for nothing, and where "
            "there are two classes, their values are 0 and 1"
        )
