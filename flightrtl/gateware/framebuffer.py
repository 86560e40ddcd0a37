"""The frame buffer: a whole map on chip, read once for every weight word."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, _integer, signed_bits
from .loops import nested_loops
from .mapstream import map_signature
from .pe import activation_shape
from .ram import DualPortRam

__all__ = ["FrameBuffer"]


class FrameBuffer(wiring.Component):
    """Maps that are read tap by tap: for a tap, what it meets in all windows, then the next tap.

    A :class:`~flightrtl.gateware.window.SlidingWindow` gives a window with all its taps before
    the next window; this is the other order, in which a weight meets all its pixels before the
    next weight is needed. It takes the whole map on chip. Padding is never stored: a word outside
    the map is forced to zero on its way out.

    Cost: block RAM for ``frames`` maps; counters; two registers of ``simd`` activations. For 3x3
    windows on 8x8x64, padded, 8 activations a word: 204 LUT4 and 8 block RAMs on iCE40, 196 and 2
    on ECP5 (``python -m benchmarks components``).
    Latency: a frame's first word is valid 3 cycles after its last one came in, 4 with
    ``register``. Throughput: a word per cycle in and out. With one frame it takes turns: while a
    map is read none comes in.

    Parameters
    ----------
    shape : (int, int, int)
        Height, width, channels of the map.
    kernel, stride : (int, int)
        Vertical, horizontal.
    padding : (int, int, int, int)
        Rows above and below, columns left and right; each less than the kernel.
    simd : int
        Channels in a word.
    passes : int
        How often the whole is read.
    frames : int
        Maps that there is room for, 1 or 2.
    register : bool
        One more register behind the memory, see :class:`~flightrtl.gateware.weights.RomStream`.
    format : ActivationFormat
        Activations.

    Members
    -------
    i : In(stream), see :func:`~flightrtl.gateware.mapstream.map_shape`
        The map by row, column, channel; ``simd`` channels at a time.
    o : Out(stream) of struct
        ``activations``: ``simd`` of them, by pass, kernel row, kernel column, channel, and for
        each of these window by window; ``sweep``: 1 on the last window of a tap; ``last``: 1 in
        the last tap of a pass.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, shape: tuple[int, int, int], kernel: tuple[int, int], simd: int,
                 stride: tuple[int, int] = (1, 1),
                 padding: tuple[int, int, int, int] = (0, 0, 0, 0), passes: int = 1,
                 frames: int = 1, register: bool = False,
                 format: ActivationFormat = ActivationFormat()) -> None:
        self.shape = tuple(_integer(n, "shape", 1, 1 << 16) for n in shape)
        self.kernel = tuple(_integer(n, "kernel", 1, 1 << 16) for n in kernel)
        self.stride = tuple(_integer(n, "stride", 1, 1 << 16) for n in stride)
        self.padding = tuple(_integer(n, "padding", 0, 1 << 16) for n in padding)
        self.simd = _integer(simd, "simd", 1, 1 << 16)
        self.passes = _integer(passes, "passes", 1, 1 << 32)
        self.frames = _integer(frames, "frames", 1, 2)
        self.register = register
        self.format = format
        (height, width, channels), (top, bottom, left, right) = self.shape, self.padding
        spare = (height + top + bottom - self.kernel[0], width + left + right - self.kernel[1])
        if min(spare) < 0:
            raise ValueError(f"kernel {self.kernel} is larger than the padded map "
                             f"{height + top + bottom} x {width + left + right}")
        if channels % self.simd:
            raise ValueError(f"simd={simd} must divide the {channels} channels")
        self.output = (spare[0] // self.stride[0] + 1, spare[1] // self.stride[1] + 1)
        self.per_pixel = channels // self.simd
        """Words of a pixel."""
        self.size = height * width * self.per_pixel
        """Words of a map."""
        super().__init__({
            "i": In(map_signature(format, channels=self.simd)),
            "o": Out(stream.Signature(data.StructLayout({
                "activations": data.ArrayLayout(activation_shape(format), self.simd),
                "sweep": 1, "last": 1,
            }))),
        })

    @property
    def memory_bits(self) -> int:
        """Bits of the memory."""
        return self.frames * self.size * self.simd * self.format.bits

    def compute(self, images: ArrayLike) -> IntArray:
        """Words of (n, height, width, channels) maps: (n, taps, windows, simd).

        The passes, which are all the same, are left out.
        """
        top, bottom, left, right = self.padding
        padded = np.pad(np.asarray(images, np.int64),
                        ((0, 0), (top, bottom), (left, right), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.kernel, axis=(1, 2))
        windows = windows[:, ::self.stride[0], ::self.stride[1]].transpose(0, 4, 5, 3, 1, 2)
        n, *taps, rows, columns = windows.shape
        split = windows.reshape(n, *taps[:2], self.per_pixel, self.simd, rows * columns)
        return split.transpose(0, 1, 2, 3, 5, 4).reshape(n, -1, rows * columns, self.simd)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        width = self.simd * self.format.bits
        # Nobody reads a map that is not complete.
        m.submodules.ram = ram = DualPortRam(width, self.frames * self.size, block=True)
        write, read = ram.write, ram.read

        # Maps that are complete and still needed.
        filled, full = Signal(range(self.frames + 1)), Signal()
        arrives, leaves = Signal(), Signal()
        place = Signal(range(self.frames * self.size))
        count = place
        if self.frames > 1:
            count = Signal(range(self.size), name="count")
        m.d.comb += [
            full.eq(filled == self.frames),
            self.i.ready.eq(~full),
            write.en.eq(self.i.valid & ~full),
            write.addr.eq(place),
            write.data.eq(Value.cast(self.i.payload)),
            arrives.eq(write.en & (count == self.size - 1)),
        ]
        m.d.sync += filled.eq(filled + arrives - leaves)
        with m.If(write.en):
            m.d.sync += place.eq(Mux(place == self.frames * self.size - 1, 0, place + 1))
            if self.frames > 1:
                m.d.sync += count.eq(Mux(count == self.size - 1, 0, count + 1))

        advance, go, some = Signal(), Signal(), Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), some.eq(filled != 0),
                     go.eq(advance & some)]
        inside, sweep, last, frame = self._walk(m, go, read.addr)
        m.d.comb += [read.en.eq(advance), leaves.eq(go & frame)]

        word = read.data
        flags: Any = Signal(data.StructLayout({"inside": 1, "sweep": 1, "last": 1}),
                            reset_less=True)
        valid = Signal()
        with m.If(advance):
            m.d.sync += [valid.eq(some), flags.inside.eq(inside),
                         flags.sweep.eq(sweep), flags.last.eq(last)]
        if self.register:
            held = Signal(width, reset_less=True)
            held_flags, held_valid = Signal.like(flags), Signal()
            with m.If(advance):
                m.d.sync += [held.eq(word), held_flags.eq(flags), held_valid.eq(valid)]
            word, flags, valid = held, held_flags, held_valid
        target = Value.cast(self.o.payload.activations)
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(valid), self.o.payload.sweep.eq(flags.sweep),
                         self.o.payload.last.eq(flags.last), target.eq(word)]
            if any(self.padding):
                with m.If(~flags.inside):
                    m.d.sync += target.eq(0)
        return m

    def _walk(self, m: Module, go: Signal, address: Value) -> tuple[Value, Value, Value, Value]:
        """Where the next word is; whether on the map; the last of its tap, its pass, the frame."""
        (_height, width, _), per_pixel = self.shape, self.per_pixel
        (top, _, left, _), (down, across) = self.padding, self.stride
        row = width * per_pixel
        _, at_end, ends = nested_loops(m, go, [
            ("across", self.output[1]), ("down", self.output[0]), ("chunk", per_pixel),
            ("tap", self.kernel[1]), ("kernel_row", self.kernel[0]), ("pass", self.passes)])
        row_ends, sweep_ends, chunk_ends, tap_ends, pass_ends, frame_ends = ends

        # The corner of the first window may lie before the map: addresses are modulo.
        corner = -(top * row + left * per_pixel)
        now = Signal(range(self.frames * self.size), name="now")
        modulo = 1 << len(now)
        now = Signal.like(now, init=corner % modulo)
        start, next_start = Signal.like(now), Signal.like(now)
        # The next tap is the next word, up to the end of the kernel's row.
        m.d.comb += next_start.eq(start + Mux(
            tap_ends, row - self.kernel[1] * per_pixel + 1, 1))
        with m.If(pass_ends):
            m.d.comb += next_start.eq(corner)
            if self.frames > 1:
                upper = Signal()
                with m.If(go & frame_ends):
                    m.d.sync += upper.eq(~upper)
                with m.If(upper ^ frame_ends):
                    m.d.comb += next_start.eq(corner + self.size)
        with m.If(go):
            m.d.sync += now.eq(now + Mux(
                row_ends, down * row - (self.output[1] - 1) * across * per_pixel,
                across * per_pixel))
            with m.If(sweep_ends):
                m.d.sync += [now.eq(next_start), start.eq(next_start)]
        m.d.comb += address.eq(now)
        inside = (self._coordinate(m, "y", go & row_ends, go & sweep_ends, tap_ends, pass_ends, 0)
                  & self._coordinate(m, "x", go, go & row_ends, chunk_ends, tap_ends, 1))
        last = Signal()
        m.d.comb += last.eq(at_end[2] & at_end[3] & at_end[4])
        return inside, sweep_ends, last, frame_ends

    def _coordinate(self, m: Module, name: str, steps: Value, returns: Value, moves: Value,
                    restarts: Value, axis: int) -> Value:
        """Whether the row or column at hand lies on the map.

        It ``steps`` from window to window, ``returns`` to the first one, which is the tap's own.
        There the next tap ``moves`` on, or ``restarts``.
        """
        size, stride = self.shape[axis], self.stride[axis]
        before, behind = self.padding[2 * axis:2 * axis + 2]
        if not before and not behind:
            return Const(1)
        now = Signal(signed(signed_bits(-before, size + behind + stride)), name=name, init=-before)
        edge, next_edge = Signal.like(now, name=f"{name}_edge"), Signal.like(now)
        m.d.comb += next_edge.eq(Mux(restarts, -before, edge + moves))
        with m.If(steps):
            m.d.sync += now.eq(now + stride)
        with m.If(returns):
            m.d.sync += [now.eq(next_edge), edge.eq(next_edge)]
        return (now >= 0) & (now < size)
