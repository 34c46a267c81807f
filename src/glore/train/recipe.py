"""A recipe: a YAML file that names a task, its data and its trainer by import path; `tree.py` reads it."""

from __future__ import annotations

import copy
import hashlib
import json
import traceback
from argparse import ArgumentError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from glore.nets.images import pretrained_statistics
from glore.train.agree import Agree
from glore.train.blame import RecipeError, arguments, blame
from glore.train.data import Data
from glore.train.folder import Keep, WholeFiles
from glore.train.progress import Progress
from glore.train.sync import SyncBatchNorms
from glore.train.task import Task
from glore.train.tree import Tree, flat, put
from glore.weights import files

# What changes where or how a run runs, but not what it computes: left out of the hash, free to change in a folder
ELSEWHERE = (
    *("data.workers", "data.eval_batch_size", "data.dataset.init_args.root"),
    *("trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes"),
    *("trainer.logger", "trainer.log_every_n_steps", "trainer.profiler", "trainer.barebones"),
    *("trainer.enable_model_summary", "trainer.enable_autolog_hparams"),
    *("trainer.default_root_dir", "trainer.num_sanity_val_steps"),
)
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
        baseline: the variant that the others are compared with. Of several, each is compared with the one that its name
            begins with, as `resnet101 glore` with `resnet101`, else with the first.
        control: the variant with as many weights as a unit and no global reasoning, with which the others of its own
            baseline are compared as well once it ran; of the variant `glore in res4`, the control is `plain+conv in
            res4` if there is one.
        metric: the test score that the verdict is about; the task's own by default.
        margin: a difference whose whole interval is smaller than this, either way, is none.
        seeds: of the cells: initial weights, order and augmentation of the data.
        variants: by name, what each puts into the recipe: `{"plain": {"model.net.unit": None}}`.
        demo: the variants of `glore demo`.
        published: the score of a variant that its authors report, to show beside the measured one.
        note: what a reader of the result should know.
    """

    baseline: str | list[str] = "plain"
    control: str = "plain+conv"
    metric: str | None = None
    margin: float = 0.005
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    demo: list[str] | None = None
    published: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def baselines(self) -> list[str]:
        return [self.baseline] if isinstance(self.baseline, str) else self.baseline

    def baseline_of(self, variant: str) -> str:
        """What a variant is compared with."""
        own = [name for name in self.baselines if variant == name or variant.startswith((f"{name} ", f"{name}+"))]
        return max(own, key=len, default=self.baselines[0])


class Recipe(LightningCLI):
    """A parsed recipe; `build` makes what it names.

    Args:
        tree: the recipe's values, as `read` gives them.

    Raises:
        RecipeError: a key or value cannot be used.
    """

    made: ClassVar[LightningArgumentParser | None] = None
    parsed: ClassVar[dict[str, Namespace]] = {}

    def __init__(self, tree: Tree) -> None:
        given = flat(tree)
        if isinstance(seed := given.get("seed_everything"), int) and not 0 <= seed < 2**32:
            raise RecipeError(f"seed_everything={seed} must be in 0 … {2**32 - 1}: give --seed N")
        for key, cure in REFUSED.items():
            if key in given:
                raise RecipeError(f"{key} cannot be set: {cure}")
        if isinstance(epochs := given.get("trainer.max_epochs"), int) and epochs < 1 and epochs != -1:
            raise RecipeError(f"trainer.max_epochs={epochs} must be at least 1: give --epochs N")
        if given.get("trainer.overfit_batches"):
            raise RecipeError("trainer.overfit_batches cannot be set: give --trainer.limit_train_batches N")
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

    def setup_parser(self, *about: Any) -> None:
        """Take the parser of the recipe before: it is the same for all, and making it is a third of the work."""
        if Recipe.made is None:
            super().setup_parser(*about)
            Recipe.made = self.parser
        self.parser = Recipe.made

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Comparison, "compare")
        parser.link_arguments("seed_everything", "data.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self._name_preset(args)
        seed = args.get("seed_everything", 0)
        if plain_seed := type(seed) is int:  # cells of several seeds differ in nothing else
            args["seed_everything"] = 0
        given = repr(args)  # a comparison asks for its recipes more than once, and parsing takes a quarter of a second
        if given not in Recipe.parsed:
            try:
                Recipe.parsed[given] = parser.parse_object(args)
            except ArgumentError as error:
                raise RecipeError(blame(str(error), args)) from error
        self.config = copy.deepcopy(Recipe.parsed[given])
        if plain_seed:
            self.config.seed_everything = self.config.data.seed = seed
        variants = (args.get("compare") or {}).get("variants")
        if isinstance(variants, dict):  # as they stand: class paths in them would be filled with defaults of any class
            self.config.compare.variants = copy.deepcopy(variants)
        self._take_statistics()
        self._check_pretrained()
        self._check_places()
        with suppress(FileNotFoundError):  # a recipe may be looked at without its data
            self.count_classes()

    @staticmethod
    def _name_preset(args: Tree) -> None:
        """Write down the preset that a dataset takes if none is given: predictions are made with it too."""
        dataset = (args.get("data") or {}).get("dataset")
        given = dataset if isinstance(dataset, dict) else {"class_path": dataset}
        with suppress(ImportError, AttributeError, ValueError):  # which the parser tells
            takes = "preset" in arguments(str(given.get("class_path")))
            if takes and not (given.get("init_args") or {}).get("preset"):
                put(args, "data.dataset.preset", _named(files.imported(str(given.get("class_path"))).default_preset))

    def _take_statistics(self) -> None:
        """Give a preset that leaves its mean and std open those of the network's pretrained weights."""
        preset = self.config.data.get("dataset.init_args.preset")
        values = preset.get("init_args") if preset is not None else None
        net = self.config.model.get("init_args.net")
        if not values or net is None:
            return
        name = (net.get("init_args") or {}).get("name")
        for key, value in pretrained_statistics(files.imported(net.class_path), name).items():
            if key in values and values[key] is None:
                values[key] = value

    def _check_pretrained(self) -> None:
        rate, net = self.config.model.get("init_args.old_rate"), self.config.model.get("init_args.net")
        pretrained = (net.get("init_args") or {}).get("pretrained") if net is not None else None
        if pretrained is False and self.config.model.get("init_args.train") == "units":
            raise RecipeError(
                "model.train='units' leaves all else as it is, but model.net.pretrained is false: give weights, or "
                "--model.train all"
            )
        if rate != 1 and pretrained is False:
            raise RecipeError(
                f"model.old_rate={rate} slows the layers that come with weights, but model.net.pretrained is false: "
                "give weights, or --model.old_rate 1"
            )

    def _check_places(self) -> None:
        """Refuse a rival without a place: its network would be the plain one. Our builders' default cannot be told."""
        net = self.config.model.get("init_args.net")
        arguments = (net.get("init_args") or {}) if net is not None and net.class_path.startswith("glore.") else {}
        unit = arguments.get("unit")
        if unit is None or "units" not in arguments or arguments["units"]:
            return
        if files.imported(unit.class_path) is not signature(files.imported(net.class_path)).parameters["unit"].default:
            raise RecipeError(
                f"model.net.unit={unit.class_path!r} is given, but no place for it: give --model.net.units, such as "
                "'{res4: 1}'"
            )

    def count_classes(self) -> None:
        """Give a network whose `classes` are left open as many as its data have; raises what reading them raises."""
        if self._classes_open:
            count = _count(json.dumps(self.resolved["data"]["dataset"]))
            if count < 2:
                raise RecipeError(
                    "the data have one class, of which nothing can be learnt: --data.root may lead to a folder too "
                    "high, or the classes of masks lack a line for the background"
                )
            self.take_classes(count)

    @property
    def _classes_open(self) -> bool:
        net = self.config.model.get("init_args.net")
        return net is not None and "classes" in (net.get("init_args") or {}) and net.init_args.classes is None

    def take_classes(self, count: int) -> None:
        """Give a network whose `classes` are left open so many: those of a result, where the data are gone."""
        if self._classes_open:
            self.config.model.init_args.net.init_args.classes = count

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
    def portable(self) -> dict[str, Any]:
        """The values that decide what a run computes."""
        values = {key: value for key, value in self.resolved.items() if key != "compare"}
        for path in ELSEWHERE:
            *rooms, key = path.split(".")
            node = values
            for room in rooms:
                node = node.get(room) or {}
            node.pop(key, None)
        return values

    @property
    def decisive(self) -> dict[str, Any]:
        """The same, flat: `{"trainer.max_epochs": 8, …}`."""
        values = flat(self.portable)
        if values.get("data.dataset.init_args") == {}:  # but for a root
            del values["data.dataset.init_args"]
        return values

    @property
    def task_class(self) -> type[Task]:
        """The task's class."""
        return files.imported(self.config.model.class_path)

    @property
    def dataset_class(self) -> Any:
        """What makes the datasets."""
        return files.imported(self.config.data.dataset.class_path)

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

    def make_data(self) -> Data:
        """Make the data alone."""
        dataset = files.factory(self.resolved["data"]["dataset"], trust=True)
        return Data(**{**self.config.as_dict()["data"], "dataset": dataset})

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
        ours = [
            callback for callback in (Agree(self.decisive), progress, Keep(folder, f"val/{task.metric}")) if callback
        ]
        options["callbacks"] = [*_listed(options["callbacks"]), *ours]
        synced = [SyncBatchNorms()] if options["sync_batchnorm"] else []
        options["plugins"] = [*_listed(options["plugins"]), *synced, WholeFiles(self.constructor)]
        options["default_root_dir"] = options["default_root_dir"] or folder
        options |= {"use_distributed_sampler": False, "enable_progress_bar": False}
        if options["max_steps"] != -1:  # Lightning would count a resumed epoch twice; `Keep` stops there
            if options["max_steps"] < 1 or options["min_epochs"] or options["min_steps"]:
                raise RecipeError("trainer.max_steps must be at least 1, and without min_epochs or min_steps beside it")
            made.data.max_steps = options["max_steps"]
            options |= {"max_steps": -1, "max_epochs": -1 if options["max_epochs"] is None else options["max_epochs"]}
        try:
            return task, made.data, self.trainer_class(**options)
        except (MisconfigurationException, RuntimeError, TypeError) as error:
            named = made.trainer["accelerator"] not in ("auto", "cpu")
            cure = " (what this machine has: --trainer.accelerator auto --trainer.devices 1)" if named else ""
            raise RecipeError(f"trainer: {' '.join(str(error).split())}{cure}") from error

    def _instantiated(self, empty: bool) -> Any:
        self.count_classes()
        config = copy.deepcopy(self.config)
        config.compare.variants = {}  # jsonargparse would make what they name
        if empty and config.get("model.init_args.net.init_args.pretrained"):
            config.model.init_args.net.init_args.pretrained = False
        seed_everything(config.seed_everything, verbose=False)
        try:
            return self.parser.instantiate(config)
        except (ValueError, TypeError, ArgumentError) as error:
            reason: BaseException = error
            while _of_the_parser(reason):  # which wraps what went wrong
                inner = reason.__cause__ or (None if reason.__suppress_context__ else reason.__context__)
                if inner is None:
                    break
                reason = inner
            raise RecipeError(str(reason)) from error


def _of_the_parser(error: BaseException) -> bool:
    """Whether jsonargparse itself raised an error, rather than what it calls."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "jsonargparse" in frames[-1].filename


@cache
def _count(dataset: str) -> int:
    """How many classes the data have that a constructor makes, given as JSON; a folder takes long to walk through."""
    make = files.factory(json.loads(dataset), trust=True)
    try:
        return len(make("train").classes)
    except FileNotFoundError:
        with suppress(FileNotFoundError, ValueError):  # there may be no more than what is tested on
            return len(make("test").classes)
        raise


def _named(value: Any) -> str:
    """A function or class by its import path: what it prints as differs from process to process."""
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else str(value)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
