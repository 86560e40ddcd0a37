# amaranth: UnusedElaboratable=no
"""Proofs about width: no accumulator ever overflows, and none is wider than it must be.

A layer with real term codes in narrow accumulators, next to the same sums in wide ones, by
induction: for all activations, words and stalls. And in numbers for every layer of the bundled
models: activations that take an accumulator to a value that one bit less does not hold.
"""

import numpy as np
import pytest
from amaranth import Array, Module, Mux, Signal, signed
from amaranth.hdl import Assert, Assume
from amaranth.lib import wiring

from flightrtl import modelfile, models
from flightrtl.formats import ActivationFormat, signed_bits
from flightrtl.gateware import FilterScheduler, FoldedLayer, Folding, PEArray, engine
from flightrtl.gateware.engine import sum_range
from flightrtl.gateware.processing import code_offsets
from flightrtl.model import TensorType, WeightedLayer
from tests.formal import Failed, free_inputs, internal, planted, prove
from tests.models import random_layer, random_map
from tests.test_formal_scheduler import with_symbolic_k


def folded_layer(seed, source, k):
    """Three words of two inputs, on two lanes."""
    rng = np.random.default_rng(seed)
    kind = TensorType((1, 3, 2), source)
    layer = random_layer(rng, "dense", kind, random_map(rng, kind, 4), k=k, exponent_bits=3)
    return FoldedLayer(layer, kind, Folding(2, 2))


def word_terms(folded):
    """Values of the terms, (words of a pixel, lanes, simd)."""
    return folded.layer.format.decode(folded.words_of_terms)


def word_range(folded):
    """Least and greatest sum of a word in a lane, less its negative terms: (words, lanes)."""
    terms, source = word_terms(folded), folded.source.format
    ends = np.stack([terms * source.min, terms * source.max]) - (terms < 0)
    return ends.min(axis=0).sum(axis=-1), ends.max(axis=0).sum(axis=-1)


def slot_range(folded):
    """Least and greatest sum of each slot of a pixel, those that no filter owns included."""
    return [end.reshape(folded.passes, folded.words, -1).sum(axis=1).ravel().tolist()
            for end in word_range(folded)]


def before(folded, ends):
    """The extreme of a lane's accumulator before each word: sums of the pass's words so far."""
    split = ends.reshape(folded.passes, folded.words, -1)
    return (split.cumsum(axis=1) - split).reshape(ends.shape)


