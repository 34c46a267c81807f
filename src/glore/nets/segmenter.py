"""Segmentation networks: a dilated backbone of timm, a head, and logits of the picture's size."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from glore import probe
from glore.insert import remove, units_of
from glore.nets.heads import FCN
from glore.nets.images import PROBED, backbone
from glore.nets.places import Units
from glore.nets.pretrained import load_pretrained, read_weights
from glore.units import GloRe2d


class Segmenter(nn.Module):
    """A backbone, a head on its last map and, for training, an auxiliary head on the map of the stage before.

    Shapes:
        `(b, 3, h, w)` of any size to logits `(b, classes, h, w)`; in training with an auxiliary head, a tuple of the
        head's logits and the auxiliary ones. What a picture lacks to a whole number of cells is filled with zeros, the
        mean colour of normalised pictures, so that none is stretched.

    Args:
        backbone: a network with `forward_intermediates`, as timm's have.
        head: from the last map to logits.
        auxiliary: the same from the map before; None for none.
        output_stride: how many times smaller the last map is than the picture.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, auxiliary: nn.Module | None = None, output_stride: int = 1
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.auxiliary, self.output_stride = backbone, head, auxiliary, output_stride

    def forward(
        self, x: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b k h w"] | tuple[Float[Tensor, "b k h w"], Float[Tensor, "b k h w"]]:
        size, x = x.shape[2:], self.filled(x)
        before, last = _maps(self.backbone, x)
        logits = _laid_over(self.head(last), x, size)  # (b, k, h, w)
        if self.auxiliary is None or not self.training:
            return logits
        return logits, _laid_over(self.auxiliary(before), x, size)

    def filled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        """Pictures as the backbone takes them, with zeros to the right and below up to whole cells."""
        return _filled(x, self.output_stride)


def segmenter(
    name: str,
    classes: int | None = None,
    head: Callable[[int, int], nn.Module] = FCN,
    output_stride: Literal[8, 16, 32] = 8,
    auxiliary: bool = True,
    units: Units | None = None,
    unit: Callable[[int], nn.Module] | None = GloRe2d,
    pretrained: bool | str = False,
    options: Mapping[str, Any] | None = None,
) -> Segmenter:
    """One of timm's CNNs, dilated, under a segmentation head.

    Shapes:
        See `Segmenter`.

    Args:
        name: of the backbone in timm: `"resnetv2_50"`, `"tf_efficientnet_lite0"`, …
        classes: how many there are; in a recipe, null for as many as the data have.
        head: makes the head from the channels of the backbone's last map and the number of classes: `FCN`, `PSP` and
            `DenseASPP` in `glore.nets.heads`. Units of the head are an argument of `FCN`.
        output_stride: how many times smaller the backbone's last map is than the picture; 8 costs the most, and 32
            leaves the backbone as it is.
        auxiliary: whether a plain `FCN` head of a quarter of the channels learns from the stage before.
        units: stage of the backbone → how many units to put there, or their indices, as `glore.nets.images.backbone`
            takes them. A stage keeps its name when it is dilated.
        unit: makes a unit of the backbone from its channels; None leaves the backbone plain.
        pretrained: True for the weights that timm knows of the backbone; or the path of a file with weights of the
            backbone, or of a whole network such as this one; of other classes, those of each head's last layer are left
            out. Units of the head and an auxiliary head, for which it has none, stay as they are.
        options: further arguments of `timm.create_model`, but for its `output_stride`.

    Raises:
        ModuleNotFoundError: timm is missing, which the extra `timm` brings.
        ValueError: there is no such network, it cannot be dilated or takes pictures of some sizes only, its last map
            has another size than `output_stride` says, or an argument is out of range.

    Source: the authors' repository for the networks on Cityscapes; Zhao et al., CVPR 2017, for the auxiliary head.

    Example:
        >>> import torch, glore
        >>> from functools import partial
        >>> net = segmenter("resnetv2_18", 11, partial(FCN, width=64, unit=glore.GloRe2d)).eval()
        >>> net(torch.zeros(1, 3, 67, 91)).shape
        torch.Size([1, 11, 67, 91])
    """
    if classes is None or classes < 1:
        raise ValueError(f"classes={classes} must be how many there are, at least 1")
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride={output_stride} must be 8, 16 or 32")
    options = dict(options or {})
    if "output_stride" in options:
        raise ValueError(f"options={options!r}: give output_stride itself")
    dilated = {"output_stride": output_stride} if output_stride < 32 else {}
    whole = isinstance(pretrained, str) and any(key.startswith("backbone.") for key in read_weights(pretrained))
    first = False if whole else pretrained
    net: Any = backbone(name, units, unit, pretrained=first, options={**options, **dilated})
    if not hasattr(net, "forward_intermediates"):
        raise ValueError(
            f"name={name!r}: timm gives no maps of its stages (forward_intermediates); take another network"
        )
    told = [stage["reduction"] for stage in getattr(net, "feature_info", ()) if "reduction" in stage]
    stride = output_stride if dilated or not told else told[-1]
    before, last = _channels(net, name, stride)
    side = FCN(before, classes, width=max(1, before // 4)) if auxiliary else None
    model: Any = Segmenter(net, head(last, classes), side, stride)
    if whole:
        load_pretrained(model, str(pretrained))
    else:
        model.fresh_classifier = bool(pretrained)
    return model


segmenter.takes_timm_name = True  # type: ignore[attr-defined]


def _maps(backbone: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The backbone's last two maps, the last one behind the norm that a pre-activation network ends in."""
    before, last = backbone.forward_intermediates(x, indices=2, norm=True, intermediates_only=True)
    return before, last


def _filled(x: Tensor, stride: int) -> Tensor:
    """Pictures with zeros to the right and below, up to sides that a stride divides."""
    h, w = x.shape[2:]
    if not (_traced() or h % stride or w % stride):
        return x
    return F.pad(x, (0, -w % stride, 0, -h % stride))


def _traced() -> bool:
    """Whether what runs is written down for other sizes."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _laid_over(logits: Tensor, filled: Tensor, size: Sequence[int]) -> Tensor:
    """The logits of cells for each position of a filled picture, as far as the picture itself goes."""
    (h, w), (high, wide) = size, filled.shape[2:]
    logits = F.interpolate(logits, (high, wide), mode="bilinear")
    if not _traced() and (h, w) == (high, wide):
        return logits
    return F.pad(logits, (0, w - wide, 0, h - high))  # torch.export knows no slice of free size


def _unshifted(maps: Sequence[Tensor], plain: nn.Module, example: Tensor) -> bool:
    """Whether a network without units has these maps, too."""
    with probe.evaluating(plain), torch.enable_grad():  # as they were made: kernels may differ
        return all(map(torch.equal, maps, _maps(plain, example)))


def _channels(net: nn.Module, name: str, output_stride: int) -> tuple[int, int]:
    """The channels of the last two maps; what lies behind them is taken out, and a network without them refused."""
    (picture,) = probe.inputs_for(net, None)
    example = _filled(picture[..., : PROBED - 40, :PROBED], output_stride)  # not square, as pictures are
    parameters = dict(net.named_parameters())
    units = [*units_of(net).values()]
    with probe.recorded(units, give=lambda unit, x: x), probe.evaluating(net), torch.enable_grad():
        try:
            maps = _maps(net, example)
        except (RuntimeError, ValueError, AssertionError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            size = "×".join(map(str, example.shape[2:]))
            raise ValueError(
                f"name={name!r} does not take pictures of any size, such as {size} ({said}): take another network"
            ) from error
        grads = torch.autograd.grad([m.sum() for m in maps], list(parameters.values()), allow_unused=True)
    if any(side != output_stride * cells for side, cells in zip(example.shape[2:], maps[1].shape[2:], strict=True)):
        own, seen = ("×".join(map(str, x.shape[2:])) for x in (maps[1], example))
        raise ValueError(
            f"name={name!r} has a last map of {own} for a picture of {seen}, which is no output stride of "
            f"{output_stride}: take another network"
        )
    if units and not _unshifted(maps, remove(copy.deepcopy(net)), example):
        raise ValueError(
            f"name={name!r}: timm finds the maps of this network by counting its blocks, which units among them shift: "
            "put units into the head, or take another network"
        )
    _prune(net, {path.rpartition(".")[0] for path, grad in zip(parameters, grads, strict=True) if grad is not None})
    before, last = (m.shape[1] for m in maps)
    return before, last


def _prune(net: nn.Module, used: Collection[str]) -> None:
    """Take out the layers that are not used, but for those of units."""
    inserted = tuple(f"{path}." for path in units_of(net))
    for path in {path.rpartition(".")[0] for path, _ in net.named_parameters()}.difference(used):
        if not f"{path}.".startswith(inserted):
            net.set_submodule(path, nn.Identity())
