"""The model card: a README that tells what a network is, how it was trained, what it scores and how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCardData
from torch import Tensor, nn

import glore
from glore import measure, probe
from glore.units.ndim import Unit
from glore.weights import files

FEW = 10  # classes that the card names
CITATION = """\
@inproceedings{chen2019glore,
  title     = {Graph-Based Global Reasoning Networks},
  author    = {Chen, Yunpeng and Rohrbach, Marcus and Yan, Zhicheng and Yan, Shuicheng and Feng, Jiashi and
               Kalantidis, Yannis},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2019},
  note      = {arXiv:1811.12814}
}"""
TASKS = {  # axes of input and output → what the hub calls the task
    (4, 2): "image-classification",
    (4, 4): "image-segmentation",
    (5, 2): "video-classification",
}


@dataclass(frozen=True)
class Training:
    """What a card tells of a training.

    Args:
        dataset: the name of the data set.
        weights: which of the training's weights these are: `"last"` or `"best"`.
        scores: split → name → value in [0, 1].
        normalisation: what values the network takes; empty where that is not known.
        recipe: as YAML, which goes beside the card.
        command: what trains the network again with that recipe.
    """

    dataset: str
    weights: str
    scores: Mapping[str, Mapping[str, float]]
    normalisation: str
    recipe: str
    command: str


def card(
    net: nn.Module,
    constructor: files.Constructor,
    example: Tensor,
    *,
    name: str,
    classes: Sequence[str] = (),
    training: Training | None = None,
    license: str | None = None,  # noqa: A002, as the hub calls it
) -> str:
    """The text of a model card, with the header that the hub reads.

    Args:
        net: the network.
        constructor: of the network.
        example: an input.
        name: by which the network is loaded: a folder, or its name on the hub.
        classes: their names.
        training: how it was trained, as far as that is known.
        license: its identifier on the hub, such as `"mit"`.
    """
    output = probe.run(net, (example,))
    task = TASKS.get((example.dim(), output.dim())) if isinstance(output, Tensor) else None
    title = name.rstrip("/").rpartition("/")[2]
    header = ModelCardData(
        license=license,
        library_name="glore",
        pipeline_tag=task,
        tags=["glore", "pytorch", "global-reasoning"],
        model_name=title,
        eval_results=_results(training, task or "other") if training else None,
    )
    sections = {
        "": _about(net, constructor, example, classes, training),
        "Scores": _scores(training) if training else "",
        "Loading": _loading(constructor, example, name),
        "Training": f"```\n{training.command}\n```" if training else "",
        "Citation": f"```bibtex\n{CITATION}\n```",
    }
    text = "\n\n".join(f"## {title}\n\n{body}".removeprefix("## \n\n") for title, body in sections.items() if body)
    return f"---\n{header.to_yaml()}\n---\n\n# {title}\n\n{text}\n"


def _results(training: Training, task: str) -> list[EvalResult] | None:
    return [
        EvalResult(
            task_type=task,
            dataset_type=training.dataset.lower(),
            dataset_name=training.dataset,
            dataset_split=split,
            metric_type=name,
            metric_value=round(value, 6),
        )
        for split, scores in training.scores.items()
        for name, value in scores.items()
    ] or None


def _about(
    net: nn.Module,
    constructor: files.Constructor,
    example: Tensor,
    classes: Sequence[str],
    training: Training | None,
) -> str:
    units = [f"`{path}`: {type(unit).__name__}" for path, unit in net.named_modules() if isinstance(unit, Unit)]
    named = ", ".join(classes[:FEW]) + (f", … (`classes.txt` has all {len(classes)})" if len(classes) > FEW else "")
    rows = {
        "network": f"`{constructor['class_path']}`, a PyTorch network of glore {glore.__version__}",
        "made with": f"`{json.dumps(constructor.get('init_args') or {})}`",
        "global reasoning units": "<br>".join(units) or "none",
        "parameters": f"{measure.parameters(net):,}",
        "multiply-adds": f"{measure.multiply_adds(net, example) / 1e6:,.1f} million an input",
        "input": f"`(b, {', '.join(map(str, example.shape[1:]))})`",
        "normalisation": training.normalisation if training else "",
        "classes": named,
        "data set": training.dataset if training else "",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in rows.items() if value)])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _scores(training: Training) -> str:
    if not training.scores:
        return ""
    which = {"last": "after the last epoch", "best": "of the epoch with the best score on the validation split"}
    rows = [
        f"| {training.dataset} | {split} | {name} | {value:.4f} |"
        for split, scores in training.scores.items()
        for name, value in scores.items()
    ]
    table = "\n".join(["| data set | split | score | value |", "|---|---|---|---|", *rows])
    return f"Of the `{training.weights}` weights, those {which[training.weights]}.\n\n{table}"


def _loading(constructor: files.Constructor, example: Tensor, name: str) -> str:
    foreign = files.foreign(constructor)
    note = ""
    if foreign:
        note = (
            f"The network needs code that is not glore's: {', '.join(f'`{path}`' for path in foreign)}. It must be "
            "importable, and `trust=True` runs it.\n\n"
        )
    return f"""{note}```python
import torch
from glore import hub

net = hub.from_pretrained({name!r}{", trust=True" if foreign else ""})  # pip install "glore[timm]"
logits = net(torch.zeros({", ".join(map(str, (1, *example.shape[1:])))}))
```

The names of the classes, as far as they are known, are `net.classes`."""
