"""A stream that several components take, each when it can."""

from __future__ import annotations

from typing import Any

from amaranth import Module, Signal
from amaranth.hdl import ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..formats import _integer

__all__ = ["StreamFork"]


class StreamFork(wiring.Component):
    """Gives every transfer of a stream to each of ``count`` others.

    Each output takes a transfer in its own time, and the input's is done when the last one has
    it. No output waits for another, but for the transfer before: an output is never more than
    one transfer ahead of the slowest.

    Cost: a flip-flop and some 3 LUT4 for each output; for two, 6 LUT4 on iCE40 and 5 on ECP5
    (``python -m benchmarks components``). Latency: 0 cycles, the payload is wired through.
    Throughput: a transfer in each cycle in which all outputs are ready. ``i.ready`` depends on
    every ``ready`` of the outputs in the same cycle, ``valid`` on none.

    Parameters
    ----------
    shape : shape-like
        Payload.
    count : int
        Outputs, 1 or more.

    Members
    -------
    i : In(stream) of ``shape``
        In.
    o : array of ``count`` Out(stream) of ``shape``
        Each of them all of ``i``, in order.

    Raises
    ------
    TypeError, ValueError
        If ``count`` is no such integer.
    """

    i: stream.Interface
    o: tuple[stream.Interface, ...]

    def __init__(self, shape: ShapeLike, count: int) -> None:
        self.count = _integer(count, "count", 1, 1 << 12)
        super().__init__({"i": In(stream.Signature(shape)),
                          "o": Out(stream.Signature(shape)).array(self.count)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        had = Signal(self.count)  # who has this transfer already
        has = Signal(self.count)  # and who has it after this cycle, if there is one
        m.d.comb += self.i.ready.eq(has.all())
        for number, output in enumerate(self.o):
            m.d.comb += [
                output.valid.eq(self.i.valid & ~had[number]),
                output.payload.eq(self.i.payload),
                has[number].eq(had[number] | output.ready),
            ]
        with m.If(self.i.valid):
            m.d.sync += had.eq(has & ~self.i.ready.replicate(self.count))
        return m
