"""Model files: what is written is read, by versions and as the page says; names and digests."""

import base64
import copy
import re
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
from flightrtl.formats import BinaryFormat, FixedFormat, TermFormat
from flightrtl.model import Add, Concat, Convolution, Dense, Model
from flightrtl.modelfile import ModelError

from .modelfiles import every_layer, parts_of, problems_of, reports, store
from .models import concat_model, random_graph, random_images, random_model, residual_model
from .strategies import seeds

PAGE = Path(__file__).parents[1] / "docs" / "model-file.md"


@pytest.fixture
def model() -> Model:
    return every_layer()


@pytest.fixture
def parts():
    return parts_of(every_layer())


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "model.safetensors"


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
