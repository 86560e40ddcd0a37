# amaranth: UnusedElaboratable=no
"""Frame-based weight reuse: results, cycles, and the formulas for memories and weight reads."""

import re
from dataclasses import replace

import numpy as np
import pytest
from amaranth import Value
from amaranth.back import rtlil
from hypothesis import given
from hypothesis import strategies as st

from flightrtl import golden
from flightrtl.formats import ActivationFormat, BinaryFormat, TermFormat
from flightrtl.gateware import Framed, FramedLayer, FrameEngine
from flightrtl.model import TensorType
from tests.models import extreme_maps, random_layer, random_map
from tests.strategies import (
    activation_formats,
    paddings,
    seeds,
    stalls,
    strides,
    weight_formats,
)
from tests.streams import run_streams


def simulate(dut, maps, **options):
    framed = dut.framed
    expected = golden.apply(framed.layer, maps)
    np.testing.assert_array_equal(dut.compute(maps), expected)
    inputs = {"i": maps.ravel().tolist()}
    if framed.framed.external:
        inputs["weights"] = framed.words_of_terms.tolist() * len(maps)
    run = run_streams(dut, inputs, {"o": expected.size}, timeout=100_000, **options)
    assert run["o"] == expected.ravel().tolist()
    return run


def convolution(rng, source=None, **more):
    source = source or TensorType((5, 6, 4), ActivationFormat(4))
    fields = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1, 1, 1), "k": (2, 1, 1, 2, 1),
              "output": ActivationFormat(5), "exponent_bits": 2, **more}
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 4), **fields)
    return layer, source


@st.composite
def cases(draw):
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 4])))
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    weights = draw(weight_formats())
    most = 3 if isinstance(weights, TermFormat) else 1
    return {"shape": shape, "format": draw(activation_formats(8)),
            "kind": draw(st.sampled_from(["convolution", "dense"])), "kernel": kernel,
            "padding": draw(paddings(kernel, shape)), "stride": draw(strides()),
            "weights": weights, "output": draw(activation_formats()),
            "k": draw(st.lists(st.integers(0, most), min_size=1, max_size=6)),
            "framed": Framed(draw(st.integers(1, 5)),
                             draw(st.sampled_from([n for n in (1, 2, 4) if shape[2] % n == 0])),
                             draw(st.integers(1, 2)), draw(st.booleans())),
            "register": draw(st.booleans()), "seed": draw(seeds())}


@given(cases(), stalls("i", "weights", "o"))
def test_equals_the_golden_model(case, stall):
    rng = np.random.default_rng(case["seed"])
    source = TensorType(case["shape"], case["format"])
    layer = random_layer(rng, case["kind"], source, random_map(rng, source, 4),
                         kernel=case["kernel"], stride=case["stride"], padding=case["padding"],
                         weights=case["weights"], output=case["output"], k=case["k"])
    maps = np.concatenate([random_map(rng, source, 2), extreme_maps(layer, source, 0)])
    dut = FrameEngine(FramedLayer(layer, source, case["framed"], case["register"]))
    simulate(dut, maps, seed=case["seed"], stall=stall)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize(("lanes", "simd", "register"), [
    (2, 4, False), (3, 2, True), (5, 4, True), (1, 4, False)])
def test_cycles(lanes, simd, register, frames):
    """Images without a gap come as often as the formula says, to the cycle."""
    rng = np.random.default_rng(lanes)
    layer, source = convolution(rng, TensorType((3, 4, 4), ActivationFormat(4)), stride=(1, 2))
    framed = FramedLayer(layer, source, Framed(lanes, simd, frames), register)
    run = simulate(FrameEngine(framed), random_map(rng, source, 4))
    size = framed.pixels * layer.filters
    ends = np.diff(run.cycles["o"][size - 1::size]).tolist()
    assert ends[-1] == framed.cycles
    assert (framed.cycles == framed.compute_cycles) == (frames == 2)


