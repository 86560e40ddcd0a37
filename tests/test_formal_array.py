# amaranth: UnusedElaboratable=no
"""Proofs about the array's drain: passes of any length leave lane by lane, once, under any stalls.

The array alone by induction, and so for ever; with the scheduler behind it, for every ``k``, up to
a stated bound. Formats are narrow: :mod:`tests.test_formal_arithmetic` looks at real ones.
"""

import pytest
from amaranth import Array, Module, Mux, Signal, signed
from amaranth.hdl import Assert, Assume
from amaranth.lib import wiring

from flightrtl.formats import ActivationFormat, TermFormat
from flightrtl.gateware import PEArray
from tests.formal import AnyConst, Failed, free_inputs, internal, planted, prove
from tests.test_formal_arithmetic import product

WIDTH = 5
ACTIVATION, TERM = ActivationFormat(1), TermFormat(1)


class Drain(wiring.Component):
    """Watches an array from outside, and one lane of the solver's choice closely.

    A word's sum, and that of its pass so far, is computed when the word goes in, and then waits
    for as long as the array is documented to take: ``latency - 1`` steps in which ``i.ready`` is
    1, and then until the pass is complete. ``invariants`` adds what an induction needs to know
    about the inside.
    """

    def __init__(self, dut, *, invariants=True):
        self.dut = dut
        self.invariants = invariants
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        free_inputs(m, dut)
        lanes, payload = dut.lanes, dut.i.payload
        chosen = Signal(range(lanes))
        m.d.comb += chosen.eq(AnyConst(chosen.shape()))
        m.d.comb += Assume(chosen < lanes, "there is such a lane")
        advance = dut.i.ready

        def inside(name, shape):
            """The chosen lane's signal."""
            return Array(internal(self, f"dut.{name.format(lane)}", shape)
                         for lane in range(lanes))[chosen]

        def register(value, shape):
            following = Signal(shape)
            with m.If(advance):
                m.d.sync += following.eq(value)
            return following

        # A word: its products, added in pairs as the PE does.
        products = []
        for n in range(dut.simd):
            code = Signal(dut.term.code_bits)
            m.d.comb += code.eq(Array(lane[n] for lane in payload.terms)[chosen])
            exact, negative = product(m, payload.activations[n], code, dut.term)
            products.append(exact - negative)
        stages = [[register(value, signed(WIDTH)) for value in products]]
        while len(level := stages[-1]) > 1:
            stages.append([register(sum(level[n:n + 2]), signed(WIDTH))
                           for n in range(0, len(level), 2)])

        so_far = Signal(signed(WIDTH))  # the pass that goes in
        after = Signal(signed(WIDTH))
        m.d.comb += after.eq(so_far + sum(products))
        with m.If(dut.i.valid & advance):
            m.d.sync += so_far.eq(Mux(payload.last, 0, after))
        pipeline = [(dut.i.valid, payload.last, after)]
        for _ in stages:
            valid, last, total = pipeline[-1]
            pipeline.append((register(valid, 1), register(last, 1),
                             register(total, signed(WIDTH))))
        valid, last, total = pipeline[-1]

        left = Signal(range(lanes + 1))  # sums of the pass that leaves
        held, pending = Signal(signed(WIDTH)), Signal()
        gives = dut.o.valid & dut.o.ready
        ends = valid & last & advance
        with m.If(gives):
            m.d.sync += left.eq(left - 1)
            with m.If(lanes - left == chosen):
                m.d.sync += pending.eq(0)
        with m.If(ends):
            m.d.sync += [left.eq(lanes), held.eq(total), pending.eq(1)]
        m.d.comb += [
            Assert(~ends | (left == 0), "a pass overwrites the one before it"),
            Assert(~ends | ~pending, "a sum is lost"),
            Assert(dut.o.valid == (left != 0), "there are as many sums as lanes"),
            Assert(advance | (valid & last & (left != 0)), "the array stops without a reason"),
        ]
        with m.If(dut.o.valid & (lanes - left == chosen)):
            m.d.comb += [Assert(pending, "a sum leaves twice"),
                         Assert(dut.o.payload == held, "a sum leaves in its lane's place")]
        if self.invariants:
            m.d.comb += Assert(left <= lanes, "no more sums than lanes")
            for depth, nodes in enumerate(stages):
                for n, value in enumerate(nodes):
                    name = f"sum_{depth}_{n}" if depth else f"product_{n}"
                    bits = dut._pes[0][0].product_bits + depth
                    m.d.comb += Assert(inside(f"lane_{{}}.{name}", signed(bits)) == value,
                                       "each register of the PE has its sum")
            accumulator = inside("accumulator_{}", signed(WIDTH))
            # From the oldest word to the youngest.
            running = Signal(signed(WIDTH), name="running")
            m.d.comb += running.eq(accumulator)
            for depth in reversed(range(len(stages))):
                valid, last, total = pipeline[depth + 1]
                following = Signal(signed(WIDTH), name=f"running_{depth}")
                m.d.comb += [
                    following.eq(Mux(valid, Mux(last, 0, total), running)),
                    Assert(~valid | (total == (running + sum(stages[depth]))[:WIDTH].as_signed()),
                           "a pass grows by its words"),
                    *(Assert(valid == internal(self, f"dut.lane_{lane}.valid_{depth}", 1),
                             "all lanes move in step") for lane in range(lanes)),
                    Assert(valid == internal(self, f"dut.valid_{depth}", 1), "as the array does"),
                    Assert(last == internal(self, f"dut.last_{depth}", 1), "last has its place"),
                ]
                running = following
            remaining = internal(self, "dut.remaining", range(lanes + 1))
            busy = internal(self, "dut.busy", 1)
            chain = Array(internal(self, f"dut.chain_{lane}", signed(WIDTH))
                          for lane in range(lanes))
            m.d.comb += [
                Assert(so_far == running, "the sum so far is that of the words inside"),
                Assert(remaining == left, "the array counts what is left"),
                Assert(busy == (remaining != 0), "busy is that something is left"),
                Assert(internal(self, "dut.stall", 1) == (pipeline[-1][0] & pipeline[-1][1] & busy),
                       "the array stops when a pass would end too early"),
                Assert(internal(self, "dut.ready", 1) != internal(self, "dut.stall", 1),
                       "both ends stop together"),
                Assert(pending == ((left != 0) & (chosen >= lanes - left)),
                       "a sum is pending until its turn"),
                Assert(~pending | (chain[(chosen + left - lanes)[:8]] == held),
                       "the chain holds it where its turn is"),
            ]
        return m


