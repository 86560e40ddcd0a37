"""What is wrong in a model in memory is named, and such a model is not saved."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl import modelfile
from flightrtl.formats import ActivationFormat, BinaryFormat, FixedFormat, TermFormat
from flightrtl.model import Add, Convolution, Dense, Model, SumPool, TensorType
from flightrtl.modelfile import ModelError

from .modelfiles import every_layer
from .models import random_model, residual_model
from .strategies import seeds


@pytest.fixture
def model() -> Model:
    return every_layer()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(("changes", "message"), [
    ({"name": None}, "model: the name None must be"),
    ({"input": (1, 2, 3)}, "input: must be a TensorType"),
    ({"input": TensorType((6, 6, 2), 8)}, "input: the format must be an ActivationFormat"),
    ({"layers": []}, "layers must be a tuple"),
    ({"layers": (None,)}, "unsupported layer type 'NoneType'"),
    ({"provenance": 5}, "provenance: must be a mapping"),
    ({"provenance": {1: 2}}, "provenance: the key 1 must be text"),
    ({"provenance": {"loss": float("nan")}}, r"provenance\['loss'\]: must be finite"),
    ({"provenance": {"k": np.int64(3)}}, r"provenance\['k'\]: .*int64\(3\) must be text, a number"),
    ({"provenance": {"k": [np.zeros(2)]}}, r"provenance\['k'\]\[0\]: array.* must be text"),
])
def test_wrong_models_are_not_saved(model, path, changes, message):
    wrong = replace(model, **changes)
    problems = modelfile.check(wrong)
    assert any(re.search(message, problem) for problem in problems), problems
    with pytest.raises(ModelError) as caught:
        modelfile.save(wrong, path)
    assert caught.value.problems == problems
    assert not path.exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({"terms": None}, "terms must be an array of uint8 of 4 dimensions .*, not None"),
    ({"terms": np.zeros((2, 1, 1, 2))}, "terms must be .*, not float64 of shape"),
    ({"k": [1, 1]}, "k must be one integer"),
    ({"k": (True,)}, "k must be one integer"),
    ({"bias": [1, 2, 3]}, r"bias must be an array of \d+ integers, .* not \[1, 2, 3\]"),
    ({"shift": np.zeros(99)}, "shift must be an array"),
    ({"format": 3}, "the format must be a TermFormat, FixedFormat or BinaryFormat, not 3"),
    ({"output": 8}, "the output must be an ActivationFormat, not 8"),
    ({"output_scale": None}, "the output scale must be an integer from -127 to 127, not None"),
    ({"stride": 1}, "stride .* must be 2 integers"),
    ({"padding": ((1, 1), (1, 1))}, "padding .* must be 4 integers"),
    ({"inputs": "input"}, "inputs must be a tuple of layer names"),
    ({"name": None}, r"layers\[0\]: the name must be"),
])
def test_wrong_layers_are_named(model, changes, message):
    conv = replace(model.layers[0], **changes)
    problems = modelfile.check(replace(model, layers=(conv, *model.layers[1:])))
    assert any(re.search(message, problem) for problem in problems), problems
    where = "layer None" if "name" in changes else "layer 'convolution0'"
    assert any(problem.startswith((where, "layers[0]")) for problem in problems)


@pytest.mark.parametrize(("index", "changes", "message"), [
    (0, {"terms": np.ones((2, 3, 3, 1), np.uint8), "k": (2,)}, "k is 2 for a filter of single"),
    (0, {"format": TermFormat(1)}, "a term code is"),
    (4, {"terms": np.full((2, 8, 8, 1), 2, np.uint8)}, "a term code is 2, but codes have 1 bits"),
    (1, {"inputs": ["conv", "input"]}, "layer 'add': inputs must be a tuple of layer names"),
    (1, {"inputs": ()}, "layer 'add': it adds two maps, but has 0 inputs"),
    (1, {"shifts": [0, 1]}, "layer 'add': shifts .* must be 2 integers"),
    (1, {"output": None}, "layer 'add': the output must be an ActivationFormat, not None"),
    (1, {"bias": None}, "layer 'add': bias must be an integer"),
    (1, {"output_scale": 999}, "layer 'add': the output scale must be an integer from -127"),
    (1, {"name": ["add"]}, r"layers\[1\]: the name must be 1 to 64"),
    (2, {"name": np.zeros(2)}, r"layers\[2\]: the name must be 1 to 64"),
])
def test_wrong_layers_of_a_graph_are_named(index, changes, message):
    model = residual_model()
    assert modelfile.check(model) == []
    layers = [replace(layer, **changes) if n == index else layer
              for n, layer in enumerate(model.layers)]
    problems = modelfile.check(replace(model, layers=tuple(layers)))
    assert any(re.search(message, problem) for problem in problems), problems


def test_the_bound_of_an_additions_sum_is_exact():
    model = residual_model()
    model = replace(model, input=replace(model.input, format=ActivationFormat(7, True)))
    conv, add, *others = model.layers
    assert isinstance(add, Add)
    # 5 bits without sign, 0 to 31, and 7 bits with sign, -64 to 63, shifted by 1.
    half = 1 << 47
    for bias, sums in ((half - 1 - (31 + 126), None), (half - (31 + 126), f"to {half}"),
                       (-half + 128, None), (-half + 127, f"reach -{half + 1}")):
        layers = conv, replace(add, bias=bias), *others
        problems = modelfile.check(replace(model, layers=layers))
        assert len(problems) == (sums is not None)
        for problem in problems:
            assert problem.startswith("layer 'add': its sums reach")
            assert f"{sums}" in problem


@given(seeds())
def test_the_bound_of_fixed_and_binary_sums_is_the_models_own(seed):
    for form in (FixedFormat(8), BinaryFormat()):
        model = random_model(np.random.default_rng(seed), kinds=["dense"], classes=1, max_k=1,
                             input_format=ActivationFormat(8, True))
        dense, = model.layers
        assert isinstance(dense, Dense)
        codes = np.random.default_rng(seed).integers(0, 1 << form.code_bits, dense.terms.shape)
        single = replace(dense, format=form, terms=codes.astype(np.uint8))
        _, high = single.accumulator_range(model.input.format)
        for bias, problems in (((1 << 47) - 1 - high, 0), ((1 << 47) - high, 1)):
            layers = replace(single, bias=np.array([bias])),
            assert len(modelfile.check(replace(model, layers=layers))) == problems


def test_padding_may_not_be_as_large_as_the_kernel(model):
    conv = model.layers[0]
    assert isinstance(conv, Convolution)
    rows, columns = conv.kernel
    for side, padding in enumerate([(rows, 0, 0, 0), (0, rows, 0, 0), (0, 0, columns, 0),
                                    (0, 0, 0, columns)]):
        wrong = replace(model, layers=(replace(conv, padding=padding), *model.layers[1:]))
        side_name = ("top", "bottom", "left", "right")[side]
        assert re.search(f"'convolution0': padding of {padding[side]} at the {side_name} needs",
                         modelfile.check(wrong)[0])


@pytest.mark.parametrize("kernel", [(7, 1), (1, 7)])
def test_a_kernel_must_fit_in_both_directions(model, kernel):
    terms = np.zeros((1, *kernel, 2), np.uint8)
    conv = replace(model.layers[0], k=(1,), terms=terms, bias=np.zeros(1, int),
                   shift=np.zeros(1, int), scale=np.zeros(1, int), padding=(0, 0, 0, 0))
    assert any(f"the kernel {kernel} does not fit into the map (6, 6)" in problem
               for problem in modelfile.check(replace(model, layers=(conv,))))


def test_a_dense_layer_covers_the_whole_map():
    model = random_model(np.random.default_rng(1), input_shape=(3, 2, 1), kinds=["dense"],
                         classes=2)
    wrong = replace(model, input=replace(model.input, shape=(2, 3, 1)))
    assert modelfile.check(wrong) == [
        "layer 'dense0': its terms are for a 3 x 2 map, but its input is 2 x 3: a dense layer "
        "covers the whole map"]


def test_the_logits_are_one_pixel(model):
    conv = model.layers[0]
    rows, columns, _ = conv.output_shape(model.input.shape)
    assert (rows, columns) != (1, 1)
    assert modelfile.check(replace(model, layers=(conv,))) == [
        "layer 'convolution0': the last layer gives the logits and must have a 1 x 1 result, not "
        f"{rows} x {columns}: append a dense layer"]


def test_a_wrong_edge_causes_no_guesses_about_shapes(model):
    # As it stands, the dense layer would not fit on the convolution.
    dense = replace(model.layers[-1], inputs=("max_pool1",))
    problem, = modelfile.check(replace(model, layers=(model.layers[0], dense)))
    assert "its input 'max_pool1' does not exist" in problem


def test_a_broken_format_is_reported_once(model):
    pool = model.layers[2]
    assert isinstance(pool, SumPool)
    wrong = replace(model, layers=(*model.layers[:2], replace(pool, output="8 bits"),
                                   model.layers[3]))
    assert modelfile.check(wrong) == ["layer 'sum_pool2': the output must be an ActivationFormat, "
                                      "not '8 bits': correct it"]


@given(st.integers(0, 1 << 32), st.integers(1, 4))
def test_the_bound_of_the_sums_is_the_models_own(seed, bits):
    model = random_model(np.random.default_rng(seed), kinds=["dense"], max_k=4,
                         exponent_bits=bits, input_format=ActivationFormat(8, True))
    dense, = model.layers
    assert isinstance(dense, Dense)
    assert dense.format == TermFormat(bits)
    _, high = dense.accumulator_range(model.input.format)
    room = (1 << 47) - 1 - high
    edge = replace(dense, bias=np.full(dense.filters, room))
    assert modelfile.check(replace(model, layers=(edge,))) == []
    over = replace(dense, bias=np.full(dense.filters, room + 1))
    problem, = modelfile.check(replace(model, layers=(over,)))
    assert f" to {1 << 47}" in problem


def test_check_takes_models_only():
    with pytest.raises(TypeError, match="model must be a Model, not 'mnist'"):
        modelfile.check("mnist")
