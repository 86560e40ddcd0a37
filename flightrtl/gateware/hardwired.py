# amaranth: UnusedElaboratable=no
# (An object is also the answer in NumPy: its parts need not become hardware.)
"""Hard-wired layers: the weights are wires, and a pixel with all its filters takes a cycle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, _integer
from ..model import Convolution, Dense, TensorType
from ..shiftadd import AdderGraph, shift_add
from .buffer import StreamBuffer
from .mapstream import map_shape, map_signature
from .parallelrequantize import ParallelRequantizer
from .pixelwindow import PixelWindow
from .regroup import ChannelGatherer, ChannelSerializer
from .shiftadd import ShiftAddGraph

__all__ = ["Hardwired", "HardwiredConvolution", "HardwiredDense", "HardwiredLayer"]


@dataclass(frozen=True)
class Hardwired:
    """That a layer of a network is hard-wired, in place of a folding.

    Parameters
    ----------
    pixels : int
        Neighbouring output pixels that leave at a time, filter by filter; divides the width of the
        output map. A pixel of all filters is computed in a cycle, but takes ``filters / pixels``
        cycles to leave.
    stage : int
        Adders in a row between registers, 1 or more.
    """

    pixels: int = 1
    stage: int = 1

    def __post_init__(self) -> None:
        _integer(self.pixels, "pixels", 1, 1 << 12)
        _integer(self.stage, "stage", 1, 1 << 16)


@lru_cache(maxsize=32)
def _graph(weights: bytes, dtype: str, shape: tuple[int, int],
           format: ActivationFormat) -> AdderGraph:
    """That of a layer's weights: a planner asks for it several times, and it takes seconds."""
    return shift_add(np.frombuffer(weights, dtype).reshape(shape), format)


