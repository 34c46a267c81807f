"""Learning rates over a training: each schedule gives, for a step of how many, the share of the full learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int, int], float]


def constant(step: int, steps: int) -> float:
    """Return the full learning rate, always.

    Example:
        >>> constant(7, 10)
        1.0
    """
    return 1.0


class Warmup:
    """Rise linearly from `warmup_from`, which the step before the first would have, to 1, then follow `after`.

    Args:
        warmup: how long to rise: a share of all steps in [0, 1), or a number of steps if 1 or more.
        warmup_from: share of the learning rate to rise from.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, warmup: float = 0.0, warmup_from: float = 0.0) -> None:
        if warmup < 0:
            raise ValueError(f"warmup={warmup} must be a share of all steps in [0, 1), or a number of steps")
        if not 0 <= warmup_from <= 1:
            raise ValueError(f"warmup_from={warmup_from} must be in [0, 1]")
        self.warmup, self.warmup_from = warmup, warmup_from

    def __call__(self, step: int, steps: int) -> float:
        rise = self.warmup * steps if self.warmup < 1 else self.warmup
        if step < rise:
            return self.warmup_from + (1 - self.warmup_from) * (step + 1) / (rise + 1)
        return self.after((step - rise) / max(steps - rise, 1))

    def after(self, progress: float) -> float:
        """The share of the learning rate at `progress` in [0, 1] of the steps behind the warm-up."""
        raise NotImplementedError


class Cosine(Warmup):
    """Half a cosine from 1 down to `end`. Source: Loshchilov, Hutter, ICLR 2017 (arXiv 1608.03983), without restarts.

    Example:
        >>> [round(Cosine(warmup=0.2)(step, 10), 2) for step in (0, 2, 6, 10)]
        [0.33, 1.0, 0.5, 0.0]
    """

    def __init__(self, warmup: float = 0.0, warmup_from: float = 0.0, end: float = 0.0) -> None:
        super().__init__(warmup, warmup_from)
        self.end = end

    def after(self, progress: float) -> float:
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


class Poly(Warmup):
    """Fall as (1 − progress) to a power, the usual schedule of segmentation. Source: Liu et al., arXiv 1506.04579.

    Example:
        >>> round(Poly(power=2)(5, 10), 2)
        0.25
    """

    def __init__(self, power: float = 0.9, warmup: float = 0.0, warmup_from: float = 0.0) -> None:
        super().__init__(warmup, warmup_from)
        self.power = power

    def after(self, progress: float) -> float:
        return float(max(0.0, 1 - progress) ** self.power)


class Steps(Warmup):
    """Multiply by `factor` at each of the shares `at` of the steps behind the warm-up.

    Example:
        >>> [Steps(at=(0.5, 0.8), factor=0.5)(step, 10) for step in (0, 5, 8)]
        [1.0, 0.5, 0.25]
    """

    def __init__(self, at: Sequence[float], factor: float = 0.1, warmup: float = 0.0, warmup_from: float = 0.0) -> None:
        super().__init__(warmup, warmup_from)
        self.at, self.factor = tuple(at), factor

    def after(self, progress: float) -> float:
        return float(self.factor ** sum(progress >= share for share in self.at))
