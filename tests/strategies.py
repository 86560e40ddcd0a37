"""What the random tests draw: parameters of components, layers, networks and stalls.

Each strategy gives parameters, not components: a failing example then prints all that it takes to
build it again. Values (images, weights, biases) come from a seed among the parameters, so that
hypothesis shrinks the shape of a failing case and not its thousands of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.random import Generator

from flightrtl import golden
from flightrtl.formats import (
    ActivationFormat,
    BinaryFormat,
    FixedFormat,
    IntArray,
    TermFormat,
    WeightFormat,
)
from flightrtl.gateware import FoldedLayer, Folding, Framed, Hardwired, Network
from flightrtl.gateware.engine import LayerEngine
from flightrtl.gateware.pool import pooled_pixels
from flightrtl.gateware.transfers import LayerChoice, stream_pixels
from flightrtl.model import INPUT, Layer, Model, TensorType, WeightedLayer
from flightrtl.planner.options import pixel_groups
from flightrtl.protocol import Frame
from tests.models import extreme_maps, random_add, random_concat, random_layer, random_map
from tests.streams import Pauses

__all__ = ["EngineCase", "LayerCase", "NetworkCase", "activation_formats", "engines", "frames",
           "graphs", "networks", "paddings", "pools", "seeds", "stalls", "strides", "term_formats",
           "weight_formats", "windows"]

_KINDS = ("convolution", "max_pool", "sum_pool", "dense")
_CYCLES = 1500
"""Cycles that a layer may take for an image, where that is a matter of lanes: keeps tests quick."""


def seeds() -> st.SearchStrategy[int]:
    """Seeds of all that is not drawn by hypothesis itself."""
    return st.integers(0, (1 << 32) - 1)


def activation_formats(most: int = 16) -> st.SearchStrategy[ActivationFormat]:
    """Activations of 1 to ``most`` bits, of both kinds."""
    return st.builds(ActivationFormat, st.integers(1, most), st.booleans())


def term_formats() -> st.SearchStrategy[TermFormat]:
    """Terms of every width."""
    return st.builds(TermFormat, st.integers(1, 4))


def weight_formats() -> st.SearchStrategy[WeightFormat]:
    """Weights of every kind and width."""
    return st.one_of(term_formats(), st.builds(FixedFormat, st.integers(2, 8)),
                     st.builds(BinaryFormat))


def strides(most: int = 3) -> st.SearchStrategy[tuple[int, int]]:
    """Vertical and horizontal strides."""
    return st.tuples(st.integers(1, most), st.integers(1, most))


@st.composite
def paddings(draw: st.DrawFn, kernel: tuple[int, int],
             shape: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Padding above, below, left and right: less than the kernel, and so that the kernel fits."""
    padding = []
    for length, size in zip(kernel, shape[:2], strict=True):
        first = draw(st.integers(0, length - 1))
        padding += [first, draw(st.integers(max(0, length - size - first), length - 1))]
    top, bottom, left, right = padding
    return top, bottom, left, right


def stalls(*names: str) -> st.SearchStrategy[dict[str, float | Pauses]]:
    """For each stream by itself: no stalls, single ones, or long pauses between long runs."""
    return st.fixed_dictionaries({
        name: st.sampled_from([0.0, 0.1, 0.5, 0.75, Pauses(0.4, 12)]) for name in names})


