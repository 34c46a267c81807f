"""What the commands share: how one is told, and options of the same kind."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SIDES = "sides of an input: 224, 1024x2048, or of clips 8x224x224"


class Command(NamedTuple):
    """A subcommand."""

    summary: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, list[str]], int]


class Once(argparse.Action):
    """Keeps a value, and refuses a second one."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values, option=None) -> None:  # type: ignore[no-untyped-def]
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option} is given twice")
        setattr(namespace, self.dest, values)


def recipe_option(parser: argparse.ArgumentParser) -> None:
    """--config, for commands that need it."""
    parser.add_argument(
        "--config", action=Once, required=True, metavar="RECIPE", help="path of a recipe, or name of a shipped one"
    )


def default_out(config: str) -> Path:
    """The folder of a recipe's run or comparison, where none is given."""
    return Path("runs") / Path(config).stem


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 is needed")
    return int(text)


def sides(text: str) -> list[int]:
    """The sides of an input; of a square, one is enough."""
    try:
        given = [positive(side) for side in text.lower().split("x")]
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give {SIDES}") from error
    return given * 2 if len(given) == 1 else given
