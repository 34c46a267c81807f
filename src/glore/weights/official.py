"""The authors' released code and weights: their names to ours, their modules to ours.

Source: the code released with the paper, where a unit's children are called `conv_state`, `conv_proj`, `gcn`,
`conv_extend` and `blocker`.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from glore.insert import insert
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


VIDEO = {  # a part of a key of their 3-D networks → ours, in this order
    r"^conv1\.conv\.": "stem.0.",
    r"^conv1\.bn\.": "stem.1.",
    r"^tail\.bn\.": "norm.",
    r"_extra\.": "_glore.",
    r"\.conv_m1\.": ".convs.0.",
    r"\.conv_m2\.": ".convs.1.",
    r"\.conv_m3\.": ".convs.2.",
    r"\.conv_w1\.": ".shortcut.",
    r"\.bn\.": ".0.",
    r"\.conv\.": ".2.",
}
CLIP = (1, 3, 8, 32, 32)  # is enough to see where units stand


def load_official(source: Path | str | Mapping[str, Any]) -> nn.Module:
    """Make the published 3-D network whose checkpoint this is, with its weights, in evaluation mode.

    Depth, classes, and places and sizes of the units are seen from the keys. The units do not normalise (κ = 1), as the
    released weights want it. Clips are normalised by mean (124, 117, 104) / 255 and standard deviation
    1 / (0.0167 · 255).

    Args:
        source: a checkpoint's path, or what is in it: a state dict, or a dict that has it as `state_dict`; its keys may
            begin with `module.`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds more than tensors and plain values, or is no checkpoint of a published
            3-D network; the message names the keys.

    Example:
        >>> net = load_official("checkpoint.pth")  # doctest: +SKIP
    """
    from glore.nets.pretrained import misfits  # not with every import of the units
    from glore.nets.video import STRIDES, ResNet3d

    weights = {key.removeprefix("module."): tensor for key, tensor in _state_dict(source).items()}
    if any("_extra." in key for key in weights):
        weights = from_official(weights)
    renamed = {_ours(key): tensor for key, tensor in weights.items()}
    blocks: dict[str, set[int]] = {stage: set() for stage in STRIDES}
    units: dict[str, set[int]] = {stage: set() for stage in STRIDES}
    for key in renamed:
        if match := re.match(r"(res[2-5])\.(\d+)(_glore)?\.", key):
            (units if match[3] else blocks)[match[1]].add(int(match[2]))
    classifier = renamed.get("classifier.weight")
    if classifier is None or not all(blocks.values()):
        raise ValueError(
            "source is no checkpoint of a published 3-D network, with keys such as 'conv2.B01.conv_m1.conv.weight': it "
            f"has {', '.join([*weights][:3]) or 'none'}"
        )
    sizes = {
        len(tensor): (len(renamed[f"{unit}.state.bias"]), len(renamed[f"{unit}.projection.bias"]))
        for key, tensor in renamed.items()
        if (unit := key.removesuffix(".norm.weight")) != key and unit.endswith("_glore")
    }  # channels → states and nodes
    net = ResNet3d([len(there) for there in blocks.values()], len(classifier))
    if sizes:
        where = {stage: sorted(there) for stage, there in units.items() if there}
        insert(
            net,
            where,
            lambda c: GloRe3d(c, states=sizes[c][0], nodes=sizes[c][1], normalize=False),
            example=torch.zeros(CLIP),
        )
    own = net.state_dict()
    if faults := misfits(own, renamed, [key for key in own if key.endswith("num_batches_tracked")]):
        raise ValueError(f"source is no published 3-D network, in our names: {faults}")
    net.load_state_dict(own | renamed)
    return net.eval()


def _ours(key: str) -> str:
    """A key of a published 3-D network, but for its units, under our name; another one as it is."""
    for theirs, ours in VIDEO.items():
        key = re.sub(theirs, ours, key)
    return re.sub(r"^conv([2-5])\.B(\d+)", lambda match: f"res{match[1]}.{int(match[2]) - 1}", key)


def _state_dict(source: Path | str | Mapping[str, Any]) -> dict[str, Tensor]:
    if isinstance(source, Mapping):
        weights, name = source, "source"
    else:
        weights, name = _read(Path(source)), f"source={str(source)!r}"
    weights = weights.get("state_dict", weights)
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{name} is no state dict, nor has it one as 'state_dict'")
    return dict(weights)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"source={str(path)!r} is no file")
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for broken files
        raise ValueError(
            f"source={str(path)!r} is damaged, or holds more than tensors and plain values: {error}"
        ) from error
    return weights if isinstance(weights, Mapping) else {}


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
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = [getattr(module, kind) for module in (theirs, theirs.get_submodule("gcn")) for kind in kinds]
    more += [f"{len(some)} hooks" for some in hooks if some]
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
