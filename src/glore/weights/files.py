"""Networks on disk: weights as safetensors, and beside them a JSON that tells how the network is made.

A file from elsewhere is data, never code: the JSON may name only the builders listed here, unless the caller trusts it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import platform
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glore.nets.pretrained import misfits

Constructor = dict[str, Any]  # {"class_path": "package.builder", "init_args": {…}}; an argument may be another one

DRAFT = ".draft"
UMASK = os.umask(0)
os.umask(UMASK)

PAPER = (
    *("resnet50", "resnet101", "resnet152", "resnet200", "resnext101_32x4d", "se_resnet50", "se_resnet101"),
    *("dpn92", "dpn98", "dpn131", "densenet121", "xception41", "mobilenetv2"),
)
BUILDERS = frozenset(
    f"glore.{name}"
    for name in (
        *("nets.small.small_classifier", "nets.small.small_segmenter", "nets.images.backbone"),
        *(f"nets.images.{name}" for name in PAPER),
        *(f"nets.video.resnet{layers}_3d" for layers in (18, 50, 101)),
        *("nets.segmenter.segmenter", *(f"nets.heads.{name}" for name in ("FCN", "PSP", "DenseASPP"))),
        *(f"GloRe{axes}d" for axes in (1, 2, 3)),
        *(
            f"units.{file}{kind}{axes}d"
            for axes in (1, 2, 3)
            for kind, module in {
                "Bottleneck": "bottleneck",
                "DoubleAttention": "double_attention",
                "GloRe": "glore",
                "GlobalContext": "global_context",
                "NonLocal": "non_local",
                "SqueezeExcite": "squeeze_excite",
            }.items()
            for file in ("", f"{module}.")
        ),
    )
)


def save(path: Path | str, weights: dict[str, Tensor], constructor: Constructor) -> None:
    """Write `path` (weights, `.safetensors`) and its `.json` (constructor), each whole or not at all.

    Args:
        path: of the weights; the JSON goes beside it.
        weights: the network's state dict.
        constructor: `{"class_path": …, "init_args": {…}}` of JSON values; an argument may be such a dict itself.

    Raises:
        OSError: the disk is full or the folder cannot be written; a file that was there before is unharmed.
    """
    weights_path, json_path = _pair(path)
    with replacing(weights_path) as draft:  # clones, since a file cannot hold two tensors that share their memory
        save_file(
            {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()},
            draft,
        )
    write(json_path, json.dumps(constructor, indent=2) + "\n")


def load(path: Path | str, *, trust: bool = False) -> nn.Module:
    """Make the network that `save` wrote, in evaluation mode on the CPU.

    Args:
        path: of the weights, the JSON, or their common name.
        trust: let the JSON name builders that are not ours. They are imported and called, which runs their code: trust
            only files that you would run as a program.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: a file is damaged, the JSON names a builder that is not ours, or the weights do not fit.

    Example:
        >>> import tempfile, torch
        >>> from glore.nets.small import small_segmenter
        >>> arguments = {"classes": 3, "units": {"res3": 1}, "unit": {"class_path": "glore.GloRe2d"}}
        >>> constructor = {"class_path": "glore.nets.small.small_segmenter", "init_args": arguments}
        >>> net = construct(constructor)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/net", net.state_dict(), constructor)
        ...     again = load(f"{folder}/net")
        >>> all(map(torch.equal, net.state_dict().values(), again.state_dict().values()))
        True
    """
    weights_path, json_path = _pair(path)
    for file in (weights_path, json_path):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: a network is two files, NAME.safetensors and NAME.json")
    constructor = constructor_in(json_path)
    try:
        net = construct(constructor, trust=trust)
    except (TypeError, ValueError, AttributeError, RuntimeError, KeyError) as error:
        raise ValueError(f"{json_path} makes no network: {error}") from error
    load_weights(net, weights_path)
    return net.eval()


def constructor_in(path: Path) -> Constructor:
    """The constructor in a JSON file that `save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it tells how a network is made, and glore fit writes it")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error


def load_weights(net: nn.Module, path: Path | str) -> None:
    """Load the weights that `save` wrote into a network that is there already.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or its keys or shapes are not the network's.
    """
    path, _ = _pair(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    if faults := misfits(net.state_dict(), weights):
        raise ValueError(f"{path} does not fit this network: {faults}")
    net.load_state_dict(weights)


def construct(constructor: Constructor, *, trust: bool = False) -> Any:
    """Call what a constructor names with its arguments; those that are constructors too are made first.

    An argument whose parameter is annotated as a callable receives the builder with its arguments, not what it makes:
    this is how a unit is given, which is made anew for each place.

    Args:
        constructor: `{"class_path": …, "init_args": {…}}`, and `dict_kwargs` for arguments that a builder takes as
            `**kwargs`.
        trust: let it name builders that are not ours.

    Raises:
        ValueError: a builder is not ours and `trust` is not given, or cannot be found.
    """
    return factory(constructor, trust=trust)()


def factory(constructor: Constructor, *, trust: bool = False) -> Callable[..., Any]:
    """What `construct` calls, with its arguments: it may take others in front of them."""
    builder, arguments = _resolve(constructor, trust)
    try:
        parameters = inspect.signature(builder, eval_str=True).parameters
    except NameError:  # an annotation that type checkers alone can read
        parameters = inspect.signature(builder).parameters

    def made(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [made(name, item) for item in value]
        if not _is_constructor(value):
            return value
        if name in parameters and _takes_callable(parameters[name].annotation):
            return factory(value, trust=trust)
        return construct(value, trust=trust)

    return partial(builder, **{name: made(name, value) for name, value in arguments.items()})


def foreign(constructor: Constructor) -> list[str]:
    """The builders that a constructor names, its arguments' too, and that are not ours."""

    def named(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if _is_constructor(value):
                yield str(value["class_path"])
            value = list(value.values())
        for item in value if isinstance(value, list) else ():
            yield from named(item)

    return sorted(set(named(constructor)) - BUILDERS)


def _is_constructor(value: object) -> bool:
    return isinstance(value, dict) and "class_path" in value


def _takes_callable(hint: Any) -> bool:
    if isinstance(hint, str):
        return "Callable" in hint
    return typing.get_origin(hint) is Callable or any(map(_takes_callable, typing.get_args(hint)))


def _resolve(constructor: Constructor, trust: bool) -> tuple[Callable[..., Any], dict[str, Any]]:
    if not _is_constructor(constructor) or not isinstance(constructor["class_path"], str):
        raise ValueError(f"{constructor!r} must be {{'class_path': 'package.builder', 'init_args': {{…}}}}")
    class_path = constructor["class_path"]
    if not trust and class_path not in BUILDERS:
        raise ValueError(
            f"class_path={class_path!r} is not a builder of glore; if you trust whoever made this file "
            "as you trust a program you run, pass trust=True"
        )
    try:
        builder = imported(class_path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"class_path={class_path!r} cannot be imported: {error}") from error
    arguments = {**(constructor.get("init_args") or {}), **(constructor.get("dict_kwargs") or {})}
    if not trust:  # the weights lie beside the JSON; it has no say about other files
        arguments.pop("pretrained", None)
    return builder, arguments


def imported(class_path: str) -> Any:
    """What `package.module.name` names; errors as of an import."""
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _pair(path: Path | str) -> tuple[Path, Path]:
    """The files of weights and of the JSON, by the name of either or their common name, which may have dots."""
    path = Path(path)
    name = path.stem if path.suffix in (".safetensors", ".json") else path.name
    return path.with_name(f"{name}.safetensors"), path.with_name(f"{name}.json")


def sweep(folder: Path, name: str = "*") -> None:
    """Remove drafts that killed processes left in a folder, of any file or of one; nobody else may be writing it."""
    for draft in folder.glob(f".{name}.*{DRAFT}"):
        draft.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all: bytes, or a text as UTF-8; errors as of `replacing`."""
    with replacing(path) as draft:  # the name of a file in a text may be bytes that are none
        draft.write_bytes(content if isinstance(content, bytes) else content.encode(errors="backslashreplace"))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, and put what was written in the place of `path` at once.

    The file is either the old one or the new one, whole, whenever the machine stops; the draft is taken away on errors.

    Raises:
        OSError: the folder cannot be written or the disk is full; torch and safetensors tell that otherwise.
    """
    draft = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}{DRAFT}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.chmod(0o666 & ~UMASK)  # safetensors lets nobody else read what it writes
        draft.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, RuntimeError):  # torch's writer does not say so
            reason += "; is the disk full?"
        raise OSError(f"cannot write {path} ({reason}): what was there before is unharmed") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
