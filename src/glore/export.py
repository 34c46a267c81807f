"""Networks as files that run without glore: ONNX, and programs of torch.export.

What is written takes batches of any length and, where the network does, inputs of any size. Before a file comes to its
place it is loaded again, and its output compared with the network's, on another batch of another size than it was made
with.
"""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from glore import probe
from glore.weights import files

TOLERANCE = 1e-4  # of the largest output
LEAST = 64  # a side to trace with: on a map of one position, which 32 strides make of less, a size is taken for fixed
AXES = {1: ("length",), 2: ("height", "width"), 3: ("frames", "height", "width")}
Run = Callable[[Tensor], object]


def to_onnx(
    net: nn.Module,
    path: Path | str,
    size: Sequence[int],
    *,
    free_size: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> float:
    """Write a network in evaluation mode as an ONNX file, with an input named `input` and an output named `output`.

    Args:
        net: from one input `(b, c, *space)` to one output, on the CPU; it stays as it is.
        path: of the file.
        size: of an input without its batch, `(c, *space)`, of at least 2 a side.
        free_size: let the file take inputs of any size, not of this one alone.
        metadata: texts to keep in the file, by name.

    Returns:
        The greatest difference between the outputs of file and network, as a share of the largest.

    Raises:
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is missing, which the extra `export` brings.
        OSError: the file cannot be written.
        ValueError: the network cannot be exported, or its size must be fixed (`free_size=False`), or what the file
            says differs by more than 1e-4 of the largest output. There is no file then, or the one that was there.

    Example:
        >>> import pytest, tempfile
        >>> _ = pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     to_onnx(nn.Conv2d(3, 8, 3), f"{folder}/net.onnx", (3, 32, 32)) < 1e-4
        True
    """
    import onnxruntime
    import onnxscript  # noqa: F401  # torch's exporter would tell its absence otherwise

    program, names = _traced(net, size, free_size), _names(size, free_size)
    with _refusing(net, free_size), _quiet():
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, dynamic_shapes=(names,), input_names=["input"], output_names=["output"]
        )
        assert made is not None
        made.model.metadata_props.update(metadata or {})
        content = made.model_proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        (output,) = session.run(None, {"input": x.numpy()})
        return torch.from_numpy(output)

    return _written(path, content, net, run, size, free_size)


def to_program(
    net: nn.Module,
    path: Path | str,
    size: Sequence[int],
    *,
    free_size: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> float:
    """Write a network in evaluation mode as a program, which `torch.export.load` reads; arguments: `to_onnx`.

    `torch.export.load(path, extra_files=texts)` fills a dictionary that has the names of the metadata for keys.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     to_program(nn.Conv2d(3, 8, 3), f"{folder}/net.pt2", (3, 32, 32)) < 1e-4
        True
    """
    buffer = io.BytesIO()
    torch.export.save(_traced(net, size, free_size), buffer, extra_files=dict(metadata or {}))
    content = buffer.getvalue()
    program = torch.export.load(io.BytesIO(content)).module()
    return _written(path, content, net, program, size, free_size)


def _traced(net: nn.Module, size: Sequence[int], free_size: bool) -> ExportedProgram:
    if len(size) - 1 not in AXES or min(size[1:]) < 2:
        raise ValueError(f"size={tuple(size)} must be (channels, *space), with 1 to 3 axes of space of at least 2 each")
    same = next((path for path, module in net.named_modules() if type(module).__name__.endswith("Same")), None)
    if free_size and same is not None:  # timm's layers, with whose sizes torch does not get done
        raise ValueError(
            f"{same} of this {type(net).__name__} pads by a rule in which its input's size appears, as networks from "
            f"TensorFlow do{_cure(free_size)}"
        )
    space = len(size) - min(len(size) - 1, 2)  # where height and width begin, behind channels and frames
    traced = [*size[:space], *(max(side, LEAST) for side in size[space:])] if free_size else size
    free = (dict.fromkeys(_names(size, free_size), Dim.DYNAMIC),)
    net = copy.deepcopy(net).to(memory_format=torch.contiguous_format)  # weights lie in files as they are named
    with _refusing(net, free_size), probe.evaluating(net), _quiet():
        return torch.export.export(net, (_input(net, 2, traced),), dynamic_shapes=free, strict=False)


def _names(size: Sequence[int], free_size: bool) -> dict[int, str]:
    """The axes of an input that are free, by name."""
    return {0: "batch", **(dict(enumerate(AXES[len(size) - 1], start=2)) if free_size else {})}


def _input(net: nn.Module, batch: int, size: Sequence[int]) -> Tensor:
    kind = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.randn(batch, *size, dtype=kind.dtype, device=kind.device)


def _written(path: Path | str, content: bytes, net: nn.Module, run: Run, size: Sequence[int], free_size: bool) -> float:
    """Write a file if what was made of it gives what the network gives."""
    other = [size[0], *(side + side // 4 + 1 if free_size else side for side in size[1:])]
    with _refusing(net, free_size), probe.evaluating(net):
        x = _input(net, 3, other)
        difference = probe.difference(run(x), net(x))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{path}: on an input of {(3, *other)} the exported network differs from this {type(net).__name__} by "
            f"{difference:.1e} of the largest output, more than {TOLERANCE:.0e}{_cure(free_size)}"
        )
    files.write(Path(path), content)
    return difference


@contextmanager
def _refusing(net: nn.Module, free_size: bool) -> Iterator[None]:
    """Say in one line that a network cannot be exported; torch and onnxruntime raise anything."""
    try:
        yield
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"this {type(net).__name__} cannot be exported ({reason}){_cure(free_size)}") from error


def _cure(free_size: bool) -> str:
    return "; if inputs of one size are enough, give free_size=False (--fixed-size)" if free_size else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from logging what it tries."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    try:
        log.setLevel(logging.ERROR)
        yield
    finally:
        log.setLevel(level)
