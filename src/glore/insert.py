"""Insert units between the blocks of any network, and take them out again.

A unit is threaded into the container of the blocks as one more child, `0`, `0_glore`, `1`, …: the backbone keeps its
module names and state-dict keys, and export, compilation and feature extraction see the unit as they see a block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from glore import probe

Model = TypeVar("Model", bound=nn.Module)
Where = Mapping[str, int | Iterable[int]]
INSERTED = "_glore_inserted"  # on a unit that `insert` put where it is


def spread(blocks: int, units: int) -> tuple[int, ...]:
    """Places of `units` units spread evenly behind `blocks` blocks, as zero-based block indices.

    A single unit goes to the middle, behind block `(blocks - 1) // 2`; several go behind blocks `i * blocks // units`.

    Args:
        blocks: how many blocks there are.
        units: how many units to place, at most one a block.

    Raises:
        ValueError: there are more units than blocks, or a negative number of either.

    Source: section 4.1 of the paper and the published networks: behind blocks 1, 3 of 4 and 1, 3, 5 of 6, from 1.

    Example:
        >>> spread(4, 2), spread(6, 3), spread(6, 1)
        ((0, 2), (0, 2, 4), (2,))
    """
    for name, value in (("blocks", blocks), ("units", units)):
        if value < 0:
            raise ValueError(f"{name}={value} must not be negative")
    if units > blocks:
        raise ValueError(f"units={units} is more than there are places: at most {blocks}, one behind each block")
    if units == 1:
        return ((blocks - 1) // 2,)
    return tuple(i * blocks // units for i in range(units))


def indices(blocks: int, wanted: int | Iterable[int]) -> tuple[int, ...]:
    """The indices of the blocks, among so many, behind which units are wanted: so many of them, spread, or these.

    Raises:
        ValueError: it is neither a number nor indices, or they are more than there are blocks, not there, or twice.
    """
    if isinstance(wanted, bool | str) or not isinstance(wanted, Integral | Iterable):
        raise ValueError("must be a number of units, or indices of blocks")
    if isinstance(wanted, Integral):
        return spread(blocks, int(wanted))
    chosen = tuple(wanted)
    for index in chosen:
        if isinstance(index, bool) or not isinstance(index, Integral) or not 0 <= index < blocks:
            raise ValueError(f"{index!r} is no index of its {blocks} blocks: give whole numbers from 0 to {blocks - 1}")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{chosen!r} names a block twice: name each once")
    return chosen


def insert(
    model: Model,
    where: Where,
    unit: Callable[[int], nn.Module],
    *,
    example: probe.Example = None,
) -> Model:
    """Put units behind blocks of a network, in place.

    Insert before you make the optimizer, which otherwise never sees the new weights, and before you load a state dict
    that has units.

    A probe runs the network three times on `example`, in evaluation mode, without touching statistics or random state
    (new units draw their first weights from it, as any layer does). It reads the channels behind each block, and proves
    that the output depends on every unit, where a gradient can tell, and that nothing else changes it. An error leaves
    the network as it was. Code of yours that counts the container's children by position (`layer2[1]`) counts the units
    too.

    Args:
        model: any network; insert before compiling, wrapping or quantising it.
        where: module path of a container that runs its children in order → how many units to `spread` over its
            blocks, or explicit zero-based block indices: `{"layer2": 2, "layer3": (0, 2, 4)}`.
        unit: makes a unit from its number of channels: `GloRe2d`, or `functools.partial(GloRe2d, nodes=64)`.
        example: input for the probe, a tensor or a tuple of arguments. May be left out where the model declares its
            input size, as timm's models do.

    Returns:
        The model. New units have their block's device, dtype and training flag, and the name `<block>_<unit>`.

    Raises:
        ValueError: a path, index or count is wrong; a container holds units already, or does not run its children in
            order on single maps with channels first; a unit is not reached, or its output not used; or the model is
            compiled, wrapped or quantised. The message says which, and what would work.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from glore import GloRe2d
        >>> block = lambda: nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(block(), block(), block()))
        >>> _ = insert(net, {"1": 2}, GloRe2d, example=torch.randn(1, 3, 16, 16))
        >>> [name for name, _ in net[1].named_children()]
        ['0', '0_glore', '1', '1_glore', '2']
    """
    _check_arguments(model, where, unit, example)
    probe.refuse_wrapped(model)
    places = [_Place(model, path, wanted) for path, wanted in where.items()]
    if len({id(place.container) for place in places}) < len(places):
        raise ValueError(f"where={dict(where)!r} names one container by two paths: name it once")

    inputs, state = probe.inputs_for(model, example), torch.get_rng_state()
    with probe.recorded(module for place in places for module in place.container.modules()) as calls:
        try:
            expected = probe.run(model, inputs)
        except Exception as error:
            shapes = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else repr(x) for x in inputs)
            raise ValueError(f"example: {type(model).__name__} does not run on input {shapes}: {error}") from error
    maps = [{index: place.map_behind(index, calls) for index in place.indices} for place in places]
    new = [
        {index: _made(unit, place.blocks[index][1], features) for index, features in behind.items()}
        for place, behind in zip(places, maps, strict=True)
    ]
    del calls, maps  # which hold the maps of all blocks
    try:
        for place, units in zip(places, new, strict=True):
            place.thread(units)
        _prove(model, places, new, inputs, expected, state)
        _count_blocks(model)
    except BaseException:
        for place in places:
            place.restore()
        with suppress(Exception):
            probe.run(model, inputs)
        raise
    probe.run(model, inputs)  # no gradients are left in what a network keeps of its last run
    return model


def remove(model: Model) -> Model:
    """Take out everything that `insert` put in, in place: children, keys and output are as they were before.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from glore import GloRe1d
        >>> net = nn.Sequential(nn.Conv1d(4, 4, 1), nn.ReLU())
        >>> remove(insert(net, {"": 1}, GloRe1d, example=torch.randn(1, 4, 8)))
        Sequential(
          (0): Conv1d(4, 4, kernel_size=(1,), stride=(1,))
          (1): ReLU()
        )
    """
    for module in list(model.modules()):
        for name in _inserted(module):
            del module._modules[name]
    _count_blocks(model)
    return model


def _inserted(container: nn.Module) -> list[str]:
    """The names of a container's children that `insert` put there, or into what the container was made from."""
    if _wrapped(container) is not None:
        return []
    return [name for name, child in container._modules.items() if child is not None and _marked(child)]


