"""A link: bytes from a host and to it on one side, a network on the other."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...protocol import Frame, Identity
from .deframer import Deframer
from .framer import Framer
from .responder import Responder

__all__ = ["Link"]


class Link(wiring.Component):
    """The device's end of a link: a deframer, a responder and a framer.

    Whoever brings the bytes may lose some, double them, or stop at any time: at most the frame
    that is hit is lost. A byte that is offered is taken within 30 cycles, whatever the network
    does.

    Parameters
    ----------
    frame : Frame
        Sizes and formats.
    identity : Identity
        What the device says about itself.

    Members
    -------
    i : In(stream) of 8 bits
        Bytes from the host.
    o : Out(stream) of 8 bits
        Bytes to the host.
    lost, image, result, winner
        As of :class:`~.responder.Responder`.
    """

    i: stream.Interface
    o: stream.Interface
    lost: Signal
    image: stream.Interface
    result: stream.Interface
    winner: Signal

    def __init__(self, frame: Frame, identity: Identity) -> None:
        self.frame = frame
        self.responder = Responder(frame, identity)
        members = {name: member for name, member in self.responder.signature.members.items()
                   if name not in ("i", "o")}
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8)), **members})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.deframer = deframer = Deframer()
        m.submodules.responder = responder = self.responder
        m.submodules.framer = framer = Framer()
        outside = wiring.flipped(self)
        wiring.connect(m, outside.i, deframer.i)
        wiring.connect(m, deframer.o, responder.i)
        wiring.connect(m, responder.o, framer.i)
        wiring.connect(m, framer.o, outside.o)
        wiring.connect(m, responder.image, outside.image)
        wiring.connect(m, outside.result, responder.result)
        m.d.comb += [responder.lost.eq(self.lost), self.winner.eq(responder.winner)]
        return m
