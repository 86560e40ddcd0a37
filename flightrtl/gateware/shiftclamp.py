"""What is left of requantization where the bias is in the sum already: shift and clamp."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth import Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, _integer, requantize
from .mapstream import map_shape, map_values, vector
from .requantize import clamped, shift_stages

__all__ = ["ShiftClamp"]


class ShiftClamp(wiring.Component):
    """``clamp(sum >> (least + shift))``, where the shift comes with the sum.

    Cost, for each pixel: a multiplexer stage for each bit of the shift, and the clamp; 38 LUT4 on
    iCE40 and 37 on ECP5 for 20 bits in, 8 out and shifts of 2 bits (``python -m benchmarks
    components``). Latency: 2 cycles. Throughput: a value per cycle and pixel.

    Parameters
    ----------
    width : int
        Bits of a sum.
    least : int
        What is added to each shift.
    shift_bits : int
        Bits of a shift.
    output : ActivationFormat
        What is clamped to.
    pixels : int
        Pixels side by side, with the same filter at the same time.

    Members
    -------
    i : In(stream) of struct
        ``sums``: signed(width), an array of them if there are several pixels; ``shift``.
    o : Out(stream) of the output's shape, see :func:`~flightrtl.gateware.mapstream.map_shape`
        One activation for each.
    """

    i: stream.Interface
    o: stream.Interface

    latency = 2

    def __init__(self, *, width: int, least: int, shift_bits: int, output: ActivationFormat,
                 pixels: int = 1) -> None:
        self.width = _integer(width, "width", 1, 64)
        self.least = _integer(least, "least", 0, 63)
        self.shift_bits = _integer(shift_bits, "shift_bits", 0, 6)
        self.output = output
        self.pixels = _integer(pixels, "pixels", 1, 1 << 12)
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "sums": vector(signed(width), pixels), "shift": shift_bits}))),
            "o": Out(stream.Signature(map_shape(output, pixels=pixels))),
        })

    def compute(self, sums: IntArray, shift: ArrayLike) -> IntArray:
        """The same in NumPy; filters along the last axis."""
        return requantize(sums, 0, self.least + np.asarray(shift, np.int64), self.output)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        advance = Signal()
        full = Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(advance)]
        with m.If(advance):
            m.d.sync += [full.eq(self.i.valid), self.o.valid.eq(full)]
        width = max(1, self.width - self.least)
        for pixel, (total, result) in enumerate(zip(
                map_values(self.i.payload.sums), map_values(self.o.payload), strict=True)):
            suffix = f"_{pixel}" if self.pixels > 1 else ""
            shifted = Signal(signed(width), name=f"shifted{suffix}", reset_less=True)
            value = shift_stages(m, total >> self.least, self.i.payload.shift, width, suffix)
            with m.If(advance):
                m.d.sync += shifted.eq(value)
                clamped(m, shifted, result, self.output)
        return m
