"""Comparisons: the cells, what they share, what fails and what does not, and what comes out."""

import csv
import json

import pytest
import torch

from glore.data.broken import BrokenSampleError
from glore.show import report
from glore.train import compare, results
from glore.train import run as runs
from glore.train.blame import RecipeError
from glore.train.folder import Keep
from glore.train.grid import Grid
from glore.train.tree import put


def ran(tree, out, *variants):
    grid = Grid.of(tree, out)
    return grid, list(compare.run(grid, grid.pick(variants)))


def test_the_grid_is_seed_by_seed_and_the_baseline_first(tree, tmp_path):
    put(tree, "compare.baseline", "glore")
    grid = Grid.of(tree, tmp_path)
    assert [(cell.seed, cell.variant) for cell in grid.cells] == [
        (seed, variant) for seed in (0, 1) for variant in ("glore", "plain", "plain+conv", "glore 2 layers")
    ]
    assert len({cell.recipe.hash for cell in grid.cells}) == 8
    assert grid.cells[3].folder == tmp_path / "glore-2-layers/seed0"


def test_of_several_baselines_each_variant_has_the_one_that_its_name_begins_with(tree, tmp_path):
    put(tree, "epochs", 1)
    wide = {"model.net.widths": [6, 12]}
    variants = {
        "plain": {"model.net.unit": None},
        "plain+conv": {"model.net.unit": "glore.units.Bottleneck2d"},
        "plain wide": {"model.net.unit": None, **wide},
        "plain glore": {},
        "plain wide glore": wide,
    }
    put(tree, "compare", {"seeds": [0], "baseline": ["plain wide", "plain"], "variants": variants})
    grid, _ = ran(tree, tmp_path)
    against = {verdict.variant: list(verdict.differences) for verdict in results.verdicts(grid)}
    assert against.pop("plain+conv") == ["plain"]
    assert against == {"plain glore": ["plain", "plain+conv"], "plain wide glore": ["plain wide"]}
    tested = {cell.variant: result for cell, result in grid.finished()}
    assert tested["plain wide glore"]["baseline"] == "plain wide"
    assert tested["plain wide"]["step_time"] == tested["plain"]["step_time"] == 0


def test_a_step_that_cannot_be_timed_costs_no_result(tree, tmp_path, monkeypatch):
    """As of a norm that one sample of a process is too few for, where all of them were synchronised in training."""
    put(tree, "epochs", 1)

    def refuse(*arguments, **options):
        raise ValueError("Expected more than 1 value per channel when training, got input size (1, 8, 1, 1)")

    monkeypatch.setattr(compare.measure, "medians_ms", refuse)
    grid = Grid.of(tree, tmp_path)
    assert not list(compare.run(grid, grid.pick(["plain", "glore"], [0])))
    (verdict,) = results.verdicts(grid)
    assert "step time" not in verdict.figures


def test_tables_leave_the_drafts_of_a_run_alone(tree, tmp_path):
    own, other = tmp_path / ".report.html.host.7.draft", tmp_path / ".resume.ckpt.host.7.draft"
    for draft in (own, other):
        draft.touch()
    results.write(Grid.of(tree, tmp_path))
    assert not own.exists()
    assert other.exists()


def test_a_cell_takes_one_device_unless_told(tree, tmp_path):
    assert Grid.of(tree, tmp_path).cells[0].recipe.config.trainer.devices == 1
    put(tree, "trainer.devices", 2)
    assert Grid.of(tree, tmp_path).cells[0].recipe.config.trainer.devices == 2


