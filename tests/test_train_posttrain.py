"""Float networks as integers without training: terms, biases, the command."""

import copy
import json

import pytest
import torch

from flightrtl import datasets, golden, modelfile
from flightrtl.errors import UserError
from flightrtl.model import WeightedLayer
from train import __main__ as training
from train import floatfile, posttrain
from train.calibration import choose_terms, correct_biases, harm
from train.convert import convert
from train.data import as_tensors
from train.export import compare, export
from train.methods import LayerSettings
from train.networks import NETWORKS
from train.recipe import Recipe

DIGITS = datasets.DATASETS["digits"]


@pytest.fixture(scope="module")
def data():
    return as_tensors(datasets.load("digits", split="train"), datasets.load("digits"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A float network after half a second of training."""
    path = tmp_path_factory.mktemp("float") / "float.safetensors"
    training.main(["--dataset", "digits", "--network", "digits", "--method", "float",
                   "--epochs", "6", "--output", str(path)])
    return path


@pytest.fixture
def network(trained):
    return loaded(trained, LayerSettings(exponent_bits=2, activation_bits=6))


def loaded(path, settings):
    result = convert(NETWORKS["digits"].make(DIGITS.input, DIGITS.classes), DIGITS.input, settings)
    floatfile.load(result, path, Recipe("digits", "digits"))
    return result.eval()


def switched_on(network):
    return {layer.name: layer.quantizer.frozen_on for layer in network.weighted}


def logit_error(network, reference, images):
    """Mean divergence of the predictions from the float network's."""
    with torch.no_grad():
        return float(torch.nn.functional.kl_div(
            network(images.float()).log_softmax(1), reference.log_softmax(1), log_target=True,
            reduction="batchmean"))


@pytest.mark.parametrize("words", [
    ("--method", "flightnn", "--target-k", "1.3"), ("--method", "lightnn1"),
    ("--method", "lightnn2"), ("--method", "fixed", "--weight-bits", "5"),
    ("--method", "nbq", "--weight-bits", "3"),
])
def test_command(trained, tmp_path, capsys, words):
    output = tmp_path / "net.safetensors"
    assert posttrain.main([str(trained), *words, "--output", str(output), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    model = modelfile.load(output)
    images, labels = datasets.load("digits")
    assert result["mismatches"] == 0
    assert result["top1"] == model.provenance["top1"] == golden.top1(model, images, labels)
    assert result["float_top1"] == floatfile.provenance(trained)["top1"] > 0.85
    assert result["difference"] == result["top1"] - result["float_top1"] > -0.04
    assert model.provenance["command"] == (
        f"python -m train.posttrain float.safetensors {' '.join(words)} --output net.safetensors"
        .replace(" --method flightnn", ""))
    if "--target-k" in words:
        layers = [layer for layer in model.layers if isinstance(layer, WeightedLayer)]
        filters = sum(layer.filters for layer in layers)
        assert 1.3 - 1 / filters <= result["mean_k"] <= 1.3
        assert result["mean_k"] == sum(layer.slots for layer in layers) / filters


def test_labels_are_not_used(trained, tmp_path, monkeypatch):
    """The same model whatever the training labels are, and another for other images."""
    load, files = datasets.load, []

    def without_labels(name, folder, split):
        images, labels = load(name, folder, split)
        return images, labels * 0 if split == "train" else labels
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        path = tmp_path / f"{name}.safetensors"
        posttrain.main([str(trained), "--images", "50", "--seed", str(seed),
                        "--output", str(path)])
        files.append(modelfile.load(path))
        monkeypatch.setattr(datasets, "load", without_labels)
    one, other, third = ([layer.bias.tolist() for layer in model.layers
                          if isinstance(layer, WeightedLayer)] for model in files)
    assert one == other
    assert one != third


@pytest.mark.parametrize("target", [1.0, 1.34, 1.7, 3.0])
def test_terms_go_where_they_gain_most(network, data, target):
    images = data.images[:200]
    network.fold(images.float())
    found = harm(network, images)
    choose_terms(network, images, target)
    on = switched_on(network)
    filters = sum(switches.shape[1] for switches in on.values())
    used = sum(int(switches.sum()) for switches in on.values())
    assert used <= target * filters
    assert all(bool(switches[0].all()) for switches in on.values())
    gains = {True: [], False: []}
    for name, switches in on.items():
        for i in range(switches.shape[1]):
            gain = float(found[name][1, i] - found[name][2, i])
            gains[bool(switches[1, i])].append(gain)
    assert used >= min(int(target * filters), filters + sum(g > 0 for g in sum(gains.values(), [])))
    if gains[True] and gains[False] and used == int(target * filters):
        assert min(gains[True]) >= max(gains[False])
    assert all(gain > 0 for gain in gains[True])


def test_harm_predicts_the_divergence(network, data):
    """To second order: with one filter's second terms missing, the divergence is the harm."""
    images = data.images[:400]
    network.fold(images.float())
    found = harm(network, images)["dense1"][1]
    real = copy.deepcopy(network)
    layer = real.layers["dense1"]
    rest = layer.weight.detach() - layer.quantizer.decompose(layer.weight, layer.scale()).terms[0]
    maps = []

    def compute(name, each, inputs):
        result = (each.activate(each.convolve(inputs[0], each.weight, each.bias))
                  if hasattr(each, "convolve") else each(*inputs))
        maps.append(inputs[0])
        return result
    with torch.no_grad():
        logits = real.run(images.float(), compute)
        measured = []
        for i in range(len(rest)):
            error = (maps[-1] * rest[i]).sum(dim=(1, 2, 3))
            changed = logits.clone()
            changed[:, i] -= error - error.mean()
            measured.append(float(torch.nn.functional.kl_div(
                changed.log_softmax(1), logits.log_softmax(1), log_target=True,
                reduction="batchmean")))
    correlation = torch.corrcoef(torch.stack([found.float(), torch.tensor(measured)]))[0, 1]
    assert correlation > 0.8
    assert 0.3 < float(found.sum()) / sum(measured) < 3


def test_corrected_biases_bring_the_predictions_back(network, data):
    """The error of every channel's mean is gone, up to the bias's grid, and predictions gain."""
    images = data.images[:300]
    with torch.no_grad():
        reference = network(images.float())
    network.fold(images.float())
    choose_terms(network, images, 1.0)
    before = logit_error(network, reference, images)
    first = correct_biases(network, images)
    assert max(first.values()) > 0.01
    assert logit_error(network, reference, images) < before
    with torch.no_grad():
        wanted = reference.mean(dim=0)
        step = 2.0 ** float(network.layers["dense1"].output_scale)
        assert torch.allclose(network(images.float()).mean(dim=0), wanted, atol=2 * step)


def test_any_module_can_be_given(data):
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
                                 torch.nn.Linear(4 * 36, 10))
    network = convert(module, DIGITS.input, LayerSettings(max_terms=3))
    posttrain.post_train(network, data.images[:100], target_k=2.5)
    mismatches, _ = compare(network, export(network, "own", {}), data.test_images[:50])
    assert mismatches == 0
    with pytest.raises(ValueError, match="in its quantized stage already"):
        posttrain.post_train(network, data.images[:100])
    with pytest.raises(ValueError, match="target_k must be 1 or more, not 0.5"):
        choose_terms(network, data.images[:100], 0.5)


@pytest.mark.parametrize(("words", "message"), [
    (("--method", "float"), "nothing to quantize; there are flightnn"),
    (("--method", "nope"), "no method 'nope'"),
    (("--target-k", "2.5"), "target_k 2.5 cannot be met"),
    (("--target-k", "1.5", "--method", "lightnn2"), "target_k is for the method flightnn"),
    (("--exponent-bits", "9"), "exponent_bits must be 1 to 4, not 9"),
    (("--images", "0"), "--images must be 1 to 1437"),
    (("--images", "1438"), "not 1438"),
    (("--output", "net.bin"), r"must end in \.safetensors"),
    (("--output", "missing/net.safetensors"), "there is no folder missing"),
])
def test_bad_requests(trained, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        posttrain.main([str(trained), "--output", str(tmp_path / "net.safetensors"), *words])
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_float_network(tmp_path):
    for content, message in ((None, "no such file"), (b"", "not a float network, or damaged")):
        path = tmp_path / "net.safetensors"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            posttrain.main([str(path), "--output", str(tmp_path / "out.safetensors")])
