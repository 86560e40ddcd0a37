"""The outer layer of a model file: safetensors, one JSON document, and a checksum over all bytes.

Nothing in here knows what a network is. The bytes may come from a stranger: sizes are looked at
before memory is taken, JSON must be strict, and whatever is wrong is a ``ValueError``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

__all__ = ["CHECKSUM", "KEY", "MAX_FILE", "MAX_HEADER", "decode", "digest", "encode", "read_bytes"]

KEY = "flightrtl"
"""Of the JSON document in the file's metadata."""

CHECKSUM = "sha256"
"""Of the checksum in that document."""

MAX_FILE = 1 << 28
"""Bytes in the largest file that is read: 256 MiB."""

MAX_HEADER = 1 << 22
"""Bytes in the largest header that is read: 4 MiB."""

_MAX_DEPTH = 32
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BLANK = "0" * 64
_ITEM_BYTES = {"U8": 1, "I8": 1, "I64": 8}


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a regular file of at most :data:`MAX_FILE` bytes.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is something else or too large.
    """
    # Before it is opened, since opening a pipe would wait for its writer.
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a file: give the path of a model file")
    data = b""
    if status.st_size <= MAX_FILE:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    if status.st_size > MAX_FILE or len(data) > MAX_FILE:
        raise ValueError(f"the file has more than the supported {MAX_FILE} bytes: this is no "
                         "model file")
    return data


def digest(data: bytes, stored: str) -> str:
    """The checksum of a file: SHA-256 of its bytes with ``stored`` replaced by 64 zeros.

    The first occurrence is replaced, which is the one in the document, since the header comes
    first and the checksum comes before everything that is free text.
    """
    return hashlib.sha256(data.replace(stored.encode(), _BLANK.encode(), 1)).hexdigest()


def encode(document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The file with ``document`` and ``tensors``; fills in ``document["sha256"]``, its first entry.

    The same content gives the same bytes.
    """
    blank = {CHECKSUM: _BLANK, **document}
    text = json.dumps(blank, separators=(",", ":"), allow_nan=False)
    data = safetensors.numpy.save(
        {name: np.ascontiguousarray(values) for name, values in tensors.items()}, {KEY: text})
    return data.replace(_BLANK.encode(), digest(data, _BLANK).encode(), 1)


def decode(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]], bool]:
    """The document, the tensors, and whether the checksum is right.

    Raises
    ------
    ValueError
        If the bytes are no such file.
    """
    header = _header(data)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or set(metadata) != {KEY}:
        raise ValueError(f"the file has no flightrtl model in it (its metadata must be {KEY!r} "
                         "alone): export the network with `python -m train`")
    if not isinstance(metadata[KEY], str):
        raise ValueError(f"the metadata entry {KEY!r} must be text: export the network again")
    document = strict_json(metadata[KEY], "the description of the network")
    if not isinstance(document, dict):
        raise ValueError("the description of the network must be a JSON object: export it again")
    for name, entry in header.items():
        _check_entry(ascii(name)[:60], entry)
    start = 8 + int.from_bytes(data[:8], "little")
    end = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != len(data):
        raise ValueError(f"the file has {len(data)} bytes and should have {end}: it is truncated "
                         "or something was appended; get it again")
    try:
        tensors = safetensors.numpy.load(data)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"the tensors cannot be read ({ascii(str(error))[:200]}): the file is "
                         "damaged; get it again") from None
    stored = document.pop(CHECKSUM, None)
    intact = (isinstance(stored, str) and bool(_DIGEST.fullmatch(stored))
              and digest(data, stored) == stored)
    return document, tensors, intact


def _header(data: bytes) -> dict[str, Any]:
    """The JSON object at the start of the file."""
    if len(data) < 8:
        raise ValueError(f"the file has {len(data)} bytes, too few for a model file: it is "
                         "truncated; get it again")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER:
        raise ValueError(f"the header would have {length} bytes, more than the supported "
                         f"{MAX_HEADER}: this is no model file")
    if length > len(data) - 8:
        raise ValueError(f"the header has {length} bytes, but the file ends after "
                         f"{len(data) - 8}: it is truncated; get it again")
    try:
        text = data[8:8 + length].decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("the header is not UTF-8: this is no model file") from None
    header = strict_json(text, "the header")
    if not isinstance(header, dict):
        raise ValueError("the header must be a JSON object: this is no model file")
    return header


def _check_entry(name: str, entry: object) -> None:
    """Refuse what the safetensors package reads, but no model file has."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name}: its entry must have dtype, shape and data_offsets: the "
                         "file is damaged; get it again")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise ValueError(f"tensor {name}: its dtype must be one of {', '.join(_ITEM_BYTES)}, not "
                         f"{ascii(dtype)[:20]}: export the network again")
    for what, values in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(values, list) or not 1 <= len(values) <= 4 or not all(
                type(value) is int and 0 <= value <= MAX_FILE for value in values):
            raise ValueError(f"tensor {name}: {what} {ascii(values)[:60]} must be 1 to 4 integers "
                             f"from 0 to {MAX_FILE}: the file is damaged; get it again")
    if len(offsets) != 2 or offsets[1] - offsets[0] != _ITEM_BYTES[dtype] * math.prod(shape):
        raise ValueError(f"tensor {name}: data_offsets {ascii(offsets)[:60]} do not hold its "
                         f"shape {shape}: the file is damaged; get it again")


def strict_json(text: str, what: str) -> Any:
    """JSON without repeated keys, infinities and bottomless nesting, or a ``ValueError``."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key occurs twice")
        return result

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    def finite(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise ValueError("a number is too large")
        return number

    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=refuse, parse_float=finite)
    except RecursionError:
        raise ValueError(f"{what} is nested too deep: this is no model file") from None
    except ValueError as error:
        raise ValueError(f"{what} is not valid JSON ({ascii(str(error))[1:-1][:200]}): the file "
                         "is damaged; get it again") from None
    level, depth = [value], 0
    while level:
        if depth > _MAX_DEPTH:
            raise ValueError(f"{what} is nested more than {_MAX_DEPTH} deep: this is no model file")
        level = [inner for outer in level if isinstance(outer, (list, dict))
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]
        depth += 1
    return value


def resolve(path: str | os.PathLike[str]) -> Path:
    """``path`` as a :class:`~pathlib.Path`, ``ValueError`` for one that no system can have."""
    if "\0" in os.fspath(path):
        raise ValueError("a path cannot hold a zero byte")
    return Path(path)
