"""The reorder memory: results that come filter by filter leave as a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, _integer
from .mapstream import map_shape
from .ram import DualPortRam
from .repeatrom import repeating_rom

__all__ = ["MapReorder"]


class MapReorder(wiring.Component):
    """Brings groups of filters, each for all pixels, into the order of a map.

    The memory holds one map. The first pixel leaves once the last group has it, and the next
    map's first group may follow as soon as a pixel has left.

    Cost: block RAM for a map, counters, and the filters' numbers in a ROM: for 32 filters in
    groups of 4 and 64 pixels of 8 bits, 104 LUT4 and 4 block RAMs on iCE40, 134 and 1 on ECP5
    (``python -m benchmarks components``). Latency: a pixel's first filter is valid 2 cycles after
    its last one came in, 3 with ``register``. Throughput: a value per cycle.

    Parameters
    ----------
    order : sequence of sequences of int
        Filters of each group, as they come; each filter is in one of them.
    pixels : int
        Pixels of a map.
    format : ActivationFormat
        Of the values.
    register : bool
        A register behind the memory, see :class:`~flightrtl.gateware.weights.RomStream`.

    Members
    -------
    i : In(stream) of a value
        Group by group, in these pixel by pixel, in these filter by filter.
    o : Out(stream) of a value
        Pixel by pixel, in these filter by filter, in their order.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, order: Sequence[Sequence[int]], pixels: int,
                 format: ActivationFormat = ActivationFormat(), register: bool = False) -> None:
        self.order = [[int(index) for index in group] for group in order]
        self.filters = sum(map(len, self.order))
        if sorted(sum(self.order, [])) != list(range(self.filters)) or not all(self.order):
            raise ValueError("order must name every filter once, in groups that are not empty")
        self.pixels = _integer(pixels, "pixels", 1, 1 << 24)
        self.format = format
        self.register = register
        super().__init__({"i": In(stream.Signature(map_shape(format))),
                          "o": Out(stream.Signature(map_shape(format)))})

    @property
    def memory_bits(self) -> int:
        """Bits of the memory."""
        return self.pixels * self.filters * self.format.bits

    def compute(self, values: ArrayLike) -> IntArray:
        """Maps (n, pixels, filters) of what comes in."""
        data = np.asarray(values, np.int64).reshape(-1, self.pixels * self.filters)
        maps = np.zeros((len(data), self.pixels, self.filters), np.int64)
        for group in self.order:
            size = self.pixels * len(group)
            maps[:, :, group] = data[:, :size].reshape(len(data), self.pixels, len(group))
            data = data[:, size:]
        return maps

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        size = self.pixels * self.filters
        # A pixel is either written or read.
        m.submodules.ram = ram = DualPortRam(self.format.bits, size, block=True)
        write, read = ram.write, ram.read

        # Which filter a value is of, and whether it is its group's last; the group's place.
        bits = ceil_log2(self.filters)
        groups = [[index | (n == len(group) - 1) << bits | (number == 0) << bits + 1
                   | (number == len(self.order) - 1) << bits + 2
                   for n, index in enumerate(group)] for number, group in enumerate(self.order)]
        m.submodules.rom = rom = repeating_rom(bits + 3, groups, repeat=self.pixels)
        step = rom.o.payload
        ends, opens, closes = step[bits], step[bits + 1], step[bits + 2]

        # Pixels that the next map may overwrite, and those that are complete.
        free = Signal(range(self.pixels + 1), init=self.pixels)
        whole = Signal.like(free, init=0)
        pixel, base = Signal(range(self.pixels)), Signal(range(size))
        put, written, left = Signal(), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(rom.o.valid & (~opens | (free != 0))),
            put.eq(self.i.valid & self.i.ready),
            rom.o.ready.eq(put),
            written.eq(put & ends),
            write.en.eq(put),
            write.addr.eq(base + step[:bits]),
            write.data.eq(Value.cast(self.i.payload)),
        ]
        with m.If(written):
            m.d.sync += [pixel.eq(pixel + 1), base.eq(base + self.filters)]
            with m.If(pixel == self.pixels - 1):
                m.d.sync += [pixel.eq(0), base.eq(0)]
        m.d.sync += [free.eq(free + left - (written & opens)),
                     whole.eq(whole + (written & closes) - left)]

        place, number = Signal(range(size)), Signal(range(self.filters))
        fetch, fetched, moves = Signal(), Signal(), Signal()
        last = Signal()
        m.d.comb += [
            read.addr.eq(place),
            read.en.eq(~fetched | moves),
            last.eq(number == self.filters - 1),
            fetch.eq((whole != 0) & read.en),
            left.eq(fetch & last),
        ]
        with m.If(read.en):
            m.d.sync += fetched.eq(whole != 0)
        with m.If(fetch):
            m.d.sync += [number.eq(Mux(last, 0, number + 1)),
                         place.eq(Mux(place == size - 1, 0, place + 1))]
        output = Value.cast(self.o.payload)
        if self.register:
            held, valid = Signal.like(read.data, reset_less=True), Signal()
            m.d.comb += [moves.eq(~valid | self.o.ready), output.eq(held), self.o.valid.eq(valid)]
            with m.If(moves):
                m.d.sync += [held.eq(read.data), valid.eq(fetched)]
        else:
            m.d.comb += [moves.eq(self.o.ready), output.eq(read.data), self.o.valid.eq(fetched)]
        return m
