"""The paper's networks by names in timm: `timm.create_model("glore_resnet50")` is timm's `resnet50` with units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    get_arch_pretrained_cfgs,
    model_entrypoint,
    register_model,
)
from torch import Tensor, nn

from glore.insert import units_of
from glore.nets.images import with_units
from glore.nets.places import Units
from glore.units import GloRe2d


class Backbone(NamedTuple):
    """Where a network of timm gets its units, and how timm takes its maps for `features_only`."""

    units: Units
    features: dict[str, Any]


UNITS = {"res3": 2, "res4": 3}
FLAT = {"flatten_sequential": True}
BACKBONES = {  # by their names in timm; the names with units have glore_ in front
    **dict.fromkeys(("resnet50", "resnet101", "resnet152"), Backbone(UNITS, {})),
    **dict.fromkeys(("resnext101_32x4d", "seresnet50", "seresnet101"), Backbone(UNITS, {})),
    **dict.fromkeys(("resnetv2_50", "resnetv2_101", "resnetv2_152"), Backbone(UNITS, FLAT)),
    **dict.fromkeys(("dpn92", "dpn98", "dpn131"), Backbone(UNITS, FLAT)),
    "densenet121": Backbone({"res3": 2, "res4": 2}, FLAT),  # which has no more places
    "xception41": Backbone({"res3": 1, "res4": 3}, {**FLAT, "feature_cls": "hook"}),
    "mobilenetv2_100": Backbone(UNITS, {"feature_cls": "getter"}),
}
default_cfgs = generate_default_cfgs(  # where timm looks for them: its own, weights of the backbone included
    {f"glore_{tagged}": cfg for name in BACKBONES for tagged, cfg in get_arch_pretrained_cfgs(name).items()}
)


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    make, (units, features) = model_entrypoint(name), BACKBONES[name]

    def build(pretrained: bool = False, units: Units = units, **options: Any) -> nn.Module:
        def made(**options: Any) -> nn.Module:
            model = make(**options)
            if units:
                with_units(model, units, GloRe2d, make, options)
            return model

        return build_model_with_cfg(
            made, f"glore_{name}", pretrained, feature_cfg=dict(features), pretrained_filter_fn=_complete, **options
        )

    build.__name__ = build.__qualname__ = f"glore_{name}"
    build.__doc__ = f"timm's `{name}` with GloRe units; `units` puts others in, as `glore.nets.images.backbone` does."
    return build


def _complete(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights from a file, with the model's own for its units if the file has none at all."""
    units = tuple(f"{path}." for path in units_of(model))
    if any(name.startswith(units) for name in weights):
        return weights
    return {**{name: own for name, own in model.state_dict().items() if name.startswith(units)}, **weights}


for _name in BACKBONES:
    register_model(_entrypoint(_name))
