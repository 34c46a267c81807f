"""The command line as a user meets it: help, faults in one line, and a run from training to predictions."""

import csv
import json
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("pytorch_lightning")
pytest.importorskip("sklearn")

from glore import cli
from glore.train import recipe, tree


def glore(capsys, *arguments):
    code = cli.main([*map(str, arguments)])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_overview_is_short_and_names_every_command(capsys, arguments):
    code, out, _ = glore(capsys, *arguments)
    assert code == 0
    assert len(out.splitlines()) < 20
    assert all(f"  {name} " in out for name in cli.COMMANDS)


@pytest.mark.parametrize(
    "flag", [["--model.window", "[512, 512]"], ["--data.root=my pictures"], ["--model.flip", "true"]]
)
def test_flags_of_the_recipe_are_no_paths_wherever_they_stand(monkeypatch, flag):
    told = []
    command = cli.COMMANDS["predict"]._replace(run=lambda options, flags: told.append((options.paths, flags)) or 0)
    monkeypatch.setitem(cli.COMMANDS, "predict", command)
    paths = ["a b.jpg", "c.jpg", "d.jpg"]
    for place in range(4):
        assert cli.main(["predict", *paths[:place], *flag, *paths[place:], "--out", "runs/one"]) == 0
    assert told == 4 * [([Path(path) for path in paths], ["=".join(flag)])]


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_each_commands_help_has_an_example_that_parses(capsys, name):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    command = cli.COMMANDS[name]
    assert f"example: {command.example}" in capsys.readouterr().out
    parser = cli.Parser(allow_abbrev=False)
    command.arguments(parser)
    _, flags = parser.parse_known_args(cli._joined(shlex.split(command.example)[2:], parser))
    config = {"scan": "kinetics400", "measure": "tennis"}.get(name, "digits")
    recipe.Recipe(tree.read(["--config", config, *flags]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["comprae"], "'comprae' is no command; did you mean compare?"),
        (["fit"], "the following arguments are required: --config"),
        (["fit", "--config", "digit"], "did you mean digits?"),
        (["fit", "--config", "nowhere/recipe.yaml"], "no such file"),
        (["fit", "--config", "digits", "--model.net.unt", "3"], "unknown key model.net.unt: did you mean unit?"),
        (["fit", "--config", "digits", "--model.backbone", "resnet18"], "key model.net.name (--model.backbone)"),
        (["fit", "--config", "digits", "--epochs", "many"], "trainer.max_epochs='many' (--epochs) must be int"),
        (["fit", "--config", "digits", "--model.net.units={res9: 1}"], "res9"),
        (["fit", "--config", "digits", "--data.batch_size", "99999"], "data.batch_size=99999"),
        (["compare", "--config", "digits", "--variant", "glroe"], "did you mean 'glore'?"),
        (["fit", "--config", "digits", "--variant", "glroe"], "did you mean 'glore'?"),
        (["compare", "--config", "digits", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["test", "--out", "nowhere"], "--out nowhere holds no run"),
        (["predict"], "give --out DIR, the folder of a run, or --config RECIPE"),
        (["recipe", "digit"], "did you mean digits?"),
        (["measure"], "give the names of networks, or --config RECIPE"),
        (["measure", "resnet51"], "'resnet51' is no network of timm; near it are"),
        (["measure", "resnet18.nope"], "name='resnet18.nope'"),
        (["measure", "glore_resnet18"], "glore_resnet18 is none of glore_resnet50, glore_resnet101"),
        (["measure", "glore.nets.small.smal"], "cannot be imported"),
        (["measure", "resnet18", "--size", "224,224"], "'224,224' is no size: give sides of an input: 224, 1024x2048"),
        (["measure", "glore.nets.video.resnet18_3d"], "does not declare its input size"),
        (["measure", "resnet18", "--sise", "224"], "--sise is no option of glore measure"),
        (["measure", "."], "last.json is missing"),
        (["measure", "runs/mine"], "runs/mine: no such folder"),
        (["measure", "resnet18", "--batch", "0"], "argument --batch: 0: at least 1 is needed"),
        (["measure", "resnet18", "--size", "0x8"], "'0x8' is no size"),
        (["maps", "--out", "nowhere", "--nodes", "0"], "argument --nodes: 0: at least 1 is needed"),
        (["demo", "--epoch", "1"], "unknown key epoch: did you mean epochs?"),
        (["compare", "--config", "digits", "--seed", "-1"], "seed_everything=-1 must be in 0"),
        (["fit", "--config", "digits", "--trainer.precision", "bf16-mxied"], "did you mean bf16-mixed?"),
        (
            ["fit", "--config", "digits", "--model.optimizer", "torch.optim.Adm"],
            "torch.optim has no Adm; did you mean Adam",
        ),
        (["test", "--out", "nowhere", "--weight", "best"], "unknown option --weight: did you mean --weights?"),
        (["fit", "--config", "digits", "--varaint=glore"], "unknown option --varaint: did you mean --variant?"),
        (["scan", "--config", "digits"], "OddDigits does not tell which files its items are read from"),
        (["fit", "--config", "digits", "--data.dataset", "my_data.Mine"], "No module named 'my_data'"),
    ],
)
def test_faults_are_one_line_with_exit_code_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = glore(capsys, *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_samples_with_other_channels_are_one_line(capsys, tmp_path, recipe_path):
    code, _, err = glore(capsys, "fit", "--config", recipe_path, "--out", tmp_path / "run", "--model.net.channels", "3")
    assert code == 2
    assert "glore: the network does not take these samples, " in err
    assert "to have 3 channels, but got 1 channels instead" in err


def test_a_full_device_is_one_line_with_its_cure(capsys, monkeypatch):
    def costs(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("glore.measure.costs", costs)
    code, _, err = glore(capsys, "measure", "resnet18")
    assert code == 2
    assert err.startswith("glore: CUDA out of memory. Give a smaller --data.batch_size")


def test_debug_shows_where_a_fault_came_from(capsys):
    code, _, err = glore(capsys, "fit", "--config", "digit", "--debug")
    assert code == 2
    assert "Traceback" in err


def test_a_recipe_with_all_its_keys(capsys):
    code, out, _ = glore(capsys, "recipe", "digits", "--epochs", "9")
    assert code == 0
    assert yaml.safe_load(out)["trainer"]["max_epochs"] == 9
    assert glore(capsys, "recipe")[1].split() == tree.names()


def test_from_training_to_predictions(capsys, tmp_path, recipe_path):
    out = tmp_path / "run"
    assert glore(capsys, "fit", "--config", recipe_path, "--out", out)[0] == 0
    for command in ("validate", "test"):
        code, said, _ = glore(capsys, command, "--out", out, "--weights", "best")
        assert code == 0
        assert "iou_odd" in said
    code, _, err = glore(capsys, "test", "--out", out, "--weights", tmp_path / "absent.safetensors")
    assert code == 2
    assert "absent.safetensors': give last, best, start or the path of a .safetensors file" in err
    assert glore(capsys, "predict", "--out", out, "--to", tmp_path / "masks")[0] == 0
    assert len(list((tmp_path / "masks").glob("*.png"))) == 48
    said = glore(capsys, "predict", "--out", out, "--to", tmp_path / "masks")[1]
    assert said == f"48 predictions in {tmp_path / 'masks'}, in place of earlier ones: another --to DIR keeps both\n"
    with (out / "test/confusion.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["true class", "background", "common", "odd"]
    assert [row[0] for row in rows] == head[1:]
    with (out / "test/classes.csv").open(newline="") as file:
        assert [sum(map(int, row[1:])) for row in rows] == [int(row["count"]) for row in csv.DictReader(file)]
    code, said, _ = glore(capsys, "maps", "--out", out, "--samples", "2")
    assert code == 0
    code, _, err = glore(capsys, "predict", tmp_path / "absent.png", "--out", out)
    assert code == 2
    assert "OddDigits does not tell how a file becomes a sample, so none can be given" in err
    assert [path.name for path in sorted((out / "maps").glob("0*.png"))] == ["000000.png", "000024.png"]
    assert str(out / "maps/maps.html") in said
    code, _, err = glore(capsys, "maps", "--out", out, "--unit", "head")
    assert code == 2
    assert "--unit head: the network's units are" in err


@pytest.mark.unchecked
def test_a_trained_network_is_exported(capsys, tmp_path, recipe_path):
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    out = tmp_path / "run"
    flags = (
        "--epochs",
        "1",
        "--trainer.limit_train_batches",
        "1",
        "--model.net.units",
        "null",
        "--model.net.unit",
        "null",
    )
    assert glore(capsys, "fit", "--config", recipe_path, "--out", out, *flags)[0] == 0
    code, said, err = glore(capsys, "export", "--out", out, "--weights", "best", "--fold")
    assert (code, err) == (0, "")
    assert said.startswith(f"{out / 'best.onnx'}  0.")
    assert "batches of 1 channels, 48 × 48 or any other size" in said
    told = ort.InferenceSession(out / "best.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == ["background", "common", "odd"]
    to = tmp_path / "net.pt2"
    code, said, _ = glore(capsys, "export", "--out", out, "--to", to, "--size", "20x24", "--fixed-size")
    assert code == 0
    assert "20 × 24\n" in said
    assert torch.export.load(to).module()(torch.zeros(3, 1, 20, 24)).shape == (3, 3, 20, 24)
    for arguments, message in (
        (["--to", to, "--format", "onnx"], "a file of --format onnx ends in .onnx"),
        (["--format", "tflite"], "invalid choice: 'tflite'"),
        (["--size", "8x24x24"], "size 8x24x24 must be 2 sides of at least 2 each (--size)"),
        (["--weights", "absent"], "give last, best, start or the path"),
    ):
        code, _, err = glore(capsys, "export", "--out", out, *arguments)
        assert code == 2
        assert message in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "size"),
    [
        (["--config", "kinetics400"], (3, 8, 224, 224)),
        (["--config", "tennis", "--model.net.classes", "6"], (3, 8, 96, 208)),
        (["--config", "camvid"], (3, 176, 240)),
        (["--config", "cifar10", "--model.net.classes", "10"], (3, 32, 32)),
        (["--config", "digits"], (1, 48, 48)),
    ],
)
def test_the_size_of_an_input_is_known_without_the_data(tmp_path, monkeypatch, flags, size):
    pytest.importorskip("timm")
    from glore.train import run

    monkeypatch.chdir(tmp_path)
    this = run.prepare(recipe.Recipe(tree.read(flags)), tmp_path)
    assert this.input_size() == size
    about = this.about("start")
    assert set(about) == (set() if "digits" in flags else {"mean", "std"})
    assert all(len(values) == 3 for values in about.values())


def test_a_size_that_is_not_known_is_asked_for(capsys, tmp_path, monkeypatch):
    def item(*arguments):
        raise FileNotFoundError("scenes/ is missing")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("glore.train.data.Data.item", item)
    code, _, err = glore(capsys, "export", "--config", "digits", "--weights", "start")
    assert code == 2
    assert "the size of an input is not known (scenes/ is missing): give --size, such as --size 224" in err


def test_one_cell_alone_and_then_the_rest(capsys, tmp_path, recipe_path):
    flags = ("--config", recipe_path, "--out", tmp_path / "all", "--epochs", "1")
    page = tmp_path / "all/report.html"
    code, said, _ = glore(capsys, "compare", *flags, "--variant", "glore", "--seed", "0")
    assert code == 0
    assert "no verdict yet: a variant and its baseline, plain, have not both run" in said
    assert "A variant and its baseline have not both run yet" in page.read_text()
    code, said, _ = glore(capsys, "compare", *flags, "--variant", "plain", "--seed", "0")
    assert code == 0
    assert "glore − plain = " in said
    assert "A variant and its baseline have not both run yet" not in page.read_text()


@pytest.mark.unchecked
def test_what_networks_cost(capsys, tmp_path, recipe_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("glore.measure.peaks_mib", lambda net, shape, kinds, device: dict.fromkeys(kinds, 1.0))
        code, said, _ = glore(
            *(capsys, "measure", "--config", recipe_path, "--size", "48x64", "--training", "--seconds", "0"),
            *("--variant", "glore"),
        )
    assert code == 0
    lines = said.splitlines()
    assert lines[0].split() == [
        *("network", "input", "parameters", "M", "multiply-adds"),
        *("forward", "ms", "forward", "MiB", "step", "ms", "step", "MiB"),
    ]
    assert [line.split("  ")[0] for line in lines[1:]] == ["glore"]
    assert glore(capsys, "fit", "--config", recipe_path, "--out", tmp_path / "run", "--epochs", "1")[0] == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    Path("own_networks.py").write_text("from torch import nn\n\n\ndef small():\n    return nn.Conv2d(3, 8, 3)\n")
    code, said, _ = glore(
        capsys, "measure", "run", "own_networks.small", "--size", "32", "--batch", "2", "--json", "--seconds", "0"
    )
    assert code == 0
    rows = json.loads(said)
    assert [row["network"] for row in rows] == ["run", "own_networks.small"]
    assert rows[1]["parameters"] == 8 * 3 * 9 + 8
    for row in rows:
        assert row["size"] == [32, 32]
        assert row["batch"] == 2
        assert row["forward_ms"] > 0
        assert "step_ms" not in row


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="glore")
    assert command.load() is cli.main


def test_a_variant_needs_its_recipe(capsys):
    code, _, err = glore(capsys, "measure", "resnet18", "--variant", "plain")
    assert code == 2
    assert "--variant plain: give the recipe that has it, --config RECIPE" in err


def test_what_a_loading_process_lacks_is_told_with_its_cure(capsys, monkeypatch):
    said = "Caught ModuleNotFoundError in DataLoader worker process 0.\n…\nModuleNotFoundError: No module named 'av'"

    def run(*arguments):
        raise ModuleNotFoundError(said)

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main(["demo"]) == 2
    assert capsys.readouterr().err == "glore: No module named 'av': pip install 'glore[video]'\n"


def test_a_training_of_no_epochs_is_refused(capsys, tmp_path):
    code, _, err = glore(capsys, "fit", "--config", "digits", "--epochs", "0", "--out", str(tmp_path / "run"))
    assert code == 2
    assert "trainer.max_epochs=0 must be at least 1: give --epochs N" in err
    assert not (tmp_path / "run").exists()


def test_a_flag_that_every_variant_puts_in_is_refused(capsys):
    code, _, err = glore(capsys, "compare", "--config", "cifar10", "--model.net.unit", "glore.units.NonLocal2d")
    assert code == 2
    assert "--model.net.unit: each of the variants puts in another value" in err
    unit = ("--model.net.unit.nodes", "9")
    code, _, err = glore(capsys, "compare", "--config", "cifar10", *unit, "--variant", "plain")
    assert code == 2
    assert "--model.net.unit.nodes: each of the variants puts in another value" in err
    code, _, err = glore(capsys, "compare", "--config", "segment", "--model.net.head.unit.nodes=9", "--variant", "se")
    assert code == 2, "squeeze-and-excitation has no nodes"
    assert "--model.net.head.unit.nodes: each of the variants puts in another value" in err