def _marked(module: nn.Module) -> bool:
    """Whether a module is a unit that was inserted, or has been wrapped around one since."""
    wrapped = _wrapped(module)
    return INSERTED in vars(module) or (wrapped is not None and _marked(wrapped))


def _wrapped(module: nn.Module) -> nn.Module | None:
    """The one child of a module that is no list of modules, as of a checkpointed or compiled one."""
    inside = list(module.children())
    return inside[0] if len(inside) == 1 and not isinstance(module, nn.Sequential | nn.ModuleList) else None


def _count_blocks(model: Any) -> None:
    """Let a network of timm that finds the maps of its stages by counting blocks count its units, too."""
    told = getattr(model, "feature_info", None)
    if not hasattr(model, "feature_ends") or not isinstance(told, list):
        return
    paths = [info["module"].split(".") for info in told]
    if len({path[0] for path in paths}) > 1 or min(map(len, paths)) < 2:
        return
    container = model.get_submodule(paths[0][0])
    names = list(container._modules)
    if not {path[1] for path in paths} <= {*names}:  # of a network that was cut off
        return
    model.feature_ends = [names.index(path[1]) for path in paths]
    behind = names[model.feature_ends[-1] + 1 :][:1]
    if {*behind} & {*_inserted(container)}:
        model.feature_ends[-1] += 1  # the last map is what comes out behind all


def units_of(model: nn.Module) -> dict[str, nn.Module]:
    """What `insert` put into a network: module path → unit, in the order of the modules.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from glore import GloRe1d
        >>> net = insert(nn.Sequential(nn.Conv1d(4, 4, 1)), {"": 1}, GloRe1d, example=torch.randn(1, 4, 8))
        >>> list(units_of(net))
        ['0_glore']
    """
    return {
        f"{path}.{name}".lstrip("."): module.get_submodule(name)
        for path, module in model.named_modules()
        for name in _inserted(module)
    }


