# amaranth: UnusedElaboratable=no
import gc
import itertools
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
from amaranth import Module, Signal
from amaranth.hdl import Fragment, UnusedElaboratable
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from flightrtl import boards, modelfile
from flightrtl.errors import BuildError, UserError
from flightrtl.formats import (
    ActivationFormat,
    BinaryFormat,
    FixedFormat,
    TermFormat,
    signed_bits,
)
from flightrtl.gateware.engine import ConvolutionEngine, sum_range
from flightrtl.gateware.folding import FoldedLayer, Folding
from flightrtl.gateware.network import Network
from flightrtl.gateware.pool import MaxPooling, SumPooling
from flightrtl.model import INPUT, Convolution, Dense, Model, TensorType
from flightrtl.planner import Cost, designs, front, plan, search
from flightrtl.planner.cost import enables_cost, pool_cost, system_costs, total
from flightrtl.planner.designs import GOOD_UTILIZATION, WORTH
from flightrtl.planner.engine import adder_bits, engine_cost, maps_to_blocks
from flightrtl.planner.memories import memory_brams, memory_cells
from tests import synthesis
from tests.models import random_images, random_layer, random_map, random_model
from tests.streams import run_streams

ICEBREAKER = boards.load("icebreaker")
ULX3S = boards.load("ulx3s_85f")


def small_board(board, **resources):
    """A board whose device has less in it."""
    return replace(board, resources=replace(board.resources, **resources))


def two_layers(seed=0, k=(2, 1, 1, 2), filters=5):
    """A convolution and a dense layer, large enough to have choices."""
    rng = np.random.default_rng(seed)
    source = TensorType((8, 8, 4), ActivationFormat(8))
    first = random_layer(rng, "convolution", source, random_map(rng, source, 4), name="conv",
                         kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1), k=k,
                         exponent_bits=3, output=ActivationFormat(8))
    between = TensorType(first.output_shape(source.shape), first.output)
    second = random_layer(rng, "dense", between, random_map(rng, between, 4), name="dense",
                          inputs=("conv",), k=[1] * filters, exponent_bits=3,
                          output=ActivationFormat(16, True))
    return Model("two", source, (first, second))


def every_folding(layer):
    divisors = [n for n in range(1, layer.channels + 1) if layer.channels % n == 0]
    for lanes in range(1, layer.slots + 1):
        for n in divisors:
            yield Folding(lanes, n)
            if layer.kernel[0] > 1:
                yield Folding(lanes, layer.kernel[0] * n, True)


def cost_of(model, layer, folding, family="ice40"):
    source = model.source(layer)
    folded = FoldedLayer(layer, source, folding)
    accumulator = signed_bits(*sum_range(layer, source.format, folded.offsets))
    return engine_cost(folded, family, accumulator)


@pytest.mark.parametrize("cells", [2000, 2600, 4000])
def test_no_choice_of_foldings_that_fits_is_much_faster(cells):
    model = two_layers()
    board = small_board(ICEBREAKER, lut4=cells)
    chosen = plan(model, board)
    spent = total(system_costs(model, board).values())
    floor = max(tensor.size for tensor in model.tensors.values())
    layers = [[(FoldedLayer(layer, model.source(layer), folding).cycles,
                cost_of(model, layer, folding)) for folding in every_folding(layer)]
              for layer in model.layers]
    best = min(
        max(floor, *(cycles for cycles, _ in pair))
        for pair in itertools.product(*layers)
        if (cost := total([spent, *(each for _, each in pair)])).lut4 <= cells * board.fill
        and cost.bram <= board.resources.bram)
    slowest = chosen.slowest.cycles
    assert best <= max(slowest, floor) <= best * WORTH
    assert chosen.cost.lut4 <= cells * board.fill
    assert chosen.cost.bram <= board.resources.bram


