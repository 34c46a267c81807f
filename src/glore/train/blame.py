"""What is wrong with a recipe, in one line: jsonargparse tells all that it tried, over many lines."""

from __future__ import annotations

import importlib
import inspect
import re
from difflib import get_close_matches
from typing import Any

from glore.weights import files

SHORT = {  # everyday flags, and where they lead
    "seed": "seed_everything",
    "epochs": "trainer.max_epochs",
    "data.root": "data.dataset.root",
    "model.backbone": "model.net.name",
}
WORDS = {"collections.abc.Sequence": "a list, such as [1, 2]", "collections.abc.Mapping": "a mapping, such as {a: 1}"}
TOP = ("model", "data", "trainer", "compare", "seed_everything")


class RecipeError(ValueError):
    """A recipe or flag that cannot be used; the message is one line that says what would work."""


def blame(message: str, tree: dict[str, Any]) -> str:
    """The fault and its cure from jsonargparse's message about a recipe.

    Args:
        message: of the error.
        tree: the recipe.
    """
    path = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    if found := re.search(
        r"[Oo]ption '([^']+)' is not accepted|Group '(.+)' does not accept option '([^']+)'", message
    ):
        path, name = found[2] or path, found[1] or found[3]
        accepted = _accepted(tree, path)
        short = [last for room, _, last in (flag.rpartition(".") for flag in SHORT) if room == path]
        near = get_close_matches(name.partition(".")[0], [*accepted, *short], n=1)
        cure = f"did you mean {near[0]}?" if near else f"accepted there: {', '.join(accepted)}" if accepted else ""
        key = _joined(path, name)
        return f"unknown key {key}{_as_given(key)}" + (f": {cure}" if cure else "")
    if found := re.search(r"the following arguments are required: (.+)", message):
        return f"{_joined(path, found[1])} is missing: give it in the recipe or as --{_joined(path, found[1])} VALUE"
    value = _value(tree, path)
    if isinstance(value, dict) and "class_path" in value:
        value = value["class_path"]  # what it is called with is another matter
    types = [name for name in re.findall(r"Expected a <class '([^']+)'>", message) if name != "NoneType"]
    unimportable = re.search(r"has no attribute '|No module named '|import path", message)
    if unimportable and not types:
        return f"{path}={value!r} cannot be imported: {_unimportable(value)}"
    if literals := re.findall(r"'[^']*'|[^\s,']+", " ".join(re.findall(r"Literal\[([^]]*)\]", message))):
        near = get_close_matches(str(value), [name.strip("'") for name in literals if name.startswith("'")], n=1)
        choices = dict.fromkeys(name.strip("'") for name in literals)
        cure = f"did you mean {near[0]}?" if near else f"it may be {', '.join(choices)}"
        return f"{path}={value!r}: {cure}"
    if types:
        wanted = " or ".join(WORDS.get(name, name) for name in dict.fromkeys(types))
        return f"{path}={value!r}{_as_given(path)} must be {wanted}"
    line = " ".join(message.split("Given value")[0].split())
    return f"{path}={value!r}: {line}" if path else line


def _unimportable(value: Any) -> str:
    """Why what a class path names cannot be had."""
    module_name, _, name = str(value).rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        return (
            f"{error}; give the import path of a class or function, package.module.Name, which may lie in the current "
            "folder, beside the recipe of --config, or in a folder of PYTHONPATH"
        )
    near = get_close_matches(name, vars(module), n=1)
    return f"{module_name} has no {name}" + (f"; did you mean {near[0]}?" if near else "")


def _as_given(key: str) -> str:
    """The everyday flags that lead to a key, in brackets."""
    return "".join(f" (--{flag})" for flag, full in SHORT.items() if full == key)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _value(tree: dict[str, Any], path: str) -> Any:
    node: Any = tree
    for name in filter(None, path.split(".")):
        if isinstance(node, dict) and "class_path" in node and name not in node:
            node = node.get("init_args") or {}
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _accepted(tree: dict[str, Any], path: str) -> list[str]:
    """The keys that a recipe may have at a path."""
    if not path:
        return list(TOP)
    node = _value(tree, path)
    class_path = node.get("class_path") if isinstance(node, dict) else node
    ours = {"data": "glore.train.data.Data", "compare": "glore.train.recipe.Comparison"}
    return arguments({"trainer": "pytorch_lightning.Trainer", **ours}.get(path, str(class_path)))


def arguments(class_path: str) -> list[str]:
    """The names of the arguments that what a class path names takes; none of what cannot be imported."""
    try:
        parameters = inspect.signature(files.imported(class_path)).parameters.values()
    except (ImportError, AttributeError, ValueError, TypeError):
        return []
    return [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
