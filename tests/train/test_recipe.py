"""Recipes: what is read, what flags do to it, and what is said of those that cannot be used."""

import copy
import json

import pytest
import yaml

from glore.train import tree as trees
from glore.train.blame import RecipeError
from glore.train.recipe import Recipe
from glore.train.tree import put, read, varied


def net_of(tree):
    return Recipe(tree).constructor["init_args"]


@pytest.mark.parametrize("name", trees.names())
def test_shipped_recipes_parse_with_all_their_variants(name):
    tree = read(["--config", name])
    comparison = Recipe(tree).comparison
    assert set(comparison.baselines) <= comparison.variants.keys()
    assert set(comparison.demo or []) <= set(comparison.variants)
    for puts in comparison.variants.values():
        variant = copy.deepcopy(tree)
        for key, value in puts.items():
            put(variant, key, value)
        json.dumps(Recipe(variant).constructor)


HEADS = {"": '"unit": null', "plain": '"unit": null', "glore": "GloRe2d", "non-local": "NonLocal2d", "psp": "heads.PSP"}
HEADS |= {"dense aspp": "heads.DenseASPP", "se": "SqueezeExcite2d", "plain+conv": "Bottleneck2d"}


@pytest.mark.parametrize("name", ["cityscapes", "segment", "camvid"])
def test_variants_have_the_heads_that_they_are_called_by(name):
    tree = read(["--config", name])
    for variant in tree["compare"]["variants"]:
        net = varied(tree, variant)["model"]["init_args"]["net"]["init_args"]
        backbone, _, head = variant.partition(" ") if name == "cityscapes" else (None, None, variant)
        assert backbone is None or net["name"] == backbone.replace("resnet", "resnetv2_")
        assert HEADS["plain" if "unit" in net else head] in json.dumps(net), variant


def test_camvids_rare_classes_weigh_more():
    names = pytest.importorskip("glore.data.segments").CamVid.CLASSES
    init = read(["--config", "camvid"])["model"]["init_args"]
    weights = dict(zip(names, init["class_weights"], strict=True))
    ranked = "Road Building Sky Tree Car Pavement Fence SignSymbol Pole Pedestrian Bicyclist"
    assert " ".join(sorted(names, key=weights.__getitem__)) == ranked


@pytest.mark.parametrize("name", ["imagenet", "cityscapes", "kinetics400"])
def test_each_row_of_a_table_is_compared_with_its_plain_twin(name):
    comparison = Recipe(read(["--config", name])).comparison
    for variant in comparison.variants:
        twin = comparison.baseline_of(variant)
        assert twin == variant.split()[0]
        assert None in comparison.variants[twin].values()


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        (["--epochs", "7"], "trainer.max_epochs", 7),
        (["--epochs=7"], "trainer.max_epochs", 7),
        (["--seed", "3"], "seed_everything", 3),
        (["--model.optimizer.lr", "1e-3"], "model.init_args.optimizer.init_args.lr", 0.001),
        (["--model.net.unit", "null"], "model.init_args.net.init_args.unit", None),
        (["--model.net.init_args.unit=null"], "model.init_args.net.init_args.unit", None),
        (["--model.net.units={res2: 1}"], "model.init_args.net.init_args.units.res2", 1),
        (["--model.net.unit.graph_layers=2"], "model.init_args.net.init_args.unit.init_args.graph_layers", 2),
        (
            ["--model.net.unit=glore.units.NonLocal2d"],
            "model.init_args.net.init_args.unit.class_path",
            "glore.units.NonLocal2d",
        ),
        (["--data.dataset.scenes", "5"], "data.dataset.init_args.scenes", 5),
        (["--trainer.gradient_clip_val", "0.5"], "trainer.gradient_clip_val", 0.5),
    ],
)
def test_flags_change_values(recipe_path, flags, key, value):
    assert trees.flat(Recipe(read(["--config", str(recipe_path), *flags])).resolved)[key] == value


