"""The network rebuilt in PyTorch from its file gives the golden model's logits."""

import doctest
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from flightrtl import golden, modelfile
from flightrtl.errors import UserError
from flightrtl.formats import ActivationFormat, TermFormat
from flightrtl.model import INPUT, Add, Convolution, Dense, Model, SumPool, TensorType
from train import verify

from .models import random_graph, random_images, random_layer, random_map
from .strategies import seeds


@given(seeds())
def test_every_layer_and_format_gives_the_same_logits(seed):
    rng = np.random.default_rng(seed)
    model = random_graph(rng)
    images = random_images(rng, model, 3)
    expected = golden.run(model, images)
    np.testing.assert_array_equal(verify.fake_quantized(model, images), expected)


def test_random_graphs_have_every_layer():
    models = [random_graph(np.random.default_rng(seed)) for seed in range(40)]
    kinds = {type(layer).__name__ for model in models for layer in model.layers}
    assert kinds == {"Add", "Concat", "Convolution", "Dense", "MaxPool", "SumPool"}
    formats = {type(layer.format).__name__ for model in models for layer in model.layers
               if isinstance(layer, (Convolution, Dense))}
    assert formats == {"TermFormat", "FixedFormat", "BinaryFormat"}


@pytest.fixture
def model() -> Model:
    """Two convolutions of the digits' images, added, pooled and weighed."""
    rng = np.random.default_rng(2)
    image = TensorType((8, 8, 1), ActivationFormat(5), -4)
    layers = []
    for name in ("a", "b"):
        layer = random_layer(rng, "convolution", image, random_map(rng, image, 8), name=name,
                             kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1), k=(1, 2),
                             output=ActivationFormat(6))
        layers.append(replace(layer, output_scale=-2, scale=2 - layer.shift))
    layers.append(Add(name="add", inputs=("a", "b"), shifts=(1, 1), bias=2, shift=2,
                      output=ActivationFormat(6), output_scale=-1))
    layers.append(SumPool(name="mean", inputs=("add",), kernel=(2, 2), stride=(2, 2), bias=2,
                          shift=2, output=ActivationFormat(6), output_scale=-1))
    kind = TensorType((4, 4, 2), ActivationFormat(6), -1)
    dense = random_layer(rng, "dense", kind, random_map(rng, kind, 8), name="dense",
                         inputs=("mean",), k=(2,) * 10, output=ActivationFormat(12, True))
    layers.append(replace(dense, output_scale=0, scale=1 - dense.shift))
    return Model("digits_like", image, tuple(layers), {"dataset": "digits"})


def different(model: Model) -> int:
    images = random_images(np.random.default_rng(5), model, 20)
    return int((verify.fake_quantized(model, images) != golden.run(model, images)).sum())


@pytest.mark.parametrize(("name", "changes"), [
    ("a", {"output_scale": -3}), ("a", {"scale": np.array([1, 1])}), ("add", {"output_scale": 0}),
    ("add", {"shifts": (2, 1)}), ("dense", {"output_scale": 1})])
def test_a_wrong_scale_is_noticed(model, name, changes):
    """The golden model does not look at scales, so only this comparison can find them wrong."""
    assert modelfile.check(model) == []
    assert different(model) == 0
    wrong = replace(model, layers=tuple(
        replace(layer, **changes) if layer.name == name else layer for layer in model.layers))
    assert modelfile.check(wrong) == []
    assert different(wrong) > 0


@pytest.mark.parametrize("taps", [1, 512])
def test_sums_of_more_than_24_bits_are_exact(taps):
    # The last bit of a sum decides, with a bias so large that float32 would lose it.
    image = TensorType((1, 1, taps), ActivationFormat(16))
    dense = Dense(name="dense", inputs=(INPUT,), k=(1,), terms=np.ones((1, 1, 1, taps), np.uint8),
                  format=TermFormat(1), bias=np.array([(1 << 30) - 5]), shift=np.array([16]),
                  scale=np.array([0]), output=ActivationFormat(16, True), output_scale=16)
    model = Model("wide", image, (dense,))
    images = np.zeros((2, 1, 1, taps), np.int64)
    images[:, 0, 0, 0] = 4, 5
    assert golden.run(model, images).tolist() == [[16383], [16384]]
    assert verify.fake_quantized(model, images).tolist() == [[16383], [16384]]


def test_the_command(model, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    modelfile.save(model, path)
    assert verify.main([str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["dataset"], result["images"], result["mismatches"]) == ("digits", 360, 0)
    assert verify.main([str(path)]) == 0
    assert "0 of 3600 logits differ" in capsys.readouterr().out
    layers = replace(model.layers[0], output_scale=-3), *model.layers[1:]
    modelfile.save(replace(model, layers=layers), path)
    assert verify.main([str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["mismatches"] > 0
    modelfile.save(replace(model, provenance={}), path)
    with pytest.raises(UserError, match="does not say on which data set"):
        verify.main([str(path)])


def test_examples():
    result = doctest.testmod(verify)
    assert (result.attempted, result.failed) == (1, 0)