class _Place:
    """One container of `where`, and the blocks behind which units were asked for."""

    def __init__(self, model: nn.Module, path: str, wanted: int | Iterable[int]) -> None:
        try:
            self.container = model.get_submodule(path)
        except AttributeError:
            lists = (nn.Sequential, nn.ModuleList)
            paths = [name for name, module in model.named_modules() if isinstance(module, lists) and len(module)]
            close = get_close_matches(path, paths, n=3, cutoff=0.0)
            raise ValueError(
                f"where={path!r} is no module of this {type(model).__name__}: name a container of blocks by its path, "
                f"for example one of {', '.join(map(repr, close))}"
            ) from None
        self.path = path
        self.before = dict(self.container._modules)
        self.blocks = [(name, block) for name, block in self.before.items() if block is not None]
        if _inserted(self.container):
            raise ValueError(f"where={path!r} holds units already: glore.remove(model) takes them out")
        if not self.blocks:
            raise ValueError(f"where={path!r} is a {type(self.container).__name__} without children: name a container")
        try:
            self.indices = indices(len(self.blocks), wanted)
        except ValueError as error:
            raise ValueError(f"where={{{self.path!r}: {wanted!r}}}: {error}") from None

    def map_behind(self, index: int, calls: list[probe.Call]) -> Tensor:
        """The map that leaves a block, from the recorded calls, if a unit can stand there."""
        name, block = self.blocks[index]
        here = f"where={self.path!r}: no unit can stand behind block {name!r} ({type(block).__name__})"
        order = [id(block) for _, block in self.blocks]
        ran = [call for call in calls if id(call.module) in set(order)]
        if not ran or [id(call.module) for call in ran] != order * (len(ran) // len(order)):
            raise ValueError(
                f"{here}, because {type(self.container).__name__} does not run its children in order, one after the "
                f"other: name a container that does, such as an nn.Sequential of blocks"
            )
        call = ran[index]
        features = call.output
        following = ran[index + 1] if index + 1 < len(order) else None
        for role, value in (
            ("takes", call.inputs),
            ("returns", (features,)),
            ("hands on", following and following.inputs),
        ):
            if value is not None and (len(value) != 1 or not isinstance(value[0], Tensor)):
                what = ", ".join(type(part).__name__ for part in value)
                raise ValueError(
                    f"{here}, because it {role} ({what}) and not a single map: name a container further up or down "
                    f"whose blocks hand on one map"
                )
        if following is not None and following.inputs[0] is not features:
            raise ValueError(f"{here}, because the next block does not take what this one returns")
        if not 3 <= features.dim() <= 5 or not features.is_floating_point():
            raise ValueError(f"{here}, because it returns no map (b, c, *space), but shape {tuple(features.shape)}")
        inside = {id(m) for _, neighbour in self.blocks[index : index + 2] for m in neighbour.modules()}
        if probe.channels_last(features, [call for call in calls if id(call.module) in inside]):
            raise ValueError(
                f"{here}, because its layers read the last axis of {tuple(features.shape)} as channels: tokens or a "
                f"channels-last map. Units take maps with channels first, (b, c, *space): in a forward of your own, "
                f"move the channels there, apply the unit, and move them back"
            )
        return features

    def thread(self, new: Mapping[int, nn.Module]) -> None:
        """Put each new unit behind the block of its index."""
        behind = {self.blocks[index][0]: unit for index, unit in new.items()}
        self.container._modules.clear()
        for name, child in self.before.items():
            self.container._modules[name] = child
            if name in behind:
                kind = re.sub("[123]d$", "", type(behind[name]).__name__).lower()
                self.container._modules[f"{name}_{kind}"] = behind[name]
                setattr(behind[name], INSERTED, True)

    def restore(self) -> None:
        """Put the container back as it was."""
        self.container._modules.clear()
        self.container._modules.update(self.before)


def _check_arguments(model: Any, where: Any, unit: Any, example: Any) -> None:
    """Raise a ValueError for what is of the wrong kind altogether."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}: give the network itself, an nn.Module")
    if not isinstance(where, Mapping):
        raise ValueError(f"where={where!r} must map paths to numbers of units or indices, as {{'layer2': 2}} does")
    if isinstance(unit, nn.Module) or not callable(unit):
        raise ValueError(f"unit is a {type(unit).__name__}: give what makes a unit from its channels, as GloRe2d does")
    if not (example is None or any(isinstance(part, Tensor) for part in tree_leaves(example))):
        raise ValueError(f"example is a {type(example).__name__} without a tensor: give an input, not its shape")


def _prove(
    model: nn.Module,
    places: list[_Place],
    new: list[dict[int, nn.Module]],
    inputs: tuple[Any, ...],
    expected: Any,
    state: Tensor,
) -> None:
    """Raise a ValueError unless every unit changes the output, and nothing else does.

    The second probe starts from the random state of the first, and each unit hands on its input plus a zero of its own,
    which tells by its gradient whether what the unit gives is used.
    """
    cure = "name a container that runs its children one after the other, such as an nn.Sequential of blocks"
    containers = ", ".join(f"{place.path!r} ({type(place.container).__name__})" for place in places)
    zeros = {module: torch.zeros((), requires_grad=True) for units in new for module in units.values()}
    first = torch.zeros((), requires_grad=True)  # without a gradient of the input, that of a unit tells nothing
    with probe.recorded(zeros, give=lambda module, x: x + zeros[module]) as calls:
        try:
            with probe.evaluating(model), _frozen(model), torch.enable_grad():
                torch.set_rng_state(state)
                output = model(*tree_map_only(Tensor, lambda x: x + first if x.is_floating_point() else x, inputs))
                used = _used(output, zeros)
        except Exception as error:
            raise ValueError(
                f"where: with units between the children of {containers}, {type(model).__name__} no longer runs "
                f"({error}), because it counts or indexes them: {cure}"
            ) from error
    reached = {id(call.module) for call in calls}
    for place, units in zip(places, new, strict=True):
        if any(id(module) not in reached for module in units.values()):
            raise ValueError(
                f"where={place.path!r}: {type(place.container).__name__} does not run every child that it holds, "
                f"so a unit would not be reached: {cure}"
            )
    if not probe.same(output, expected):
        raise ValueError(
            f"where: more children in {containers} change the output of {type(model).__name__} even if they do "
            f"nothing, because it counts, indexes or sums up its children: {cure}"
        )
    for place, units in zip(places, new, strict=True):
        if used and not all(used[module] for module in units.values()):
            raise ValueError(
                f"where={place.path!r}: what comes out behind some children of {type(place.container).__name__} is not "
                "used, so a unit there would never learn: name an earlier block, or another container"
            )


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradients of the network's own weights, for which a run would keep its maps."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad = False
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad = True


def _used(output: Any, zeros: Mapping[nn.Module, Tensor]) -> dict[nn.Module, bool]:
    """Which zeros an output depends on; nothing, where no gradient could tell."""
    leaves = [leaf for leaf in probe.leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not leaves:
        return {}
    try:
        grads = torch.autograd.grad([leaf.abs().sum() for leaf in leaves], [*zeros.values()], allow_unused=True)
    except RuntimeError:  # as of what was written over
        return {}
    return {module: grad is not None for module, grad in zip(zeros, grads, strict=True)}


def _made(unit: Callable[[int], nn.Module], block: nn.Module, features: Tensor) -> nn.Module:
    """A new unit for a map, with its block's device, dtype and training flag."""
    like = next((p for p in block.parameters() if p.is_floating_point()), features)
    new = unit(features.shape[1]).to(device=like.device, dtype=like.dtype).train(block.training)
    with probe.evaluating(new):
        out = new(features)
    if not isinstance(out, Tensor) or out.shape != features.shape:
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(
            f"unit: {type(new).__name__} turns a map {tuple(features.shape)} into {shape}: the shape must stay"
        )
    return new
