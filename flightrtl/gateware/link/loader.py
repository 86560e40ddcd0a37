"""Writes weights that come from the host."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...protocol import LOAD_HEADER_BYTES
from ..loadablestream import WriteSignature

__all__ = ["Loader"]


class Loader(wiring.Component):
    """Takes the body of a request to load weights, byte by byte, and writes what it says.

    The body is the number of a memory, an address of two bytes, low byte first, and bytes for that
    address and those behind it, up to the last address there is.

    Cost: 38 LUT4 on iCE40, 37 on ECP5 (Yosys 0.70, ``-abc9``). Latency: 0 cycles. Throughput: a
    byte a cycle.

    Members
    -------
    start : In(1)
        The next byte is the first of a body.
    valid : In(1)
        There is a byte. It is taken in the same cycle.
    data : In(8)
        The byte.
    write : Out(WriteSignature)
        To the memories.
    """

    start: Signal
    valid: Signal
    data: Signal
    write: Any

    def __init__(self) -> None:
        super().__init__({"start": In(1), "valid": In(1), "data": In(8),
                          "write": Out(WriteSignature())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left = Signal(range(LOAD_HEADER_BYTES + 1))     # bytes before those of the weights
        header = Cat(self.write.memory, self.write.address)
        m.d.comb += [
            self.write.valid.eq(self.valid & ~left.any()),
            self.write.data.eq(self.data),
        ]
        with m.If(self.valid):
            with m.If(left.any()):
                m.d.sync += [header.eq(Cat(header, self.data)[8:]), left.eq(left - 1)]
            with m.Else():
                m.d.sync += self.write.address.eq(self.write.address + 1)
        with m.If(self.start):
            m.d.sync += left.eq(LOAD_HEADER_BYTES)
        return m