def array(lanes, simd, make=PEArray):
    return make(lanes=lanes, simd=simd, width=WIDTH, activation=ACTIVATION, term=TERM)


@pytest.mark.parametrize(("lanes", "simd"), [(1, 1), (3, 1), (3, 2), (5, 1)])
def test_passes_leave_lane_by_lane_once(lanes, simd):
    """By induction: passes of any length, any stalls, any number of them."""
    prove(Drain(array(lanes, simd)), depth=1)


@pytest.mark.parametrize(("old", "new"), [
    ("advance.eq(~stall)", "advance.eq(1)"),
    ("stalls.eq(Mux(stall, stays, before & (load | stays)))",
     "stalls.eq(Mux(stall, stays, before & stays))"),
    ("load.eq(valid & lasts & ~busy)", "load.eq(valid & lasts)"),
    ("chain[lane].eq(chain[lane + 1])", "chain[lane].eq(chain[lane])"),
    ("remaining.eq(self.lanes)", "remaining.eq(self.lanes - 1)"),
    ("m.d.sync += accumulator.eq(0)", "m.d.sync += accumulator.eq(pe.o.payload)"),
    ("[here.eq(valid), following.eq(lasts)]", "[here.eq(valid), following.eq(lasts & ~taken)]"),
])
def test_drain_twin(old, new, tmp_path):
    with pytest.raises(Failed):
        prove(Drain(array(2, 1, planted(PEArray, old, new)), invariants=False), mode="bmc",
              depth=9, folder=tmp_path)
