"""The end of a residual block: two maps become one, value by value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth import Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, _integer, requantize, signed_bits
from .mapstream import map_signature, map_values
from .queue import checked_depths, queued

__all__ = ["ResidualAdd"]


class ResidualAdd(wiring.Component):
    """``clamp(((a << shifts[0]) + (b << shifts[1]) + bias) >> shift)`` of two streams.

    It takes a transfer of both operands at a time, so that each waits for the other. One that
    comes earlier than the other can wait in a queue; how deep that must be for a network not to
    deadlock is :mod:`flightrtl.gateware.dataflow`'s.

    Cost: for unsigned operands and results of 8 bits, without queues, halved: 12 LUT4 and 18
    flip-flops on iCE40, 14 and 18 on ECP5, since nothing has to be clamped and the rounding half
    is a carry; with scales apart and a clamp 21 and 20, 33 and 20 (``python -m benchmarks
    components``). Each further pixel takes as much again. Latency: 2 cycles, and that of the
    queues. Throughput: a transfer per cycle. ``a.ready`` and ``b.ready`` depend on ``o.ready`` in
    the same cycle, unless there is a queue in between, and on each other's ``valid``.

    Parameters
    ----------
    formats : (ActivationFormat, ActivationFormat)
        Of ``a`` and of ``b``.
    shifts : (int, int)
        Bits by which each is shifted to the left, 0 to 62.
    bias : int
        Added to the sum; holds the rounding half.
    shift : int
        Bits to drop after that, 0 to 62; rounds towards minus infinity.
    output : ActivationFormat
        What the result is clamped to.
    pixels, channels : int
        Activations of a transfer, see :mod:`~flightrtl.gateware.mapstream`.
    depths : (int, int)
        Transfers of ``a`` and of ``b`` that are held for want of the other, in a
        :class:`~flightrtl.gateware.queue.StreamQueue`; 0 for no queue.
    register : bool
        A register behind the memory of the queues.

    Members
    -------
    a, b : In(stream) of the transfers of a map
        The operands.
    o : Out(stream) of the transfers of a map
        The results, in order.

    Attributes
    ----------
    could, has : Signal
        Whether it could add in this cycle, and whether both operands are there: for those who
        watch it work.

    Raises
    ------
    TypeError, ValueError
        If a number is none, or out of range.
    """

    a: stream.Interface
    b: stream.Interface
    o: stream.Interface

    def __init__(self, *, formats: Sequence[ActivationFormat], shifts: Sequence[int], bias: int,
                 shift: int, output: ActivationFormat = ActivationFormat(), pixels: int = 1,
                 channels: int = 1, depths: Sequence[int] = (0, 0),
                 register: bool = False) -> None:
        first, second = formats
        self.formats = first, second
        self.shifts = (_integer(shifts[0], "shifts[0]", 0, 62),
                       _integer(shifts[1], "shifts[1]", 0, 62))
        self.bias = _integer(bias, "bias", -(1 << 62), 1 << 62)
        self.shift = _integer(shift, "shift", 0, 62)
        self.output = output
        self.register = register
        self.depths = checked_depths(depths)
        self.values = pixels * channels
        """Activations of a transfer."""
        self.could, self.has = Signal(), Signal()
        super().__init__({
            "a": In(map_signature(first, pixels=pixels, channels=channels)),
            "b": In(map_signature(second, pixels=pixels, channels=channels)),
            "o": Out(map_signature(output, pixels=pixels, channels=channels)),
        })

    @property
    def operands(self) -> list[stream.Interface]:
        """The streams of the operands."""
        return [self.a, self.b]

    @property
    def total_range(self) -> tuple[int, int]:
        """Least and greatest sum."""
        low, high = (sum(limit << shift for limit, shift in zip(ends, self.shifts, strict=True))
                     for ends in zip(*((form.min, form.max) for form in self.formats),
                                     strict=True))
        return low + self.bias, high + self.bias

    @property
    def total_width(self) -> int:
        """Bits of the sum, two's complement."""
        return signed_bits(*self.total_range)

    def compute(self, a: ArrayLike, b: ArrayLike) -> IntArray:
        """The same in NumPy, for two arrays of one shape."""
        first, second = (np.asarray(values, np.int64) << shift
                         for values, shift in zip((a, b), self.shifts, strict=True))
        return requantize(first + second, self.bias, self.shift, self.output)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        a, b = (queued(m, port, depth, f"queue_{name}", register=self.register)
                for port, depth, name in zip(self.operands, self.depths, "ab", strict=True))

        advance, summed = Signal(), Signal()
        m.d.comb += [
            self.could.eq(advance),
            self.has.eq(a.valid & b.valid),
            advance.eq(~self.o.valid | self.o.ready),
            a.ready.eq(advance & b.valid),
            b.ready.eq(advance & a.valid),
        ]
        with m.If(advance):
            m.d.sync += [summed.eq(self.has), self.o.valid.eq(summed)]
        for number, (one, other, result) in enumerate(zip(
                map_values(a.payload), map_values(b.payload), map_values(self.o.payload),
                strict=True)):
            total = Signal(signed(self.total_width), name=f"total_{number}", reset_less=True)
            with m.If(advance):
                m.d.sync += [
                    total.eq(self._sum(one, other)),
                    result.eq(self._clamp(total)),
                ]
        return m

    def _sum(self, one: Value, other: Value) -> Value:
        return (one << self.shifts[0]) + (other << self.shifts[1]) + self.bias

    def _clamp(self, total: Value) -> Value:
        value = total >> self.shift
        low, high = self.output.min, self.output.max
        return Mux(value < low, low, Mux(value > high, high, value))
