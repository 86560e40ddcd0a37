# amaranth: UnusedElaboratable=no
"""Proofs about order: the scheduler for any ``k``, the array's drain, and the biases' turn.

Each says whether it is an induction, and so holds for ever, or up to which bound it was looked at.
Values are narrow: they are only carried and added modulo a power of two, and nothing decides on
them.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from amaranth import Array, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.hdl import Assert, Assume
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from flightrtl.gateware import FilterScheduler
from flightrtl.gateware.folding import drain_program
from tests.formal import (
    AnyConst,
    AnySeq,
    Failed,
    Spec,
    free_inputs,
    internal,
    planted,
    prove,
)

WIDTH = 5
MOST = 3
"""Slots of a filter, at most."""


def check_drain_program(program, filters):
    """Each slot once, in order, to its filter, and nothing else to any."""
    for k in itertools.product(range(MOST + 1), repeat=filters):
        owners = [owner for owner, count in enumerate(k) for _ in range(count)]
        for lanes in range(1, 6):
            slots, sums, total = itertools.count(), [], []
            for takes, ends in program(k, lanes):
                if takes:
                    total.append(next(slots))
                if ends:
                    sums.append(total)
                    total = []
            assert sums == [[slot for slot, owner in enumerate(owners) if owner == n]
                            for n in range(filters)]
            # What is left over are the lanes without a slot in the last pass.
            taken = next(slots)
            assert total == list(range(sum(k), taken))
            assert taken % lanes == 0
            assert taken == max(lanes, sum(k) + -sum(k) % lanes)


@pytest.mark.parametrize("filters", [1, 2, 3, 4, 5])
def test_drain_program_for_every_k(filters):
    """By enumeration, every mix of 0 to 3 slots and 1 to 5 lanes."""
    check_drain_program(drain_program, filters)


@pytest.mark.parametrize(("old", "new"), [
    ("[(True, False)] * (terms - 1) + [(terms > 0, True)]", "[(terms > 0, True)]"),
    ("max(1, -(-taken // lanes)) * lanes - taken", "-taken % lanes"),
])
def test_drain_program_twin(old, new):
    with pytest.raises(AssertionError):
        check_drain_program(planted(drain_program, old, new), 2)


class SymbolicSteps(wiring.Component):
    """The scheduler's program as a stream, for the ``k`` that are inputs.

    Counts through the filters and their slots, and then through the lanes that are left over in
    the last pass.
    """

    k: Any
    stall: Signal
    o: stream.Interface

    def __init__(self, *, filters, lanes):
        self.filters, self.lanes = filters, lanes
        self.filter = Signal(range(filters + 1))
        self.slot = Signal(range(MOST))
        self.lane = Signal(range(lanes))
        self.started = Signal()
        super().__init__({
            "k": In(range(MOST + 1)).array(filters),
            "stall": In(1),
            "o": Out(stream.Signature(unsigned(3))),
        })

    def elaborate(self, platform):
        m = Module()
        k = Array([*self.k, Const(0)])[self.filter]
        filling = self.filter == self.filters
        takes, ends, waits = Signal(), Signal(), Signal()
        m.d.comb += [
            takes.eq(filling | (k != 0)),
            ends.eq(~filling & ((k == 0) | (self.slot == k - 1))),
            # Pruned filters before the first slot wait for it.
            waits.eq(takes | ~self.started),
            self.o.payload.eq(takes | ends << 1 | waits << 2),
            self.o.valid.eq(~self.stall),
        ]
        lane, started, full = Signal.like(self.lane), Signal(), Signal()
        m.d.comb += [
            lane.eq(Mux(takes, Mux(self.lane == self.lanes - 1, 0, self.lane + 1), self.lane)),
            started.eq(self.started | takes),
            full.eq(started & (lane == 0)),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [self.lane.eq(lane), self.started.eq(started)]
            with m.If(ends | filling):
                m.d.sync += self.slot.eq(0)
                with m.If(~filling):
                    m.d.sync += self.filter.eq(self.filter + 1)
                with m.If(full & (filling | (self.filter == self.filters - 1))):
                    m.d.sync += [self.filter.eq(0), self.started.eq(0)]
            with m.Else():
                m.d.sync += self.slot.eq(self.slot + 1)
        return m


@pytest.mark.parametrize(("filters", "lanes"), [(1, 2), (2, 3), (3, 1), (3, 2), (3, 4)])
def test_symbolic_program_is_the_schedulers(filters, lanes):
    """By enumeration: for every ``k``, three rounds of the very words of the scheduler's ROM."""
    for k in itertools.product(range(MOST + 1), repeat=filters):
        real = FilterScheduler(k=k, lanes=lanes, width=WIDTH)._steps()
        dut = SymbolicSteps(filters=filters, lanes=lanes)
        found = []

        async def bench(ctx, dut=dut, found=found, k=k, count=3 * len(real.words)):
            for port, value in zip(dut.k, k, strict=True):
                ctx.set(port, value)
            ctx.set(dut.o.ready, 1)
            for _ in range(count):
                found.append(ctx.get(dut.o.payload))
                await ctx.tick()

        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run()
        assert found == real.compute(3 * len(real.words))