def test_variants_of_a_seed_share_first_weights_and_the_order_of_the_data(tree, tmp_path, monkeypatch):
    put(tree, "epochs", 1)
    first, seen = {}, {}

    def fit(self, start=None):
        own = self.task.net.state_dict()
        shared = {k: v for k, v in (start or {}).items() if k in own}
        first[str(self.folder.relative_to(tmp_path))] = {k: v.clone() for k, v in (own | shared).items()}
        self.data.trainer = self.trainer
        seen[str(self.folder.relative_to(tmp_path))] = [batch[-1].tolist() for batch in self.data.train_dataloader()]

    monkeypatch.setattr(runs.Run, "fit", fit)
    monkeypatch.setattr(runs.Run, "finish", lambda self, **about: {})
    ran(tree, tmp_path)
    for seed in (0, 1):
        plain, glore, control = (f"{name}/seed{seed}" for name in ("plain", "glore", "plain+conv"))
        assert seen[plain] == seen[glore] == seen[control]
        for name, tensor in first[plain].items():
            assert torch.equal(tensor, first[glore][name]), name
            assert torch.equal(tensor, first[control][name]), name
        assert len(first[glore]) > len(first[plain])
    assert seen["plain/seed0"] != seen["plain/seed1"]
    assert not torch.equal(first["plain/seed0"]["backbone.stem.weight"], first["plain/seed1"]["backbone.stem.weight"])


def test_what_comes_out(tree, tmp_path):
    put(tree, "epochs", 1)
    grid, messages = ran(tree, tmp_path)
    assert not messages
    said = report.summary(grid)
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    metrics = ("iou_background", "iou_common", "iou_odd", "miou")
    assert list(rows[0]) == ["variant", "seed", *metrics, "parameters", "multiply_adds", "step_ms"]
    assert [(row["variant"], row["seed"]) for row in rows] == [
        (variant, str(seed)) for seed in (0, 1) for variant in ("plain", "plain+conv", "glore", "glore 2 layers")
    ]
    by_name = {row["variant"]: row for row in rows}
    parameters = {name: int(row["parameters"]) for name, row in by_name.items()}
    assert parameters["plain"] < parameters["glore"] < parameters["glore 2 layers"]
    assert abs(parameters["plain+conv"] - parameters["glore"]) <= 9
    for name in ("plain+conv", "glore", "glore 2 layers"):
        assert f"{name} − plain = " in said
    assert "glore − plain+conv = " in said
    assert (tmp_path / "verdict.txt").read_text().strip() in said


def test_finished_cells_are_not_run_again(tree, tmp_path, monkeypatch):
    tree["compare"]["seeds"] = [0]
    put(tree, "epochs", 1)
    grid, told = Grid.of(tree, tmp_path), []
    write = results.write
    monkeypatch.setattr(results, "write", lambda grid: (told.append(len(grid.finished())), write(grid)))
    assert not list(compare.run(grid, grid.pick(["plain", "glore"])))
    assert told == [1, 2]
    assert "glore − plain = " in (tmp_path / "verdict.txt").read_text()

    def fail(*arguments):
        raise AssertionError("a finished cell was run")

    monkeypatch.setattr(runs.Run, "fit", fail)
    grid = Grid.of(tree, tmp_path)
    assert not list(compare.run(grid, grid.pick(["plain", "glore"])))
    assert told == [1, 2]
    put(tree, "compare.metric", "miuo")
    with pytest.raises(RecipeError, match=r"compare\.metric='miuo' must be one of iou_background, "):
        list(compare.run(Grid.of(tree, tmp_path), grid.pick(["plain"])))


def test_a_network_in_half_precision_is_timed_and_counted(tree, tmp_path):
    put(tree, "trainer.precision", "bf16-true")
    put(tree, "epochs", 1)
    tree["compare"]["seeds"] = [0]
    grid, messages = ran(tree, tmp_path, "glore")
    assert not messages
    assert [result["variant"] for _, result in grid.finished()] == ["glore"]


def test_a_variants_control_stands_at_its_places(tree, tmp_path):
    tree["compare"]["variants"] |= {"plain+conv in res2": {}, "glore in res2": {}, "plain+conv+glore": {}}
    grid = Grid.of(tree, tmp_path)
    controls = {name: results.control_of(grid, name) for name in tree["compare"]["variants"]}
    assert controls == {
        "plain": "plain+conv",
        "plain+conv": None,
        "glore": "plain+conv",
        "glore 2 layers": "plain+conv",
        "plain+conv in res2": None,
        "glore in res2": "plain+conv in res2",
        "plain+conv+glore": "plain+conv",
    }


