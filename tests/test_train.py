"""The trainer from the command line to the model file, on the data set that needs no download."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from flightrtl import datasets, golden, modelfile, models, samples
from flightrtl.errors import BuildError, UserError
from flightrtl.model import Convolution, WeightedLayer
from tests.training import interrupt
from train import __main__ as command
from train import augment, export, journal, plot, verify
from train.data import as_tensors
from train.methods import METHODS
from train.networks import NETWORKS
from train.quantizers.flightnn import TermQuantizer
from train.recipe import RECIPES, Recipe, load_recipe
from train.trainer import Trainer

QUICK = {"dataset": "digits", "network": "digits", "batch_size": 64, "exponent_bits": 2,
         "activation_bits": 4, "float_share": 0.5, "augmentation": 0.5}


@pytest.fixture(scope="module")
def data():
    return as_tensors(datasets.load("digits", split="train"), datasets.load("digits"))


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "quick.toml"
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in QUICK.items()))
    return str(path)


def run(capsys, *words):
    """Result of a run of the command, as JSON."""
    assert command.main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def same_integers(one, other):
    assert len(one.layers) == len(other.layers)
    for ours, theirs in zip(one.layers, other.layers, strict=True):
        for field in dataclasses.fields(ours):
            np.testing.assert_equal(getattr(ours, field.name), getattr(theirs, field.name))


def test_from_the_command_line_to_a_model(tmp_path, capsys, recipe_file):
    output = tmp_path / "net.safetensors"
    result = run(capsys, "--recipe", recipe_file, "--epochs", 8, "--output", output)
    model = modelfile.load(output)
    images, labels = datasets.load("digits")
    top1 = golden.top1(model, images, labels)
    assert result["mismatches"] == 0
    assert result["top1"] == model.provenance["top1"] == top1 > 0.7
    assert model.provenance["images"] == len(images) == 360
    assert model.provenance["command"].endswith("--epochs 8 --output net.safetensors")
    assert str(tmp_path) not in json.dumps(dict(model.provenance)).replace(recipe_file, "")
    assert result["terms"] == sum(layer.slots * layer.taps for layer in model.layers
                                  if isinstance(layer, WeightedLayer))
    log = json.loads(output.with_suffix(".json").read_text())
    assert [epoch["stage"] for epoch in log["epochs"]] == ["float"] * 4 + ["quantized"] * 4
    assert log["result"]["top1"] == top1
    final = log["epochs"][-1]["layers"]
    assert final["conv1"]["sum_k"] == model.layers[0].slots
    table = output.with_suffix(".csv").read_text().splitlines()
    assert len(table) == 1 + 4 + 4 * 2
    # Nothing else stays: no checkpoint, no temporary file.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.csv", "net.json",
                                                               "net.safetensors"]


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_an_interrupted_run_resumes_exactly(tmp_path, capsys, monkeypatch, recipe_file, stop):
    """Stopped in the float stage, between the stages, in the ramp, and after the freeze."""
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    options = ("--recipe", recipe_file, "--epochs", 5, "--seed", 3)
    run(capsys, *options, "--output", whole)
    interrupt([*map(str, options), "--output", str(parts)], stop, monkeypatch)
    told = capsys.readouterr().err
    assert f"{stop} of 5 epochs are kept in {parts.with_suffix('.checkpoint')}" in told
    assert "--resume" in told
    assert not parts.exists()
    run(capsys, *options, "--output", parts, "--resume")
    same_integers(modelfile.load(whole), modelfile.load(parts))
    logs = [json.loads(path.with_suffix(".json").read_text()) for path in (whole, parts)]
    assert logs[0]["epochs"] == logs[1]["epochs"]
    assert not parts.with_suffix(".checkpoint").exists()


def test_other_seeds_give_other_networks(data):
    def weights(seed):
        trainer = Trainer(Recipe(**QUICK, epochs=2, seed=seed), data)
        trainer.run_epoch()
        return trainer.network.weighted[0].weight.detach().clone()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(("exponent_bits", "activation_bits", "scale_span", "method"), [
    (1, 1, 0, "flightnn"), (2, 4, 3, "flightnn"), (3, 8, 31, "flightnn"), (4, 16, 3, "flightnn"),
    (4, 6, 1, "lightnn2"), (3, 8, 0, "lightnn1"),
])
def test_export_is_exactly_the_trained_network(data, exponent_bits, activation_bits, scale_span,
                                               method):
    recipe = Recipe(**QUICK | {"exponent_bits": exponent_bits, "activation_bits": activation_bits,
                               "scale_span": scale_span, "method": method, "epochs": 3,
                               "network": "digits"})
    trainer = Trainer(recipe, data)
    for _ in range(3):
        trainer.run_epoch()
    model = export.export(trainer.network, "net", {})
    assert modelfile.check(model) == []
    mismatches, logits = export.compare(trainer.network, model, data.test_images)
    assert mismatches == 0
    assert logits.any()
    images = data.test_images.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(verify.fake_quantized(model, images), logits)
    for layer in model.layers:
        if isinstance(layer, WeightedLayer):
            assert np.ptp(layer.shift) <= scale_span
            assert max(layer.k) <= {"flightnn": 2, "lightnn1": 1, "lightnn2": 2}[method]


def test_compare_sees_a_wrong_bias(data):
    trainer = Trainer(Recipe(**QUICK, epochs=2), data)
    trainer.run_epoch()
    trainer.run_epoch()
    model = export.export(trainer.network, "net", {})
    first = model.layers[0]
    assert isinstance(first, Convolution)
    wrong = dataclasses.replace(first, bias=first.bias + (1 << int(first.shift[0])))
    model = dataclasses.replace(model, layers=(wrong, *model.layers[1:]))
    assert export.compare(trainer.network, model, data.test_images)[0] > 0


def test_folding_keeps_the_function(data):
    """Folded but not quantized, a layer computes what convolution and batch norm computed."""
    trainer = Trainer(Recipe(**QUICK, epochs=4), data)
    trainer.run_epoch()
    trainer.network.eval()
    layer = trainer.network.weighted[0]
    images = data.test_images[:20].float() * 2.0 ** -4
    before = layer(images)
    layer.fold()
    after = layer.convolve(images, layer.weight, layer.bias).relu()
    assert torch.allclose(before, after, atol=1e-5)


def final_k(data, **changes):
    trainer = Trainer(Recipe(**QUICK | {"exponent_bits": 3, "activation_bits": 8} | changes), data)
    while trainer.epoch < trainer.recipe.epochs:
        trainer.run_epoch()
    quantized = [epoch["layers"] for epoch in trainer.epochs if epoch["stage"] == "quantized"]
    return [sum(layer["sum_k"] for layer in epoch.values()) for epoch in quantized]


def test_the_regularizer_takes_terms_away_and_nothing_else_does(data):
    filters = 8 + 10
    changes = {"epochs": 8, "float_share": 0.25, "batch_size": 16, "threshold_rate": 0.3,
               "quantized_learning_rate": 1e-2, "freeze": 1.0}
    # Without it the loss alone moves thresholds, up and down: no trend.
    none = final_k(data, lambda_=0.0, **changes)
    assert min(none) > 1.8 * filters
    assert none[-1] > 1.9 * filters
    strong = final_k(data, lambda_=0.1, **changes)
    assert strong[0] > 1.8 * filters
    assert strong[-1] < 1.6 * filters


def test_filters_can_be_pruned(data):
    """With a threshold on the first term a filter can lose all its terms; by default none can.

    Both thresholds are raised: what the first term is not used for, the second one takes over.
    """
    def zeros(**changes):
        trainer = Trainer(Recipe(**QUICK, epochs=4, freeze=1.0, **changes), data)
        for _ in range(3):
            trainer.run_epoch()
        layer = trainer.network.weighted[0]
        assert isinstance(layer.quantizer, TermQuantizer)
        norms = torch.linalg.vector_norm(layer.weight.detach().flatten(1), dim=1)
        layer.quantizer.thresholds.data[:] = norms.median() / layer.quantizer.unit
        trainer.run_epoch()
        model = export.export(trainer.network, "net", {})
        assert modelfile.check(model) == []
        assert export.compare(trainer.network, model, data.test_images)[0] == 0
        return model.layers[0].k.count(0)
    assert zeros(lambda_prune=1e-3) >= 3
    assert zeros(lambda_prune=0.0) == 0


def test_more_than_two_terms(data):
    trainer = Trainer(Recipe(**QUICK | {"exponent_bits": 4}, epochs=2, max_terms=3, lambda_=0.0),
                      data)
    trainer.run_epoch()
    trainer.run_epoch()
    model = export.export(trainer.network, "net", {})
    assert max(model.layers[0].k) == 3
    assert export.compare(trainer.network, model, data.test_images)[0] == 0


@pytest.mark.parametrize("method", ["lightnn1", "lightnn2", "flightnn"])
def test_terms_that_methods_start_with(data, method):
    trainer = Trainer(Recipe(**QUICK | {"exponent_bits": 3}, method=method, epochs=2), data)
    trainer.run_epoch()
    log = trainer.run_epoch()
    expected = {"lightnn1": {"1": 8}, "lightnn2": {"2": 8}, "flightnn": {"2": 8}}[method]
    histogram = log["layers"]["conv1"]["k_histogram"]
    assert {k: count for k, count in histogram.items() if count} == expected


@pytest.mark.parametrize(("words", "message"), [
    (["--dataset", "digits", "--network", "digits"], "--output FILE"),
    (["--dataset", "digits", "--output", "x.safetensors"], "network is not said"),
    (["--output", "x.safetensors"], "dataset is not said"),
    (["--recipe", "digits", "--output", "x.bin"], "must end in .safetensors"),
    (["--recipe", "digits", "--output", "/no/where/x.safetensors"], "no folder"),
    (["--recipe", "digit", "--output", "x.safetensors"], "fashion-mnist, mnist"),
    (["--recipe", "digits", "--dataset", "cifar"], "there are mnist, fashion-mnist"),
    (["--recipe", "digits", "--network", "huge"], "there are mnist, digits, lenet5"),
    (["--recipe", "digits", "--method", "magic"], "there are flightnn, lightnn1, lightnn2"),
    (["--recipe", "digits", "--target-k", "2.5"], "target_k 2.5 cannot be met"),
    (["--recipe", "digits", "--target-k", "0.5"], "set lambda_prune to let filters vanish"),
    (["--recipe", "digits", "--method", "fixed", "--target-k", "1.5"], "has a fixed cost"),
    (["--recipe", "digits", "--init", "x.float", "--output", "x.safetensors"], "no such file"),
    (["--recipe", "digits", "--device", "tpu7", "--output", "x.safetensors"],
     "PyTorch cannot use it"),
    (["--recipe", "digits", "--epochs", "1"], "epochs must be 2 to 100000, not 1"),
    (["--recipe", "digits", "--exponent-bits", "5"], "exponent_bits must be 1 to 4, not 5"),
    (["--recipe", "digits", "--activation-bits", "0"], "activation_bits must be 1 to 16, not 0"),
    (["--recipe", "digits", "--lambda", "-1"], "lambda must be 0 to"),
    (["--recipe", "digits", "--lambda", "nan"], "lambda must be 0 to"),
    (["--recipe", "digits", "--batch-size", "2000", "--output", "x.safetensors"],
     "more than the 1437 training images"),
    (["--recipe", "mnist", "--dataset", "digits", "--output", "x.safetensors"], "too small"),
    (["--recipe", "digits", "--output", "x.safetensors", "--resume"], "no checkpoint to resume"),
    (["--recipe", "mnist", "--data", "/no/where", "--output", "x.safetensors"], "no such folder"),
])
def test_wrong_requests(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        command.main(words)
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_recipes(tmp_path):
    def load(text):
        path = tmp_path / "wrong.toml"
        path.write_text(text)
        return Recipe.from_dict(load_recipe(str(path)), "wrong.toml")
    base = 'dataset = "digits"\nnetwork = "digits"\n'
    with pytest.raises(UserError, match="not a TOML file"):
        load("epochs = = 3")
    with pytest.raises(UserError, match="unknown key 'epoch'"):
        load(base + "epoch = 3")
    with pytest.raises(UserError, match="epochs must be an integer, not '3'"):
        load(base + 'epochs = "3"')
    with pytest.raises(UserError, match="epochs must be an integer, not True"):
        load(base + "epochs = true")
    with pytest.raises(UserError, match="ramp must be a number"):
        load(base + "ramp = []")
    with pytest.raises(UserError, match=r"lambda_layers\.conv1 must be a number from 0"):
        load(base + "[lambda_layers]\nconv1 = -1")
    with pytest.raises(UserError, match="lambda_layers must be a table"):
        load(base + "lambda_layers = 3")


def test_lambda_of_a_layer_that_is_not_there(data):
    with pytest.raises(UserError, match="has no layer 'conv7'; it has conv1, dense1"):
        Trainer(Recipe(**QUICK, lambda_layers={"conv7": 1.0}), data)


def test_checkpoint_of_another_run_or_damaged(tmp_path, data):
    path = tmp_path / "net.checkpoint"
    Trainer(Recipe(**QUICK, epochs=2, seed=1), data).save(path)
    with pytest.raises(UserError, match="seed 1 there, 2 here"):
        Trainer(Recipe(**QUICK, epochs=2, seed=2), data).restore(path)
    for damaged in (path.read_bytes()[:-500], b"", b"nonsense"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="not a checkpoint, or damaged"):
            Trainer(Recipe(**QUICK, epochs=2, seed=1), data).restore(path)


def test_divergence_is_reported(data):
    trainer = Trainer(Recipe(**QUICK, epochs=2, learning_rate=10.0), data)
    trainer.network.weighted[0].weight.data.fill_(float("nan"))
    with pytest.raises(BuildError, match="diverged in epoch 1"):
        trainer.run_epoch()


def test_augmentation():
    images = torch.randint(0, 256, (6, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    images = images.float()
    changed = [augment.affine(images, 1.0, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*changed)
    assert not torch.equal(changed[0], images)
    assert torch.equal(changed[0], changed[0].round())
    assert changed[0].min() >= 0
    assert changed[0].max() <= 255
    assert augment.affine(images, 0.0, torch.Generator()) is images


def test_a_network_is_trained_by_its_recipe_unless_told_otherwise():
    def recipe(*words):
        return command._recipe(command.parser().parse_args(words))
    given = Recipe.from_dict(load_recipe("digits"), "digits")
    assert recipe("--recipe", "digits") == given
    assert recipe("--dataset", "digits", "--network", "digits", "--method", "flightnn") == given
    changed = recipe("--network", "digits", "--epochs", "7", "--lambda", "0", "--seed", "4")
    assert changed == dataclasses.replace(given, epochs=7, lambda_=0.0, seed=4, target_k=0.0)
    assert recipe("--dataset", "fashion-mnist", "--network", "mnist").dataset == "fashion-mnist"


@pytest.mark.parametrize(("words", "target"), [
    ("", 1.4), ("--method mixed", 1.4), ("--method lightnn1", 0), ("--method float", 0),
    ("--lambda 1e-3", 0), ("--lambda 1e-3 --target-k 1.2", 1.2), ("--target-k 1.2", 1.2),
])
def test_a_recipe_s_target_gives_way_to_the_command_line(words, target):
    options = command.parser().parse_args(["--recipe", "digits", *words.split()])
    assert command._recipe(options).target_k == target


def test_plot(tmp_path, data, capsys):
    pytest.importorskip("matplotlib")
    trainer = Trainer(Recipe(**QUICK, epochs=3), data)
    for _ in range(3):
        trainer.run_epoch()
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"recipe": trainer.recipe.as_dict(), "epochs": trainer.epochs}))
    assert plot.main([str(path)]) == 0
    picture = (tmp_path / "log.svg").read_text()
    assert picture.startswith("<?xml")
    assert capsys.readouterr().out.strip() == str(tmp_path / "log.svg")
    with pytest.raises(UserError, match=r"must end in \.svg, \.png, \.pdf"):
        plot.main([str(path), "--output", "picture.doc"])
    path.write_text("{}")
    with pytest.raises(UserError, match="not the log of a training run"):
        plot.main([str(path)])


def test_list(capsys):
    assert command.main(["--list"]) == 0
    text = capsys.readouterr().out
    for name in (*datasets.DATASETS, *NETWORKS, *METHODS, "recipes"):
        assert name in text
    found = run(capsys, "--list")
    assert set(found) == {"datasets", "networks", "methods", "recipes"}
    assert set(found["recipes"]) == {path.stem for path in RECIPES.glob("*.toml")}


@pytest.mark.parametrize("name", models.names())
def test_bundled_models(name):
    """What the release promises of them, on the samples that travel with the package."""
    model = modelfile.load(name)
    images, labels = samples.load(name)
    assert np.array_equal(verify.fake_quantized(model, images), golden.run(model, images))
    assert model.provenance["top1"] >= {
        "mnist": 0.992, "digits": 0.97, "fashion-mnist": 0.9, "cifar10": 0.84}[name]
    # Of a binomial distribution.
    deviation = (model.provenance["top1"] * (1 - model.provenance["top1"]) / len(labels)) ** 0.5
    assert abs(golden.top1(model, images, labels) - model.provenance["top1"]) < 3 * deviation
    counts = [k for layer in model.layers if isinstance(layer, WeightedLayer) for k in layer.k]
    assert {1, 2} == set(counts)
    command, origin = f"python -m train --recipe {name} --output {name}.safetensors", name
    if name == "mnist":         # of a later trainer than the other two small ones
        command = f"python -m train --recipe {name} --seed 0 --output {name}-0.safetensors"
    if name == "cifar10":       # a row of the table of accuracies
        origin = "cifar10-flightnn-small"
        command = (f"python -m train --recipe {origin} --seed 0 --init cifar10-float-0.safetensors "
                   f"--output {origin}-0.safetensors")
    recipe = Recipe.from_dict(load_recipe(origin), origin)
    assert model.provenance["epochs"] == recipe.epochs
    assert model.provenance["seed"] == recipe.seed
    assert model.provenance["command"] == command


def test_journal_rows():
    epochs = [{"epoch": 1, "stage": "float", "loss": 1.0, "penalty": 0.0, "top1": 0.5},
              {"epoch": 2, "stage": "quantized", "loss": 0.5, "penalty": 0.1, "top1": 0.6,
               "frozen": False,
               "layers": {"conv1": {"mean_k": 1.5, "k_histogram": {"1": 2, "2": 2},
                                    "scales": [-7, -6]}}}]
    table = journal.rows(epochs)
    assert len(table) == 2
    assert table[1]["k_histogram"] == "1:2 2:2"
    assert table[1]["scales"] == "-7 -6"
    assert journal.summary(epochs[1]) == "quantized, loss 0.5000, top-1 60.00 %, mean k 1.50"
