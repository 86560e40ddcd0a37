# amaranth: UnusedElaboratable=no
# (An object is also the answer in NumPy: its parts need not become hardware.)
"""Channels of a pixel, fewer or more at a time; and pixels that travel side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, _integer
from .mapstream import map_signature, map_values

__all__ = ["ChannelGatherer", "ChannelSerializer"]


def _parts(wide: int, narrow: int, names: tuple[str, str]) -> int:
    """Narrow transfers in a wide one."""
    _integer(wide, names[0], 1, 1 << 12)
    if wide % _integer(narrow, names[1], 1, 1 << 12):
        raise ValueError(f"{names[1]}={narrow} must divide {names[0]}={wide}")
    return wide // narrow


class ChannelSerializer(wiring.Component):
    """Splits transfers of ``source`` channels into transfers of ``channels``.

    With ``pixels``, it waits for as many pixels and gives their channels side by side, as layers
    that compute several pixels at a time take them.

    Cost: for 8 channels of 8 bits to one, 69 LUT4 on iCE40, 71 on ECP5. Latency: 1 cycle.
    Throughput: a transfer out per cycle.

    Parameters
    ----------
    format : ActivationFormat
        Activations.
    source : int
        Channels that come in a transfer.
    channels : int
        Channels that go out in one; divides ``source``.
    pixels : int
        Pixels that go out in one, each with that many channels.

    Members
    -------
    i : In(stream) of a map
        ``source`` channels of a pixel at a time, see :mod:`~flightrtl.gateware.mapstream`.
    o : Out(stream) of a map
        ``channels`` of ``pixels`` pixels at a time.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, format: ActivationFormat, *, source: int, channels: int = 1,
                 pixels: int = 1) -> None:
        self.format, self.source, self.channels = format, source, channels
        self.pixels = _integer(pixels, "pixels", 1, 1 << 12)
        self.parts = _parts(source, channels, ("source", "channels"))
        self.gatherer = ChannelGatherer(format, channels=source * pixels, source=source)
        super().__init__({"i": In(map_signature(format, channels=source)),
                          "o": Out(map_signature(format, pixels=pixels, channels=channels))})

    def compute(self, transfers: ArrayLike) -> IntArray:
        """Transfers (n, pixels * channels) out for (n, source) in."""
        groups = np.asarray(transfers, np.int64).reshape(-1, self.pixels, self.parts,
                                                         self.channels)
        return groups.transpose(0, 2, 1, 3).reshape(-1, self.pixels * self.channels)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.gatherer = gatherer = self.gatherer
        wiring.connect(m, wiring.flipped(self.i), gatherer.i)
        bits = self.pixels * self.channels * self.format.bits
        kept = Signal(self.parts * bits, reset_less=True)
        left = Signal(range(self.parts + 1))
        # That a part is there, and that it is the last one, are known from registers: a pipeline
        # may wait for the place.
        last = Signal(init=1)
        m.d.comb += [
            gatherer.o.ready.eq(last & (~self.o.valid | self.o.ready)),
            Value.cast(self.o.payload).eq(kept),
        ]
        # A pixel after the other, each with all its channels: to a part after the other.
        values = np.empty(self.pixels * self.source, object)
        values[:] = [Value.cast(value) for value in map_values(gatherer.o.payload)]
        values = values.reshape(self.pixels, self.parts, -1).transpose(1, 0, 2).ravel()
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [self.o.valid.eq(~last), last.eq((left == 2) | last), left.eq(left - 1),
                         kept.eq(kept >> bits)]
        with m.If(gatherer.o.valid & gatherer.o.ready):
            m.d.sync += [self.o.valid.eq(1), last.eq(self.parts == 1), left.eq(self.parts),
                         kept.eq(Cat(*values))]
        return m


class ChannelGatherer(wiring.Component):
    """Joins transfers of ``source`` channels to transfers of ``channels``.

    Cost: for one channel of 8 bits to 8, 60 flip-flops and 8 LUT4 on iCE40, 7 on ECP5. Latency:
    none; the last part passes through. Throughput: a transfer in per cycle.

    Parameters
    ----------
    format : ActivationFormat
        Activations.
    source : int
        Channels that come in a transfer; divides ``channels``.
    channels : int
        Channels that go out in one.

    Members
    -------
    i : In(stream) of a map
        ``source`` channels at a time.
    o : Out(stream) of a map
        ``channels`` at a time, the same order.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, format: ActivationFormat, *, channels: int, source: int = 1) -> None:
        self.format, self.source, self.channels = format, source, channels
        self.parts = _parts(channels, source, ("channels", "source"))
        super().__init__({"i": In(map_signature(format, channels=source)),
                          "o": Out(map_signature(format, channels=channels))})

    def compute(self, transfers: ArrayLike) -> IntArray:
        """Transfers (n, channels) out for (n, source) in."""
        return np.asarray(transfers, np.int64).reshape(-1, self.channels)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits = self.source * self.format.bits
        earlier = Signal((self.parts - 1) * bits, reset_less=True)
        count = Signal(range(self.parts))
        last = Signal(init=self.parts == 1)
        values = [Value.cast(value).as_unsigned() for value in map_values(self.i.payload)]
        everything = Cat(earlier, *values)
        m.d.comb += [
            self.o.valid.eq(self.i.valid & last),
            self.i.ready.eq(~last | self.o.ready),
            Value.cast(self.o.payload).eq(everything),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [earlier.eq(everything[bits:]), count.eq(Mux(last, 0, count + 1)),
                         last.eq((count == self.parts - 2) if self.parts > 1 else 1)]
        return m
