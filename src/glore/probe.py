"""Run a network once, touching nothing, and see what its modules hand to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Example = Tensor | tuple[Any, ...] | None


class Call(NamedTuple):
    """One call of a module: all that it took, by position or by name, and what it handed on."""

    module: nn.Module
    inputs: tuple[Any, ...]
    output: Any


@contextmanager
def recorded(
    modules: Iterable[nn.Module], *, give: Callable[[nn.Module, Any], Any] | None = None
) -> Iterator[list[Call]]:
    """Record each call of the modules, in the order in which they end.

    Args:
        modules: which modules.
        give: makes of a module and its first input what the module returns instead of its output.
    """
    calls: list[Call] = []

    def record(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> Any:
        handed_on = give(module, inputs[0]) if give else output
        calls.append(Call(module, (*inputs, *keywords.values()), handed_on))
        return handed_on

    hooks = [module.register_forward_hook(record, with_kwargs=True) for module in set(modules)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; training flags and random state come back as they were."""
    training = [(module, module.training) for module in model.modules()]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type not in ("cpu", "meta")}
    kind = next(iter(devices)).type if devices else "cuda"
    try:
        for module, _ in training:
            module.training = False  # not eval(): some layers do more there than set the flag
        with torch.no_grad(), torch.random.fork_rng(devices=devices, device_type=kind):
            yield
    finally:
        for module, flag in training:
            module.training = flag


def run(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """The network's output."""
    with evaluating(model):
        return model(*inputs)


def inputs_for(model: nn.Module, example: Example) -> tuple[Any, ...]:
    """The arguments in `example`, or random ones of the size that the model itself declares, as timm's models do."""
    if example is not None:
        return example if isinstance(example, tuple) else (example,)
    declared = getattr(model, "pretrained_cfg", None) or {}
    size = declared.get("input_size")
    if size is None:
        raise ValueError(
            f"example=None, and this {type(model).__name__} does not declare its input size: give an input for a "
            f"probe, for example example=torch.zeros(1, 3, 224, 224)"
        )
    parameter = next(p for p in model.parameters() if p.is_floating_point())

    def picture(channels: int) -> tuple[Tensor]:
        with evaluating(model):
            return (torch.randn(1, channels, *size[1:], device=parameter.device, dtype=parameter.dtype),)

    first = declared.get("first_conv")  # of a network made for other channels, it is right and the size is not
    conv = dict(model.named_modules()).get(first) if isinstance(first, str) else None
    channels = getattr(conv, "in_channels", size[0])
    if channels != size[0]:
        try:
            run(model, picture(size[0]))  # or it comes behind something that makes more channels of three
        except RuntimeError:
            return picture(channels)
    return picture(size[0])


def same(a: Any, b: Any) -> bool:
    """Whether two outputs of a network, of any structure, agree but for what a device's choice of kernels changes.

    Raises:
        ValueError: there is no tensor in them that can be compared.
    """
    ours, theirs = leaves(a), leaves(b)
    if not any(isinstance(leaf, Tensor) for leaf in theirs):
        raise ValueError(f"the output, a {type(b).__name__}, holds no tensor that can be compared")
    return len(ours) == len(theirs) and all(_alike(x, y) for x, y in zip(ours, theirs, strict=True))


def difference(a: Any, b: Any) -> float:
    """The greatest difference between two outputs of a network, as a share of the largest number of each tensor of b.

    Example:
        >>> difference([torch.tensor([1.0, 4.0])], [torch.tensor([2.0, 4.0])])
        0.25
    """
    pairs = [
        (x, y) for x, y in zip(leaves(a), leaves(b), strict=True) if isinstance(y, Tensor) and y.is_floating_point()
    ]
    if not pairs:
        raise ValueError(f"the output, a {type(b).__name__}, holds no numbers that can be compared")
    shares = [(x - y).abs().max() / y.abs().max().clamp_min(torch.finfo(y.dtype).tiny) for x, y in pairs]
    return float(torch.stack(shares).max())


def leaves(output: Any) -> list[Any]:
    """What an output is made of; objects that torch does not know, such as dataclasses, are opened."""
    found: list[Any] = []
    for leaf in tree_leaves(output):
        opaque = not isinstance(leaf, Tensor | nn.Module | type) and hasattr(leaf, "__dict__")
        found += leaves(dict(vars(leaf))) if opaque else [leaf]
    return found


def _alike(x: Any, y: Any) -> bool:
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        return isinstance(x, Tensor) == isinstance(y, Tensor)
    if y.is_meta:
        return x.shape == y.shape
    return _close(x, y) if y.is_floating_point() else torch.equal(x, y)


def _close(x: Tensor, y: Tensor) -> bool:
    finite = y[y.isfinite()]  # a network with random weights may well overflow
    size = float(finite.abs().max()) if finite.numel() else 0.0
    return x.shape == y.shape and torch.allclose(x, y, rtol=1e-3, atol=1e-3 * size, equal_nan=True)


# layers that tell which axis they take for channels, by what they are made for
FIRST_AXIS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
LAST_AXIS = (nn.Linear, nn.LayerNorm)


def channels_last(features: Tensor, calls: Iterable[Call]) -> bool:
    """Whether layers that take or make maps of this shape have its last axis for channels, and none its second.

    Where none does, as in blocks that cut maps into windows, the layers' widths tell.
    """
    seen = [
        call.module
        for call in calls
        for tensor in (*call.inputs[:1], call.output)
        if isinstance(tensor, Tensor) and tensor.shape == features.shape
    ]
    if any(type(module) in LAST_AXIS for module in seen):
        return not any(isinstance(module, FIRST_AXIS) for module in seen)
    widths = {(isinstance(call.module, FIRST_AXIS), _width(call.module)) for call in calls}
    second = {(True, features.shape[1]), (False, features.shape[1])}
    return (False, features.shape[-1]) in widths and not widths & second


def _width(layer: nn.Module) -> int | None:
    """How many channels a layer takes, of those that tell which axis they are."""
    for name in ("in_channels", "num_features", "num_channels", "in_features"):
        if isinstance(layer, (*FIRST_AXIS, *LAST_AXIS)) and hasattr(layer, name):
            return int(getattr(layer, name))
    return layer.normalized_shape[-1] if isinstance(layer, nn.LayerNorm) else None


# where a class comes from → what such a model is, and what to do first
WRAPPERS = {
    "torch._dynamo": "compiled: insert first, compile then",
    "torch.nn.parallel": "wrapped for several devices: insert into model.module, or before wrapping",
    "torch.distributed.fsdp": "sharded: insert first, shard then",
    "torch.jit": "scripted or traced: insert first, then trace or export (units cannot be scripted)",
    "torch.ao": "quantised: insert first, quantise then",
    "torchao": "quantised: insert first, quantise then",
}


# what stands in float networks that can be quantised later
STUBS = ("QuantStub", "DeQuantStub", "QuantWrapper", "FloatFunctional")


def refuse_wrapped(model: nn.Module) -> None:
    """Raise a ValueError if the model, or a part of it, is compiled, wrapped or quantised."""
    for path, module in model.named_modules():
        for kind in type(module).__mro__:
            for origin, problem in WRAPPERS.items():
                if f"{kind.__module__}.".startswith(f"{origin}.") and kind.__name__ not in STUBS:
                    raise ValueError(f"model: {path or type(module).__name__!r} is {problem}")
        if module._compiled_call_impl is not None:
            raise ValueError(f"model: {path or type(module).__name__!r} is {WRAPPERS['torch._dynamo']}")
