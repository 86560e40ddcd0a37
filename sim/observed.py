# amaranth: UnusedElaboratable=no
# (A network is also made to be asked, not only to be simulated.)
"""A network that shows what its layers hand on, and when they are busy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth import Module, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import Out

from flightrtl.formats import IntArray
from flightrtl.gateware import Network
from flightrtl.gateware.engine import LayerEngine

__all__ = ["COUNTED", "INPUT", "Observed"]

INPUT = "input"
"""What the place where images enter is called, beside the layers' names."""

COUNTED = ("busy", "starved", "stalled", "given")
"""What is counted of each place; see :class:`Observed`."""

_BITS = 32


@dataclass(frozen=True)
class _Place:
    """Where work is taken up, and where its results leave."""

    name: str
    valid: Value
    ready: Value
    given: Value


def _tap(shape: Any) -> wiring.Signature:
    """A stream that is only looked at: ``ready`` comes out too."""
    return wiring.Signature({"valid": Out(1), "ready": Out(1), "payload": Out(shape)})


class Observed(wiring.Component):
    """A network that tells what goes on in it, in ports of its own; otherwise the same.

    In every cycle, a layer with weights is *busy* if its array takes a word, *starved* if the
    array could take one and there is none, and *stalled* if it cannot: its own drain, or what
    comes behind it, holds it up. Pooling and the place where images enter count what they take
    in the same way. Every cycle is one of the three, so that they add up to the time.

    Parameters
    ----------
    network : Network
        The gateware. It becomes part of this component.

    Members
    -------
    i, o
        The network's.
    layer_0, layer_1, ... : Out(``valid``, ``ready``, ``payload``)
        The output of each layer, in the network's order: a transfer in the cycles with both.
    counts : Out(``valid``, ``ready``, ``payload``)
        A transfer in the cycle of each image's last logit. The payload has, for
        :attr:`places`, the numbers of :data:`COUNTED`, modulo ``2**32``: cycles before this one
        that were busy, starved and stalled, and transfers at the place's output.
    """

    i: stream.Interface
    o: stream.Interface
    counts: Any

    def __init__(self, network: Network) -> None:
        self.network = network
        self.model = network.model
        self.places = (INPUT, *network.stages)
        """Rows of the payload of ``counts``."""
        self.streams = {name: f"layer_{number}" for number, name in enumerate(network.stages)}
        """Port of each layer, by the layer's name."""
        counts = data.ArrayLayout(data.ArrayLayout(unsigned(_BITS), len(COUNTED)),
                                  len(self.places))
        super().__init__({
            **network.signature.members,
            **{self.streams[name]: Out(_tap(stage.o.payload.shape()))
               for name, stage in network.stages.items()},
            "counts": Out(_tap(counts)),
        })

    def counted(self, words: IntArray) -> IntArray:
        """Payloads of ``counts`` as int64 (transfers, places, COUNTED).

        Parameters
        ----------
        words : array of uint64, (transfers, words)
            The payloads, least significant word first.
        """
        halves = np.ascontiguousarray(words, "<u8").view("<u4").astype(np.int64)
        wanted = len(self.places) * len(COUNTED)
        return halves.reshape(len(words), -1)[:, :wanted].reshape(
            len(words), len(self.places), len(COUNTED))

    def values(self, name: str, words: IntArray) -> IntArray:
        """What a layer handed on as int64, from the payloads of its port, sign-extended or not."""
        shape = self.network.stages[name].o.payload.shape()
        values = np.asarray(words).reshape(-1).astype(np.int64) & (1 << shape.width) - 1
        if shape.signed:
            values -= (values >> (shape.width - 1)) << shape.width
        return values

    def _places(self) -> Iterator[_Place]:
        i = self.network.i
        yield _Place(INPUT, i.valid, i.ready, i.valid & i.ready)
        for name, stage in self.network.stages.items():
            work = stage.array.i if isinstance(stage, LayerEngine) else stage.i
            yield _Place(name, work.valid, work.ready, stage.o.valid & stage.o.ready)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        network = self.network
        m.submodules.network = network
        wiring.connect(m, wiring.flipped(self.i), network.i)
        wiring.connect(m, network.o, wiring.flipped(self.o))
        for name, port in self.streams.items():
            tap, source = getattr(self, port), network.stages[name].o
            m.d.comb += [tap.valid.eq(source.valid), tap.ready.eq(source.ready),
                         tap.payload.eq(source.payload)]

        m.d.comb += [self.counts.valid.eq(network.o.valid & network.o.payload.last),
                     self.counts.ready.eq(network.o.ready)]
        for row, place in zip(self.counts.payload, self._places(), strict=True):
            events = (place.valid & place.ready, place.ready & ~place.valid, ~place.ready,
                      place.given)
            for count, event, what in zip(row, events, COUNTED, strict=True):
                counter = Signal(_BITS, name=f"{place.name}_{what}")
                m.d.comb += count.eq(counter)
                with m.If(event):
                    m.d.sync += counter.eq(counter + 1)
        return m
