import base64
import copy
import json
import os
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl import check as check_module
from flightrtl import container, golden, modelfile, models
from flightrtl.document import describe
from flightrtl.errors import UserError
from flightrtl.formats import ActivationFormat, BinaryFormat, FixedFormat, TermFormat
from flightrtl.model import (
    INPUT,
    Add,
    Concat,
    Convolution,
    Dense,
    MaxPool,
    Model,
    SumPool,
    TensorType,
)
from flightrtl.modelfile import ModelError

from .models import (
    concat_model,
    random_graph,
    random_images,
    random_model,
    residual_model,
)
from .strategies import seeds

PAGE = Path(__file__).parents[1] / "docs" / "model-file.md"


@pytest.fixture
def model() -> Model:
    """A small model with every type of layer."""
    return random_model(np.random.default_rng(7), input_shape=(6, 6, 2), classes=3,
                        kinds=["convolution", "max_pool", "sum_pool", "dense"], max_k=2,
                        exponent_bits=3, activation_bits=4)


@pytest.fixture
def parts(model):
    """What is in the file of ``model``: the document without checksum, and the tensors."""
    document, tensors, intact = container.decode(container.encode(*describe(model)))
    assert intact
    return document, tensors


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "model.safetensors"


def problems_of(path: Path) -> list[str]:
    with pytest.raises(ModelError) as caught:
        modelfile.load(path)
    assert caught.value.problems
    assert str(path)[:20] in str(caught.value)
    for problem in caught.value.problems[:10]:
        assert problem in str(caught.value)
        assert len(problem) < 1000
        assert problem.isascii()
        assert problem.isprintable()
    return caught.value.problems


