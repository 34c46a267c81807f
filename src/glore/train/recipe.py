"""A recipe: a YAML file that names a task, its data and its trainer by import path, and flags that override it."""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.resources
import json
import re
import sys
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from glore.train.blame import SHORT, RecipeError, blame
from glore.train.data import Data
from glore.train.folder import Keep, WholeFiles
from glore.train.progress import Progress
from glore.train.task import Task
from glore.weights import files

Tree = dict[str, Any]

RECIPES = importlib.resources.files("glore") / "recipes"
# What changes where or how a run runs, but not what it computes: left out of the hash, free to change in a folder
ELSEWHERE = {
    *(f"data.{key}" for key in ("workers", "eval_batch_size", "seed", "dataset.init_args.root")),
    *(
        f"trainer.{key}"
        for key in (
            *(
                "accelerator",
                "strategy",
                "devices",
                "num_nodes",
                "logger",
                "log_every_n_steps",
                "profiler",
                "barebones",
            ),
            *("enable_model_summary", "enable_autolog_hparams", "default_root_dir", "num_sanity_val_steps"),
        )
    ),
}
REFUSED = {  # keys that would be overwritten, or break what is promised
    "data.seed": "give --seed, which the data follow too",
    "trainer.max_time": "what a clock ends cannot be repeated; give --epochs, and kill it when you like: it goes on",
    "trainer.use_distributed_sampler": "the order of the data is the same for any number of processes already",
    "trainer.enable_checkpointing": "a run's folder is what it goes on from",
    "trainer.enable_progress_bar": "progress goes to stderr: redirect that",
}


@dataclass
class Comparison:
    """What `glore compare` varies.

    Args:
        baseline: the variant that the others are compared with.
        metric: the test score that the verdict is about; the task's own by default.
        margin: a difference of the score smaller than this makes no difference.
        seeds: of the cells: initial weights, order and augmentation of the data.
        variants: by name, what each puts into the recipe: `{"plain": {"model.net.unit": None}}`.
        demo: the variants of `glore demo`.
        note: what a reader of the result should know.
    """

    baseline: str = "plain"
    metric: str | None = None
    margin: float = 0.005
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    demo: list[str] | None = None
    note: str = ""


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


def read(flags: Sequence[str]) -> Tree:
    """The recipe that flags name with `--config`, with the values that the other flags put into it.

    Args:
        flags: as on the command line: `["--config", "digits", "--seed", "1", "--model.net.unit=null"]`. Values are
            YAML. `--trainer.callbacks+=NAME` appends to a list, and later flags give arguments of what was appended.

    Raises:
        RecipeError: there is no such recipe, it is not YAML, or a flag has no value.
    """
    pairs = _pairs(flags)
    configs = [value for key, value in pairs if key == "config"]
    if len(configs) != 1:
        raise RecipeError(f"--config is needed once: a path, or a shipped recipe ({', '.join(names())})")
    path = find(configs[0])
    for folder in (Path.cwd(), Path(path).resolve().parent):  # classes of the user's own lie beside the recipe
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    try:
        tree = yaml.load(Path(path).read_text(), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} is not a recipe: it must have the keys model, data and trainer")
    for key, value in pairs:
        if key != "config":
            try:
                put(tree, key, yaml.load(value, _Loader))
            except yaml.YAMLError as error:
                raise RecipeError(f"--{key} {value} is not YAML: {' '.join(str(error).split())}") from error
    return tree


