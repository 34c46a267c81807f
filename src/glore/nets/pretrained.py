"""Weights from files, into networks with units or without."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor, nn

from glore.insert import units_of


def load_pretrained(model: nn.Module, path: Path | str) -> None:
    """Load weights from a file, safetensors or torch's own; units that it has no weights for stay as they are.

    So does an auxiliary head of a segmentation network; one that the file alone has is left out. Prefixes and wrappers
    of training scripts (`state_dict`, `module.`) are taken off. Of a classifier with other classes the weights are left
    out, and none are needed. A file of torch's own in which no key is known, but whose tensors have the network's
    shapes one by one in order, is taken in that order; the classifier's may have others there too. Whether the
    classifier's were left out is `model.fresh_classifier`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or the weights do not fit; the message names what does not.
    """
    weights = read_weights(path)
    own = model.state_dict()
    extras = ("head.context.", "auxiliary.", *(f"{path}." for path in units_of(model)))
    weights = {name: tensor for name, tensor in weights.items() if name in own or not name.startswith("auxiliary.")}
    optional = {name for name in own if name.startswith(extras) or name.endswith("num_batches_tracked")}
    head = tuple(f"{name}." for name in classifiers(model))
    if not weights.keys() & own.keys() and Path(path).suffix != ".safetensors":  # which has no order
        counted = [name for name in own if name not in optional]
        values = [tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")]
        pairs = list(zip(counted, values, strict=False))
        same = all(own[name].shape == tensor.shape or name.startswith(head) for name, tensor in pairs)
        if same and len(counted) == len(values):
            weights = dict(pairs)
    headless = bool(head) and not any(name.startswith(head) for name in weights)
    optional |= {name for name in own if headless and name.startswith(head)}
    heads = {name: (weights[name].shape, own[name].shape) for name in own if name.startswith(head) and name in weights}
    other_head = {name for name, (given, wanted) in heads.items() if given != wanted and given[1:] == wanted[1:]}
    kept = {name: tensor for name, tensor in weights.items() if name not in other_head}
    if faults := misfits(own, kept, optional | other_head):
        raise ValueError(f"pretrained={str(path)!r} does not fit {type(model).__name__}: {faults}")
    model.load_state_dict(kept, strict=False)
    vars(model)["fresh_classifier"] = bool(other_head) or headless


def misfits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], optional: Collection[str] = ()) -> str:
    """What of some weights does not fit a network's own: the first three faults and how many more; or nothing.

    Args:
        own: the network's state dict.
        weights: by the same names.
        optional: names that may be missing.
    """
    faults = [f"{name} is missing" for name in own if name not in weights and name not in optional]
    faults += [f"{name} is unknown" for name in weights if name not in own]
    faults += [
        f"{name} is {tuple(weights[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    return "; ".join(faults[:3]) + (f" and {len(faults) - 3} more" if len(faults) > 3 else "")


def classifiers(model: nn.Module) -> list[str]:
    """Where a network's classifier is: what timm tells, or else what has a usual name for it."""
    told = getattr(model, "default_cfg", {}).get("classifier")
    names = (told,) if isinstance(told, str) else told or ("head", "auxiliary", "classifier", "aux_classifier", "fc")
    modules = dict(model.named_modules())
    return [name for name in names if name in modules]


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a file, safetensors or torch's own; errors as of `load_pretrained`."""
    from timm.models import load_state_dict

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"pretrained={str(path)!r} is no file: give the path of one with weights")
    try:
        weights: dict[str, Tensor] = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for broken files
        raise ValueError(f"pretrained={str(path)!r} is damaged, or holds more than tensors: {error}") from error
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"pretrained={str(path)!r} is no state dict, but has {', '.join(map(str, [*weights][:5]))}")
    return weights
