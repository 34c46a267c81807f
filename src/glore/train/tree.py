"""A recipe's values as a tree: YAML, and flags that change it."""

from __future__ import annotations

import copy
import importlib.resources
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from glore.train.blame import SHORT, RecipeError, arguments

Tree = dict[str, Any]

# flags whose values are no YAML, whatever they look like, but for these words
TEXTS = ("data.dataset.root", "model.net.name", "model.net.pretrained")
WORDS = ("true", "false", "null")
RECIPES = importlib.resources.files("glore") / "recipes"


def names() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(entry.name.removesuffix(".yaml") for entry in RECIPES.iterdir() if entry.name.endswith(".yaml"))


def find(name: str) -> str:
    """The path of a recipe given by path, or by name among the shipped ones.

    Raises:
        RecipeError: there is neither; the message lists the names.
    """
    if Path(name).is_file():
        return name
    if name in names():
        return str(RECIPES / f"{name}.yaml")
    near = get_close_matches(name, names(), n=1)
    raise RecipeError(
        f"--config {name}: no such file, and no shipped recipe of that name"
        + (f"; did you mean {near[0]}?" if near else "")
        + f" (shipped: {', '.join(names())})"
    )


def read(flags: Sequence[str], variant: str | None = None) -> Tree:
    """The recipe that flags name with `--config`, with the values that the other flags put into it.

    A flag that names a class comes before those that give its arguments, in whatever order they stand.

    Args:
        flags: as on the command line: `["--config", "digits", "--seed", "1", "--model.net.unit=null"]`. Values are
            YAML. `--trainer.callbacks+=NAME` appends to a list, and later flags give arguments of what was appended.
        variant: one of those that the recipe compares, put in before the flags.

    Raises:
        RecipeError: there is no such recipe or variant, it is not YAML, or a flag has no value or would change nothing.
    """
    given = pairs(flags)
    configs = [value for key, value in given if key == "config"]
    if len(configs) != 1:
        raise RecipeError(f"--config is needed once: a path, or a shipped recipe ({', '.join(names())})")
    path = find(configs[0])
    folder = str(Path(path).resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # classes of the user's own lie beside the recipe
    try:
        tree = yaml.load(Path(path).read_text(), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} is not a recipe: it must have the keys model, data and trainer")
    if variant is not None:
        tree = varied(tree, variant)
    appended = tuple(key.removesuffix("+") for key, _ in given if key.endswith("+"))
    for key, value in sorted(
        given, key=lambda pair: pair[0].startswith(appended) * 99 or SHORT.get(pair[0], pair[0]).count(".")
    ):
        if key != "config":
            try:
                text = SHORT.get(key, key).replace("init_args.", "") in TEXTS and value.lower() not in WORDS
                put(tree, key, value if text else yaml.load(value, _Loader))
            except yaml.YAMLError as error:
                raise RecipeError(f"--{key} {value} is not YAML: {' '.join(str(error).split())}") from error
    for name in _variants(tree):
        if not isinstance(name, str):
            raise RecipeError(f"compare.variants has the name {name!r}, which is no text: put it in quotes")
    check_unit(tree, [*dict(given), *(_changes(tree, variant) if variant is not None else ())])
    return tree


def check_unit(tree: Tree, given: Iterable[str]) -> None:
    """Refuse a unit that flags or a variant give a segmenter's backbone without places: the head's is meant.

    Raises:
        RecipeError: among the given keys is one for such a unit.
    """
    net, values = "model.init_args.net", flat(tree)
    placed = any(value for key, value in values.items() if key.startswith(f"{net}.init_args.units"))
    segments = values.get(f"{net}.class_path") == "glore.nets.segmenter.segmenter"
    if segments and not placed and any(key.replace("init_args.", "") == "model.net.unit" for key in given):
        raise RecipeError(
            "model.net.unit is the unit in the backbone, which has no place there (model.net.units): that in the "
            "head is model.net.head.unit"
        )


def _variants(tree: Tree) -> dict[str, Any]:
    compare = tree.get("compare")
    variants = compare.get("variants") if isinstance(compare, dict) else None
    return variants if isinstance(variants, dict) else {}  # the parser tells what is wrong with others


def varied(tree: Tree, variant: str) -> Tree:
    """The recipe with what one of its variants puts into it.

    Raises:
        RecipeError: there is no such variant, of which the message lists all, or it is no mapping.
    """
    tree = copy.deepcopy(tree)
    for key, value in _changes(tree, variant).items():
        put(tree, key, value)
    return tree


def _changes(tree: Tree, variant: str) -> dict[str, Any]:
    variants = _variants(tree)
    check(variant, variants)
    values = variants[variant] or {}
    if not isinstance(values, dict):
        raise RecipeError(f"compare.variants.{variant}={values!r} must be keys with their values")
    return values


def check(variant: str, variants: Mapping[str, Any]) -> None:
    """Refuse a variant that is none of these; the message lists them."""
    if variant not in variants:
        near = get_close_matches(variant, variants, n=1)
        raise RecipeError(
            f"--variant {variant}: the recipe has no such variant"
            + (f"; did you mean {near[0]!r}?" if near else "")
            + (f" (it has {', '.join(variants)})" if variants else "")
        )


def put(tree: Tree, key: str, value: Any) -> None:
    """Put a value under a dotted key; keys lead into the arguments of what a class path names.

    The name of another class leaves those arguments that it takes too, as jsonargparse does.

    Example:
        >>> tree = {"net": {"class_path": "nets.small", "init_args": {"unit": "GloRe2d"}}}
        >>> put(tree, "net.unit.graph_layers", 2)
        >>> tree["net"]["init_args"]["unit"]
        {'class_path': 'GloRe2d', 'init_args': {'graph_layers': 2}}
    """
    node: Any = tree
    *path, last = SHORT.get(key, key).removesuffix("+").split(".")
    for name in path:
        node = _arguments(node, name)
        if isinstance(node.get(name), list) and node[name]:
            if not isinstance(node[name][-1], dict):
                node[name][-1] = {"class_path": node[name][-1]}
            node = node[name][-1]
            continue
        if not isinstance(node.get(name), dict):
            node[name] = {"class_path": node[name]} if isinstance(node.get(name), str) else {}
        node = node[name]
    node = _arguments(node, last)
    if key.endswith("+"):
        node[last] = [*(node.get(last) or []), *(value if isinstance(value, list) else [value])]
    elif isinstance(value, str) and isinstance(before := node.get(last), dict) and "class_path" in before:
        taken = {name: given for name, given in (before.get("init_args") or {}).items() if name in arguments(value)}
        node[last] = {"class_path": value, "init_args": taken} if taken else value
    else:
        node[last] = value


def _arguments(node: Tree, name: str) -> Tree:
    if "class_path" not in node or name in ("class_path", "init_args"):
        return node
    return node.setdefault("init_args", {})


def pairs(flags: Sequence[str]) -> list[tuple[str, str]]:
    """Keys and values of flags as they stand on a command line."""
    found: list[tuple[str, str]] = []
    rest = list(flags)
    while rest:
        flag = rest.pop(0)
        name, equals, value = flag.partition("=")
        if not name.startswith("-") or not name.strip("-"):
            raise RecipeError(f"{flag!r} is no flag: flags are --key value or --key=value")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise RecipeError(f"{flag} needs a value: {flag} VALUE")
            value = rest.pop(0)
        found.append((name.lstrip("-"), value))
    return found


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in YAML 1.2, and a date is a text."""

    yaml_implicit_resolvers = {  # noqa: RUF012, of the parent's name
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, its keys joined by dots."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return leaves
