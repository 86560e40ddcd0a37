# amaranth: UnusedElaboratable=no
# (A design is also made to be asked, not only to be simulated.)
"""An SPI flash beside a simulated design, with the weights that the design reads from it."""

from __future__ import annotations

from typing import Any, TypeVar

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In

from flightrtl.gateware import FlashSignature, Network
from flightrtl.gateware.flash import READ, WAKE
from flightrtl.top import SerialNetwork

__all__ = ["Flashed", "SpiFlash", "with_flash"]


class SpiFlash(wiring.Component):
    """A flash that sleeps until it is woken up, and then answers READ.

    It runs on the design's clock, of which each half of its own takes one cycle or more, and looks
    at its pins once per cycle: what it sends changes in the cycle after its clock has fallen. What
    is not in ``contents`` reads as ones, as in a flash that was erased, and so does everything as
    long as it sleeps.

    Parameters
    ----------
    contents : bytes
        What is in it, from ``address`` on.
    address : int
        Of the first byte.

    Members
    -------
    pins : In(FlashSignature)
        As the reader has them.
    """

    pins: Any

    def __init__(self, contents: bytes, address: int = 0) -> None:
        self.contents = contents
        self.address = address
        super().__init__({"pins": In(FlashSignature())})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        ram: memory.Memory[Any, Any] = memory.Memory(shape=8, depth=max(len(self.contents), 2),
                                                     init=list(self.contents))
        m.submodules.ram = ram
        port = ram.read_port()
        pins = self.pins
        was, awake, reads, inside = Signal(), Signal(), Signal(), Signal()
        count, bit = Signal(range(33)), Signal(3)
        place, following = Signal(24), Signal(24)
        shifted = Signal(31)
        received = Cat(pins.data, shifted)
        m.d.comb += [following.eq(place), port.addr.eq(following - self.address)]
        m.d.sync += [was.eq(pins.clock), place.eq(following),
                     inside.eq((following >= self.address)
                               & (following < self.address + len(self.contents)))]
        with m.If(~pins.select):
            m.d.sync += [count.eq(0), bit.eq(0), reads.eq(0), pins.q.eq(1)]
        with m.Elif(pins.clock & ~was & (count != 32)):
            m.d.sync += [count.eq(count + 1), shifted.eq(received)]
            with m.If((count == 7) & (received[:8] == WAKE)):
                m.d.sync += awake.eq(1)
            with m.If(count == 31):
                m.d.comb += following.eq(received)
                m.d.sync += reads.eq(awake & (received[24:] == READ))
        with m.Elif(~pins.clock & was & (count == 32)):
            byte = Mux(reads & inside, port.data, 0xFF)
            m.d.sync += [pins.q.eq(byte.bit_select(~bit, 1)), bit.eq(bit + 1)]
            with m.If(bit == 7):
                m.d.comb += following.eq(place + 1)
        return m


class Flashed(wiring.Component):
    """A design with a flash beside it, which has what the design reads.

    Parameters
    ----------
    design : Network or SerialNetwork
        With a layer whose weights are in a flash.

    Members
    -------
    all but ``flash``
        The design's.
    """

    i: Any
    o: Any

    def __init__(self, design: Network | SerialNetwork) -> None:
        network = design.network if isinstance(design, SerialNetwork) else design
        engine = network.flashed
        if engine is None or engine.reader is None:
            raise ValueError("no layer takes its weights from a flash: use the design itself")
        self.design = design
        self._pins: Any = design.flash
        self.model = network.model
        self.stages = network.stages
        self.chip = SpiFlash(engine.flash_contents, engine.reader.source.address)
        super().__init__({name: member for name, member in design.signature.members.items()
                          if name != "flash"})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.design = design = self.design
        m.submodules.flash = self.chip
        wiring.connect(m, self._pins, self.chip.pins)
        inside = {path: value for path, _, value in design.signature.flatten(design)}
        for path, member, outside in self.signature.flatten(self):
            if not isinstance(Value.cast(outside), Const):
                m.d.comb += (inside[path].eq(outside) if member.flow == In
                             else Value.cast(outside).eq(inside[path]))
        return m


_Design = TypeVar("_Design", Network, SerialNetwork)


def with_flash(design: _Design) -> _Design | Flashed:
    """The design, with a flash beside it if it needs one."""
    network = design.network if isinstance(design, SerialNetwork) else design
    return Flashed(design) if network.flashed is not None else design
