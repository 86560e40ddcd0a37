"""The filter scheduler: joins the slots that the lanes computed into filters again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..formats import IntArray, _integer
from ..rules import LIMITS
from .folding import drain_program, slot_places
from .mapstream import map_values, vector
from .weights import RomStream

__all__ = ["FilterScheduler"]


class FilterScheduler(wiring.Component):
    """Adds the sums of consecutive slots until each filter is whole.

    The packing is static: filter ``i`` takes ``k[i]`` consecutive slots, and slot ``s`` runs on
    lane ``s mod lanes`` in pass ``s div lanes``. A layer so takes ``ceil(sum(k) / lanes)``
    passes whatever the mix of ``k`` (with several groups of channels, as many for each group's
    slots), filters straddle passes, and this component, reading the
    slots in order, needs one adder and the list of where filters end.

    Cost: an adder and two registers of ``width`` bits for each pixel, and one ROM of a few bits
    per slot; 61 LUT4 on iCE40 and 64 on ECP5 for 24 filters and 20 bits (``python -m benchmarks
    components``).
    Latency: 1 cycle from a filter's last slot. Throughput: a slot per cycle; a filter with
    ``k = 0`` takes a cycle too.

    The idea that a filter has its own number of shifts is FLightNN's (Ding et al., DAC 2019).

    Parameters
    ----------
    k : sequence of int
        Slots of each filter, 0 or more.
    lanes : int
        Lanes of the array.
    width : int
        Bits of a sum. Sums are modulo ``2**width``.
    pixels : int
        Pixels side by side, each with its own adder.
    groups : int
        Groups of channels, which divide the filters; passes are of one group.

    Members
    -------
    i : In(stream) of signed(width), an array of them if there are several pixels
        Sums of slots, ``lanes`` for each pass.
    o : Out(stream) of the same
        Sums of filters, in order; 0 for a filter with ``k = 0``.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, k: Sequence[int], lanes: int, width: int, pixels: int = 1,
                 groups: int = 1) -> None:
        self.k = tuple(_integer(terms, "k", 0, LIMITS.k) for terms in k)
        if not self.k:
            raise ValueError("k must name at least one filter")
        self.lanes = _integer(lanes, "lanes", 1, 1 << 16)
        self.width = _integer(width, "width", 1, 64)
        self.pixels = _integer(pixels, "pixels", 1, 1 << 12)
        self.groups = _integer(groups, "groups", 1, 1 << 16)
        if len(self.k) % groups:
            raise ValueError(f"groups={groups} must divide the {len(self.k)} filters")
        self.program = drain_program(self.k, self.lanes, self.groups)
        # Filters with k = 0 before the first slot wait for it, without taking it: otherwise the
        # constants of an image would leave before it arrives.
        leading = next(n for n, (takes, _) in enumerate(self.program) if takes)
        self.waits = [takes or n < leading for n, (takes, _) in enumerate(self.program)]
        """Whether each step needs a slot to be there."""
        self.passes = sum(takes for takes, _ in self.program) // self.lanes
        super().__init__({
            "i": In(stream.Signature(vector(signed(width), pixels))),
            "o": Out(stream.Signature(vector(signed(width), pixels))),
        })

    def compute(self, sums: Sequence[int]) -> IntArray:
        """Filter sums, (pixels, filters), of a whole number of pixels' slot sums."""
        slots = np.asarray(sums, np.int64).reshape(-1, self.passes * self.lanes)
        places = slot_places(np.reshape(self.k, (self.groups, -1)).sum(axis=1).tolist(), self.lanes)
        owners = np.repeat(np.arange(len(self.k)), self.k)
        filters = np.zeros((len(slots), len(self.k)), np.int64)
        np.add.at(filters.T, owners, slots[:, places].T)
        half = 1 << (self.width - 1)
        return ((filters + half) & (2 * half - 1)) - half

    def _steps(self) -> RomStream:
        """The program as a stream; the proofs replace it by one whose ``k`` is symbolic."""
        return RomStream(3, [takes | ends << 1 | waits << 2 for (takes, ends), waits
                             in zip(self.program, self.waits, strict=True)])

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.program = program = self._steps()
        takes, ends, waits = program.o.payload[0], program.o.payload[1], program.o.payload[2]

        room = Signal()
        step = Signal()
        m.d.comb += [
            room.eq(~ends | ~self.o.valid | self.o.ready),
            self.i.ready.eq(program.o.valid & takes & room),
            step.eq(program.o.valid & (~waits | self.i.valid) & room),
            program.o.ready.eq(step),
        ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(step & ends):
            m.d.sync += self.o.valid.eq(1)
        adds = max(self.k) > 1
        for pixel, (slot, result) in enumerate(zip(map_values(self.i.payload),
                                                   map_values(self.o.payload), strict=True)):
            suffix = f"_{pixel}" if self.pixels > 1 else ""
            total = Signal(signed(self.width), name=f"total{suffix}")
            carry = Signal(signed(self.width), name=f"carry{suffix}")
            m.d.comb += total.eq(carry + slot if adds else slot)
            with m.If(step):
                with m.If(ends):
                    m.d.sync += result.eq(Mux(takes, total, 0))
                m.d.sync += carry.eq(Mux(ends, 0, total))
        return m
