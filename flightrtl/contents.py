# amaranth: UnusedElaboratable=no
# (Networks are made for their contents, not to become hardware.)
"""The contents of a loadable design's memories: for which models, and where in the bitstream.

A loadable design is synthesized, placed and routed with *placeholders* in its memories, words
that look random and follow from the number of the memory alone. So what comes out is one for all
models of the same shape, nothing in it is simplified because of a bit that happens to be constant,
and where a bit of a memory ended up is told by the contents: a column of placeholder bits occurs in
one place only. :func:`fill` looks for every column, replaces them by a model's, and refuses to go
on if a bit is missing or there twice.

The *shape* (:class:`Shape`) is what a model must have in common with the design: its layers with
their sizes and number formats, and the :class:`~flightrtl.loadable.Capacity` and folding of
each. Names, scales, weights, biases and shifts of layers with weights, and how many terms a filter
has, are no part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blockram import SEGMENT, BlockRams
from .errors import BuildError, UserError
from .formats import ActivationFormat
from .gateware.folding import Folding
from .gateware.loadablestream import LoadableStream, MemoryContents
from .gateware.network import Network
from .loadable import Capacity, LoadableModel, padded
from .model import INPUT, Convolution, Dense, Join, Layer, Model, SumPool
from .planner.plan import Plan

__all__ = ["Misfit", "Shape", "blank", "fill", "loadable_shape", "loads", "placeholder"]


class Misfit(UserError):
    """A model that a design has no place for."""


@dataclass(frozen=True)
class Shape:
    """What a model must have in common with a design.

    Parameters
    ----------
    input : mapping
        Shape and number format of the image.
    layers : sequence of mapping
        What each layer is, and of one with weights its folding and capacity.
    queues : mapping
        Depths of the queues before each addition or concatenation, by its place among the layers.
    memory_register : bool
        As the network was built.
    """

    input: Mapping[str, Any]
    layers: Sequence[Mapping[str, Any]]
    queues: Mapping[str, Any]
    memory_register: bool

    @classmethod
    def of(cls, model: LoadableModel, plan: Plan) -> Shape:
        """That of a design for a model."""
        layers = []
        for layer in model.layers:
            entry = _structure(model, layer)
            if layer.name in model.capacities:
                entry |= {"folding": asdict(plan.foldings[layer.name]),
                          "capacity": model.capacities[layer.name].as_json()}
            layers.append(entry)
        places = {layer.name: n for n, layer in enumerate(model.layers)}
        return cls.from_json({
            "input": _map(model.input.shape, model.input.format), "layers": layers,
            "queues": {str(places[name]): depths for name, depths in plan.queues.items()},
            "memory_register": plan.board.memory_register})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Shape:
        """What :meth:`as_json` gave."""
        plain = json.loads(json.dumps(data))    # tuples are lists, as they come out of a file
        return cls(plain["input"], plain["layers"], plain["queues"], plain["memory_register"])

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return asdict(self)

    @property
    def hash(self) -> str:
        """64 bits, hexadecimal."""
        text = json.dumps(self.as_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def fit(self, model: Model) -> LoadableModel:
        """The model padded to this shape.

        Raises
        ------
        Misfit
            If it has no place here; the message has every reason.
        """
        if problems := self.misfits(model):
            raise Misfit(f"model {model.name!r} does not fit this design (shape {self.hash}): "
                         + "; ".join(problems))
        return padded(model, {layer.name: Capacity(**entry["capacity"]) for layer, entry
                              in zip(model.layers, self.layers, strict=True)
                              if "capacity" in entry})

    def misfits(self, model: Model) -> list[str]:
        """Why a model has no place here, one sentence for each reason."""
        found = []
        image = json.loads(json.dumps(_map(model.input.shape, model.input.format)))
        found += _differences("the image", image, self.input)
        if len(model.layers) != len(self.layers):
            return [*found, f"it has {len(model.layers)} layers and the design {len(self.layers)}"]
        for layer, entry in zip(model.layers, self.layers, strict=True):
            its = json.loads(json.dumps(_structure(model, layer)))
            differences = _differences(f"layer {layer.name!r}", its, entry)
            found += differences
            if not differences and isinstance(layer, (Convolution, Dense)):
                found += Capacity(**entry["capacity"]).misfits(layer, model.source(layer).format)
        return found

    def foldings(self, model: LoadableModel) -> dict[str, Folding]:
        """How the layers of a model that :meth:`fit` gave are folded, by name."""
        return {layer.name: Folding(**entry["folding"]) for layer, entry
                in zip(model.layers, self.layers, strict=True) if "folding" in entry}

    def network(self, model: LoadableModel) -> Network:
        """The network of a model that :meth:`fit` gave."""
        names = [layer.name for layer in model.layers]
        return Network(model, self.foldings(model), memory_register=self.memory_register,
                       queues={names[int(place)]: tuple(depths)
                               for place, depths in self.queues.items()})


def loadable_shape(model: Model, plan: Plan) -> str:
    """The hash of the shape of a design whose weights can be loaded; nothing for other designs."""
    return Shape.of(model, plan).hash if isinstance(model, LoadableModel) and model.writable else ""


def _map(shape: Sequence[int], form: ActivationFormat) -> dict[str, Any]:
    return {"shape": list(shape), **asdict(form)}


def _structure(model: Model, layer: Layer) -> dict[str, Any]:
    """What is wired in a layer."""
    places = {INPUT: -1} | {each.name: n for n, each in enumerate(model.layers)}
    entry: dict[str, Any] = {"type": type(layer).__name__,
                             "inputs": [places[name] for name in layer.inputs]}
    if isinstance(layer, (Convolution, Dense)):
        return entry | {
            "kernel": layer.kernel, "stride": layer.stride, "padding": layer.padding,
            "channels": layer.channels, "filters": layer.filters, "groups": layer.groups,
            "weights": {"type": type(layer.format).__name__, **asdict(layer.format)},
            "output": asdict(layer.output)}
    if isinstance(layer, Join):
        return entry | {"shifts": layer.shifts, "bias": layer.bias, "shift": layer.shift,
                        "output": asdict(layer.output)}
    entry |= {"kernel": layer.kernel, "stride": layer.stride}
    if isinstance(layer, SumPool):
        entry |= {"bias": layer.bias, "shift": layer.shift, "output": asdict(layer.output)}
    return entry


def _differences(what: str, its: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    return [f"{what} has {key} {_plain(value)} and the design's {_plain(ours.get(key))}"
            for key, value in its.items() if value != ours.get(key)]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    if isinstance(value, list):
        return " x ".join(map(str, value))
    return str(value)


def placeholder(number: int, depth: int, width: int) -> list[int]:
    """The words of a memory as long as it has no contents: the same for every version of this."""
    size = -(-width // 8)
    seed = f"flightrtl memory {number}, {depth} x {width}".encode()
    data = hashlib.shake_256(seed).digest(depth * size)
    return [int.from_bytes(data[n * size:(n + 1) * size], "little") & (1 << width) - 1
            for n in range(depth)]


def blank(memories: Sequence[LoadableStream | MemoryContents]) -> None:
    """Have memories that were not elaborated yet hold placeholders at first."""
    for number, memory in enumerate(memories):
        memory.initial = placeholder(number, memory.depth, memory.width)


def loads(memories: Sequence[LoadableStream], size: int) -> Iterator[tuple[int, int, bytes]]:
    """A model's contents in pieces of the same size for the bus of a writable network.

    The last piece of a memory overlaps the one before it, so that it ends with the memory. A piece
    that is more than the whole memory ends with zeros.

    Parameters
    ----------
    memories : sequence of LoadableStream
        Those of a network of the model in the design's shape (:meth:`Shape.network`), in order.
    size : int
        Bytes in a piece.

    Yields
    ------
    (int, int, bytes)
        Number of a memory, address of the first byte in it, bytes.
    """
    for number, memory in enumerate(memories):
        data = memory.as_bytes()
        for first in range(0, len(data), size):
            start = max(0, min(first, len(data) - size))
            yield number, start, data[start:start + size].ljust(size, b"\0")


def fill(text: str, family: str,
         memories: Sequence[LoadableStream | MemoryContents]) -> str:
    """A design's configuration with the words of these memories in place of its placeholders.

    Parameters
    ----------
    text : str
        What nextpnr made of a design that :func:`blank` was applied to.
    family : str
        Of the device.
    memories : sequence of LoadableStream or MemoryContents
        As those of the design, in its order, with the words that are to be there.

    Raises
    ------
    BuildError
        If not every column of every placeholder is there exactly once.
    """
    try:
        rams = BlockRams(text, family)
    except ValueError as error:
        raise BuildError(f"the design's configuration cannot be read: {error}",
                         knob="build it again") from error
    # Every column that a memory may be laid out in, by its placeholders.
    wanted: dict[bytes, tuple[int, NDArray[np.int64]]] = {}
    old, new, covered = [], [], []
    for number, memory in enumerate(memories):
        old.append(_bits(placeholder(number, memory.depth, memory.width), memory))
        new.append(_bits(memory.words, memory))
        covered.append(np.zeros(old[-1].shape, np.int64))
        for stride in rams.layout.strides:
            words = np.arange(-(-memory.depth // (stride * SEGMENT)) * stride * SEGMENT)
            # (bits, stride): the bits of a column are `stride` words apart.
            for column in words.reshape(-1, SEGMENT, stride).swapaxes(1, 2).reshape(-1, SEGMENT):
                if column[0] < memory.depth:
                    for bit in range(memory.width):
                        places = column * memory.width + bit
                        key = np.packbits(_taken(old[-1], places)).tobytes()
                        wanted[key] = number, places
    found = np.packbits(rams.columns(), axis=-1)
    for ram, column in np.ndindex(found.shape[:2]):
        if (what := wanted.get(found[ram, column].tobytes())) is not None:
            number, places = what
            covered[number][places[places < len(covered[number])]] += 1
            rams.bits[ram, rams.layout.columns[column]] = _taken(new[number], places)
    for number, times in enumerate(covered):
        if len(wrong := np.flatnonzero(times != 1)):
            word, bit = divmod(int(wrong[0]), memories[number].width)
            raise BuildError(
                f"bit {bit} of word {word} of memory {number} is in {times[wrong[0]]} places of "
                "the design's configuration and not in one", knob="build the design again")
    return rams.text()


def _taken(bits: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Some of the bits; 0 beyond their end."""
    return np.where(places < len(bits), bits[np.minimum(places, len(bits) - 1)], 0)


def _bits(words: Sequence[int],
          memory: LoadableStream | MemoryContents) -> NDArray[np.uint8]:
    """All bits of a memory, word by word; zeros beyond the words."""
    size = -(-memory.width // 8)
    data = b"".join(word.to_bytes(size, "little") for word in words)
    data += bytes(size * (memory.depth - len(words)))
    return np.unpackbits(np.frombuffer(data, np.uint8).reshape(memory.depth, size), axis=1,
                         bitorder="little")[:, :memory.width].ravel()
