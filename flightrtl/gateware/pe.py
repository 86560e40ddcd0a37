"""The shift processing element: a dot product without a multiplier."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth import Const, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, TermFormat, _integer

__all__ = ["ShiftPE", "activation_shape"]


def activation_shape(fmt: ActivationFormat) -> Shape:
    """The Amaranth shape of an activation."""
    return Shape(fmt.bits, signed=fmt.signed)


class ShiftPE(wiring.Component):
    """Sum of ``simd`` products of an activation and a term, each product one shift.

    A product is a barrel of 2:1 stages, one for each exponent bit. Its first stage also forces
    a zero term to zero and its last one also inverts the bits of a negative product, so that
    both cost no LUT of their own. An inverted product is one less than the negated one:

    - with ``exact=True`` the missing ones are added here, and ``o`` is the dot product;
    - with ``exact=False`` they are left out, which saves an adder, and ``o`` is
      :meth:`compute` ``(...)`` less the number of negative terms. Over a whole filter that is a
      constant, so whoever adds a bias anyway adds it there (:class:`Requantizer` does).

    Cost: 34 LUT4 and a shared one a product for 8-bit activations and 3 exponent bits, and an
    adder of 16 to 17 bits for each term but one. Four terms measure 187 LUT4 on iCE40 and 191 on
    ECP5, and 208 and 212 with ``exact`` (``python -m benchmarks components``). Latency:
    ``latency`` cycles, one for the barrel and one for each level of the adder tree. Throughput:
    ``simd`` terms per cycle.

    The arithmetic is that of section 2 of the design; sums of shifted activations in place of
    products are LightNN's (Ding et al., GLSVLSI 2017).

    Parameters
    ----------
    simd : int
        Terms, and activations, per cycle; 1 or more.
    activation : ActivationFormat
        Activations: 1 to 16 bits, signed or unsigned.
    term : TermFormat
        Terms: 1 to 4 exponent bits.
    exact : bool
        Whether ``o`` is the dot product itself, see above.

    Members
    -------
    i : In(stream) of struct
        ``activations``: ``simd`` activations; ``terms``: ``simd`` term codes.
    o : Out(stream) of signed(width)
        One sum for each transfer of ``i``.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, simd: int, activation: ActivationFormat = ActivationFormat(),
                 term: TermFormat = TermFormat(), exact: bool = True) -> None:
        self.simd = _integer(simd, "simd", 1, 1 << 16)
        self.activation = activation
        self.term = term
        self.exact = exact
        # A minus zero is no code, and so does not matter.
        self.offsets: IntArray = np.zeros(1 << term.code_bits, np.int64)
        """By term code, how much a product is more than it should be."""
        if not exact:
            self.offsets[1 + term.negative_zero:] = -1
        # An inverted product needs no more bits than the negated one, and the sum of S of them
        # no more than ceil(log2(S)) on top.
        self.product_bits = activation.bits + term.max_exponent + (not activation.signed)
        if exact:
            self.product_bits += activation.signed  # -(-128) does not fit where -128 does
        self.width = self.product_bits + ceil_log2(simd)
        self.latency = 1 + ceil_log2(simd)
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "activations": data.ArrayLayout(activation_shape(activation), simd),
                "terms": data.ArrayLayout(term.code_bits, simd),
            }))),
            "o": Out(stream.Signature(signed(self.width))),
        })

    def compute(self, activations: ArrayLike, terms: ArrayLike) -> IntArray:
        """The same in NumPy: dot products over the last axis of ``activations`` and codes."""
        values = self.term.decode(terms)
        products = np.asarray(activations, np.int64) * values
        return (products + self.offsets[np.asarray(terms, np.int64)]).sum(axis=-1)

    def _product(self, activation: Value, code: Value) -> Value:
        """Shifted, gated and sign-inverted activation: ``activation * term``, or one less."""
        field, sign = code[:-1], code[-1]
        # Shift by f, not f - 1, and drop the lowest bit at the end: it is 0 unless f is 0.
        value: Value = Mux(field.any(), Mux(field[0], activation << 1, activation), 0)
        for stage in range(1, self.term.exponent_bits):
            value = Mux(field[stage], value << (1 << stage), value)
        return (value >> 1) ^ sign.replicate(self.product_bits).as_signed()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        advance = Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(advance)]

        payload = self.i.payload
        level: list[Value] = []
        for n in range(self.simd):
            product = Signal(signed(self.product_bits), name=f"product_{n}", reset_less=True)
            with m.If(advance):
                m.d.sync += product.eq(self._product(payload.activations[n], payload.terms[n]))
            level.append(product)
        carries: Value = Const(0)
        if self.exact:
            ones = Signal(range(self.simd + 1), reset_less=True)
            with m.If(advance):
                m.d.sync += ones.eq(sum((payload.terms[n][-1] for n in range(self.simd)),
                                        Const(0, 1)))
            carries = ones

        depth = 0
        while len(level) > 1:
            depth += 1
            below, level = level, []
            for n in range(0, len(below), 2):
                total = Signal(signed(self.product_bits + depth), name=f"sum_{depth}_{n // 2}",
                               reset_less=True)
                with m.If(advance):
                    m.d.sync += total.eq(sum(below[n + 1:n + 2], below[n]))
                level.append(total)
            if self.exact:
                delayed = Signal.like(carries, name=f"carries_{depth}", reset_less=True)
                with m.If(advance):
                    m.d.sync += delayed.eq(carries)
                carries = delayed
        m.d.comb += self.o.payload.eq(level[0] + carries)

        valid = self.i.valid
        for stage in range(self.latency):
            following = Signal(name=f"valid_{stage}")
            with m.If(advance):
                m.d.sync += following.eq(valid)
            valid = following
        m.d.comb += self.o.valid.eq(valid)
        return m
