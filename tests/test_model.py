import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl.formats import ActivationFormat, BinaryFormat, FixedFormat, TermFormat
from flightrtl.model import (
    INPUT,
    Add,
    Convolution,
    Dense,
    MaxPool,
    Model,
    SumPool,
    TensorType,
    most_values,
)

from .models import random_graph, random_images, random_model, residual_model

RELU = ActivationFormat(4)


def convolution(k=(2, 0, 1), **changes) -> Convolution:
    fields = {
        "name": "conv", "inputs": (INPUT,), "k": k, "format": TermFormat(2),
        "terms": np.resize(np.array([1, 2, 7, 0, 3, 6, 5], np.uint8), (sum(k), 3, 2, 2)),
        "bias": np.zeros(len(k), np.int64), "shift": np.zeros(len(k), np.int64),
        "scale": np.zeros(len(k), np.int64), "output": RELU, "output_scale": -3,
        "stride": (2, 1), "padding": (1, 0, 0, 1)} | changes
    return Convolution(**fields)


def test_weights_are_the_sums_of_a_filters_slots():
    layer = convolution()
    first, second, third = layer.term_values
    assert layer.weights.tolist() == [(first + second).tolist(), np.zeros((3, 2, 2)).tolist(),
                                      third.tolist()]
    assert layer.slot_filter.tolist() == [0, 0, 2]
    assert (layer.filters, layer.slots, layer.kernel, layer.channels, layer.taps) == (
        3, 3, (3, 2), 2, 12)


@pytest.mark.parametrize(("form", "values"), [
    (FixedFormat(4), [7, -8, 0, -1]), (BinaryFormat(), [1, -1, -1, 1])])
def test_fixed_and_binary_weights_are_one_slot_for_each_filter(form, values):
    terms = form.encode(np.resize(values, (2, 3, 2, 2)))
    layer = convolution(k=(1, 0, 1), format=form, terms=terms)
    assert layer.slots == 2
    assert layer.weights[0].ravel().tolist() == values * 3
    assert not layer.weights[1].any()
    assert layer.weights[2].ravel().tolist() == values * 3
    up, down = sum(max(value, 0) for value in values), sum(min(value, 0) for value in values)
    assert layer.accumulator_range(RELU) == (3 * 15 * down, 3 * 15 * up)


def test_a_layer_whose_filters_are_all_pruned_has_zero_weights():
    layer = convolution(k=(0, 0))
    assert layer.weights.shape == (2, 3, 2, 2)
    assert not layer.weights.any()
    assert layer.accumulator_range(RELU) == (0, 0)
    assert layer.accumulator_bits(RELU) == 1


@given(st.integers(0, 1 << 32), st.integers(1, 4), st.booleans())
def test_accumulator_range_is_reached_and_never_left(seed, bits, signed):
    rng = np.random.default_rng(seed)
    source = ActivationFormat(bits, signed)
    codes = rng.integers(0, 4, (3, 3, 2, 2)).astype(np.uint8)
    layer = convolution(terms=codes + 4 * ((codes > 0) & (rng.random(codes.shape) < 0.5)))
    weights = layer.weights.reshape(3, -1)
    worst_high = max((np.where(row > 0, source.max, source.min) * row).sum() for row in weights)
    worst_low = min((np.where(row > 0, source.min, source.max) * row).sum() for row in weights)
    low, high = layer.accumulator_range(source)
    assert (low, high) == (worst_low, worst_high)
    width = layer.accumulator_bits(source)
    assert -(1 << width - 1) <= low <= high < 1 << width - 1
    assert width == 1 or not -(1 << width - 2) <= low <= high < 1 << width - 2


