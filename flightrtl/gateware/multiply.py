"""The multiplying processing element: a dot product with weights in two's complement."""

from __future__ import annotations

import numpy as np
from amaranth import Module, Mux, Shape, Signal, Value
from amaranth.utils import ceil_log2

from ..formats import ActivationFormat, FixedFormat, IntArray
from .element import ProcessingElement

__all__ = ["MultiplyPE"]


class MultiplyPE(ProcessingElement):
    """Sum of ``simd`` products of an activation and a fixed-point weight.

    In logic (``dsp=False``) a weight is read as digits of two bits each. The lowest one is -2, -1,
    0 or 1; the others are -3, -1, 1 or 3, as if each of their bits were +1 or -1 in place of 1 or
    0, and so count half of what their bits do: 7 = 1 + 2 x 3, -8 = -2 - 2 x 3. No weight needs
    another digit, and each bit of a digit's product is a function of two bits of the weight and
    two more, of the activation, its double or its triple: one LUT4. The triple takes an adder,
    which synthesis shares between all PEs with the same activations. A negative digit's product
    is inverted and not negated, so that the sum is short of 1 times the weight of the digit; by
    how much, ``offsets`` says for each weight code, and whoever adds a bias anyway adds that
    (:class:`~flightrtl.gateware.LayerEngine` does).

    With ``dsp=True`` a product is one multiplication, which synthesis maps to one multiplier
    block: SB_MAC16 on iCE40, if asked to by ``-dsp`` and if the product has 11 bits or more, with
    the register behind it; MULT18X18D on ECP5, without. ``o`` then is the dot product.

    Cost, for four products with 8-bit activations: 72 LUT4 on iCE40 and 73 on ECP5 for 2-bit
    weights, 194 and 211 for 4 bits, 395 and 415 for 8 bits; 118 and 135 for 4-bit weights on 4-bit
    activations (``python -m benchmarks components``). What Yosys makes of a multiplication without
    multiplier blocks takes 327 and 335 for 8 x 4 bits, and 162 and 171 for 4 x 4. Latency:
    ``latency`` cycles: one for the digits, one for each level of adders between the digits of a
    weight, and one for each between products. Throughput: ``simd`` products per cycle.

    Multiples that several multiplications share are Park et al.'s computation sharing multiplier
    (IEEE Journal of Solid-State Circuits, 2004).

    Parameters
    ----------
    simd : int
        Products, and activations, per cycle; 1 or more.
    activation : ActivationFormat
        Activations: 1 to 16 bits, signed or unsigned.
    weight : FixedFormat
        Weights: 2 to 8 bits.
    dsp : bool
        Whether multiplier blocks make the products.

    Members
    -------
    i : In(stream) of struct
        ``activations``: ``simd`` activations; ``terms``: ``simd`` weight codes.
    o : Out(stream) of signed(width)
        One sum for each transfer of ``i``.
    """

    def __init__(self, *, simd: int, activation: ActivationFormat = ActivationFormat(),
                 weight: FixedFormat = FixedFormat(4), dsp: bool = False) -> None:
        if not isinstance(dsp, bool):
            raise TypeError(f"dsp must be True or False, not {dsp!r}")
        self.dsp = dsp
        self.digits = -(-weight.bits // 2)
        offsets = np.zeros(1 << weight.bits, np.int64) if dsp else inversions(weight)
        super().__init__(simd=simd, activation=activation, weight=weight, offsets=offsets,
                         first_latency=1 if dsp else 1 + ceil_log2(self.digits))

    def first_sums(self, m: Module, advance: Value) -> list[Value]:
        """The products."""
        payload = self.i.payload
        products: list[Value] = []
        for n in range(self.simd):
            activation, code = payload.activations[n], payload.terms[n]
            if self.dsp:
                product = Signal(self.sum_shape(1), name=f"product_{n}", reset_less=True)
                with m.If(advance):
                    m.d.sync += product.eq(activation * code.as_signed())
                products.append(product)
            else:
                products.append(self._product(m, advance, n, activation, code))
        return products

    def _product(self, m: Module, advance: Value, n: int, activation: Value,
                 code: Value) -> Value:
        """The digits' products, each a register, and the tree that adds them."""
        form, bits = self.activation, self.weight.code_bits
        level = []      # registers, by how much they are shifted, their least and greatest value
        for digit in range(self.digits):
            most = 2 if digit == 0 else 3 if 2 * digit + 1 < bits else 1
            least = 1 if digit == 0 else most
            low = min(-most * form.max - 1, least * form.min)
            high = max(least * form.max, -most * form.min - 1)
            value = Signal(Shape.cast(range(low, high + 1)), name=f"digit_{n}_{digit}",
                           reset_less=True)
            with m.If(advance):
                m.d.sync += value.eq(_digit(activation, code, digit))
            level.append((value, max(0, 2 * digit - 1), low, high))
        depth = 0
        while len(level) > 1:
            depth += 1
            below, level = level, []
            for first in range(0, len(below), 2):
                value, shift, low, high = below[first]
                total: Value = value
                for upper, by, least, most in below[first + 1:first + 2]:
                    total = total + (upper << (by - shift))
                    low, high = low + (least << (by - shift)), high + (most << (by - shift))
                part = Signal(Shape.cast(range(low, high + 1)),
                              name=f"part_{n}_{depth}_{first // 2}", reset_less=True)
                with m.If(advance):
                    m.d.sync += part.eq(total)
                level.append((part, shift, low, high))
        return level[0][0]


def _digit(activation: Value, code: Value, digit: int) -> Value:
    """``activation`` times a digit of a weight, bits inverted where the digit is negative."""
    pair = code[2 * digit:2 * digit + 2]
    if len(pair) == 1:      # a sign without another bit
        return activation ^ pair.as_signed()
    # The sign of the whole weight is the one bit that makes a digit less where it is 1.
    upper = ~pair[1] if 2 * digit + 2 == len(code) else pair[1]
    if digit == 0:
        value = Mux(upper, Mux(pair[0], activation, 0), Mux(pair[0], activation, activation << 1))
    else:
        value = Mux(upper == pair[0], activation + (activation << 1), activation)
    return value ^ (~upper).as_signed()


def inversions(weight: FixedFormat) -> IntArray:
    """By weight code: what a product is more for the inverted digits; 0 or less."""
    codes = np.arange(1 << weight.bits)
    offsets = np.zeros(len(codes), np.int64)
    for low in range(0, weight.bits, 2):
        high = min(low + 1, weight.bits - 1)
        negative = (codes >> high & 1) == (high == weight.bits - 1)
        offsets -= negative.astype(np.int64) << max(0, low - 1)
    return offsets
