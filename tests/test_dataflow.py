# amaranth: UnusedElaboratable=no
"""Queues before additions: deep enough that nothing deadlocks, and not one place deeper."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from flightrtl.formats import ActivationFormat
from flightrtl.gateware import (
    Folding,
    Framed,
    FramedLayer,
    FrameEngine,
    HardwiredLayer,
    Network,
    ResidualAdd,
)
from flightrtl.gateware.dataflow import _Flow, completes, least_depths
from flightrtl.model import INPUT, Add, Model, TensorType, WeightedLayer
from flightrtl.planner.cycles import measure
from flightrtl.planner.frame import FrameCycles
from flightrtl.planner.hardwired import HardwiredCycles
from flightrtl.planner.queues import endless, shortest
from tests.models import random_add, random_concat, random_images, random_layer, random_map
from tests.strategies import graphs
from tests.streams import run_streams
from tests.test_network import simulate

U6 = ActivationFormat(6)


def block(main, side=(), shape=(5, 4, 1), pixels=1):
    """A residual block: two ways from the image to an addition, and a dense layer after it.

    A way is a sequence of (kind, kernel, stride, padding). The layers that end in the addition
    give ``pixels`` at a time.
    """
    rng = np.random.default_rng(1)
    image = TensorType(shape, U6)
    layers = []

    def way(name, steps):
        kind, edge = image, INPUT
        for number, (what, kernel, stride, padding) in enumerate(steps):
            layer = random_layer(rng, what, kind, random_map(rng, kind, 2),
                                 name=f"{name}{number}", inputs=(edge,), kernel=(kernel, kernel),
                                 stride=(stride, stride), padding=(padding,) * 4, output=U6,
                                 k=(1,) * shape[2])
            layers.append(layer)
            kind, edge = TensorType(layer.output_shape(kind.shape), U6), layer.name
        return edge, kind

    (one, kind), (other, _) = way("main", main), way("side", side)
    add = random_add(rng, [kind, kind], [random_map(rng, kind, 2)] * 2, inputs=(one, other),
                     output=U6)
    dense = random_layer(rng, "dense", kind, random_map(rng, kind, 2), name="dense",
                         inputs=("add",), k=(1, 1), output=ActivationFormat(10, True))
    model = Model("block", image, (*layers, add, dense))
    foldings = {layer.name: Folding(2, 1, pixels=pixels if layer.name in add.inputs else 1)
                for layer in model.layers if isinstance(layer, WeightedLayer)}
    return model, foldings


def least_of(network):
    stages = {name: stage for name, stage in network.stages.items() if name not in network.queues}
    return least_depths(network.model, stages), stages


CONV3, CONV1, HALF3, HALF1 = (("convolution", kernel, stride, kernel // 2)
                              for kernel, stride in ((3, 1), (1, 1), (3, 2), (1, 2)))
POOL = ("max_pool", 2, 2, 0)

BLOCKS = {
    # A row has 4 values. It takes two rows, and the fork is one value ahead.
    "3x3": (block([CONV3]), (0, 7)),
    "3x3, 3x3": (block([CONV3, CONV3]), (0, 11)),
    "1x1": (block([CONV1], shape=(3, 3, 2)), (0, 5)),
    # The short way ends in a convolution whose buffer holds a few rows already.
    "3x3 twice beside 1x1": (block([CONV3, CONV3], [CONV1]), None),
    "halved beside halved": (block([HALF3, CONV3], [HALF1], (6, 6, 1)), None),
    "two pixels at a time": (block([CONV3], [CONV1], pixels=2), None),
    # The longer way is the second, and the first way ends in no engine.
    "pool beside 3x3": (block([POOL], [HALF3], (6, 4, 1)), None),
    "nothing": (block([]), (2, 2)),
}


@pytest.mark.parametrize("name", [name for name, (_, depths) in BLOCKS.items() if depths])
def test_least_depths_by_hand(name):
    (model, foldings), depths = BLOCKS[name]
    assert least_of(Network(model, foldings))[0] == {"add": depths}


def test_depths_of_a_concatenation_by_hand():
    """The image of 2 channels behind what a 3x3 convolution makes of it, pixel by pixel.

    The first result takes two rows of 4 pixels. All but what the fork holds must wait for it.
    """
    (model, foldings), _ = BLOCKS["3x3"]
    rng = np.random.default_rng(1)
    conv, dense = model.layers[0], model.layers[-1]
    concat = random_concat(rng, [model.tensors["main0"], model.input],
                           [random_map(rng, model.input, 2)] * 2, inputs=("main0", INPUT),
                           output=U6)
    kind = TensorType((5, 4, 2), U6)
    dense = random_layer(rng, "dense", kind, random_map(rng, kind, 2), name="dense",
                         inputs=("concat",), k=(1, 1), output=ActivationFormat(10, True))
    model = Model("concat", model.input, (conv, concat, dense))
    least, stages = least_of(Network(model, foldings))
    assert least == {"concat": (2, 7)}
    assert not completes(model, stages, {"concat": (2, 6)})
    images = random_images(rng, model, 2)
    simulate(Network(model, foldings, queues=least), images, seed=3, stall=0.4)
    with pytest.raises(ValueError, match="input 'main0' of layer 'concat' needs a queue of 2"):
        Network(model, foldings, queues={"concat": (0, 7)})


@pytest.mark.parametrize("name", BLOCKS)
def test_enough_for_the_gateware(name):
    (model, foldings), _ = BLOCKS[name]
    least, stages = least_of(Network(model, foldings))
    for operand, depth in enumerate(least["add"]):
        if depth > 2:
            fewer = {"add": tuple(depth - (n == operand) for n, depth in enumerate(least["add"]))}
            assert not completes(model, stages, fewer)
            with pytest.raises(ValueError, match="queues: with .* the network would deadlock; "):
                Network(model, foldings, queues=fewer)
    images = random_images(np.random.default_rng(2), model, 2)
    simulate(Network(model, foldings, queues=least), images, seed=3, stall=0.4)


@pytest.mark.parametrize("name", ["3x3", "3x3, 3x3", "1x1"])
def test_one_place_less_deadlocks(name):
    """Whatever the stalls: the first image never ends."""
    (model, foldings), (_, depth) = BLOCKS[name]
    images = random_images(np.random.default_rng(2), model, 1)
    for stall in (0.0, 0.3):
        network = Network(model, foldings)
        add = network.stages["add"]
        layer = model.layers[-2]
        network.stages["add"] = ResidualAdd(
            formats=add.formats, shifts=layer.shifts, bias=layer.bias, shift=layer.shift,
            output=layer.output, depths=(0, depth - 1))
        with pytest.raises(AssertionError, match=r"not done after .* o 0 of 2") as failure:
            run_streams(network, {"i": images.ravel().tolist()}, {"o": 2}, stall=stall,
                        timeout=400)
        # The queue is full, and the convolution has the value that is on offer already.
        assert f"i {depth - 1} of " in str(failure.value)


def settle(twin, inputs, outputs):
    """How many inputs and outputs there are when nothing moves any more, with a limit on each."""
    taken = given = quiet = 0
    while quiet < 200:
        valid, ready = taken < inputs, given < outputs
        moves = valid and twin.accepts(ready), twin.out and ready
        taken, given = taken + moves[0], given + moves[1]
        quiet = 0 if any(moves) else quiet + 1
        twin.tick(valid, ready)
    return taken, given


@pytest.mark.parametrize("seed", range(6))
def test_promises_of_hard_wired_layers_and_frame_buffers(seed):
    """What the gateware needs for a result is no more, and what it takes no less."""
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(2, 6)), int(rng.choice([2, 4])), int(rng.integers(1, 3))
    source = TensorType(shape, ActivationFormat(3))
    kernel = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    padding = tuple(int(rng.integers(n)) for n in (kernel[0], kernel[0], kernel[1], kernel[1]))
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 2), kernel=kernel,
                         stride=(int(rng.integers(1, 3)), 1), padding=padding,
                         k=[1] * int(rng.integers(1, 4)), output=ActivationFormat(4))
    pixels = 2 if layer.output_shape(shape)[1] % 2 == 0 else 1
    size = source.size
    for stage, twin in (
            (HardwiredLayer(layer, source, channels=1, filters=1), HardwiredCycles),
            (HardwiredLayer(layer, source, channels=1, filters=1, pixels=pixels), HardwiredCycles),
            (HardwiredLayer(layer, source, channels=1, filters=1, pixels=pixels, register=True),
             HardwiredCycles),
            (FrameEngine(FramedLayer(layer, source, Framed(2, 1))), FrameCycles)):
        flow = _Flow(stage)
        assert flow.outputs == np.prod(layer.output_shape(shape)) // getattr(stage, "pixels", 1)
        for gone in range(flow.outputs):
            taken, given = settle(twin(stage), size, gone)
            needs = next(n for n in range(size + 1) if flow.gives(n) > gone)
            assert given == gone
            # How many windows are on their way among the adders depends on when they came.
            assert needs <= flow.takes(gone) <= taken
            assert settle(twin(stage), needs, flow.outputs)[1] > gone
            assert settle(twin(stage), needs - 1, flow.outputs)[1] <= gone
        assert flow.takes(flow.outputs) == size


@given(case=graphs())
def test_no_queue_can_be_shorter_alone(case):
    network, _ = case.build(images=1)
    model = network.model
    least, stages = least_of(network)
    assert completes(model, stages, least)
    deeper = {name: tuple(depth and depth + 3 for depth in depths)
              for name, depths in least.items()}
    assert completes(model, stages, deeper)
    for name, depths in least.items():
        for operand, depth in enumerate(depths):
            if depth > 2:
                fewer = [depth - (n == operand) for n, depth in enumerate(depths)]
                assert not completes(model, stages, {**least, name: tuple(fewer)})


def test_a_chain_has_no_queues():
    model, foldings = block([CONV3])
    layers = [replace(layer, inputs=(before,)) for layer, before in zip(
        [layer for layer in model.layers if not isinstance(layer, Add)], (INPUT, "main0"),
        strict=True)]
    chain = Model("chain", model.input, tuple(layers))
    assert Network(chain, foldings).queues == endless(chain, foldings) == {}
    timing = measure(chain, foldings)
    assert shortest(chain, foldings, timing) == ({}, timing)


def test_queues_that_cost_no_cycle():
    """As fast as with queues that are never full, where the least ones are slower."""
    model, foldings = block([CONV3, CONV3], shape=(6, 6, 1))
    foldings |= {"main0": Folding(1, 3, column=True), "main1": Folding(1, 3, column=True)}
    best = measure(model, foldings, queues=endless(model, foldings))
    least, _ = least_of(Network(model, foldings))
    assert measure(model, foldings, queues=least).interval > best.interval
    queues, timing = shortest(model, foldings, best)
    assert timing.interval == best.interval
    assert least["add"][1] <= queues["add"][1] < endless(model, foldings)["add"][1]
    # What the endless queue ever held is enough, to the cycle.
    held = measure(model, foldings, queues=best.queues)
    assert (held.interval, held.latency) == (best.interval, best.latency)
    result = simulate(Network(model, foldings, queues=queues),
                      random_images(np.random.default_rng(0), model, 5))
    ends = result.cycles["o"][1::2]
    assert ends[-1] - ends[-2] == timing.interval
    assert ends[0] - result.cycles["i"][0] == timing.latency


@pytest.mark.parametrize(("queues", "message"), [
    ({}, "queues must name the additions and concatenations, add, not none"),
    ({"add": (0, 99), "main0": (2, 2)}, "must name the additions and .*, add, not add, main0"),
    ({"add": (0, 99, 2)}, "layer 'add' has 2 inputs, but there are 3 depths: give one for each"),
    ({"add": (0, 0)}, "input 'input' of layer 'add' needs a queue of 2 or more"),
    ({"add": (0, 6)}, r"would deadlock; \{'add': \(0, 7\)\} are enough"),
])
def test_refuses(queues, message):
    (model, foldings), _ = BLOCKS["3x3"]
    with pytest.raises(ValueError, match=message):
        Network(model, foldings, queues=queues)
