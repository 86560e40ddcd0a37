"""A shift-add graph as hardware: constants as wires, one vector of inputs each cycle."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth import Cat, Module, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import IntArray, _integer, signed_bits
from ..shiftadd import AdderGraph
from .pe import activation_shape

__all__ = ["ShiftAddGraph"]


class ShiftAddGraph(wiring.Component):
    """All sums of a constant matrix times a vector, pipelined.

    Every adder is as wide as its exact range. All registers move together, when the last one is
    empty or taken.

    Cost: a LUT4 for each bit of an adder, and on iCE40 one more for each bit that is subtracted.
    The first layer of the bundled MNIST model (8 filters of 25 weights, 132 adders of 1,436 bits),
    ``stage=1``: 1,950 LUT4 on iCE40, 1,519 on ECP5; 1,928 flip-flops (``python -m benchmarks
    components``). Latency: ``graph.latency(stage)`` cycles. Throughput: a vector per cycle.

    Parameters
    ----------
    graph : AdderGraph
        The matrix, see :func:`~flightrtl.shiftadd.shift_add`.
    stage : int
        Adders in a row between registers, 1 or more.
    raw : bool
        Leave out the last shift and negation of each result: ``graph.sums`` says what they would
        be. For a component that folds them into what it does, as :class:`ParallelRequantizer`.
    elastic : bool
        Whether it also moves on while nothing is at the output. If not, ``o.ready`` alone moves it,
        which must then not wait for ``o.valid``: a gate less on the way of ``ready``.

    Members
    -------
    i : In(stream) of array
        A vector of the graph's inputs.
    o : Out(stream) of array of signed
        A sum for each row of the matrix, all as wide as the widest.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, graph: AdderGraph, *, stage: int = 1, raw: bool = False,
                 elastic: bool = True) -> None:
        if not isinstance(graph, AdderGraph):
            raise TypeError(f"graph must be an AdderGraph, not {graph!r}")
        self.graph = graph
        self.stage = _integer(stage, "stage", 1, 1 << 16)
        self.raw, self.elastic = raw, elastic
        self.ranges = [self._range(row) for row in range(len(graph.sums))]
        """Least and greatest value of each result."""
        width = max(signed_bits(low, high) for low, high in self.ranges)
        super().__init__({
            "i": In(stream.Signature(
                data.ArrayLayout(activation_shape(graph.format), graph.inputs))),
            "o": Out(stream.Signature(data.ArrayLayout(signed(width), len(graph.sums)))),
        })

    def _range(self, row: int) -> tuple[int, int]:
        node = self.graph.sums[row].node
        return self.graph.ranges[node] if self.raw and node >= 0 else self.graph.sum_range(row)

    @property
    def factors(self) -> list[int]:
        """What each result is to be multiplied by: 1, but ± a power of two if ``raw``."""
        return [(-1 if negative else 1) << shift if self.raw else 1
                for _, shift, negative in self.graph.sums]

    def compute(self, vectors: ArrayLike) -> IntArray:
        """The same in NumPy: (..., rows) for (..., columns)."""
        return self.graph.compute(vectors) // np.array(self.factors)

    def _shape(self, node: int) -> Shape:
        width = self.graph.widths[node]
        return signed(width) if self.graph.ranges[node][0] < 0 else unsigned(width)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        graph = self.graph
        steps, registers = graph.steps(self.stage), graph.registers(self.stage)
        end = graph.latency(self.stage)
        advance = Signal()
        valid = Signal(end)
        m.d.comb += [
            advance.eq(self.o.ready | (~self.o.valid if self.elastic else 0)),
            self.i.ready.eq(advance), self.o.valid.eq(valid[-1]),
        ]
        with m.If(advance):
            m.d.sync += valid.eq(Cat(self.i.valid, valid[:-1]))

        # Of every node, its value in the step that computes it and in the steps that follow.
        values: list[list[Value]] = []

        def keep(node: int, value: Value) -> None:
            kept = [value]
            for place in range(registers[node]):
                register = Signal(self._shape(node), name=f"node{node}_{place}", reset_less=True)
                with m.If(advance):
                    m.d.sync += register.eq(kept[-1])
                kept.append(register)
            values.append(kept)

        def read(node: int, step: int) -> Value:
            # Inputs are there in step 1, without a register.
            return values[node][step - max(1, steps[node])]

        for node in range(graph.inputs):
            keep(node, self.i.payload[node])
        for node, (low, high, shift, subtract) in enumerate(graph.adders, graph.inputs):
            width = graph.widths[node]
            first, second = read(low, steps[node]), read(high, steps[node])
            below = Signal(min(shift, width), name=f"node{node}_below")
            above = Signal(max(0, width - shift), name=f"node{node}_above")
            upper = first >> shift
            m.d.comb += [below.eq(first), above.eq(upper - second if subtract else upper + second)]
            both = Cat(below, above)
            keep(node, both.as_signed() if graph.ranges[node][0] < 0 else both)
        for row, result in enumerate(graph.sums):
            if result.node < 0:
                continue
            value = read(result.node, end + 1)
            if not self.raw:
                value = value << result.shift
                value = -value if result.negative else value
            m.d.comb += self.o.payload[row].eq(value)
        return m
