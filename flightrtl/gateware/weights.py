"""Weights and other constants: a block RAM whose contents stream out in order, for ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from amaranth import Module, Signal, Value
from amaranth.hdl import ShapeLike
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import Out

from ..formats import IntArray, WeightFormat
from .folding import FoldedLayer

__all__ = ["RomStream", "WeightBuffer", "weight_layout", "weight_words"]

BLOCK_BITS = 1024
"""From this size on a memory goes to block RAM; below, logic cells are the cheaper ROM."""


class RomStream(wiring.Component):
    """Words of a read-only memory as an endless stream: 0, 1, ..., depth - 1, 0, 1, ...

    Cost: block RAM or, below :data:`BLOCK_BITS` bits, a look-up table in logic; a counter, some
    20 LUT4.
    Latency: the first word is valid 1 cycle after reset (2 with ``register``). Throughput:
    a word per cycle.

    Parameters
    ----------
    shape : shape-like
        Of a word.
    words : sequence of int
        Contents.
    register : bool
        Whether a register follows the memory. ECP5 block RAM is slow without one, and there it
        is free; on iCE40 it costs a logic cell for each bit.
    ports : mapping of str to Member, optional
        Further members, of a component that is one of these.

    Members
    -------
    o : Out(stream) of ``shape``
        The words.
    """

    o: stream.Interface

    def __init__(self, shape: ShapeLike, words: Sequence[int], *, register: bool = False,
                 ports: Mapping[str, wiring.Member] | None = None) -> None:
        self.words = [int(word) for word in words]
        if not self.words:
            raise ValueError("words must not be empty")
        self.register = register
        super().__init__({"o": Out(stream.Signature(shape)), **(ports or {})})

    def compute(self, count: int) -> list[int]:
        """The first ``count`` words of the stream."""
        return [self.words[n % len(self.words)] for n in range(count)]

    def _memory(self, m: Module, fetch: Signal, address: Signal) -> Value:
        """The memory; its word of the cycle after ``fetch``."""
        width = len(Value.cast(self.o.payload))
        style = "block" if width * len(self.words) >= BLOCK_BITS else "logic"
        rom: memory.Memory[Any, Any] = memory.Memory(
            shape=width, depth=len(self.words), init=self.words,
            attrs={"ram_style": style, "rom_style": style})
        m.submodules.rom = rom
        port = rom.read_port()
        m.d.comb += [port.en.eq(fetch), port.addr.eq(address)]
        return port.data

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        raw = Value.cast(self.o.payload)
        fetch = Signal()
        fetched = Signal()
        address = Signal(range(len(self.words)))
        stored = self._memory(m, fetch, address)
        with m.If(fetch):
            m.d.sync += fetched.eq(1)
            if len(self.words) & (len(self.words) - 1):
                with m.If(address == len(self.words) - 1):
                    m.d.sync += address.eq(0)
                with m.Else():
                    m.d.sync += address.eq(address + 1)
            else:
                m.d.sync += address.eq(address + 1)

        if self.register:
            word = Signal(len(raw), reset_less=True)
            valid = Signal()
            m.d.comb += fetch.eq(~fetched | ~valid | self.o.ready)
            with m.If(fetch):
                m.d.sync += [word.eq(stored), valid.eq(fetched)]
            m.d.comb += [raw.eq(word), self.o.valid.eq(valid)]
        else:
            m.d.comb += fetch.eq(~fetched | self.o.ready)
            m.d.comb += [raw.eq(stored), self.o.valid.eq(fetched)]
        return m


class WeightBuffer(RomStream):
    """Codes of a folded layer's terms or weights in the order in which the array consumes them.

    The stream repeats for every output pixel. Word ``w`` of pass ``p`` is entry
    ``p * words + w`` of :attr:`FoldedLayer.words_of_terms`; in a word, lane 0 and input 0 are in
    the lowest bits.

    Cost, latency and throughput are :class:`RomStream`'s.

    Parameters
    ----------
    folded : FoldedLayer
        The layer and how it is folded.
    register : bool
        See :class:`RomStream`.

    Members
    -------
    o : Out(stream) of ``lanes`` times ``simd`` term codes
        The words.
    """

    def __init__(self, folded: FoldedLayer, *, register: bool = False) -> None:
        self.folded = folded
        super().__init__(weight_layout(folded), weight_words(folded), register=register)


def weight_layout(folded: FoldedLayer) -> data.ArrayLayout:
    """A word of weights: by lane, then by input."""
    lanes, simd, term = folded.folding.lanes, folded.folding.simd, folded.term
    return data.ArrayLayout(data.ArrayLayout(term.code_bits, simd), lanes)


def weight_words(folded: FoldedLayer) -> list[int]:
    """All words of weights, in order."""
    lanes, simd = folded.folding.lanes, folded.folding.simd
    return pack(folded.words_of_terms.reshape(-1, lanes * simd), folded.term)


def pack(codes: IntArray, term: WeightFormat) -> list[int]:
    """One integer for each row of codes, the first code in its lowest bits."""
    bits = (codes.astype(np.int64)[:, :, None] >> np.arange(term.code_bits)) & 1
    packed = np.packbits(bits.reshape(len(codes), -1).astype(np.uint8), axis=1,
                         bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]
