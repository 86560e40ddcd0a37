"""The processing element for binary weights: a dot product of signs, counted or added."""

from __future__ import annotations

import numpy as np
from amaranth import Cat, Module, Signal, Value

from ..formats import ActivationFormat, BinaryFormat
from .element import ProcessingElement

__all__ = ["XnorPE"]

GROUP = 6
"""Bits that are counted at once."""


class XnorPE(ProcessingElement):
    """Sum of ``simd`` products of an activation and a weight that is -1 or +1.

    A product is the activation, all its bits inverted if the weight is -1. Inverted, an unsigned
    activation becomes ``max - a`` and a signed one ``-a - 1``: more than ``-a`` by a number that
    does not depend on it, which ``offsets`` gives for both codes and whoever adds a bias anyway
    takes away (:class:`~flightrtl.gateware.LayerEngine` does).

    Of unsigned activations with one bit, that is the XNOR of both bits, and ``o`` counts how many
    are 1, six at a time: a pair's sum and carry take a LUT4 each, XNORs included; then a full
    adder joins three sums, and two LUT4 count the four carries, of which at most three are set.

    Cost: 2 LUT4 for each bit counted, and adders between groups of 6: 16 bits measure
    40 LUT4 on iCE40 and 41 on ECP5, 64 measure 167 and 165. Four products with 8-bit activations
    take 59 and 63 (``python -m benchmarks components``). Latency: ``latency`` cycles, one for
    products or groups, and one for each level of adders. Throughput: ``simd`` products per cycle.

    The identity of XNOR and count with a dot product of signs is XNOR-Net's (Rastegari et al.,
    ECCV 2016).

    Parameters
    ----------
    simd : int
        Products, and activations, per cycle; 1 or more.
    activation : ActivationFormat
        Activations: 1 to 16 bits, signed or unsigned.
    weight : BinaryFormat
        Weights.

    Members
    -------
    i : In(stream) of struct
        ``activations``: ``simd`` activations; ``terms``: ``simd`` weight codes.
    o : Out(stream) of unsigned(width), or signed(width) if activations are signed
        One sum for each transfer of ``i``.
    """

    def __init__(self, *, simd: int, activation: ActivationFormat = ActivationFormat(1),
                 weight: BinaryFormat = BinaryFormat()) -> None:
        self.counts = activation == ActivationFormat(1)
        super().__init__(simd=simd, activation=activation, weight=weight,
                         offsets=np.array([-1 if activation.signed else activation.max, 0]),
                         first_latency=1, group=GROUP if self.counts else 1)

    def first_sums(self, m: Module, advance: Value) -> list[Value]:
        """The products or, of single bits, how many of each group are 1."""
        payload = self.i.payload
        products: list[Value] = []
        for n in range(self.simd):
            bits = payload.activations[n] ^ (~payload.terms[n]).replicate(self.activation.bits)
            products.append(bits.as_signed() if self.activation.signed else bits)
        sums: list[Value] = []
        for first in range(0, self.simd, self.group):
            group = products[first:first + self.group]
            total = Signal(self.sum_shape(len(group)), name=f"first_{first // self.group}",
                           reset_less=True)
            with m.If(advance):
                m.d.sync += total.eq(count(group) if self.counts else group[0])
            sums.append(total)
        return sums


def count(bits: list[Value]) -> Value:
    """How many of up to 6 bits are 1, in logic of at most 4 inputs on each of three levels."""
    ones: list[Value] = []
    twos: list[Value] = []
    for n in range(0, len(bits), 2):
        pair = Cat(bits[n:n + 2])
        ones.append(pair.xor())
        if len(pair) == 2:
            twos.append(pair.all())
    if len(ones) == 2:
        twos.append(ones[0] & ones[1])
    elif len(ones) == 3:
        twos.append((ones[0] & ones[1]) | (ones[0] & ones[2]) | (ones[1] & ones[2]))
    low, middle, high = Cat(ones).xor(), Cat(twos).xor(), Value.cast(0)
    for n, two in enumerate(twos):      # never all four of them
        high = high | (two & Cat(twos[:n]).any())
    return Cat(low, middle, high)
