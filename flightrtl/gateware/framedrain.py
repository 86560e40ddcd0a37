"""What leaves a layer's lanes with frame-based weight reuse: filters that are complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..formats import _integer
from .repeatrom import repeating_rom

__all__ = ["FrameDrain"]


class FrameDrain(wiring.Component):
    """Passes on the sums of lanes that have completed a filter, drops the others.

    Where a filter has no weights it puts a 0 in its place.

    Cost: a gate for each bit if there are such filters, and one ROM: for 30 filters on 4 lanes
    with 64 pixels, of which the last pass leaves 2 lanes idle, 32 LUT4 on iCE40 and 34 on ECP5
    (``python -m benchmarks components``). Latency: none. Throughput: a step per cycle.

    Parameters
    ----------
    drain : sequence of sequences of (bool, int or None)
        Steps of each pass, see :attr:`FramedLayer.drain`; passes without steps are of no matter.
    pixels : int
        Pixels of each pass.
    width : int
        Bits of a sum.

    Members
    -------
    i : In(stream) of signed(width)
        The lanes' sums, pass by pass, in these pixel by pixel, in these lane by lane.
    o : Out(stream) of signed(width)
        Sums of filters, in the order of ``drain``.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, drain: Sequence[Sequence[tuple[bool, int | None]]], pixels: int,
                 width: int) -> None:
        self.steps = [[(takes, index is not None) for takes, index in steps]
                      for steps in drain if steps]
        """For each pass, step by step: whether it takes a sum, whether it gives one."""
        self.pixels = _integer(pixels, "pixels", 1, 1 << 24)
        self.width = _integer(width, "width", 1, 64)
        super().__init__({"i": In(stream.Signature(signed(width))),
                          "o": Out(stream.Signature(signed(width)))})

    def compute(self, sums: Sequence[int]) -> list[int]:
        """What leaves for the sums of a whole number of images."""
        result: list[int] = []
        rest = iter(sums)
        while (first := next(rest, None)) is not None:
            for number, steps in enumerate(self.steps):
                for pixel in range(self.pixels):
                    for place, (takes, gives) in enumerate(steps):
                        begins = number == pixel == place == 0
                        value = (first if begins else next(rest)) if takes else 0
                        if gives:
                            result.append(value)
        return result

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # A pass begins with a sum, and what is put in its place comes behind all of them: so
        # that no constant leaves before its image is there.
        words = [[takes | gives << 1 for takes, gives in steps] for steps in self.steps]
        m.submodules.rom = rom = repeating_rom(2, words, repeat=self.pixels)
        takes, gives = rom.o.payload[0], rom.o.payload[1]
        there = Signal()
        m.d.comb += [
            there.eq(rom.o.valid & (self.i.valid | ~takes)),
            self.o.valid.eq(there & gives),
            self.o.payload.eq(Mux(takes, self.i.payload, 0)),
            self.i.ready.eq(rom.o.valid & takes & (~gives | self.o.ready)),
            rom.o.ready.eq(there & (~gives | self.o.ready)),
        ]
        return m
