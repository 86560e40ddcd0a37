"""The requantizer: bias, shift and clamp, each filter its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth import Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, _integer, requantize, signed_bits
from .mapstream import map_shape, map_values, vector
from .repeatrom import repeating_rom

__all__ = ["Requantizer", "clamped", "shift_stages"]


class Requantizer(wiring.Component):
    """``clamp((accumulator + bias) >> shift)``, with the biases and shifts of each filter in turn.

    Cost, for each pixel: an adder of the accumulator's width, a multiplexer stage for each bit
    that the span of the shifts takes, and the clamp; one ROM. Equal shifts cost nothing. For 24
    filters, 20 bits in and 8 out, 88 LUT4 on iCE40 and 99 on ECP5, and 124 and 138 with four
    kinds of shifts (``python -m benchmarks components``). Latency: 3 cycles. Throughput: a value
    per cycle and pixel.

    Parameters
    ----------
    low, high : int
        Least and greatest accumulator that comes in.
    bias, shift : sequences of int
        One per filter. Shifts are 0 or more.
    output : ActivationFormat
        What is clamped to.
    pixels : int
        Pixels side by side, with the same filter at the same time.
    register : bool
        See :class:`~flightrtl.gateware.weights.RomStream`.
    order : sequence of sequences of int, optional
        Groups of filters, in the order in which they come; all in turn if it is left out.
    repeat : int
        How often each group comes before the next one.

    Members
    -------
    i : In(stream) of signed, an array of them if there are several pixels
        Accumulators, in filter order, as wide as ``low`` to ``high`` needs.
    o : Out(stream) of the output's shape, see :func:`~flightrtl.gateware.mapstream.map_shape`
        One activation for each.
    follows : Out(1)
        Whether ``o.valid`` will be 1 in the next cycle.
    """

    i: stream.Interface
    o: stream.Interface
    follows: Signal

    latency = 3

    def __init__(self, *, low: int, high: int, bias: Sequence[int], shift: Sequence[int],
                 output: ActivationFormat, pixels: int = 1, register: bool = False,
                 order: Sequence[Sequence[int]] = (), repeat: int = 1) -> None:
        self.bias = [int(value) for value in bias]
        self.shift = [_integer(int(value), "shift", 0, 63) for value in shift]
        if len(self.bias) != len(self.shift) or not self.bias:
            raise ValueError(f"bias and shift must name the same filters, at least one, not "
                             f"{len(self.bias)} and {len(self.shift)}")
        self.output = output
        self.pixels = _integer(pixels, "pixels", 1, 1 << 12)
        self.register = register
        self.order = [list(group) for group in order] or [list(range(len(self.bias)))]
        self.repeat = repeat
        self.width = signed_bits(low, high)
        self.total_width = signed_bits(low + min(self.bias), high + max(self.bias))
        super().__init__({
            "i": In(stream.Signature(vector(signed(self.width), pixels))),
            "o": Out(stream.Signature(map_shape(output, pixels=pixels))),
            "follows": Out(1),
        })

    def compute(self, accumulators: ArrayLike) -> IntArray:
        """The same in NumPy; filters along the last axis."""
        return requantize(np.asarray(accumulators, np.int64), self.bias, self.shift, self.output)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        least = min(self.shift)
        bias_bits = signed_bits(min(self.bias), max(self.bias))
        shift_bits = (max(self.shift) - least).bit_length()
        mask = (1 << bias_bits) - 1
        words = [(bias & mask) | (shift - least) << bias_bits
                 for bias, shift in zip(self.bias, self.shift, strict=True)]
        m.submodules.rom = rom = repeating_rom(
            bias_bits + shift_bits, [[words[index] for index in group] for group in self.order],
            repeat=self.repeat, register=self.register)

        advance = Signal()
        valid = Signal(3)
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.o.valid.eq(valid[2]),
            self.follows.eq(Mux(advance, valid[1], valid[2])),
            self.i.ready.eq(advance & rom.o.valid),
            rom.o.ready.eq(advance & self.i.valid),
        ]
        shifts = Signal(shift_bits, reset_less=True)
        with m.If(advance):
            m.d.sync += [valid.eq((valid << 1) | (self.i.valid & rom.o.valid)),
                         shifts.eq(rom.o.payload[bias_bits:])]
        for pixel, (accumulator, result) in enumerate(zip(
                map_values(self.i.payload), map_values(self.o.payload), strict=True)):
            suffix = f"_{pixel}" if self.pixels > 1 else ""
            total = Signal(signed(self.total_width), name=f"total{suffix}", reset_less=True)
            # Beyond the output's range only "too low" and "too high" matter, so that the shifter
            # drops what the least shift drops before it starts.
            width = max(1, self.total_width - least)
            value = shift_stages(m, total >> least, shifts, width, suffix)
            shifted = Signal(signed(width), name=f"shifted{suffix}", reset_less=True)
            with m.If(advance):
                m.d.sync += [
                    total.eq(accumulator + rom.o.payload[:bias_bits].as_signed()),
                    shifted.eq(value),
                ]
                clamped(m, shifted, result, self.output)
        return m


def shift_stages(m: Module, value: Value, shift: Value, width: int, suffix: str = "") -> Value:
    """``value >> shift`` in ``width`` bits, signed, a stage of multiplexers for each bit of it."""
    for bit in range(len(shift)):
        step = Signal(signed(width), name=f"shifter_{bit}{suffix}")
        m.d.comb += step.eq(Mux(shift[bit], value >> (1 << bit), value))
        value = step
    return value


def clamped(m: Module, shifted: Signal, result: Value, output: ActivationFormat) -> None:
    """In the next cycle, ``result`` is ``shifted`` brought into the output's range."""
    m.d.sync += result.eq(shifted)
    # A value is in range if its bits above the output's all equal its sign.
    upper = shifted[output.bits - output.signed:]
    with m.If(~shifted[-1] & upper.any()):
        m.d.sync += result.eq(output.max)
    if output.signed:
        with m.If(shifted[-1] & ~upper.all()):
            m.d.sync += result.eq(output.min)
    else:
        with m.If(shifted[-1]):
            m.d.sync += result.eq(0)
