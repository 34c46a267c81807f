"""The command line: `glore COMMAND …`."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import NoReturn

import glore
from glore.commands import COMMANDS

FLAGS = """\
everyday flags, each of which changes a value of the recipe:
  --seed N                      first weights, order and augmentation of the data
  --epochs N                    how long to train
  --data.root DIR               where the data lie
  --data.batch_size N           samples a step, of all processes together
  --data.workers N              processes that load data
  --model.backbone NAME         another backbone, in recipes that have one
  --model.net.unit NAME         another unit: glore.GloRe2d, glore.units.NonLocal2d, … or null
  --model.net.head.unit NAME    in segmentation, another unit in the head
  --model.optimizer.lr X        learning rate
  --trainer.precision P         32-true, bf16-mixed or 16-mixed
  --trainer.gradient_clip_val X longest gradient
  --trainer.accelerator A       cpu, gpu, auto
  --trainer.devices N           processes, a device each
  --trainer.logger true         TensorBoard logs, or CSV where it is not installed
  --trainer.callbacks+=EMAWeightAveraging --trainer.callbacks.decay=0.99
                                average the weights over the training

Every key of a recipe is a flag. `glore recipe NAME` prints a recipe with all its keys.
"""
EXTRAS = {  # which extra of this package brings a module
    **dict.fromkeys(("jsonargparse", "lightning_fabric", "matplotlib", "PIL"), "show"),
    **dict.fromkeys(("pytorch_lightning", "tqdm", "yaml"), "show"),
    **dict.fromkeys(("huggingface_hub", "timm", "torchvision"), "timm"),
    "av": "video",
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "export"),
}
# what a process that loads data puts before the message of an error, where it came from among it
LOADING = re.compile(r"^Caught .* in DataLoader worker process.*\n(\w+\.)*\w+(Error|Exception): ", re.DOTALL)
FAULTS = (ValueError, OSError, ImportError, ArithmeticError)  # what a user can mend; anything else is our mistake


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code.

    It is 0, 1 if part of the work failed, 2 if it could not be done as asked, and 130 if it was interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # the name of a file may be bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # classes of the user's own, which recipes and `glore measure` name
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_overview())
            return 0
        if arguments[0] == "--version":
            print(glore.__version__)
            return 0
        with _terminable():
            return _run(*arguments)
    except BaseException as error:
        if _interrupted(error):
            trains = arguments[0] in ("demo", "compare", "fit")
            going_on = "the same command goes on from the last completed epoch, if there is one"
            print(f"interrupted; {going_on if trains else 'start it again'}", file=sys.stderr)
            return 130
        if not isinstance(error, FAULTS) and type(error).__name__ != "OutOfMemoryError":  # of torch, which is not here
            raise
        if debug:
            traceback.print_exc()
        absent = re.search(r"No module named '(\w+)'", str(error))  # a process that loads data tells it in words alone
        extra = EXTRAS.get(getattr(error, "name", None) or (absent[1] if absent else ""))
        said = LOADING.sub("", str(error)) + (f": pip install 'glore[{extra}]'" if extra else "")
        if not isinstance(error, FAULTS):
            views = "--model.window, for maps --model.scales"
            said += f" Give a smaller --data.batch_size or --data.eval_batch_size, or in segmentation {views}"
        print(f"glore: {' '.join(said.split())}", file=sys.stderr)
        return 2


@contextmanager
def _terminable() -> Iterator[None]:
    """Take SIGTERM, by which schedulers and containers end a job, as Ctrl-C, and SIGUSR1, by which they say so before.

    Lightning would answer the latter with a checkpoint amid an epoch; ours are of whole epochs.
    """

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupted(error: BaseException | None) -> bool:
    """Whether an interrupt led to an error: Lightning ends a training with SystemExit, a killed worker otherwise."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _interrupted(error.__context__))


def _overview() -> str:
    lines = "\n".join(f"  {name:10} {command.summary}" for name, command in COMMANDS.items())
    return (
        "Does global reasoning help your network on your data, and at what cost?\n\n"
        f"usage: glore COMMAND …\n\n{lines}\n\n"
        "Start with `glore demo`. `glore COMMAND --help` gives an example; --debug shows where an error came from."
    )


def _run(name: str, *rest: str) -> int:
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        raise ValueError(
            f"{name!r} is no command" + (f"; did you mean {near[0]}?" if near else "") + f" ({', '.join(COMMANDS)})"
        )
    command = COMMANDS[name]
    parser = Parser(
        prog=f"glore {name}",
        description=f"{command.summary}\n\nexample: {command.example}",
        epilog=None if name in ("recipe", "measure") else FLAGS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.arguments(parser)
    joined = _joined(rest, parser)
    flags = [a for a in joined if a.startswith("--") and a.partition("=")[0] not in parser._option_string_actions]
    options, strange = parser.parse_known_intermixed_args([argument for argument in joined if argument not in flags])
    flags += strange  # argparse itself would take a flag with a space in its value for a path
    for flag in flags:
        given = flag.partition("=")[0]
        if near := get_close_matches(given, parser._option_string_actions, n=1, cutoff=0.85):
            raise ValueError(f"unknown option {given}: did you mean {near[0]}?")
    return command.run(options, flags)


def _joined(arguments: Sequence[str], parser: Parser) -> list[str]:
    """The arguments with each flag of the recipe and its value in one, so that no value is taken for a path."""
    joined: list[str] = []
    for argument in arguments:
        last = joined[-1] if joined else ""
        waiting = last.startswith("--") and "=" not in last and last not in parser._option_string_actions
        if waiting and not argument.startswith("--"):
            joined[-1] = f"{last}={argument}"
        else:
            joined.append(argument)
    return joined


if __name__ == "__main__":
    sys.exit(main())