def test_cycles_by_hand():
    """Six filters on two lanes: three passes of 9 words on 30 pixels, all with a drain."""
    rng = np.random.default_rng(0)
    layer, source = convolution(rng, k=[1] * 6)
    framed = FramedLayer(layer, source, Framed(2, 4))
    assert (framed.passes, framed.words, framed.pixels) == (3, 9, 30)
    assert framed.compute_cycles == 3 * (9 * 30 + 29 * 2)
    # Two terms each: as many passes more, but a drain only after every other one.
    layer, _ = convolution(rng, k=[2] * 6)
    framed = FramedLayer(layer, source, Framed(2, 4))
    assert framed.compute_cycles == 6 * 9 * 30 + 3 * 29 * 2
    assert framed.terms / (framed.cycles * 2 * 4) == framed.utilization


@pytest.mark.parametrize("kind", ["convolution", "dense"])
def test_a_dense_layer_takes_its_words_one_after_the_other(kind):
    """With a single pixel, nothing but the accumulators remains."""
    rng = np.random.default_rng(3)
    source = TensorType((3, 3, 4), ActivationFormat(4))
    layer = random_layer(rng, kind, source, random_map(rng, source, 4), kernel=(3, 3),
                         padding=(0, 0, 0, 0), k=[1] * 7, output=ActivationFormat(5))
    framed = FramedLayer(layer, source, Framed(3, 4, frames=2))
    assert (framed.compute_cycles, framed.cycles) == (3 * 9, 36)    # it takes 36 to arrive
    assert framed.in_order
    run = simulate(FrameEngine(framed), random_map(rng, source, 4))
    assert np.diff(run.cycles["o"][6::7]).tolist()[-1] == 36
    assert framed.partial_sum_bits(20) == framed.reorder_bits == 0


