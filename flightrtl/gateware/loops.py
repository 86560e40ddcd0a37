"""Nested loops as counters whose ends are known from registers."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Const, Module, Mux, Signal, Value

__all__ = ["nested_loops"]


def nested_loops(m: Module, go: Value, limits: Sequence[tuple[str, int]]
                 ) -> tuple[list[Signal], list[Signal], list[Signal]]:
    """Nested loops, the fastest first: counters, which are in their last round, which end.

    That a loop is in its last round is known from a register, so that all conditions are a few
    registers and one late ``go``. It ends where all faster ones end, too, whether ``go`` is 1 or
    not. A loop of one round costs nothing.

    Parameters
    ----------
    m : Module
        What the counters are put into.
    go : Value
        A step of the fastest loop.
    limits : sequence of (str, int)
        Names and rounds, 1 or more.
    """
    counts, lasts, wraps = [], [], []
    inner: Value = Const(1)
    for name, limit in limits:
        count = Signal(range(limit), name=name)
        at_end = Signal(name=f"{name}_at_end", init=limit == 1)
        ends = Signal(name=f"{name}_ends")
        m.d.comb += ends.eq(inner & at_end)
        if limit > 1:
            with m.If(go & inner):
                m.d.sync += [count.eq(Mux(at_end, 0, count + 1)), at_end.eq(count == limit - 2)]
        counts.append(count)
        lasts.append(at_end)
        wraps.append(ends)
        inner = ends
    return counts, lasts, wraps
