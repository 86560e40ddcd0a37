# amaranth: UnusedElaboratable=no
# (An object is also the answer in NumPy: its parts need not become hardware.)
"""What a loadable engine knows of its slots, as a stream out of a block RAM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..formats import _integer
from .loadablestream import LoadableStream, WriteSignature
from .slotscheduler import parameter_layout

__all__ = ["ParameterStream"]


class ParameterStream(wiring.Component):
    """Words of :func:`~flightrtl.gateware.slotscheduler.parameter_layout`, in parts from memory.

    Cost: a block RAM if a part is no wider than its port; a counter; a flip-flop for each bit of
    all parts but the last.
    Latency: :class:`LoadableStream`'s, and ``parts - 1``. Throughput: a word in ``parts`` cycles.

    Parameters
    ----------
    words : sequence of int
        One for each slot.
    width, shift_bits : int
        Bits of a bias and of a shift.
    parts : int
        In how many parts a word is read, 1 or more.
    register, number
        As for :class:`LoadableStream`.

    Members
    -------
    o : Out(stream) of :func:`parameter_layout`
        The words, for ever.
    write : In(WriteSignature)
        With ``number`` only.
    """

    o: stream.Interface
    write: Any

    def __init__(self, words: Sequence[int], *, width: int, shift_bits: int, parts: int = 1,
                 register: bool = False, number: int | None = None) -> None:
        self.words = [int(word) for word in words]
        self.parts = _integer(parts, "parts", 1, 64)
        layout = parameter_layout(width, shift_bits)
        bits = -(-layout.size // parts)
        mask = (1 << bits) - 1
        self.memory = LoadableStream(
            bits, [word >> bits * part & mask for word in self.words for part in range(parts)],
            register=register, number=number)
        ports = {} if number is None else {"write": In(WriteSignature())}
        super().__init__({"o": Out(stream.Signature(layout)), **ports})

    def compute(self, count: int) -> list[int]:
        """The first ``count`` words of the stream."""
        return [self.words[n % len(self.words)] for n in range(count)]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.memory = memory = self.memory
        payload = self.o.payload.as_value()
        if memory.number is not None:
            wiring.connect(m, wiring.flipped(self.write), memory.write)
        if self.parts == 1:
            m.d.comb += [payload.eq(memory.o.payload), self.o.valid.eq(memory.o.valid),
                         memory.o.ready.eq(self.o.ready)]
            return m
        earlier = Signal(memory.width * (self.parts - 1), reset_less=True)
        part = Signal(range(self.parts))
        last = Signal()
        m.d.comb += [
            last.eq(part == self.parts - 1),
            payload.eq(Cat(earlier, memory.o.payload)),
            self.o.valid.eq(memory.o.valid & last),
            memory.o.ready.eq(~last | self.o.ready),
        ]
        with m.If(memory.o.valid & memory.o.ready):
            m.d.sync += part.eq(Mux(last, 0, part + 1))
            with m.If(~last):
                m.d.sync += earlier.eq(Cat(earlier, memory.o.payload)[memory.width:])
        return m
