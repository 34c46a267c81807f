"""What a network costs: parameters, multiply-adds, time, memory."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from glore import probe
from glore.units.ndim import CONVS
from glore.weights import files


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


def costs(
    networks: Mapping[str, files.Constructor],
    size: Sequence[int] | None = None,
    batch: int = 1,
    training: bool = False,
    device: str = "cpu",
    seconds: float = 10.0,
) -> list[dict[str, Any]]:
    """What networks cost on a batch, in float32.

    Args:
        networks: by name, how each is made; code that they name is run.
        size: of a sample's space, such as height and width, or frames, height and width; as the network itself
            declares, by default.
        batch: samples.
        training: also measure forward and backward in training mode, without an optimizer.
        device: where to run them.
        seconds: to spend on times, once each has run three times.

    Returns:
        Of each network: `network`, `size`, `parameters`, `multiply_adds` of a batch's forward, `forward_ms` and
        `forward_mib`, and with `training` also `step_ms` and `step_mib`. Times are medians, and all networks take
        turns. Memory is what a forward or step needs besides the network and its input, in MiB.

    Raises:
        ValueError: the device is none of cpu and cuda, or a network cannot be made, does not declare its size, or does
            not take this one.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device={device!r} must be cpu or cuda, or one of several such as cuda:1")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}: torch finds no such device here")
    nets = {name: _made(name, constructor).to(device) for name, constructor in networks.items()}
    examples = {name: _example(name, net, size, batch) for name, net in nets.items()}
    rows: dict[str, dict[str, Any]] = {}
    for name, net in nets.items():
        x = examples[name]
        try:
            counted = multiply_adds(net, x)
        except Exception as error:  # a network may raise anything
            raise ValueError(f"{name} does not take an input of {'×'.join(map(str, x.shape))}: {error}") from error
        rows[name] = {"network": name, "size": list(x.shape[2:]), "batch": batch, "parameters": parameters(net)}
        rows[name]["multiply_adds"] = counted
    kinds = [*KINDS] if training else ["forward"]
    here = torch.cuda.device(device) if device != "cpu" else nullcontext()  # which the clock waits for
    peaks = {
        name: peaks_mib(constructor, examples[name].shape, kinds, device) for name, constructor in networks.items()
    }
    for kind in kinds:
        with here:
            times = medians_ms({name: partial(KINDS[kind], net, examples[name]) for name, net in nets.items()}, seconds)
        for name in networks:
            rows[name] |= {f"{kind}_ms": times[name], f"{kind}_mib": peaks[name][kind]}
    return list(rows.values())


def _made(name: str, constructor: files.Constructor) -> nn.Module:
    try:
        net = files.construct(constructor, trust=True)
    except (TypeError, AttributeError, RuntimeError, KeyError) as error:
        raise ValueError(f"{name} makes no network: {error}") from error
    if not isinstance(net, nn.Module):
        raise ValueError(f"{name} makes a {type(net).__name__}, which is no network")
    return net


def _example(name: str, net: nn.Module, size: Sequence[int] | None, batch: int) -> Tensor:
    if size is None:
        try:
            (one,) = probe.inputs_for(net, None)
        except ValueError:
            raise ValueError(f"{name} does not declare its input size: give one, such as --size 224") from None
        return one.expand(batch, *one.shape[1:]).contiguous()
    channels = next((m.in_channels for m in net.modules() if isinstance(m, CONVS)), 3)
    like = next(net.parameters(), torch.empty(0))
    return torch.randn(batch, channels, *size, device=like.device)


def forward(net: nn.Module, x: Tensor) -> None:
    """A forward in evaluation mode."""
    with torch.no_grad():
        net.eval()(x)


def step(net: nn.Module, x: Tensor) -> None:
    """A forward and a backward in training mode."""
    net.train().zero_grad(set_to_none=True)
    sum(out.float().mean() for out in tree_leaves(net(x))).backward()


KINDS = {"forward": forward, "step": step}


def peaks_mib(
    constructor: files.Constructor, shape: Sequence[int], kinds: Sequence[str] = ("forward",), device: str = "cpu"
) -> dict[str, float]:
    """What a forward, and a step, need besides the network and its input, in MiB.

    On the CPU it is what the peak of a process of its own has more than it held before, after a forward that is not
    counted; it is known on Linux only, nan elsewhere. On a GPU it is what torch allocates there.

    Args:
        constructor: how the network is made; code that it names is run, and must be in a file that can be imported.
        shape: of the input, with its batch.
        kinds: of `KINDS`: `"forward"`, in evaluation mode, and `"step"`, forward and backward in training mode.
        device: where to.

    Raises:
        ValueError: that process failed, or was ended.
    """
    told = json.dumps([constructor, list(shape), [*kinds], device, torch.get_num_threads()])
    path = [str(folder) for folder in sys.path]
    alone = subprocess.run(  # what this process had at most says nothing
        [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; import {__name__} as it; it._tell_peaks()"],
        input=told,
        # glibc keeps what is freed as soon as blocks are large: a peak would tell more of its heap than of the network
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 * 1024)},
        capture_output=True,
        text=True,
    )
    if alone.returncode:
        reason = (alone.stderr.strip().splitlines() or [f"exit code {alone.returncode}"])[-1]
        raise ValueError(f"memory on an input of {'×'.join(map(str, shape))} cannot be measured: {reason}")
    peaks: dict[str, float] = json.loads(alone.stdout.splitlines()[-1])
    return peaks


def _tell_peaks() -> None:
    """Print what `peaks_mib` asks for on standard input."""
    constructor, shape, kinds, device, threads = json.load(sys.stdin)
    torch.set_num_threads(threads)
    net, x = files.construct(constructor, trust=True).to(device), torch.zeros(*shape, device=device)
    forward(net, x)  # libraries keep something from the first one on
    peaks = {}
    for kind in kinds:
        before = _counted_anew_mib(device)
        KINDS[kind](net, x)
        peaks[kind] = _most_mib(device) - before
    print(json.dumps(peaks))


def _counted_anew_mib(device: str) -> float:
    """The memory in use, from where the most is counted: making a network may have needed more than running it."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the high water mark
        except OSError:
            return math.nan
    return _most_mib(device)


def _most_mib(device: str) -> float:
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")  # getrusage would tell what the parent had, if that is more
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM")), math.nan)


def now() -> float:
    """The time in seconds, once the device has done what it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
