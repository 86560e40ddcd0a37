# amaranth: UnusedElaboratable=no
# (An object is also the answer in NumPy: its parts need not become hardware.)
"""Engines: one convolution or dense layer, from stream to stream."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, signed_bits
from ..model import Convolution, Dense, WeightedLayer
from .array import PEArray
from .buffer import StreamBuffer
from .folding import FoldedLayer
from .loadablestream import LoadableStream, WriteSignature
from .mapstream import map_shape
from .parameters import ParameterStream
from .requantize import Requantizer
from .scheduler import FilterScheduler
from .shiftclamp import ShiftClamp
from .slotscheduler import SlotScheduler, slot_parameters
from .weights import RomStream, WeightBuffer, weight_layout, weight_words
from .window import SlidingWindow

__all__ = ["ConvolutionEngine", "DenseEngine", "LayerEngine", "accumulator_bits", "filter_offsets",
           "parameter_words", "sum_range"]


def filter_offsets(layer: WeightedLayer, offsets: IntArray) -> IntArray:
    """What the array's sum of each filter is more than it should be: the bias takes it away.

    ``offsets`` says by how much a product is, by its weight's code
    (:attr:`FoldedLayer.offsets`).
    """
    total = np.zeros(layer.filters, np.int64)
    np.add.at(total, layer.slot_filter, offsets[layer.terms].sum(axis=(1, 2, 3)))
    return total


def sum_range(layer: WeightedLayer, source: ActivationFormat,
              offsets: IntArray) -> tuple[int, int]:
    """Least and greatest value of any accumulator of the array, at any time, in any filter.

    That is the layer's own range, but for what each product is off by, and with every partial sum
    counted too.
    """
    terms = layer.term_values
    ends = np.stack([terms * source.min, terms * source.max]) + offsets[layer.terms]
    low, high = np.zeros(layer.filters, np.int64), np.zeros(layer.filters, np.int64)
    np.add.at(low, layer.slot_filter, np.minimum(ends.min(axis=0), 0).sum(axis=(1, 2, 3)))
    np.add.at(high, layer.slot_filter, np.maximum(ends.max(axis=0), 0).sum(axis=(1, 2, 3)))
    return int(low.min(initial=0)), int(high.max(initial=0))


def accumulator_bits(folded: FoldedLayer) -> int:
    """Width of an engine's accumulators."""
    if folded.capacity is not None:
        return folded.capacity.width
    return signed_bits(*sum_range(folded.layer, folded.source.format, folded.offsets))


def _biases(folded: FoldedLayer) -> list[int]:
    """What is added to the array's sum of each filter."""
    layer = folded.layer
    bias = layer.bias - filter_offsets(layer, folded.offsets)
    return [int(value) for value in bias]


def parameter_words(folded: FoldedLayer) -> list[int]:
    """What the memory of parameters of a loadable engine holds, slot by slot."""
    layer, capacity = folded.layer, folded.capacity
    assert capacity is not None
    biases, shifts = _biases(folded), (layer.shift - capacity.least).tolist()
    size = layer.filters // layer.groups
    words: list[int] = []
    for group, passes in enumerate(folded.group_passes):
        its = slice(group * size, (group + 1) * size)
        words += slot_parameters(layer.k[its], biases[its], shifts[its],
                                 passes * folded.folding.lanes, capacity.width)
    return words