def raw(header: object, data: bytes = b"") -> bytes:
    """A file with any header: bytes as they are, anything else as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# What is written is read.


@given(seeds(), st.sampled_from([random_model, random_graph]))
def test_random_models_come_back_as_they_were(tmp_path_factory, seed, draw):
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    rng = np.random.default_rng(seed)
    model = draw(rng)
    assert modelfile.check(model) == []
    modelfile.save(model, path)
    written = path.read_bytes()
    again = modelfile.load(path)
    assert (again.name, again.input, again.provenance) == (
        model.name, model.input, model.provenance)
    assert again.tensors == model.tensors
    for ours, theirs in zip(model.layers, again.layers, strict=True):
        assert type(ours) is type(theirs)
        for name, value in vars(ours).items():
            if name in ours.__dataclass_fields__:
                np.testing.assert_equal(getattr(theirs, name), value)
    images = random_images(rng, model, 2)
    np.testing.assert_array_equal(golden.run(again, images), golden.run(model, images))
    modelfile.save(again, path)
    assert path.read_bytes() == written


def test_numbers_of_numpy_and_unusual_provenance_are_kept(model, path):
    provenance = {"command": "python -m train 'ä\n\"", "zeros": "0" * 64,
                  "list": [1, -2.5, None, True, {"a": []}]}
    layers = list(model.layers)
    conv = layers[0]
    assert isinstance(conv, Convolution)
    layers[0] = replace(conv, k=tuple(np.array(conv.k)), bias=conv.bias.astype(np.int32))
    modelfile.save(replace(model, layers=tuple(layers), provenance=provenance), path)
    again = modelfile.load(path)
    assert again.provenance == provenance
    assert isinstance(again.layers[0], Convolution)
    assert again.layers[0].k == conv.k


def test_saving_replaces_at_once_and_leaves_nothing_behind(model, path):
    path.write_text("before")
    with pytest.raises(ModelError, match="the name 'a b' must be"):
        modelfile.save(replace(model, name="a b"), path)
    assert path.read_text() == "before"
    with pytest.raises(FileNotFoundError):
        modelfile.save(model, path.parent / "missing" / "model.safetensors")
    modelfile.save(model, path)
    assert modelfile.load(path).name == model.name
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_header_that_could_not_be_read_is_not_written(model, path):
    large = replace(model, provenance={"log": "x" * container.MAX_HEADER})
    with pytest.raises(ModelError, match="larger file than is supported: .*less provenance"):
        modelfile.save(large, path)
    assert not path.exists()


# Versions of the format.


def version(model: Model) -> int:
    return describe(model)[0]["version"]


@pytest.mark.parametrize("name", models.names())
def test_bundled_models_are_written_as_they_are(name, path):
    modelfile.save(modelfile.load(name), path)
    assert path.read_bytes() == models.path(name).read_bytes()


def test_what_version_1_can_say_is_written_in_version_1(model):
    assert version(model) == 1
    conv, *others, dense = model.layers
    for form in (FixedFormat(4), BinaryFormat()):
        single = replace(dense, k=(1,) * 3, terms=np.ones((3, *dense.terms.shape[1:]), np.uint8),
                         format=form)
        newer = replace(model, layers=(conv, *others, single))
        assert modelfile.check(newer) == []
        assert version(newer) == 2
    pool = others[1]
    add = Add(name="add", inputs=(pool.name, pool.name), shifts=(0, 0), bias=0, shift=0)
    newer = replace(model, layers=(conv, *others, add, replace(dense, inputs=("add",))))
    assert modelfile.check(newer) == []
    assert version(newer) == 2


@given(seeds())
def test_the_version_is_that_of_the_features(seed):
    model = random_graph(np.random.default_rng(seed))
    newest = any(isinstance(layer, Concat) or getattr(layer, "groups", 1) > 1
                 for layer in model.layers)
    newer = not model.chain or any(not isinstance(layer.format, TermFormat)
                                   for layer in model.layers if hasattr(layer, "format"))
    assert version(model) == (3 if newest else 1 + newer)


def test_a_chain_of_terms_may_come_in_version_2(parts, path, model):
    document, tensors = parts
    store(path, document | {"version": 2}, tensors)
    assert modelfile.load(path).tensors == model.tensors


def test_version_1_has_no_words_for_what_is_newer(path):
    document, tensors = describe(residual_model())
    store(path, document | {"version": 1}, tensors)
    end = ", which takes version 2 of the format, not 1: export the network again"
    assert problems_of(path) == [
        f"layer 'conv': it has weights of type 'fixed'{end}",
        f"layer 'add': it is an addition{end}",
        f"layer 'pool': its input is not the layer before ('add'){end}",
        f"layer 'both': it is an addition{end}",
        f"layer 'dense': it has weights of type 'binary'{end}"]


def test_groups_take_version_3(path):
    model = concat_model()
    conv, *others = model.layers
    depthwise = replace(conv, terms=conv.terms[..., :1], groups=2)
    document, tensors = describe(replace(model, layers=(depthwise, *others)))
    assert document["layers"][0]["groups"] == 2
    assert "groups" not in describe(model)[0]["layers"][0]
    store(path, document, tensors)
    assert modelfile.load(path).layers[0].groups == 2
    store(path, document | {"version": 1}, tensors)
    assert "layer 'conv': it has groups, which takes version 3 of the format, not 1: export the " \
        "network again" in problems_of(path)
    for value, message in (
            (0, "layer 'conv': groups must be an integer from 1 to 4096, not 0"),
            (3, "layer 'conv': 2 filters cannot be divided into 3 groups: the groups must divide"),
            ("2", "layer 'conv': 'groups' must be an integer, not '2'"),
            (1, "its terms are for 1 channels, but its input has 2: .* dimension must be 2$")):
        reports(path, (copy.deepcopy(document), dict(tensors)), "layers.0.groups", value, message)
    tensors["conv.terms"] = np.repeat(tensors["conv.terms"], 2, axis=3)
    reports(path, (document, tensors), "layers.0.groups", 2,
            "its terms are for 2 channels in each of 2 groups, but its input has 2: the terms' "
            "last dimension must be 2, divided by the groups")


def test_version_2_has_no_words_for_what_is_newer_still(path):
    document, tensors = describe(concat_model())
    assert document["version"] == 3
    store(path, document | {"version": 2}, tensors)
    assert problems_of(path) == [
        "layer 'concat': it is a concatenation, which takes version 3 of the format, not 2: export "
        "the network again"]


# The page describes it.


def test_the_reader_on_the_page_agrees_with_the_golden_model(path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    reader: dict[str, Any] = {}
    exec(blocks[-1], reader)
    assert "flightrtl import" not in blocks[-1]
    assert "numpy" not in blocks[-1]
    versions = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        kinds = [["convolution", "max_pool", "sum_pool", "dense"], None][seed % 2]
        model = random_model(rng, kinds=kinds, input_shape=(7, 6, 2) if kinds else None)
        if seed >= 20:
            model = random_graph(rng)
        versions.add(version(model))
        modelfile.save(model, path)
        images = random_images(rng, model, 3)
        document, tensors = reader["read"](path.read_bytes())
        logits = [reader["infer"](document, tensors, image.tolist()) for image in images]
        assert logits == golden.run(model, images).tolist()
    assert versions == {1, 2, 3}


def test_the_example_on_the_page(path):
    text = PAGE.read_text(encoding="utf-8")
    blob, = re.findall(r"```base64\n(.*?)```", text, re.DOTALL)
    path.write_bytes(base64.b64decode(blob))
    model = modelfile.load(path)
    conv, dense = model.layers
    assert isinstance(conv, Convolution)
    assert isinstance(dense, Dense)
    image = np.array([1, 2, 3, 4, 5, 6]).reshape(1, 2, 3, 1)
    assert conv.terms.reshape(3, 4).tolist() == [[3, 9, 0, 2], [9, 0, 0, 1], [1, 1, 10, 0]]
    assert golden.accumulate(conv, image).tolist() == [[[[11, 0, 1], [21, 0, -5]]]]
    maps = golden.trace(model, image)
    assert maps["conv"].reshape(2, 3).tolist() == [[3, 5, 1], [5, 5, 0]]
    assert golden.accumulate(dense, maps["conv"]).tolist() == [[[[0, 7]]]]
    assert golden.run(model, image).tolist() == [[0, 2]]


def test_the_limits_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    limits = check_module.LIMITS
    for said in (f"at most {container.MAX_FILE >> 20} MiB", f"at most {container.MAX_HEADER >> 20} "
                 "MiB", f"1 to {limits.side}", f"in {limits.accumulator_bits} bits",
                 f"list of 1 to {limits.layers} layers", f"each 0 to {limits.k} ",
                 f"-{limits.scale} to {limits.scale}", f"0 to {limits.shift}",
                 f"one for each input, each 0 to {limits.add_shift}",
                 f"2 to {limits.operands} for `concat`"):
        assert said in text
    assert limits.live_values == 2**26
    assert "at most 2^26 values" in text
    assert limits.map_values == limits.weights == 2**24


# Whatever happens to a file is noticed.


@pytest.fixture(scope="module")
def small() -> bytes:
    model = random_model(np.random.default_rng(3), input_shape=(1, 1, 2), classes=2,
                         kinds=["dense"], name="small")
    return container.encode(*describe(model))


@pytest.mark.parametrize("change", [1, 32, 128])
def test_every_changed_byte_is_noticed(small, path, change):
    path.write_bytes(small)
    assert modelfile.load(path).name == "small"
    for position in range(len(small)):
        damaged = bytearray(small)
        damaged[position] ^= change
        path.write_bytes(damaged)
        problems_of(path)


def test_every_truncation_is_noticed(small, path):
    for length in range(len(small)):
        path.write_bytes(small[:length])
        problems_of(path)
    path.write_bytes(small + b"\0")
    assert "something was appended" in problems_of(path)[0]


@given(st.binary(max_size=200), st.booleans())
def test_noise_is_refused(tmp_path_factory, noise, framed):
    path = tmp_path_factory.mktemp("noise") / "noise"
    path.write_bytes(raw(noise) if framed else noise)
    problems_of(path)


def test_a_changed_number_with_a_proper_header_is_told_by_the_checksum(small, path):
    path.write_bytes(small[:-1] + bytes([small[-1] ^ 1]))
    assert any("does not match its checksum" in problem for problem in problems_of(path))


# Hostile files.

ENTRY = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}


def with_entry(**changes) -> dict[str, Any]:
    return {"__metadata__": {"flightrtl": "{}"}, "a.terms": {**ENTRY, **changes}}


@pytest.mark.parametrize(("data", "message"), [
    (b"", "0 bytes, too few"),
    (struct.pack("<Q", 1 << 63) + b"{}", "header would have 9223372036854775808 bytes"),
    (struct.pack("<Q", 1 << 23) + b"{}", "more than the supported 4194304"),
    (struct.pack("<Q", 100) + b"{}", "the file ends after 2: it is truncated"),
    (raw(b"\xff\xfe"), "not UTF-8"),
    (raw(b""), "not valid JSON"),
    (raw(b"[1]"), "must be a JSON object"),
    (raw(b'{"a": NaN}'), "NaN is not JSON"),
    (raw(b'{"a": 1e999}'), "a number is too large"),
    (raw(b'{"a": ' + b"9" * 5000 + b"}"), "not valid JSON"),
    (raw(b'{"a": 1, "a": 2}'), "a key occurs twice"),
    (raw(b"[" * 1_000_000 + b"]" * 1_000_000), "nested too deep"),
    (raw(b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"), "nested more than 32 deep"),
    (raw({}), "no flightrtl model in it"),
    (raw({"__metadata__": {"format": "pt"}}), "no flightrtl model in it"),
    (raw({"__metadata__": 5}), "no flightrtl model in it"),
    (raw({"__metadata__": {"flightrtl": 5}}), "must be text"),
    (raw({"__metadata__": {"flightrtl": "[]"}}), "must be a JSON object"),
    (raw({"__metadata__": {"flightrtl": '{"a": 1, "a": 1}'}}), "a key occurs twice"),
    (raw({"__metadata__": {"flightrtl": "[" * 50_000}}), "nested too deep"),
    (raw({"__metadata__": {"flightrtl": "{}"}, "a\x1b[2J": 1}), r"tensor 'a\\x1b\[2J': its entry"),
    (raw(with_entry(more=1), b"ab"), "must have dtype, shape and data_offsets"),
    (raw(with_entry(dtype="F32"), b"ab"), "dtype must be one of U8, I8, I64"),
    (raw(with_entry(dtype=["U8"]), b"ab"), "dtype must be one of U8, I8, I64"),
    (raw(with_entry(shape=[1 << 60]), b"ab"), "shape .* must be"),
    (raw(with_entry(shape=[-1, -2]), b"ab"), "shape .* must be"),
    (raw(with_entry(shape=[True, 2]), b"ab"), "shape .* must be"),
    (raw(with_entry(shape="2"), b"ab"), "shape .* must be"),
    (raw(with_entry(shape=[1] * 9), b"ab"), "shape .* must be"),
    (raw(with_entry(shape=[1 << 28] * 4), b"ab"), "do not hold its shape"),
    (raw(with_entry(shape=[3]), b"ab"), "do not hold its shape"),
    (raw(with_entry(data_offsets=[2, 0]), b"ab"), "do not hold its shape"),
    (raw(with_entry(data_offsets=[0]), b"ab"), "do not hold its shape"),
    (raw(with_entry(data_offsets=[0.0, 2]), b"ab"), "data_offsets .* must be"),
    (raw(with_entry(), b"a"), "truncated"),
    (raw(with_entry(data_offsets=[1, 3]), b"abc"), "tensors cannot be read"),      # a hole
    (raw(with_entry() | {"b.terms": ENTRY}, b"ab"), "tensors cannot be read"),     # an overlap
    (raw(with_entry(shape=[0, 1 << 28, 1 << 28, 1 << 28], data_offsets=[0, 0])), "model|read"),
])
def test_hostile_bytes(path, data, message):
    path.write_bytes(data)
    assert re.search(message, problems_of(path)[0])


def test_a_file_too_large_is_not_read(path):
    with open(path, "wb") as file:
        file.truncate(container.MAX_FILE + 1)
    assert "more than the supported 268435456 bytes" in problems_of(path)[0]


def test_what_is_no_file(path):
    assert "there is no such file" in problems_of(path)[0]
    assert "is not a file" in problems_of(path.parent)[0]
    os.mkfifo(path)
    assert "is not a file" in problems_of(path)[0]
    for name in ("", "nul\0byte", "x" * 5000, "no/such/model", "\udcff"):
        with pytest.raises(ModelError):
            modelfile.load(name)
    with pytest.raises(ModelError, match="no such file, and the bundled models are"):
        modelfile.load("no_such_model")


def store(path: Path, document: dict[str, Any], tensors: dict[str, Any]) -> None:
    """A file with a right checksum, whatever is in it."""
    path.write_bytes(container.encode(document, tensors))


DELETE = object()


def change(document: Any, place: str, value: object) -> None:
    """Set (or delete) ``document[a][b]...`` for the place ``"a.b..."``."""
    *outer, last = [int(step) if step.isdecimal() else step for step in place.split(".")]
    for step in outer:
        document = document[step]
    if value is DELETE:
        del document[last]
    else:
        document[last] = value


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
    document, tensors = parts
    change(document, place, value)
    store(path, document, tensors)
    problems = problems_of(path)
    assert any(re.search(message, problem) for problem in problems), problems
    assert not any("checksum" in problem for problem in problems)


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


def reports(path, parts, place, value, message):
    """Whether a file with one entry changed gives that message."""
    document, tensors = parts
    change(document, place, value)
    store(path, document, tensors)
    problems = problems_of(path)
    assert any(re.search(message, problem) for problem in problems), problems
    assert not any("checksum" in problem for problem in problems)


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


# Models in memory.


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


# Errors, names, digests.


def test_a_model_error_is_a_users_error():
    error = ModelError("model 'x' cannot be used", [f"problem {index}" for index in range(60)])
    assert isinstance(error, UserError)
    assert isinstance(error, ValueError)
    assert error.exit_status == 2
    lines = str(error).splitlines()
    assert lines[:2] == ["model 'x' cannot be used:", "  - problem 0"]
    assert lines[-1] == "  and 10 more problems"
    assert len(error.problems) == 60


def test_sha256_is_that_of_the_file(model, path):
    modelfile.save(model, path)
    assert re.fullmatch("[0-9a-f]{64}", modelfile.sha256(path))
    before = modelfile.sha256(path)
    path.write_bytes(path.read_bytes() + b"x")
    assert modelfile.sha256(path) != before


def test_bundled_models_are_loaded_by_name(monkeypatch, model, tmp_path):
    for name in models.names():
        assert modelfile.load(name).name == name
        assert modelfile.sha256(name) == modelfile.sha256(models.path(name))
    with pytest.raises(KeyError, match="no bundled model is called 'nothing'"):
        models.path("nothing")
    modelfile.save(model, tmp_path / "tiny.safetensors")
    monkeypatch.setattr(models, "_folder", lambda: tmp_path)
    assert models.names() == ["tiny"]
    assert models.path("tiny") == tmp_path / "tiny.safetensors"
    assert modelfile.load("tiny").name == model.name
    with pytest.raises(ModelError, match="the bundled models are: tiny"):
        modelfile.load("huge")
