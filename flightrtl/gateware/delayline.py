"""A delay line: words that come back a fixed number of steps later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import _integer
from .ram import DualPortRam

__all__ = ["DelayLine"]


class DelayLine(wiring.Component):
    """Every step takes a word in, and gives the one of ``depth`` steps before: 0 at first.

    Up to 2 words (3 with ``register``) are registers. More are a
    :class:`~flightrtl.gateware.ram.DualPortRam`, read at the word after the one that is written.
    What is in it outlasts a reset, so that after one the line clears itself first, a word per
    cycle.

    Cost: addresses and block RAM; for 256 words of 80 bits 14 LUT4 on both families, and 5 block
    RAMs on iCE40, 3 on ECP5 (``python -m benchmarks components``). Latency: ``depth`` steps.
    Throughput: a step per cycle.

    Parameters
    ----------
    width : int
        Bits of a word.
    depth : int
        Steps, 1 or more.
    register : bool
        A register behind the memory, see :class:`~flightrtl.gateware.weights.RomStream`; it holds
        one of the words.

    Members
    -------
    ready : Out(1)
        0 while it clears itself; without a memory always 1.
    step : In(1)
        One step on, with the next clock edge; only while ``ready``.
    i : In(width)
        Word that this step takes in; 0 while it clears itself.
    o : Out(width)
        Word that went in ``depth`` steps ago, without waiting for ``step``.
    """

    ready: Signal
    step: Signal
    i: Signal
    o: Signal

    def __init__(self, width: int, depth: int, *, register: bool = False) -> None:
        self.width = _integer(width, "width", 1, 1 << 20)
        self.depth = _integer(depth, "depth", 1, 1 << 24)
        self.register = register
        super().__init__({"ready": Out(1), "step": In(1), "i": In(width), "o": Out(width)})

    @property
    def words(self) -> int:
        """Words of the memory; 0 if there is none."""
        return self.words_of(self.depth, self.register)

    @staticmethod
    def words_of(depth: int, register: bool) -> int:
        """Words of the memory of a delay line; 0 if there is none."""
        return depth - register if depth > 1 + register else 0

    def compute(self, words: Sequence[int]) -> list[int]:
        """What ``o`` is in each step, for what goes in."""
        return ([0] * self.depth + list(words))[:len(words)]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        if not self.words:
            word = self.i
            for number in range(self.depth):
                following = Signal(self.width, name=f"word_{number}")
                with m.If(self.step):
                    m.d.sync += following.eq(word)
                word = following
            m.d.comb += [self.ready.eq(1), self.o.eq(word)]
            return m
        m.submodules.memory = store = DualPortRam(self.width, self.words, block=True)
        write, read = store.write, store.read
        clearing, moves = Signal(init=1), Signal()
        front = Signal(range(self.words), init=1)
        place = Signal(range(self.words))
        at_end = Signal()
        m.d.comb += [
            self.ready.eq(~clearing),
            moves.eq(self.step | clearing),
            at_end.eq(front == self.words - 1),
            read.addr.eq(front),
            read.en.eq(moves),
            write.addr.eq(place),
            write.en.eq(moves),
            write.data.eq(self.i),
        ]
        with m.If(moves):
            m.d.sync += [place.eq(front), front.eq(front + 1)]
            with m.If(at_end):
                m.d.sync += front.eq(0)
        if self.register:
            held = Signal(self.width)
            with m.If(self.step):
                m.d.sync += held.eq(read.data)
            m.d.comb += self.o.eq(held)
        else:
            m.d.comb += self.o.eq(read.data)
        with m.If(clearing):
            with m.If(place == self.words - 1):
                m.d.sync += clearing.eq(0)
        return m
