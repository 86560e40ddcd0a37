# amaranth: UnusedElaboratable=no
"""The harness of the proofs: what it proves, refutes and cannot decide, and what it says then."""

import re
from pathlib import Path

import pytest
from amaranth import Elaboratable, Module, Signal
from amaranth.hdl import Assert, Assume, Cover
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from flightrtl.gateware import StreamBuffer
from tests import formal
from tests.formal import (
    AnySeq,
    Failed,
    ToolError,
    Unproved,
    bound,
    forbid_path,
    free_inputs,
    planted,
    prove,
    stream_members,
    stream_rules,
)


class Counter(Elaboratable):
    """Counts to 9 or is cleared; ``limit`` is claimed not to be exceeded."""

    def __init__(self, limit=9, *, cover=None, contradiction=False, empty=False):
        self.limit, self.cover = limit, cover
        self.contradiction, self.empty = contradiction, empty

    def elaborate(self, platform):
        m = Module()
        count = Signal(8)
        with m.If(AnySeq(1) | (count == 9)):
            m.d.sync += count.eq(0)
        with m.Else():
            m.d.sync += count.eq(count + 1)
        if self.cover is not None:
            m.d.comb += Cover(count == self.cover, "the count")
        elif not self.empty:
            m.d.comb += Assert(count <= self.limit, "the count exceeds its limit")
        if self.contradiction:
            m.d.comb += [Assume(count == 3, "3"), Assume(count == 4, "4")]
        return m


def test_induction():
    prove(Counter(), depth=2)


def test_counterexample_names_assertion_cycle_and_trace(tmp_path):
    with pytest.raises(Failed) as error:
        prove(Counter(6), mode="bmc", depth=9, folder=tmp_path)
    found = re.fullmatch(r"the count exceeds its limit \(\S+test_formal\.py:\d+\) in cycle 7; "
                         r"trace: (\S+\.vcd)", str(error.value))
    assert "$enddefinitions" in Path(found[1]).read_text()


def test_bound_is_a_bound():
    prove(Counter(6), mode="bmc", depth=7)


def test_no_induction_is_not_a_counterexample(tmp_path):
    with pytest.raises(Unproved, match="over 3 cycles does not close: the count exceeds"):
        prove(Counter(20), depth=3, folder=tmp_path)
    prove(Counter(20), depth=12)  # there are no 12 states in sequence from 10 to 20


def test_cover(tmp_path):
    prove(Counter(cover=9), mode="cover", depth=10)
    with pytest.raises(Failed, match=r"not reached within 9 cycles: \S+test_formal.py:\d+"):
        prove(Counter(cover=9), mode="cover", depth=9, folder=tmp_path)


def test_nothing_to_prove(tmp_path):
    with pytest.raises(ToolError, match="no Assert"):
        prove(Counter(empty=True), depth=2, folder=tmp_path)


def test_contradictory_assumptions_prove_nothing(tmp_path):
    with pytest.raises(ToolError, match="assumptions contradict each other"):
        prove(Counter(contradiction=True), mode="bmc", depth=3, folder=tmp_path)


class Free(wiring.Component):
    """Ports of a spec are free; a reset holds only where the solver has it."""

    i: Signal

    def __init__(self):
        super().__init__({"i": In(1)})

    def elaborate(self, platform):
        m = Module()
        ever = Signal()
        m.d.sync += ever.eq(ever | self.i)
        before = Signal(reset_less=True)
        m.d.sync += before.eq(ever)
        m.d.comb += Assert(ever | ~before, "forgotten")
        return m


def test_reset(tmp_path):
    prove(Free(), depth=3)
    with pytest.raises(Failed, match="forgotten"):
        prove(Free(), depth=3, reset=True, folder=tmp_path)


def test_missing_solver(monkeypatch, tmp_path):
    monkeypatch.setitem(formal.SOLVERS, "z3", "no-such-solver")
    with pytest.raises(ToolError, match=r"no-such-solver is needed .*pip install 'flightrtl\["):
        prove(Counter(), depth=2, folder=tmp_path)


def test_unknown_solver(monkeypatch, tmp_path):
    monkeypatch.setenv("FLIGHTRTL_FORMAL_SOLVER", "abacus")
    with pytest.raises(ToolError, match="must be one of z3, yices, not 'abacus'"):
        prove(Counter(), depth=2, folder=tmp_path)


def test_bounds(monkeypatch):
    monkeypatch.delenv("FLIGHTRTL_FORMAL_DEPTH", raising=False)
    assert bound(2, 3) == 2
    monkeypatch.setenv("FLIGHTRTL_FORMAL_DEPTH", "full")
    assert bound(2, 3) == 3
    monkeypatch.setenv("FLIGHTRTL_FORMAL_DEPTH", "deep")
    with pytest.raises(ValueError, match="must be fast or full, not 'deep'"):
        bound(2, 3)


def test_planted():
    changed = planted(StreamBuffer, "full = Signal()", "full = Signal(init=1)")
    assert changed is not StreamBuffer
    assert changed.__doc__ == StreamBuffer.__doc__
    with pytest.raises(ValueError, match="buffer.py has 'Signal' .* times; once is needed"):
        planted(StreamBuffer, "Signal", "Value")


def test_stream_members():
    class Nested(wiring.Component):
        def __init__(self):
            super().__init__({
                "a": In(stream.Signature(1)), "b": Out(stream.Signature(1)), "c": Out(1),
                "d": In(wiring.Signature({"e": Out(stream.Signature(1)),
                                          "f": In(stream.Signature(1))}))})

    found = {name: flow for name, flow, _ in stream_members(Nested())}
    assert found == {"a": In, "b": Out, "d.e": In, "d.f": Out}


class Timid(wiring.Component):
    """Passes a stream on, and offers only where it is asked to."""

    i: stream.Interface
    o: stream.Interface

    def __init__(self):
        super().__init__({"i": In(stream.Signature(1)), "o": Out(stream.Signature(1))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.buffer = buffer = StreamBuffer(1)
        wiring.connect(m, wiring.flipped(self.i), buffer.i)
        m.d.comb += [self.o.valid.eq(buffer.o.valid & self.o.ready),
                     self.o.payload.eq(buffer.o.payload), buffer.o.ready.eq(self.o.ready)]
        return m


class Connection(Elaboratable):
    def __init__(self, dut, source, target):
        self.dut = dut
        forbid_path(self, source, target)

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = self.dut
        free_inputs(m, self.dut)
        stream_rules(m, self.dut)
        return m


def test_forbidden_path(tmp_path):
    prove(Connection(StreamBuffer(1), "dut.o__ready", "dut.o__valid"), depth=2)
    with pytest.raises(Failed, match=r"dut\.o__valid depends on dut\.o__ready within a cycle"):
        prove(Connection(Timid(), "dut.o__ready", "dut.o__valid"), depth=2, folder=tmp_path)
    with pytest.raises(ToolError, match="SymbiYosys fails"):
        prove(Connection(StreamBuffer(1), "dut.o__raedy", "dut.o__valid"), depth=2, folder=tmp_path)
