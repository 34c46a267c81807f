"""Two processes over gloo on the CPU give the result of one for the same global batch."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("pytorch_lightning")
pytest.importorskip("sklearn")
from glore.cli import main

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def arguments(recipe_path, out):
    flags = ["--model.frozen_norms=true", "--trainer.max_steps=4", "--model.optimizer.class_path=torch.optim.SGD"]
    flags += ["--model.optimizer.lr=0.1", "--trainer.precision=32-true"]
    return ["fit", "--config", str(recipe_path), "--out", str(out), *flags]


def test_two_processes_give_the_result_of_one(recipe_path, tmp_path):
    assert main(arguments(recipe_path, tmp_path / "one")) == 0
    command = [sys.executable, *TWO, "-m", "glore.cli", *arguments(recipe_path, tmp_path / "two")]
    two = [*command, "--trainer.devices=2", "--trainer.strategy=ddp"]
    done = subprocess.run(two, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    alone, shared = (load_file(tmp_path / out / "last.safetensors") for out in ("one", "two"))
    assert alone.keys() == shared.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    curves = [(tmp_path / name / "curves.csv").read_text().splitlines() for name in ("one", "two")]
    for one, two in zip(curves[0][1:], curves[1][1:], strict=True):
        assert [float(value or 0) for value in one.split(",")] == pytest.approx(
            [float(value or 0) for value in two.split(",")], rel=1e-4
        )


@pytest.mark.slow
def test_processes_with_different_recipes_stop(recipe_path, tmp_path):
    script = tmp_path / "launch.py"  # as nodes do whose commands or files differ
    script.write_text(
        "import os, sys\nfrom glore.cli import main\n"
        'sys.exit(main([*sys.argv[1:], "--model.optimizer.lr", "0.1" if os.environ["RANK"] == "0" else "0.2"]))\n'
    )
    flags = ["fit", "--config", str(recipe_path), "--out", str(tmp_path / "run"), "--trainer.devices=2"]
    command = [sys.executable, *TWO, str(script), *flags, "--trainer.strategy=ddp"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    assert "lr is 0.1 in process 0 and 0.2 in process 1): give all of them the same command" in done.stderr
    assert not (tmp_path / "run/last.safetensors").exists()


@pytest.mark.slow
def test_a_job_array_shares_a_folder(recipe_path, tmp_path):
    """Cells trained side by side; whoever is last has written the results of all."""
    out = tmp_path / "all"
    compare = [sys.executable, "-m", "glore.cli", "compare", "--config", str(recipe_path), "--out", str(out)]
    cells = [("plain", "0"), ("glore", "0"), ("glore", "0")]  # one of them twice, as after a failure
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    jobs = [subprocess.Popen([*compare, "--variant", name, "--seed", seed], **pipes) for name, seed in cells]
    said = [job.communicate(timeout=240)[1] for job in jobs]
    codes = [job.returncode for job in jobs]
    assert codes[0] == 0, said[0]
    assert sorted(codes[1:]) in ([0, 0], [0, 1]), said
    assert codes[1:] == [0, 0] or "another process works in" in "".join(said[1:])
    rows = (out / "results.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["plain", "0"], ["glore", "0"]]
    assert "glore − plain = " in (out / "verdict.txt").read_text()
