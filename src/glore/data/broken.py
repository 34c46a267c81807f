"""What a dataset raises for a sample that cannot be read."""

from __future__ import annotations


class BrokenSampleError(ValueError):
    """A file that cannot be read, by name and with the reason; in training another sample takes its place."""

    def __init__(self, message: str) -> None:
        # from a worker process, torch hands on the whole traceback, whose last line is "module.Class: message"
        last = message.strip().rpartition("\n")[2]
        super().__init__(last.partition(f"{type(self).__name__}: ")[2] or last)
