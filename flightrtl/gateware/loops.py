"""Nested loops as counters whose ends are known from registers."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import Const, Module, Mux, Signal, Value

__all__ = ["nested_loops"]


def nested_loops(m: Module, go: Value, limits: Sequence[tuple[str, int]]
                 ) -> tuple[list[Signal], list[Signal], list[Value]]:
    """Nested loops, the fastest first: counters, which are in their last round, which end.

    A loop ends where it and all faster ones are in their last rounds, whether ``go`` is 1 or not.
    Both are registers, so that whatever a step does depends on a late ``go`` and one bit more. A
    loop of one round costs nothing.

    Parameters
    ----------
    m : Module
        What the counters are put into.
    go : Value
        A step of the fastest loop.
    limits : sequence of (str, int)
        Names and rounds, 1 or more.
    """
    counts: list[Signal] = []
    lasts: list[Signal] = []
    ends: list[Value] = []
    nearly: Value | None = None     # one step before the loops so far end
    inner: Value = Const(1)
    for name, limit in limits:
        count = Signal(range(limit), name=name)
        at_end = Signal(name=f"{name}_at_end", init=limit == 1)
        if limit > 1:
            with m.If(go & inner):
                m.d.sync += [count.eq(Mux(at_end, 0, count + 1)), at_end.eq(count == limit - 2)]
            if nearly is None:      # the fastest of those with several rounds
                nearly, inner = count == limit - 2, at_end
            else:
                # The slower ones stay what they are from the fastest one's first round on.
                nearly = nearly & at_end
                inner = Signal(name=f"{name}_ends")
                with m.If(go):
                    m.d.sync += inner.eq(nearly)
        counts.append(count)
        lasts.append(at_end)
        ends.append(inner)
    return counts, lasts, ends
