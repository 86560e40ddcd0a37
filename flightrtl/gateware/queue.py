"""A queue: a stream that may fall behind by a given number of transfers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth import Module, Signal, Value
from amaranth.hdl import ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..formats import _integer
from .buffer import StreamBuffer
from .ram import DualPortRam

__all__ = ["StreamQueue", "checked_depths", "queued"]


class StreamQueue(wiring.Component):
    """First in, first out: holds up to ``depth`` transfers, in a memory and the registers after it.

    ``i.ready`` and ``o.valid`` come from flip-flops, and so does the payload with ``register``.
    The memory is a :class:`~flightrtl.gateware.ram.DualPortRam`: nobody reads a word in the cycle
    in which it is written.

    Cost, for a memory of 512 words of 8 bits: 43 LUT4, 21 flip-flops and a block RAM on iCE40, 44,
    21 and one on ECP5 (with ``register`` 45 and 30, 41 and 30); where the words are no power of
    two, some 25 LUT4 more (``python -m benchmarks components``). The ``SyncFIFOBuffered`` of
    :mod:`amaranth.lib.fifo`, which promises more, takes 75 and 56, 81 and 56.
    A queue of two is a :class:`~flightrtl.gateware.buffer.StreamBuffer`.

    Latency: 2 cycles, 3 with ``register``; 1 for a depth of 2. Throughput: a transfer per cycle,
    if ``depth`` is greater than the latency or the input is never slower than the output.

    Parameters
    ----------
    shape : shape-like
        Payload.
    depth : int
        Transfers that it takes before one has left, 2 or more. One (two with ``register``) of
        them are outside the memory, so that 513 still take a memory of 512 words.
    register : bool
        A register behind the memory, see :class:`~flightrtl.gateware.weights.RomStream`.

    Members
    -------
    i : In(stream) of ``shape``
        In.
    o : Out(stream) of ``shape``
        Out, in order.

    Raises
    ------
    TypeError, ValueError
        If ``depth`` is no such integer.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, shape: ShapeLike, depth: int, *, register: bool = False) -> None:
        self.depth = _integer(depth, "depth", 2, 1 << 24)
        self.register = register
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    @staticmethod
    def round(depth: int, *, register: bool = False) -> int:
        """The next depth whose memory has a power of two of words; 0 and 2 are as they are.

        Its addresses need no comparison, and up to a block RAM's size it is no larger.
        """
        outside = 1 + register
        return depth if depth <= 2 else (1 << ceil_log2(depth - outside)) + outside

    @property
    def words(self) -> int:
        """Words of the memory; 0 if there is none."""
        return self.words_of(self.depth, self.register)

    @staticmethod
    def words_of(depth: int, register: bool) -> int:
        """Words of the memory of a queue; 0 if there is none."""
        return depth - 1 - register if depth > 2 else 0

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        if not self.words:
            m.submodules.buffer = buffer = StreamBuffer(self.i.payload.shape())
            wiring.connect(m, wiring.flipped(self.i), buffer.i)
            wiring.connect(m, buffer.o, wiring.flipped(self.o))
            return m
        raw = Value.cast(self.i.payload)
        m.submodules.memory = store = DualPortRam(len(raw), self.words)
        write, read = store.write, store.read

        put, fetch = Signal(), Signal()
        full, some = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~full),
            put.eq(self.i.valid & ~full),
            write.en.eq(put),
            write.data.eq(raw),
        ]
        place, next_place = self._counter(m, put, "place")
        front, next_front = self._counter(m, fetch, "front")
        m.d.comb += [write.addr.eq(place), read.addr.eq(front)]
        with m.If(put & ~fetch):
            m.d.sync += [some.eq(1), full.eq(next_place == front)]
        with m.Elif(fetch & ~put):
            m.d.sync += [some.eq(next_front != place), full.eq(0)]

        fetched, moves = Signal(), Signal()
        m.d.comb += [read.en.eq(~fetched | moves), fetch.eq(some & read.en)]
        with m.If(read.en):
            m.d.sync += fetched.eq(some)
        output = Value.cast(self.o.payload)
        if self.register:
            held = Signal(len(raw), reset_less=True)
            valid = Signal()
            m.d.comb += [moves.eq(~valid | self.o.ready), output.eq(held),
                         self.o.valid.eq(valid)]
            with m.If(moves):
                m.d.sync += [held.eq(read.data), valid.eq(fetched)]
        else:
            m.d.comb += [moves.eq(self.o.ready), output.eq(read.data), self.o.valid.eq(fetched)]
        return m

    def _counter(self, m: Module, step: Signal, name: str) -> tuple[Signal, Signal]:
        """An address that goes round, and the one after it."""
        address = Signal(range(self.words), name=name)
        following = Signal.like(address, name=f"next_{name}")
        m.d.comb += following.eq(address + 1)
        if self.words & (self.words - 1):
            with m.If(address == self.words - 1):
                m.d.comb += following.eq(0)
        with m.If(step):
            m.d.sync += address.eq(following)
        return address, following


def checked_depths(depths: Sequence[int]) -> tuple[int, ...]:
    """Depths of queues as such, 0 for none; ``TypeError`` or ``ValueError`` if one is no depth."""
    return tuple(depth and _integer(depth, "depths (where they are not 0)", 2, 1 << 24)
                 for depth in depths)


def queued(m: Module, port: stream.Interface, depth: int, name: str, *, register: bool) -> Any:
    """What a component takes from one of its inputs: the stream behind a queue, or as it is.

    Parameters
    ----------
    m : Module
        The component's.
    port : stream.Interface
        The component's input.
    depth : int
        Of the queue; 0 for none.
    name : str
        Of the submodule.
    register : bool
        See :class:`StreamQueue`.
    """
    source: Any = wiring.flipped(port)
    if depth:
        queue = StreamQueue(port.payload.shape(), depth, register=register)
        m.submodules[name] = queue
        wiring.connect(m, source, queue.i)
        source = queue.o
    return source