def test_shapes_and_formats_follow_from_the_layers():
    conv = convolution()
    pool = MaxPool(name="pool", inputs=("conv",), kernel=(2, 3), stride=(1, 2))
    mean = SumPool(name="mean", inputs=("pool",), kernel=(2, 1), stride=(2, 1), bias=1, shift=1,
                   output=ActivationFormat(6, True), output_scale=2)
    dense = Dense(name="dense", inputs=("mean",), k=(1, 1), format=TermFormat(1),
                  terms=np.ones((2, 1, 3, 3), np.uint8), bias=np.zeros(2, np.int64),
                  shift=np.zeros(2, np.int64), scale=np.zeros(2, np.int64),
                  output=ActivationFormat(12, True), output_scale=1)
    image = TensorType((8, 7, 2), ActivationFormat(8, True), -7)
    model = Model("model", image, (conv, pool, mean, dense))
    # Rows: (8 + 1 - 3) // 2 + 1 = 4, columns: (7 + 1 - 2) // 1 + 1 = 7.
    assert model.tensors == {
        "input": image, "conv": TensorType((4, 7, 3), RELU, -3),
        "pool": TensorType((3, 3, 3), RELU, -3),
        "mean": TensorType((1, 3, 3), ActivationFormat(6, True), 2),
        "dense": TensorType((1, 1, 2), ActivationFormat(12, True), 1)}
    assert model.output == model.tensors["dense"]
    assert model.source(pool) == model.tensors["conv"]
    assert image.size == 112


def test_a_graph_has_the_types_of_its_layers():
    model = residual_model()
    conv, add, pool, both, _ = model.layers
    assert not model.chain
    assert model.tensors["add"] == TensorType((8, 8, 1), ActivationFormat(8))
    assert model.tensors["pool"] == model.tensors["conv"] == TensorType(
        (8, 8, 1), ActivationFormat(5), conv.output_scale)
    assert model.source(both) == model.tensors["add"]
    assert model.source(pool) == model.tensors["conv"]
    assert model.last_taker == {INPUT: "add", "conv": "pool", "add": "both", "pool": "both",
                                "both": "dense"}
    scaled = Add(name="add", inputs=("conv", INPUT), shifts=(0, 0), bias=0, shift=0,
                 output=RELU, output_scale=7)
    model = Model("model", model.input, (conv, scaled, *model.layers[2:]))
    assert model.tensors["add"] == TensorType((8, 8, 1), RELU, 7)


def test_values_that_are_needed_at_the_same_time():
    model = residual_model()
    sizes = {INPUT: 1, "conv": 10, "add": 100, "pool": 1000, "both": 10_000, "dense": 100_000}
    # conv: 11; add: 111, the image is done; pool: 1110, conv is done; both: 11100; dense: 110000.
    assert most_values(model.layers, sizes) == 110_000
    assert most_values(model.layers[:4], sizes) == 11_100
    assert most_values(model.layers[:3], sizes) == 1110
    assert most_values(model.layers[:2], sizes) == 111
    assert most_values(model.layers[:1], sizes) == 11


def test_which_models_are_chains():
    model = random_model(np.random.default_rng(1), kinds=["convolution", "max_pool", "dense"])
    first, pool, dense = model.layers
    assert model.chain
    assert not Model("model", model.input, (first, pool, first, dense)).chain
    assert not Model("model", model.input, (first, dense)).chain
    assert {random_graph(np.random.default_rng(seed)).chain for seed in range(20)} == {True, False}


@pytest.mark.parametrize("attribute", ["stride", "padding"])
def test_a_dense_layer_takes_no_stride_and_no_padding(attribute):
    with pytest.raises(TypeError, match=attribute):
        Dense(**{"name": "dense", "inputs": (INPUT,), "k": (0,), "bias": [], "shift": [],
                 "scale": [], "terms": [], attribute: (0, 0)})


@given(st.integers(0, 1 << 32))
def test_random_models_take_their_images(seed):
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    images = random_images(rng, model, 3)
    assert images.shape == (3, *model.input.shape)
    assert images.min() >= model.input.format.min
    assert images.max() <= model.input.format.max
