"""Where builders of networks put units: behind which blocks of a stage, and in networks that are made here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, TypeVar

from torch import Tensor, nn

from glore.insert import indices, insert

Units = Mapping[str, int | Sequence[int]]
Net = TypeVar("Net", bound=nn.Module)

PUBLISHED = {(23, 3): (5, 11, 17)}  # (blocks, units) → places in the published ResNet-101, where they are not spread


def block_indices(units: Units, stage: str, stages: Mapping[str, Any]) -> tuple[int, ...]:
    """The blocks of a stage that get units: as `glore.insert.indices`, but where the published networks have others.

    Raises:
        ValueError: there is no such stage, or no such places in it.
    """
    if stage not in stages:
        raise ValueError(f"units={dict(units)!r}: no {stage}; this network has {', '.join(sorted(stages))}")
    count, wanted = len(stages[stage]), units[stage]
    published = PUBLISHED.get((count, int(wanted))) if isinstance(wanted, Integral) else None
    try:
        return published or indices(count, wanted)
    except ValueError as error:
        raise ValueError(f"units={{{stage!r}: {wanted!r}}}: {error} (in a recipe, --model.net.units)") from None


def check_place(
    units: Units | None, unit: Callable[[int], nn.Module] | None, default: Callable[[int], nn.Module]
) -> None:
    """Refuse a unit without a place: a builder would make the plain network of it.

    Args:
        units: the places that the builder was given.
        unit: what it was given to make a unit.
        default: what it takes if it is given none, of which nothing can be told. Of a function, as which a recipe gives
            units, neither: recipes are checked where they are read.

    Raises:
        ValueError: a unit was given, but no place.
    """
    kind = getattr(unit, "func", unit)
    if not units and isinstance(kind, type) and kind is not default:
        raise ValueError(f"unit={kind.__name__} is given, but no place for it: give units, such as {{'res4': 1}}")


def equipped(
    net: Net,
    container: str,
    units: Units | None,
    unit: Callable[[int], nn.Module] | None,
    default: Callable[[int], nn.Module],
    pretrained: str | bool,
    example: Tensor,
) -> Net:
    """A network of ours with units behind blocks of its stages, and weights from a file.

    Args:
        net: the network, whose stages are containers of blocks.
        container: path of the module that has the stages, `""` for the network itself.
        units: stage → how many, or their indices.
        unit: makes a unit from its channels; None for none.
        default: what it is where nothing else is given.
        pretrained: path of a file, if there is one.
        example: an input.

    Raises:
        ValueError: there is no such stage or place, a unit has no place, or the weights do not fit.
    """
    if pretrained is True:
        raise ValueError("pretrained=True: give the path of a file with weights")
    check_place(units, unit, default)
    if units and unit is not None:
        stages = {
            name: module for name, module in net.get_submodule(container).named_children() if name.startswith("res")
        }
        where = {f"{container}.{stage}".lstrip("."): block_indices(units, stage, stages) for stage in units}
        insert(net, where, unit, example=example)
    if pretrained:
        from glore.nets.pretrained import load_pretrained  # reads files with timm

        load_pretrained(net, pretrained)
    return net
