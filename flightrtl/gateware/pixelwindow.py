"""The pixel window: a whole kernel window of an image in every cycle."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, _integer
from .mapstream import map_signature, map_values
from .pe import activation_shape
from .ram import DualPortRam

__all__ = ["PixelWindow", "PixelWindowAxis"]


class PixelWindowAxis:
    """Positions along one axis: those of the image, and those of padding behind it.

    Padding before the image takes no cycle: the window is cleared instead.

    Parameters
    ----------
    size, kernel, stride : int
        Of this axis.
    before, after : int
        Padding.
    """

    def __init__(self, size: int, kernel: int, stride: int, before: int, after: int) -> None:
        self.size, self.stride = size, stride
        self.outputs = (size + before + after - kernel) // stride + 1
        self.first = kernel - 1 - before
        """Position at which the first window is complete."""
        self.steps = max(size, self.first + (self.outputs - 1) * stride + 1)
        """Positions, as far as windows or the image need them."""

    def complete(self, position: int) -> bool:
        """Whether a window ends at this position."""
        return position >= self.first and (position - self.first) % self.stride == 0


class _Position:
    """Where a raster is along one axis. All that is asked for comes from registers."""

    def __init__(self, m: Module, axis: PixelWindowAxis, step: Value, name: str) -> None:
        end = axis.steps
        self.position = position = Signal(range(end), name=name)
        self.last = Signal(name=f"{name}_last", init=end == 1)
        self.starts = Signal(name=f"{name}_starts", init=1)
        self.real = Signal(name=f"{name}_real", init=1)
        self.complete = Signal(name=f"{name}_complete", init=axis.first == 0)
        self.following = Signal(range(end), name=f"{name}_following")
        m.d.comb += self.following.eq(Mux(self.last, 0, position + 1))
        wait = Signal(range(max(axis.first, axis.stride - 1) + 1), name=f"{name}_wait",
                      init=axis.first)
        with m.If(step):
            m.d.sync += [
                position.eq(self.following), self.starts.eq(self.last),
                self.last.eq(end == 1 if end < 2 else position == end - 2),
                self.complete.eq(wait == 1), wait.eq(wait - 1),
            ]
            with m.If(position == axis.size - 1):
                m.d.sync += self.real.eq(0)
            with m.If(wait == 0):
                m.d.sync += [wait.eq(axis.stride - 1), self.complete.eq(axis.stride == 1)]
            with m.If(self.last):
                m.d.sync += [self.real.eq(1), wait.eq(axis.first),
                             self.complete.eq(axis.first == 0)]


class PixelWindow(wiring.Component):
    """Windows of an image that arrives a whole pixel at a time, each window in one transfer.

    The rows above the current one are in a memory, one word for each column; a step reads the
    word, puts the pixel below it and writes it back a row higher. The window itself is shift
    registers. Padding above and to the left is a window that starts empty; for padding below and
    to the right the raster goes on for as many rows and columns as windows reach into it, so that
    an image's last windows do not wait for the next image.

    Cost: ``kernel height * kernel width * channels`` activations in registers, a memory of
    (``kernel height`` - 1) image rows, and counters. 5x5 windows, stride 2, of 28x28 pixels of 8
    bits: 44 LUT4, 226 flip-flops and 2 block RAMs on iCE40; 211 LUT4 (128 of them distributed RAM)
    and 258 flip-flops on ECP5 (``python -m benchmarks components``). Latency: a window is valid 1
    cycle after its last pixel was taken. Throughput: a position of the raster per cycle,
    :attr:`cycles` for an image.

    Parameters
    ----------
    shape : (int, int, int)
        Image height, width, channels.
    kernel, stride : (int, int)
        Vertical, horizontal.
    padding : (int, int, int, int)
        Rows above and below, columns left and right; each less than the kernel.
    format : ActivationFormat
        Activations.
    elastic : bool
        Whether it also moves on while nothing is at the output. If not, ``o.ready`` alone moves it,
        which must then not wait for ``o.valid``: a gate less on the way of ``ready``.

    Members
    -------
    i : In(stream) of array
        The image, all channels of a pixel in a transfer, see
        :func:`~flightrtl.gateware.mapstream.map_shape`.
    o : Out(stream) of array
        A window by kernel row, kernel column, channel.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, shape: tuple[int, int, int], kernel: tuple[int, int],
                 stride: tuple[int, int] = (1, 1),
                 padding: tuple[int, int, int, int] = (0, 0, 0, 0),
                 format: ActivationFormat = ActivationFormat(), elastic: bool = True) -> None:
        self.shape = tuple(_integer(n, "shape", 1, 1 << 16) for n in shape)
        self.kernel = tuple(_integer(n, "kernel", 1, 1 << 16) for n in kernel)
        self.stride = tuple(_integer(n, "stride", 1, 1 << 16) for n in stride)
        self.padding = tuple(_integer(n, "padding", 0, 1 << 16) for n in padding)
        self.format, self.elastic = format, elastic
        height, width, channels = self.shape
        top, bottom, left, right = self.padding
        if height + top + bottom < self.kernel[0] or width + left + right < self.kernel[1]:
            raise ValueError(f"kernel {self.kernel} is larger than the padded image "
                             f"{height + top + bottom} x {width + left + right}")
        if max(top, bottom) >= self.kernel[0] or max(left, right) >= self.kernel[1]:
            raise ValueError(f"padding {self.padding} must be less than the kernel {self.kernel}")
        self.rows = PixelWindowAxis(height, self.kernel[0], self.stride[0], top, bottom)
        self.columns = PixelWindowAxis(width, self.kernel[1], self.stride[1], left, right)
        self.output = self.rows.outputs, self.columns.outputs
        super().__init__({
            "i": In(map_signature(format, channels=channels)),
            "o": Out(stream.Signature(data.ArrayLayout(
                activation_shape(format), self.kernel[0] * self.kernel[1] * channels))),
        })

    @property
    def cycles(self) -> int:
        """Cycles for an image when nothing holds them up."""
        return self.rows.steps * self.columns.steps

    @property
    def memory_bits(self) -> int:
        """Bits of image rows that are kept."""
        return (self.kernel[0] - 1) * self.shape[1] * self.shape[2] * self.format.bits

    def compute(self, images: ArrayLike) -> IntArray:
        """Windows of (n, height, width, channels) images: (n, rows, columns, taps)."""
        top, bottom, left, right = self.padding
        padded = np.pad(np.asarray(images, np.int64),
                        ((0, 0), (top, bottom), (left, right), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.kernel, axis=(1, 2))
        windows = windows[:, ::self.stride[0], ::self.stride[1]].transpose(0, 1, 2, 4, 5, 3)
        return windows.reshape(*windows.shape[:3], -1)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        (height, width), (_, _, channels) = self.kernel, self.shape
        bits = channels * self.format.bits  # of a pixel
        step, row_ends, advance = Signal(), Signal(), Signal()
        x = _Position(m, self.columns, step, "x")
        y = _Position(m, self.rows, row_ends, "y")
        real = Signal()
        m.d.comb += [
            advance.eq(self.o.ready | (~self.o.valid if self.elastic else 0)),
            real.eq(x.real & y.real),
            self.i.ready.eq(advance & real),
            step.eq(advance & (self.i.valid | ~real)),
            row_ends.eq(step & x.last),
        ]
        with m.If(advance):
            m.d.sync += self.o.valid.eq(step & x.complete & y.complete)

        # Which rows of a window's newest column lie on the image, from the top down.
        above = Signal(height - 1)
        inside = Cat(above, y.real)
        with m.If(row_ends):
            m.d.sync += above.eq(Mux(y.last, 0, inside[1:]))

        pixel = Cat(*(Value.cast(value) for value in map_values(self.i.payload)))
        newest = Cat(self._rows_above(m, step, x, pixel), pixel)
        window = [[Signal(bits, name=f"window_{row}_{column}", reset_less=True)
                   for column in range(width)] for row in range(height)]
        with m.If(step):
            for row, registers in enumerate(window):
                for column in range(width - 1):
                    m.d.sync += registers[column].eq(registers[column + 1])
                with m.If(x.starts):
                    m.d.sync += [register.eq(0) for register in registers[:-1]]
                m.d.sync += registers[-1].eq(newest[row * bits:(row + 1) * bits])
                with m.If(~(inside[row] & x.real)):
                    m.d.sync += registers[-1].eq(0)
        m.d.comb += Value.cast(self.o.payload).eq(
            Cat(*(register for registers in window for register in registers)))
        return m

    def _rows_above(self, m: Module, step: Value, x: _Position, pixel: Value) -> Value:
        """The pixels above the current one, from the top down; keeps them up to date."""
        bits = len(pixel)
        size = (self.kernel[0] - 1) * bits
        if not size:
            return Const(0, 0)
        if self.columns.steps == 1:
            column = Signal(size, reset_less=True)
            with m.If(step):
                m.d.sync += column.eq(Cat(column[bits:], pixel))
            return column
        # The word that is read is that of the next column, and so never the one that is written.
        m.submodules.rows = ram = DualPortRam(size, self.shape[1])
        write, read = ram.write, ram.read
        m.d.comb += [
            write.addr.eq(x.position), write.data.eq(Cat(read.data[bits:], pixel)),
            write.en.eq(step & x.real), read.addr.eq(x.following), read.en.eq(step),
        ]
        return read.data
