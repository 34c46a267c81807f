"""Two processes over gloo on the CPU give the result of one for the same global batch."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("pytorch_lightning")
pytest.importorskip("sklearn")


def fit(recipe_path, out, *launch):
    flags = ["--model.frozen_norms=true", "--trainer.max_steps=4", "--model.optimizer.class_path=torch.optim.SGD"]
    flags += ["--model.optimizer.lr=0.1", "--trainer.precision=32-true"]
    command = [
        sys.executable,
        *launch,
        "-m",
        "glore.cli",
        "fit",
        "--config",
        str(recipe_path),
        "--out",
        str(out),
        *flags,
    ]
    if launch:
        command += ["--trainer.devices=2", "--trainer.strategy=ddp"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return load_file(out / "last.safetensors")


def test_two_processes_give_the_result_of_one(recipe_path, tmp_path):
    alone = fit(recipe_path, tmp_path / "one")
    launch = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29561")
    shared = fit(recipe_path, tmp_path / "two", *launch)
    assert alone.keys() == shared.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    curves = [(tmp_path / name / "curves.csv").read_text().splitlines() for name in ("one", "two")]
    for one, two in zip(curves[0][1:], curves[1][1:], strict=True):
        assert [float(value or 0) for value in one.split(",")] == pytest.approx(
            [float(value or 0) for value in two.split(",")], rel=1e-4
        )