class HardwiredLayer(wiring.Component):
    """A weighted layer as a pipeline: window, shift-add graph, requantizers of all filters.

    There is no weight memory, no scheduler and no accumulator. Weights may be of any format: what
    counts is how few signed powers of two they are, and how many sums of these the filters share.

    Cost: the sum of the parts. The first layer of the bundled MNIST model (8 filters of 5x5,
    stride 2, an image every 841 cycles): 2,168 LUT4 and 2 block RAMs on iCE40, 1,935 LUT4 on ECP5.
    Latency: an output pixel is valid :attr:`latency` cycles after the transfer that completes its
    window. Throughput: a position of the raster per cycle, :attr:`PixelWindow.cycles` for an
    image, if pixels arrive that fast.

    Parameters
    ----------
    layer : Convolution or Dense
        The layer.
    source : TensorType
        What feeds it.
    channels : int
        Input channels in a transfer, a divisor of all; 0 for all of them. With fewer, a pixel
        takes several cycles to arrive.
    pixels : int
        Output pixels in a transfer.
    filters : int
        Filters in a transfer, a divisor of all; 0 for all of them. With several pixels or fewer
        filters, a :class:`~flightrtl.gateware.regroup.ChannelSerializer` is at the end; it adds a
        cycle of latency.
    stage : int
        Adders in a row between registers, see :class:`ShiftAddGraph`.
    register : bool
        A :class:`~flightrtl.gateware.buffer.StreamBuffer` behind the requantizers, for large
        devices: what stops the pipeline, all at once, is then one gate behind registers. Adds a
        cycle of latency.
    graph : AdderGraph, optional
        Of the layer's weights, if it is there already: it takes a while to find.

    Members
    -------
    i : In(stream) of a map
        The input map, ``channels`` at a time, see :mod:`~flightrtl.gateware.mapstream`.
    o : Out(stream) of a map
        The output map, ``filters`` of ``pixels`` pixels at a time.

    Raises
    ------
    ValueError
        If ``channels`` does not divide the input's, ``filters`` the output's or ``pixels`` its
        width, or if ``graph`` is not of these weights.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, layer: Convolution | Dense, source: TensorType, *, channels: int = 0,
                 pixels: int = 1, filters: int = 0, stage: int = 1, register: bool = False,
                 graph: AdderGraph | None = None) -> None:
        if not isinstance(layer, (Convolution, Dense)):
            raise TypeError(f"layer must be a Convolution or Dense, not {layer!r}")
        self.layer, self.source = layer, source
        self.channels = _integer(channels, "channels", 0, 1 << 12) or layer.source_channels
        self.pixels = _integer(pixels, "pixels", 1, 1 << 12)
        self.filters = _integer(filters, "filters", 0, 1 << 12) or layer.filters
        width = layer.output_shape(source.shape)[1]
        if layer.filters % self.filters or width % pixels:
            raise ValueError(f"layer {layer.name!r}: filters={filters} must divide its "
                             f"{layer.filters} filters, and pixels={pixels} the {width} columns of "
                             "its result")
        weights = layer.dense_weights.reshape(layer.filters, -1)
        graph = graph or _graph(weights.tobytes(), weights.dtype.str, weights.shape, source.format)
        if (graph.format != source.format or graph.weights.shape != weights.shape
                or (graph.weights != weights).any()):
            raise ValueError(f"layer {layer.name!r}: the graph computes other weights or takes "
                             "other activations: leave it out, or make it with shift_add")
        self.buffer = StreamBuffer(map_shape(source.format, channels=self.channels))
        self.gatherer = ChannelGatherer(source.format, channels=layer.source_channels,
                                        source=self.channels)
        self.window = PixelWindow(shape=source.shape, kernel=layer.kernel, stride=layer.stride,
                                  padding=layer.padding, format=source.format,
                                  elastic=not register)
        self.sums = ShiftAddGraph(graph, stage=stage, raw=True, elastic=not register)
        self.requantizer = ParallelRequantizer(
            ranges=self.sums.ranges, bias=layer.bias.tolist(), shift=layer.shift.tolist(),
            output=layer.output, factors=self.sums.factors)
        self.decouple = (StreamBuffer(map_shape(layer.output, channels=layer.filters))
                         if register else None)
        self.serializer = (None if pixels == 1 and self.filters == layer.filters else
                           ChannelSerializer(layer.output, source=layer.filters,
                                             channels=self.filters, pixels=pixels))
        # Buffer, window, graph, requantizer, buffer, serializer.
        self.latency = (1 + 1 + graph.latency(self.sums.stage) + 2 + (self.decouple is not None)
                        + (self.serializer is not None))
        super().__init__({
            "i": In(map_signature(source.format, channels=self.channels)),
            "o": Out(map_signature(layer.output, pixels=pixels, channels=self.filters)),
        })

    def compute(self, images: ArrayLike) -> IntArray:
        """Maps (n, height, width, filters) of (n, height, width, channels) inputs.

        Goes the hardware's way: windows, adders, requantizers.
        """
        return self.requantizer.compute(self.sums.compute(self.window.compute(images)))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.buffer = buffer = self.buffer
        m.submodules.gatherer = gatherer = self.gatherer
        m.submodules.window = window = self.window
        m.submodules.sums = sums = self.sums
        m.submodules.requantizer = requantizer = self.requantizer
        wiring.connect(m, wiring.flipped(self.i), buffer.i)
        wiring.connect(m, buffer.o, gatherer.i)
        wiring.connect(m, gatherer.o, window.i)
        wiring.connect(m, window.o, sums.i)
        wiring.connect(m, sums.o, requantizer.i)
        last = requantizer.o
        if self.decouple is not None:
            m.submodules.decouple = self.decouple
            wiring.connect(m, last, self.decouple.i)
            last = self.decouple.o
        if self.serializer is not None:
            m.submodules.serializer = self.serializer
            wiring.connect(m, last, self.serializer.i)
            last = self.serializer.o
        wiring.connect(m, last, wiring.flipped(self.o))
        return m


class HardwiredConvolution(HardwiredLayer):
    """A convolution, see :class:`HardwiredLayer`."""

    def __init__(self, layer: Convolution, source: TensorType, *, channels: int = 0,
                 pixels: int = 1, filters: int = 0, stage: int = 1, register: bool = False,
                 graph: AdderGraph | None = None) -> None:
        if not isinstance(layer, Convolution):
            raise TypeError(f"layer must be a Convolution, not {layer!r}")
        super().__init__(layer, source, channels=channels, pixels=pixels, filters=filters,
                         stage=stage, register=register, graph=graph)


class HardwiredDense(HardwiredLayer):
    """A dense layer: one window that covers the whole map, see :class:`HardwiredLayer`."""

    def __init__(self, layer: Dense, source: TensorType, *, channels: int = 0,
                 filters: int = 0, stage: int = 1, register: bool = False,
                 graph: AdderGraph | None = None) -> None:
        if not isinstance(layer, Dense):
            raise TypeError(f"layer must be a Dense, not {layer!r}")
        super().__init__(layer, source, channels=channels, filters=filters, stage=stage,
                         register=register, graph=graph)