@pytest.mark.parametrize("seed", range(6))
def test_every_plan_makes_a_network_and_keeps_to_the_budget(seed):
    rng = np.random.default_rng(seed)
    model = random_model(rng, input_shape=(9, 8, 3), activation_bits=8, exponent_bits=3,
                         kinds=["convolution", "max_pool", "convolution", "dense"])
    for board in (ICEBREAKER, ULX3S):
        chosen = plan(model, board)
        Network(model, chosen.foldings, memory_register=board.memory_register)
        assert chosen.cost.lut4 <= board.fill * board.resources.lut4
        assert chosen.cost.bram <= board.resources.bram
        assert chosen.cycles_per_inference >= max(layer.cycles for layer in chosen.layers)
        assert [layer.name for layer in chosen.layers] == [layer.name for layer in model.layers]


def test_no_more_than_the_default_fill_unless_a_rate_is_asked_for():
    model = modelfile.load("mnist")
    board = replace(ICEBREAKER, default_fill=0.6)
    chosen = plan(model, board)
    assert chosen.cost.lut4 <= 0.6 * board.resources.lut4
    more = plan(model, board, target_rate=chosen.inferences_per_second * 1.2)
    assert 0.6 * board.resources.lut4 < more.cost.lut4 <= board.fill * board.resources.lut4


def test_components_made_for_their_numbers_are_not_complained_of():
    """Amaranth warns of what never became hardware, once anything has."""
    gc.collect()
    Fragment.get(Module(), None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for board, dataflow in ((ICEBREAKER, "mixed"), (ULX3S, "frame")):
            plan(modelfile.load("digits"), board, dataflow=dataflow)
        gc.collect()
    assert not [f"{warning.filename}:{warning.lineno}" for warning in caught
                if issubclass(warning.category, UnusedElaboratable)]


@pytest.mark.parametrize(("name", "board", "points"), [
    ("digits", ULX3S, 8), ("mnist", boards.load("ice40_hx8k_b_evn"), 4)])
def test_front(name, board, points):
    """From the smallest design to the fastest; a plan for a point's rate is as the point says.

    Layers of mnist wait for each other in the fastest design that seems to fit an HX8K, and there
    is no room for longer buffers: the front ends with one that is somewhat slower.
    """
    model = modelfile.load(name)
    found = front(model, board, points=points)
    assert 2 <= len(found) <= points + 1
    for slow, fast in itertools.pairwise(found):
        assert slow.cycles > fast.cycles
        assert slow.cost.lut4 < fast.cost.lut4
    for point in (found[0], found[-1]):
        chosen = plan(model, board, target_rate=point.rate * 0.9999)
        assert chosen.slowest.cycles <= point.cycles
        assert chosen.cycles_per_inference <= point.cycles * 1.0002
        assert chosen.cost.lut4 <= 1.1 * point.cost.lut4
    assert found[-1].cycles <= plan(model, board, target_rate=1).slowest.cycles


@pytest.mark.parametrize("seed", [1, 4])
def test_interval_and_latency_are_the_simulated_ones(seed):
    rng = np.random.default_rng(seed)
    model = random_model(rng, input_shape=(6, 6, 2), activation_bits=6, exponent_bits=2,
                         kinds=["convolution", "max_pool", "dense"], classes=3)
    chosen = plan(model, ICEBREAKER)
    count = 6
    values = random_images(rng, model, count).ravel().tolist()
    run = run_streams(Network(model, chosen.foldings), {"i": values},
                      {"o": count * model.output.size}, timeout=100_000)
    ends = run.cycles["o"][model.output.size - 1::model.output.size]
    assert ends[-1] - ends[-2] == chosen.cycles_per_inference
    assert ends[0] - run.cycles["i"][0] == chosen.latency_cycles


def test_the_slowest_layer_hardly_wastes_a_cycle():
    for board in (ICEBREAKER, ULX3S):
        slowest = plan(modelfile.load("mnist"), board).slowest
        assert slowest.utilization >= GOOD_UTILIZATION


def test_the_rates_that_the_project_promises():
    mnist = modelfile.load("mnist")
    ice40, ecp5 = plan(mnist, ICEBREAKER), plan(mnist, ULX3S)
    assert ice40.clock_mhz >= 30
    assert ice40.inferences_per_second >= 2000
    assert ecp5.clock_mhz >= 100
    assert ecp5.inferences_per_second >= 50_000
    assert plan(mnist, ULX3S, target_rate=100_000).cycles_per_inference <= 1000
    assert plan(modelfile.load("digits"), boards.load("icestick")).cost.lut4 <= 1280


def test_a_target_rate_is_reached_with_less():
    model = modelfile.load("mnist")
    fast = plan(model, ICEBREAKER)
    cells = fast.cost.lut4
    for rate in (2000, 1000, 200):
        chosen = plan(model, ICEBREAKER, target_rate=rate)
        assert chosen.inferences_per_second >= rate
        assert chosen.cost.lut4 <= cells
        cells = chosen.cost.lut4
    assert cells < fast.cost.lut4


def test_the_clock_is_what_the_pll_gives():
    model = two_layers()
    chosen = plan(model, ICEBREAKER, frequency=37)
    assert chosen.clock_mhz == 36.75
    assert chosen.inferences_per_second == 36.75e6 / chosen.cycles_per_inference
    assert plan(model, ICEBREAKER, frequency=12).clock_mhz == 12


def test_a_model_that_is_too_large_names_layer_and_knob():
    model = two_layers()
    with pytest.raises(BuildError, match="logic cells and iCE40UP5K leaves") as caught:
        plan(model, small_board(ICEBREAKER, lut4=700))
    assert caught.value.layer in ("conv", "dense")
    assert "--board" in (caught.value.knob or "")
    with pytest.raises(BuildError, match="block RAMs and iCE40UP5K leaves 0") as caught:
        plan(two_layers(filters=60), small_board(ICEBREAKER, bram=1))
    assert caught.value.layer == "dense"
    with pytest.raises(BuildError, match="board 'icestick'"):
        plan(modelfile.load("mnist"), boards.load("icestick"))


def test_a_rate_out_of_reach_names_layer_and_knob():
    model = two_layers()
    with pytest.raises(BuildError, match="values pass through the input") as caught:
        plan(model, ICEBREAKER, target_rate=1e6)
    assert "--target-rate 155273 or less" in (caught.value.knob or "")
    with pytest.raises(BuildError, match="this layer takes 480 at its widest") as caught:
        plan(two_layers(k=(1,) * 60), ULX3S, target_rate=100e6 / 300)
    assert caught.value.layer == "conv"
    with pytest.raises(BuildError, match="inferences per second need about") as caught:
        plan(model, small_board(ICEBREAKER, lut4=2500), target_rate=78_000)
    assert caught.value.layer == "conv"
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="target rate must be above 0"):
            plan(model, ICEBREAKER, target_rate=wrong)
    with pytest.raises(UserError, match="must be above 0 MHz"):
        plan(model, ICEBREAKER, frequency=-3)
    with pytest.raises(BuildError, match="gives 16 to 275 MHz"):
        plan(model, ICEBREAKER, frequency=400)


