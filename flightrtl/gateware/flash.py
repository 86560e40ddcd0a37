"""Weights from a serial flash: one read that never ends, but for starting again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.hdl import ShapeLike
from amaranth.lib import enum, stream, wiring
from amaranth.lib.wiring import In, Out

from ..formats import _integer

__all__ = ["READ", "FlashReader"]

READ = 0x03
"""The command to read, which every SPI flash with 24-bit addresses has. It is for clocks of some
tens of MHz: the data sheet has the limit as that of "Read Data (03h)"."""

WAKE = 0xAB
"""The command to leave the power-down in which a flash may be after configuration."""


class _State(enum.Enum):
    REST = 0
    SEND = 1
    DATA = 2


class FlashReader(wiring.Component):
    """Words from an SPI flash as an endless stream: 0, 1, ..., count - 1, 0, 1, ...

    The flash is woken up first. Then one READ command (mode 0, most significant bit first) brings
    all words, each in as many bytes as it takes, the first byte in its lowest bits. After the
    last word it begins anew. A word waits to be taken while the next one arrives; after that the
    flash's clock stands still. What the flash sends is read at the end of each period, so that
    the way there and back may take as long as that.

    Cost: counters, and two registers of a word: for words of 48 bits 75 LUT4 and 142 flip-flops on
    iCE40, 77 and 142 on ECP5 (``python -m benchmarks components``). Latency: the first word is
    valid after two rests, 40 bits and its own. Throughput: a word in
    ``8 * bytes`` periods of ``2 * half`` cycles, and a cycle more if ``half`` is 1; each round
    takes a rest and 32 periods more.

    Parameters
    ----------
    shape : shape-like
        Of a word.
    count : int
        Words, 1 or more.
    address : int
        Of the first byte, 24 bits.
    half : int
        Clock cycles of half a period of the flash's clock, 1 or more: the flash's clock is the
        design's by ``2 * half``.
    rest : int
        Cycles for which the flash is not selected before a command: it takes 3 us to wake up.

    Members
    -------
    o : Out(stream) of ``shape``
        The words.
    clock, select, data : Out(1)
        The flash's clock, its select (1: selected; invert it for the pin), and what is sent to it.
    q : In(1)
        What the flash sends.

    Raises
    ------
    ValueError
        If the words do not end within 24 bits of address.
    """

    o: stream.Interface
    clock: Signal
    select: Signal
    data: Signal
    q: Signal

    def __init__(self, shape: ShapeLike, count: int, *, address: int = 0, half: int = 1,
                 rest: int = 256) -> None:
        self.count = _integer(count, "count", 1, 1 << 24)
        self.address = _integer(address, "address", 0, (1 << 24) - 1)
        self.half = _integer(half, "half", 1, 1 << 16)
        self.rest = _integer(rest, "rest", 1, 1 << 24)
        super().__init__({"o": Out(stream.Signature(shape)), "clock": Out(1), "select": Out(1),
                          "data": Out(1), "q": In(1)})
        self.width = len(Value.cast(self.o.payload))
        self.bytes = -(-self.width // 8)
        """Bytes of a word."""
        if self.address + self.count * self.bytes > 1 << 24:
            raise ValueError(f"{self.count} words of {self.bytes} bytes at address {address:#x} do "
                             "not end within 16 MiB, which is all that 24 bits of address reach")

    def image(self, words: Sequence[int]) -> bytes:
        """The flash's contents from ``address`` on, for packed words."""
        if len(words) != self.count:
            raise ValueError(f"there must be {self.count} words, not {len(words)}")
        return b"".join(int(word).to_bytes(self.bytes, "little") for word in words)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        state, woken, reads = Signal(_State), Signal(), Signal()
        sent = Signal(32, reset_less=True)
        bits = Signal(range(max(32, 8 * self.bytes)))
        words = Signal(range(self.count))
        wait = Signal(range(max(self.half, self.rest)), init=self.rest - 1)
        # A byte arrives from its highest bit on, but bytes from the lowest one on.
        byte, got = Signal(7, reset_less=True), Signal(8 * self.bytes, reset_less=True)
        full = Signal()
        m.d.comb += self.data.eq(sent[-1])

        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [self.o.valid.eq(full), full.eq(0),
                         Value.cast(self.o.payload).eq(got[:self.width])]
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.Elif(state == _State.REST):
            m.d.sync += [
                state.eq(_State.SEND), self.select.eq(1), woken.eq(1), reads.eq(woken),
                wait.eq(self.half - 1),
                sent.eq(Mux(woken, READ << 24 | self.address, WAKE << 24)),
                bits.eq(Mux(woken, 31, 7)),
            ]
        with m.Elif(~full):
            m.d.sync += [self.clock.eq(~self.clock), wait.eq(self.half - 1)]
            with m.If(self.clock):
                m.d.sync += [sent.eq(sent << 1), byte.eq(Cat(self.q, byte)), bits.eq(bits - 1)]
                with m.If(bits[:3] == 0):
                    m.d.sync += got.eq(Cat(got, self.q, byte)[8:])
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
            m.d.sync += [state.eq(_State.REST), self.select.eq(0), wait.eq(self.rest - 1)]
