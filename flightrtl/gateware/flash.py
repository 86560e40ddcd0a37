"""Weights from a serial flash: one read that never ends, but for starting again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.hdl import ShapeLike
from amaranth.lib import enum, stream, wiring
from amaranth.lib.wiring import In, Out

from ..formats import _integer

__all__ = ["READ", "Flash", "FlashReader", "FlashSignature"]

READ = 0x03
"""The command to read, which every SPI flash with 24-bit addresses has. It is for clocks of some
tens of MHz: the data sheet has the limit as that of "Read Data (03h)"."""

WAKE = 0xAB
"""The command to leave the power-down in which a flash may be after configuration."""


@dataclass(frozen=True)
class Flash:
    """Where words are in a serial flash, and how fast it is read.

    Parameters
    ----------
    address : int
        Of the first byte, 24 bits.
    half : int
        Clock cycles of half a period of the flash's clock, 1 or more: the flash's clock is the
        design's by ``2 * half``.
    rest : int
        Cycles for which the flash is not selected between two rounds: 50 ns or 100.
    wake : int
        Cycles before and after the command to wake up, which takes a flash up to 30 us.
    """

    address: int = 0
    half: int = 1
    rest: int = 8
    wake: int = 256

    def __post_init__(self) -> None:
        _integer(self.address, "address", 0, (1 << 24) - 1)
        _integer(self.half, "half", 1, 1 << 16)
        _integer(self.rest, "rest", 1, 1 << 24)
        _integer(self.wake, "wake", 1, 1 << 24)

    def cycles(self, count: int, size: int) -> int:
        """Cycles of a round of ``count`` words of ``size`` bytes, if none has to wait."""
        return self.rest + 2 * self.half * (32 + 8 * size * count)


class FlashSignature(wiring.Signature):
    """The pins of an SPI flash, as the side that reads sees them.

    Members
    -------
    clock, select, data : Out(1)
        The flash's clock, its select (1: selected; invert it for the pin), and what is sent to it.
    q : In(1)
        What the flash sends.
    """

    def __init__(self) -> None:
        super().__init__({"clock": Out(1), "select": Out(1), "data": Out(1), "q": In(1)})


class _State(enum.Enum):
    REST = 0
    SEND = 1
    DATA = 2


class FlashReader(wiring.Component):
    """Words from an SPI flash as an endless stream: 0, 1, ..., count - 1, 0, 1, ...

    The flash is woken up first. Then one READ command (mode 0, most significant bit first) brings
    all words, each in as many bytes as it takes, the first byte in its lowest bits. After the
    last word it begins anew. A word waits to be taken, and the next one too; before the first
    byte of a third is complete the flash's clock stands still. What the flash sends is read at
    the end of each period, so that the way there and back may take as long as that.

    Cost: counters, and two registers of a word: for words of 48 bits 77 LUT4 and 142 flip-flops on
    iCE40, 85 and 142 on ECP5 (``python -m benchmarks components``). Latency: the first word is
    valid after two times ``wake``, 40 bits and its own. Throughput: a word in ``8 * bytes``
    periods of ``2 * half`` cycles; each round takes a rest and 32 periods more
    (:meth:`Flash.cycles`).

    Parameters
    ----------
    shape : shape-like
        Of a word.
    count : int
        Words, 1 or more.
    source : Flash
        Where they are, and how fast they come.

    Members
    -------
    o : Out(stream) of ``shape``
        The words.
    flash : Out(FlashSignature)
        To and from the flash.

    Raises
    ------
    ValueError
        If the words do not end within 24 bits of address.
    """

    o: stream.Interface
    flash: Any

    def __init__(self, shape: ShapeLike, count: int, source: Flash = Flash()) -> None:
        self.count = _integer(count, "count", 1, 1 << 24)
        self.source = source
        super().__init__({"o": Out(stream.Signature(shape)), "flash": Out(FlashSignature())})
        self.width = len(Value.cast(self.o.payload))
        self.bytes = -(-self.width // 8)
        """Bytes of a word."""
        if source.address + self.count * self.bytes > 1 << 24:
            raise ValueError(f"{self.count} words of {self.bytes} bytes at address "
                             f"{source.address:#x} do not end within 16 MiB, which is all that "
                             "24 bits of address reach")

    def image(self, words: Sequence[int]) -> bytes:
        """The flash's contents from the address on, for packed words."""
        if len(words) != self.count:
            raise ValueError(f"there must be {self.count} words, not {len(words)}")
        return b"".join(int(word).to_bytes(self.bytes, "little") for word in words)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        source, flash = self.source, self.flash
        state, woken, reads = Signal(_State), Signal(), Signal()
        sent = Signal(32, reset_less=True)
        bits = Signal(range(max(32, 8 * self.bytes)))
        words = Signal(range(self.count))
        wait = Signal(range(max(source.half, source.rest, source.wake)), init=source.wake - 1)
        # A byte arrives from its highest bit on, but bytes from the lowest one on.
        byte, got = Signal(7, reset_less=True), Signal(8 * self.bytes, reset_less=True)
        full = Signal()
        m.d.comb += flash.data.eq(sent[-1])

        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [self.o.valid.eq(full), full.eq(0),
                         Value.cast(self.o.payload).eq(got[:self.width])]
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.Elif(state == _State.REST):
            m.d.sync += [
                state.eq(_State.SEND), flash.select.eq(1), woken.eq(1), reads.eq(woken),
                wait.eq(source.half - 1),
                sent.eq(Mux(woken, READ << 24 | source.address, WAKE << 24)),
                bits.eq(Mux(woken, 31, 7)),
            ]
        with m.Elif(~(full & flash.clock & (bits[:3] == 0))):
            m.d.sync += [flash.clock.eq(~flash.clock), wait.eq(source.half - 1)]
            with m.If(flash.clock):
                m.d.sync += [sent.eq(sent << 1), byte.eq(Cat(flash.q, byte)), bits.eq(bits - 1)]
                with m.If(bits[:3] == 0):
                    m.d.sync += got.eq(Cat(got, flash.q, byte)[8:])
                with m.If(bits == 0):
                    self._command_or_word_ends(m, state, reads, bits, words, full, wait)
        return m

    def _command_or_word_ends(self, m: Module, state: Signal, reads: Signal, bits: Signal,
                              words: Signal, full: Signal, wait: Signal) -> None:
        """The last bit of the command to wake up or to read, or of a word."""
        rests = Signal()
        m.d.sync += bits.eq(8 * self.bytes - 1)
        with m.If(state == _State.DATA):
            m.d.sync += [full.eq(1), words.eq(words + 1)]
            with m.If(words == self.count - 1):
                m.d.sync += words.eq(0)
                m.d.comb += rests.eq(1)
        with m.Elif(reads):
            m.d.sync += state.eq(_State.DATA)
        with m.Else():
            m.d.comb += rests.eq(1)
        with m.If(rests):
            m.d.sync += [state.eq(_State.REST), self.flash.select.eq(0),
                         wait.eq(Mux(reads, self.source.rest - 1, self.source.wake - 1))]
