"""Pooling of a raster stream: the largest value, or the sum, of each window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from amaranth import Module, Mux, Shape, ShapeLike, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, _integer, requantize, signed_bits
from .pe import activation_shape

__all__ = ["MaxPooling", "SumPooling"]


def _pair(value: tuple[int, int], name: str, high: tuple[int, int]) -> tuple[int, int]:
    """``value`` as two integers, each from 1 to that of ``high``."""
    try:
        vertical, horizontal = value
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a pair (vertical, horizontal), not {value!r}") from None
    return (_integer(vertical, f"{name} (vertical)", 1, high[0]),
            _integer(horizontal, f"{name} (horizontal)", 1, high[1]))


def _outputs(size: int, kernel: int, stride: int) -> int:
    """Windows along one axis."""
    return (size - kernel) // stride + 1


class _Axis:
    """Where a raster is along one axis, and what that means for the windows there."""

    def __init__(self, m: Module, step: Value, size: int, kernel: int, stride: int,
                 name: str) -> None:
        position = Signal(range(size), name=name)
        phase = Signal(range(stride), name=f"{name}_phase")
        outputs = _outputs(size, kernel, stride)
        self.last = position == size - 1
        self.wraps = phase == stride - 1
        self.starts = phase == 0
        # Windows end at kernel - 1 + n * stride; the second half only matters if they overlap.
        self.ends = (phase == (kernel - 1) % stride) & (position >= kernel - 1)
        self.used = (phase < kernel) & (position < outputs * stride)
        with m.If(step):
            m.d.sync += [
                position.eq(Mux(self.last, 0, position + 1)),
                phase.eq(Mux(self.last | self.wraps, 0, phase + 1)),
            ]


class _Fold(wiring.Component):
    """Combines the values of each window that does not overlap its neighbour in the same row.

    Each open window has an accumulator in a memory, ``columns * channels`` words deep. Windows of
    one column that overlap vertically are words side by side: the chain moves on by one at each
    row in which a window starts, and the last of them is the one that ends next.

    Latency: 2 cycles from the last value of a window. Throughput: one value per cycle.

    Parameters
    ----------
    shape, kernel, stride
        As in :class:`MaxPooling`; ``kernel[1] <= stride[1]``.
    value, accumulator, result : shape-like
        What comes in, what is stored, what goes out.
    initial : int
        The empty window.
    combine, finish : callable
        Accumulator and value to accumulator; accumulator to result.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, shape: tuple[int, int, int], kernel: tuple[int, int],
                 stride: tuple[int, int], value: ShapeLike, accumulator: ShapeLike,
                 result: ShapeLike, initial: int, combine: Callable[[Value, Value], Value],
                 finish: Callable[[Value], Value]) -> None:
        self.shape, self.kernel, self.stride = shape, kernel, stride
        self.accumulator, self.initial = accumulator, initial
        self.combine, self.finish = combine, finish
        super().__init__({"i": In(stream.Signature(value)), "o": Out(stream.Signature(result))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        height, width, channels = self.shape
        count = -(-self.kernel[0] // self.stride[0])

        # Where the value at the input stands.
        step = Signal()
        m.d.comb += step.eq(self.i.valid & self.i.ready)
        channel = Signal(range(channels))
        last = channel == channels - 1
        with m.If(step):
            m.d.sync += channel.eq(Mux(last, 0, channel + 1))
        x = _Axis(m, step & last, width, self.kernel[1], self.stride[1], "x")
        y = _Axis(m, step & last & x.last, height, self.kernel[0], self.stride[0], "y")

        # Its accumulators' address: every column of a window goes through the same ones.
        depth = _outputs(width, self.kernel[1], self.stride[1]) * channels
        address, base = Signal(range(depth)), Signal(range(depth))
        with m.If(step):
            m.d.sync += address.eq(address + 1)
            with m.If(last & x.last):
                m.d.sync += [address.eq(0), base.eq(0)]
            with m.Elif(last & x.wraps):
                m.d.sync += base.eq(address + 1)
            with m.Elif(last):
                m.d.sync += address.eq(base)

        # First stage: the value beside its accumulators, as they were before.
        #
        # An asynchronous read port with a register behind it, and no_rw_check: a synchronous port
        # promises the old word when it is written in the same cycle, for which Yosys adds logic.
        # Here nobody looks at such a word. With two or more channels, two values that follow each
        # other have different addresses; with one, `previous` stands in.
        word = data.ArrayLayout(self.accumulator, count)
        memory: Memory[Any, Any] = Memory(shape=word, depth=depth, init=[],
                                     attrs={"no_rw_check": "1"})
        m.submodules.memory = memory
        read = memory.read_port(domain="comb")
        write = memory.write_port()
        full, starts, ends = Signal(), Signal(), Signal()
        value = Signal.like(self.i.payload, reset_less=True)
        stored = Signal(word, reset_less=True)
        m.d.comb += read.addr.eq(address)
        with m.If(self.i.ready):
            m.d.sync += [
                full.eq(self.i.valid & x.used),
                starts.eq(x.starts & y.starts),
                ends.eq(x.ends & y.ends),
                value.eq(self.i.payload),
                stored.eq(read.data),
                write.addr.eq(address),
            ]
        before = Signal(word)
        m.d.comb += before.eq(stored)
        if channels == 1:
            again = Signal()
            previous = Signal(word, reset_less=True)
            with m.If(self.i.ready):
                m.d.sync += again.eq(full & (address == write.addr))
            with m.If(write.en):
                m.d.sync += previous.eq(write.data)
            with m.If(again):
                m.d.comb += before.eq(previous)

        # Second stage: combine, store, and emit where the window ends.
        done = ~ends | ~self.o.valid | self.o.ready
        m.d.comb += [self.i.ready.eq(~full | done), write.en.eq(full & done)]
        for n in range(count):
            shifted = before[n - 1] if n else self.initial
            m.d.comb += write.data[n].eq(self.combine(Mux(starts, shifted, before[n]), value))
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [
                self.o.valid.eq(full & ends),
                self.o.payload.eq(self.finish(write.data[count - 1])),
            ]
        return m


class _Pooling(wiring.Component):
    """What max- and sum-pooling share."""

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, shape: tuple[int, int, int], kernel: tuple[int, int],
                 stride: tuple[int, int], format: ActivationFormat,
                 output: ActivationFormat) -> None:
        try:
            height, width, channels = shape
        except (TypeError, ValueError):
            raise TypeError(f"shape must be (height, width, channels), not {shape!r}") from None
        limit = 1 << 16
        self.shape = (_integer(height, "height", 1, limit), _integer(width, "width", 1, limit),
                      _integer(channels, "channels", 1, limit))
        self.kernel = _pair(kernel, "kernel", (height, width))
        self.stride = _pair(stride, "stride", (limit, limit))
        self.format = format
        self.output = output
        super().__init__({
            "i": In(stream.Signature(activation_shape(format))),
            "o": Out(stream.Signature(activation_shape(output))),
        })

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the result."""
        return (_outputs(self.shape[0], self.kernel[0], self.stride[0]),
                _outputs(self.shape[1], self.kernel[1], self.stride[1]), self.shape[2])

    def _windows(self, images: ArrayLike) -> IntArray:
        """The windows of ``images``: (images, rows, columns, channels, kernel, kernel)."""
        maps = np.asarray(images, np.int64)
        if maps.shape[1:] != self.shape:
            raise ValueError(f"images must have shape (N, {', '.join(map(str, self.shape))}), "
                             f"not {maps.shape}")
        windows = sliding_window_view(maps, self.kernel, axis=(1, 2))
        return windows[:, ::self.stride[0], ::self.stride[1]]

    # What a kind of pooling is made of.

    _empty: int
    """A window without values."""

    _initial: int
    """The same where the last stage starts."""

    def _accumulator(self, values: int, initial: int) -> Shape:
        """Shape that holds ``initial`` combined with up to ``values`` values."""
        raise NotImplementedError

    def _combine(self, accumulator: Value, value: Value) -> Value:
        raise NotImplementedError

    def _finish(self, accumulator: Value) -> Value:
        return accumulator

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        height, width, channels = self.shape
        kernel, stride = self.kernel, self.stride
        source: Any = wiring.flipped(self.i)
        if kernel[1] > stride[1]:
            # Windows overlap in a row: fold along rows first. A row of pixels is to this stage
            # what an image one pixel wide is to the next, so that both are the same component.
            partial = self._accumulator(kernel[1], self._empty)
            m.submodules.columns = columns = _Fold(
                shape=(width, 1, channels), kernel=(kernel[1], 1), stride=(stride[1], 1),
                value=activation_shape(self.format), accumulator=partial, result=partial,
                initial=self._empty, combine=self._combine, finish=lambda value: value)
            wiring.connect(m, source, columns.i)
            width, kernel, stride = self.output_shape[1], (kernel[0], 1), (stride[0], 1)
            source = columns.o
        m.submodules.rows = rows = _Fold(
            shape=(height, width, channels), kernel=kernel, stride=stride,
            value=source.payload.shape(), result=activation_shape(self.output),
            accumulator=self._accumulator(self.kernel[0] * self.kernel[1], self._initial),
            initial=self._initial, combine=self._combine, finish=self._finish)
        wiring.connect(m, source, rows.i)
        wiring.connect(m, rows.o, wiring.flipped(self.o))
        return m


class MaxPooling(_Pooling):
    """Largest value of each window. Rows and columns that no window reaches are dropped.

    Cost, for 8 channels of 8 bits and 28x28 pixels: on iCE40 78 LUT4 and one block RAM for 2x2
    windows, stride 2; 143 and two for 3x3 windows, stride 2. On ECP5 109 LUT4 and 14 DPR16X4
    (distributed RAM), or 122, 4 DPR16X4 and one block RAM. (Yosys 0.70, ``-abc9``.)

    Latency: 2 cycles from the last value of a window to its result, 4 if windows overlap in a
    row. Throughput: one input value per cycle, without a gap between rows or images.

    Parameters
    ----------
    shape : (int, int, int)
        Height, width and channels of the input.
    kernel : (int, int)
        Height and width of a window; at most those of the input.
    stride : (int, int)
        Rows and columns from one window to the next. Smaller than the kernel, windows overlap;
        larger, rows and columns between them are dropped.
    format : ActivationFormat
        Of input and output.

    Members
    -------
    i : In(stream) of activation
        Images back to back, each in (row, column, channel) order.
    o : Out(stream) of activation
        Results in the same order.
    """

    def __init__(self, *, shape: tuple[int, int, int], kernel: tuple[int, int],
                 stride: tuple[int, int], format: ActivationFormat = ActivationFormat()) -> None:
        super().__init__(shape=shape, kernel=kernel, stride=stride, format=format, output=format)
        self._empty = self._initial = format.min

    def compute(self, images: ArrayLike) -> IntArray:
        """The same in NumPy, for an array (images, height, width, channels)."""
        return self._windows(images).max(axis=(-2, -1))

    def _accumulator(self, values: int, initial: int) -> Shape:
        return activation_shape(self.format)

    def _combine(self, accumulator: Value, value: Value) -> Value:
        return Mux(accumulator > value, accumulator, value)


class SumPooling(_Pooling):
    """``clamp((sum + bias) >> shift)`` of each window: an average without a division.

    The sum is exact. The bias costs nothing: a window starts with it in place of 0.

    Cost, for 8 channels of 8 bits, 28x28 pixels and 2x2 windows: 74 LUT4 and one block RAM on
    iCE40; 114 LUT4 and 21 DPR16X4 on ECP5. For one window of 7x7 pixels and 16 channels: 86 and
    one block RAM; 70 and 4 DPR16X4. (Yosys 0.70, ``-abc9``.)

    Latency and throughput are those of :class:`MaxPooling`.

    Parameters
    ----------
    shape, kernel, stride, format
        As in :class:`MaxPooling`; ``format`` is that of the input.
    bias : int
        Added to each sum; holds the rounding half.
    shift : int
        Bits to drop after that, 0 to 62; rounds towards minus infinity.
    output : ActivationFormat
        What the result is clamped to.

    Members
    -------
    i : In(stream) of activation
        Images back to back, each in (row, column, channel) order.
    o : Out(stream) of activation
        Results in the same order.
    """

    def __init__(self, *, shape: tuple[int, int, int], kernel: tuple[int, int],
                 stride: tuple[int, int], bias: int, shift: int,
                 format: ActivationFormat = ActivationFormat(),
                 output: ActivationFormat = ActivationFormat()) -> None:
        super().__init__(shape=shape, kernel=kernel, stride=stride, format=format, output=output)
        self.bias = _integer(bias, "bias", -(1 << 62), 1 << 62)
        self.shift = _integer(shift, "shift", 0, 62)
        self._empty, self._initial = 0, self.bias

    def compute(self, images: ArrayLike) -> IntArray:
        """The same in NumPy, for an array (images, height, width, channels)."""
        return requantize(self._windows(images).sum(axis=(-2, -1)), self.bias, self.shift,
                          self.output)

    def _accumulator(self, values: int, initial: int) -> Shape:
        low = initial + values * self.format.min
        high = initial + values * self.format.max
        low, high = min(low, initial), max(high, initial)
        return signed(signed_bits(low, high)) if low < 0 else unsigned(high.bit_length() or 1)

    def _combine(self, accumulator: Value, value: Value) -> Value:
        return accumulator + value

    def _finish(self, accumulator: Value) -> Value:
        value = accumulator >> self.shift
        low, high = self.output.min, self.output.max
        return Mux(value < low, low, Mux(value > high, high, value))
