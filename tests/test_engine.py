# amaranth: UnusedElaboratable=no
"""Engines: their cycles, their widths and what they refuse."""

import re

import numpy as np
import pytest
from amaranth import Value
from amaranth.back import rtlil

from flightrtl import golden
from flightrtl.formats import ActivationFormat, BinaryFormat, FixedFormat, TermFormat
from flightrtl.gateware import ConvolutionEngine, DenseEngine, FoldedLayer, Folding
from flightrtl.gateware.engine import filter_offsets, sum_range
from flightrtl.gateware.processing import code_offsets, processing_element
from flightrtl.model import Dense, TensorType
from tests.models import extreme_maps, random_layer, random_map
from tests.streams import run_streams


def engine(layer, source, folding, register=False):
    make = DenseEngine if isinstance(layer, Dense) else ConvolutionEngine
    return make(FoldedLayer(layer, source, folding), register=register)


@pytest.mark.parametrize(("folding", "k"), [
    (Folding(2, 2), (1, 2, 1)),
    (Folding(3, 1), (2, 0, 2)),           # a filter straddles the passes, one is pruned
    (Folding(4, 6, column=True), (1, 1, 1, 1, 2, 2)),   # as many lanes as words
    (Folding(7, 6, column=True), (2, 2, 1, 1, 1)),      # more: the drain sets the pace
    (Folding(2, 6, column=True), (1, 0, 0, 0, 0, 1)),   # many pruned filters after one slot
    (Folding(1, 2), (0, 0, 3)),                          # ... and before
])
def test_busy_cycles_are_the_interval_of_pixels(folding, k):
    """With its input always there, an engine gives a pixel every ``cycles_per_pixel``."""
    rng = np.random.default_rng(1)
    source = TensorType((1, 1, 2), ActivationFormat(4))
    maps = random_map(rng, source, 40)
    kernel = (3, 3) if folding.column else (1, 1)
    source = TensorType((3, 40, 2), ActivationFormat(4)) if folding.column else source
    maps = random_map(rng, source, 2 if folding.column else 40)
    layer = random_layer(rng, "convolution", source, maps, kernel=kernel, stride=(1, 1),
                         padding=(0, 0, 0, 0), k=k)
    folded = FoldedLayer(layer, source, folding)
    dut = engine(layer, source, folding)
    expected = golden.apply(layer, maps)
    run = run_streams(dut, {"i": maps.ravel().tolist()}, {"o": expected.size}, timeout=100_000)
    pixels = run.cycles["o"][layer.filters - 1::layer.filters]
    if folding.column:  # the rows of the second image arrive while the first is computed
        pixels = pixels[5:30]
        assert set(np.diff(pixels)) == {folded.cycles_per_pixel}
    else:
        assert pixels[-1] - pixels[10] == max(folded.cycles_per_pixel, 2) * (len(pixels) - 11)


def test_a_layer_takes_the_fewest_passes():
    rng = np.random.default_rng(0)
    source = TensorType((4, 4, 4))
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 2), kernel=(3, 3),
                         k=[2, 0, 1, 3, 1])
    for lanes in range(1, 10):
        folded = FoldedLayer(layer, source, Folding(lanes, 2))
        assert folded.passes == -(-7 // lanes)
        assert folded.words == 18
        assert folded.cycles_per_pixel == folded.passes * 18
        assert folded.utilization == pytest.approx(7 / (folded.passes * lanes))


def test_accumulators_hold_every_partial_sum_and_no_more():
    """The bounds are reached: by the activations that make each term's product extreme."""
    rng = np.random.default_rng(2)
    for signed in (False, True):
        source = ActivationFormat(5, signed)
        layer = random_layer(rng, "dense", TensorType((2, 2, 3), source),
                             random_map(rng, TensorType((2, 2, 3), source), 2), k=[2, 1, 0])
        offsets = code_offsets(layer.format, source)
        low, high = sum_range(layer, source, offsets)
        lows, highs = [0], [0]
        for index in range(3):
            terms = layer.term_values[layer.slot_filter == index].ravel()
            ends = [(min(t * source.min, t * source.max), max(t * source.min, t * source.max))
                    for t in terms]
            short = [int(t < 0) for t in terms]
            lows.append(sum(min(a - s, 0) for (a, _), s in zip(ends, short, strict=True)))
            highs.append(sum(max(b - s, 0) for (_, b), s in zip(ends, short, strict=True)))
        assert (low, high) == (min(lows), max(highs))
        assert filter_offsets(layer, offsets).sum() == -(layer.term_values < 0).sum()


def test_wrong_kind_of_layer():
    rng = np.random.default_rng(0)
    source = TensorType((3, 3, 2))
    maps = random_map(rng, source, 2)
    layer = random_layer(rng, "dense", source, maps)
    with pytest.raises(TypeError, match="layer must be a Convolution"):
        ConvolutionEngine(FoldedLayer(layer, source, Folding(1, 1)))
    layer = random_layer(rng, "convolution", source, maps)
    with pytest.raises(TypeError, match="layer must be a Dense"):
        DenseEngine(FoldedLayer(layer, source, Folding(1, 1)))


@pytest.mark.parametrize(("folding", "message"), [
    (Folding(1, 3), "simd=3 does not fit 4 input channels; it may be one of 1, 2, 4"),
    (Folding(1, 4, column=True), "by kernel columns; it may be one of 3, 6, 12"),
])
def test_simd_must_divide(folding, message):
    rng = np.random.default_rng(0)
    source = TensorType((4, 4, 4))
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 2), kernel=(3, 3))
    with pytest.raises(ValueError, match=message):
        FoldedLayer(layer, source, folding)