def frames() -> st.SearchStrategy[Frame]:
    """Requests and answers of a network of any size; logits are signed."""
    return st.builds(Frame, activation_formats(), st.integers(1, 12),
                     st.builds(ActivationFormat, st.integers(1, 16), st.just(True)),
                     st.integers(1, 12))


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    """Parameters of a sliding window: any kernel, stride, padding and folding that fits."""
    shape = draw(_shapes(8, (1, 2, 3, 4, 6)))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    column, padding, stride = draw(st.booleans()), draw(paddings(kernel, shape)), draw(strides())
    output = (shape[1] + padding[2] + padding[3] - kernel[1]) // stride[1] + 1
    groups = draw(_divisors(shape[2]))
    passes = [draw(st.integers(0, 3)) for _ in range(groups)]
    passes[draw(st.integers(0, groups - 1))] = draw(st.integers(1, 3))
    return {"shape": shape, "kernel": kernel, "padding": padding,
            "stride": stride, "column": column,
            "pixels": draw(_divisors(output)), "source_pixels": draw(_divisors(shape[1])),
            "simd": draw(_divisors(shape[2] // groups)) * (kernel[0] if column else 1),
            "passes": passes if groups > 1 else passes[0], "rows": draw(st.sampled_from([0, 9])),
            "register": draw(st.booleans()), "format": draw(activation_formats())}


@st.composite
def pools(draw: st.DrawFn) -> dict[str, Any]:
    """Parameters of a pooling component; with ``bias`` among them it is one of sums."""
    shape = draw(_shapes(7, (1, 2, 3)))
    kernel = draw(st.integers(1, shape[0])), draw(st.integers(1, shape[1]))
    stride = draw(strides(4))
    if draw(st.booleans()):
        stride = stride[0], kernel[1]       # as it must be for several pixels
    pixels = draw(st.sampled_from([n for n in range(1, shape[1] + 1) if shape[1] % n == 0
                                   and pooled_pixels(n, kernel[1], stride[1])]))
    parameters: dict[str, Any] = {"shape": shape, "kernel": kernel, "stride": stride,
                                  "format": draw(activation_formats()), "pixels": pixels}
    if draw(st.booleans()):
        parameters |= {"bias": draw(st.integers(-300, 300)), "shift": draw(st.integers(0, 8)),
                       "output": draw(activation_formats())}
    return parameters


def _shapes(size: int, channels: Sequence[int]) -> st.SearchStrategy[tuple[int, int, int]]:
    return st.tuples(st.integers(1, size), st.integers(1, size), st.sampled_from(channels))


def _divisors(number: int) -> st.SearchStrategy[int]:
    return st.sampled_from([n for n in range(1, number + 1) if number % n == 0])


@dataclass(frozen=True, kw_only=True)
class LayerCase:
    """Structure of one layer and, if it has weights, its folding. Weights come from a seed.

    ``inputs`` are the numbers of the maps that it takes: 0 is the image, n the result of the n-th
    layer. None stands for the one before.
    """

    kind: str
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    k: tuple[int, ...] = ()
    weights: WeightFormat = TermFormat()
    output: ActivationFormat = ActivationFormat()
    folding: LayerChoice | None = None
    inputs: tuple[int, ...] | None = None
    groups: int = 1

    def output_shape(self, *sources: tuple[int, int, int]) -> tuple[int, int, int]:
        """Shape of the result for inputs of these shapes."""
        source = sources[0]
        top, bottom, left, right = self.padding
        if self.kind == "dense":
            return 1, 1, len(self.k)
        if self.kind == "add":
            return source
        if self.kind == "concat":
            return *source[:2], sum(channels for *_, channels in sources)
        return ((source[0] + top + bottom - self.kernel[0]) // self.stride[0] + 1,
                (source[1] + left + right - self.kernel[1]) // self.stride[1] + 1,
                len(self.k) or source[2])

    def layer(self, rng: Generator, source: TensorType, maps: IntArray, name: str = "layer",
              before: str = INPUT) -> Layer:
        """The layer, with weights from ``rng`` and calibrated on ``maps``."""
        return random_layer(rng, self.kind, source, maps, name=name, inputs=(before,),
                            kernel=self.kernel, stride=self.stride, padding=self.padding,
                            k=self.k, weights=self.weights, output=self.output,
                            groups=self.groups)


@dataclass(frozen=True, kw_only=True)
class EngineCase:
    """One engine and what runs through it."""

    shape: tuple[int, int, int]
    format: ActivationFormat
    layer: LayerCase
    source_pixels: int
    register: bool
    seed: int

    def build(self, images: int) -> tuple[LayerEngine, IntArray]:
        """The engine, and maps for it: those that make the sums extreme are among them."""
        rng = np.random.default_rng(self.seed)
        source = TensorType(self.shape, self.format)
        layer = self.layer.layer(rng, source, random_map(rng, source, 4))
        assert isinstance(layer, WeightedLayer)
        assert isinstance(self.layer.folding, Folding)
        engine = LayerEngine(
            FoldedLayer(layer, source, self.layer.folding, self.source_pixels),
            register=self.register)
        extreme = extreme_maps(layer, source, int(rng.integers(layer.filters)))
        return engine, np.concatenate([random_map(rng, source, images - 2), extreme])


@dataclass(frozen=True, kw_only=True)
class NetworkCase:
    """A network; ``seed`` gives its weights and its images."""

    shape: tuple[int, int, int]
    format: ActivationFormat
    layers: tuple[LayerCase, ...]
    register: bool
    seed: int

    @property
    def foldings(self) -> dict[str, LayerChoice]:
        """The folding, or what stands for it, of each layer that has one, by name."""
        return {f"{layer.kind}{n}": layer.folding for n, layer in enumerate(self.layers)
                if layer.folding is not None}

    def model(self) -> Model:
        """The network, with weights from the seed."""
        rng = np.random.default_rng(self.seed)
        kinds = [TensorType(self.shape, self.format)]
        maps = [random_map(rng, kinds[0], 8)]
        names = [INPUT]
        layers: list[Layer] = []
        for n, case in enumerate(self.layers):
            inputs = (n,) if case.inputs is None else case.inputs
            name = f"{case.kind}{n}"
            if case.kind in ("add", "concat"):
                join = random_add if case.kind == "add" else random_concat
                layer: Layer = join(rng, [kinds[number] for number in inputs],
                                    [maps[number] for number in inputs], name=name,
                                    inputs=tuple(names[number] for number in inputs),
                                    output=case.output)
            else:
                layer = case.layer(rng, kinds[inputs[0]], maps[inputs[0]], name,
                                   names[inputs[0]])
            layers.append(layer)
            maps.append(golden.apply(layer, *(maps[number] for number in inputs)))
            output = kinds[inputs[0]].format if case.kind == "max_pool" else case.output
            kinds.append(TensorType(maps[-1].shape[1:], output))
            names.append(name)
        return Model("random", kinds[0], tuple(layers))

    def build(self, images: int) -> tuple[Network, IntArray]:
        """The gateware, and images for it."""
        model = self.model()
        network = Network(model, self.foldings, memory_register=self.register)
        return network, random_map(np.random.default_rng(self.seed + 1), model.input, images)

    def with_pixels(self, draw: st.DrawFn) -> NetworkCase:
        """The same, with any number of output pixels at a time that the layers can agree on."""
        pixels = {name: count for names, counts in pixel_groups(self.model())
                  for count in [draw(st.sampled_from(counts))] for name in names}
        layers = [replace(layer, folding=replace(layer.folding, pixels=pixels[f"{layer.kind}{n}"]))
                  if isinstance(layer.folding, Folding) else layer
                  for n, layer in enumerate(self.layers)]
        return replace(self, layers=tuple(layers))

    def with_dataflows(self, draw: st.DrawFn) -> NetworkCase:
        """The same, with layers that are hard-wired or have frame buffers, where they may."""
        model = self.model()
        given = stream_pixels(model, self.foldings)
        layers = []
        for case, layer in zip(self.layers, model.layers, strict=True):
            folding = case.folding
            if isinstance(folding, Folding) and given[layer.inputs[0]] == 1:
                chosen = [folding, Hardwired(folding.pixels)]
                if folding.pixels == 1 and case.groups == 1:
                    simd = draw(_divisors(model.source(layer).shape[2]))
                    chosen += [Framed(folding.lanes, simd, frames) for frames in (1, 2)]
                case = replace(case, folding=draw(st.sampled_from(chosen)))
            layers.append(case)
        return replace(self, layers=tuple(layers))


@st.composite
def _weighted(draw: st.DrawFn, kind: str, shape: tuple[int, int, int],
              output: ActivationFormat) -> LayerCase:
    height, width, channels = shape
    case = LayerCase(kind=kind, kernel=(height, width), output=output,
                     weights=draw(weight_formats()))
    most = 3 if isinstance(case.weights, TermFormat) else 1
    case = replace(case, k=tuple(draw(st.lists(st.integers(0, most), min_size=1, max_size=6))))
    if kind == "convolution":
        kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        groups = draw(st.one_of(st.just(1), _divisors(channels)))
        case = replace(case, kernel=kernel, stride=draw(strides()), groups=groups,
                       padding=draw(paddings(kernel, shape)), k=tuple(
                           k for terms in case.k[:-(-6 // groups)] for k in draw(
                               st.permutations([terms, *[1] * (groups - 1)]))))
        channels //= groups
    column = draw(st.booleans())
    simd = draw(_divisors(channels)) * (case.kernel[0] if column else 1)
    work = math.prod(case.kernel) * channels // simd * math.prod(case.output_shape(shape)[:2])
    slots = sum(case.k)
    lanes = draw(st.integers(max(1, min(slots, -(-work * slots // _CYCLES))), slots + 2))
    dsp = isinstance(case.weights, FixedFormat) and draw(st.booleans())
    return replace(case, folding=Folding(lanes, simd, column, rows=draw(st.sampled_from([0, 8])),
                                         dsp=dsp))


@st.composite
def engines(draw: st.DrawFn) -> EngineCase:
    """A convolution or dense layer of any shape, format, mix of k and folding."""
    kind = draw(st.sampled_from(["convolution", "dense"]))
    shape = draw(_shapes(7, (1, 2, 3, 4, 6)))
    layer = draw(_weighted(kind, shape, draw(activation_formats())))
    assert isinstance(layer.folding, Folding)
    pixels = draw(_divisors(layer.output_shape(shape)[1]))
    return EngineCase(shape=shape, format=draw(activation_formats()), register=draw(st.booleans()),
                      layer=replace(layer, folding=replace(layer.folding, pixels=pixels)),
                      source_pixels=draw(_divisors(shape[1])), seed=draw(seeds()))


@st.composite
def networks(draw: st.DrawFn) -> NetworkCase:
    """Up to four layers of any kind and a dense one, on images of up to 8 x 8 x 4."""
    first = shape = draw(_shapes(8, (1, 2, 3, 4)))
    layers = []
    for kind in [*draw(st.lists(st.sampled_from(_KINDS), max_size=4)), "dense"]:
        output = draw(activation_formats())
        if kind in ("convolution", "dense"):
            layers.append(draw(_weighted(kind, shape, output)))
        else:
            kernel = tuple(draw(st.integers(1, min(size, 4))) for size in shape[:2])
            layers.append(LayerCase(kind=kind, kernel=kernel, stride=draw(strides()),
                                    output=output))
        shape = layers[-1].output_shape(shape)
    layers[-1] = replace(layers[-1], output=ActivationFormat(draw(st.integers(1, 16)), True))
    return NetworkCase(shape=first, format=draw(activation_formats()), layers=tuple(layers),
                       register=draw(st.booleans()), seed=draw(seeds())).with_pixels(draw)


@st.composite
def graphs(draw: st.DrawFn) -> NetworkCase:
    """Up to five layers with branches, additions and concatenations; all loose ends are joined."""
    shapes = [draw(_shapes(6, (1, 2, 3)))]
    layers: list[LayerCase] = []
    loose: list[int] = []

    def append(case: LayerCase, *inputs: int) -> None:
        layers.append(replace(case, inputs=inputs))
        shapes.append(layers[-1].output_shape(*(shapes[number] for number in inputs)))
        loose[:] = [number for number in loose if number not in inputs] + [len(layers)]

    for _ in range(draw(st.integers(1, 5))):
        # More often than not what was made last, so that there are long ways as well as short.
        before = draw(st.sampled_from([*range(len(shapes)), *[len(shapes) - 1] * 3]))
        shape = shapes[before]
        equal = [n for n, other in enumerate(shapes) if other == shape]
        sides = [n for n, other in enumerate(shapes) if other[:2] == shape[:2]]
        kind = draw(st.sampled_from(["add", "concat", "same", "same", "convolution", "max_pool",
                                     "sum_pool"]))
        output = draw(activation_formats())
        if kind == "add":
            append(LayerCase(kind=kind, output=output), before, draw(st.sampled_from(equal)))
        elif kind == "concat":
            others = draw(st.lists(st.sampled_from(sides), min_size=1, max_size=2))
            append(LayerCase(kind=kind, output=output), before, *others)
        elif kind == "same":
            size = draw(st.sampled_from([1, 3]))
            case = LayerCase(kind="convolution", kernel=(size, size), output=output,
                             padding=(size // 2,) * 4, k=(1,) * shape[2])
            simd = draw(_divisors(shape[2]))
            lanes = draw(st.integers(1, shape[2]))
            append(replace(case, folding=Folding(lanes, simd)), before)
        elif kind == "convolution":
            append(draw(_weighted(kind, shape, output)), before)
        else:
            kernel = tuple(draw(st.integers(1, min(length, 3))) for length in shape[:2])
            append(LayerCase(kind=kind, kernel=kernel, stride=draw(strides(2)), output=output),
                   before)
    classes = draw(st.integers(1, 3))

    def dense(before: int, output: ActivationFormat) -> None:
        case = LayerCase(kind="dense", kernel=shapes[before][:2], k=(1,) * classes,
                         output=output, folding=Folding(draw(st.integers(1, 4)),
                                                        draw(_divisors(shapes[before][2]))))
        append(case, before)

    if len(loose) > 1:
        for number in list(loose):
            dense(number, ActivationFormat(6))
        if draw(st.booleans()):
            append(LayerCase(kind="concat", output=ActivationFormat(8)), *loose)
    while len(loose) > 1:
        append(LayerCase(kind="add", output=ActivationFormat(8)), loose[0], loose[1])
    dense(loose[0], ActivationFormat(draw(st.integers(1, 16)), True))
    return NetworkCase(shape=shapes[0], format=draw(activation_formats()), layers=tuple(layers),
                       register=draw(st.booleans()), seed=draw(seeds())).with_pixels(draw)


@st.composite
def mixed_graphs(draw: st.DrawFn) -> NetworkCase:
    """The same, in which layers are folded, hard-wired or have frame buffers."""
    return draw(graphs()).with_dataflows(draw)
