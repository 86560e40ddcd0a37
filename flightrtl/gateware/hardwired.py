# amaranth: UnusedElaboratable=no
# (An object is also the answer in NumPy: its parts need not become hardware.)
"""Hard-wired layers: the weights are wires, and a pixel with all its filters takes a cycle."""

from __future__ import annotations

from typing import Any

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import IntArray, _integer
from ..model import Convolution, Dense, TensorType
from ..shiftadd import AdderGraph, shift_add
from .buffer import StreamBuffer
from .mapstream import map_shape, map_signature
from .parallelrequantize import ParallelRequantizer
from .pixelwindow import PixelWindow
from .regroup import ChannelGatherer
from .shiftadd import ShiftAddGraph

__all__ = ["HardwiredConvolution", "HardwiredDense", "HardwiredLayer"]


class HardwiredLayer(wiring.Component):
    """A weighted layer as a pipeline: window, shift-add graph, requantizers of all filters.

    There is no weight memory, no scheduler and no accumulator. Weights may be of any format: what
    counts is how few signed powers of two they are, and how many sums of these the filters share.

    Cost: the sum of the parts. The first layer of the bundled MNIST model (8 filters of 5x5,
    stride 2, an image every 841 cycles): 2,306 LUT4 and 2 block RAMs on iCE40, 2,108 LUT4 on ECP5.
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
    stage : int
        Adders in a row between registers, see :class:`ShiftAddGraph`.
    graph : AdderGraph, optional
        Of the layer's weights, if it is there already: it takes a while to find.

    Members
    -------
    i : In(stream) of a map
        The input map, ``channels`` at a time, see :mod:`~flightrtl.gateware.mapstream`.
    o : Out(stream) of a map
        The output map, all filters of a pixel at a time.

    Raises
    ------
    ValueError
        If ``channels`` does not divide the input's, or ``graph`` is not of these weights.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, layer: Convolution | Dense, source: TensorType, *, channels: int = 0,
                 stage: int = 1, graph: AdderGraph | None = None) -> None:
        if not isinstance(layer, (Convolution, Dense)):
            raise TypeError(f"layer must be a Convolution or Dense, not {layer!r}")
        self.layer, self.source = layer, source
        self.channels = _integer(channels, "channels", 0, 1 << 12) or layer.channels
        weights = layer.weights.reshape(layer.filters, -1)
        graph = graph or shift_add(weights, source.format)
        if (graph.format != source.format or graph.weights.shape != weights.shape
                or (graph.weights != weights).any()):
            raise ValueError(f"layer {layer.name!r}: the graph computes other weights or takes "
                             "other activations: leave it out, or make it with shift_add")
        self.buffer = StreamBuffer(map_shape(source.format, channels=self.channels))
        self.gatherer = ChannelGatherer(source.format, channels=layer.channels,
                                        source=self.channels)
        self.window = PixelWindow(shape=source.shape, kernel=layer.kernel, stride=layer.stride,
                                  padding=layer.padding, format=source.format)
        self.sums = ShiftAddGraph(graph, stage=stage, raw=True)
        self.requantizer = ParallelRequantizer(
            ranges=self.sums.ranges, bias=layer.bias.tolist(), shift=layer.shift.tolist(),
            output=layer.output, factors=self.sums.factors)
        # Buffer, window, graph, requantizer.
        self.latency = 1 + 1 + graph.latency(self.sums.stage) + 2
        super().__init__({
            "i": In(map_signature(source.format, channels=self.channels)),
            "o": Out(map_signature(layer.output, channels=layer.filters)),
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
        wiring.connect(m, requantizer.o, wiring.flipped(self.o))
        return m


class HardwiredConvolution(HardwiredLayer):
    """A convolution, see :class:`HardwiredLayer`."""

    def __init__(self, layer: Convolution, source: TensorType, *, channels: int = 0,
                 stage: int = 1, graph: AdderGraph | None = None) -> None:
        if not isinstance(layer, Convolution):
            raise TypeError(f"layer must be a Convolution, not {layer!r}")
        super().__init__(layer, source, channels=channels, stage=stage, graph=graph)


class HardwiredDense(HardwiredLayer):
    """A dense layer: one window that covers the whole map, see :class:`HardwiredLayer`."""

    def __init__(self, layer: Dense, source: TensorType, *, channels: int = 0, stage: int = 1,
                 graph: AdderGraph | None = None) -> None:
        if not isinstance(layer, Dense):
            raise TypeError(f"layer must be a Dense, not {layer!r}")
        super().__init__(layer, source, channels=channels, stage=stage, graph=graph)