def test_formats_are_parameters():
    """From 1 to 4 exponent bits and 1 to 16 activation bits, both ends at once."""
    for exponent_bits, bits in ((1, 1), (4, 16), (1, 16), (4, 1)):
        rng = np.random.default_rng(bits)
        source = TensorType((3, 3, 2), ActivationFormat(bits))
        maps = random_map(rng, source, 2)
        layer = random_layer(rng, "convolution", source, maps, kernel=(2, 2),
                             exponent_bits=exponent_bits, output=ActivationFormat(bits))
        assert layer.format == TermFormat(exponent_bits)
        dut = engine(layer, source, Folding(2, 2))
        run = run_streams(dut, {"i": maps.ravel().tolist()},
                          {"o": golden.apply(layer, maps).size})
        assert run["o"] == golden.apply(layer, maps).ravel().tolist()


@pytest.mark.parametrize(("weights", "source", "dsp"), [
    (FixedFormat(4), ActivationFormat(6), False),
    (FixedFormat(7), ActivationFormat(3, True), False),
    (FixedFormat(5), ActivationFormat(6), True),
    (BinaryFormat(), ActivationFormat(5), False),
    (BinaryFormat(), ActivationFormat(5, True), False),
    (BinaryFormat(), ActivationFormat(1), False),
])
@pytest.mark.parametrize("lanes", [1, 3, 4])
def test_weights_that_are_no_terms(weights, source, dsp, lanes):
    """With filters of no weights and lanes of no filter, and sums at both ends of their range."""
    rng = np.random.default_rng(7)
    source = TensorType((4, 5, 4), source)
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 4), kernel=(2, 3),
                         stride=(1, 1), padding=(1, 0, 1, 1), k=[0, 1, 1, 0, 1, 1, 1],
                         weights=weights)
    maps = np.concatenate([random_map(rng, source, 2),
                           *(extreme_maps(layer, source, n) for n in (1, 6))])
    dut = engine(layer, source, Folding(lanes, 4, dsp=dsp))
    expected = golden.apply(layer, maps)
    np.testing.assert_array_equal(dut.compute(maps), expected)
    run = run_streams(dut, {"i": maps.ravel().tolist()}, {"o": expected.size}, timeout=100_000)
    assert run["o"] == expected.ravel().tolist()


def test_ranges_of_sums_are_reached():
    """Of any format: by activations at the ends, product by product."""
    rng = np.random.default_rng(2)
    for weights in (FixedFormat(5), BinaryFormat(), TermFormat(2)):
        for form in (ActivationFormat(3), ActivationFormat(3, True)):
            source = TensorType((2, 2, 3), form)
            layer = random_layer(rng, "dense", source, random_map(rng, source, 2), k=[1, 1, 0],
                                 weights=weights)
            offsets = code_offsets(weights, form)
            ends = [[value * int(weight) + int(offsets[code]) for value in (form.min, form.max)]
                    for code, weight in zip(layer.terms.ravel(), layer.term_values.ravel(),
                                            strict=True)]
            filters = np.array(ends).reshape(2, -1, 2)
            assert sum_range(layer, form, offsets) == (
                int(np.minimum(filters.min(axis=2), 0).sum(axis=1).min()),
                int(np.maximum(filters.max(axis=2), 0).sum(axis=1).max()))


def test_multiplier_blocks_are_for_fixed_point():
    rng = np.random.default_rng(0)
    source = TensorType((3, 3, 2))
    layer = random_layer(rng, "dense", source, random_map(rng, source, 2), weights=BinaryFormat())
    with pytest.raises(ValueError, match="multiplier blocks are for weights of FixedFormat, not B"):
        FoldedLayer(layer, source, Folding(1, 1, dsp=True))
    with pytest.raises(ValueError, match="dsp=True needs weights of FixedFormat, not Term"):
        processing_element(TermFormat(), simd=1, activation=source.format, dsp=True)
    with pytest.raises(TypeError, match="dsp must be True or False, not 1"):
        Folding(1, 1, dsp=1)


@pytest.mark.parametrize("folding", [Folding(2, 2), Folding(3, 6, column=True, pixels=2, rows=7)])
@pytest.mark.parametrize("register", [False, True])
def test_buffer_bits_and_weight_reads(folding, register):
    """The planner's formulas, against the memories that are made and the words that are read."""
    rng = np.random.default_rng(5)
    source = TensorType((6, 8, 2), ActivationFormat(4))
    maps = random_map(rng, source, 2)
    layer = random_layer(rng, "convolution", source, maps, kernel=(3, 3), stride=(1, 1),
                         padding=(1, 1, 1, 1), k=[2, 1, 1])
    dut = engine(layer, source, folding, register)
    memories = re.findall(r"memory width (\d+) size (\d+)", rtlil.convert(dut.window))
    assert sum(int(width) * int(size) for width, size in memories) == dut.folded.buffer_bits

    dut = engine(layer, source, folding, register)
    reads = 0

    async def count(ctx):
        nonlocal reads
        words = dut.weights.o
        async for _, _, valid, ready in ctx.tick().sample(words.valid, words.ready):
            reads += valid & ready

    size = golden.apply(layer, maps).size // folding.pixels
    run_streams(dut, {"i": maps.ravel().tolist()}, {"o": size}, timeout=20_000, beside=[count])
    assert reads * len(Value.cast(dut.weights.o.payload)) == 2 * dut.folded.weight_read_bits