class WideAccumulators(wiring.Component):
    """An array on a layer's own terms, and its accumulators again, wide.

    Each word's terms, its products and sums are known by its number; the invariants bound them
    by what activations can do to just these terms.
    """

    def __init__(self, folded, width, *, invariants=True):
        self.folded, self.width, self.invariants = folded, width, invariants
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        folded, layer = self.folded, self.folded.layer
        wide = signed(self.width + 4)
        m.submodules.dut = dut = PEArray(
            lanes=folded.folding.lanes, simd=folded.folding.simd, width=self.width,
            activation=folded.source.format, term=layer.format)
        free_inputs(m, dut, but=["i.payload.terms", "i.payload.last"])
        count, lanes = folded.passes * folded.words, dut.lanes
        codes, values = folded.words_of_terms.tolist(), word_terms(folded)
        lows, highs = (before(folded, ends) for ends in word_range(folded))

        def table(entries, index):
            return Array(int(entry) for entry in entries)[index]

        def following(index):
            return Mux(index == count - 1, 0, index + 1)

        advance = dut.i.ready
        word, done = Signal(range(count)), Signal(range(count))
        m.d.comb += dut.i.payload.last.eq(word % folded.words == folded.words - 1)
        for lane, n in np.ndindex(lanes, dut.simd):
            m.d.comb += dut.i.payload.terms[lane][n].eq(
                table([row[lane][n] for row in codes], word))
        # The words inside the PEs, youngest first: whether there is one, and its number.
        inside, valid, index = [], dut.i.valid, word
        for stage in range(dut._pes[0][0].latency):
            valid_, index_ = Signal(name=f"valid_{stage}"), Signal(range(count))
            with m.If(advance):
                m.d.sync += [valid_.eq(valid), index_.eq(index)]
            valid, index = valid_, index_
            inside.append((valid, index))
        with m.If(dut.i.valid & advance):
            m.d.sync += word.eq(following(word))
        with m.If(valid & advance):
            m.d.sync += done.eq(following(done))
        if self.invariants:
            expected = done
            for stage, (there, number) in reversed(list(enumerate(inside))):
                m.d.comb += Assert(~there | (number == expected), "words come in order")
                here = Signal(range(count), name=f"number_{stage}")
                m.d.comb += here.eq(Mux(there, following(expected), expected))
                expected = here
                m.d.comb += Assert(~there | (internal(self, f"dut.last_{stage}", 1)
                                             == (number % folded.words == folded.words - 1)),
                                   "last is the last word's")
                m.d.comb += [Assert(internal(self, f"dut.lane_{lane}.valid_{stage}", 1) == there,
                                    "lanes move in step") for lane in range(lanes)]
                m.d.comb += Assert(internal(self, f"dut.valid_{stage}", 1) == there,
                                   "lanes move in step")
            ends = internal(self, f"dut.last_{len(inside) - 1}", 1)
            m.d.comb += [Assert(internal(self, "dut.stall", 1)
                                == (valid & ends & internal(self, "dut.busy", 1)),
                                "it stops where a pass would end too early"),
                         Assert(internal(self, "dut.ready", 1) != internal(self, "dut.stall", 1),
                                "both ends stop together"),
                         Assert(word == expected, "words come in order"),
                         Assert(done < count, "words go round")]

        for lane in range(lanes):
            def register(value, bits, name, there, number, entries, lane=lane):
                """A register of the PE beside its wide one, and the bounds that are its word's."""
                kept = Signal(wide, name=f"{name}_{lane}")
                with m.If(advance):
                    m.d.sync += kept.eq(value)
                if self.invariants:
                    m.d.comb += Assert(internal(self, f"dut.lane_{lane}.{name}", signed(bits))
                                       == kept, "the PE has the sum")
                    low, high = entries
                    m.d.comb += Assert(~there | ((kept >= table(low, number))
                                                 & (kept <= table(high, number))),
                                       "the sum is one that activations can give")
                return kept

            level = []
            for n in range(dut.simd):
                terms = values[:, lane, n]
                ends = np.stack([terms * end for end in (dut.activation.min, dut.activation.max)])
                ends -= terms < 0
                value = Signal(signed(9), name=f"term_{lane}_{n}")
                m.d.comb += value.eq(table(terms, word))
                exact = Signal(wide, name=f"exact_{lane}_{n}")
                m.d.comb += exact.eq(value * dut.i.payload.activations[n] - (value < 0))
                level.append((register(exact, dut._pes[0][0].product_bits, f"product_{n}",
                                       *inside[0], (ends.min(axis=0), ends.max(axis=0))),
                              ends.min(axis=0), ends.max(axis=0)))
            for depth in range(1, len(inside)):
                pairs = [level[n:n + 2] for n in range(0, len(level), 2)]
                level = []
                for n, pair in enumerate(pairs):
                    kept, low, high = (sum(part) for part in zip(*pair, strict=True))
                    level.append((register(kept, dut._pes[0][0].product_bits + depth,
                                           f"sum_{depth}_{n}", *inside[depth], (low, high)),
                                  low, high))
            accumulator, total = Signal(wide), Signal(wide)
            m.d.comb += total.eq(accumulator + level[0][0])
            with m.If(valid & advance):
                m.d.sync += accumulator.eq(
                    Mux(done % folded.words == folded.words - 1, 0, total))
            if self.invariants:
                m.d.comb += Assert((accumulator >= table(lows[:, lane], done))
                                   & (accumulator <= table(highs[:, lane], done)),
                                   "the sum is one that activations can give")
            m.d.comb += [
                Assert(internal(self, f"dut.accumulator_{lane}", signed(self.width))
                       == accumulator, "an accumulator overflows"),
                Assert(~valid | (internal(self, f"dut.total_{lane}", signed(self.width))
                                 == total), "an accumulator overflows"),
            ]
        return m


class WideFilters(wiring.Component):
    """A scheduler on sums of slots within their bounds, and its own sums again, wide."""

    def __init__(self, folded, width):
        self.folded, self.width = folded, width
        self.dut = with_symbolic_k(
            FilterScheduler, filters=folded.layer.filters, lanes=folded.folding.lanes,
            fixed=list(folded.layer.k), width=width)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        folded, dut = self.folded, self.dut
        wide = signed(self.width + 4)
        m.submodules.dut = dut
        free_inputs(m, dut)
        for port, value in zip(dut.steps.k, dut.fixed, strict=True):
            m.d.comb += port.eq(value)
        lows, highs = slot_range(folded)
        # By what is taken: the next slot's bounds, and those of its filter's slots before it.
        firsts = np.cumsum(dut.fixed) - dut.fixed
        slot = Signal(range(len(lows) + 1))
        m.d.comb += slot.eq(Array([*firsts.tolist(), len(lows)])[dut.steps.filter]
                            + dut.steps.slot)
        sums = [[sum(ends[firsts[owner]:number]) for number, owner
                 in enumerate(folded.layer.slot_filter.tolist())] for ends in (lows, highs)]
        owned = slot < folded.layer.slots
        payload = dut.i.payload
        m.d.comb += Assume(Mux(owned, (payload >= Array(lows)[slot])
                               & (payload <= Array(highs)[slot]), payload == 0),
                           "a slot's sum is one that activations can give")
        takes = dut.i.valid & dut.i.ready
        carry, total = Signal(wide), Signal(wide)
        ends = dut.steps.slot == Array([*dut.fixed, 0])[dut.steps.filter] - 1
        m.d.comb += total.eq(carry + payload)
        with m.If(takes & owned):
            m.d.sync += carry.eq(Mux(ends, 0, total))
        narrow = internal(self, "dut.carry", signed(self.width))
        m.d.comb += [
            Assert(narrow == carry, "an accumulator overflows"),
            Assert(~takes | (internal(self, "dut.total", signed(self.width)) == total),
                   "an accumulator overflows"),
            Assert(Mux(owned & (dut.steps.slot != 0),
                       (carry >= Array([*sums[0], 0])[slot])
                       & (carry <= Array([*sums[1], 0])[slot]),
                       carry == 0), "the sum is one that activations can give"),
            Assert(dut.steps.filter <= len(dut.fixed), "the program knows its filters"),
            Assert((dut.steps.slot == 0)
                   | (dut.steps.slot < Array([*dut.fixed, 0])[dut.steps.filter]),
                   "the program knows their slots"),
        ]
        return m


