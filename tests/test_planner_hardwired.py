# amaranth: UnusedElaboratable=no
"""Hard-wired layers in networks: results, cycles to the cycle, and cost."""

import numpy as np
import pytest

from flightrtl import boards, golden, modelfile
from flightrtl.errors import UserError
from flightrtl.formats import ActivationFormat
from flightrtl.gateware import Folding, Hardwired, HardwiredLayer, Network
from flightrtl.model import Model, TensorType
from flightrtl.planner import plan
from flightrtl.planner.cycles import measure
from flightrtl.planner.hardwired import (
    HardwiredCycles,
    hardwired_cost,
    hardwired_cycles,
)
from tests.models import random_images, random_layer, random_map
from tests.streams import run_streams
from tests.synthesis import packed

CHOICES = [
    {"conv1": Hardwired(), "dense1": Folding(2, 8)},                # before a pooling
    {"conv1": Hardwired(pixels=2, stage=2), "dense1": Hardwired()},
    {"conv1": Folding(4, 3, column=True), "dense1": Hardwired(stage=2)},
]


def simulate(model, chosen, images, *, register=False, **options):
    network = Network(model, chosen, memory_register=register)
    expected = golden.run(model, images)
    assert network.compute(images).tolist() == expected.tolist()
    run = run_streams(network, {"i": images.ravel().tolist()}, {"o": expected.size},
                      timeout=100_000, **options)
    assert [word.logit for word in run["o"]] == expected.ravel().tolist()
    return run


@pytest.mark.parametrize("chosen", CHOICES)
def test_network(chosen):
    """The bundled digits model, with either layer hard-wired, both, or only stalls between them."""
    model = modelfile.load("digits")
    images = random_images(np.random.default_rng(0), model, 4)
    simulate(model, chosen, images[:1], seed=1, stall=0.4, register=True)
    timing = measure(model, chosen)
    run = simulate(model, chosen, images)
    ends = run.cycles["o"][model.output.size - 1::model.output.size]
    assert ends[0] - run.cycles["i"][0] == timing.latency
    assert ends[-1] - ends[-2] == timing.interval
    assert set(timing.busy) == {"conv1", "dense1"}


def test_both_layers_at_a_value_per_cycle():
    """An image every 64 cycles: as fast as its values arrive. 36 pixels of 8 take 288, or 48."""
    model = modelfile.load("digits")
    assert measure(model, {"conv1": Hardwired(), "dense1": Hardwired()}).interval == 288
    assert measure(model, {"conv1": Hardwired(pixels=2), "dense1": Hardwired()}).interval == 144


@pytest.mark.parametrize("seed", range(6))
def test_cycle_model(seed):
    """A convolution with a hard-wired dense layer behind it, and the other way round."""
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(1, 4)), int(rng.choice([2, 4])), int(rng.integers(1, 3))
    source = TensorType(shape, ActivationFormat(3))
    maps = random_map(rng, source, 4)
    same = int(rng.integers(2))
    first = random_layer(rng, "convolution", source, maps, name="first",
                         filters=int(rng.integers(1, 4)), kernel=(1 + same, 1 + 2 * same),
                         stride=(1, 1), padding=(same, 0, same, same))
    between = TensorType(first.output_shape(source.shape), first.output)
    second = random_layer(rng, "dense", between, golden.apply(first, maps), name="second",
                          inputs=("first",), filters=2, output=ActivationFormat(6, True))
    model = Model("pair", source, (first, second))
    folding, stage = Folding(int(rng.integers(1, 4)), 1), int(rng.integers(1, 4))
    for chosen in ({"first": Hardwired(1 + seed % 2, stage), "second": folding},
                   {"first": folding, "second": Hardwired(stage=stage)}):
        register = seed % 3 == 0
        timing = measure(model, chosen, memory_register=register)
        run = simulate(model, chosen, random_images(rng, model, 6), register=register)
        ends = run.cycles["o"][1::2]
        assert ends[0] - run.cycles["i"][0] == timing.latency
        assert ends[-1] - ends[-2] == timing.interval


