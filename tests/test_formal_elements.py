# amaranth: UnusedElaboratable=no
"""Proofs about the PEs for fixed-point and binary weights: their products and sums.

By induction over one cycle, and so for ever, for all activations and codes, under any stalls.
"""

import itertools

import numpy as np
import pytest
from amaranth import Module, Shape, Signal, signed
from amaranth.hdl import Assert
from amaranth.lib import wiring

from flightrtl.formats import ActivationFormat, FixedFormat
from flightrtl.gateware import MultiplyPE, XnorPE
from tests.formal import Failed, free_inputs, internal, planted, prove

WIDE = 32
"""Bits of the specification's sums: more than any of these can need."""


def digits(weight):
    """For each digit its weight, and its values by code: the docstring's, found by trying all."""
    sets: list[tuple[int, ...]] = [(-2, -1, 0, 1)] + [(-3, -1, 1, 3)] * (weight.bits // 2 - 1)
    sets += [(-1, 1)] * (weight.bits % 2)
    scales = [1] + [1 << 2 * digit + 1 for digit in range(len(sets) - 1)]
    found = {sum(d * scale for d, scale in zip(chosen, scales, strict=True)): chosen
             for chosen in itertools.product(*sets)}
    assert sorted(found) == list(range(weight.min, weight.max + 1))
    values = weight.decode(np.arange(1 << weight.bits))
    return scales, np.array([found[value] for value in values.tolist()]).T


class Spec(wiring.Component):
    """What a PE must give, beside the PE.

    Operands and exact sums move where the PE moves its registers, so that each of these has what
    it must be in terms of them, in every cycle, whatever the stalls were before.
    """

    def __init__(self, pe):
        self.pe = pe
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        self.m = m
        m.submodules.pe = pe = self.pe
        free_inputs(m, pe)
        self.advance = advance = Signal()
        m.d.comb += advance.eq(~pe.o.valid | pe.o.ready)
        payload = pe.i.payload
        terms = [(payload.activations[n], payload.terms[n]) for n in range(pe.simd)]
        values = pe.weight.decode(np.arange(1 << pe.weight.code_bits))
        if getattr(pe, "dsp", None) is False:
            level = [self.product(n, *term) for n, term in enumerate(terms)]
        else:
            name = "product" if hasattr(pe, "dsp") else "first"
            exact = [(activation * self.lookup(code, values), self.lookup(code, pe.offsets), 1)
                     for activation, code in terms]
            level = [self.node(f"{name}_{n // pe.group}", exact[n:n + pe.group])
                     for n in range(0, pe.simd, pe.group)]
        depth = 0
        while len(level) > 1:
            depth += 1
            level = [self.node(f"sum_{depth}_{n // 2}", level[n:n + 2])
                     for n in range(0, len(level), 2)]
        total, offset, _ = level[0]
        m.d.comb += Assert(pe.o.payload == total + offset, "o is the sum and its offsets")
        valid = pe.i.valid
        for stage in range(pe.latency):
            valid = self.register(valid, 1)
            m.d.comb += Assert(internal(self, f"pe.valid_{stage}", 1) == valid,
                               "a transfer takes a place in each stage")
        m.d.comb += Assert(pe.i.ready == advance, "i waits for o alone")
        return m

    def register(self, value, shape, init=0):
        following = Signal(shape, init=init)
        with self.m.If(self.advance):
            self.m.d.sync += following.eq(value)
        return following

    def lookup(self, code, values):
        """The value at a code."""
        value = Signal(Shape.cast(range(min(0, *values), max(values) + 1)))
        with self.m.Switch(code):
            for index, entry in enumerate(values):
                with self.m.Case(index):
                    self.m.d.comb += value.eq(int(entry))
        return value

    def node(self, name, parts):
        """A register of the PE: (sum of exact products, sum of offsets, how many)."""
        pe = self.pe
        totals, offsets, counts = zip(*parts, strict=True)
        count = sum(counts)
        total = self.register(sum(totals), signed(WIDE))
        offset = self.register(sum(offsets), signed(WIDE))
        return self.check(name, total, offset, count, pe.sum_shape(count))

    def check(self, name, total, offset, count, shape):
        pe = self.pe
        ends = [end * weight for end in (pe.activation.min, pe.activation.max)
                for weight in (pe.weight.min, pe.weight.max)]
        self.m.d.comb += [
            Assert(internal(self, f"pe.{name}", shape) == total + offset,
                   f"{name} is the sum and its offsets"),
            # Which sums there are, for the step of the induction.
            Assert((total >= count * min(ends)) & (total <= count * max(ends)),
                   f"{name} has the range of so many products"),
            Assert((total + offset >= count * pe.range[0])
                   & (total + offset <= count * pe.range[1]), f"{name} fits"),
        ]
        return total, offset, count

    def product(self, n, activation, code):
        """A product in logic: its digits in terms of the operands, and their sums."""
        pe = self.pe
        scales, values = digits(pe.weight)
        # The PE's registers start at 0: as if the weight had no negative digit.
        activation = self.register(activation, activation.shape())
        code = self.register(code, code.shape(), pe.weight.max)
        level = []
        for digit, (scale, one) in enumerate(zip(scales, values, strict=True)):
            name = f"digit_{n}_{digit}"
            level.append((scale, scale * one, -scale * (one < 0)))
            self.part(name, activation, code, *level[-1])
        depth = 0
        while len(level) > 1:
            depth += 1
            activation = self.register(activation, activation.shape())
            code = self.register(code, code.shape(), pe.weight.max)
            level = [(pair[0][0], sum(part[1] for part in pair), sum(part[2] for part in pair))
                     for pair in (level[k:k + 2] for k in range(0, len(level), 2))]
            for index, part in enumerate(level):
                self.part(f"part_{n}_{depth}_{index}", activation, code, *part)
        _, weights, offsets = level[0]
        assert weights.tolist() == pe.weight.decode(np.arange(len(weights))).tolist()
        assert offsets.tolist() == pe.offsets.tolist()
        total, offset = Signal(signed(WIDE)), Signal(signed(WIDE))
        self.m.d.comb += [total.eq(activation * self.lookup(code, weights)),
                          offset.eq(self.lookup(code, offsets))]
        return total, offset, 1

    def part(self, name, activation, code, scale, weights, offsets):
        """A register of the PE: an activation times part of a weight, and its offset."""
        fmt = self.pe.activation
        ends = np.stack([weights * fmt.min, weights * fmt.max]) + offsets
        shape = Shape.cast(range(int(ends.min()) // scale, int(ends.max()) // scale + 1))
        value = activation * self.lookup(code, weights) + self.lookup(code, offsets)
        self.m.d.comb += Assert(internal(self, f"pe.{name}", shape) * scale == value,
                                f"{name} is its part of the product")


def multiply(bits, activation=8, negative=False, simd=2, dsp=False, make=MultiplyPE):
    return make(simd=simd, activation=ActivationFormat(activation, negative),
                weight=FixedFormat(bits), dsp=dsp)


def name(pe):
    """Of a test."""
    return f"{type(pe).__name__}-{pe.simd}-{pe.activation.bits}x{pe.weight.code_bits}"


@pytest.mark.parametrize("pe", [
    multiply(4, simd=1),
    multiply(3, 3, negative=True, simd=3),      # an adder tree with odd levels
    multiply(5, 3, simd=1),                     # ... and one of digits
    multiply(2, 1),
    multiply(4, 5, dsp=True),
    XnorPE(simd=17),                            # two whole groups and one of five
    XnorPE(simd=3, activation=ActivationFormat(8)),
    XnorPE(simd=2, activation=ActivationFormat(5, True)),
], ids=name)
def test_pe_equals_its_arithmetic(pe):
    prove(Spec(pe), depth=1)


@pytest.mark.parametrize(("old", "new"), [
    # The sign of the weight is taken for a bit like the others.
    ("~pair[1] if 2 * digit + 2 == len(code) else pair[1]", "pair[1]"),
    # A triple lacks its highest bit.
    ("activation + (activation << 1),", "(activation + (activation << 1))[:-1],"),
    # The lowest digit's double is a single.
    ("activation << 1))\n    else", "activation))\n    else"),
    # A stall parts the digits of a product.
    ("with m.If(advance):\n                    m.d.sync += part", "m.d.sync += part"),
])
def test_multiply_pe_twin(old, new, tmp_path):
    with pytest.raises(Failed):
        prove(Spec(multiply(4, 4, make=planted(MultiplyPE, old, new))), mode="bmc", depth=5,
              folder=tmp_path)


@pytest.mark.parametrize(("old", "new"), [
    ("replicate(self.activation.bits)", "replicate(1)"),       # the lowest bit alone is inverted
    ("-1 if activation.signed else activation.max", "-1"),     # what is inverted has a sign
])
def test_xnor_pe_twin(old, new, tmp_path):
    pe = planted(XnorPE, old, new)(simd=2, activation=ActivationFormat(4))
    with pytest.raises(Failed):
        prove(Spec(pe), mode="bmc", depth=4, folder=tmp_path)


def test_count_twin(tmp_path):
    """Four carries that are counted as if two were set at most."""
    pe = planted(XnorPE, "high = high | (two & Cat(twos[:n]).any())",
                 "high = two & Cat(twos[:n]).any()")(simd=6)
    with pytest.raises(Failed):
        prove(Spec(pe), mode="bmc", depth=4, folder=tmp_path)
