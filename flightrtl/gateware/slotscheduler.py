"""The scheduler of a loadable engine: which slots make a filter is in a memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth import Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import IntArray, _integer
from .mapstream import map_values, vector

__all__ = ["SlotScheduler", "parameter_layout", "slot_parameters"]


def parameter_layout(width: int, shift_bits: int) -> data.StructLayout:
    """A slot's parameters.

    ``first`` of its filter: the sum starts at ``bias``; ``ends``: it is the last; ``shift``: what
    is to be done with the sum.
    """
    return data.StructLayout({"first": 1, "ends": 1, "bias": signed(width), "shift": shift_bits})


def slot_parameters(k: Sequence[int], bias: Sequence[int], shift: Sequence[int], slots: int,
                    width: int) -> list[int]:
    """The words of :func:`parameter_layout` for a layer's slots, of which the last may be spare.

    Biases are modulo ``2**width``, shifts as they are to stand there.
    """
    words = []
    for terms, start, by in zip(k, bias, shift, strict=True):
        if terms < 1:
            raise ValueError("k must be 1 or more: a filter without weights takes a slot of zeros")
        rest = (int(start) & (1 << width) - 1) << 2 | int(by) << 2 + width
        words += [rest | (slot == 0) | (slot == terms - 1) << 1 for slot in range(terms)]
    return words + [1] * (slots - len(words))


class SlotScheduler(wiring.Component):
    """Adds the sums of consecutive slots, and a bias, until each filter is whole.

    What :class:`FilterScheduler` has as a program, this one takes from a stream, so that another
    model's will do; and as the bias comes with it, the requantizer needs no adder.

    Cost: for each pixel a multiplexer, an adder and a register of ``width`` bits; 46 LUT4 on
    iCE40 and 45 on ECP5 for 20 bits (``python -m benchmarks components``).
    Latency: 1 cycle from a filter's last slot. Throughput: a slot per cycle, or as many as there
    are parameters for.

    Parameters
    ----------
    width : int
        Bits of a sum. Sums are modulo ``2**width``.
    shift_bits : int
        Bits of a shift, which is handed on.
    pixels : int
        Pixels side by side, each with its own adder.

    Members
    -------
    i : In(stream) of signed(width), an array of them if there are several pixels
        Sums of slots.
    parameters : In(stream) of :func:`parameter_layout`
        One for each of them.
    o : Out(stream) of struct
        ``sums``: of a filter, as ``i``; ``shift``: of its last slot.
    """

    i: stream.Interface
    parameters: stream.Interface
    o: stream.Interface

    def __init__(self, *, width: int, shift_bits: int, pixels: int = 1) -> None:
        self.width = _integer(width, "width", 1, 64)
        self.shift_bits = _integer(shift_bits, "shift_bits", 0, 6)
        self.pixels = _integer(pixels, "pixels", 1, 1 << 12)
        sums = vector(signed(width), pixels)
        super().__init__({
            "i": In(stream.Signature(sums)),
            "parameters": In(stream.Signature(parameter_layout(width, shift_bits))),
            "o": Out(stream.Signature(data.StructLayout({"sums": sums, "shift": shift_bits}))),
        })

    def compute(self, sums: ArrayLike, parameters: Sequence[int]) -> tuple[IntArray, IntArray]:
        """Filter sums, (..., filters), of a pixel's slot sums, (..., slots); filters' shifts."""
        slots = np.asarray(sums, np.int64)
        words = np.array(parameters, np.int64)
        firsts, ends = np.flatnonzero(words & 1), np.flatnonzero(words & 2)
        total = np.concatenate([np.zeros((*slots.shape[:-1], 1), np.int64),
                                slots.cumsum(axis=-1)], axis=-1)
        firsts = firsts[np.searchsorted(firsts, ends, side="right") - 1]    # but those of spares
        mask, half = (1 << self.width) - 1, 1 << (self.width - 1)
        filters = total[..., ends + 1] - total[..., firsts] + (words[firsts] >> 2 & mask)
        return ((filters + half) & mask) - half, words[ends] >> 2 + self.width

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        word = self.parameters.payload
        room = Signal()
        step = Signal()
        m.d.comb += [
            # The sum is its own register: until it is taken, nothing is added.
            room.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(self.parameters.valid & room),
            step.eq(self.parameters.valid & self.i.valid & room),
            self.parameters.ready.eq(self.i.valid & room),
        ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(step):
            m.d.sync += [self.o.valid.eq(word.ends), self.o.payload.shift.eq(word.shift)]
        sums: Value = self.o.payload.sums
        for slot, total in zip(map_values(self.i.payload), map_values(sums), strict=True):
            with m.If(step):
                m.d.sync += total.eq(Mux(word.first, word.bias, total) + slot)
        return m
