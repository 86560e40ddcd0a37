"""Images from a processor's words into a network's stream, only whole ones."""

from __future__ import annotations

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..formats import ActivationFormat, _integer
from .pe import activation_shape
from .ram import DualPortRam

__all__ = ["ImageQueue"]

WORD = 32
"""Bits of a word."""


class ImageQueue(wiring.Component):
    """Takes an image in words, and gives its values once it is complete.

    A word has as many values as fit: four of up to 8 bits, each in a byte, or two of up to 16,
    the first in the lowest bits; bits of a byte beyond the format are ignored. An image begins
    with a word of its own, and what its last word has beyond the image is ignored.

    There is room for an image (words rounded up to a power of two). While its values leave, the
    words of the next one come in behind them. A word that is offered without room is not taken:
    who cannot wait has to look at ``i.ready`` or ``room``.

    Cost, for 28 x 28 values of 8 bits: 117 LUT4, 38 flip-flops and 2 block RAMs on iCE40, 127,
    38 and 1 on ECP5 (``python -m benchmarks components``). Latency: 2 cycles from the last word
    to the first value. Throughput: a value per cycle.

    Parameters
    ----------
    format : ActivationFormat
        Of the values.
    size : int
        Values of an image, 1 or more.

    Members
    -------
    i : In(stream) of unsigned(32)
        Words.
    drop : In(1)
        Forget the words of an image that is not complete. No word is taken in this cycle.
    room : Out(unsigned)
        Words that can be taken now.
    partial : Out(1)
        1 while an image is begun and not complete.
    complete : Out(1)
        1 in the cycle in which the last word of an image is taken.
    o : Out(stream) of the activation
        Values of complete images, in order.

    Raises
    ------
    TypeError, ValueError
        If ``size`` is no such integer.
    """

    i: stream.Interface
    drop: Signal
    room: Signal
    partial: Signal
    complete: Signal
    o: stream.Interface

    def __init__(self, format: ActivationFormat, size: int) -> None:
        self.format = format
        self.size = _integer(size, "size", 1, 1 << 24)
        self.value_bits = 8 if format.bits <= 8 else 16
        self.per_word = WORD // self.value_bits
        self.words = -(-self.size // self.per_word)
        """Words of an image."""
        self.depth = max(2, 1 << ceil_log2(self.words))
        super().__init__({
            "i": In(stream.Signature(WORD)),
            "drop": In(1),
            "room": Out(range(self.depth + 1)),
            "partial": Out(1),
            "complete": Out(1),
            "o": Out(stream.Signature(activation_shape(format))),
        })

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.memory = store = DualPortRam(WORD, self.depth)
        write, read = store.write, store.read

        # Places in the memory, and a bit that tells full from empty: where the next word goes,
        # the end of the last complete image, and the word to read.
        tail, whole, head = (Signal(range(2 * self.depth), name=name)
                             for name in ("tail", "whole", "head"))
        filled = Signal(range(self.words))
        put = Signal()
        m.d.comb += [
            self.room.eq(self.depth - (tail - head)[:len(tail)]),
            self.i.ready.eq(((tail ^ head) != self.depth) & ~self.drop),
            put.eq(self.i.valid & self.i.ready),
            write.en.eq(put), write.addr.eq(tail), write.data.eq(self.i.payload),
            self.partial.eq(filled != 0),
            self.complete.eq(put & (filled == self.words - 1)),
        ]
        with m.If(put):
            m.d.sync += [tail.eq(tail + 1), filled.eq(filled + 1)]
            with m.If(self.complete):
                m.d.sync += [filled.eq(0), whole.eq(tail + 1)]
        with m.Elif(self.drop):
            m.d.sync += [tail.eq(whole), filled.eq(0)]

        fetched, taken, ends = Signal(), Signal(), Signal()
        place = Signal(range(self.per_word))
        m.d.comb += [
            read.addr.eq(head),
            read.en.eq(~fetched | (taken & ends)),
            taken.eq(fetched & self.o.ready),
            ends.eq(place == self.per_word - 1),
            self.o.valid.eq(fetched),
            self.o.payload.eq(read.data.word_select(place, self.value_bits)),
        ]
        if self.size % self.per_word:
            index = Signal(range(self.size))
            at_end = index == self.size - 1
            with m.If(at_end):
                m.d.comb += ends.eq(1)
            with m.If(taken):
                m.d.sync += index.eq(Mux(at_end, 0, index + 1))
        with m.If(taken):
            m.d.sync += place.eq(Mux(ends, 0, place + 1))
        with m.If(read.en):
            m.d.sync += fetched.eq(head != whole)
            with m.If(head != whole):
                m.d.sync += head.eq(head + 1)
        return m