def test_a_changed_recipe_is_refused(tree, tmp_path):
    put(tree, "epochs", 1)
    tree["compare"]["seeds"] = [0]
    ran(tree, tmp_path, "plain")
    put(tree, "epochs", 2)
    for name in ("resume.ckpt", "last.safetensors", "none"):  # may be deleted to save space: results stay
        with pytest.raises(RecipeError, match=r"trainer\.max_epochs is 2, was 1"):
            ran(tree, tmp_path)
        (tmp_path / "plain/seed0" / name).unlink(missing_ok=True)


def test_a_renamed_variant_goes_by_its_new_name(tree, tmp_path):
    variants = {"plain": {"model.net.unit": None}, "glore 2": {}}
    tree["compare"] |= {"variants": variants, "seeds": [0]}
    put(tree, "epochs", 1)
    ran(tree, tmp_path)
    variants["glore-2"] = variants.pop("glore 2")  # of the same folder
    grid = Grid.of(tree, tmp_path)
    assert "glore-2 − plain" in report.summary(grid)
    assert [row["variant"] for row in results.rows(grid)] == ["plain", "glore-2"]
    assert "glore-2" in report.page(grid).read_text()


def test_a_sample_that_cannot_be_read_leaves_its_cell_trained_and_goes_on(tree, tmp_path, monkeypatch):
    tree["compare"]["seeds"] = [0]
    put(tree, "epochs", 1)
    finish = runs.Run.finish

    def broken(self, **about):
        raise BrokenSampleError("7.jpg cannot be read")

    monkeypatch.setattr(runs.Run, "finish", broken)
    grid, messages = ran(tree, tmp_path, "plain", "glore")
    assert messages == [f"stopped {name}, seed 0: 7.jpg cannot be read" for name in ("plain", "glore")]
    monkeypatch.setattr(runs.Run, "finish", finish)
    monkeypatch.setattr(Keep, "on_train_batch_end", lambda *arguments: pytest.fail("it was trained again"))
    _, messages = ran(tree, tmp_path, "plain", "glore")
    assert not messages
    assert [cell.variant for cell, _ in grid.finished()] == ["plain", "glore"]


def test_steps_of_other_batches_are_not_timed_against_each_other(tree, tmp_path):
    variants = {"plain": {}, "glore": {}, "small batches": {"data.batch_size": 8}}
    tree["compare"] |= {"variants": variants, "seeds": [0]}
    put(tree, "epochs", 1)
    grid, _ = ran(tree, tmp_path)
    told = {verdict.variant: "step time" in verdict.figures for verdict in results.verdicts(grid)}
    assert told == {"glore": True, "small batches": False}


def test_a_cell_whose_loss_is_not_finite_is_told_and_left(tree, tmp_path):
    variants = {"plain": {"model.net.unit": None}, "wild": {"model.optimizer.lr": 1e30}, "glore": {}}
    tree["compare"] |= {"variants": variants, "seeds": [0]}
    put(tree, "model.schedule.warmup", 0.0)
    put(tree, "epochs", 1)
    grid, messages = ran(tree, tmp_path)
    (message,) = messages
    assert message.startswith("stopped wild, seed 0: the loss is ")
    assert "learning rate 7.5e+29" in message
    assert [result["variant"] for _, result in grid.finished()] == ["plain", "glore"]
    assert "wild" not in report.summary(grid)


def test_a_busy_cell_is_left_to_its_process(tree, tmp_path):
    tree["compare"]["seeds"] = [0]
    put(tree, "epochs", 1)
    grid = Grid.of(tree, tmp_path)
    plain, glore = grid.pick(["plain", "glore"])
    with runs.claimed(glore.folder, glore.recipe):
        (message,) = compare.run(grid, [plain, glore])
    assert message.startswith("left out glore, seed 0: another process works in")
    assert plain.result()


def test_a_result_that_is_damaged_or_another_recipes_is_made_anew(tree, tmp_path):
    tree["compare"]["seeds"] = [0]
    put(tree, "epochs", 1)
    grid, _ = ran(tree, tmp_path, "plain")
    path = grid.cells[0].folder / "result.json"
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), "hash": "other"}))
    assert grid.cells[0].result() is None
    path.write_text(before[:20])
    ran(tree, tmp_path, "plain")
    assert json.loads(path.read_text())["metrics"] == json.loads(before)["metrics"]


