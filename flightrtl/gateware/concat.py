"""Concatenation: several maps become one, the channels of one behind those of the other."""

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

__all__ = ["ChannelConcat"]


class ChannelConcat(wiring.Component):
    """Maps behind each other, channel by channel: ``clamp(((a << shifts[n]) + bias) >> shift)``.

    For each group of pixels it takes the transfers of the first operand, then those of the second,
    and so on. An operand whose turn it is not can wait in a queue; how deep that must be for a
    network not to deadlock is :mod:`flightrtl.gateware.dataflow`'s.

    Cost: for two operands of 16 channels of 8 bits, without queues, that are only put behind each
    other: 23 LUT4 and 14 flip-flops on iCE40, 20 and 14 on ECP5; with scales apart and rounded 31
    and 14, 29 and 14 (``python -m benchmarks components``). Latency: 1 cycle, and that
    of the queues. Throughput: a transfer per cycle. The ``ready`` of each operand depends on
    ``o.ready`` in the same cycle, unless there is a queue in between.

    Parameters
    ----------
    formats : sequence of ActivationFormat
        Of the operands, 2 or more.
    channels : sequence of int
        Of each operand.
    shifts : sequence of int
        Bits by which each is shifted to the left, 0 to 62.
    bias : int
        Added to that; holds the rounding half.
    shift : int
        Bits to drop after that, 0 to 62; rounds towards minus infinity.
    output : ActivationFormat
        What the result is clamped to.
    pixels : int
        Activations of a transfer, see :mod:`~flightrtl.gateware.mapstream`.
    depths : sequence of int
        Transfers of each operand that are held until it is their turn, in a
        :class:`~flightrtl.gateware.queue.StreamQueue`; 0 for no queue. By default there are none.
    register : bool
        A register behind the memory of the queues.

    Members
    -------
    i0, i1, ... : In(stream) of the transfers of a map
        The operands; :attr:`operands` has them in order.
    o : Out(stream) of the transfers of a map
        The result, in order.

    Attributes
    ----------
    could, has : Signal
        Whether it could take a transfer in this cycle, and whether the one that it needs next is
        there: for those who watch it work.

    Raises
    ------
    TypeError, ValueError
        If a number is none, or out of range, or there is not one for each operand.
    """

    o: stream.Interface

    def __init__(self, *, formats: Sequence[ActivationFormat], channels: Sequence[int],
                 shifts: Sequence[int], bias: int = 0, shift: int = 0,
                 output: ActivationFormat = ActivationFormat(), pixels: int = 1,
                 depths: Sequence[int] = (), register: bool = False) -> None:
        self.formats = tuple(formats)
        count = len(self.formats)
        depths = tuple(depths) or (0,) * count
        if count < 2 or not count == len(channels) == len(shifts) == len(depths):
            raise ValueError(f"formats, channels, shifts and depths must name the same 2 or more "
                             f"operands, not {count}, {len(channels)}, {len(shifts)} and "
                             f"{len(depths)}")
        self.channels = tuple(_integer(number, "channels", 1, 1 << 24) for number in channels)
        self.shifts = tuple(_integer(by, "shifts", 0, 62) for by in shifts)
        self.bias = _integer(bias, "bias", -(1 << 62), 1 << 62)
        self.shift = _integer(shift, "shift", 0, 62)
        self.output = output
        self.register = register
        self.depths = checked_depths(depths)
        self.values = pixels
        """Activations of a transfer."""
        self.could, self.has = Signal(), Signal()
        super().__init__({
            **{f"i{n}": In(map_signature(form, pixels=pixels))
               for n, form in enumerate(self.formats)},
            "o": Out(map_signature(output, pixels=pixels)),
        })

    @property
    def operands(self) -> list[stream.Interface]:
        """The streams of the operands."""
        return [getattr(self, f"i{n}") for n in range(len(self.formats))]

    @property
    def _range(self) -> tuple[int, int]:
        """Least and greatest value of all operands, shifted."""
        ends = list(zip(self.formats, self.shifts, strict=True))
        return min(form.min << by for form, by in ends), max(form.max << by for form, by in ends)

    @property
    def clamps(self) -> bool:
        """Whether any result must be clamped."""
        least, most = ((limit + self.bias) >> self.shift for limit in self._range)
        return least < self.output.min or most > self.output.max

    def compute(self, *maps: ArrayLike) -> IntArray:
        """The same in NumPy, for a map (..., channels) of each operand."""
        shifted = [np.asarray(values, np.int64) << by
                   for values, by in zip(maps, self.shifts, strict=True)]
        return requantize(np.concatenate(shifted, axis=-1), self.bias, self.shift, self.output)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        sources = [queued(m, port, depth, f"queue_{number}", register=self.register)
                   for number, (port, depth) in enumerate(
                       zip(self.operands, self.depths, strict=True))]

        # Whose turn it is, and how many of its channels are still to come after this one.
        turn = Signal(range(len(sources)))
        left = Signal(range(max(self.channels)), init=self.channels[0] - 1)
        advance, step = Signal(), Signal()
        m.d.comb += [
            self.could.eq(advance),
            advance.eq(~self.o.valid | self.o.ready),
            step.eq(advance & self.has),
        ]
        with m.If(advance):
            m.d.sync += self.o.valid.eq(self.has)
        with m.If(step):
            m.d.sync += left.eq(left - 1)
        chosen = [Signal(signed(signed_bits(*self._range)), name=f"chosen_{pixel}")
                  for pixel in range(self.values)]
        with m.Switch(turn):
            for number, source in enumerate(sources):
                following = (number + 1) % len(sources)
                with m.Case(number) if following else m.Default():
                    m.d.comb += [self.has.eq(source.valid), source.ready.eq(advance)]
                    m.d.comb += [choice.eq(value << self.shifts[number]) for choice, value
                                 in zip(chosen, map_values(source.payload), strict=True)]
                    with m.If(step & (left == 0)):
                        m.d.sync += [turn.eq(following), left.eq(self.channels[following] - 1)]
        with m.If(advance):
            m.d.sync += [result.eq(self._requantize(choice)) for choice, result in zip(
                chosen, map_values(self.o.payload), strict=True)]
        return m

    def _requantize(self, chosen: Value) -> Value:
        value = (chosen + self.bias) >> self.shift
        low, high = self.output.min, self.output.max
        least, most = ((limit + self.bias) >> self.shift for limit in self._range)
        if most > high:
            value = Mux(value > high, high, value)
        if least < low:
            value = Mux(value < low, low, value)
        return value
