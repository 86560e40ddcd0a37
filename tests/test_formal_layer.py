# amaranth: UnusedElaboratable=no
"""Proofs about a layer's parts in a row: what the array, the scheduler and the requantizer share.

That filters keep their biases and shifts, and that weights are there when they are needed, by
induction; and the array and the scheduler together, up to a stated bound.
"""

import numpy as np
import pytest
from amaranth import Array, Module, Mux, Signal, signed
from amaranth.hdl import Assert, Assume, Cover
from amaranth.lib import wiring

from flightrtl.formats import ActivationFormat
from flightrtl.gateware import (
    ConvolutionEngine,
    FilterScheduler,
    FoldedLayer,
    Folding,
    PEArray,
    Requantizer,
)
from flightrtl.gateware.weights import RomStream
from flightrtl.model import TensorType
from tests.formal import AnyConst, Failed, Spec, bound, free_inputs, internal, planted, prove
from tests.models import random_layer, random_map
from tests.test_formal_array import ACTIVATION, TERM
from tests.test_formal_scheduler import WIDTH

LOW, HIGH = -(1 << WIDTH - 1), (1 << WIDTH - 1) - 1


def requantizer(filters, make=Requantizer, *, register=False):
    """Biases and shifts that tell the filters apart, and an output that clamps nothing."""
    return make(low=LOW, high=HIGH, bias=[3 * n for n in range(filters)],
                shift=[n % 2 for n in range(filters)], output=ActivationFormat(WIDTH + 3, True),
                register=register)


class KeepsTurns(wiring.Component):
    """A requantizer beside a count of what goes in, which says whose turn it is."""

    def __init__(self, dut, *, invariants=True):
        self.dut, self.invariants = dut, invariants
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        free_inputs(m, dut)
        filters = len(dut.bias)
        turn = Signal(range(filters))
        with m.If(dut.i.valid & dut.i.ready):
            m.d.sync += turn.eq(Mux(turn == filters - 1, 0, turn + 1))
        bias, shift = Array(dut.bias)[turn], Array(dut.shift)[turn]
        valid = dut.i.valid & dut.i.ready
        value = (dut.i.payload + bias) >> shift
        advance = Signal()
        m.d.comb += advance.eq(~dut.o.valid | dut.o.ready)
        stages = []
        for stage in range(3):
            valid_ = Signal(name=f"valid_{stage}")
            value_ = Signal(signed(WIDTH + 3), name=f"value_{stage}")
            with m.If(advance):
                m.d.sync += [valid_.eq(valid), value_.eq(value)]
            valid, value = valid_, value_
            stages.append((valid, value))
        m.d.comb += [
            Assert(dut.o.valid == valid, "each filter leaves three steps later"),
            Assert(~valid | (dut.o.payload == value), "a filter has its own bias and shift"),
        ]
        if not self.invariants:
            return m
        fetched = internal(self, "dut.rom.fetched", 1)
        address = internal(self, "dut.rom.address", range(filters))
        total = internal(self, "dut.total", signed(dut.total_width))
        shifts = internal(self, "dut.shifts", 1)
        shifted = internal(self, "dut.shifted", signed(dut.total_width))
        word = internal(self, "dut.rom.o__payload", 1 + (3 * filters - 3).bit_length() + 1)
        m.d.comb += [
            Assert(turn < filters, "filters go round"),
            Assert(fetched | (turn == 0), "the first filter waits for its bias"),
            Assert(address == Mux(fetched, (turn + 1) % filters, 0), "the ROM is read in order"),
            Assert(~fetched | (word == (bias | shift << len(word) - 1)),
                   "the ROM is at the filter whose turn it is"),
            Assert(dut.i.ready == (advance & fetched), "i waits for o alone"),
            Assert(~stages[0][0] | ((total >> shifts) == stages[0][1]), "the first register"),
            Assert(~stages[1][0] | (shifted == stages[1][1]), "the second register"),
            *(Assert(internal(self, "dut.valid", 3)[n] == stages[n][0], "each has its place")
              for n in range(3)),
        ]
        return m


@pytest.mark.parametrize("filters", [2, 3, 4])
def test_filters_keep_their_biases(filters):
    """By induction, under any stalls."""
    prove(KeepsTurns(requantizer(filters)), depth=1)


def test_filters_keep_their_biases_with_registered_rom():
    """In the first 10 cycles, three rounds; 16 in the long run."""
    prove(KeepsTurns(requantizer(2, register=True), invariants=False), mode="bmc",
          depth=bound(10, 16))


@pytest.mark.parametrize(("old", "new"), [
    ("rom.o.ready.eq(advance & self.i.valid)", "rom.o.ready.eq(self.i.valid)"),
    ("self.i.ready.eq(advance & rom.o.valid)", "self.i.ready.eq(advance)"),
    ("shifts.eq(rom.o.payload[bias_bits:])", "shifts.eq(0)"),
])
def test_bias_twin(old, new, tmp_path):
    dut = requantizer(3, planted(Requantizer, old, new))
    with pytest.raises(Failed):
        prove(KeepsTurns(dut, invariants=False), mode="bmc", depth=10, folder=tmp_path)


class Ready(Spec):
    """Weights that are there once are always there."""

    def says(self, m, dut):
        before = Signal()
        m.d.sync += before.eq(dut.o.valid)
        m.d.comb += Assert(~before | dut.o.valid, "weights stay")
        if dut.register:
            fetched = internal(self, "dut.fetched", 1)
            m.d.comb += Assert(~dut.o.valid | fetched, "a word of the memory is behind the first")


