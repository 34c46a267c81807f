"""Networks for pictures: any of timm's CNNs with units between its blocks, and the paper's networks by their names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from glore import probe
from glore.insert import insert
from glore.nets.places import Units, block_indices, check_place
from glore.nets.pretrained import classifiers, load_pretrained
from glore.units import GloRe2d

PROBED = 96  # pixels a side of the picture that shows where units can stand: nearly any CNN takes it, and it is quick
READING = {"checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}  # options of timm
HUB = ("hf-hub:", "hf_hub:", "local-dir:")  # what names of networks that are not timm's own begin with


def backbone(
    name: str,
    units: Units | None = None,
    unit: Callable[[int], nn.Module] | None = GloRe2d,
    classes: int | None = 1000,
    pretrained: bool | str = False,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """One of timm's CNNs with units behind some of its blocks.

    Stages are known of networks that hand one map from block to block: ResNet, ResNeXt, SE-ResNet, RegNet, DPN,
    DenseNet, Xception, MobileNet, EfficientNet, ConvNeXt, NFNet and their like. In others name containers of blocks.

    Shapes:
        `(b, 3, h, w)` to logits `(b, classes)`.

    Args:
        name: of the network in timm: `"resnet50"`, `"resnetv2_101"`, `"convnext_tiny"`, …
        units: stage → how many units to spread over its places, or their zero-based indices: `{"res3": 2, "res4": 3}`.
            `res<k>` are the places behind blocks whose output is 2^k times smaller than the picture, in the order in
            which they run; a dilated stage keeps its name. A module path, such as `"layer3"`, names a container of
            blocks as in `glore.insert`, which spreads units evenly.
        unit: makes a unit from its channels; None leaves the network plain.
        classes: of the classifier; 1,000 by default, and in a recipe, null for as many as the data have.
        pretrained: True for the weights that timm knows, which are downloaded; or the path of a file with weights, of
            the network with its units or without. Those of a classifier with other classes are left out.
        options: further arguments of `timm.create_model`, such as `{"output_stride": 16}`.

    Raises:
        ModuleNotFoundError: timm is missing, which the extra `timm` brings.
        ValueError: there is no such network or stage, a stage has fewer places than units, a unit is given without a
            place, or the weights do not fit.

    Source: section 4.1 of the paper for even spreading; three units among 23 blocks stand where the published
    ResNet-101 has them.

    Example:
        >>> import glore
        >>> net = backbone("resnet18", units={"res3": 1, "res4": 2}, classes=10)
        >>> list(glore.units_of(net))
        ['layer2.0_glore', 'layer3.0_glore', 'layer3.1_glore']
    """
    import timm

    check_place(units, unit, GloRe2d)
    if not timm.is_model(name):
        if name.startswith(HUB):
            raise ValueError(f"name={name!r}: give the network's own name, and the path of its weights as pretrained")
        near = get_close_matches(name, timm.list_models(), n=5)
        raise ValueError(f"name={name!r} is no network of timm" + (f"; near it are {', '.join(near)}" if near else ""))
    options = dict(options or {})
    if reading := READING & options.keys():
        raise ValueError(f"options={options!r}: {min(reading)} is refused: give weights as pretrained")
    if "num_classes" in options:
        raise ValueError(f"options={options!r}: give classes itself")
    wanted = 1000 if classes is None else classes
    # with their own classes, since of others timm would let layers be missing
    own: dict[str, Any] = {} if pretrained is True else {"num_classes": wanted}
    try:
        model: Any = timm.create_model(name, pretrained=pretrained is True, **own, **options)
    except (TypeError, AssertionError) as error:
        if "output_stride" not in options or (str(error) and "output_stride" not in str(error)):
            if not options:
                raise
            raise ValueError(
                f"name={name!r} cannot be made with options={options!r} ({error}): give this network's own, or none "
                "(in a recipe, --model.net.options null)"
            ) from error
        raise ValueError(
            f"name={name!r} cannot be dilated to output_stride={options['output_stride']}: take another "
            "network, such as a ResNet, ResNeXt, SE-ResNet, Xception, MobileNetV2 or EfficientNet, or leave its stride "
            "(output_stride=32)"
        ) from error
    except RuntimeError as error:  # no such tag, no weights
        raise ValueError(f"name={name!r}, pretrained={pretrained!r}: {' '.join(str(error).split())}") from None
    except Exception as error:  # a hub that cannot be reached raises many kinds
        if pretrained is not True:
            raise
        raise ValueError(
            f"name={name!r}, pretrained=True: its weights could not be downloaded ({error}); give the path of a file, "
            "or False to start from nothing (in a recipe, --model.net.pretrained FILE, or false and --model.old_rate 1)"
        ) from None
    if model.num_classes != wanted:
        model.reset_classifier(wanted)
    if unit is not None and units:
        with_units(model, units, unit, lambda **told: timm.create_model(name, num_classes=0, **told), options)
    if isinstance(pretrained, str):
        load_pretrained(model, pretrained)
    else:
        model.fresh_classifier = pretrained and wanted != model.pretrained_cfg["num_classes"]
    if model.fresh_classifier:  # timm starts some classifiers from numbers that are far too large for few classes
        for path in classifiers(model):
            for module in model.get_submodule(path).modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
    return model


backbone.takes_timm_name = True  # type: ignore[attr-defined]


def with_units(
    model: nn.Module,
    units: Units,
    unit: Callable[[int], nn.Module],
    make: Callable[..., nn.Module],
    options: Mapping[str, Any],
) -> nn.Module:
    """Put units into a network that timm made, in place.

    Args:
        model: the network.
        units: stage → how many, or their indices, as `backbone` takes them.
        unit: makes a unit from its channels.
        make: makes the network again from options: a dilated one hides where its strides were.
        options: that it was made with.
    """
    (example,) = probe.inputs_for(model, None)
    told = dict(options)
    dilated = told.pop("output_stride", 32) != 32
    undilated = make(**told) if dilated else model
    places = where(undilated, units, example)
    try:
        return insert(model, places, unit, example=_smaller(example))
    except ValueError:  # which may be because of the picture
        try:
            return insert(model, places, unit, example=example)
        except ValueError as error:
            raise ValueError(f"units={dict(units)!r}: {error}") from error


def places(model: nn.Module, example: Tensor) -> dict[str, list[tuple[str, int]]]:
    """Where units can stand in a network of timm: stage → (path of the container, index of the block), in order.

    timm tells the blocks of each of its networks, for layer-wise learning rates. Where they do not hand on one map, as
    the layers of a dense block, its coarser grouping is taken. Of single layers, as in a VGG, activations count.

    Args:
        model: the network.
        example: a picture, `(b, 3, h, w)`, with sides that its strides divide.

    Raises:
        ValueError: the network tells no blocks, or they do not hand on one map with channels first.

    Example:
        >>> import timm, torch
        >>> places(timm.create_model("resnet18"), torch.zeros(1, 3, 64, 64))["res3"]
        [('layer2', 0), ('layer2', 1)]
    """
    for coarse in (False, True):
        blocks = _blocks(model, coarse)
        calls, size = _ran(model, blocks, example)
        if not calls or not all(_is_map(call.inputs) and _is_map((call.output,)) for call in calls):
            continue
        names = {id(block): path for path, block in blocks.items()}
        found: dict[str, list[tuple[str, int]]] = {}
        for call in calls:
            container, _, last = names[id(call.module)].rpartition(".")
            children = [child for child, _ in model.get_submodule(container).named_children()]
            stage = round(math.log2(size / call.output.shape[-1]))
            found.setdefault(f"res{stage}", []).append((container, children.index(last)))
        return found
    raise ValueError(
        f"the stages of this {type(model).__name__} are not known, as timm does not tell blocks of it that hand on one "
        "map: name containers of its blocks by their paths, as in glore.insert; networks that hand on tokens, such as "
        "ViT, take no units"
    )


def where(model: nn.Module, units: Units, example: Tensor) -> dict[str, Sequence[int] | int]:
    """The places of units in a network of timm, as `glore.insert` takes them; see `places`.

    Raises:
        ValueError: a stage is unknown, or has fewer places than units.
    """
    stages = places(model, example) if any(re.fullmatch(r"res\d+", stage) for stage in units) else {}
    chosen: dict[str, Any] = {}
    for stage, wanted in units.items():
        if not re.fullmatch(r"res\d+", stage):
            if stage in chosen:
                raise ValueError(f"units={dict(units)!r}: {stage} is named twice, by its path and by a stage")
            chosen[stage] = wanted
            continue
        for index in block_indices(units, stage, stages):
            container, block = stages[stage][index]
            if container in units:
                raise ValueError(f"units={dict(units)!r}: {container} is named twice, by its path and by {stage}")
            chosen.setdefault(container, []).append(block)
    return chosen


def _ran(model: nn.Module, blocks: Mapping[str, nn.Module], example: Tensor) -> tuple[list[probe.Call], int]:
    """The calls of blocks on a picture, and its side: of a small one if that takes the network through unrounded."""
    calls: list[probe.Call] = []
    size = example.shape[-1]
    for picture in (_smaller(example), example):
        try:
            with probe.recorded(blocks.values()) as found:
                probe.run(model, (picture,))
        except (RuntimeError, ValueError, AssertionError):  # of a network that takes some sizes only
            continue
        calls, size = found, picture.shape[-1]
        if not any(size % call.output.shape[-1] for call in calls if _is_map((call.output,))):
            break  # nothing was rounded on the way, so sizes tell the stages
    return calls, size


def _blocks(model: nn.Module, coarse: bool) -> dict[str, nn.Module]:
    """What timm calls a network's blocks, by their paths; those in the network itself, whose order is open, are not."""
    grouping = getattr(model, "group_matcher", None)
    groups = grouping(coarse=coarse) if grouping is not None else {"blocks": r"stages\.\d+\.blocks\.\d+"}
    patterns = groups.get("blocks", ()) if isinstance(groups, Mapping) else ()
    pairs = [(patterns, None)] if isinstance(patterns, str) else patterns
    regexes = [pattern for pattern, order in pairs if order is None]  # the others lead stems and heads to a group
    return {
        path: module
        for path, module in model.named_modules()
        if "." in path
        and any(re.fullmatch(pattern, path) for pattern in regexes)
        and (any(module.children()) or type(module).__module__ == nn.ReLU.__module__)
    }


