"""A link: bytes from a host and to it on one side, a network on the other."""

from __future__ import annotations

from amaranth import DomainRenamer, EnableInserter, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...protocol import Frame, Identity
from .deframer import Deframer
from .framer import Framer
from .responder import NetworkSide, Responder

__all__ = ["Link"]


class Link(NetworkSide):
    """The device's end of a link: a deframer, a responder and a framer.

    Whoever brings the bytes may lose some, double them, or stop at any time: at most the frame
    that is hit is lost. A byte that is offered is taken within 30 cycles, with ``register`` within
    60, whatever the network does.

    Parameters
    ----------
    frame : Frame
        Sizes and formats.
    identity : Identity
        What the device says about itself.
    register : bool
        A register behind the buffer's memory, for devices whose block RAM is slow: the responder
        then moves in every second cycle, and what it offers to the network, in between, is not
        offered.

    Members
    -------
    i : In(stream) of 8 bits
        Bytes from the host.
    o : Out(stream) of 8 bits
        Bytes to the host.
    lost, image, result, winner, write, loading
        As of :class:`~.responder.Responder`.
    """

    def __init__(self, frame: Frame, identity: Identity, *, register: bool = False) -> None:
        self.frame = frame
        self.register = register
        self.responder = Responder(frame, identity, register=register)
        members = {name: member for name, member in self.responder.signature.members.items()
                   if name not in ("i", "o")}
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8)), **members})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.deframer = deframer = Deframer()
        responder = self.responder
        m.submodules.framer = framer = Framer()
        outside = wiring.flipped(self)
        wiring.connect(m, outside.i, deframer.i)
        wiring.connect(m, framer.o, outside.o)
        m.d.comb += self.winner.eq(responder.winner)
        if responder.identity.loadable:
            m.d.comb += self.loading.eq(responder.loading)
        if not self.register:
            m.submodules.responder = responder
            wiring.connect(m, deframer.o, responder.i)
            wiring.connect(m, responder.o, framer.i)
            wiring.connect(m, responder.image, outside.image)
            wiring.connect(m, outside.result, responder.result)
            if responder.identity.loadable:
                wiring.connect(m, responder.write, outside.write)
            m.d.comb += responder.lost.eq(self.lost)
            return m
        # In every second cycle the memory's word goes into a register and all else stands still.
        moves, lost = Signal(), Signal()
        m.d.sync += [moves.eq(~moves), lost.eq((self.lost | lost) & ~moves)]
        m.submodules.responder = DomainRenamer({"always": "sync"})(
            EnableInserter({"sync": moves})(responder))
        m.d.comb += responder.lost.eq(self.lost | lost)
        for source, target in ((deframer.o, responder.i), (responder.o, framer.i),
                               (responder.image, self.image), (self.result, responder.result)):
            m.d.comb += [target.payload.eq(source.payload), target.valid.eq(source.valid & moves),
                         source.ready.eq(target.ready & moves)]
        if responder.identity.loadable:
            bus = responder.write
            m.d.comb += [self.write.valid.eq(bus.valid & moves), self.write.memory.eq(bus.memory),
                         self.write.address.eq(bus.address), self.write.data.eq(bus.data)]
        return m
