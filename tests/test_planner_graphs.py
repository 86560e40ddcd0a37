# amaranth: UnusedElaboratable=no
"""Plans of networks with residual connections: queues, costs, cycles, and the command lines."""

import json

import numpy as np
import pytest

from flightrtl import boards, build, modelfile
from flightrtl.formats import ActivationFormat
from flightrtl.gateware import ResidualAdd
from flightrtl.planner import plan
from flightrtl.planner.cost import join_cost
from flightrtl.planner.cycles import measure
from sim.__main__ import main
from tests import synthesis
from tests.models import concat_model, residual_network

ULX3S = boards.load("ulx3s_85f")


def test_plan_of_a_residual_network():
    model = residual_network(np.random.default_rng(0))
    chosen = plan(model, ULX3S)
    layers = {layer.name: layer for layer in chosen.layers}
    assert list(layers) == [layer.name for layer in model.layers]
    add = layers["add0"]
    assert (add.type, add.dataflow, add.cycles, add.folding) == ("add", "streamed", 128, None)
    assert set(chosen.queues) == {"add0", "add1"}
    # Two convolutions of 3x3 hold three rows of 8 pixels of 2 channels back.
    main, side = chosen.queues["add0"]
    assert main == 0
    assert side >= 47
    assert chosen.overhead["forks"].lut4 > 0
    timing = measure(model, chosen.foldings, memory_register=True, queues=chosen.queues)
    assert (timing.interval, timing.latency) == (chosen.cycles_per_inference,
                                                 chosen.latency_cycles)
    assert chosen.cycles_per_inference == chosen.slowest.cycles


def test_plan_and_simulation_of_a_concatenation(tmp_path, capsys, monkeypatch):
    model = concat_model()
    chosen = plan(model, ULX3S, target_rate=100_000)
    concat = {layer.name: layer for layer in chosen.layers}["concat"]
    assert (concat.type, concat.dataflow, concat.cycles) == ("concat", "streamed", 6 * 6 * 6)
    # The image waits in a queue until the convolution has its first rows.
    assert concat.queues is not None
    assert len(concat.queues) == 3
    assert concat.queues[1] >= 2 * 6 * 2
    timing = measure(model, chosen.foldings, memory_register=True, queues=chosen.queues)
    assert timing.interval == chosen.cycles_per_inference <= 1000
    path = tmp_path / "concat.safetensors"
    modelfile.save(model, path)
    images = np.random.default_rng(1).integers(0, 32, (4, *model.input.shape))
    monkeypatch.setattr("sim.images.choose", lambda *arguments, **options: (
        images, np.zeros(len(images), np.int64)))
    assert main([str(path), "--board", "ecp5", "--images", "4", "--engine", "python",
                 "--trace-layers", "--json", "--target-rate", "100000"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["mismatches"] == 0
    assert result["trace"]["first"] is None
    assert result["cycles_per_inference"] == chosen.cycles_per_inference
    assert result["latency_cycles"] == chosen.latency_cycles
    row, = (row for row in result["layers"]["rows"] if row["name"] == "concat")
    assert row["type"] == "concat"
    assert row["busy"] == row["given"] == row["needs"] == model.tensors["concat"].size


@pytest.mark.parametrize(("family", "depth"), [("ice40", 19), ("ice40", 514), ("ecp5", 514)])
def test_the_estimate_of_an_addition_is_near_what_synthesis_makes(family, depth, tmp_path):
    u8 = ActivationFormat(8)
    add = ResidualAdd(formats=(u8, u8), shifts=(0, 1), bias=1, shift=1, depths=(0, depth),
                      register=True)
    packed = synthesis.packed(add, family, tmp_path)
    estimate = join_cost(add, family)
    assert estimate.lut4 == pytest.approx(packed["lut4"], rel=0.1)
    assert estimate.ff == pytest.approx(packed["ff"], rel=0.1)
    assert estimate.bram == packed["bram"]


def test_the_commands_take_a_residual_network(tmp_path, capsys, monkeypatch):
    """Estimate, and simulation with every layer compared, of the shape of ResNet-8."""
    model = residual_network(np.random.default_rng(0), size=4, widths=(2,))
    path = tmp_path / "resnet.safetensors"
    modelfile.save(model, path)
    build.main(["--board", "ecp5", "--model", str(path), "--estimate", "--json"])
    estimate = json.loads(capsys.readouterr().out)
    kinds = {layer["name"]: layer["type"] for layer in estimate["model"]["layers"]}
    assert kinds["add0"] == "add"

    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (5, *model.input.shape))
    monkeypatch.setattr("sim.images.choose", lambda *arguments, **options: (
        images, np.zeros(len(images), np.int64)))
    assert main([str(path), "--board", "ecp5", "--images", "5", "--engine", "python",
                 "--trace-layers", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["mismatches"] == 0
    assert result["trace"]["first"] is None
    assert result["cycles_per_inference"] == estimate["cycles_per_inference"]
    assert result["latency_cycles"] == estimate["latency_cycles"]
    rows = {row["name"]: row for row in result["layers"]["rows"]}
    assert rows["add0"]["type"] == "add"
    assert rows["add0"]["busy"] == rows["add0"]["given"] == model.tensors["add0"].size
