"""Damaged, cut and hostile files: each is noticed, and gives a message."""

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl import container, modelfile
from flightrtl.document import describe
from flightrtl.modelfile import ModelError

from .modelfiles import problems_of
from .models import random_model


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "model.safetensors"


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


def raw(header: object, data: bytes = b"") -> bytes:
    """A file with any header: bytes as they are, anything else as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


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
