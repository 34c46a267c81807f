"""One training step of a recipe, without a folder."""

from pytorch_lightning import Trainer

from glore.train import run as runs


def step(task, data):
    """Train for an epoch of one batch, and see that it was one and left nothing infinite."""
    with runs.quiet():
        trainer = Trainer(
            max_epochs=1, accelerator="cpu", limit_val_batches=0, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(task, data)
    assert trainer.global_step == 1
    assert all(parameter.isfinite().all() for parameter in task.net.parameters())
