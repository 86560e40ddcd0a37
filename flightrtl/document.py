"""A model as a JSON document and tensors, and back: the inner layer of a model file.

Every entry is taken once, with its type; what is missing, left over or of another type is noted,
and reading goes on, so that all problems come out at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .check import LAYER_TYPES, Unread
from .formats import ActivationFormat, BinaryFormat, FixedFormat, TermFormat, WeightFormat
from .model import (
    INPUT,
    Add,
    Concat,
    Convolution,
    Join,
    MaxPool,
    Model,
    SumPool,
    TensorType,
    WeightedLayer,
)
from .rules import show

__all__ = ["FORMAT", "VERSION", "describe", "newer_version", "parse"]

FORMAT = "flightrtl model"
VERSION = 3
"""The newest version. A model is written in the least version that can say it."""

_TENSORS = {"terms": np.uint8, "bias": np.int64, "shift": np.uint8, "scale": np.int8}
"""Tensors of a convolution or dense layer, and how they are stored."""

_WEIGHTS: dict[str, tuple[type[WeightFormat], dict[str, str]]] = {
    "shift": (TermFormat, {"exponent_bits": "an integer from 1 to 4"}),
    "fixed": (FixedFormat, {"bits": "an integer from 2 to 8"}),
    "binary": (BinaryFormat, {}),
}
"""Formats of weights by the name that they have in a file, with the widths that they need."""


def _activation(form: ActivationFormat) -> dict[str, Any]:
    return {"bits": int(form.bits), "signed": form.signed}


def _weights(form: WeightFormat) -> dict[str, Any]:
    kind, widths = next((kind, widths) for kind, (cls, widths) in _WEIGHTS.items()
                        if isinstance(form, cls))
    return {"type": kind, **{width: int(getattr(form, width)) for width in widths}}


def _newer_features(layers: tuple[Any, ...]) -> list[tuple[Any, str, int]]:
    """Layers that version 1 of the format has no words for: the reason, and which version has.

    Inputs that are wrong in any version are left to the check.
    """
    found: list[tuple[Any, str, int]] = []
    before = [INPUT]
    for layer in layers:
        if isinstance(layer, Add):
            found.append((layer, "it is an addition", 2))
        elif isinstance(layer, Concat):
            found.append((layer, "it is a concatenation", 3))
        elif layer.inputs and len(layer.inputs) == 1 and layer.inputs[0] in before[:-1]:
            found.append((layer, f"its input is not the layer before ({show(before[-1])})", 2))
        if isinstance(layer, Convolution) and layer.groups != 1:
            found.append((layer, "it has groups", 3))
        if isinstance(layer, WeightedLayer) and not isinstance(layer.format, TermFormat):
            found.append((layer, f"it has weights of type {_weights(layer.format)['type']!r}", 2))
        before.append(layer.name)
    return found


def describe(model: Model) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The document and the tensors of a model that passes the check."""
    layers = []
    for layer in model.layers:
        name, = (name for name, kind in LAYER_TYPES.items() if type(layer) is kind)
        entry: dict[str, Any] = {"name": layer.name, "type": name, "inputs": list(layer.inputs)}
        if isinstance(layer, WeightedLayer):
            entry["weights"] = _weights(layer.format)
            entry["k"] = [int(k) for k in layer.k]
        elif isinstance(layer, Join):
            entry["shifts"] = [int(shift) for shift in layer.shifts]
        else:
            entry["kernel"] = [int(size) for size in layer.kernel]
        if isinstance(layer, (Convolution, MaxPool)):
            entry["stride"] = [int(step) for step in layer.stride]
        if isinstance(layer, Convolution):
            entry["padding"] = [int(amount) for amount in layer.padding]
            if layer.groups != 1:
                entry["groups"] = int(layer.groups)
        if isinstance(layer, (SumPool, Join)):
            entry |= {"bias": int(layer.bias), "shift": int(layer.shift)}
        if isinstance(layer, (WeightedLayer, SumPool, Join)):
            entry["output"] = _activation(layer.output) | {"scale": int(layer.output_scale)}
        layers.append(entry)
    source = {"shape": [int(size) for size in model.input.shape],
              **_activation(model.input.format), "scale": int(model.input.scale)}
    version = max((version for *_, version in _newer_features(model.layers)), default=1)
    document = {"format": FORMAT, "version": version, "name": model.name, "input": source,
                "layers": layers, "provenance": dict(model.provenance)}
    tensors = {f"{layer.name}.{what}": getattr(layer, what).astype(dtype)
               for layer in model.layers if isinstance(layer, WeightedLayer)
               for what, dtype in _TENSORS.items()}
    return document, tensors


