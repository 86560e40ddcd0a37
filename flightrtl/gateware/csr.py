"""The bus of control and status registers that amaranth-soc has, without amaranth-soc."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..formats import _integer

__all__ = ["CsrNarrow", "CsrSignature"]


class CsrSignature(wiring.Signature):
    """A CSR bus as its initiator sees it: the members of ``amaranth_soc.csr.bus.Signature``.

    An access takes one cycle, and cannot be held off. A register wider than the bus is in
    several addresses, its lowest bits first: reading the first one keeps the others for the reads
    that follow, and writing the last one makes the write happen.

    Parameters
    ----------
    addr_width, data_width : int
        Bits of an address and of a word, 1 or more.

    Members
    -------
    addr : Out(addr_width)
        Address, in words of ``data_width``.
    r_data : In(data_width)
        What was read, in the cycle after ``r_stb``; 0 in every other one, so that those of
        several targets may be ored.
    r_stb : Out(1)
        Read.
    w_data : Out(data_width)
        What to write.
    w_stb : Out(1)
        Write.
    """

    def __init__(self, addr_width: int, data_width: int) -> None:
        self.addr_width = _integer(addr_width, "addr_width", 1, 64)
        self.data_width = _integer(data_width, "data_width", 1, 64)
        super().__init__({
            "addr": Out(self.addr_width),
            "r_data": In(self.data_width), "r_stb": Out(1),
            "w_data": Out(self.data_width), "w_stb": Out(1),
        })


class CsrNarrow(wiring.Component):
    """Registers of 32 bits on a CSR bus of 8 or 16: low part first, each register whole.

    Cost, to 8 bits, around the network of ``digits``: 15 LUT4 and 51 flip-flops more on iCE40 than
    with Wishbone, 29 and 51 on ECP5 (``python -m benchmarks components``). Latency: none of its
    own. Throughput: an access per cycle.

    Parameters
    ----------
    addr_width : int
        Bits of an address of a register.
    data_width : int
        Of the narrow bus: 8 or 16.

    Members
    -------
    bus : In(CsrSignature)
        The narrow bus; its addresses have 2 bits (1 for ``data_width=16``) more at their lower
        end.
    csr : Out(CsrSignature)
        Of the registers.

    Raises
    ------
    ValueError
        If ``data_width`` is neither 8 nor 16.
    """

    bus: Any
    csr: Any

    def __init__(self, addr_width: int, data_width: int = 8) -> None:
        if data_width not in (8, 16):
            raise ValueError(f"data_width must be 8 or 16, not {data_width}")
        self.data_width = data_width
        self.parts = 32 // data_width
        super().__init__({
            "bus": In(CsrSignature(addr_width + ceil_log2(self.parts), data_width)),
            "csr": Out(CsrSignature(addr_width, 32)),
        })

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bus, csr = self.bus, self.csr
        part = bus.addr[:ceil_log2(self.parts)]
        kept = 32 - self.data_width
        written, seen = (Signal(kept, name=name, reset_less=True) for name in ("written", "seen"))
        fresh, later = Signal(), Signal()
        place = Signal.like(part, reset_less=True)
        m.d.comb += [
            csr.addr.eq(bus.addr[len(part):]),
            csr.r_stb.eq(bus.r_stb & (part == 0)),
            csr.w_stb.eq(bus.w_stb & (part == self.parts - 1)),
            csr.w_data.eq(Cat(written, bus.w_data)),
            # One of the two is 0.
            bus.r_data.eq(csr.r_data | Mux(later, seen.word_select(place, self.data_width), 0)),
        ]
        m.d.sync += [fresh.eq(csr.r_stb), later.eq(bus.r_stb & (part != 0)), place.eq(part - 1)]
        with m.If(fresh):
            m.d.sync += seen.eq(csr.r_data[self.data_width:])
        with m.If(bus.w_stb):
            for number in range(self.parts - 1):
                with m.If(part == number):
                    m.d.sync += written.word_select(number, self.data_width).eq(bus.w_data)
        return m
