# amaranth: UnusedElaboratable=no
"""Frame-based weight reuse in networks: results, cycles to the cycle, plans and cost."""

import io
from dataclasses import replace

import numpy as np
import pytest

from flightrtl import boards, flow, golden, modelfile
from flightrtl.formats import ActivationFormat
from flightrtl.gateware import Folding, Framed, FramedLayer, FrameEngine, Hardwired, Network
from flightrtl.model import Model, TensorType
from flightrtl.planner import plan
from flightrtl.planner.cycles import measure
from flightrtl.planner.frame import FrameCycles, frame_cost
from flightrtl.progress import Progress
from sim import amaranth_engine
from sim.compare import compare
from tests.models import random_images, random_layer, random_map, residual_network
from tests.streams import run_streams
from tests.synthesis import packed


def simulate(model, chosen, images, register=False, **options):
    network = Network(model, chosen, memory_register=register)
    expected = golden.run(model, images)
    np.testing.assert_array_equal(network.compute(images), expected)
    inputs = {"i": images.ravel().tolist()}
    for name, engine in network.external.items():
        inputs[f"weights_{name}"] = engine.framed.words_of_terms.tolist() * len(images)
    run = run_streams(network, inputs, {"o": expected.size}, timeout=100_000, **options)
    assert [word.logit for word in run["o"]] == expected.ravel().tolist()
    return run


def check_timing(model, chosen, images, register=False):
    timing = measure(model, chosen, memory_register=register)
    run = simulate(model, chosen, images, register)
    ends = run.cycles["o"][model.output.size - 1::model.output.size]
    assert ends[0] - run.cycles["i"][0] == timing.latency
    assert ends[-1] - ends[-2] == timing.interval
    return timing


@pytest.mark.parametrize("chosen", [
    {"conv1": Hardwired(), "dense1": Framed(2, 8)},
    {"conv1": Framed(4, 1, frames=2), "dense1": Framed(2, 4, frames=2, external=True)},
    {"conv1": Framed(8, 1), "dense1": Folding(2, 8)}])
def test_network(chosen):
    """The bundled digits model, with a pooling between its layers; weights that come late, too."""
    model = modelfile.load("digits")
    images = random_images(np.random.default_rng(0), model, 4)
    timing = check_timing(model, chosen, images)
    assert set(timing.busy) == {"conv1", "dense1"}
    simulate(model, chosen, images[:1], seed=1, stall=0.3)


@pytest.mark.parametrize("seed", range(4))
def test_cycle_model(seed):
    """Pairs of layers of any shape, one or both of them with a frame buffer."""
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(1, 4)), int(rng.choice([2, 4])), int(rng.choice([1, 2, 4]))
    source = TensorType(shape, ActivationFormat(3))
    maps = random_map(rng, source, 4)
    same = int(rng.integers(2))
    first = random_layer(rng, "convolution", source, maps, name="first", stride=(1, 1),
                         kernel=(1 + same, 1 + same), padding=(same, 0, same, 0))
    between = TensorType(first.output_shape(source.shape), first.output)
    second = random_layer(rng, "dense", between, golden.apply(first, maps), name="second",
                          inputs=("first",), output=ActivationFormat(6, True))
    model = Model("pair", source, (first, second))
    register = bool(rng.integers(2))
    one = Framed(int(rng.integers(1, 5)), shape[2], int(rng.integers(1, 3)))
    other = Framed(int(rng.integers(1, 4)), first.filters, int(rng.integers(1, 3)))
    images = random_images(rng, model, 6)
    for chosen in ({"first": one, "second": other}, {"first": one, "second": Folding(1, 1)},
                   {"first": Folding(2, 1), "second": other}):
        check_timing(model, chosen, images, register)


def test_input_is_ready_whatever_the_output():
    model = modelfile.load("digits")
    layer = model.layers[0]
    cycles = FrameCycles(FrameEngine(FramedLayer(layer, model.input, Framed(4, 1))))
    for _ in range(64):
        assert cycles.accepts(False)
        cycles.tick(True, False)
    assert not cycles.accepts(True)