def test_numbers_of_a_layer_plan():
    chosen = plan(two_layers(k=(2, 0, 1, 2)), ICEBREAKER)
    conv, dense = chosen.layers
    assert (conv.type, dense.type) == ("convolution", "dense")
    assert conv.k_histogram == {0: 1, 1: 1, 2: 2}
    assert (conv.pixels, conv.terms) == (64, 5 * 36 * 64)
    assert (dense.pixels, dense.terms) == (1, 5 * 8 * 8 * 4)
    assert chosen.foldings == {"conv": conv.folding, "dense": dense.folding}
    assert chosen.cost == total([conv.cost, dense.cost, *chosen.overhead.values()])
    assert chosen.cost.dsp == chosen.cost.spram == 0


def test_memories_and_adders():
    assert memory_brams("ice40", 256, 16) == 1
    assert memory_brams("ice40", 257, 16) == 2
    assert memory_brams("ice40", 2048, 3) == 2
    assert memory_brams("ecp5", 512, 36) == 1
    assert memory_brams("ecp5", 512, 37) == 2
    assert [adder_bits(15, simd) for simd in (1, 2, 3, 4)] == [0, 16, 33, 49]
    assert Cost(lut4=1) + Cost(ff=2, bram=3) == Cost(lut4=1, ff=2, bram=3)