def test_a_variant_that_cannot_be_made_is_told_before_any_training(tree, tmp_path):
    tree["compare"]["variants"]["wrong"] = {"model.net.units": {"res9": 1}}
    with pytest.raises(RecipeError, match=r"^units=\{'res9': 1\}: no res9; this network has res2, res3"):
        ran(tree, tmp_path)
    assert not list(tmp_path.glob("*/*/curves.csv"))


def test_other_folders_are_let_be(tree, tmp_path):
    (tmp_path / "notes/seed_backup").mkdir(parents=True)
    assert {cell.seed for cell in Grid.of(tree, tmp_path).cells} == {0, 1}


def test_seeds_that_a_job_array_ran_are_found(tree, tmp_path):
    grid = Grid.of(tree, tmp_path, seeds=[7])
    for cell in grid.pick(["plain", "glore"], [7]):
        cell.folder.mkdir(parents=True)
        (cell.folder / "result.json").write_text(json.dumps({"hash": cell.recipe.hash}))
        assert cell.result() is None, "without what each sample added"
        (cell.folder / "samples.safetensors").touch()
    later = Grid.of(tree, tmp_path)
    assert {(cell.variant, cell.seed) for cell, _ in later.finished()} == {("plain", 7), ("glore", 7)}
    assert {cell.seed for cell in later.pick(["plain"])} == {0, 1}, "they are shown, and no more of them trained"
    with pytest.raises(ValueError, match=r"samples\.safetensors is damaged .*: remove it, and plain, seed 7 is f"):
        later.finished()[0][0].counts()


@pytest.mark.parametrize(
    ("change", "variants", "message"),
    [
        ({"compare.variants": {}}, [], "no variant 'plain' to compare with"),
        ({"compare.baseline": "bare"}, [], "no variant 'bare' to compare with"),
        ({"compare.baseline": ["plain", "bare"]}, [], "no variant 'bare' to compare with"),
        ({"compare.baseline": []}, [], "no variant '' to compare with"),
        ({"compare.control": "conv"}, [], "no variant 'conv', which compare.control names"),
        ({"compare.seeds": []}, [], "must have a seed at least"),
        ({}, ["glroe"], "--variant glroe: the recipe has no such variant; did you mean 'glore'?"),
        ({"compare.variants": {"plain": {"model.net.unt": 1}}}, [], "unknown key model.net.unt"),
        ({"compare.variants": {"plain": {}, "lr 1": {}, "lr-1": {}}}, [], "two variants would share the folder lr-1"),
    ],
)
def test_faults_are_told_before_anything_runs(tree, tmp_path, change, variants, message):
    for key, value in change.items():
        put(tree, key, value)
    with pytest.raises(RecipeError) as error:
        ran(tree, tmp_path, *variants)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_metric_that_the_task_lacks_is_named(tree, tmp_path):
    put(tree, "compare.metric", "top1")
    with pytest.raises(RecipeError, match=r"compare\.metric='top1' must be one of iou_background"):
        ran(tree, tmp_path)
    assert not list(tmp_path.glob("*/*/curves.csv")), "it was trained before"


def test_each_rival_is_paired_over_its_own_seeds_and_a_step_time_has_its_baseline(tree, tmp_path):
    put(tree, "epochs", 1)
    grid = Grid.of(tree, tmp_path)
    assert not list(compare.run(grid, grid.pick(["plain", "glore"])))
    assert not list(compare.run(grid, grid.pick(["plain+conv"], [0])))
    found = {verdict.variant: verdict for verdict in results.verdicts(grid)}
    assert {name: d.seeds for name, d in found["glore"].differences.items()} == {"plain": 2, "plain+conv": 1}
    assert "step time" in found["glore"].figures
    put(tree, "compare.baseline", "plain+conv")
    other = {verdict.variant: verdict for verdict in results.verdicts(Grid.of(tree, tmp_path))}
    assert "step time" not in other["plain"].figures