@pytest.mark.parametrize("register", [False, True])
def test_weights_stay(register):
    prove(Ready(RomStream(4, [1, 2, 3], register=register)), depth=1)


@pytest.mark.parametrize("register", [False, True])
def test_weights_stay_twin(register, tmp_path):
    make = planted(RomStream, "m.d.sync += fetched.eq(1)", "m.d.sync += fetched.eq(~fetched)")
    with pytest.raises(Failed):
        prove(Ready(make(4, [1, 2, 3], register=register)), mode="bmc", depth=6, folder=tmp_path)


class Starts(wiring.Component):
    """An engine whose windows are as early as they can be: one value each."""

    def __init__(self, engine):
        self.engine = engine
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine = engine = self.engine
        free_inputs(m, engine)
        m.d.comb += Assert(~engine.window.o.valid | engine.weights.o.valid,
                           "the weights are there before the first window")
        came = Signal()
        with m.If(engine.window.o.valid):
            m.d.sync += came.eq(1)
        m.d.comb += Cover(came, "a window comes")
        return m


@pytest.mark.parametrize("register", [False, True])
def test_weights_come_before_the_first_window(register):
    """In the first 8 cycles, in which a window comes. By then they are there, and stay."""
    source = TensorType((1, 1, 1), ActivationFormat(2))
    rng = np.random.default_rng(0)
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 2), kernel=(1, 1),
                         stride=(1, 1), padding=(0, 0, 0, 0), k=[1], exponent_bits=1,
                         output=ActivationFormat(2))
    spec = Starts(ConvolutionEngine(FoldedLayer(layer, source, Folding(1, 1)), register=register))
    prove(spec, mode="bmc", depth=8)
    prove(spec, mode="cover", depth=8)


class Layer(wiring.Component):
    """An array with a scheduler behind it, and one slot of a pixel, which the solver chooses.

    Of all that goes in, only the last word of this slot's pass gives 1, in this slot's lane. So
    only the filter that owns the slot may give 1, once for each pixel, and all others give 0: a
    pass that is lost, repeated or out of place moves the slot to another filter or to none.
    """

    def __init__(self, array, scheduler):
        self.array, self.scheduler = array, scheduler
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = array = self.array
        m.submodules.scheduler = scheduler = self.scheduler
        wiring.connect(m, array.o, scheduler.i)
        free_inputs(m, array, but=["i.payload.terms", "i.payload.activations", "o"])
        free_inputs(m, scheduler, but=["i"])
        lanes, k, payload = array.lanes, scheduler.k, array.i.payload
        passes = scheduler.passes
        owners = [owner for owner, count in enumerate(k) for _ in range(count)]
        slot, pass_ = Signal(range(len(owners))), Signal(range(passes))
        m.d.comb += slot.eq(AnyConst(slot.shape()))
        m.d.comb += Assume(slot < len(owners), "there is such a slot")
        m.d.comb += payload.activations[0].eq(1)
        for lane in range(lanes):
            m.d.comb += payload.terms[lane][0].eq(
                payload.last & (slot == pass_ * lanes + lane))
        with m.If(array.i.valid & array.i.ready & payload.last):
            m.d.sync += pass_.eq(Mux(pass_ == passes - 1, 0, pass_ + 1))

        turn, output = Signal(range(len(k))), scheduler.o
        with m.If(output.valid & output.ready):
            m.d.sync += turn.eq(Mux(turn == len(k) - 1, 0, turn + 1))
        with m.If(output.valid):
            m.d.comb += Assert(output.payload.as_unsigned() == (Array(owners)[slot] == turn),
                               "each slot goes to its filter, once")
        # The first filter of the second pixel comes from the third pass.
        again = Signal()
        with m.If(output.valid & output.ready & (turn == len(k) - 1)):
            m.d.sync += again.eq(1)
        m.d.comb += Cover(again & output.valid & (turn == 0), "the third pass leaves")
        return m


def layer(scheduler=FilterScheduler, array=PEArray):
    """Two passes to a pixel: a filter of a slot, a pruned one, and one that straddles them."""
    return Layer(array(lanes=2, simd=1, width=2, activation=ACTIVATION, term=TERM),
                 scheduler(k=[1, 0, 2], lanes=2, width=2))


def test_an_array_and_its_scheduler():
    """In the first 13 cycles, three passes, under any stalls; 18 in the long run.

    Each of the two is proved by induction, for all that may come in, and so this only has to
    find a mistake between them.
    """
    prove(layer(), mode="bmc", depth=bound(13, 18))


def test_three_passes_are_within_the_bound():
    prove(layer(), mode="cover", depth=13)


@pytest.mark.parametrize(("part", "old", "new"), [
    (PEArray, "load.eq(valid & lasts & ~busy)", "load.eq(valid & lasts)"),
    (FilterScheduler, "self.i.ready.eq(program.o.valid & takes & room)",
     "self.i.ready.eq(program.o.valid & takes)"),
])
def test_array_and_scheduler_twin(part, old, new, tmp_path):
    with pytest.raises(Failed):
        prove(layer(**{"array" if part is PEArray else "scheduler": planted(part, old, new)}),
              mode="bmc", depth=13, folder=tmp_path)
