"""What `glore` can do: the options of each command, and what it runs; imports what it needs when it runs."""

from __future__ import annotations

from glore.commands import measuring, training, using

COMMANDS = {**training.COMMANDS, **using.COMMANDS, **measuring.COMMANDS}
