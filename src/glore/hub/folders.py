"""Networks as folders, on disk and on the Hugging Face hub: weights, how the network is made, its classes, a card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from torch import Tensor, nn

import glore
from glore import probe
from glore.hub.card import Training, card
from glore.nets.pretrained import misfits
from glore.weights import files

WEIGHTS, CONSTRUCTOR, CLASSES, COLOURS, RECIPE, CARD = (
    "model.safetensors",
    "model.json",
    "classes.txt",
    "colours.txt",
    "recipe.yaml",
    "README.md",
)
READ = (WEIGHTS, CONSTRUCTOR, CLASSES)  # by from_pretrained
PUBLISHED = (*READ, COLOURS, RECIPE, CARD)


def save_pretrained(
    net: nn.Module,
    folder: Path | str,
    constructor: files.Constructor,
    *,
    example: Tensor | None = None,
    classes: Sequence[str] = (),
    colours: Sequence[Sequence[int]] = (),
    training: Training | None = None,
    license: str | None = None,  # noqa: A002, as the hub calls it
    name: str | None = None,
) -> Path:
    """Write a network into a folder that `from_pretrained` reads; `save_run` does so for a training.

    Args:
        net: the network.
        folder: new, empty, or with a network that was published before.
        constructor: what makes the network, as `glore.weights.files.save` takes it. One that names builders which are
            not ours can be loaded with `trust=True` alone, and the card says so.
        example: an input. May be left out where the network declares its input size, as timm's do.
        classes: their names, in order.
        colours: of their masks, red, green and blue, 0 … 255.
        training: what the card tells of a training.
        license: its identifier on the hub, such as `"mit"`.
        name: on the hub, `user/name`, for the card; the folder's by default.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds something else, or the constructor makes another network.
        OSError: the folder cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from glore.nets.small import small_classifier
        >>> constructor = {"class_path": "glore.nets.small.small_classifier", "init_args": {"classes": 3}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_pretrained(small_classifier(3), folder, constructor, example=torch.zeros(1, 3, 32, 32))
        ...     from_pretrained(folder)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 3])
    """
    folder = vacant(Path(folder))
    constructor = _without_files(constructor)
    made = files.construct(constructor, trust=True)  # by whoever wrote it
    if faults := misfits(made.state_dict(), net.state_dict()):
        raise ValueError(f"constructor={constructor!r} makes another network than this {type(net).__name__}: {faults}")
    (example,) = probe.inputs_for(net, example)
    text = card(
        net, constructor, example, name=name or folder.name, classes=classes, training=training, license=license
    )
    files.save(folder / WEIGHTS, net.state_dict(), constructor)
    _write(folder / CLASSES, "".join(f"{name}\n" for name in classes))
    _write(folder / COLOURS, "".join(f"{' '.join(map(str, colour))}\n" for colour in colours))
    _write(folder / RECIPE, training.recipe if training else "")
    _write(folder / CARD, text)
    return folder


def from_pretrained(name: Path | str, revision: str | None = None, *, trust: bool = False) -> nn.Module:
    """Make the network of a folder, or of the Hugging Face hub, in evaluation mode on the CPU.

    Three files are read: weights, a JSON and the names of the classes. None of them holds code, and the JSON may name
    builders of ours alone.

    Args:
        name: of a folder that `save_pretrained` wrote, or `user/name` on the hub. A folder goes first.
        revision: branch, tag or commit on the hub.
        trust: let the JSON name other builders, which runs their code; see `glore.weights.files.load`.

    Returns:
        The network, with the names of its classes, as far as they are known, as `classes`.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no network.
        OSError: the hub has no such network, or cannot be reached.
        ValueError: a file is damaged, the JSON names a builder that is not ours, or the weights do not fit.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _downloaded(str(name), revision)
    elif revision is not None:
        raise ValueError(f"revision={revision!r} is one of the hub, but {str(name)!r} is a folder here: leave it out")
    _check_network(folder)
    net: Any = files.load(folder / WEIGHTS, trust=trust)
    path = folder / CLASSES
    try:
        net.classes = path.read_text(encoding="utf-8").removesuffix("\n").split("\n") if path.is_file() else []
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error}): it has the name of a class on each line") from error
    return net


def push_to_hub(folder: Path | str, name: str, *, private: bool = False) -> str:
    """Upload a folder that `save_pretrained` wrote to the Hugging Face hub, which keeps what was there as a revision.

    Args:
        folder: which.
        name: `user/name`; made if there is none.
        private: whether it is seen by its owner alone; one that is public already is refused.

    Returns:
        The address of the commit.

    Raises:
        FileNotFoundError: the folder holds no network.
        OSError: the hub cannot be reached, or refuses.
    """
    _check_network(Path(folder))
    api = HfApi(library_name="glore", library_version=glore.__version__)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        if private and not api.repo_info(name).private:
            raise ValueError("it is there already, and everybody sees it")
        ours = list(PUBLISHED)  # what an earlier network had and this one has not goes away
        return str(api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=ours, delete_patterns=ours))
    except Exception as error:  # no network, no login and no rights raise many kinds
        raise OSError(
            f"name={name!r} cannot be pushed to the hub ({_line(error)}): log in with `hf auth login`, and give a name "
            "that is yours, user/name"
        ) from error


def _downloaded(name: str, revision: str | None) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise FileNotFoundError(
            f"name={name!r} is no folder: give one that save_pretrained wrote, or user/name on the hub"
        )
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(READ), library_name="glore"))
    except Exception as error:  # no network, no such name, revision or right raise many kinds
        at = "" if revision is None else f", revision={revision!r}"
        raise OSError(
            f"name={name!r}{at} is no folder here, and cannot be had from the hub ({_line(error)}): give a folder that "
            "save_pretrained wrote, or a name that https://huggingface.co has"
        ) from error


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _check_network(folder: Path) -> None:
    if missing := [file for file in (WEIGHTS, CONSTRUCTOR) if not (folder / file).is_file()]:
        raise FileNotFoundError(
            f"{folder} has no {' and no '.join(missing)}: give a folder that save_pretrained or glore publish wrote"
        )


def vacant(folder: Path) -> Path:
    """The folder, if nothing would be lost there; a ValueError otherwise."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder={str(folder)!r} is a file: give a folder")
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    there = [file for file in there if not file.startswith(".")]
    if others := [file for file in there if file not in PUBLISHED or WEIGHTS not in there]:
        raise ValueError(
            f"folder={str(folder)!r} holds something else ({', '.join(others[:3])}): give a new folder, or one with "
            "nothing but a network that was published before"
        )
    return folder


def _without_files(value: Any) -> Any:
    """A constructor without paths of weights, which lie beside it."""
    if isinstance(value, list):
        return [_without_files(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_files(item) for key, item in value.items() if key != "pretrained"}


def _write(path: Path, text: str) -> None:
    """Write a file, or take away what an earlier publication has there."""
    if not text:
        path.unlink(missing_ok=True)
        return
    files.write(path, text)
