"""Wishbone to registers."""

from __future__ import annotations

from typing import Any

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import _integer
from .csr import CsrSignature

__all__ = ["WishboneRegisters", "WishboneSignature"]


class WishboneSignature(wiring.Signature):
    """A classic Wishbone B4 bus as its initiator sees it, 32 bits wide with bytes to select.

    The members are those of ``amaranth_soc.wishbone.bus.Signature`` with ``data_width=32``,
    ``granularity=8`` and no optional features.

    Parameters
    ----------
    addr_width : int
        Bits of an address, 1 or more.

    Members
    -------
    adr : Out(addr_width)
        Address, in words of 32 bits.
    dat_w : Out(32), dat_r : In(32)
        What to write, and what was read.
    sel : Out(4)
        Bytes that are meant.
    cyc, stb, we : Out(1)
        Bus in use; access asked for; it is a write.
    ack : In(1)
        The access ends with this cycle.
    """

    def __init__(self, addr_width: int) -> None:
        self.addr_width = _integer(addr_width, "addr_width", 1, 64)
        super().__init__({
            "adr": Out(self.addr_width), "dat_w": Out(32), "dat_r": In(32), "sel": Out(4),
            "cyc": Out(1), "stb": Out(1), "we": Out(1), "ack": In(1),
        })


class WishboneRegisters(wiring.Component):
    """Registers of 32 bits on a Wishbone bus.

    Every access is answered, in its second cycle. A read gives the whole register whatever
    ``sel`` says; a write of less than all four bytes is answered but does nothing, and sets
    ``refused``. An access that is given up before its ``ack`` does nothing.

    Cost: 7 LUT4 and a flip-flop on both families (``python -m benchmarks components``). Latency: 1
    cycle. Throughput: an access every 2 cycles.

    Parameters
    ----------
    addr_width : int
        Bits of an address of a register.

    Members
    -------
    bus : In(WishboneSignature)
        The bus.
    csr : Out(CsrSignature)
        Of the registers.
    refused : Out(1)
        1 in the cycle of the ``ack`` of a write that did nothing.
    """

    bus: Any
    csr: Any
    refused: Signal

    def __init__(self, addr_width: int) -> None:
        super().__init__({
            "bus": In(WishboneSignature(addr_width)),
            "csr": Out(CsrSignature(addr_width, 32)),
            "refused": Out(1),
        })

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bus, csr = self.bus, self.csr
        asked, second = Signal(), Signal()
        m.d.comb += [
            asked.eq(bus.cyc & bus.stb),
            bus.ack.eq(asked & second),
            csr.addr.eq(bus.adr),
            csr.r_stb.eq(asked & ~bus.we & ~second),
            bus.dat_r.eq(csr.r_data),
            csr.w_stb.eq(bus.ack & bus.we & bus.sel.all()),
            csr.w_data.eq(bus.dat_w),
            self.refused.eq(bus.ack & bus.we & ~bus.sel.all()),
        ]
        m.d.sync += second.eq(asked & ~second)
        return m