def newer_version(document: Mapping[str, Any]) -> int | None:
    """The version of a document that this module is too old for."""
    version = document.get("version")
    newer = document.get("format") == FORMAT and type(version) is int and version > VERSION
    return version if newer else None


def parse(document: dict[str, Any], tensors: dict[str, NDArray[Any]],
          problems: list[str]) -> Model:
    """The model of a document and tensors, which it uses up.

    What is wrong with their form is appended to ``problems``, and the parts that cannot be made
    are :class:`~flightrtl.check.Unread`. Whether the values make sense is left to
    :func:`~flightrtl.check.check`.
    """
    return _Reader(document, tensors, problems).model()


class _Fields:
    """The entries of a JSON object, each to be taken once; notes what is missing or left."""

    def __init__(self, value: object, where: str, problems: list[str]) -> None:
        self._where, self._problems = where, problems
        self._values: dict[str, Any] = dict(value) if isinstance(value, dict) else {}
        self.good = isinstance(value, dict)
        if not self.good:
            self.problem(f"must be a JSON object, not {show(value)}: correct it")

    def problem(self, text: str) -> None:
        self.good = False
        self._problems.append(f"{self._where}: {text}")

    def has(self, name: str) -> bool:
        """Whether there is an entry ``name``."""
        return name in self._values

    def take(self, name: str, kind: type, means: str) -> Any:
        """The entry ``name``, None if it is missing or no ``kind``."""
        if name not in self._values:
            if self.good or self._values:
                self.problem(f"{name!r} is missing: add it ({means})")
            return None
        value = self._values.pop(name)
        if type(value) is not kind:
            self.problem(f"{name!r} must be {means}, not {show(value)}: correct it")
            return None
        return value

    def finish(self) -> bool:
        """Whether everything was there, and nothing else."""
        if self._values:
            unknown = ", ".join(sorted(self._values))
            self.problem(f"unknown entries {show(unknown)}: remove them, or upgrade flightrtl if "
                         "a newer one wrote the file")
        return self.good


