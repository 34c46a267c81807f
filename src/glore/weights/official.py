"""The authors' released code and weights: their names to ours, their modules to ours.

Source: the code released with the paper, where a unit's children are called `conv_state`, `conv_proj`, `gcn`,
`conv_extend` and `blocker`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from glore.units import GloRe1d, GloRe2d, GloRe3d
from glore.units.glore import GloRe

Model = TypeVar("Model", bound=nn.Module)

# their layer → ours
LAYERS = {
    "conv_state": "state",
    "conv_proj": "projection",
    "gcn.conv1": "graph_layers.0.nodes",
    "gcn.conv2": "graph_layers.0.states",
    "conv_extend": "extend",
    "blocker": "norm",
}
# what makes a unit complete; a norm without running statistics has fewer keys than these have in a file
NEEDED = (
    *("conv_state.weight", "conv_state.bias", "conv_proj.weight", "conv_proj.bias", "gcn.conv1.weight"),
    *("gcn.conv1.bias", "gcn.conv2.weight", "conv_extend.weight", "blocker.weight", "blocker.bias"),
)
KEY = re.compile(rf"(?P<unit>(?:.*\.)?)(?P<layer>{'|'.join(map(re.escape, LAYERS))})\.(?P<name>[a-z_]+)")
UNITS = {nn.Conv1d: GloRe1d, nn.Conv2d: GloRe2d, nn.Conv3d: GloRe3d}


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the published keys of GloRe units, alone or inside a network, to ours.

    A leading `module.` is dropped from all keys. Keys of other layers stay as they are. What a state dict cannot tell
    is the unit's `normalize`: the released Kinetics weights need `normalize=False`.

    Args:
        state_dict: key → tensor, as the published code saves it.

    Returns:
        The same tensors under our names, in the same order.

    Raises:
        ValueError: there is no published unit in the state dict, or one is incomplete.

    Example:
        >>> import glore
        >>> sorted(glore.weights.from_official(published))[0]  # doctest: +SKIP
        'extend.weight'
    """
    keys = {key: key.removeprefix("module.") for key in state_dict}
    matches = {key: match for key, short in keys.items() if (match := KEY.fullmatch(short))}
    if not matches:
        raise ValueError(
            f"state_dict has {len(keys)} keys, but none of a published GloRe unit, such as 'conv_state.weight': "
            f"give the published network's own state dict (for a checkpoint, its 'state_dict' entry)"
        )
    found = set(keys.values())
    for unit in {match["unit"] for match in matches.values()}:
        missing = [key for key in NEEDED if unit + key not in found]
        if missing:
            raise ValueError(f"state_dict: the published unit {unit or 'at the root'!r} lacks {', '.join(missing)}")
    return {
        f"{match['unit']}{LAYERS[match['layer']]}.{match['name']}"
        if (match := matches.get(key))
        else short: state_dict[key]
        for key, short in keys.items()
    }


def adopt(model: Model) -> Model | GloRe:
    """Swap each published GloRe module of a network for ours, in place, keeping its very weights.

    Parameters stay the same objects, so that an optimiser, tied weights and `requires_grad` go on as they were; κ,
    device, dtype and training mode are kept too. Before it returns, each new unit is held against the old one on random
    features, large and small, up to the branch's last norm; if one differs, all is put back.

    Args:
        model: a network that holds published modules, or such a module itself.

    Returns:
        The network; or the new unit, where the model is itself a published module.

    Raises:
        ValueError: there is no published module in the network, or one computes something else than as published.

    Example:
        >>> model = glore.adopt(model)  # doctest: +SKIP
    """
    theirs = {id(module): module for module in model.modules() if _is_published(module)}
    if not theirs:
        raise ValueError(
            f"model: this {type(model).__name__} holds no published GloRe module, one with the children conv_state, "
            f"conv_proj, gcn, conv_extend, blocker and the attribute normalize"
        )
    ours = {key: _rebuilt(module) for key, module in theirs.items()}
    paths = {id(module): path for path, module in model.named_modules()}
    for key, module in theirs.items():
        difference, allowed = _difference(module, ours[key])
        if not difference <= allowed:
            raise ValueError(
                f"model: {paths[key] or type(module).__name__!r} is not the published unit: ours differs from it by "
                f"{difference:.1e} relative on random features, where {allowed:.0e} is allowed. Nothing was changed"
            )
    for parent in list(model.modules()):
        if id(parent) not in theirs:
            for name, child in parent._modules.items():
                if id(child) in ours:
                    parent._modules[name] = ours[id(child)]
    return ours.get(id(model), model)


def _is_published(module: nn.Module) -> bool:
    children = {"conv_state", "conv_proj", "gcn", "conv_extend", "blocker"}
    return children <= set(module._modules) and hasattr(module, "normalize")


def _rebuilt(theirs: nn.Module) -> GloRe:
    """Our unit around the published module's own layers."""
    convs = [theirs.get_submodule(name) for name in ("conv_state", "conv_proj", "conv_extend")]
    kind = next((unit for conv, unit in UNITS.items() if all(isinstance(layer, conv) for layer in convs)), None)
    if kind is None:
        names = ", ".join(type(layer).__name__ for layer in convs)
        raise ValueError(
            f"model: conv_state, conv_proj and conv_extend are {names}: they must be of one kind of nn.Conv"
        )
    states, channels = theirs.get_parameter("conv_state.weight").shape[:2]
    nodes = theirs.get_parameter("conv_proj.weight").shape[0]
    with torch.device("meta"):
        ours = kind(channels, states=states, nodes=nodes, normalize=bool(theirs.normalize))
    for published, name in LAYERS.items():
        parent, _, child = name.rpartition(".")
        setattr(ours.get_submodule(parent), child, theirs.get_submodule(published))
    for module in (ours, ours.graph_layers, ours.graph_layers[0]):
        module.training = theirs.training
    return ours


def _difference(theirs: nn.Module, ours: GloRe) -> tuple[float, float]:
    """The largest relative difference in what reaches the last norm and what leaves the unit, and what is allowed.

    The norm's input is compared too, because behind a norm that still starts at zero all units look alike.
    """
    weight = theirs.get_parameter("conv_state.weight")
    generator = torch.Generator().manual_seed(0)
    sizes = (2, math.ceil((4 * ours.channels) ** (1 / ours.space_axes)))  # on both sides of the cheap order's threshold
    training = [(module, module.training) for unit in (theirs, ours) for module in unit.modules()]
    reached: list[Tensor] = []
    differences = []
    try:
        for module, _ in training:
            module.training = False
        for size in sizes:
            x = torch.randn(1, ours.channels, *[size] * ours.space_axes, generator=generator).to(weight)
            with torch.no_grad():
                pairs = [(ours(x), theirs(x))]
                hook = theirs.get_submodule("blocker").register_forward_pre_hook(
                    lambda _, inputs: reached.append(inputs[0])
                )
                try:
                    ours(x), theirs(x)
                finally:
                    hook.remove()
            pairs.append((reached[-2], reached[-1]))
            differences += [float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs]
    finally:
        for module, flag in training:
            module.training = flag
    exact = {torch.float64: 1e-9, torch.float32: 1e-4 if weight.device.type == "cpu" else 1e-2}
    return max(differences, key=lambda d: (math.isnan(d), d)), exact.get(weight.dtype, 5e-2)
