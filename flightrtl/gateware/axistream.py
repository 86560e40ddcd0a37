"""A network behind AXI4-Stream interfaces."""

from __future__ import annotations

from typing import Any

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .network import Network

__all__ = ["AxiStreamNetwork", "AxiStreamSignature", "byte_bits", "require_own_weights"]


def byte_bits(bits: int) -> int:
    """Bits of as many whole bytes as ``bits`` take."""
    return -(-bits // 8) * 8


def require_own_weights(network: Network) -> None:
    """Do nothing for a network that needs no stream but images and logits.

    Raises
    ------
    ValueError
        If a layer takes its weights from outside.
    """
    if network.external:
        raise ValueError(f"layer {next(iter(network.external))!r} takes its weights from outside, "
                         "and there is no port for them here: use the Network itself, or keep the "
                         "weights in block RAM")


class AxiStreamSignature(wiring.Signature):
    """An AXI4-Stream as its transmitter sees it.

    Parameters
    ----------
    data : int
        Bits of ``tdata``: whole bytes.
    user : int
        Bits of ``tuser``; no such member if 0.

    Members
    -------
    tdata : Out(data)
        The value, two's complement or unsigned, extended to the byte.
    tuser : Out(user)
        Beside it.
    tlast : Out(1)
        1 on the last transfer of a packet.
    tvalid : Out(1)
        A transfer is offered; it stays until it is taken.
    tready : In(1)
        It is taken in this cycle.

    Raises
    ------
    ValueError
        If ``data`` is not a multiple of 8.
    """

    def __init__(self, data: int, *, user: int = 0) -> None:
        if data < 8 or data % 8:
            raise ValueError(f"tdata must have whole bytes: a multiple of 8 bits, not {data}")
        members = {"tdata": Out(data), "tlast": Out(1), "tvalid": Out(1), "tready": In(1)}
        super().__init__(members | ({"tuser": Out(user)} if user else {}))


class AxiStreamNetwork(wiring.Component):
    """A network with an AXI4-Stream of images and one of logits.

    The end of a packet ends an image. So ``s_axis.tlast`` may come with each image, with a batch
    of them, or never (tie it to 0, where whole images always arrive). A packet that ends within
    an image has lost something: what is missing is filled up with zeros, so that the images after
    it are whole again, and ``short_image`` says so from then on.

    Cost, around the network of ``digits``: 16 LUT4 and 8 flip-flops on iCE40, 17 and 8 on ECP5
    (``python -m benchmarks components``). Latency and throughput: the network's; the zeros of a
    short image go in at one a cycle.

    Parameters
    ----------
    network : Network
        Becomes a part of this component.

    Members
    -------
    s_axis : In(AxiStreamSignature)
        Images by row, column, channel, a value each transfer. Bits of ``tdata`` beyond the
        format of the network's input are ignored.
    m_axis : Out(AxiStreamSignature)
        Logits in the order of the classes, sign-extended. ``tlast`` is 1 on the last one of an
        image; ``tuser`` is valid with it: the class (the first of the greatest logits).
    short_image : Out(1)
        1 after a packet that ended within an image, until reset.

    Raises
    ------
    ValueError
        If a layer takes its weights from outside.
    """

    s_axis: Any
    m_axis: Any
    short_image: Signal

    def __init__(self, network: Network) -> None:
        require_own_weights(network)
        self.network = network
        result = network.argmax
        super().__init__({
            "s_axis": In(AxiStreamSignature(byte_bits(network.model.input.format.bits))),
            "m_axis": Out(AxiStreamSignature(
                byte_bits(result.width), user=len(Value.cast(network.o.payload.winner)))),
            "short_image": Out(1),
        })

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.network = network = self.network
        source, sink = self.s_axis, self.m_axis
        size = network.model.input.size

        place = Signal(range(size))
        at_end = place == size - 1
        filling = Signal()
        m.d.comb += [
            network.i.valid.eq(source.tvalid | filling),
            network.i.payload.eq(Mux(filling, 0, source.tdata)),
            source.tready.eq(network.i.ready & ~filling),
        ]
        with m.If(network.i.valid & network.i.ready):
            m.d.sync += place.eq(Mux(at_end, 0, place + 1))
            with m.If(at_end):
                m.d.sync += filling.eq(0)
            with m.Elif(source.tlast & ~filling):
                m.d.sync += [filling.eq(1), self.short_image.eq(1)]

        m.d.comb += [
            sink.tvalid.eq(network.o.valid),
            sink.tdata.eq(network.o.payload.logit),
            sink.tlast.eq(network.o.payload.last),
            sink.tuser.eq(network.o.payload.winner),
            network.o.ready.eq(sink.tready),
        ]
        return m
