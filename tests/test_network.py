# amaranth: UnusedElaboratable=no
"""Bundled networks: logits and winners against the golden model, cycles against the plan."""

import numpy as np
import pytest

from flightrtl import boards, golden, modelfile
from flightrtl.gateware import Folding, Network
from flightrtl.model import WeightedLayer
from flightrtl.planner import plan
from flightrtl.planner.cycles import measure
from tests.models import random_images, random_model
from tests.streams import run_streams
from tests.synthesis import cells


def simulate(network, images, *, seed=0, stall=0.0):
    """Run images through and compare every logit and winner with the golden model."""
    expected = golden.run(network.model, images)
    run = run_streams(network, {"i": images.ravel().tolist()}, {"o": expected.size}, seed=seed,
                      stall=stall, timeout=400_000)
    np.testing.assert_array_equal(np.reshape([p.logit for p in run["o"]], expected.shape), expected)
    lasts = [bool(p.last) for p in run["o"]]
    assert lasts == ([False] * (expected.shape[1] - 1) + [True]) * len(images)
    winners = [p.winner for p in run["o"] if p.last]
    assert winners == expected.argmax(axis=1).tolist()
    return run


@pytest.mark.parametrize(("name", "board", "images"), [
    ("digits", "icestick", 4), ("digits", "ecp5", 6), ("mnist", "ecp5", 4)])
def test_plan_equals_gateware(name, board, images):
    """A bundled model, planned for a board and fed real images without a gap."""
    from flightrtl import samples

    model = modelfile.load(name)
    planned = plan(model, boards.load(board))
    network = Network(model, planned.foldings, memory_register=planned.board.memory_register)
    run = simulate(network, samples.load(name)[0][:images].astype(np.int64))
    ends = run.cycles["o"][model.output.size - 1::model.output.size]
    assert ends[0] - run.cycles["i"][0] == planned.latency_cycles
    assert ends[-1] - ends[-2] == planned.cycles_per_inference


@pytest.mark.parametrize(("seed", "foldings"), [
    (102, [Folding(8, 2), Folding(1, 1, True), Folding(4, 2, True), Folding(1, 3, True)]),
    (150, [Folding(3, 4, True), Folding(2, 1), Folding(12, 1)]),
    (621, [Folding(5, 2), Folding(1, 5), Folding(8, 3), Folding(3, 2)]),
])
def test_cycle_model_equals_gateware_where_buffers_are_full(seed, foldings):
    """Small maps before slow layers: a layer stops as the buffer of the next one has no room."""
    rng = np.random.default_rng(seed)
    model = random_model(rng, input_shape=tuple(rng.integers(1, [6, 6, 4]).tolist()))
    names = [layer.name for layer in model.layers if isinstance(layer, WeightedLayer)]
    chosen = dict(zip(names, foldings, strict=True))
    timing = measure(model, chosen)
    run = simulate(Network(model, chosen), random_images(rng, model, 8))
    ends = run.cycles["o"][model.output.size - 1::model.output.size]
    assert ends[0] - run.cycles["i"][0] == timing.latency
    assert ends[-1] - ends[-2] == timing.interval


@pytest.mark.parametrize("board", ["ice40", "ecp5"])
def test_slowest_layer_works_on_real_terms(board):
    planned = plan(modelfile.load("mnist"), boards.load(board))
    assert planned.slowest.utilization >= 0.95
    assert planned.slowest.cycles == planned.cycles_per_inference


@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_nothing_multiplies(name, tmp_path):
    """No multiplication in the netlist before mapping, no DSP block after it."""
    model = modelfile.load(name)
    planned = plan(model, boards.load("ecp5"))
    network = Network(model, planned.foldings)
    words = cells(network, "generic", tmp_path)
    assert not {"$mul", "$macc", "$macc_v2", "$alu_mul", "$div", "$mod"} & set(words)
    if name == "digits":
        found = cells(Network(model, planned.foldings), "ecp5", tmp_path)
        assert not any(cell.startswith(("MULT", "ALU54")) for cell in found)


def test_foldings_must_match_the_layers():
    model = modelfile.load("digits")
    names = [layer.name for layer in model.layers if isinstance(layer, WeightedLayer)]
    with pytest.raises(ValueError, match=f"layer '{names[0]}' needs a folding"):
        Network(model, {})
    with pytest.raises(ValueError, match="no layer with weights is called nobody"):
        Network(model, {name: Folding(1, 1) for name in (*names, "nobody")})