class LayerEngine(wiring.Component):
    """A weighted layer as a pipeline: window and weights, array, scheduler, requantizer.

    Nothing in it multiplies, unless its folding says ``dsp``. It works on windows without a pause
    as long as pixels arrive and results leave in time, over the edges of rows and images too: its
    busy cycles for an image are :attr:`FoldedLayer.cycles`, and with enough input it starts an
    image every so many.

    With a capacity (:class:`FoldedLayer`), all that depends on the training is in block RAM: the
    weights in a :class:`LoadableStream`, bias, shift and the marks of each slot in a
    :class:`ParameterStream`, for a :class:`SlotScheduler` and a :class:`ShiftClamp`.

    Cost: the sum of the parts; 3 lanes of 4 terms for 24 filters of 3x3x16 weights measure 1,054
    LUT4 and 8 block RAMs on iCE40, 1,070 and 3 on ECP5. Latency: an output pixel leaves
    ``latency`` cycles after the last word of its window left the window buffer. Throughput:
    ``pixels`` output pixels every :attr:`FoldedLayer.cycles_per_pixel` cycles.

    Parameters
    ----------
    folded : FoldedLayer
        The layer, what feeds it, and how it is folded.
    register : bool
        A register behind each memory, see :class:`~flightrtl.gateware.weights.RomStream`.
    number : int, optional
        Of the memory of weights, to write it; the parameters' is the next one. Needs
        ``folded.capacity``.

    Members
    -------
    i : In(stream) of the source's activation
        The input map by row, column, channel; ``folded.source_pixels`` pixels at a time.
    o : Out(stream) of the layer's activation
        The output map by row, column, filter; ``folded.folding.pixels`` pixels at a time. See
        :func:`~flightrtl.gateware.mapstream.map_shape`.
    write : In(WriteSignature)
        With ``number`` only: into the memories, while the engine is in reset.
    """

    i: stream.Interface
    o: stream.Interface
    write: Any

    def __init__(self, folded: FoldedLayer, *, register: bool = False,
                 number: int | None = None) -> None:
        layer, source, folding = folded.layer, folded.source, folded.folding
        self.folded = folded
        self.number = number
        if number is not None and folded.capacity is None:
            raise ValueError(f"layer {layer.name!r}: only an engine with a capacity can be written")
        self.window = SlidingWindow(
            shape=source.shape, kernel=layer.kernel, stride=layer.stride, padding=layer.padding,
            simd=folding.simd, column=folding.column, passes=folded.group_passes,
            rows=folding.rows, register=register, format=source.format,
            pixels=folding.pixels, source_pixels=folded.source_pixels)
        self.weights: RomStream
        self.parameters: ParameterStream | None = None
        width = accumulator_bits(folded)
        self.scheduler: FilterScheduler | SlotScheduler
        self.requantizer: Requantizer | ShiftClamp
        if folded.capacity is None:
            low, high = sum_range(layer, source.format, folded.offsets)
            self.weights = WeightBuffer(folded, register=register)
            self.scheduler = FilterScheduler(k=layer.k, lanes=folding.lanes, width=width,
                                             pixels=folding.pixels, groups=layer.groups)
            self.requantizer = Requantizer(low=low, high=high, bias=_biases(folded),
                                           shift=layer.shift.tolist(), output=layer.output,
                                           pixels=folding.pixels, register=register)
        else:
            shift_bits = folded.capacity.shift_bits
            self.weights = LoadableStream(weight_layout(folded), weight_words(folded),
                                          register=register, number=number)
            self.parameters = ParameterStream(
                parameter_words(folded), width=width, shift_bits=shift_bits,
                parts=folded.parameter_parts, register=register,
                number=None if number is None else number + 1)
            self.scheduler = SlotScheduler(width=width, shift_bits=shift_bits,
                                           pixels=folding.pixels)
            self.requantizer = ShiftClamp(
                width=width, least=folded.capacity.least, shift_bits=shift_bits,
                output=layer.output, pixels=folding.pixels)
        self.array = PEArray(lanes=folding.lanes, simd=folding.simd, width=width,
                             activation=source.format, term=folded.term,
                             pixels=folding.pixels, dsp=folding.dsp)
        self.buffer = StreamBuffer(map_shape(layer.output, pixels=folding.pixels))
        # Array; the first slot's place in the chain; scheduler; requantizer; buffer.
        self.latency = self.array.latency + folding.lanes + 1 + self.requantizer.latency + 1
        super().__init__({
            "i": In(self.window.i.signature.flip()),
            "o": Out(self.buffer.o.signature),
            **({} if number is None else {"write": In(WriteSignature())}),
        })

    def compute(self, images: ArrayLike) -> IntArray:
        """Maps (n, height, width, filters) of (n, height, width, channels) inputs.

        Goes the hardware's way: words, inverted products, passes, drain.
        """
        folded, layer = self.folded, self.folded.layer
        words = self.window.compute(images)
        n, rows, columns = words.shape[:3]
        terms = folded.words_of_terms.reshape(folded.passes, folded.words, -1,
                                              folded.folding.simd)
        parts = words.reshape(-1, layer.groups, folded.words, folded.folding.simd)
        groups = np.repeat(np.arange(layer.groups), folded.group_passes)
        sums = [self.array.compute(pixel[group], one_pass) for pixel in parts
                for group, one_pass in zip(groups, terms, strict=True)]
        if isinstance(self.scheduler, FilterScheduler):
            assert isinstance(self.requantizer, Requantizer)
            filters = self.scheduler.compute(np.array(sums).ravel().tolist())
            results = self.requantizer.compute(filters)
        else:
            assert self.parameters is not None
            assert isinstance(self.requantizer, ShiftClamp)
            results = self.requantizer.compute(*self.scheduler.compute(
                np.array(sums).reshape(len(parts), -1), self.parameters.words))
        return results.reshape(n, rows, columns, layer.filters)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.window = window = self.window
        m.submodules.weights = weights = self.weights
        m.submodules.array = array = self.array
        m.submodules.scheduler = scheduler = self.scheduler
        m.submodules.requantizer = requantizer = self.requantizer
        m.submodules.buffer = buffer = self.buffer
        wiring.connect(m, wiring.flipped(self.i), window.i)
        # The weights are there before the first word of a window can be, and from then on always:
        # so the window, which may lie far from their memories, does not ask.
        m.d.comb += [
            array.i.valid.eq(window.o.valid),
            window.o.ready.eq(array.i.ready),
            weights.o.ready.eq(array.i.ready & window.o.valid),
            array.i.payload.activations.eq(window.o.payload.activations),
            array.i.payload.terms.eq(weights.o.payload),
            array.i.payload.last.eq(window.o.payload.last),
        ]
        wiring.connect(m, array.o, scheduler.i)
        if self.parameters is not None:
            assert isinstance(scheduler, SlotScheduler)
            m.submodules.parameters = self.parameters
            wiring.connect(m, self.parameters.o, scheduler.parameters)
        if self.number is not None:
            assert self.parameters is not None
            assert isinstance(weights, LoadableStream)
            wiring.connect(m, wiring.flipped(self.write), weights.write)
            wiring.connect(m, wiring.flipped(self.write), self.parameters.write)
        wiring.connect(m, scheduler.o, requantizer.i)
        if isinstance(requantizer, Requantizer):
            # A result that is held up, as a register: from here scheduler and array are stopped.
            stall = Signal()
            m.d.sync += stall.eq(requantizer.follows & buffer.fills)
            m.d.comb += [
                buffer.i.valid.eq(requantizer.o.valid),
                buffer.i.payload.eq(requantizer.o.payload),
                requantizer.o.ready.eq(~stall),
            ]
        else:
            wiring.connect(m, requantizer.o, buffer.i)
        wiring.connect(m, buffer.o, wiring.flipped(self.o))
        return m


class ConvolutionEngine(LayerEngine):
    """A convolution, see :class:`LayerEngine`."""

    def __init__(self, folded: FoldedLayer, *, register: bool = False,
                 number: int | None = None) -> None:
        if not isinstance(folded.layer, Convolution):
            raise TypeError(f"layer must be a Convolution, not {folded.layer!r}")
        super().__init__(folded, register=register, number=number)


class DenseEngine(LayerEngine):
    """A dense layer: one window that covers the whole map, see :class:`LayerEngine`."""

    def __init__(self, folded: FoldedLayer, *, register: bool = False,
                 number: int | None = None) -> None:
        if not isinstance(folded.layer, Dense):
            raise TypeError(f"layer must be a Dense, not {folded.layer!r}")
        super().__init__(folded, register=register, number=number)