@pytest.mark.parametrize(("family", "register"), [("ice40", False), ("ecp5", True)])
def test_cost(family, register, tmp_path):
    """Against what nextpnr packs."""
    model = modelfile.load("digits")
    layer = HardwiredLayer(model.layers[0], model.input, channels=1, filters=1,
                           register=register)
    estimate = hardwired_cost(layer, family)
    found = packed(layer, family, tmp_path)
    assert estimate.lut4 == pytest.approx(found["lut4"], rel=0.1)
    assert estimate.ff == pytest.approx(found["ff"], rel=0.05)
    assert estimate.bram == found["bram"]


def test_planner_chooses_it():
    """Where a pixel per cycle is wanted; and its plan is what the hardware does."""
    model = modelfile.load("digits")
    slow = plan(model, boards.load("ecp5"), target_rate=70_000)
    fast = plan(model, boards.load("ecp5"), target_rate=300_000)
    assert [layer.dataflow for layer in slow.layers] == ["folded", "streamed", "folded"]
    assert [layer.dataflow for layer in fast.layers] == ["hard-wired", "streamed", "folded"]
    first = fast.layers[0]
    assert (first.folding, first.lanes, first.simd) == (Hardwired(pixels=1), 1, 1)
    assert first.terms == slow.layers[0].terms
    assert first.cycles == 288
    assert first.utilization == 36 / 288
    assert fast.cost.lut4 < 1.3 * slow.cost.lut4
    run = simulate(model, fast.foldings, random_images(np.random.default_rng(0), model, 4),
                   register=True)
    ends = run.cycles["o"][model.output.size - 1::model.output.size]
    assert ends[-1] - ends[-2] == fast.cycles_per_inference == 288


@pytest.mark.parametrize("pixels", [1, 2, 7, 14])
def test_cycles_of_a_layer(pixels):
    """Where rows leave slower than they come in, it is neither the raster nor the transfers."""
    model = modelfile.load("mnist")
    layer = HardwiredLayer(model.layers[0], model.input, channels=1, filters=1, pixels=pixels)
    found = hardwired_cycles(layer)
    transfers = 14 * 14 * 8 // pixels
    assert found >= max(transfers, layer.window.cycles)
    assert (found == layer.window.cycles) == (pixels >= 7)


def test_input_is_ready_whatever_the_output():
    model = modelfile.load("digits")
    cycles = HardwiredCycles(HardwiredLayer(model.layers[0], model.input))
    assert cycles.accepts(False)
    for _ in range(40):
        cycles.tick(True, False)
    assert not cycles.accepts(True)
    assert cycles.out


def test_hardwired_takes_single_pixels():
    model = modelfile.load("digits")
    pool = Model("no pool", model.input, (model.layers[0], random_layer(
        np.random.default_rng(0), "dense", TensorType((6, 6, 8), ActivationFormat(4)),
        np.zeros((2, 6, 6, 8), np.int64), name="dense1", inputs=("conv1",), filters=2,
        output=ActivationFormat(8, True))))
    with pytest.raises(ValueError, match="layer 'dense1' is hard-wired and takes one pixel at a "
                                         "time, but 'conv1' gives 2: fold what feeds it with"):
        Network(pool, {"conv1": Folding(4, 1, pixels=2), "dense1": Hardwired()})


@pytest.mark.parametrize("change", [{"pixels": 0}, {"stage": 0}])
def test_bad_choice(change):
    with pytest.raises(ValueError, match="must be 1 to"):
        Hardwired(**change)


def test_a_plan_may_be_told_to_fold_every_layer():
    model, board = modelfile.load("digits"), boards.load("ecp5")
    mixed, folded = (plan(model, board, target_rate=300_000, dataflow=dataflow)
                     for dataflow in ("mixed", "folded"))
    assert "hard-wired" in {layer.dataflow for layer in mixed.layers}
    assert {layer.dataflow for layer in folded.layers} == {"folded", "streamed"}
    assert folded.cost.lut4 > mixed.cost.lut4
    for chosen in (mixed, folded):
        assert chosen.inferences_per_second >= 300_000
        for layer in chosen.layers:
            assert bool(layer.weight_read_bits) == (layer.dataflow == "folded")
            assert bool(layer.buffer_bits) == (layer.dataflow != "streamed")
    with pytest.raises(UserError, match="the data flow must be one of mixed, folded, frame, not "
                                        "'wired'"):
        plan(model, board, dataflow="wired")
