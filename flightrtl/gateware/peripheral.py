"""A network as a peripheral of a processor, on either of two buses."""

from __future__ import annotations

from typing import Any

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .csr import CsrNarrow, CsrSignature
from .network import Network
from .registers import NetworkRegisters
from .wishbone import WishboneRegisters, WishboneSignature

__all__ = ["CsrNetwork", "WishboneNetwork"]


class CsrNetwork(wiring.Component):
    """A network on a CSR bus, with the registers of :class:`NetworkRegisters`.

    Cost: that of the registers and, for less than 32 bits, of a :class:`CsrNarrow`. A read takes
    2 cycles, a write 1, for each part of a register.

    Parameters
    ----------
    network : Network
        Becomes a part of this component.
    identity : int
        See :class:`NetworkRegisters`.
    data_width : int
        Of the bus: 8, 16 or 32.

    Members
    -------
    bus : In(CsrSignature)
        The bus. Register R is at addresses ``R * 32 // data_width`` and after.
    irq : Out(1)
        Interrupt, as a level.

    Raises
    ------
    ValueError
        If ``data_width`` is none of those.
    """

    bus: Any
    irq: Signal

    def __init__(self, network: Network, *, identity: int = 0, data_width: int = 8) -> None:
        self.registers = NetworkRegisters(network, identity=identity)
        if data_width not in (8, 16, 32):
            raise ValueError(f"data_width must be 8, 16 or 32, not {data_width}")
        wide = self.registers.bus.signature
        self.narrow = CsrNarrow(wide.addr_width, data_width) if data_width < 32 else None
        narrow = self.narrow.bus.signature if self.narrow else wide
        super().__init__({"bus": In(CsrSignature(narrow.addr_width, data_width)),
                          "irq": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.registers = self.registers
        outer = wiring.flipped(self.bus)
        if self.narrow is None:
            wiring.connect(m, outer, self.registers.bus)
        else:
            m.submodules.narrow = self.narrow
            wiring.connect(m, outer, self.narrow.bus)
            wiring.connect(m, self.narrow.csr, self.registers.bus)
        m.d.comb += self.irq.eq(self.registers.irq)
        return m


class WishboneNetwork(wiring.Component):
    """A network on a Wishbone bus, with the registers of :class:`NetworkRegisters`.

    Cost: that of the registers and of :class:`WishboneRegisters`. An access takes 2 cycles.

    Parameters
    ----------
    network : Network
        Becomes a part of this component.
    identity : int
        See :class:`NetworkRegisters`.

    Members
    -------
    bus : In(WishboneSignature)
        The bus.
    irq : Out(1)
        Interrupt, as a level.
    """

    bus: Any
    irq: Signal

    def __init__(self, network: Network, *, identity: int = 0) -> None:
        self.registers = NetworkRegisters(network, identity=identity)
        addr_width = self.registers.bus.signature.addr_width
        self.bridge = WishboneRegisters(addr_width)
        super().__init__({"bus": In(WishboneSignature(addr_width)), "irq": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.registers = self.registers
        m.submodules.bridge = self.bridge
        wiring.connect(m, wiring.flipped(self.bus), self.bridge.bus)
        wiring.connect(m, self.bridge.csr, self.registers.bus)
        m.d.comb += [self.registers.refused.eq(self.bridge.refused),
                     self.irq.eq(self.registers.irq)]
        return m
