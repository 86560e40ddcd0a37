"""What processing elements have in common: the pipeline around their products."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth import Module, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, BinaryFormat, FixedFormat, IntArray, _integer
from .pe import activation_shape

__all__ = ["ProcessingElement"]


class ProcessingElement(wiring.Component):
    """Sum of ``simd`` products of an activation and a weight: base of those that are no shifts.

    A product may be off by a number that depends on the weight's code alone. Over a whole filter
    that is a constant, so whoever adds a bias anyway takes it away there. A subclass makes the
    products, or sums of a few, in :meth:`first_sums`; the adder tree behind them and the handshake
    are here.

    Latency: ``latency`` cycles, ``first_latency`` and one for each level of the adder tree.
    Throughput: ``simd`` products per cycle.

    Parameters
    ----------
    simd : int
        Products per cycle; 1 or more.
    activation : ActivationFormat
        Activations: 1 to 16 bits, signed or unsigned.
    weight : FixedFormat or BinaryFormat
        Weights.
    offsets : array of int64
        By weight code: by how much a product with that weight is more than it should be.
    first_latency : int
        Cycles from ``i`` to the first sums.
    group : int
        Products in a first sum; the last one may have fewer.

    Members
    -------
    i : In(stream) of struct
        ``activations``: ``simd`` activations; ``terms``: ``simd`` weight codes.
    o : Out(stream) of signed(width) or, if no product can be negative, unsigned(width)
        One sum for each transfer of ``i``.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, simd: int, activation: ActivationFormat,
                 weight: FixedFormat | BinaryFormat, offsets: IntArray,
                 first_latency: int, group: int = 1) -> None:
        self.simd = _integer(simd, "simd", 1, 1 << 16)
        self.activation = activation
        self.weight = weight
        self.offsets = offsets
        values = weight.decode(np.arange(len(offsets)))
        ends = np.stack([values * activation.min, values * activation.max]) + offsets
        self.range = int(ends.min()), int(ends.max())
        self.group = group
        self.product_bits = self.sum_shape(1).width
        self.width = self.sum_shape(simd).width
        self.latency = first_latency + ceil_log2(-(-simd // group))
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "activations": data.ArrayLayout(activation_shape(activation), simd),
                "terms": data.ArrayLayout(weight.code_bits, simd),
            }))),
            "o": Out(stream.Signature(self.sum_shape(simd))),
        })

    def compute(self, activations: ArrayLike, terms: ArrayLike) -> IntArray:
        """The same in NumPy: sums over the last axis of ``activations`` and codes."""
        codes = np.asarray(terms, np.int64)
        products = np.asarray(activations, np.int64) * self.weight.decode(codes)
        return (products + self.offsets[codes]).sum(axis=-1)

    def sum_shape(self, count: int) -> Shape:
        """The shape of a sum of ``count`` products, each with what it is off by."""
        low, high = self.range
        return Shape.cast(range(count * low, count * high + 1))

    def first_sums(self, m: Module, advance: Value) -> list[Value]:
        """Sums of ``group`` products each, in order; their registers move with ``advance``."""
        raise NotImplementedError

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        advance = Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(advance)]
        level = self.first_sums(m, advance)
        count = self.group
        depth = 0
        while len(level) > 1:
            depth += 1
            count *= 2
            below, level = level, []
            for n in range(0, len(below), 2):
                shape = self.sum_shape(min(count, self.simd - n // 2 * count))
                total = Signal(shape, name=f"sum_{depth}_{n // 2}", reset_less=True)
                with m.If(advance):
                    m.d.sync += total.eq(sum(below[n + 1:n + 2], below[n]))
                level.append(total)
        m.d.comb += self.o.payload.eq(level[0])

        valid = self.i.valid
        for stage in range(self.latency):
            following = Signal(name=f"valid_{stage}")
            with m.If(advance):
                m.d.sync += following.eq(valid)
            valid = following
        m.d.comb += self.o.valid.eq(valid)
        return m
