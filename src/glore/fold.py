"""A network for inference: what needs no step of its own is folded into the convolutions before it.

A batch norm in evaluation mode is a factor and a constant a channel, which the convolution before it can hold, if
nothing else takes what that convolution makes. In a GloRe unit the last mixing of states and the convolution behind it
are one matrix, too: `γ/σ We Wv` stands for three layers.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from glore import probe
from glore.units import products
from glore.units.glore import GloRe, GraphConvolution
from glore.units.ndim import BATCH_NORMS, CONVS

# of the largest output
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def folded(net: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a network for inference, in evaluation mode, whose batch norms are in the convolutions before them.

    What goes where is seen in a run: a norm is folded if it is all that takes the output of a convolution that runs
    once. Norms behind an addition, as at the beginning of a pre-activation block, stay. Units keep their class, and
    GloRe its cheap order.

    Args:
        net: any network; it stays as it is.
        example: an input, `(b, c, *space)`; small ones do as well.

    Raises:
        ValueError: the copy does not give what the network gives.

    Source: Jacob et al., CVPR 2018 (arXiv 1712.05877), section 3.2, for the norms.

    Example:
        >>> from glore.nets.small import small_classifier
        >>> net = small_classifier(10)
        >>> count = lambda net: sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
        >>> count(net), count(folded(net, torch.zeros(1, 3, 32, 32)))
        (19, 10)
    """
    expected = probe.run(net, (example,))
    net = copy.deepcopy(net).eval()
    with probe.evaluating(net):
        for unit in net.modules():
            if isinstance(unit, GloRe):
                _merge_states(unit)
        for conv, norm in _pairs(net, example):
            _fold(net, conv, norm)
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    moved, allowed = probe.difference(probe.run(net, (example,)), expected), TOLERANCE[like.dtype]
    if like.device.type != "cpu" and like.dtype == torch.float32:  # whose products may be of TF32 there
        allowed = 1e-2
    if not moved <= allowed:  # nor if it is no number
        raise ValueError(
            f"folded: the outputs of this {type(net).__name__} move by {moved:.1e} of the largest, more than "
            f"{allowed:.0e}: use the network as it is"
        )
    return net


def _merge_states(unit: GloRe) -> None:
    """Put the last mixing of states into the convolution behind it: `We (Wv Z) P = (We Wv) Z P`."""
    last, extend = unit.graph_layers[-1], unit.extend
    if not isinstance(last, GraphConvolution):
        return
    if products.plain(last.states, bias=False) and products.plain(extend):
        merged = extend.weight.flatten(1).cpu().double() @ last.states.weight[..., 0].cpu().double()  # (c, s)
        extend.weight.copy_(merged.view_as(extend.weight))
        last.states = nn.Identity()  # type: ignore[assignment]


def _fold(net: nn.Module, conv: probe.Call, norm: probe.Call) -> None:
    """Put a norm into the convolution before it, unless either is a subclass that does more than its children tell."""
    behind = nn.Sequential(OrderedDict(norm.module.named_children())) or nn.Identity()  # such as an activation
    fused: nn.Module = fuse_conv_bn_eval(conv.module, norm.module)  # type: ignore[type-var, arg-type]
    one, other = (copy.deepcopy(nn.Sequential(*pair)).cpu() for pair in ((fused, behind), (conv.module, norm.module)))
    x = torch.randn_like(conv.inputs[0], device="cpu")  # what was there may have been written over
    if probe.difference(one(x), other(x)) < TOLERANCE[x.dtype]:
        new = {conv.module: fused, norm.module: behind}
        for path, module in list(net.named_modules(remove_duplicate=False)):
            if module in new:
                net.set_submodule(path, new[module])


def _pairs(net: nn.Module, example: Tensor) -> list[tuple[probe.Call, probe.Call]]:
    """The calls of convolutions and of the norms that alone take their outputs, where each is called once."""
    layers = [module for module in net.modules() if isinstance(module, (*CONVS, *BATCH_NORMS))]
    with probe.recorded(layers) as calls, _Uses() as uses:
        uses.count(probe.run(net, (example,)))
    often = Counter(call.module for call in calls)
    convs = {id(call.output): call for call in calls if isinstance(call.module, CONVS) and often[call.module] == 1}
    pairs = [
        (convs[id(call.inputs[0])], call)
        for call in calls
        if isinstance(call.module, BATCH_NORMS) and often[call.module] == 1 and id(call.inputs[0]) in convs
    ]
    return [
        (conv, norm)
        for conv, norm in pairs
        if uses.counts[conv.output] == 1 and norm.module.running_mean is not None and _has_its_weight(conv.module)
    ]


def _has_its_weight(conv: nn.Module) -> bool:
    """Whether a convolution's weight is a parameter of its own, and not made anew in each call, as by pruning."""
    return not is_parametrized(conv) and "weight" in conv._parameters


class _Uses(TorchDispatchMode):
    """Counts how often tensors are handed to an operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()

    def count(self, values: Any) -> None:
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor):
                self.counts[tensor] = self.counts.get(tensor, 0) + 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count((args, kwargs))
        return func(*args, **(kwargs or {}))
