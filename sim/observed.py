# amaranth: UnusedElaboratable=no
# (A network is also made to be asked, not only to be simulated.)
"""A network that shows what its layers hand on, and when they work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from amaranth import Cat, Module, Shape, Value
from amaranth.lib import stream, wiring
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import Out
from numpy.typing import NDArray

from flightrtl.formats import IntArray
from flightrtl.gateware import (
    ChannelConcat,
    FrameEngine,
    LayerEngine,
    Network,
    ResidualAdd,
)

from .flash import Flashed

__all__ = ["COUNTED", "INPUT", "Observed", "Simulated"]

COUNTED = ("busy", "starved", "stalled", "given")
"""What can be counted of each place: cycles in which it takes a word to work on, could take one
and has none, and cannot take one; and transfers at its output."""

INPUT = "input"
"""What the place where images enter is called, beside the layers' names."""


class Observed(wiring.Component):
    """A network with its inner streams in ports of its own; otherwise the same.

    Nothing is added but wires, so that watching costs a simulation next to nothing.

    Parameters
    ----------
    network : Network or Flashed
        The gateware. It becomes part of this component.

    Members
    -------
    i, o
        The network's.
    layer_0, layer_1, ... : Out(``valid``, ``ready``, ``payload``)
        The output of each layer, in the network's order: a transfer in the cycles with both.
    work_0, work_1, ... : Out(``valid``, ``ready``)
        Where the input, and then each layer, takes up its work: the array of a layer with
        weights, where an addition has both operands or a concatenation the next one, the stream
        into any other place. Seen from the place that works: ``valid`` says that it could go on,
        ``ready`` that there is something to go on with.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, network: Network | Flashed) -> None:
        self.network = network
        self.model = network.model
        self.places = (INPUT, *network.stages)
        """Where work is done: the names of ``work_0``, ``work_1``, ..."""
        self.work = {name: f"work_{number}" for number, name in enumerate(self.places)}
        """Port of each place, by its name."""
        self.streams = {name: f"layer_{number}" for number, name in enumerate(network.stages)}
        """Port of each layer, by its name."""
        handshake = {"valid": Out(1), "ready": Out(1)}
        super().__init__({
            **network.signature.members,
            **{self.streams[name]: Out(wiring.Signature(
                handshake | {"payload": Out(stage.o.payload.shape())}))
               for name, stage in network.stages.items()},
            **{port: Out(wiring.Signature(handshake)) for port in self.work.values()},
        })

    def values(self, name: str, payloads: NDArray[Any]) -> IntArray:
        """What a layer handed on as int64, from the payloads of its port, sign-extended or not.

        In the order of the map: row, column, channel. Where a transfer has several pixels and
        those of the last group are not complete, they are left out.
        """
        pixels = self.pixels(name)
        shape: Any = self.network.stages[name].o.payload.shape()
        if pixels == 1:
            values = np.asarray(payloads).astype(np.int64) & (1 << shape.width) - 1
        else:
            shape = Shape.cast(shape.elem_shape)
            mask, channels = (1 << shape.width) - 1, self.model.tensors[name].shape[2]
            count = len(payloads) // channels * channels
            # A payload is one word of 64 bits, or several, the lowest first.
            whole = [sum((int(word) & (1 << 64) - 1) << 64 * n for n, word in enumerate(words))
                     for words in np.asarray(payloads).reshape(len(payloads), -1)[:count]]
            groups = np.array([[word >> n * shape.width & mask for n in range(pixels)]
                               for word in whole], np.int64).reshape(-1, channels, pixels)
            values = groups.swapaxes(1, 2).reshape(-1)
        if shape.signed:
            values -= (values >> (shape.width - 1)) << shape.width
        return values

    def pixels(self, name: str) -> int:
        """Pixels of a transfer out of a place."""
        if name == INPUT:
            return 1
        shape = self.network.stages[name].o.payload.shape()
        return shape.length if isinstance(shape, ArrayLayout) else 1

    @property
    def flags(self) -> Value:
        """Of each place, what happens in a cycle, for :meth:`tally`."""
        flags = []
        for name, port in self.work.items():
            work = getattr(self, port)
            out = getattr(self, self.streams.get(name, port))
            flags += [work.valid, work.ready, out.valid & out.ready]
        return Cat(flags)

    def tally(self, seen: Mapping[int, int]) -> IntArray:
        """int64 (places, COUNTED) from how many cycles had which :attr:`flags`."""
        counts = np.zeros((len(self.places), len(COUNTED)), np.int64)
        for flags, cycles in seen.items():
            for place in range(len(self.places)):
                could, has, gives = (flags >> 3 * place + n & 1 for n in range(3))
                counts[place, (0 if has else 1) if could else 2] += cycles
                counts[place, 3] += gives * cycles
        return counts

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        network = self.network
        m.submodules.network = network
        wiring.connect(m, wiring.flipped(self.i), network.i)
        wiring.connect(m, network.o, wiring.flipped(self.o))
        # Of each place, whether it could go on and whether it has something to go on with.
        places: dict[str, Any] = {INPUT: (network.i.ready, network.i.valid)}
        for name, stage in network.stages.items():
            if isinstance(stage, (ResidualAdd, ChannelConcat)):
                places[name] = stage.could, stage.has
            else:
                place = (stage.array.i if isinstance(stage, (LayerEngine, FrameEngine))
                         else stage.i)
                places[name] = place.ready, place.valid
            tap = getattr(self, self.streams[name])
            m.d.comb += [tap.valid.eq(stage.o.valid), tap.ready.eq(stage.o.ready),
                         tap.payload.eq(stage.o.payload)]
        for name, (could, has) in places.items():
            tap = getattr(self, self.work[name])
            m.d.comb += [tap.valid.eq(could), tap.ready.eq(has)]
        return m


Simulated = Network | Flashed | Observed
"""What a simulator runs images through."""
