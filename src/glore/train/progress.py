"""How far a training is and how long is left: one bar over all runs of a command."""

from __future__ import annotations

import sys
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm


class Lines:
    """stderr with each state of a bar on a line of its own, as logs are read."""

    @property
    def encoding(self) -> str:  # by which tqdm chooses its blocks
        return sys.stderr.encoding

    def write(self, text: str) -> None:
        if state := text.strip("\r\n"):
            sys.stderr.write(f"{state}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def bar(total: float, initial: float = 0, leave: bool = True, **about: Any) -> tqdm[Any]:
    """A bar on a terminal; in a log a line each quarter of a minute at most.

    Args:
        total: how much there is to do.
        initial: how much of it was done before.
        leave: whether the bar stays on the terminal once it is full.
        about: further arguments of tqdm's.
    """
    shown = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        leave=leave or not shown,
        file=sys.stderr if shown else Lines(),
        mininterval=0.5 if shown else 15,
        miniters=0,  # tqdm's own guess grows with each leap
        dynamic_ncols=shown,
        **about,
    )


class Progress(Callback):
    """A bar over one or more trainings, each of which counts the same, or over the batches of an evaluation.

    Args:
        runs: how many runs the bar is over.
        metric: the validation score to show; the task's own by default.
    """

    def __init__(self, runs: int = 1, metric: str | None = None) -> None:
        self.runs, self.metric, self.name, self.done = runs, metric, "", 0
        self.bar: Any = None  # over the trainings
        self.evaluation: Any = None  # over an evaluation by itself

    def begin(self, name: str) -> None:
        """A run of this name comes next."""
        self.name = name if self.runs == 1 else f"{self.done + 1} of {self.runs}: {name}"

    def end(self) -> None:
        """The run is over, whether it ran to its end or not."""
        self.done += 1

    def close(self) -> None:
        """All runs are over."""
        for bar in (self.bar, self.evaluation):
            if bar is not None:
                bar.close()
        self.bar = self.evaluation = None

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        begun = self.done + self._share(trainer)
        if self.bar is not None:
            skipped = begun - self.bar.n  # what another process did says nothing about this one
            self.bar.initial += skipped
            self.bar.last_print_n += skipped
            self.bar.n = begun
        elif trainer.is_global_zero:
            form = "{desc} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left{postfix}"
            self.bar = bar(self.runs, begun, bar_format=form)
        self._show(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        if self.bar is not None:
            self.bar.update(self.done + self._share(trainer) - self.bar.n)

    def on_train_epoch_end(self, trainer: Trainer, task: LightningModule) -> None:
        self._show(trainer)

    @staticmethod
    def _share(trainer: Trainer) -> float:
        return min(1.0, trainer.global_step / trainer.datamodule.training_steps)  # type: ignore[attr-defined]

    def _show(self, trainer: Trainer) -> None:
        if self.bar is None:
            return
        last = trainer.max_epochs or -1
        epoch = f"{min(trainer.current_epoch + 1, last)}/{last}" if last > 0 else trainer.current_epoch + 1
        self.bar.set_description_str(f"{self.name} · epoch {epoch}", refresh=False)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        shown = [
            name for name in ("train/loss", f"val/{self.metric or trainer.lightning_module.metric}") if name in metrics
        ]
        self.bar.set_postfix_str(" ".join(f"{name} {metrics[name]:.3f}" for name in shown))

    def on_validation_start(self, trainer: Trainer, task: LightningModule) -> None:
        self._evaluate(trainer, trainer.num_val_batches)

    def on_test_start(self, trainer: Trainer, task: LightningModule) -> None:
        self._evaluate(trainer, trainer.num_test_batches)

    def on_predict_start(self, trainer: Trainer, task: LightningModule) -> None:
        self._evaluate(trainer, trainer.num_predict_batches)

    def _evaluate(self, trainer: Trainer, batches: list[int | float]) -> None:
        if self.bar is None and trainer.is_global_zero:
            self.evaluation = bar(sum(batches), leave=False, desc="evaluation")

    def _step(self, trainer: Trainer, *about: object) -> None:
        if self.evaluation is not None:
            self.evaluation.update(1)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _step  # type: ignore[assignment]

    def _evaluated(self, trainer: Trainer, *about: object) -> None:
        if self.evaluation is not None:
            self.close()

    on_validation_end = on_test_end = on_predict_end = on_exception = _evaluated  # type: ignore[assignment]
