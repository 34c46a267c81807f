"""The authors' released code and weights: their names to ours, their modules to ours.

Source: the code released with the paper, where a unit's children are called `conv_state`, `conv_proj`, `gcn`,
`conv_extend` and `blocker`.
"""

from __future__ import annotations

import copy
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
NAMES = {
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
KEY = re.compile(rf"(?P<unit>(?:.*\.)?)(?P<layer>{'|'.join(map(re.escape, NAMES))})\.(?P<name>[a-z_]+)")
KINDS = {nn.Conv1d: GloRe1d, nn.Conv2d: GloRe2d, nn.Conv3d: GloRe3d}


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
    layers: dict[str, set[str]] = {}
    for match in matches.values():
        layers.setdefault(match["unit"], set()).add(match["layer"])
    for unit in [unit for unit, found in layers.items() if len(found) == 1]:  # some other network's conv_proj, say
        del layers[unit]
    matches = {key: match for key, match in matches.items() if match["unit"] in layers}
    if not matches:
        raise ValueError(
            f"state_dict has {len(keys)} keys, but none of a published GloRe unit, such as 'conv_state.weight': "
            f"give the published network's own state dict (for a checkpoint, its 'state_dict' entry)"
        )
    found = set(keys.values())
    for unit in layers:
        missing = [key for key in NEEDED if unit + key not in found]
        if missing:
            raise ValueError(f"state_dict: the published unit {unit or 'at the root'!r} lacks {', '.join(missing)}")
    return {
        f"{match['unit']}{NAMES[match['layer']]}.{match['name']}" if (match := matches.get(key)) else short: state_dict[
            key
        ]
        for key, short in keys.items()
    }


def adopt(model: Model) -> Model | GloRe:
    """Swap each published GloRe module of a network for ours, in place, keeping its very weights.

    Parameters stay the same objects, in the same order, so that an optimiser, tied weights and `requires_grad` go on as
    they were; κ, device, dtype and training mode are kept too. Before anything is swapped, a copy of each unit is held
    against ours on random features, large and small, in evaluation and in training mode, up to the branch's last norm.
    Keys of the state dict become ours: `from_official` renames those of older files.

    Args:
        model: a network that holds published modules, or such a module itself.

    Returns:
        The network; or the new unit, where the model is itself a published module.

    Raises:
        ValueError: there is no published module in the network; or one has more in it than the published module has
            (children, parameters, hooks), or computes something else. Nothing is changed then.

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


CHILDREN = {"conv_state", "conv_proj", "gcn", "conv_extend", "blocker"}


def _is_published(module: nn.Module) -> bool:
    return set(module._modules) >= CHILDREN and hasattr(module, "normalize")


def _rebuilt(theirs: nn.Module) -> GloRe:
    """Our unit around the published module's own layers."""
    more = [*(set(theirs._modules) - CHILDREN), *theirs._parameters, *theirs._buffers]
    more += [f"{len(hooks)} hooks" for hooks in (theirs._forward_hooks, theirs._forward_pre_hooks) if hooks]
    if more:
        raise ValueError(
            f"model: a {type(theirs).__name__} has more in it than the published module: {', '.join(sorted(more))}. "
            f"Take that out first, or put the unit in by hand"
        )
    convs = [theirs.get_submodule(name) for name in ("conv_state", "conv_proj", "conv_extend")]
    kind = next((unit for conv, unit in KINDS.items() if all(isinstance(layer, conv) for layer in convs)), None)
    if kind is None:
        names = ", ".join(type(layer).__name__ for layer in convs)
        raise ValueError(
            f"model: conv_state, conv_proj and conv_extend are {names}: they must be of one kind of nn.Conv"
        )
    state, projection, _ = (layer for layer in convs if isinstance(layer, nn.modules.conv._ConvNd))
    with torch.device("meta"):
        ours = kind(
            state.in_channels,
            states=state.out_channels,
            nodes=projection.out_channels,
            normalize=bool(theirs.normalize),
        )
    for published, name in NAMES.items():
        parent, _, child = name.rpartition(".")
        setattr(ours.get_submodule(parent), child, theirs.get_submodule(published))
    for module in (ours, ours.graph_layers, ours.graph_layers[0]):
        module.training = theirs.training
    return ours


def _difference(theirs: nn.Module, ours: GloRe) -> tuple[float, float]:
    """The largest relative difference in what reaches the last norm and what leaves the unit, and what is allowed.

    The norm's input is compared too, because behind a norm that still starts at zero all units look alike.
    """
    theirs, ours = copy.deepcopy((theirs, ours))  # they share their layers, and the copies theirs
    like = next(theirs.parameters())
    generator = torch.Generator().manual_seed(0)
    differences = []
    for size in (
        2,
        math.ceil((4 * ours.channels) ** (1 / ours.space_axes)),
    ):  # on both sides of the cheap order's start
        x = torch.randn(2, ours.channels, *[size] * ours.space_axes, generator=generator).to(like)
        for training in (False, True):
            outputs = [_branch_and_output(unit.train(training), x) for unit in (ours, theirs)]
            differences += [
                float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in zip(*outputs, strict=True)
            ]
    exact = {torch.float64: 1e-9, torch.float32: 1e-4 if like.device.type == "cpu" else 1e-2}
    return max(differences, key=lambda d: (math.isnan(d), d)), exact.get(like.dtype, 5e-2)


def _branch_and_output(unit: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What reaches the unit's last norm, and its output with and without somebody looking."""
    reached: list[Tensor] = []
    norm = unit.norm if isinstance(unit, GloRe) else unit.get_submodule("blocker")
    with torch.no_grad(), torch.random.fork_rng(devices={x.device} if x.is_cuda else ()):
        torch.manual_seed(0)
        alone = unit(x)
        hook = norm.register_forward_pre_hook(lambda _, inputs: reached.append(inputs[0]))
        try:
            watched = unit(x)
        finally:
            hook.remove()
    return reached[0], alone, watched