def near(estimate, packed, lut4=0.1, ff=0.03):
    """Whether an estimate is as near to what nextpnr packs as it should be, and exact in blocks."""
    assert estimate.lut4 == pytest.approx(packed["lut4"], rel=lut4)
    assert estimate.ff == pytest.approx(packed["ff"], rel=ff)
    assert (estimate.bram, estimate.dsp) == (packed["bram"], packed["dsp"])


@pytest.mark.parametrize(("family", "lanes", "simd", "column"), [
    ("ice40", 3, 4, False), ("ice40", 1, 1, False), ("ecp5", 4, 8, False), ("ecp5", 1, 3, True)])
def test_the_estimate_of_an_engine_is_near_what_it_takes(family, lanes, simd, column, tmp_path):
    rng = np.random.default_rng(3)
    source = TensorType((12, 12, 8), ActivationFormat(8))
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 2), name="conv",
                         kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1),
                         k=[1, 2, 1, 2, 1, 2, 1, 2], output=ActivationFormat(8), exponent_bits=3)
    folded = FoldedLayer(layer, source, Folding(lanes, simd, column))
    estimate = engine_cost(folded, family, signed_bits(
        *sum_range(layer, source.format, folded.offsets)))
    near(estimate, synthesis.packed(ConvolutionEngine(folded, register=family == "ecp5"), family,
                                    tmp_path))


@pytest.mark.parametrize(("family", "weights", "bits", "folding"), [
    ("ice40", FixedFormat(5), 7, Folding(3, 2)),
    ("ecp5", FixedFormat(8), 8, Folding(8, 4, dsp=True)),
    ("ice40", BinaryFormat(), 1, Folding(4, 24, True)),
], ids=str)
def test_the_estimate_for_weights_that_are_no_terms(family, weights, bits, folding, tmp_path):
    rng = np.random.default_rng(3)
    source = TensorType((12, 12, 8), ActivationFormat(bits))
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 2), name="conv",
                         kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1), k=[1] * 8,
                         output=ActivationFormat(8), weights=weights)
    folded = FoldedLayer(layer, source, folding)
    estimate = engine_cost(folded, family, signed_bits(
        *sum_range(layer, source.format, folded.offsets)))
    near(estimate, synthesis.packed(ConvolutionEngine(folded, register=family == "ecp5"), family,
                                    tmp_path), ff=0.1)


@pytest.mark.parametrize(("family", "kind", "kernel"), [
    ("ice40", "max_pool", (2, 2)), ("ecp5", "sum_pool", (3, 3))])
def test_the_estimate_of_a_pooling(family, kind, kernel, tmp_path):
    rng = np.random.default_rng(3)
    source = TensorType((12, 12, 8), ActivationFormat(8))
    layer = random_layer(rng, kind, source, random_map(rng, source, 2), kernel=kernel,
                         stride=(2, 2), output=ActivationFormat(8))
    make = {"max_pool": MaxPooling, "sum_pool": SumPooling}[kind]
    fields = ({"bias": layer.bias, "shift": layer.shift, "output": layer.output}
              if kind == "sum_pool" else {})
    pool = make(shape=source.shape, kernel=layer.kernel, stride=layer.stride,
                format=source.format, **fields)
    near(pool_cost(layer, source, family), synthesis.packed(pool, family, tmp_path), 0.15, 0.1)


@pytest.mark.parametrize(("family", "depth", "width"), [
    ("ecp5", 128, 8), ("ecp5", 256, 8), ("ecp5", 64, 40), ("ice40", 16, 4), ("ice40", 4, 30)])
