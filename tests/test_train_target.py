"""A wanted mean number of terms is met, and a run with everything on resumes exactly."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from flightrtl import datasets, modelfile
from flightrtl.errors import UserError
from flightrtl.model import WeightedLayer
from train import __main__ as command
from train.calibration import harm, settle_terms
from train.convert import convert
from train.data import as_tensors
from train.export import compare, export
from train.methods import LayerSettings
from train.networks import NETWORKS
from train.recipe import Recipe
from train.target import TermTarget, mean_k
from train.trainer import Trainer

QUICK = {"dataset": "digits", "network": "digits", "batch_size": 64, "epochs": 6,
         "float_share": 0.34, "quantized_learning_rate": 5e-3, "seed": 1}


@pytest.fixture(scope="module")
def data():
    return as_tensors(datasets.load("digits", split="train"), datasets.load("digits"))


def trained(data, **changes):
    trainer = Trainer(Recipe(**QUICK | changes), data)
    while trainer.epoch < trainer.recipe.epochs:
        trainer.run_epoch()
    trainer.finish()
    return trainer


def exported(trainer, data):
    model = export(trainer.network, "net", {})
    assert modelfile.check(model) == []
    assert compare(trainer.network, model, data.test_images)[0] == 0
    return model


@pytest.mark.parametrize(("target", "max_terms", "ema"), [(1.2, 2, 0.0), (1.5, 2, 0.9),
                                                          (2.0, 3, 0.0)])
def test_the_target_is_met(data, target, max_terms, ema):
    trainer = trained(data, target_k=target, max_terms=max_terms, ema=ema)
    counts = [k for layer in exported(trainer, data).layers if isinstance(layer, WeightedLayer)
              for k in layer.k]
    assert sum(counts) == int(target * len(counts))
    assert min(counts) >= 1
    assert trainer.epochs[-1]["top1"] > 0.7
    # What the log says is what is exported, also of averaged weights.
    assert sum(layer["sum_k"] for layer in trainer.epochs[-1]["layers"].values()) == sum(counts)


def frozen_network(prune):
    torch.manual_seed(0)
    image = datasets.DATASETS["digits"].input
    network = convert(NETWORKS["digits"].make(image, 10), image, LayerSettings(
        max_terms=3, prune=prune))
    samples = torch.randint(0, 17, (50, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    network.eval().fold(samples.float())
    for layer in network.weighted:
        layer.freeze()
    return network, samples.float()


def mean(network, samples):
    with torch.no_grad():
        network(samples)
    return mean_k(network.weighted)


@pytest.mark.parametrize("prune", [False, True])
def test_terms_are_settled(prune):
    """As many terms go or come as the target asks for, those that matter least or most."""
    network, samples = frozen_network(prune)
    start = mean(network, samples)
    assert start > 2.5
    before = {layer.name: layer.quantizer.frozen_on.sum(dim=0) for layer in network.weighted}
    found = harm(network, samples)
    change = settle_terms(network, samples, 2.0)
    assert mean(network, samples) == (18 * start + change) / 18 == 2.0
    losses = {True: [], False: []}
    for layer in network.weighted:
        on = layer.quantizer.frozen_on
        assert not (on[1:] & ~on[:-1]).any()            # last terms go first
        for i, k in enumerate(on.sum(dim=0).tolist()):
            assert k <= before[layer.name][i]
            if k < before[layer.name][i]:
                losses[True].append(float(found[layer.name][k, i] - found[layer.name][k + 1, i]))
            if k > (0 if prune else 1):
                losses[False].append(float(found[layer.name][k - 1, i] - found[layer.name][k, i]))
    assert max(losses[True]) <= min(losses[False])
    assert settle_terms(network, samples, 2.0) == 0
    assert settle_terms(network, samples, 2.5) == 9
    assert mean(network, samples) == 2.5
    settle_terms(network, samples, 0.5)
    # The last term of a filter goes only where filters may vanish.
    assert mean(network, samples) == (0.5 if prune else 1.0)
    settle_terms(network, samples, 3.0)
    counts = torch.cat([layer.quantizer.frozen_on.sum(dim=0) for layer in network.weighted])
    assert int((counts == 0).sum()) >= (9 if prune else 0)      # gone for good


def test_a_network_with_other_methods_is_settled():
    """Layers that cannot choose are left as they are, and the gradient passes through them."""
    torch.manual_seed(0)
    image = datasets.DATASETS["digits"].input
    network = convert(NETWORKS["digits"].make(image, 10), image, LayerSettings(), layers={
        "dense1": LayerSettings(method="bnn")})
    samples = torch.randint(0, 17, (50, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    network.eval().fold(samples.float())
    state = {key: value.clone() for key, value in network.state_dict().items()}
    found = harm(network, samples)
    assert list(found) == ["conv1"]
    assert (found["conv1"][0] > 0).any()
    assert not network.training
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_steering():
    steering = TermTarget(1.0, 0.5)
    steering.update(2.0, 0.0)
    assert steering.factor == 1.0
    steering.update(1.2, 0.25)              # the plan says 1.5
    assert steering.factor < 1
    for _ in range(100):
        steering.update(2.0, 0.7)
    assert steering.factor == pytest.approx(1e4)
    for _ in range(1000):
        steering.update(0.0, 1.0)
    assert steering.factor == pytest.approx(1e-4)


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_run_with_everything_on_resumes_exactly(tmp_path, data, stop):
    """Stopped between the stages, while steering, and after the freeze."""
    changes = {"target_k": 1.4, "distillation": 0.5, "ema": 0.9, "optimizer": "sgd", "amp": True,
               "learning_rate": 0.05, "crop": 1, "cutout": 2}
    whole = trained(data, **changes)
    part = Trainer(Recipe(**QUICK | changes), data)
    for _ in range(stop):
        part.run_epoch()
    part.save(tmp_path / "net.checkpoint")
    torch.manual_seed(99)
    rest = Trainer(Recipe(**QUICK | changes), data)
    rest.restore(tmp_path / "net.checkpoint")
    while rest.epoch < rest.recipe.epochs:
        rest.run_epoch()
    rest.finish()
    assert json.dumps(rest.epochs) == json.dumps(whole.epochs)
    assert rest.target.factor == whole.target.factor
    for ours, theirs in zip(exported(rest, data).layers, exported(whole, data).layers,
                            strict=True):
        for field in dataclasses.fields(ours):
            np.testing.assert_equal(getattr(ours, field.name), getattr(theirs, field.name))


def test_layers_with_settings_of_their_own(data):
    trainer = trained(data, layers={"conv1": {"method": "fixed", "weight_bits": 8,
                                              "activation_bits": 5}}, epochs=3)
    first, _, last = exported(trainer, data).layers
    assert (first.format.code_bits, first.output.bits, set(first.k)) == (8, 5, {1})
    assert last.format.code_bits == 4
    assert trainer.epochs[-1]["top1"] > 0.7


@pytest.mark.parametrize(("table", "message"), [
    ('[layers.conv7]\nweight_bits = 4', "there is no layer 'conv7'.*conv1, dense1"),
    ('[layers.pool1]\nactivation_bits = 4', "there is no layer 'pool1'.*conv1, dense1"),
    ('[layers.conv1]\nbits = 4', r"layers\.conv1\.bits: unknown key; there are method, exponent_"),
    ('[layers.conv1]\nweight_bits = 9', r"layers\.conv1\.weight_bits must be 1 to 8, not 9"),
    ('[layers.conv1]\nmax_terms = "2"', r"layers\.conv1\.max_terms must be an integer, not '2'"),
    ('[layers.conv1]\nmethod = "float"', r"no method 'float' for a layer; there are flightnn"),
    ('[layers.conv1]\nmethod = 3', r"layers\.conv1\.method: no method 3 for a layer"),
    ('[layers.conv1]\nmethod = []', r"layers\.conv1\.method: no method \[\] for a layer"),
    ('[layers.conv1]\nmethod = "fixed"\nweight_bits = 1', "weight_bits 2 to 8, not 1"),
    ('[layers]\nconv1 = 3', r"layers\.conv1 must be a table, not 3"),
])
def test_wrong_settings_of_a_layer(tmp_path, monkeypatch, table, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.toml").write_text(
        f'dataset = "digits"\nnetwork = "digits"\nepochs = 2\n{table}\n')
    with pytest.raises(UserError, match=message):
        command.main(["--recipe", "wrong.toml", "--output", "x.safetensors"])