def test_slots_of_a_filter_share_a_lane():
    rng = np.random.default_rng(0)
    layer, source = convolution(rng, k=[1, 3, 0, 2, 1, 1])
    framed = FramedLayer(layer, source, Framed(3, 4))
    assert framed.lane_slots == [[1, 2, 3], [4, 5, 7], [0, 6]]
    assert framed.passes == 3
    assert framed.drain == [
        [(True, None), (True, None), (True, 0), (False, 2)],
        [(True, None), (True, 3), (True, 4)],
        [(True, 1), (True, 5), (True, None)]]
    assert framed.order == [[0, 2], [3, 4], [1, 5]]
    assert framed.complete == [0b100, 0b110, 0b111]
    terms = framed.words_of_terms.reshape(3, 9, 3, 4)
    np.testing.assert_array_equal(terms[1, 4, 0], layer.terms[2, 1, 1])
    assert not terms[2, :, 2].any()
    for lanes in range(1, 12):
        uniform = FramedLayer(replace(layer, k=(1,) * 8, bias=np.zeros(8, np.int64),
                                      shift=np.zeros(8, np.int64)), source, Framed(lanes, 4))
        assert uniform.passes == -(-8 // lanes)


@pytest.mark.parametrize(("framed", "register"), [
    (Framed(2, 2), False), (Framed(3, 4, frames=2), True), (Framed(6, 1, external=True), False)])
def test_buffer_bits_and_weight_reads(framed, register):
    """The formulas, against the memories that are made and the words that are taken."""
    rng = np.random.default_rng(5)
    layer, source = convolution(rng, TensorType((3, 4, 4), ActivationFormat(4)))
    maps = random_map(rng, source, 2)
    chosen = FramedLayer(layer, source, framed, register)
    dut = FrameEngine(chosen)
    assert chosen.frame_bits == framed.frames * 3 * 4 * 4 * 4
    assert chosen.partial_sum_bits(dut.width) == (11 - register) * framed.lanes * dut.width
    assert chosen.reorder_bits == 3 * 4 * 5 * 5
    bits = {}
    for module in rtlil.convert(dut).split("\nmodule ")[1:]:
        # Of ROMs there are more: their contents are listed.
        bits[module.split()[0]] = sum(int(width) * int(size) for width, size in re.findall(
            r"memory width (\d+) size (\d+)", module))
    assert bits[r"\top.frame.ram"] == chosen.frame_bits
    assert bits[r"\top.array.delay.memory"] == chosen.partial_sum_bits(dut.width)
    assert bits[r"\top.last.ram"] == chosen.reorder_bits
    assert dut.buffer_bits == sum(bits[rf"\top.{name}"] for name in (
        "frame.ram", "array.delay.memory", "last.ram"))

    dut = FrameEngine(chosen)
    weights = dut.weights if framed.external else dut.rom.o
    reads = 0

    async def count(ctx):
        nonlocal reads
        async for _, _, valid, ready in ctx.tick().sample(weights.valid, weights.ready):
            reads += valid & ready

    simulate(dut, maps, beside=[count])
    assert reads * len(Value.cast(weights.payload)) == 2 * chosen.weight_read_bits
    # All weights once, and the lanes that are idle at the end.
    assert 0 <= chosen.weight_read_bits / chosen.term.code_bits - layer.terms.size < (
        framed.lanes * layer.terms[0].size)


def test_weights_may_be_as_slow_as_a_word_for_all_pixels():
    """An engine with 12 output pixels never takes a word within 12 cycles of another."""
    rng = np.random.default_rng(1)
    source = TensorType((3, 4, 4), ActivationFormat(4))
    layer, _ = convolution(rng, source, k=[1, 1])
    framed = FramedLayer(layer, source, Framed(2, 4, frames=2, external=True))
    run = simulate(FrameEngine(framed), random_map(rng, source, 3))
    assert len(run.cycles["weights"]) == 3 * framed.words * framed.passes == 27
    assert np.diff(run.cycles["weights"]).min() == framed.pixels == 12


def test_binary_lanes_without_a_slot_leave_nothing_behind():
    """There is no binary weight of 0: what an idle lane adds up must not reach the next image."""
    rng = np.random.default_rng(2)
    source = TensorType((2, 3, 2), ActivationFormat(3))
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 2), kernel=(2, 2),
                         stride=(1, 1), padding=(0, 0, 0, 0), k=[1, 0, 1, 1, 1],
                         weights=BinaryFormat(), output=ActivationFormat(6, True))
    dut = FrameEngine(FramedLayer(layer, source, Framed(3, 2)))
    simulate(dut, random_map(rng, source, 5))


@pytest.mark.parametrize(("framed", "error", "message"), [
    ({"lanes": 0, "simd": 1}, ValueError, "lanes must be 1 to"),
    ({"lanes": 1, "simd": 1, "frames": 3}, ValueError, "frames must be 1 to 2"),
    ({"lanes": 1, "simd": 1, "external": 1}, TypeError, "external must be True or False, not 1"),
])
def test_bad_choice(framed, error, message):
    with pytest.raises(error, match=message):
        Framed(**framed)


def test_simd_must_divide():
    layer, source = convolution(np.random.default_rng(0))
    with pytest.raises(ValueError, match="simd=3 does not fit 4 input channels; it may be one of "
                                         "1, 2, 4"):
        FramedLayer(layer, source, Framed(1, 3))


def test_groups_are_refused():
    rng = np.random.default_rng(2)
    source = TensorType((2, 3, 2), ActivationFormat(3))
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 2), kernel=(2, 2),
                         k=[1, 1], groups=2)
    with pytest.raises(ValueError, match="it has 2 groups of channels, and .*: use a Folding"):
        FramedLayer(layer, source, Framed(1, 1))


def test_groups_are_folded():
    layer, source = convolution(np.random.default_rng(0), k=[1, 1])
    grouped = replace(layer, groups=2, terms=layer.terms[..., :2])
    with pytest.raises(ValueError, match="it has 2 groups of channels"):
        FramedLayer(grouped, source, Framed(1, 1))
