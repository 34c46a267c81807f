"""The bar over several trainings, some of which other processes run or have begun."""

from types import SimpleNamespace

import pytest

pytest.importorskip("pytorch_lightning")
from glore.train.progress import Progress


def trainer(step=0):
    return SimpleNamespace(
        is_global_zero=True,
        global_step=step,
        max_epochs=2,
        current_epoch=0,
        callback_metrics={},
        datamodule=SimpleNamespace(training_steps=10),
        lightning_module=SimpleNamespace(metric="top1"),
    )


@pytest.mark.unchecked
def test_what_other_processes_did_is_shown_and_says_nothing_about_the_time(capsys):
    progress = Progress(4)
    for name, begun in {"a": 0, "skipped": None, "half": 5}.items():
        progress.begin(name)
        if begun is not None:
            this = trainer(begun)
            progress.on_train_start(this, None)
            while this.global_step < 10:
                this.global_step += 1
                progress.on_train_batch_end(this, None, None, None, 0)
        progress.end()
    assert progress.bar.n == pytest.approx(3)
    assert progress.bar.n - progress.bar.initial == pytest.approx(1.5), "of which this process did"
    assert progress.bar.desc == "3 of 4: half · epoch 1/2"
    assert progress.bar.miniters == 0
    progress.close()
    said = capsys.readouterr().err
    assert "\r" not in said, "which is a log, and no terminal"
    assert "3 of 4: half · epoch 1/2  75%" in said
