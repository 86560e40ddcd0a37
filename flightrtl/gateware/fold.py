"""Combines the values of windows of a raster stream, one value in a cycle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amaranth import Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .ram import DualPortRam

__all__ = ["WindowFold", "windows_along"]


def windows_along(size: int, kernel: int, stride: int) -> int:
    """Windows along one axis."""
    return (size - kernel) // stride + 1


class _Axis:
    """Where a raster is along one axis, and what that means for the windows there."""

    def __init__(self, m: Module, step: Value, size: int, kernel: int, stride: int,
                 name: str) -> None:
        position = Signal(range(size), name=name)
        phase = Signal(range(stride), name=f"{name}_phase")
        outputs = windows_along(size, kernel, stride)
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


class WindowFold(wiring.Component):
    """Combines the values of each window that does not overlap its neighbour in the same row.

    Each open window has an accumulator in a memory, ``columns * channels`` words deep. Windows of
    one column that overlap vertically are words side by side: the chain moves on by one at each
    row in which a window starts, and the last of them is the one that ends next.

    Latency: 2 cycles from the last value of a window. Throughput: one value per cycle.

    Parameters
    ----------
    shape, kernel, stride
        As in :class:`~flightrtl.gateware.pool.MaxPooling`; ``kernel[1] <= stride[1]``.
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
        depth = windows_along(width, self.kernel[1], self.stride[1]) * channels
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
        # Nobody looks at a word that is read while it is written: with two or more channels, two
        # values that follow each other have different addresses; with one, `previous` stands in.
        word = data.ArrayLayout(self.accumulator, count)
        m.submodules.memory = memory = DualPortRam(word, depth)
        read, write = memory.read, memory.write
        full, starts, ends = Signal(), Signal(), Signal()
        value = Signal.like(self.i.payload, reset_less=True)
        m.d.comb += [read.addr.eq(address), read.en.eq(self.i.ready)]
        with m.If(self.i.ready):
            m.d.sync += [
                full.eq(self.i.valid & x.used),
                starts.eq(x.starts & y.starts),
                ends.eq(x.ends & y.ends),
                value.eq(self.i.payload),
                write.addr.eq(address),
            ]
        before = Signal(word)
        m.d.comb += before.eq(read.data)
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
