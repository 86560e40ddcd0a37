"""Constants that come in groups, each several times before the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth import Const, Module, Mux, Signal, Value
from amaranth.hdl import ShapeLike
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import Out

from ..formats import _integer
from .weights import BLOCK_BITS, RomStream

__all__ = ["RepeatingRom", "repeating_rom"]


class RepeatingRom(wiring.Component):
    """Words of a read-only memory as an endless stream, group by group, each ``repeat`` times.

    ``[[1, 2], [3]]`` repeated twice is 1, 2, 1, 2, 3, 3, 1, 2, ...

    Cost: that of a :class:`~flightrtl.gateware.weights.RomStream`, counters for the words of a
    group and for its turns, and unless all groups are of the same length, their lengths: for 16
    groups of 4 words of 6 bits, 49 times each, 32 LUT4 on iCE40 and 34 on ECP5 (``python -m
    benchmarks components``). Latency: the first word is valid 1 cycle after reset. Throughput: a
    word per cycle.

    Parameters
    ----------
    shape : shape-like
        Of a word.
    groups : sequence of sequences of int
        Contents; no group is empty.
    repeat : int
        How often each group comes.

    Members
    -------
    o : Out(stream) of ``shape``
        The words.
    """

    o: stream.Interface

    def __init__(self, shape: ShapeLike, groups: Sequence[Sequence[int]], *, repeat: int) -> None:
        self.groups = [[int(word) for word in group] for group in groups]
        if not self.groups or not all(self.groups):
            raise ValueError("groups must not be empty, nor any of them")
        self.repeat = _integer(repeat, "repeat", 1, 1 << 24)
        super().__init__({"o": Out(stream.Signature(shape))})

    def compute(self, count: int) -> list[int]:
        """The first ``count`` words of the stream."""
        once = [word for group in self.groups for word in group * self.repeat]
        return [once[n % len(once)] for n in range(count)]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        raw = Value.cast(self.o.payload)
        words = [word for group in self.groups for word in group]
        style = "block" if len(raw) * len(words) >= BLOCK_BITS else "logic"
        rom: memory.Memory[Any, Any] = memory.Memory(
            shape=len(raw), depth=len(words), init=words,
            attrs={"ram_style": style, "rom_style": style})
        m.submodules.rom = rom
        port = rom.read_port()
        fetch, fetched = Signal(), Signal()
        address, start = Signal.like(port.addr), Signal.like(port.addr)
        following = Signal.like(address)
        number = Signal(range(max(map(len, self.groups))))
        turn = Signal(range(self.repeat))
        ends, turns, wraps = Signal(), Signal(), Signal()
        m.d.comb += [
            port.en.eq(fetch), port.addr.eq(address),
            fetch.eq(~fetched | self.o.ready),
            raw.eq(port.data), self.o.valid.eq(fetched),
            ends.eq(number == self._last(m, wraps)),
            turns.eq(turn == self.repeat - 1),
            wraps.eq(fetch & ends & turns),
            following.eq(Mux(address == len(words) - 1, 0, address + 1)),
        ]
        with m.If(fetch):
            m.d.sync += [fetched.eq(1), number.eq(number + 1), address.eq(address + 1)]
            with m.If(ends):
                m.d.sync += [number.eq(0), turn.eq(Mux(turns, 0, turn + 1)), address.eq(start)]
                with m.If(turns):
                    m.d.sync += [start.eq(following), address.eq(following)]
        return m

    def _last(self, m: Module, wraps: Signal) -> Value:
        """Number of the last word of the group at hand."""
        lasts = [len(group) - 1 for group in self.groups]
        usual = max(set(lasts), key=lasts.count)
        if len(set(lasts)) == 1:
            return Const(usual)
        group = Signal(range(len(lasts)))
        last = Signal(range(max(lasts) + 1), init=lasts[0])
        with m.If(wraps):
            m.d.sync += group.eq(Mux(group == len(lasts) - 1, 0, group + 1))
            # That of the group after this one.
            m.d.sync += last.eq(usual)
            with m.Switch(group):
                for index, length in enumerate(lasts[1:] + lasts[:1]):
                    if length != usual:
                        with m.Case(index):
                            m.d.sync += last.eq(length)
        return last


def repeating_rom(shape: ShapeLike, groups: Sequence[Sequence[int]], *, repeat: int,
                  register: bool = False) -> RomStream | RepeatingRom:
    """A :class:`RepeatingRom`, or where that gives the same words the cheaper ``RomStream``.

    Parameters
    ----------
    shape, groups, repeat
        As for :class:`RepeatingRom`.
    register : bool
        As for :class:`~flightrtl.gateware.weights.RomStream`, if it is one.
    """
    groups = [list(group) for group in groups]
    if all(group == groups[0] for group in groups):
        return RomStream(shape, groups[0], register=register)
    if repeat == 1:
        return RomStream(shape, [word for group in groups for word in group], register=register)
    return RepeatingRom(shape, groups, repeat=repeat)
