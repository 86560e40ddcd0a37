"""Random models for the tests: any mix of layers, formats and k, with outputs that vary.

Shifts and biases are calibrated on random images, layer by layer, so that the results of a
filter spread over the range of its output format instead of all being clamped to one end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
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
from flightrtl.model import (
    INPUT,
    Add,
    Concat,
    Convolution,
    Dense,
    Layer,
    MaxPool,
    Model,
    SumPool,
    TensorType,
    WeightedLayer,
)
from flightrtl.protocol import Frame

__all__ = ["FOR_SMALL_BOARDS", "exchange", "extreme_maps", "random_add", "random_format",
           "random_graph", "random_images", "random_layer", "random_map", "random_model",
           "residual_model", "residual_network"]

KINDS = ("convolution", "dense", "max_pool", "sum_pool")

FOR_SMALL_BOARDS = ("digits", "fashion-mnist", "mnist")
"""Bundled models that fit an iCE40 (and whose simulation is compiled in seconds)."""


def random_map(rng: Generator, kind: TensorType, count: int) -> IntArray:
    """``count`` feature maps of the type ``kind`` with values over the whole range."""
    return rng.integers(kind.format.min, kind.format.max, size=(count, *kind.shape),
                        endpoint=True, dtype=np.int64)


def random_images(rng: Generator, model: Model, count: int) -> IntArray:
    """Input for ``model``: int64 (count, H, W, C)."""
    return random_map(rng, model.input, count)


def extreme_maps(layer: WeightedLayer, source: TensorType, index: int) -> IntArray:
    """Two inputs of ``layer`` that drive filter ``index`` as far down and up as it goes.

    That is in the window at the upper left, and where padding cuts nothing off it.
    """
    low, high = source.format.min, source.format.max
    positive = layer.dense_weights[index] > 0
    maps = np.full((2, *source.shape), low, np.int64)
    maps[1] = high
    rows, columns = (min(a, b) for a, b in zip(layer.kernel, source.shape[:2], strict=True))
    maps[0, :rows, :columns] = np.where(positive, low, high)[:rows, :columns]
    maps[1, :rows, :columns] = np.where(positive, high, low)[:rows, :columns]
    return maps


def random_format(rng: Generator) -> WeightFormat:
    """Any format of weights."""
    kind = rng.integers(3)
    if kind == 0:
        return TermFormat(int(rng.integers(1, 5)))
    return FixedFormat(int(rng.integers(2, 9))) if kind == 1 else BinaryFormat()


def _random_codes(rng: Generator, shape: tuple[int, ...], form: WeightFormat) -> np.ndarray:
    codes = rng.integers(0, 1 << form.code_bits, size=shape, dtype=np.uint8)
    if isinstance(form, TermFormat):
        codes[codes == form.negative_zero] = 0
    return codes


def _calibrate(rng: Generator, sums: IntArray, output: ActivationFormat) -> tuple[int, int]:
    """Bias and shift that spread ``sums`` over the range of ``output``."""
    low, high = np.percentile(sums, [5, 95]) if sums.size else (0, 0)
    span = max(1, int(high) - int(low))
    shift = min(31, max(0, span.bit_length() - output.bits))
    middle = (output.max + output.min + 1) << shift >> 1
    offset = middle - (int(low) + int(high)) // 2
    offset += int(rng.integers(-(span // 4) - 1, span // 4 + 2))
    return offset, shift


def random_layer(rng: Generator, kind: str, source: TensorType, maps: IntArray, *,
                 name: str = "layer", inputs: tuple[str, ...] = (INPUT,),
                 filters: int | None = None, kernel: tuple[int, int] | None = None,
                 stride: tuple[int, int] | None = None,
                 padding: tuple[int, int, int, int] | None = None,
                 k: Sequence[int] | None = None, max_k: int = 3, exponent_bits: int | None = None,
                 output: ActivationFormat | None = None,
                 weights: WeightFormat | None = None, groups: int = 1) -> Layer:
    """One layer that fits on ``source``; what is not given is drawn.

    Parameters
    ----------
    kind : str
        ``convolution``, ``dense``, ``max_pool`` or ``sum_pool``.
    source : TensorType
        The layer's input.
    maps : array of int64, (N, H, W, C)
        Samples of that input, for the calibration of bias and shift: see :func:`random_map`.
    k : sequence of int, optional
        Terms of each filter; drawn from 0 to ``max_k`` otherwise (never all zero).
    weights : WeightFormat, optional
        Of the weights; terms of ``exponent_bits`` otherwise.
    groups : int
        Of a convolution; 0 for 1 or the greatest that divides channels and filters.
    """
    height, width, channels = source.shape
    kernel = kernel or (int(rng.integers(1, min(height, 5) + 1)),
                        int(rng.integers(1, min(width, 5) + 1)))
    stride = stride or (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    output = output or ActivationFormat(int(rng.integers(1, 17)), bool(rng.integers(4) == 0))
    scale = int(rng.integers(-12, 3))
    if kind == "max_pool":
        return MaxPool(name=name, inputs=inputs, kernel=kernel, stride=stride)
    if kind == "sum_pool":
        pool = SumPool(name=name, inputs=inputs, kernel=kernel, stride=stride, bias=0, shift=31,
                       output=output, output_scale=scale)
        wide = np.lib.stride_tricks.sliding_window_view(maps, kernel, axis=(1, 2))
        bias, shift = _calibrate(rng, wide.sum(axis=(-2, -1)), output)
        return SumPool(name=name, inputs=inputs, kernel=pool.kernel, stride=pool.stride, bias=bias,
                       shift=shift, output=output, output_scale=scale)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    form = weights or TermFormat(exponent_bits or int(rng.integers(1, 5)))
    if not isinstance(form, TermFormat):
        max_k = 1
    if k is None:
        filters = filters or int(rng.integers(1, 7))
        counts = [int(number) for number in rng.integers(0, max_k + 1, size=filters)]
        counts[int(rng.integers(filters))] = int(rng.integers(1, max_k + 1))
    else:
        counts = [int(number) for number in k]
    if kind == "dense":
        kernel = (height, width)
    fields: dict[str, Any] = {
        "name": name, "inputs": inputs, "k": tuple(counts), "format": form, "output": output,
        "terms": _random_codes(rng, (sum(counts), *kernel, channels), form),
        "scale": rng.integers(-12, 3, size=len(counts), dtype=np.int64), "output_scale": scale,
    }
    if kind == "convolution":
        groups = groups or int(rng.choice([1, math.gcd(channels, len(counts))]))
        fields["groups"] = groups
        fields["terms"] = fields["terms"][..., :channels // groups]
        fields["stride"] = stride
        fields["padding"] = padding or tuple(
            int(rng.integers(0, kernel[axis])) for axis in (0, 0, 1, 1))
    zero = np.zeros(len(counts), np.int64)
    build: type[Convolution | Dense] = Convolution if kind == "convolution" else Dense
    draft = build(**fields, bias=zero, shift=zero)
    sums = golden.accumulate(draft, maps)
    spread = [_calibrate(rng, sums[..., index], output) for index in range(len(counts))]
    return build(**fields, bias=np.array([bias for bias, _ in spread], np.int64),
                 shift=np.array([shift for _, shift in spread], np.int64))


def random_model(rng: Generator, *, input_shape: tuple[int, int, int] | None = None,
                 input_format: ActivationFormat | None = None,
                 kinds: Sequence[str] | None = None, classes: int | None = None, max_k: int = 3,
                 exponent_bits: int | None = None, activation_bits: int | None = None,
                 name: str = "random") -> Model:
    """A model that passes every check; what is not given is drawn from ``rng``.

    Parameters
    ----------
    input_shape : (int, int, int), optional
        Height, width, channels; up to 9 x 9 x 3 otherwise.
    kinds : sequence of str, optional
        The layers in order, see :func:`random_layer`; the last one must be ``dense`` (or a
        convolution that happens to give one pixel).
    classes : int, optional
        Logits, 1 to 6 otherwise.
    max_k : int
        Most terms in a weight; every k from 0 occurs.
    exponent_bits, activation_bits : int, optional
        The same for all layers, instead of another one for each. The logits stay free.
    """
    if input_shape is None:
        input_shape = (int(rng.integers(1, 10)), int(rng.integers(1, 10)), int(rng.integers(1, 4)))
    if input_format is None:
        bits = activation_bits or int(rng.integers(1, 17))
        input_format = ActivationFormat(bits, bool(rng.integers(2)))
    if kinds is None:
        hidden = rng.choice(["convolution", "convolution", "max_pool", "sum_pool", "dense"],
                            size=int(rng.integers(0, 4)))
        kinds = [*(str(kind) for kind in hidden), "dense"]
    source = TensorType(input_shape, input_format, int(rng.integers(-12, 3)))
    maps = random_map(rng, source, 8)
    before = INPUT
    layers: list[Layer] = []
    for index, kind in enumerate(kinds):
        last = index == len(kinds) - 1
        output = None
        if last:
            output = ActivationFormat(int(rng.integers(8, 17)), True)
        elif activation_bits:
            output = ActivationFormat(activation_bits, False)
        layer = random_layer(
            rng, kind, source, maps, name=f"{kind}{index}", inputs=(before,), output=output,
            filters=(classes or int(rng.integers(1, 7))) if last else None, max_k=max_k,
            exponent_bits=exponent_bits)
        layers.append(layer)
        maps = golden.apply(layer, maps)
        before = layer.name
        shape = layer.output_shape(source.shape)
        form = layer.output if isinstance(layer, (WeightedLayer, SumPool)) else source.format
        source = TensorType(shape, form)
    return Model(name, TensorType(input_shape, input_format, int(rng.integers(-12, 3))),
                 tuple(layers), {"dataset": "random", "seed": 0})


def random_add(rng: Generator, sources: Sequence[TensorType], maps: Sequence[IntArray], *,
               name: str = "add", inputs: tuple[str, str] = (INPUT, INPUT),
               output: ActivationFormat | None = None) -> Add:
    """A layer that adds two maps of one shape: their real values, if their scales are close."""
    common = min(kind.scale for kind in sources) - int(rng.integers(0, 3))
    one, other = (min(15, kind.scale - common) for kind in sources)
    output = output or ActivationFormat(int(rng.integers(1, 17)), bool(rng.integers(2)))
    bias, shift = _calibrate(rng, (maps[0] << one) + (maps[1] << other), output)
    return Add(name=name, inputs=inputs, shifts=(one, other), bias=bias, shift=shift,
               output=output, output_scale=common + shift)


def random_concat(rng: Generator, sources: Sequence[TensorType], maps: Sequence[IntArray], *,
                  name: str = "concat", inputs: Sequence[str],
                  output: ActivationFormat | None = None) -> Concat:
    """A layer that puts maps behind each other: their real values, if their scales are close."""
    common = min(kind.scale for kind in sources) - int(rng.integers(0, 3))
    shifts = tuple(min(15, kind.scale - common) for kind in sources)
    output = output or ActivationFormat(int(rng.integers(1, 17)), bool(rng.integers(2)))
    joined = np.concatenate([values << by for values, by in zip(maps, shifts, strict=True)], -1)
    bias, shift = _calibrate(rng, joined, output)
    return Concat(name=name, inputs=tuple(inputs), shifts=shifts, bias=bias, shift=shift,
                  output=output, output_scale=common + shift)


def residual_model() -> Model:
    """A small model with two additions, a branch, fixed-point and binary weights."""
    rng = np.random.default_rng(1)
    image = TensorType((8, 8, 1), ActivationFormat(5))
    conv = random_layer(rng, "convolution", image, random_map(rng, image, 4), name="conv",
                        kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1), k=(1,),
                        weights=FixedFormat(4), output=ActivationFormat(5))
    add = Add(name="add", inputs=("conv", INPUT), shifts=(0, 1), bias=1, shift=1)
    pool = MaxPool(name="pool", inputs=("conv",), kernel=(1, 1), stride=(1, 1))
    both = Add(name="both", inputs=("add", "pool"), shifts=(0, 0), bias=0, shift=0)
    kind = TensorType((8, 8, 1), ActivationFormat(8))
    dense = random_layer(rng, "dense", kind, random_map(rng, kind, 4), name="dense",
                         inputs=("both",), k=(1, 0, 1), weights=BinaryFormat(),
                         output=ActivationFormat(12, True))
    return Model("residual", image, (conv, add, pool, both, dense))


def random_graph(rng: Generator, *, name: str = "graph") -> Model:
    """A model with branches that passes every check: layers and weights of every kind.

    Its scales are those of its shifts, so that the real values in it make sense.
    """
    size = int(rng.integers(2, 7))
    image = TensorType((size, size, int(rng.integers(1, 4))),
                       ActivationFormat(int(rng.integers(1, 9)), bool(rng.integers(2))),
                       int(rng.integers(-4, 1)))
    kinds = {INPUT: image}
    maps = {INPUT: random_map(rng, image, 8)}
    layers: list[Layer] = []
    unused: list[str] = []

    def append(layer: Layer) -> None:
        result = golden.apply(layer, *(maps[edge] for edge in layer.inputs))
        source = kinds[layer.inputs[0]]
        kinds[layer.name] = TensorType(result.shape[1:], source.format, source.scale)
        if not isinstance(layer, MaxPool) or isinstance(layer, SumPool):
            kinds[layer.name] = TensorType(result.shape[1:], layer.output, layer.output_scale)
        maps[layer.name] = result
        unused[:] = [edge for edge in unused if edge not in layer.inputs] + [layer.name]
        layers.append(layer)

    def extend(kind: str, edge: str, **fields: Any) -> None:
        label = f"{kind}{len(layers)}"
        output = fields.pop("output", None) or ActivationFormat(int(rng.integers(1, 9)),
                                                                bool(rng.integers(3) == 0))
        layer = random_layer(rng, kind, kinds[edge], maps[edge], name=label, inputs=(edge,),
                             weights=random_format(rng), output=output, groups=0, **fields)
        if isinstance(layer, (Convolution, Dense)):
            layer = replace(layer, scale=layer.output_scale - kinds[edge].scale - layer.shift)
        append(layer)

    def join(*edges: str, add: bool = True) -> None:
        make: Any = random_add if add else random_concat
        append(make(rng, [kinds[edge] for edge in edges], [maps[edge] for edge in edges],
                    name=f"{'add' if add else 'concat'}{len(layers)}", inputs=edges,
                    output=ActivationFormat(int(rng.integers(8, 17)), bool(rng.integers(2)))))

    for _ in range(int(rng.integers(1, 6))):
        names = list(kinds)
        edge = names[int(rng.integers(len(names)))]
        equal = [other for other in names if kinds[other].shape == kinds[edge].shape]
        level = [other for other in names if kinds[other].shape[:2] == kinds[edge].shape[:2]]
        if rng.integers(4) == 0:
            join(edge, *map(str, rng.choice(level, int(rng.integers(1, 3)))), add=False)
        elif rng.integers(2):
            join(edge, equal[int(rng.integers(len(equal)))])
        elif rng.integers(3):
            extend("convolution", edge, kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1),
                   filters=int(rng.choice([kinds[edge].shape[2], 2])))
        else:
            extend(str(rng.choice(["convolution", "max_pool", "sum_pool"])), edge)
    if len(unused) > 1:                     # somebody must take every result
        for edge in list(unused):
            extend("dense", edge, filters=3)
    while len(unused) > 1:
        join(*unused[:2])
    extend("dense", unused[0], output=ActivationFormat(12, True))
    return Model(name, image, tuple(layers), {"dataset": "random", "seed": 0})


def concat_model() -> Model:
    """A small model with a concatenation of three maps and a branch: version 3 of the format."""
    rng = np.random.default_rng(1)
    image = TensorType((6, 6, 2), ActivationFormat(5))
    conv = random_layer(rng, "convolution", image, random_map(rng, image, 4), name="conv",
                        kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1), k=(1, 2),
                        output=ActivationFormat(5))
    pool = MaxPool(name="pool", inputs=("conv",), kernel=(1, 1), stride=(1, 1))
    concat = Concat(name="concat", inputs=("pool", INPUT, "conv"), shifts=(0, 1, 0), bias=0,
                    shift=0, output=ActivationFormat(6))
    kind = TensorType((6, 6, 6), ActivationFormat(6))
    dense = random_layer(rng, "dense", kind, random_map(rng, kind, 4), name="dense",
                         inputs=("concat",), k=(1, 0, 1), output=ActivationFormat(12, True))
    return Model("concatenated", image, (conv, pool, concat, dense))


def residual_network(rng: Generator, size: int = 8, widths: Sequence[int] = (2, 4)) -> Model:
    """The shape of ResNet-8: residual blocks, of which all but the first halve the map."""
    image = TensorType((size, size, 3), ActivationFormat(8))
    kinds, maps = {INPUT: image}, {INPUT: random_map(rng, image, 2)}
    layers: list[Layer] = []
    u8 = ActivationFormat(8)

    def put(layer: Any) -> str:
        layers.append(layer)
        maps[layer.name] = golden.apply(layer, *(maps[edge] for edge in layer.inputs))
        kinds[layer.name] = TensorType(maps[layer.name].shape[1:], layer.output)
        return str(layer.name)

    def conv(name: str, edge: str, filters: int, kernel: int, stride: int) -> str:
        return put(random_layer(rng, "convolution", kinds[edge], maps[edge], name=name,
                                inputs=(edge,), kernel=(kernel, kernel), stride=(stride, stride),
                                padding=(kernel // 2,) * 4, k=[1, 2] * (filters // 2),
                                exponent_bits=3, output=u8))

    edge = conv("first", INPUT, widths[0], 3, 1)
    for n, filters in enumerate(widths):
        stride = 2 if n else 1
        main = conv(f"b{n}", conv(f"a{n}", edge, filters, 3, stride), filters, 3, 1)
        side = conv(f"side{n}", edge, filters, 1, 2) if n else edge
        edge = put(random_add(rng, [kinds[main], kinds[side]], [maps[main], maps[side]],
                              name=f"add{n}", inputs=(main, side), output=u8))
    edge = put(random_layer(rng, "sum_pool", kinds[edge], maps[edge], name="pool", inputs=(edge,),
                            kernel=(kinds[edge].shape[0], kinds[edge].shape[1]), stride=(1, 1),
                            output=u8))
    put(random_layer(rng, "dense", kinds[edge], maps[edge], name="dense", inputs=(edge,),
                     k=[1] * 10, exponent_bits=3, output=ActivationFormat(12, True)))
    return Model("resnet", image, tuple(layers), {})


def exchange(seed: int, model: Model, count: int) -> tuple[IntArray, list[list[int]], Frame]:
    """Random images, the logits that must come back, and the frames both are sent in."""
    images = random_images(np.random.default_rng(seed), model, count)
    return images, golden.run(model, images).tolist(), Frame.of(model)
