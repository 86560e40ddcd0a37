"""What is wrong in the document of a model file is named, all of it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl import golden, modelfile
from flightrtl.document import describe
from flightrtl.model import INPUT, Add, Convolution, Dense, MaxPool, Model, TensorType
from flightrtl.modelfile import ModelError

from .modelfiles import DELETE, change, every_layer, parts_of, problems_of, reports, store
from .models import concat_model, random_graph, random_images, random_model, residual_model


@pytest.fixture
def model() -> Model:
    return every_layer()


@pytest.fixture
def parts():
    return parts_of(every_layer())


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(("place", "value", "message"), [
    ("format", "pickle", "'format' must be 'flightrtl model', not 'pickle'"),
    ("format", DELETE, "'format' is missing"),
    ("version", 4, "version 4 of the format, .* reads up to 3: upgrade flightrtl"),
    ("version", 0, "'version' must be 1 to 3, not 0"),
    ("version", 1.0, "'version' must be an integer from 1 to 3, not 1.0"),
    ("version", True, "'version' must be an integer from 1 to 3, not True"),
    ("more", 1, "the file: unknown entries 'more': remove them"),
    ("name", 5, "'name' must be text, not 5"),
    ("name", "../../etc/passwd", "the name '../../etc/passwd' must be"),
    ("name", "", "the name '' must be"),
    ("name", "a\n", r"the name 'a\\n' must be"),
    ("name", "x" * 65, "must be 1 to 64 letters"),
    ("input", [], "'input' must be a JSON object, not"),
    ("input", DELETE, "'input' is missing"),
    ("input.shape", [6, 6], "input: shape .* must be 3 integers from 1"),
    ("input.shape", [6, 6, 0], "input: shape .* must be 3 integers from 1"),
    ("input.shape", [6, 6, "2"], "input: shape .* must be 3 integers from 1"),
    ("input.shape", [1 << 20, 1 << 20, 2], "input: .* more than the supported 16777216 values"),
    ("input.bits", 17, "input: bits must be 1 to 16, not 17"),
    ("input.bits", "8", "input: 'bits' must be an integer from 1 to 16, not '8'"),
    ("input.signed", 0, "input: 'signed' must be true or false, not 0"),
    ("input.scale", 1 << 40, "input: scale must be an integer from -127 to 127"),
    ("input.more", 1, "input: unknown entries 'more'"),
    ("layers", {}, "'layers' must be a list of layers, not {}"),
    ("layers", [], "layers must be a tuple of 1 to 256 layers"),
    ("layers.0", None, r"layers\[0\]: must be a JSON object, not None"),
    ("layers.0.name", 7, r"layers\[0\]: 'name' must be text, not 7"),
    ("layers.0.name", "Conv", "layer 'Conv': the name must be 1 to 64 lower-case"),
    ("layers.0.name", "input", "layer 'input': the name must be"),
    ("layers.0.name", "a\u202eb", r"layer 'a\\u202eb': the name must be"),
    ("layers.1.name", "convolution0", "layer 'convolution0': the name is used more than once"),
    ("layers.0.type", "lstm", "unsupported layer type 'lstm': use convolution or dense"),
    ("layers.0.type", 1, "layer 'convolution0': 'type' must be text"),
    ("layers.0.type", DELETE, "layer 'convolution0': 'type' is missing"),
    ("layers.0.inputs", [], "layer 'convolution0': it has no input"),
    ("layers.0.inputs", "input", "'inputs' must be a list of layer names, not 'input'"),
    ("layers.0.inputs", [1], "inputs must be a tuple of layer names"),
    ("layers.0.inputs", ["nowhere"], "its input 'nowhere' does not exist"),
    ("layers.0.inputs", ["dense3"], "its input 'dense3' does not come before it"),
    ("layers.0.inputs", ["convolution0"], "a cycle, or a wrong order"),
    ("layers.2.inputs", ["max_pool1", "input"], "takes one input, but has 2: .* type 'add'"),
    ("layers.2.inputs", ["convolution0"], r"not the layer before \('max_pool1'\), .* version 2"),
    ("layers.2.inputs", ["convolution0"], "layer 'max_pool1': no layer takes its result: remove"),
    ("layers.0.weights", "shift", "'weights' must be a JSON object"),
    ("layers.0.weights.type", "float", "unsupported weights 'float': use shift or fixed or binary"),
    ("layers.0.weights.type", "fixed", "weights: 'bits' is missing: add it .an integer from 2 to"),
    ("layers.0.weights", {"type": "binary"}, "weights of type 'binary', which takes version 2"),
    ("layers.0.weights", {"type": "fixed", "bits": 9}, "weights: bits must be 2 to 8, not 9"),
    ("layers.0.weights.type", ["shift"], "unsupported weights"),
    ("layers.0.weights.exponent_bits", 5, "weights: exponent_bits must be 1 to 4, not 5"),
    ("layers.0.weights.exponent_bits", None, "weights: 'exponent_bits' must be an integer"),
    ("layers.0.weights.more", 0, "weights: unknown entries 'more'"),
    ("layers.0.k", [], "layer 'convolution0': k must be one integer"),
    ("layers.0.k", [-1, 3], "layer 'convolution0': k must be one integer"),
    ("layers.0.k", [1.5], "layer 'convolution0': k must be one integer"),
    ("layers.0.k.0", 99, "layer 'convolution0': k adds up to"),
    ("layers.0.stride", [0, 1], r"stride \(down, across\) must be 2 integers from 1 to 4096"),
    ("layers.0.stride", [1], "stride"),
    ("layers.0.padding", [0, 0, 0, -1], r"padding \(top, bottom, left, right\) must be 4 integers"),
    ("layers.0.padding", [9, 0, 0, 0], "padding of 9 at the top needs a kernel of more than 9"),
    ("layers.0.padding", [0, 0, 0, 1 << 70], "padding"),
    ("layers.0.kernel", [3, 3], "layer 'convolution0': unknown entries 'kernel'"),
    ("layers.0.output.bits", 0, "layer 'convolution0', output: bits must be 1 to 16, not 0"),
    ("layers.0.output.scale", 0.5, "layer 'convolution0', output: 'scale' must be an integer"),
    ("layers.0.output", DELETE, "layer 'convolution0': 'output' is missing"),
    ("layers.1.kernel", [99, 1], "layer 'max_pool1': the kernel .* does not fit into the map"),
    ("layers.1.kernel", ["1", 1], "layer 'max_pool1': kernel .* must be 2 integers"),
    ("layers.1.output", {}, "layer 'max_pool1': unknown entries 'output'"),
    ("layers.2.bias", 1 << 60, "layer 'sum_pool2': bias must be an integer from -140737488355328"),
    ("layers.2.bias", 2**47 - 1, "layer 'sum_pool2': its sums reach .* more than 48 bits"),
    ("layers.2.shift", 32, "layer 'sum_pool2': shift must be an integer from 0 to 31, not 32"),
    ("layers.3", DELETE, "layer 'sum_pool2': the last layer gives the logits"),
    ("provenance", None, "'provenance' must be a JSON object"),
    ("provenance.big", 1 << 63, r"provenance\['big'\]: the number is too large"),
    ("provenance.text", "\ud800", r"provenance\['text'\]: the text holds half a surrogate pair"),
    ("provenance.\ud800", 1, "the key .* must be text"),
    ("provenance.deep", json.loads("[" * 18 + "]" * 18), "nested more than 16 deep"),
])
def test_wrong_documents(parts, path, place, value, message):
    reports(path, parts, place, value, message)


@pytest.mark.parametrize(("name", "edit", "message"), [
    ("convolution0.terms", lambda t: None, "layer 'convolution0': the tensor 'terms' is missing"),
    ("convolution0.terms", lambda t: t.astype(np.int8), "'terms' must be uint8, not int8"),
    ("convolution0.terms", lambda t: t.reshape(-1), "terms must be an array of uint8 of 4 dim"),
    ("convolution0.terms", lambda t: t[:-1], "k adds up to"),
    ("convolution0.terms", lambda t: t[..., :1], "its terms are for 1 channels, but its input has"),
    ("convolution0.terms", lambda t: np.full_like(t, 8), r"a term code is 8 \(minus zero\)"),
    ("convolution0.terms", lambda t: np.full_like(t, 16), "code is 16, but codes have 4 bits"),
    ("convolution0.terms", lambda t: t[:, :0], "terms must be an array of uint8 of 4 dimensions"),
    ("convolution0.terms", lambda t: np.zeros((len(t), 5000, 1, 2), np.uint8), "4096 on a side"),
    ("convolution0.terms", lambda t: np.zeros((len(t), 4000, 4000, 1), np.uint8), "are larger"),
    ("convolution0.terms", lambda t: np.zeros((len(t), 99, 1, 2), np.uint8), r"kernel \(99, 1\)"),
    ("convolution0.bias", lambda t: t[:-1], "bias must be an array of"),
    ("convolution0.bias", lambda t: t + (1 << 50), "bias must be -140737488355328 to"),
    ("convolution0.bias", lambda t: t * 0 + (1 << 47) - 1, "its sums reach .* more than 48 bits"),
    ("convolution0.bias", lambda t: t.astype(np.uint8), "'bias' must be int64, not uint8"),
    ("convolution0.shift", lambda t: t * 0 + 32, "layer 'convolution0': shift must be 0 to 31"),
    ("convolution0.scale", lambda t: np.full_like(t, -128), "scale must be -127 to 127"),
    ("dense3.terms", lambda t: t[:, :, :, :0], "layer 'dense3': terms must be an array"),
    ("other", lambda t: np.zeros(1, np.uint8), "tensors that no layer has .*other"),
    ("dense3.more", lambda t: np.zeros(1, np.uint8), "tensors that no layer has .*dense3.more"),
])
def test_wrong_tensors(parts, path, name, edit, message):
    document, tensors = parts
    edited = edit(tensors.pop(name, None))
    if edited is not None:
        tensors[name] = edited
    store(path, document, tensors)
    problems = problems_of(path)
    assert any(re.search(message, problem) for problem in problems), problems


@pytest.mark.parametrize(("place", "value", "message"), [
    ("layers.0.k", [2], "k adds up to 2, but there are 1"),
    ("layers.0.weights.bits", 3, "layer 'conv': a term code is .*, but codes have 3 bits"),
    ("layers.0.weights.bits", 1, "weights: bits must be 2 to 8, not 1"),
    ("layers.0.weights.bits", "4", "'bits' must be an integer from 2 to 8, not '4'"),
    ("layers.4.weights.bits", 1, "weights: unknown entries 'bits'"),
    ("layers.1.inputs", ["conv"], "layer 'add': it adds two maps, but has 1 inputs: name two"),
    ("layers.1.inputs", ["conv"] * 3, "layer 'add': it adds two maps, but has 3 inputs: name two"),
    ("layers.1.inputs", ["conv", "both"], "its input 'both' does not come before it"),
    ("layers.1.inputs", ["conv", "add"], "its input 'add' does not come before it .a cycle"),
    ("layers.1.inputs", ["conv", "con"], "its input 'con' does not exist: name a layer that does"),
    ("layers.1.inputs", ["conv", None], "inputs must be a tuple of layer names"),
    ("layers.3.inputs", ["add", "add"], "layer 'pool': no layer takes its result: remove it"),
    ("layers.4.inputs", ["both", "add"], "layer 'dense': it takes one input, but has 2"),
    ("layers.1.shifts", [0], r"shifts .* must be 2 integers from 0 to 15, not \(0,\)"),
    ("layers.1.shifts", [0, 16], "shifts .* must be 2 integers from 0 to 15"),
    ("layers.1.shifts", [-1, 0], "shifts .* must be 2 integers from 0 to 15"),
    ("layers.1.shifts", 3, "'shifts' must be a list of integers, one for each input, not 3"),
    ("layers.1.shifts", DELETE, "layer 'add': 'shifts' is missing"),
    ("layers.1.kernel", [1, 1], "layer 'add': unknown entries 'kernel'"),
    ("layers.1.bias", 0.5, "'bias' must be an integer, not 0.5"),
    ("layers.1.bias", (1 << 47) - 1, "layer 'add': its sums reach .* more than 48 bits"),
    ("layers.1.bias", 1 << 47, "layer 'add': bias must be an integer from -140737488355328 to"),
    ("layers.1.shift", 32, "layer 'add': shift must be an integer from 0 to 31, not 32"),
    ("layers.1.output", DELETE, "layer 'add': 'output' is missing"),
    ("layers.1.output.bits", 17, "layer 'add', output: bits must be 1 to 16"),
    ("layers.2.kernel", [2, 2], r"'both': its inputs have the shapes \(8, 8, 1\) and \(7, 7, 1\)"),
    ("layers.4", DELETE, "layer 'both': the last layer gives the logits and must be"),
])
def test_wrong_documents_of_version_2(path, place, value, message):
    reports(path, describe(residual_model()), place, value, message)


@pytest.mark.parametrize(("place", "value", "message"), [
    ("layers.2.inputs", ["conv"], "it joins 2 to 16 maps, but has 1 inputs: name 2 to 16"),
    ("layers.2.inputs", ["conv"] * 17, "it joins 2 to 16 maps, but has 17 inputs"),
    ("layers.2.inputs", ["conv", "pool", "dense"], "its input 'dense' does not come before it"),
    ("layers.2.inputs", ["conv", "pool"], r"shifts .* must be 2 integers .*, not \(0, 1, 0\)"),
    ("layers.2.shifts", [0, 16, 0], "shifts .* must be 3 integers from 0 to 15"),
    ("layers.2.shifts", DELETE, "layer 'concat': 'shifts' is missing"),
    ("layers.2.kernel", [1, 1], "layer 'concat': unknown entries 'kernel'"),
    ("layers.2.bias", (1 << 47) - 1, "layer 'concat': its sums reach .* more than 48 bits"),
    ("layers.2.output", DELETE, "layer 'concat': 'output' is missing"),
    ("layers.1.kernel", [2, 2], "'concat': its inputs have 5 x 5, 6 x 6 pixels: they must be eq"),
    ("layers.3", DELETE, "layer 'concat': the last layer gives the logits and must be"),
])
def test_wrong_documents_of_version_3(path, place, value, message):
    reports(path, describe(concat_model()), place, value, message)


def test_a_file_cannot_ask_for_an_endless_list_of_problems(path):
    document, tensors = describe(residual_model())
    change(document, "layers.1.inputs", [f"x{n}" for n in range(200_000)])
    store(path, document, tensors)
    assert [problem.partition(":")[2] for problem in problems_of(path)] == [
        " it adds two maps, but has 200000 inputs: name two",
        " its input 'x0' does not exist: name a layer that does, or 'input'",
        " its input 'x1' does not exist: name a layer that does, or 'input'"]


def test_all_problems_of_a_graph_are_reported_at_once(path):
    document, tensors = describe(residual_model())
    change(document, "layers.0.stride", [2, 1])
    change(document, "layers.1.shift", 99)
    change(document, "layers.2.kernel", [3, 3])
    change(document, "layers.3.bias", 1 << 50)
    tensors["dense.terms"] = tensors["dense.terms"] + 1
    store(path, document, tensors)
    assert [problem.partition(":")[0] for problem in problems_of(path)] == [
        "layer 'add'", "layer 'add'", "layer 'both'", "layer 'dense'"]


def test_all_problems_are_reported_at_once(parts, path):
    document, tensors = parts
    change(document, "name", "two words")
    change(document, "layers.0.stride", [1, 1, 1])
    change(document, "layers.1.more", 1)
    change(document, "layers.2.shift", 99)
    tensors["dense3.terms"] = np.full_like(tensors["dense3.terms"], 8)
    store(path, document, tensors)
    problems = problems_of(path)
    found = [problem.partition(":")[0] for problem in problems]
    assert found == ["layer 'max_pool1'", "model", "layer 'convolution0'", "layer 'sum_pool2'",
                     "layer 'dense3'"]


def test_a_problem_does_not_hide_those_of_later_layers(model):
    conv, *middle, dense = model.layers
    assert isinstance(conv, Convolution)
    assert isinstance(dense, Dense)
    wrong = replace(model, layers=(
        replace(conv, shift=conv.shift + 40), *middle,
        replace(dense, terms=dense.terms[..., :1])))
    first, second = modelfile.check(wrong)
    assert first.startswith("layer 'convolution0': shift must be 0 to 31")
    assert second.startswith("layer 'dense3': its terms are for 1 channels")


def nested(inner):
    """Lists and dictionaries of ``inner``.

    Not a lambda: hypothesis would parse this file for its text, at which CPython 3.11 can fail with
    a SystemError (gh-106905).
    """
    return (st.lists(inner, max_size=4)
            | st.dictionaries(st.text(max_size=5), inner, max_size=3))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-1 << 65, 1 << 65)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    nested, max_leaves=6)


def places(value: object, at: str = "") -> list[str]:
    """Every place in a document."""
    pairs = (value.items() if isinstance(value, dict) else
             enumerate(value) if isinstance(value, list) else ())
    return [found for key, inner in pairs
            for found in (f"{at}{key}", *places(inner, f"{at}{key}."))]


@given(st.data())
def test_any_value_anywhere_gives_a_model_error_or_a_model(tmp_path_factory, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    model = data.draw(st.sampled_from([random_model, random_graph]))(rng)
    document, tensors = describe(model)
    place = data.draw(st.sampled_from(places(document)))
    change(document, place, data.draw(JUNK))
    path = tmp_path_factory.mktemp("junk") / "model.safetensors"
    store(path, document, tensors)
    try:
        again = modelfile.load(path)
    except ModelError as error:
        assert error.problems
    else:
        assert modelfile.check(again) == []
        golden.run(again, random_images(rng, again, 1))


def test_a_small_file_cannot_ask_for_much_memory(parts, path):
    document, _ = parts
    # 4096 pruned filters of 4096 channels: no terms at all, but 2**24 weights for each layer.
    layer = {"type": "convolution", "weights": {"type": "shift", "exponent_bits": 3},
             "k": [0] * 4096, "stride": [1, 1], "padding": [0, 0, 0, 0],
             "output": {"bits": 8, "signed": False, "scale": 0}}
    document["input"]["shape"] = [1, 1, 4096]
    document["layers"] = [{"name": f"a{index}", "inputs": [f"a{index - 1}" if index else "input"],
                           **layer} for index in range(8)]
    tensors: dict[str, Any] = {}
    for index in range(8):
        tensors[f"a{index}.terms"] = np.zeros((0, 1, 1, 4096), np.uint8)
        for what, dtype in (("bias", np.int64), ("shift", np.uint8), ("scale", np.int8)):
            tensors[f"a{index}.{what}"] = np.zeros(4096, dtype)
    store(path, document, tensors)
    assert problems_of(path) == ["model: 134217728 weights and terms, more than the supported "
                                 "16777216: use fewer filters or pool before the large layer"]


def test_branches_cannot_ask_for_much_memory():
    # Every pooling is small work, but its result must be kept until the additions.
    image = TensorType((4096, 4096, 1))
    pools = [MaxPool(name=f"p{n}", inputs=(INPUT,), kernel=(1, 1), stride=(1, 1))
             for n in range(5)]
    adds = [Add(name=f"a{n}", inputs=(f"a{n - 1}" if n else "p0", f"p{n + 1}"), shifts=(0, 0),
                bias=0, shift=0) for n in range(4)]
    zero = np.zeros(1, np.int64)
    small = MaxPool(name="small", inputs=("a3",), kernel=(4096, 4096), stride=(1, 1))
    dense = Dense(name="dense", inputs=("small",), k=(0,), bias=zero, shift=zero, scale=zero,
                  terms=np.zeros((0, 1, 1, 1), np.uint8))
    model = Model("wide", image, (*pools, *adds, small, dense))
    problem = ("model: 100663296 values of maps are needed at the same time, more than the "
               "supported 67108864: use fewer or smaller branches")
    assert modelfile.check(model) == [problem]
    # In another order, three maps and the image are enough.
    order = [*pools[:2], adds[0], pools[2], adds[1], pools[3], adds[2], pools[4], adds[3]]
    assert modelfile.check(replace(model, layers=(*order, small, dense))) == []
