# amaranth: UnusedElaboratable=no
"""Grouped and depthwise convolutions: passes, cycles and results, from the engine to the plan."""

import numpy as np
import pytest

from flightrtl import boards, golden
from flightrtl.check import check
from flightrtl.formats import ActivationFormat, BinaryFormat, FixedFormat, TermFormat
from flightrtl.gateware import ConvolutionEngine, FoldedLayer, Folding, HardwiredLayer, Network
from flightrtl.gateware.folding import drain_program, slot_places
from flightrtl.model import INPUT, Model, TensorType
from flightrtl.planner import plan
from flightrtl.planner.cycles import measure
from tests.models import random_images, random_layer, random_map
from tests.streams import run_streams
from tests.test_network import simulate

U5 = ActivationFormat(5)


def grouped(k, groups, shape, kernel=(1, 1), padding=(0, 0, 0, 0), weights=None):
    """A source, maps for it, and a convolution on them."""
    rng = np.random.default_rng(1)
    source = TensorType(shape, U5)
    maps = random_map(rng, source, 2)
    layer = random_layer(rng, "convolution", source, maps, kernel=kernel, stride=(1, 1),
                         padding=padding, k=k, groups=groups, weights=weights or TermFormat(3))
    return source, maps, layer


@pytest.mark.parametrize(("k", "groups", "lanes", "passes"), [
    ((1, 1, 1, 1), 4, 1, (1, 1, 1, 1)),         # depthwise: a pass for each channel
    ((2, 0, 1, 3), 4, 2, (1, 0, 1, 2)),         # a pruned one has none
    ((2, 1, 0, 1, 1, 0), 2, 2, (2, 1)),
    ((0, 0), 2, 3, (1, 0)),                     # a layer has one pass at least
])
def test_passes_are_of_one_group(k, groups, lanes, passes):
    source, _, layer = grouped(k, groups, (1, 1, 2 * groups))
    folded = FoldedLayer(layer, source, Folding(lanes, 1))
    assert folded.group_passes == passes
    assert folded.passes == sum(passes)
    # No zeros stand for the channels of other groups.
    assert layer.terms.shape == (sum(k), 1, 1, 2)
    assert folded.words_of_terms.shape == (sum(passes) * 2, lanes, 1)
    assert folded.cycles_per_pixel >= sum(passes) * 2
    takes = [step for step in drain_program(k, lanes, groups) if step[0]]
    assert len(takes) == sum(passes) * lanes
    assert len(slot_places(layer.group_slots, lanes)) == sum(k)


@pytest.mark.parametrize(("k", "groups", "folding", "weights"), [
    ((1, 2, 1, 0), 4, Folding(1, 3, column=True), None),
    ((1, 2, 1, 3), 4, Folding(2, 1), None),
    ((1, 0, 2, 1, 1, 1), 2, Folding(2, 2), None),
    ((0, 0, 2, 1, 0, 0), 3, Folding(3, 3, column=True), None),
    ((1, 1, 1, 1), 4, Folding(1, 3, column=True), FixedFormat(4)),
    ((1, 1, 1, 0), 2, Folding(2, 6, column=True), BinaryFormat()),
])
def test_busy_cycles_are_the_interval_of_pixels(k, groups, folding, weights):
    """With its input always there, an engine gives a pixel every ``cycles_per_pixel``."""
    channels = groups * max(1, folding.simd // (3 if folding.column else 1))
    source, maps, layer = grouped(k, groups, (3, 24, channels), (3, 3), weights=weights)
    folded = FoldedLayer(layer, source, folding)
    expected = golden.apply(layer, maps)
    engine = ConvolutionEngine(folded)
    np.testing.assert_array_equal(engine.compute(maps), expected)
    run = run_streams(engine, {"i": maps.ravel().tolist()}, {"o": expected.size}, timeout=100_000)
    assert run["o"] == expected.ravel().tolist()
    pixels = run.cycles["o"][layer.filters - 1::layer.filters][4:18]
    assert set(np.diff(pixels)) == {folded.cycles_per_pixel}
    if 0 not in k and folding.lanes < folded.words:
        assert folded.cycles_per_pixel == folded.passes * folded.words


@pytest.mark.parametrize("groups", [2, 4])
def test_hard_wired(groups):
    """Weights of other groups' channels are no wires."""
    source, maps, layer = grouped((1, 2, 1, 2), groups, (4, 5, 4), (3, 3), (1, 1, 0, 1))
    hardwired = HardwiredLayer(layer, source, channels=1, filters=1)
    np.testing.assert_array_equal(hardwired.compute(maps), golden.apply(layer, maps))
    full = layer.dense_weights
    assert full.shape == (4, 3, 3, 4)
    assert np.abs(full).sum() == np.abs(layer.weights).sum()
    run = run_streams(hardwired, {"i": maps.ravel().tolist()}, {"o": 2 * 4 * 4 * 4})
    assert run["o"] == golden.apply(layer, maps).ravel().tolist()


def separable(size=6, channels=4):
    """Depthwise and 1 x 1 convolutions in turn, and one of pairs of channels."""
    rng = np.random.default_rng(0)
    kind = image = TensorType((size, size, 2), U5)
    maps, edge, layers = random_map(rng, image, 4), INPUT, []
    for name, kernel, groups, k, stride in (
            ("first", 3, 1, (1, 2) * (channels // 2), 1),
            ("deep", 3, channels, (2, 1, 0, 1), 2), ("point", 1, 1, (1,) * 6, 1),
            ("pairs", 3, 3, (1, 2, 1, 1, 0, 1), 1)):
        layers.append(random_layer(
            rng, "convolution", kind, maps, name=name, inputs=(edge,), kernel=(kernel, kernel),
            stride=(stride, stride), padding=(kernel // 2,) * 4, k=k, groups=groups,
            output=ActivationFormat(6)))
        maps, edge = golden.apply(layers[-1], maps), name
        kind = TensorType(maps.shape[1:], layers[-1].output)
    layers.append(random_layer(rng, "dense", kind, maps, name="dense", inputs=(edge,), k=(1, 2, 1),
                               output=ActivationFormat(12, True)))
    return Model("separable", image, tuple(layers))


@pytest.mark.parametrize(("board", "rate"), [("icebreaker", None), ("icebreaker", 20_000)])
def test_plan_and_network(board, rate):
    """Interval and latency to the cycle, whatever the planner chooses for the grouped layers."""
    model, board = separable(), boards.load(board)
    assert check(model) == []
    chosen = plan(model, board, target_rate=rate, dataflow="folded")
    deep = chosen.foldings["deep"]
    assert isinstance(deep, Folding)
    assert deep.lanes <= 2                      # no filter of a group has more slots
    register = board.memory_register
    timing = measure(model, chosen.foldings, memory_register=register)
    assert timing.interval == chosen.cycles_per_inference
    network = Network(model, chosen.foldings, memory_register=register)
    run = simulate(network, random_images(np.random.default_rng(1), model, 5))
    ends = run.cycles["o"][2::3]
    assert ends[0] - run.cycles["i"][0] == timing.latency
    assert ends[-1] - ends[-2] == timing.interval


def test_refuses():
    source, _, layer = grouped((1, 1, 1, 1), 2, (3, 3, 8))
    with pytest.raises(ValueError, match="simd=8 does not fit 4 input channels of a group; it may "
                                         "be one of 1, 2, 4"):
        FoldedLayer(layer, source, Folding(1, 8))