def put(tree: Tree, key: str, value: Any) -> None:
    """Put a value under a dotted key; keys lead into the arguments of what a class path names.

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
    else:
        node[last] = value


def _arguments(node: Tree, name: str) -> Tree:
    if "class_path" not in node or name in ("class_path", "init_args"):
        return node
    return node.setdefault("init_args", {})


def _pairs(flags: Sequence[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
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
        pairs.append((name.lstrip("-"), value))
    return pairs


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class Recipe(LightningCLI):
    """A parsed recipe; `build` makes what it names.

    Args:
        tree: the recipe's values, as `read` gives them.

    Raises:
        RecipeError: a key or value cannot be used.
    """

    def __init__(self, tree: Tree) -> None:
        given = flat(tree)
        if isinstance(seed := given.get("seed_everything"), int) and not 0 <= seed < 2**32:
            raise RecipeError(f"seed_everything={seed} must be in 0 … {2**32 - 1}: give --seed N")
        for key, cure in REFUSED.items():
            if key in given:
                raise RecipeError(f"{key} cannot be set: {cure}")
        super().__init__(
            Task,
            Data,
            save_config_callback=None,
            trainer_defaults={"logger": False, "num_sanity_val_steps": 0, "enable_model_summary": False},
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False},
            subclass_mode_model=True,
            args=copy.deepcopy(tree),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Comparison, "compare")
        parser.link_arguments("seed_everything", "data.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_object(args)
        except ArgumentError as error:
            raise RecipeError(blame(str(error), args)) from error
        with suppress(FileNotFoundError):  # a recipe may be looked at without its data
            self._count_classes()

    def _count_classes(self) -> None:
        """Give a network whose `classes` are left open as many as its data have."""
        net = self.config.model.get("init_args.net")
        if net is None or "classes" not in (net.get("init_args") or {}) or net.init_args.classes is not None:
            return
        dataset = json.loads(json.dumps(self.config.as_dict()["data"]["dataset"], default=_named))
        net.init_args.classes = len(files.factory(dataset, trust=True)("train").classes)

    def _set_seed(self) -> None:
        pass  # by `build`

    def instantiate_classes(self) -> None:
        pass  # by `build`: parsing alone is quick, and shows faults before anything runs

    @property
    def resolved(self) -> dict[str, Any]:
        """Every value of the recipe, given or default, as JSON."""
        values = {key: value for key, value in self.config.as_dict().items() if key != "config"}
        for room, _, key in (refused.partition(".") for refused in REFUSED):
            values[room].pop(key, None)
        return json.loads(json.dumps(values, default=_named))

    @property
    def decisive(self) -> dict[str, Any]:
        """The values that decide what a run computes, flat: `{"trainer.max_epochs": 8, …}`."""
        values = flat({key: value for key, value in self.resolved.items() if key != "compare"})
        elsewhere = tuple(f"{key}." for key in ELSEWHERE)  # of a logger or strategy, its arguments too
        return {key: value for key, value in values.items() if not f"{key}.".startswith(elsewhere)}

    @property
    def task_class(self) -> type[Task]:
        """The task's class."""
        module, _, name = self.config.model.class_path.rpartition(".")
        return getattr(importlib.import_module(module), name)

    @property
    def hash(self) -> str:
        """Of the decisive values."""
        return hashlib.sha256(json.dumps(self.decisive, sort_keys=True).encode()).hexdigest()

    @property
    def comparison(self) -> Comparison:
        """What `glore compare` varies."""
        return Comparison(**self.config.compare.as_dict())

    @property
    def constructor(self) -> files.Constructor:
        """How the network is made; its weights come from elsewhere."""
        net: files.Constructor = self.resolved["model"]["init_args"]["net"]
        if "pretrained" in net.get("init_args", {}):
            net["init_args"]["pretrained"] = False
        return net

    def make(self, *, empty: bool = False) -> tuple[Task, Data]:
        """Make the task, with first weights that follow from the seed, and the data.

        Args:
            empty: leave out pretrained weights, because others will be loaded.
        """
        made = self._instantiated(empty)
        return made.model, made.data

    def build(
        self, folder: Path, progress: Progress | None = None, *, empty: bool = False
    ) -> tuple[Task, Data, Trainer]:
        """Make the task, the data and the trainer.

        Args:
            folder: where a training keeps its files.
            progress: shows how far it is.
            empty: leave out pretrained weights, because others will be loaded.

        Raises:
            RecipeError: the trainer cannot be had: a device that is not there, or a value that Lightning refuses.
        """
        made = self._instantiated(empty)
        task, options = made.model, dict(made.trainer)
        ours = [callback for callback in (progress, Keep(folder, f"val/{task.metric}")) if callback]
        options["callbacks"] = [*_listed(options["callbacks"]), *ours]
        options["plugins"] = [*_listed(options["plugins"]), WholeFiles(self.constructor)]
        options["default_root_dir"] = options["default_root_dir"] or folder
        options |= {"use_distributed_sampler": False, "enable_progress_bar": False}
        try:
            return task, made.data, self.trainer_class(**options)
        except (MisconfigurationException, RuntimeError) as error:
            raise RecipeError(f"trainer: {' '.join(str(error).split())}") from error

    def _instantiated(self, empty: bool) -> Any:
        self._count_classes()
        config = copy.deepcopy(self.config)
        if empty and config.get("model.init_args.net.init_args.pretrained"):
            config.model.init_args.net.init_args.pretrained = False
        seed_everything(config.seed_everything, verbose=False)
        try:
            return self.parser.instantiate(config)
        except (ValueError, TypeError, ArgumentError) as error:
            inner: BaseException | None = error
            while inner is not None:  # jsonargparse wraps what went wrong
                reason, inner = inner, inner.__cause__ or (None if inner.__suppress_context__ else inner.__context__)
            raise RecipeError(str(reason)) from error


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, its keys joined by dots."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return leaves


def _named(value: Any) -> str:
    """A function or class by its import path: what it prints as differs from process to process."""
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else str(value)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