class _Reader:
    """The work of :func:`parse`."""

    def __init__(self, document: dict[str, Any], tensors: dict[str, NDArray[Any]],
                 problems: list[str]) -> None:
        self._document, self._tensors, self._problems = document, tensors, problems

    def model(self) -> Model:
        fields = _Fields(self._document, "the file", self._problems)
        form = fields.take("format", str, f"the text {FORMAT!r}")
        if form is not None and form != FORMAT:
            fields.problem(f"'format' must be {FORMAT!r}, not {show(form)}: export the network "
                           "again")
        version = fields.take("version", int, f"an integer from 1 to {VERSION}")
        if version is not None and not 1 <= version <= VERSION:
            fields.problem(f"'version' must be 1 to {VERSION}, not {show(version)}: export the "
                           "network again")
        name = fields.take("name", str, "text")
        source = self._tensor_type(fields.take("input", dict, "a JSON object"))
        entries = fields.take("layers", list, "a list of layers")
        provenance = fields.take("provenance", dict, "a JSON object")
        fields.finish()
        layers = tuple(self._layer(index, entry) for index, entry in enumerate(entries or []))
        if version is not None and 1 <= version < VERSION:
            self._problems += [
                f"layer {show(layer.name)}: {feature}, which takes version {needed} of the "
                f"format, not {version}: export the network again"
                for layer, feature, needed in _newer_features(layers) if needed > version]
        if entries is None:
            layers = Unread("unread", None),
        if self._tensors:
            self._problems.append("the file: there are tensors that no layer has "
                                  f"({show(', '.join(sorted(self._tensors)))}): remove them")
        return Model("unread" if name is None else name, source, layers, provenance or {})

    def _activation(self, fields: _Fields) -> ActivationFormat | None:
        bits = fields.take("bits", int, "an integer from 1 to 16")
        signed = fields.take("signed", bool, "true or false")
        try:
            return None if bits is None or signed is None else ActivationFormat(bits, signed)
        except ValueError as error:
            fields.problem(f"{error}: correct it")
            return None

    def _tensor_type(self, value: object) -> Any:
        """Type of the image, or :class:`Unread`."""
        if value is None:
            return Unread("input", None)
        fields = _Fields(value, "input", self._problems)
        shape = fields.take("shape", list, "a list of height, width, channels")
        form = self._activation(fields)
        scale = fields.take("scale", int, "an integer")
        if not fields.finish() or form is None:
            return Unread("input", None)
        return TensorType(tuple(shape), form, scale)

    def _layer(self, index: int, entry: object) -> Any:
        """A layer, or :class:`Unread` if something is missing."""
        name = entry.get("name") if isinstance(entry, dict) else None
        where = f"layer {show(name)}" if isinstance(name, str) else f"layers[{index}]"
        fields = _Fields(entry, where, self._problems)
        values: dict[str, Any] = {"name": fields.take("name", str, "text"),
                                  "inputs": fields.take("inputs", list, "a list of layer names")}
        if values["inputs"] is not None:
            values["inputs"] = tuple(values["inputs"])
        unread = Unread(values["name"] or "unread", values["inputs"])
        kind = fields.take("type", str, "text")
        if kind is not None and kind not in LAYER_TYPES:
            fields.problem(f"unsupported layer type {show(kind)}: use {' or '.join(LAYER_TYPES)}")
        if kind not in LAYER_TYPES:
            for what in [what for what in self._tensors if what.startswith(f"{name}.")]:
                del self._tensors[what]
            return unread
        cls: Any = LAYER_TYPES[kind]
        if issubclass(cls, WeightedLayer):
            self._weights(fields, values)
        elif issubclass(cls, Join):
            values["shifts"] = fields.take("shifts", list, "a list of integers, one for each input")
        else:
            values["kernel"] = fields.take("kernel", list, "a list of rows, columns")
        if issubclass(cls, (Convolution, MaxPool)):
            values["stride"] = fields.take("stride", list, "a list of down, across")
        if issubclass(cls, Convolution):
            values["padding"] = fields.take("padding", list, "a list of top, bottom, left, right")
            if fields.has("groups"):
                values["groups"] = fields.take("groups", int, "an integer")
        if issubclass(cls, (SumPool, Join)):
            values["bias"] = fields.take("bias", int, "an integer")
            values["shift"] = fields.take("shift", int, "an integer")
        if issubclass(cls, (WeightedLayer, SumPool, Join)):
            output = fields.take("output", dict, "a JSON object of bits, signed, scale")
            if output is not None:
                inner = _Fields(output, f"{where}, output", self._problems)
                values["output"] = self._activation(inner)
                values["output_scale"] = inner.take("scale", int, "an integer")
                if not inner.finish():
                    fields.good = False
        if not fields.finish():
            return unread
        return cls(**{key: tuple(value) if isinstance(value, list) else value
                      for key, value in values.items()})

    def _weights(self, fields: _Fields, values: dict[str, Any]) -> None:
        """Format, k and tensors of a convolution or dense layer."""
        values["k"] = fields.take("k", list, "a list of integers, one for each filter")
        form = fields.take("weights", dict, "a JSON object of type and width")
        kind = None if form is None else form.get("type")
        if form is not None and (not isinstance(kind, str) or kind not in _WEIGHTS):
            fields.problem(f"unsupported weights {show(kind)}: use {' or '.join(_WEIGHTS)}")
        elif isinstance(kind, str):
            inner = _Fields(form, f"layer {show(values['name'])}, weights", self._problems)
            inner.take("type", str, "text")
            cls, needed = _WEIGHTS[kind]
            widths = {what: inner.take(what, int, means) for what, means in needed.items()}
            if inner.finish():
                try:
                    values["format"] = cls(**widths)
                except ValueError as error:
                    inner.problem(f"{error}: correct it")
            if not inner.good:
                fields.good = False
        for what, dtype in _TENSORS.items():
            tensor = self._tensors.pop(f"{values['name']}.{what}", None)
            if tensor is None:
                fields.problem(f"the tensor {show(what)} is missing: export the network again")
            elif tensor.dtype != dtype:
                fields.problem(f"the tensor {show(what)} must be {np.dtype(dtype)}, not "
                               f"{tensor.dtype}: export the network again")
            else:
                values[what] = tensor if what == "terms" else tensor.astype(np.int64)
