"""What a network costs: parameters, multiply-adds, time."""

from __future__ import annotations

import copy
import random
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def parameters(net: nn.Module) -> int:
    """How many learned numbers a network has.

    Example:
        >>> parameters(nn.Linear(3, 2))
        8
    """
    return sum(p.numel() for p in net.parameters())


def multiply_adds(net: nn.Module, example: Tensor) -> int:
    """How many multiply-adds the products of a forward in evaluation mode take, as they are run.

    Attention is counted by its products: torch counts nothing for its fused kernel on the CPU. torch counts two
    operations a multiply-add; papers quote multiply-adds, so its count is halved. Nothing is computed: the count is
    made on a copy of the network without memory, unless it reads values in its forward.

    Args:
        net: any network; it stays as it is.
        example: the input.

    Example:
        >>> multiply_adds(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10))
        21600
    """
    try:
        return _counted(copy.deepcopy(net).to("meta"), example.to("meta"))
    except (NotImplementedError, RuntimeError):  # it does read values
        return _counted(copy.deepcopy(net), example)


def _counted(net: nn.Module, example: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        net.eval()(example)
    return int(counter.get_total_flops()) // 2


def medians_ms(runs: Mapping[str, Callable[[], object]], seconds: float, rounds: int = 15) -> dict[str, float]:
    """The median time of each of some runs, all taking turns in random order, in ms.

    A machine's speed drifts: only times that were taken in turns can be compared.

    Args:
        runs: by name, what to run.
        seconds: to spend; once they are gone, three rounds are enough.
        rounds: how often each runs, after once to warm up.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    shuffled = random.Random(0)
    for run in runs.values():
        run()
    start = now()
    for turn in range(rounds):
        if turn >= 3 and now() - start > seconds:
            break
        for name in shuffled.sample(list(runs), len(runs)):  # what ran before leaves caches and heap as it likes them
            begin = now()
            runs[name]()
            times[name].append(1000 * (now() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def now() -> float:
    """The time in seconds, once the device has done what it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
