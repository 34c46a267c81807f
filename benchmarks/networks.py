"""Parameters and multiply-adds of the paper's networks, with and without units: a table of docs/results.md.

Counted, not timed. The direct order is counted by a hook on a child of each unit, which sends it there.
"""

from __future__ import annotations

import timm
import torch
from torch import nn

import glore
import page
from glore import measure
from glore.nets import images, small
from glore.weights.files import PAPER

SIDE = 224
PLACES = {
    "0 + 3": {"res4": 3},
    "2 + 3": {"res3": 2, "res4": 3},
    "2 + 2": {"res3": 2, "res4": 2},
    "1 + 3": {"res3": 1, "res4": 3},
}
FEWER = {  # a dense stage hands on one map at its end and behind its transition only; Xception has one block in Res3
    "densenet121": ("2 + 2",),
    "xception41": ("0 + 3", "1 + 3"),
}
POST_ACTIVATION = ("resnext101_32x4d", "se_resnet50", "se_resnet101")


def as_published(net: nn.Module) -> nn.Module:
    for unit in glore.units_of(net).values():
        unit.state.register_forward_hook(lambda *call: None)
    return net


def row(name: str, units: str, net: nn.Module, side: int = SIDE) -> str:
    example = torch.zeros(1, 3, side, side)
    counts = [measure.multiply_adds(net, example), measure.multiply_adds(as_published(net), example)]
    cells = [name, units, f"{measure.parameters(net) / 1e6:.3f}", *(f"{count / 1e9:.3f}" for count in counts)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    lines = [
        f"Made by `make bench-networks`, timm {timm.__version__}, for pictures of {SIDE}×{SIDE} (the last two 32×32). "
        "Units are GloRe's default, n = c / 4 and s = c / 2 of the stage's output, in Res3 + Res4. Multiply-adds are "
        "those that run in evaluation mode, which in Res3 are the cheap order's; beside them those of the published "
        "order. Networks in italics are post-activation in timm, unlike the paper's.",
        "",
        "| network | units | parameters, 10⁶ | multiply-adds, 10⁹ | in the published order |",
        "|---|---|---|---|---|",
    ]
    for name in PAPER:
        shown = f"*{name}*" if name in POST_ACTIVATION else name
        build = getattr(images, name)
        lines.append(row(shown, "–", build(unit=None)))
        lines += [row(shown, units, build(PLACES[units])) for units in FEWER.get(name, ("0 + 3", "2 + 3"))]
        print(lines[-1], flush=True)
    for units, places in {"–": None, "one in Res3": {"res3": 1}}.items():
        net = small.small_classifier(10, units=places, unit=glore.GloRe2d if places else None)
        lines.append(row("CIFAR ResNet-20", units, net, 32))
    page.put("networks", "\n".join(lines))


if __name__ == "__main__":
    main()