def with_symbolic_k(scheduler: Any, *, filters, lanes, fixed=None, width=WIDTH):
    """A scheduler, real or with a planted bug, whose ``k`` the solver chooses, once.

    With ``fixed`` it is that one, and the scheduler may specialise in it.
    """

    class Symbolic(scheduler):
        def __init__(self):
            super().__init__(k=fixed or [MOST] * filters, lanes=lanes, width=width)
            self.fixed = fixed or [AnyConst(range(MOST + 1)) for _ in range(filters)]
            self.symbols = [Signal(range(MOST + 1), name=f"k_{n}") for n in range(filters)]
            self.steps = SymbolicSteps(filters=filters, lanes=lanes)

        def _steps(self):
            return self.steps

    return Symbolic()


@dataclass(frozen=True)
class Packing:
    """Where the slots of the filters are, by the definition, and of one that the solver chose."""

    before: list[Signal]
    slots: Value
    total: Value
    chosen: Value
    start: Value
    end: Value


def symbolic_packing(m, dut):
    """The packing of a scheduler :func:`with_symbolic_k`, whose ``k`` and stalls this drives."""
    filters, lanes = len(dut.k), dut.lanes
    m.d.comb += dut.steps.stall.eq(AnySeq(1))
    for symbol, port, value in zip(dut.symbols, dut.steps.k, dut.fixed, strict=True):
        m.d.comb += [symbol.eq(value), port.eq(symbol)]
        m.d.comb += Assume(symbol <= MOST, "k has a greatest value")
    most = filters * MOST + lanes
    before = [Signal(range(most), name=f"before_{n}") for n in range(filters + 1)]
    for n in range(filters):
        m.d.comb += before[n + 1].eq(before[n] + dut.symbols[n])
    slots = before[filters]
    total = Signal(range(most + 1))  # of a pixel: whole passes, at least one
    m.d.comb += total.eq(Mux(slots == 0, lanes, (slots + lanes - 1) // lanes * lanes))
    chosen, start, end = Signal(range(filters)), Signal(range(most)), Signal(range(most))
    m.d.comb += [chosen.eq(AnyConst(chosen.shape())), start.eq(Array(before)[chosen]),
                 end.eq(Array(before[1:])[chosen])]
    m.d.comb += Assume(chosen < filters, "there is such a filter")
    return Packing(before, slots, total, chosen, start, end)


class VisitsEverySlot(wiring.Component):
    """Watches a scheduler from outside: one filter, of the solver's choice, and its slots.

    Counts slots in and filters out, and adds up the slots that are this filter's by nothing but
    the definition of the packing: those after all slots of the filters before it. ``invariants``
    adds what an induction needs to know about the inside.
    """

    def __init__(self, dut, *, invariants=True):
        self.dut = dut
        self.invariants = invariants
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        filters, steps = len(dut.k), dut.steps
        free_inputs(m, dut)
        pack = symbolic_packing(m, dut)
        before, slots, total = pack.before, pack.slots, pack.total
        chosen, start, end = pack.chosen, pack.start, pack.end
        takes, gives = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready
        slot = Signal.like(start)         # the next one
        filter_ = Signal(range(filters))  # the one that o offers, or will
        partial, whole = Signal(WIDTH), Signal(WIDTH)
        pending = Signal()
        mine = (slot >= start) & (slot < end)
        sum_ = Signal(WIDTH)
        m.d.comb += sum_.eq(partial + dut.i.payload)
        m.d.comb += Assume((slot < slots) | (dut.i.payload == 0),
                           "lanes that have no slot give 0")
        offered = dut.o.valid & (filter_ == chosen)
        with m.If(gives):
            m.d.sync += filter_.eq(Mux(filter_ == filters - 1, 0, filter_ + 1))
            with m.If(filter_ == chosen):
                m.d.sync += pending.eq(0)
        with m.If(takes):
            m.d.sync += slot.eq(Mux(slot == total - 1, 0, slot + 1))
            with m.If(mine):
                m.d.sync += partial.eq(sum_)
                with m.If(slot == end - 1):
                    m.d.sync += [partial.eq(0), whole.eq(sum_), pending.eq(1)]
                    m.d.comb += Assert(~pending | gives, "a filter's sum is lost")
        with m.If(offered):
            m.d.comb += [
                Assert(pending | (start == end), "a filter leaves before its last slot"),
                Assert(dut.o.payload.as_unsigned() == Mux(start == end, 0, whole),
                       "a filter is the sum of its slots"),
            ]

        # A pruned filter before the first slot of an image does not leave before the image comes.
        early, fresh = Signal(), Signal(init=1)
        m.d.sync += [early.eq((slot == 0) & ~dut.i.valid), fresh.eq(~dut.o.valid | gives)]
        m.d.comb += Assert(~(early & fresh & offered & (end == 0)),
                           "a pruned filter leaves before its image comes")
        m.d.comb += Assert(~(dut.i.valid & dut.o.ready & steps.o.valid) | steps.o.ready,
                           "nothing waits without a reason")

        if self.invariants:
            self.assert_invariants(m, slot=slot, before=before, total=total, pending=pending,
                                   partial=partial, filter_=filter_, chosen=chosen, start=start,
                                   end=end)
        return m

    def assert_invariants(self, m, *, slot, before, total, pending, partial, filter_, chosen,
                          start, end):
        """How the scheduler's state and the counts belong together."""
        dut, steps = self.dut, self.dut.steps
        filters, lanes = len(dut.k), dut.lanes
        carry = internal(self, "dut.carry", signed(WIDTH)).as_unsigned()
        filling = steps.filter == filters
        k = Array([*dut.symbols, Const(0)])[steps.filter]
        reached = Array(before)[steps.filter] + steps.slot
        ended = Signal(range(filters))  # filters that left or are offered
        m.d.comb += ended.eq(Mux(~dut.o.valid, filter_,
                                 Mux(filter_ == filters - 1, 0, filter_ + 1)))
        m.d.comb += [
            Assert(slot < total, "slots are counted round by round"),
            Assert(filter_ < filters, "filters are counted round by round"),
            Assert(steps.filter <= filters, "the program knows its filters"),
            Assert((steps.slot == 0) | (steps.slot < k), "the program knows their slots"),
            Assert(steps.lane == slot % lanes, "lanes go round"),
            # All slots may be taken before the last, pruned, filters have left.
            Assert(filling | (slot == reached) | ((slot == 0) & (reached == total)),
                   "slots are taken in order"),
            Assert(~filling | ((slot >= reached) & (slot != 0) & (steps.lane != 0))
                   | ((slot == 0) & (before[filters] == 0)), "the rest of a pass is taken"),
            Assert(steps.started == ((slot != 0) | (~filling & (reached != 0))),
                   "the program knows its first slot"),
            Assert(filling | (ended == steps.filter), "a filter ends where the program says"),
            Assert(~filling | (ended == 0), "all filters end before the rest of the pass"),
            Assert((steps.slot != 0) | (carry == 0), "a filter begins with 0"),
            Assert(partial == Mux((steps.filter == chosen) & ~filling, carry, 0),
                   "the sum so far is the filter's"),
            Assert(~pending | (dut.o.valid & (filter_ == chosen)), "a whole filter is offered"),
            Assert(~pending | (start != end), "a filter without slots has no sum"),
        ]


@pytest.mark.parametrize(("filters", "lanes"), [(4, 3), (3, 1), (3, 2), (2, 5)])
def test_scheduler_visits_every_slot_once_and_in_order(filters, lanes):
    """By induction, for every ``k`` of 0 to 3 at once, any slots and any stalls of three streams.

    The streams are the slots, the filters, and the program itself.
    """
    prove(VisitsEverySlot(with_symbolic_k(FilterScheduler, filters=filters, lanes=lanes)),
          depth=1)


def test_scheduler_without_an_adder():
    """By induction: the specialised one for filters of a slot each that fill their passes."""
    prove(VisitsEverySlot(with_symbolic_k(FilterScheduler, filters=4, lanes=2,
                                          fixed=[1, 1, 1, 1])), depth=1)


class SameSteps(Spec):
    """A real scheduler with its ROM, and the program that the proofs put in its place."""

    def says(self, m, dut):
        m.submodules.steps = steps = SymbolicSteps(filters=len(dut.k), lanes=dut.lanes)
        for port, value in zip(steps.k, dut.k, strict=True):
            m.d.comb += port.eq(value)
        valid = internal(self, "dut.program.o__valid", 1)
        address = internal(self, "dut.program.address", range(len(dut.program)))
        m.d.comb += steps.o.ready.eq(valid & internal(self, "dut.program.o__ready", 1))
        # Where the ROM has the step that comes.
        first = list(itertools.accumulate((max(1, k) for k in dut.k), initial=0))
        first[-1] -= sum(dut.k) % dut.lanes
        step = Signal(range(len(dut.program) + 1))
        m.d.comb += step.eq(Array(first)[steps.filter]
                            + Mux(steps.filter == len(dut.k), steps.lane, steps.slot))
        m.d.comb += Assert(address == Mux(valid, (step + 1) % len(dut.program), 0),
                           "the ROM is read in order")
        slots = Array(itertools.accumulate(dut.k, initial=0))[steps.filter] + steps.slot
        with m.If(valid):
            m.d.comb += Assert(internal(self, "dut.program.o__payload", 3) == steps.o.payload,
                               "the ROM holds the program")
        m.d.comb += [
            Assert(steps.filter <= len(dut.k), "the program knows its filters"),
            Assert((steps.slot == 0) | (steps.slot < Array([*dut.k, 0])[steps.filter]),
                   "the program knows their slots"),
            Assert((steps.lane == slots % dut.lanes) | (steps.filter == len(dut.k)),
                   "lanes go round"),
            Assert(steps.lane < dut.lanes, "lanes go round"),
            Assert((steps.filter != len(dut.k)) | (steps.lane >= max(1, sum(dut.k) % dut.lanes)),
                   "the rest of a pass is taken"),
            Assert(steps.started == (slots != 0), "the program knows its first slot"),
            Assert(valid | (step == 0), "nothing comes before the ROM"),
        ]


def test_rom_holds_the_program():
    """By induction, under any stalls: the ROM's stream is the program that the proofs know."""
    prove(SameSteps(FilterScheduler(k=[0, 2, 0, 2, 0], lanes=3, width=1)), depth=1)


def test_rom_twin(tmp_path):
    dut = planted(FilterScheduler, "takes or n < leading", "takes or n <= leading + 2")(
        k=[0, 2, 0, 2, 0], lanes=3, width=1)
    with pytest.raises(Failed):
        prove(SameSteps(dut), mode="bmc", depth=8, folder=tmp_path)


@pytest.mark.parametrize(("old", "new"), [
    ("carry.eq(Mux(ends, 0, total))", "carry.eq(Mux(ends & takes, 0, total))"),
    ("room.eq(~ends | ~self.o.valid | self.o.ready)", "room.eq(1)"),
    ("Mux(takes, total, 0)", "total"),
    ("step.eq(program.o.valid & (~waits | self.i.valid) & room)",
     "step.eq(program.o.valid & (~takes | self.i.valid) & room)"),
    ("self.i.ready.eq(program.o.valid & takes & room)", "self.i.ready.eq(takes & room)"),
])
def test_scheduler_twin(old, new, tmp_path):
    scheduler = planted(FilterScheduler, old, new)
    dut = with_symbolic_k(scheduler, filters=3, lanes=2)
    with pytest.raises(Failed):
        prove(VisitsEverySlot(dut, invariants=False), mode="bmc", depth=8, folder=tmp_path)
