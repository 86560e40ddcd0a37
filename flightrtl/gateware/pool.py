"""Pooling of a raster stream: the largest value, or the sum, of each window."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from amaranth import Cat, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, _integer, requantize, signed_bits
from .fold import WindowFold, windows_along
from .mapstream import map_shape, map_values
from .pe import activation_shape

__all__ = ["MaxPooling", "SumPooling", "pooled_pixels"]


def pooled_pixels(pixels: int, kernel: int, stride: int) -> int | None:
    """Pixels of a transfer behind a pooling, for ``pixels`` before it; None if it takes no such.

    Windows must lie in whole transfers, or transfers in whole windows.

    >>> pooled_pixels(4, 2, 2), pooled_pixels(2, 8, 8), pooled_pixels(2, 3, 2)
    (2, 1, None)
    """
    if pixels == 1:
        return 1
    if kernel != stride or (pixels % kernel and kernel % pixels):
        return None
    return max(1, pixels // kernel)


def _pair(value: tuple[int, int], name: str, high: tuple[int, int]) -> tuple[int, int]:
    """``value`` as two integers, each from 1 to that of ``high``."""
    try:
        vertical, horizontal = value
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a pair (vertical, horizontal), not {value!r}") from None
    return (_integer(vertical, f"{name} (vertical)", 1, high[0]),
            _integer(horizontal, f"{name} (horizontal)", 1, high[1]))


class _Pooling(wiring.Component):
    """What max- and sum-pooling share."""

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, shape: tuple[int, int, int], kernel: tuple[int, int],
                 stride: tuple[int, int], format: ActivationFormat,
                 output: ActivationFormat, pixels: int) -> None:
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
        self.pixels = _integer(pixels, "pixels", 1, 1 << 12)
        after = pooled_pixels(pixels, self.kernel[1], self.stride[1])
        if self.shape[1] % pixels or after is None:
            raise ValueError(f"pixels={pixels} does not fit windows of {self.kernel[1]} columns, "
                             f"stride {self.stride[1]}, on {self.shape[1]}: it must divide the "
                             "columns, and divide the stride or be a multiple of it, which must "
                             "be the kernel's width")
        self.output_pixels = after
        super().__init__({
            "i": In(stream.Signature(map_shape(format, pixels=pixels))),
            "o": Out(stream.Signature(map_shape(output, pixels=after))),
        })

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the result."""
        return (windows_along(self.shape[0], self.kernel[0], self.stride[0]),
                windows_along(self.shape[1], self.kernel[1], self.stride[1]), self.shape[2])

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
            m.submodules.columns = columns = WindowFold(
                shape=(width, 1, channels), kernel=(kernel[1], 1), stride=(stride[1], 1),
                value=activation_shape(self.format), accumulator=partial, result=partial,
                initial=self._empty, combine=self._combine, finish=lambda value: value)
            wiring.connect(m, source, columns.i)
            width, kernel, stride = self.output_shape[1], (kernel[0], 1), (stride[0], 1)
            source = columns.o
        accumulator = self._accumulator(self.kernel[0] * self.kernel[1], self._initial)
        if self.pixels > 1:
            self._fold_pixels(m, accumulator)
            return m
        m.submodules.rows = rows = WindowFold(
            shape=(height, width, channels), kernel=kernel, stride=stride,
            value=source.payload.shape(), result=activation_shape(self.output),
            accumulator=accumulator, initial=self._initial, combine=self._combine,
            finish=self._finish)
        wiring.connect(m, source, rows.i)
        wiring.connect(m, rows.o, wiring.flipped(self.o))
        return m

    def _fold_pixels(self, m: Module, accumulator: Shape) -> None:
        """Fold what is in a transfer first, then transfers, several windows side by side."""
        height, width, channels = self.shape
        count, together = self.output_pixels, min(self.pixels, self.kernel[1])
        value = self._accumulator(together, self._empty)
        across = self.kernel[1] // together

        def parts(word: Value, shape: Shape) -> list[Value]:
            fields = [word.word_select(n, shape.width) for n in range(count)]
            return [field.as_signed() if shape.signed else field for field in fields]

        def combine(before: Value, values: Value) -> Value:
            return Cat(self._combine(old, now)[:accumulator.width] for old, now in zip(
                parts(before, accumulator), parts(values, value), strict=True))

        def finish(word: Value) -> Value:
            return Cat(self._finish(old)[:self.output.bits] for old in parts(word, accumulator))

        empty = self._initial & ((1 << accumulator.width) - 1)
        m.submodules.rows = rows = WindowFold(
            shape=(height, width // self.pixels, channels), kernel=(self.kernel[0], across),
            stride=(self.stride[0], across), value=unsigned(value.width * count),
            accumulator=unsigned(accumulator.width * count),
            result=unsigned(self.output.bits * count),
            initial=sum(empty << (n * accumulator.width) for n in range(count)),
            combine=combine, finish=finish)
        folded = []
        for n in range(count):
            near = map_values(self.i.payload)[n * together:(n + 1) * together]
            total = Signal(value, name=f"together_{n}")
            m.d.comb += total.eq(reduce(self._combine, near))
            folded.append(total)
        m.d.comb += [
            rows.i.valid.eq(self.i.valid), rows.i.payload.eq(Cat(*folded)),
            self.i.ready.eq(rows.i.ready),
            self.o.valid.eq(rows.o.valid), Value.cast(self.o.payload).eq(rows.o.payload),
            rows.o.ready.eq(self.o.ready),
        ]


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
    pixels : int
        Pixels of a transfer of ``i``. More than one: see :func:`pooled_pixels`.

    Members
    -------
    i : In(stream) of activation
        Images back to back, each in (row, column, channel) order; for several pixels see
        :func:`~flightrtl.gateware.mapstream.map_shape`.
    o : Out(stream) of activation
        Results in the same order, ``output_pixels`` at a time.

    Raises
    ------
    ValueError
        If a number is out of range, or ``pixels`` does not fit the windows.
    """

    def __init__(self, *, shape: tuple[int, int, int], kernel: tuple[int, int],
                 stride: tuple[int, int], format: ActivationFormat = ActivationFormat(),
                 pixels: int = 1) -> None:
        super().__init__(shape=shape, kernel=kernel, stride=stride, format=format, output=format,
                         pixels=pixels)
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
    shape, kernel, stride, format, pixels
        As in :class:`MaxPooling`; ``format`` is that of the input.
    bias : int
        Added to each sum; holds the rounding half.
    shift : int
        Bits to drop after that, 0 to 62; rounds towards minus infinity.
    output : ActivationFormat
        What the result is clamped to.

    Members
    -------
    i, o
        As in :class:`MaxPooling`.
    """

    def __init__(self, *, shape: tuple[int, int, int], kernel: tuple[int, int],
                 stride: tuple[int, int], bias: int, shift: int,
                 format: ActivationFormat = ActivationFormat(),
                 output: ActivationFormat = ActivationFormat(), pixels: int = 1) -> None:
        super().__init__(shape=shape, kernel=kernel, stride=stride, format=format, output=output,
                         pixels=pixels)
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