def test_the_seed_is_the_datas_too(recipe_path):
    tree = read(["--config", str(recipe_path), "--seed", "5"])
    _, data = Recipe(tree).make()
    assert data.seed == 5


@pytest.mark.parametrize("order", [1, -1])
def test_a_short_flag_gives_an_argument_of_a_class_named_before_or_behind_it(order):
    flags = ["--data.root=x", "--data.dataset=glore.data.odd_digits.OddDigits"][::order]
    dataset = read(["--config", "cifar10", *flags])["data"]["dataset"]
    assert dataset == {"class_path": "glore.data.odd_digits.OddDigits", "init_args": {"root": "x"}}


def test_callbacks_are_appended_and_given_arguments(recipe_path):
    flags = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9"]
    (callback,) = Recipe(read(["--config", str(recipe_path), *flags])).resolved["trainer"]["callbacks"]
    assert callback["class_path"].endswith("EMAWeightAveraging")
    assert callback["init_args"]["decay"] == 0.9


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.net.unt=3"], "unknown key model.net.unt: did you mean unit?"),
        (["--model.net.unit.graph_layer=3"], "unknown key model.net.unit.graph_layer: did you mean graph_layers?"),
        (["--trainer.max_epoch=3"], "unknown key trainer.max_epoch: did you mean max_epochs?"),
        (["--compare.varants=3"], "unknown key compare.varants: did you mean variants?"),
        (["--data.rot=x"], "unknown key data.rot: did you mean root?"),
        (["--model.bakbone=x"], "unknown key model.bakbone: did you mean backbone?"),
        (["--data.batchsize=3"], "unknown key data.batchsize: did you mean batch_size?"),
        (["--data.root=x"], "unknown key data.dataset.root (--data.root): accepted there: split, scenes, seed"),
        (["--nonsense=3"], "unknown key nonsense: accepted there: model, data, trainer, compare, seed_everything"),
        (["--modle.net.units=3"], "unknown key modle.net.units: did you mean model?"),
        (["--model.net.widths=5"], "model.net.widths=5 must be a list, such as [1, 2]"),
        (["--model.train=unit"], "model.train='unit': did you mean units?"),
        (["--trainer.max_epochs=x"], "trainer.max_epochs='x' (--epochs) must be int"),
        (["--model.net.classes=3.5"], "model.net.classes=3.5 must be int"),
        (["--model.optimizer.lr=abc"], "model.optimizer.lr='abc' must be float"),
        (["--seed=abc"], "seed_everything='abc' (--seed) must be bool or int"),
        (["--model=Foo"], "model='Foo' cannot be imported"),
        (["--model.net.unit=glore.GloRe5d"], "model.net.unit='glore.GloRe5d' cannot be imported"),
        (["--data.dataset=null"], "data.dataset is missing"),
        (["--epochs"], "--epochs needs a value"),
        (["epochs"], "'epochs' is no flag"),
        (["--config", "digits"], "--config is needed once"),
        (["--model.net.units={res3: 1"], "--model.net.units {res3: 1 is not YAML"),
        (["--trainer.max_time", "1"], "trainer.max_time cannot be set: what a clock ends cannot be repeated"),
        (
            ["--model.net.units=null", "--model.net.unit=glore.units.NonLocal2d"],
            "model.net.unit='glore.units.NonLocal2d' is given, but no place for it: give --model.net.units",
        ),
        (["--data.seed", "1"], "data.seed cannot be set: give --seed"),
    ],
)
def test_faults_are_told_in_one_line_with_their_cure(recipe_path, flags, message):
    with pytest.raises(RecipeError) as error:
        Recipe(read(["--config", str(recipe_path), *flags]))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[1, 2]", "model: [", "\0"])
def test_a_file_that_is_no_recipe_is_named(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"broken\.yaml is not a"):
        read(["--config", str(path)])


def test_a_name_that_is_nearly_one_is_told():
    with pytest.raises(
        RecipeError, match=r"no shipped recipe of that name; did you mean digits\? \(shipped: camvid, cifar10"
    ):
        read(["--config", "digit"])


def test_a_recipe_is_needed():
    with pytest.raises(RecipeError, match="--config is needed once"):
        read(["--epochs", "3"])


def test_the_hash_follows_what_decides_the_result_alone(tree):
    first = Recipe(tree).hash

    def changed(key, value):
        other = copy.deepcopy(tree)
        put(other, key, value)
        return Recipe(other).hash != first

    for key, value in {
        "seed": 1,
        "epochs": 9,
        "model.net.widths": [4, 12],
        "data.batch_size": 8,
        "trainer.precision": "bf16-mixed",
        "trainer.fast_dev_run": True,
    }.items():
        assert changed(key, value), key
    for key, value in {"data.workers": 3, "trainer.devices": 1, "trainer.logger": True, "compare.seeds": [7]}.items():
        assert not changed(key, value), key


def test_where_the_data_lie_does_not_count(tree):
    put(tree, "data.dataset", {"class_path": "made.Blobs", "init_args": {"root": "here"}})
    first = Recipe(tree).hash
    put(tree, "data.root", "there")
    assert Recipe(tree).hash == first
    put(tree, "data.dataset.shift", 2)
    assert Recipe(tree).hash != first


def test_functions_and_classes_go_by_name(tree, tmp_path):
    del tree["model"]["init_args"]["schedule"]  # by default a function
    first = Recipe(tree)
    assert first.resolved["model"]["init_args"]["schedule"] == "glore.train.schedules.constant"
    path = tmp_path / "full.yaml"
    path.write_text(yaml.safe_dump(first.resolved))
    assert Recipe(read(["--config", str(path)])).hash == first.hash


def test_a_recipe_with_every_value_is_the_same_recipe(tree, tmp_path):
    path = tmp_path / "full.yaml"
    path.write_text(yaml.safe_dump(Recipe(tree).resolved))
    assert Recipe(read(["--config", str(path)])).hash == Recipe(tree).hash


def test_another_class_keeps_the_arguments_that_it_takes_too():
    tree = {"net": {"class_path": "glore.GloRe2d", "init_args": {"states": 8, "normalize": False}}}
    put(tree, "net", "glore.units.Bottleneck2d")
    assert tree["net"] == {"class_path": "glore.units.Bottleneck2d", "init_args": {"states": 8}}
    for other in ("glore.units.NonLocal2d", "nowhere.Unit"):
        put(tree, "net", other)
        assert tree["net"] == other


def test_a_variant_may_be_empty_and_must_be_keys_with_values(recipe_path):
    tree = read(["--config", str(recipe_path)])
    put(tree, "compare.variants", {"plain": None, "odd": "glore"})
    assert varied(tree, "plain") == tree
    with pytest.raises(RecipeError, match=r"compare\.variants\.odd='glore' must be keys with their values"):
        varied(tree, "odd")
    recipe_path.write_text(recipe_path.read_text() + "compare: {variants: {plain: {}, 2: {}}}\n")
    with pytest.raises(RecipeError, match=r"compare\.variants has the name 2, which is no text: put it in quotes"):
        read(["--config", str(recipe_path)])
    for other in ("glore", "{variants: [plain, glore]}"):
        with pytest.raises(RecipeError, match="compare"):
            Recipe(read(["--config", str(recipe_path), "--compare", other]))


def test_a_variant_may_name_another_optimizer(recipe_path):
    tree = read(["--config", str(recipe_path)])
    adamw = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.5}}
    put(tree, "compare.variants", {"sgd": {"model.optimizer": {**adamw, "class_path": "torch.optim.SGD"}}})
    recipe = Recipe(tree)
    assert Recipe(recipe.resolved).comparison == recipe.comparison
    task, _ = Recipe(varied(tree, "sgd")).make()
    optimizer = task.make_optimizer(task.parameters())
    assert type(optimizer).__name__ == "SGD"
    assert optimizer.param_groups[0]["lr"] == 0.5
