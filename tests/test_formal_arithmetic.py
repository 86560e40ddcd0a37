# amaranth: UnusedElaboratable=no
"""Proofs about arithmetic: the PE's products and sums, and the accumulators' width.

All by induction over one cycle, and so for ever, for all activations and codes, and under any
stalls.
"""

import pytest
from amaranth import Module, Signal, Value, signed
from amaranth.hdl import Assert, Assume
from amaranth.lib import wiring

from flightrtl.formats import ActivationFormat, TermFormat
from flightrtl.gateware import ShiftPE
from tests.formal import Failed, free_inputs, internal, planted, prove

WIDE = 40
"""Bits of the specification's sums: more than any of these can need."""


def product(m: Module, activation: Value, code: Value, term: TermFormat) -> tuple[Value, Value]:
    """``activation * value of the code`` with a multiplication, and whether the term is negative.

    Assumes that the code is one.
    """
    value = Signal(signed(term.max_exponent + 2))
    with m.Switch(code):
        for legal in range(1 << term.code_bits):
            if legal != term.negative_zero:
                with m.Case(legal):
                    m.d.comb += value.eq(int(term.decode([legal])[0]))
    m.d.comb += Assume(code != term.negative_zero, "terms are legal")
    return activation * value, value < 0


class DotProduct(wiring.Component):
    """What a shift PE must give, beside a shift PE.

    A node is a pair: an exact sum of products, and how many of its terms are negative. The
    specification moves them where the PE moves its registers and adds them in pairs as it does,
    so that each register has its node, in every cycle, whatever the stalls were before.
    """

    def __init__(self, pe):
        self.pe = pe
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.pe = pe = self.pe
        free_inputs(m, pe)
        advance = Signal()
        m.d.comb += advance.eq(~pe.o.valid | pe.o.ready)

        def register(value, shape):
            following = Signal(shape)
            with m.If(advance):
                m.d.sync += following.eq(value)
            return following

        # The extremes of one product: those of the activation times those of the term.
        ends = [end * term for end in (pe.activation.min, pe.activation.max)
                for term in (-pe.term.max_term, pe.term.max_term)]

        def node(name, total, negative, terms, bits):
            total, negative = register(total, signed(WIDE)), register(negative, range(terms + 1))
            m.d.comb += [
                Assert(internal(self, f"pe.{name}", signed(bits)) == total - negative,
                       f"{name} is the sum less its negative terms"),
                # Which sums there are, for the step of the induction.
                Assert((total >= terms * min(ends)) & (total <= terms * max(ends)),
                       f"{name} has the range of so many products"),
                Assert(negative <= terms, f"{name} has at most so many negative terms"),
            ]
            return total, negative, terms

        payload = pe.i.payload
        level = []
        for n in range(pe.simd):
            exact, negative = product(m, payload.activations[n], payload.terms[n], pe.term)
            level.append(node(f"product_{n}", exact, negative, 1, pe.product_bits))
        count = sum(negative for _, negative, _ in level)
        carries = ["ones"]
        depth = 0
        while len(level) > 1:
            if pe.exact:
                m.d.comb += Assert(internal(self, f"pe.{carries[-1]}", range(pe.simd + 1)) == count,
                                     f"{carries[-1]} counts the negative terms")
            depth += 1
            below, level = level, []
            for n in range(0, len(below), 2):
                totals, negatives, terms = zip(*below[n:n + 2], strict=True)
                level.append(node(f"sum_{depth}_{n // 2}", sum(totals), sum(negatives),
                                  sum(terms), pe.product_bits + depth))
            carries.append(f"carries_{depth}")
            count = sum(negative for _, negative, _ in level)
        total, negative, _ = level[0]
        if pe.exact:
            m.d.comb += Assert(internal(self, f"pe.{carries[-1]}", range(pe.simd + 1)) == count,
                                 f"{carries[-1]} counts the negative terms")
        m.d.comb += Assert(pe.o.payload == (total if pe.exact else total - negative),
                           "o is the dot product")

        valid = pe.i.valid
        for stage in range(pe.latency):
            valid = register(valid, 1)
            m.d.comb += Assert(internal(self, f"pe.valid_{stage}", 1) == valid,
                               "a transfer takes a place in each stage")
        m.d.comb += Assert(pe.i.ready == advance, "i waits for o alone")
        return m


@pytest.mark.parametrize(("simd", "activation", "exponent_bits", "exact"), [
    (4, ActivationFormat(8), 3, False),        # what the engines are made of
    (4, ActivationFormat(8, True), 3, False),
    (4, ActivationFormat(8), 3, True),
    (4, ActivationFormat(8, True), 3, True),
    (5, ActivationFormat(4, True), 2, True),   # an adder tree with odd levels
    (3, ActivationFormat(1), 1, False),
    (1, ActivationFormat(8, True), 4, False),
])
def test_pe_equals_its_arithmetic(simd, activation, exponent_bits, exact):
    """By induction: whatever came in ``latency`` steps ago, ``o`` is its dot product."""
    pe = ShiftPE(simd=simd, activation=activation, term=TermFormat(exponent_bits), exact=exact)
    prove(DotProduct(pe), depth=1)


@pytest.mark.parametrize(("old", "new"), [
    # A negative product is off in its upper bits.
    ("sign.replicate(self.product_bits).as_signed()", "sign"),
    # 1 is taken for 0.
    ("field.any()", "field[1:].any()"),
    # -(-128) does not fit.
    ("self.product_bits += activation.signed", "pass"),
    # A stall parts the ones from their products.
    ("with m.If(advance):\n                    m.d.sync += delayed.eq(carries)",
     "m.d.sync += delayed.eq(carries)"),
])
def test_pe_twin(old, new, tmp_path):
    pe = planted(ShiftPE, old, new)(simd=2, activation=ActivationFormat(8, True))
    with pytest.raises(Failed):
        prove(DotProduct(pe), mode="bmc", depth=5, folder=tmp_path)