def _smaller(example: Tensor) -> Tensor:
    """The picture that shows where units can stand in nearly any network."""
    return example[..., :PROBED, :PROBED]


def _is_map(value: tuple[Any, ...]) -> bool:
    """Whether it is one map with channels first, of a square picture."""
    return (
        len(value) == 1
        and isinstance(value[0], Tensor)
        and value[0].dim() == 4
        and value[0].shape[2] == value[0].shape[3]
    )


def pretrained_statistics(builder: Callable[..., nn.Module], name: str | None = None) -> dict[str, list[float]]:
    """Mean and standard deviation of the channels that the weights which timm has for a network were made with.

    Args:
        builder: `backbone`, `segmenter`, one of the paper's networks, or anything else, of which nothing is known.
        name: of the network in timm, for the first two.

    Example:
        >>> pretrained_statistics(resnet50)
        {'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5]}
    """
    name = name if getattr(builder, "takes_timm_name", False) else getattr(builder, "timm_name", None)
    if name is None:
        return {}
    import timm

    name = timm.models.get_deprecated_models().get(name) or name  # which takes them as well
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:  # no such tag, as `backbone` will say
        return {}
    return {} if config is None else {"mean": list(config.mean), "std": list(config.std)}


def _named(paper: str, timm_name: str, **fixed: Any) -> Callable[..., nn.Module]:
    def build(
        units: Units | None = None,
        unit: Callable[[int], nn.Module] | None = GloRe2d,
        classes: int | None = 1000,
        pretrained: bool | str = False,
        options: Mapping[str, Any] | None = None,
    ) -> nn.Module:
        return backbone(timm_name, units, unit, classes, pretrained, {**fixed, **(options or {})})

    build.__name__ = build.__qualname__ = paper
    build.timm_name = timm_name  # type: ignore[attr-defined]
    build.__doc__ = f"The paper's {paper}: timm's `{timm_name}`. Arguments: `backbone`."
    return build


# pre-activation networks, as published
resnet50 = _named("resnet50", "resnetv2_50")
resnet101 = _named("resnet101", "resnetv2_101")
resnet152 = _named("resnet152", "resnetv2_152")
resnet200 = _named("resnet200", "resnetv2_152", layers=(3, 24, 36, 3))
# timm has ResNeXt and SE-ResNet with activation behind the addition only
resnext101_32x4d = _named("resnext101_32x4d", "resnext101_32x4d")
se_resnet50 = _named("se_resnet50", "seresnet50")
se_resnet101 = _named("se_resnet101", "seresnet101")
dpn92 = _named("dpn92", "dpn92")
dpn98 = _named("dpn98", "dpn98")
dpn131 = _named("dpn131", "dpn131")
densenet121 = _named("densenet121", "densenet121")
xception41 = _named("xception41", "xception41")
mobilenetv2 = _named("mobilenetv2", "mobilenetv2_100")
