"""A block RAM: a memory with a port to write and a port to read, and no logic beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth import Module, Signal, Value
from amaranth.hdl import MemoryData, ShapeLike
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import Out
from amaranth.utils import ceil_log2

from .weights import BLOCK_BITS

__all__ = ["DualPortRam"]


class DualPortRam(wiring.Component):
    """A memory with one port to write and one to read, which synthesis maps to block RAM alone.

    It promises less than a :class:`~amaranth.lib.memory.Memory` with a synchronous read port. A
    word that is read in the cycle in which it is written, and what :attr:`read` has before the
    first word, are any values: whoever looks at them sees others in simulation than on a board.
    That is what block RAM does by itself. Anything more would cost logic, some 20 to 70 LUT4 and
    as many flip-flops for the old word during a write, and on iCE40 a LUT4 for each bit for a 0 to
    begin with.

    Cost: block RAM; or distributed RAM (ECP5) or flip-flops (iCE40) where Yosys takes a small one
    for those. 512 words of 8 bits are 1 block RAM and no LUT4 (``python -m benchmarks
    components``). Latency: 1 cycle to read. Throughput: a word written and one read per cycle.

    Parameters
    ----------
    shape : shape-like
        Of a word.
    depth : int
        Words.
    init : sequence of int
        What the first words hold; 0 in the others.
    granularity : int, optional
        Bits that are written together, each with an own ``write.en``; the whole word by default.
    block : bool
        Whether it is block RAM from :data:`~flightrtl.gateware.weights.BLOCK_BITS` on. Left to
        itself, Yosys makes wide ones of hundreds of look-up tables on ECP5.

    Members
    -------
    write : Out(WritePort.Signature)
        ``data`` goes to ``addr`` where ``en`` is 1.
    read : Out(ReadPort.Signature)
        ``data`` is, from the next cycle on, the word at ``addr`` when ``en`` was 1 last; ``en`` is
        1 if nothing drives it.
    """

    write: Any
    read: Any

    def __init__(self, shape: ShapeLike, depth: int, *, init: Sequence[int] = (),
                 granularity: int | None = None, block: bool = False) -> None:
        self.data: Any = MemoryData(shape=shape, depth=depth, init=init)
        """The contents, for simulation."""
        self.shape, self.depth, self.granularity, self.block = shape, depth, granularity, block
        addr_width = ceil_log2(depth)
        super().__init__({
            "write": Out(memory.WritePort.Signature(addr_width=addr_width, shape=shape,
                                                   granularity=granularity)),
            "read": Out(memory.ReadPort.Signature(addr_width=addr_width, shape=shape)),
        })

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # A port without a clock and a register behind it, which synthesis makes one: of a port
        # with a clock Yosys believes that the old word is promised, in spite of `no_rw_check`.
        # Without `no_init`, which `flightrtl.implement.UNSET` looks for, the register's 0 would be.
        block = self.block and len(Value.cast(self.read.data)) * self.depth >= BLOCK_BITS
        store: memory.Memory[Any, Any] = memory.Memory(
            self.data, attrs={"no_rw_check": "1", **({"ram_style": "block"} if block else {})})
        m.submodules.store = store
        read = store.read_port(domain="comb")
        wiring.connect(m, wiring.flipped(self.write),
                       store.write_port(granularity=self.granularity))
        word = Signal(self.shape, reset_less=True, attrs={"no_init": "1"})
        m.d.comb += [read.addr.eq(self.read.addr), self.read.data.eq(word)]
        with m.If(self.read.en):
            m.d.sync += word.eq(read.data)
        return m