# Layers in which a slot alone needs the width, and layers in which only a whole filter does.
SLOTS = [(11, ActivationFormat(8), (1, 0, 2)), (11, ActivationFormat(6, True), (1, 0, 2))]
FILTERS = [(10, ActivationFormat(8), (2, 1)), (3, ActivationFormat(6, True), (2, 1))]


def engine_width(folded):
    return signed_bits(*sum_range(folded.layer, folded.source.format, folded.offsets))


@pytest.mark.parametrize(("seed", "source", "k"), SLOTS)
def test_no_lane_overflows(seed, source, k):
    """By induction, at the width that an engine computes: every word, pass and stall."""
    folded = folded_layer(seed, source, k)
    prove(WideAccumulators(folded, engine_width(folded)), depth=1)


@pytest.mark.parametrize(("seed", "source", "k"), FILTERS)
def test_no_filter_overflows(seed, source, k):
    """By induction, from slots within their bounds, which the proof about lanes shows."""
    folded = folded_layer(seed, source, k)
    prove(WideFilters(folded, engine_width(folded)), depth=1)


@pytest.mark.parametrize(("seed", "source", "k"), SLOTS)
def test_lane_twin_with_one_bit_less(seed, source, k, tmp_path):
    folded = folded_layer(seed, source, k)
    with pytest.raises(Failed, match="an accumulator overflows"):
        prove(WideAccumulators(folded, engine_width(folded) - 1, invariants=False), mode="bmc",
              depth=6, folder=tmp_path)


@pytest.mark.parametrize(("seed", "source", "k"), FILTERS)
def test_filter_twin_with_one_bit_less(seed, source, k, tmp_path):
    folded = folded_layer(seed, source, k)
    with pytest.raises(Failed, match="an accumulator overflows"):
        prove(WideFilters(folded, engine_width(folded) - 1), mode="bmc", depth=5, folder=tmp_path)


def reached(layer, source):
    """Least and greatest value that chosen activations take an accumulator to.

    For each filter, after each of its slots, the activations that make the sum so far extreme,
    and that sum as the hardware forms it.
    """
    low = high = 0
    for owner in range(layer.filters):
        terms = layer.term_values[layer.slot_filter == owner].reshape(layer.k[owner], -1)
        for count in range(1, len(terms) + 1):
            weights = terms[:count].sum(axis=0)
            for least, most in ((source.min, source.max), (source.max, source.min)):
                activations = np.where(weights > 0, most, least)
                products = terms[:count] * activations
                total = int(products.sum() - (terms[:count] < 0).sum())
                low, high = min(low, total), max(high, total)
    return low, high


def bounds(layer, source):
    """What no partial sum of any filter leaves, product by product, in plain integers."""
    low = high = 0
    for owner in range(layer.filters):
        least = most = 0
        for term in layer.term_values[layer.slot_filter == owner].ravel().tolist():
            ends = [term * end - (term < 0) for end in (source.min, source.max)]
            least, most = least + min(0, *ends), most + max(0, *ends)
        low, high = min(low, least), max(high, most)
    return low, high


@pytest.mark.parametrize("name", models.names())
def test_bundled_models_have_the_width_that_they_need(name):
    """In numbers, not by a solver: every layer, every filter."""
    model = modelfile.load(name)
    layers = [layer for layer in model.layers if isinstance(layer, WeightedLayer)]
    assert layers
    for layer in layers:
        source = model.source(layer).format
        width = signed_bits(*sum_range(layer, source, code_offsets(layer.format, source)))
        low, high = bounds(layer, source)
        assert -(1 << width - 1) <= low
        assert high < 1 << width - 1
        # With one bit less, these activations would overflow. Filters of two layers miss that by a
        # little: terms of opposite signs in one weight are counted as if apart.
        spare = (name, layer.name) in {("cifar10", "dense"), ("mnist", "conv2")}
        assert signed_bits(*reached(layer, source)) == width - spare


def test_bounds_twin():
    """A width from half of the activations' range is seen."""
    wrong = planted(engine.sum_range, "terms * source.max])", "terms * (source.max >> 1)])")
    model = modelfile.load("mnist")
    layer = model.layers[0]
    source = model.source(layer).format
    offsets = code_offsets(layer.format, source)
    assert signed_bits(*wrong(layer, source, offsets)) < signed_bits(*reached(layer, source))
