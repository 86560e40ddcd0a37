"""Constants in a block RAM that can be replaced, in the bitstream or at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amaranth import Module, Signal, Value
from amaranth.hdl import ShapeLike
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..blockram import SEGMENT
from ..formats import _integer
from .ram import DualPortRam
from .weights import RomStream

__all__ = ["LoadableStream", "MemoryContents", "WriteSignature"]


@dataclass
class MemoryContents:
    """What some other memory of a design holds that is replaced with the streams'.

    Parameters
    ----------
    depth, width : int
        Words, a multiple of :data:`~flightrtl.blockram.SEGMENT`, and bits of a word.
    words : sequence of int
        What it is to hold; zeros behind them.
    initial : sequence of int
        What the hardware holds at first: other words where it gets its contents later.
    """

    depth: int
    width: int
    words: Sequence[int]
    initial: Sequence[int]


class WriteSignature(wiring.Signature):
    """A bus that writes bytes into the memories of a design, one in a cycle.

    Members
    -------
    valid : Out(1)
        Whether there is a byte. It is taken in the same cycle.
    memory : Out(8)
        Number of the memory.
    address : Out(16)
        Byte in the memory. Each word takes :attr:`LoadableStream.stride` of them, the lowest bits
        first.
    data : Out(8)
        The byte.
    """

    def __init__(self) -> None:
        super().__init__({"valid": Out(1), "memory": Out(8), "address": Out(16), "data": Out(8)})


class LoadableStream(RomStream):
    """As :class:`RomStream`, in block RAM always, and with nothing derived from the contents.

    With ``number`` it can be written, while it is in reset: words that it has read already would
    be the old ones. A byte for an address behind the memory goes nowhere.

    Cost: block RAM; a counter, 18 LUT4 on iCE40 for 396 words of 6 bytes. To be written, 7 LUT4
    more there, and 14 on ECP5 (``python -m benchmarks components``). Latency and throughput:
    :class:`RomStream`'s.

    Parameters
    ----------
    shape, words, register
        As for :class:`RomStream`.
    number : int, optional
        By which the memory is written, 0 to 255.

    Members
    -------
    o : Out(stream) of ``shape``
        The words.
    write : In(WriteSignature)
        With ``number`` only, and only while in reset.
    """

    o: stream.Interface
    write: Any

    def __init__(self, shape: ShapeLike, words: Sequence[int], *, register: bool = False,
                 number: int | None = None) -> None:
        self.number = None if number is None else _integer(number, "number", 0, 255)
        super().__init__(shape, words, register=register,
                         ports={} if number is None else {"write": In(WriteSignature())})
        self.width = len(Value.cast(self.o.payload))
        # Whole columns of block RAMs, so that what is in the memory can be told from the bits of
        # each column alone. It costs nothing: no block RAM is less deep.
        self.depth = -(-len(self.words) // SEGMENT) * SEGMENT
        self.initial: Sequence[int] = self.words
        """What the hardware holds at first: other words where it gets its contents later."""
        self.stride = 1 << (-(-self.width // 8) - 1).bit_length()
        """Bytes between words on the bus, a power of two."""
        if number is not None and self.depth * self.stride > 1 << 16:
            raise ValueError(f"a memory of {self.depth} words of {self.width} bits has more "
                             "bytes than 16 bits of address reach: fewer lanes or inputs")

    def as_bytes(self) -> bytes:
        """The contents in the order of their addresses on the bus."""
        return b"".join(word.to_bytes(self.stride, "little") for word in self.words)

    def _memory(self, m: Module, fetch: Signal, address: Signal) -> Value:
        if self.number is None:
            rom: memory.Memory[Any, Any] = memory.Memory(
                shape=self.width, depth=self.depth, init=self.initial,
                attrs={"ram_style": "block", "rom_style": "block"})
            m.submodules.contents = rom
            port = rom.read_port()
            m.d.comb += [port.en.eq(fetch), port.addr.eq(address)]
            return port.data
        width = -(-self.width // 8) * 8
        m.submodules.contents = ram = DualPortRam(width, self.depth, init=self.initial,
                                                  granularity=8, block=True)
        read, write = ram.read, ram.write
        m.d.comb += [read.en.eq(fetch), read.addr.eq(address)]
        bus, shift = self.write, (self.stride - 1).bit_length()
        written = Signal()
        m.d.comb += [
            written.eq(bus.valid & (bus.memory == self.number)
                       & ~bus.address[shift + (self.depth - 1).bit_length():].any()),
            write.addr.eq(bus.address[shift:]),
            write.data.eq(bus.data.replicate(width // 8)),
        ]
        for lane in range(width // 8):
            m.d.comb += write.en[lane].eq(written & (bus.address[:shift] == lane))
        return Value.cast(read.data)[:self.width]