@pytest.mark.parametrize(("family", "shape", "k", "chosen"), [
    ("ice40", (12, 12, 8), [1] * 8, Framed(4, 2)), ("ecp5", (6, 6, 8), [1] * 12, Framed(6, 1))])
def test_cost(family, shape, k, chosen, tmp_path):
    """Against what nextpnr packs."""
    rng = np.random.default_rng(3)
    source = TensorType(shape, ActivationFormat(8))
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 2), name="conv",
                         kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1), k=k,
                         output=ActivationFormat(8), exponent_bits=3)
    framed = FramedLayer(layer, source, chosen, family == "ecp5")
    engine = FrameEngine(framed)
    estimate = frame_cost(framed, family, engine.width)
    found = packed(engine, family, tmp_path)
    assert estimate.lut4 == pytest.approx(found["lut4"], rel=0.1)
    assert estimate.ff == pytest.approx(found["ff"], rel=0.1)
    assert estimate.bram == found["bram"]
    outside = frame_cost(replace(framed, framed=replace(chosen, external=True)), family,
                         engine.width)
    assert outside.bram < estimate.bram or estimate.bram == 0
    assert outside.lut4 < estimate.lut4


@pytest.mark.parametrize(("name", "board"), [("digits", "ecp5"), ("mnist", "ecp5")])
def test_plan_on_request(name, board):
    """Every layer with weights has a frame buffer, and reads each weight once."""
    model, device = modelfile.load(name), boards.load(board)
    framed, folded = (plan(model, device, target_rate=500, dataflow=dataflow)
                      for dataflow in ("frame", "folded"))
    for one, other in zip(framed.layers, folded.layers, strict=True):
        assert one.dataflow == {"folded": "frame"}.get(other.dataflow, other.dataflow)
        if one.dataflow == "frame":
            layer = next(layer for layer in model.layers if layer.name == one.name)
            least = layer.terms.size * layer.format.code_bits
            assert least <= one.weight_read_bits < 1.3 * least
            assert one.weight_read_bits <= other.weight_read_bits
            assert one.buffer_bits >= model.source(layer).size * model.source(layer).format.bits
            assert one.lanes == one.folding.lanes
    assert framed.inferences_per_second >= 500
    Network(model, framed.foldings, memory_register=device.memory_register)


def test_report():
    report = flow.estimate(flow.Request(model="digits", board="ecp5", dataflow="frame"),
                           Progress(io.StringIO()))
    first = report.as_json()["model"]["layers"][0]
    assert first["dataflow"] == "frame"
    assert f"{first['lanes']} x {first['simd']}, frame" in report.as_text()


@pytest.mark.parametrize(("options", "dataflow"), [
    ({"dataflow": "frame"}, "frame"), ({"target_rate": 1_000_000}, "hard-wired"),
    ({"flash": "b0"}, "frame")])
def test_networks_with_branches(options, dataflow):
    """The plan is what simulation finds, and the queues beside a frame buffer hold a map."""
    model = residual_network(np.random.default_rng(0), size=4, widths=(2,))
    chosen = plan(model, boards.load("ecp5"), **options)
    flows = {layer.name: layer.dataflow for layer in chosen.layers}
    assert dataflow in (flows["b0"], flows["first"])
    if dataflow == "frame":
        assert chosen.queues["add0"][1] > model.tensors["first"].size
    images = random_images(np.random.default_rng(1), model, 7)
    found = compare(amaranth_engine.simulate, model, chosen, images, np.zeros(7, int))
    assert found.mismatches == 0
    assert found.trace.cycles_per_inference == chosen.cycles_per_inference
    assert found.trace.latency_cycles == chosen.latency_cycles


def test_takes_single_pixels():
    model = modelfile.load("digits")
    with pytest.raises(ValueError, match="'dense1' has a frame buffer and takes one pixel at a "
                                         "time, but 'pool1' gives 3"):
        Network(model, {"conv1": Folding(4, 1, pixels=6), "dense1": Framed(2, 8)})
