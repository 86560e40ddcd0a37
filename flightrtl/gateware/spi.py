"""A host's SPI bus, at which a design is a peripheral: mode 0, highest bit first."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from ..protocol import FLAG

__all__ = ["CYCLES_PER_BIT", "SpiPeripheral"]

CYCLES_PER_BIT = 8
"""Cycles of the design's clock in one of the host's, at least: see :class:`SpiPeripheral`."""


class SpiPeripheral(wiring.Component):
    """Bytes from a host and to it at the same time, as a transport of a
    :class:`~flightrtl.top.SerialNetwork`.

    Whenever the host moves a byte, one comes back: the flag where there is nothing to send. Both
    sides read flags as silence, so a host that only wants to read sends flags.

    The pins are sampled with the design's clock; the host's has nothing to do with it. A bit is
    taken from ``copi`` at the rising edge of ``sck``, and ``cipo`` changes 1 to 2 cycles after the
    falling edge. So ``sck`` must be

    - high for more than a cycle;
    - low for 2 cycles and the time that pins, wires and the host's input need;
    - slow enough for whoever takes and gives the bytes: 30 cycles until a byte is taken by a
      :class:`~flightrtl.gateware.link.Link`, or 60 with its ``register``.

    With as much time high as low, all of it holds up to the clock divided by
    :data:`CYCLES_PER_BIT`, where 2 cycles are left for pins and wires. ``cs`` must change 2 cycles
    or more away from the edges of ``sck``.

    A byte to the host is kept until its last bit has been read, and is sent from its first bit
    again when ``cs`` ends before. It is fetched while the one before it is sent: inside a frame,
    ``i`` must be valid again within the time of a byte, or a flag would break the frame.

    Latency: a byte from the host is valid 2 to 3 cycles after the rising edge of its last bit.
    Cost: 27 LUT4 and 35 flip-flops on iCE40 and on ECP5 (Yosys 0.70, ``-abc9``).

    Members
    -------
    sck, copi : In(1)
        Clock and data of the host, asynchronous. The clock is 0 when idle.
    cs : In(1)
        1 while the host talks to this design, asynchronous. (Pins are usually active low.)
    cipo : Out(1)
        Data to the host.
    cipo_oe : Out(1)
        Whether to drive it: ``cs``, as it is, so that others can share the bus.
    o : Out(stream) of 8 bits
        Bytes from the host. One must be taken before the last bit of the next.
    lost : Out(1)
        Pulses when a byte was lost: dropped since the one before it has not been taken, or cut
        off by the end of ``cs``.
    i : In(stream) of 8 bits
        Bytes to the host.
    """

    sck: Signal
    copi: Signal
    cs: Signal
    cipo: Signal
    cipo_oe: Signal
    o: stream.Interface
    lost: Signal
    i: stream.Interface

    def __init__(self) -> None:
        super().__init__({
            "sck": In(1),
            "copi": In(1),
            "cs": In(1),
            "cipo": Out(1),
            "cipo_oe": Out(1),
            "o": Out(stream.Signature(8)),
            "lost": Out(1),
            "i": In(stream.Signature(8)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sck, copi, cs = Signal(), Signal(), Signal()
        m.submodules += [FFSynchronizer(self.sck, sck), FFSynchronizer(self.copi, copi),
                         FFSynchronizer(self.cs, cs)]
        before = Signal()           # sck, a cycle ago
        rises = Signal()
        ends = Signal()             # the last bit of a byte
        count = Signal(3)           # bits so far
        shift = Signal(7, reset_less=True)
        sent = Signal(8, init=FLAG)
        bit = Signal()              # of it, the next one to be read
        held = Signal()             # the one before, while sck is high
        m.d.sync += before.eq(sck)
        m.d.comb += [
            rises.eq(cs & sck & ~before),
            ends.eq(rises & count.all()),
            bit.eq(Cat(reversed(sent)).bit_select(count, 1)),
            # Not from a register of its own: it would be a cycle late.
            self.cipo.eq(Mux(sck, held, bit)),
            self.cipo_oe.eq(self.cs),
            self.i.ready.eq(ends),
            self.lost.eq((ends & self.o.valid & ~self.o.ready) | (~cs & count.any())),
        ]
        with m.If(~sck):
            m.d.sync += held.eq(bit)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(~cs):
            m.d.sync += count.eq(0)
        with m.If(rises):
            m.d.sync += [count.eq(count + 1), shift.eq(Cat(copi, shift[:-1]))]
        with m.If(ends):
            m.d.sync += sent.eq(Mux(self.i.valid, self.i.payload, FLAG))
            with m.If(~self.o.valid | self.o.ready):
                m.d.sync += [self.o.payload.eq(Cat(copi, shift)), self.o.valid.eq(1)]
        return m