def test_what_becomes_of_a_memory(family, depth, width, tmp_path):
    """Yosys takes the same of block RAM, distributed RAM and flip-flops as the estimate."""
    class Buffer(wiring.Component):
        put: Signal
        place: Signal
        i: Signal
        take: Signal
        other: Signal
        o: Signal

        def __init__(self):
            super().__init__({"put": In(1), "place": In(range(depth)), "i": In(width),
                              "take": In(1), "other": In(range(depth)), "o": Out(width)})

        def elaborate(self, platform):
            m = Module()
            m.submodules.ram = ram = Memory(shape=width, depth=depth, init=[],
                                            attrs={"no_rw_check": "1"})
            write, read = ram.write_port(), ram.read_port(domain="comb")
            m.d.comb += [write.addr.eq(self.place), write.data.eq(self.i), write.en.eq(self.put),
                         read.addr.eq(self.other)]
            with m.If(self.take):
                m.d.sync += self.o.eq(read.data)
            return m

    cells = synthesis.cells(Buffer(), family, tmp_path)
    _, ff, brams = memory_cells(family, depth, width)
    assert brams == cells["SB_RAM40_4K"] + cells["DP16KD"]
    if family == "ecp5" and not brams:
        assert cells["TRELLIS_DPR16X4"] == -(-depth // 16) * -(-width // 4)
    if ff:
        assert sum(n for kind, n in cells.items() if kind.startswith("SB_DFF")) == ff + width


def test_a_board_on_which_few_flip_flops_may_not_share_an_enable_takes_more():
    model, board = modelfile.load("digits"), boards.load("icestick")
    more = enables_cost(model, board)
    assert more == Cost(lut4=70)        # link, two engines, a pooling
    usual = replace(board, synth_opts=board.synth_opts.replace("16", "4"))
    assert enables_cost(model, usual) == enables_cost(model, ULX3S) == Cost()
    chosen = plan(model, board)
    assert chosen.overhead["enables"] == more
    assert chosen.cost == total([*(layer.cost for layer in chosen.layers),
                                 *chosen.overhead.values()])


def test_multiplier_blocks_only_where_there_are_some():
    """A small model of fixed-point weights: on a board without blocks, and on two with."""
    rng = np.random.default_rng(1)
    source = TensorType((6, 6, 2), ActivationFormat(8))
    layer = random_layer(rng, "dense", source, random_map(rng, source, 2), k=[1] * 4,
                         weights=FixedFormat(4), output=ActivationFormat(12, True))
    model = Model("fixed", source, (layer,))
    for name, most in (("ice40_hx8k_b_evn", 0), ("ice40", 8), ("ecp5", 156)):
        board = boards.load(name)
        assert board.resources.dsp == most
        chosen = plan(model, board)
        assert chosen.cost.dsp <= most
        assert (chosen.cost.dsp > 0) == chosen.layers[0].folding.dsp == (most > 0)
    assert not maps_to_blocks(FixedFormat(4), ActivationFormat(4), "ice40")     # 9 bits
    assert maps_to_blocks(FixedFormat(4), ActivationFormat(4), "ecp5")
    assert not maps_to_blocks(TermFormat(4), ActivationFormat(8), "ecp5")


def test_terms_of_all_formats_have_a_cost():
    costs = []
    for bits, exponent_bits in ((4, 2), (8, 2), (8, 3), (16, 4)):
        rng = np.random.default_rng(5)
        source = TensorType((4, 4, 2), ActivationFormat(bits))
        layer = random_layer(rng, "dense", source, random_map(rng, source, 2), k=[1, 1],
                             exponent_bits=exponent_bits, output=ActivationFormat(8, True))
        assert isinstance(layer, Dense)
        assert layer.format == TermFormat(exponent_bits)
        model = Model("one", source, (layer,))
        costs.append(cost_of(model, layer, Folding(1, 2)).lut4)
    assert costs == sorted(costs)
    assert isinstance(model.layers[0], Dense | Convolution)
    assert model.layers[0].inputs == (INPUT,)


def test_a_rate_that_waiting_makes_too_high_is_told_as_such(monkeypatch):
    """The layers keep to it and there is room: it is not the device, nor a layer."""
    class Waiting(designs.DesignSpace):
        def _timing(self, design):
            timing = super()._timing(design)
            return replace(timing, interval=timing.interval + 1000)

    monkeypatch.setattr(search, "DesignSpace", Waiting)
    with pytest.raises(BuildError, match="leave 1000 cycles each, but where the layers wait for "
                                         r"each other the network takes 1[0-9]{3}\n") as caught:
        plan(two_layers(), ULX3S, target_rate=ULX3S.clock.default_mhz * 1e3)
    assert caught.value.layer is None
    assert re.match("--target-rate [0-9]+ or less", caught.value.knob or "")
