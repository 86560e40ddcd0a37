# amaranth: UnusedElaboratable=no
"""What each layer does in an inference, and which of them is the first to be wrong."""

import json
from dataclasses import replace

import numpy as np
import pytest
from amaranth import Module, Signal
from amaranth.lib import wiring

from flightrtl import boards, golden, modelfile, planner, samples
from flightrtl.errors import UserError
from flightrtl.formats import ActivationFormat
from flightrtl.gateware import Network
from flightrtl.gateware.buffer import StreamBuffer
from flightrtl.gateware.engine import LayerEngine
from flightrtl.model import INPUT
from flightrtl.planner.cycles import measure
from sim import compiler, cxxrtl
from sim.__main__ import main
from sim.amaranth_engine import simulate
from sim.engine import Stuck
from sim.layers import activity, count
from sim.observed import Observed
from sim.tracing import compare_layers, require_room
from tests.models import FOR_SMALL_BOARDS, random_images, random_model

PATIENCE = 600

compiled = pytest.mark.skipif(compiler.search() is None,
                              reason=f"there is no C++ compiler: {compiler.INSTALL}")


class Faulty(StreamBuffer):
    """A buffer that loses its transfer number ``at``, repeats it, or stops before it."""

    def __init__(self, shape, at, fault):
        self.at, self.fault = at, fault
        super().__init__(shape)

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = StreamBuffer(self.i.payload.shape())
        wiring.connect(m, inner.o, wiring.flipped(self.o))
        count, again = Signal(16), Signal()
        then, repeated = Signal.like(count), Signal()
        here, next_here = count == self.at, then == self.at
        m.d.comb += [inner.i.payload.eq(self.i.payload), inner.i.valid.eq(self.i.valid),
                     self.i.ready.eq(inner.i.ready), self.fills.eq(inner.fills),
                     then.eq(count + (self.i.valid & self.i.ready)), repeated.eq(again)]
        if self.fault == "lose":
            with m.If(here):
                m.d.comb += [inner.i.valid.eq(0), self.i.ready.eq(1)]
            with m.If(next_here):
                m.d.comb += self.fills.eq(0)
        elif self.fault == "repeat":
            with m.If(here & ~again):
                m.d.comb += [self.i.ready.eq(0), repeated.eq(self.i.valid & inner.i.ready)]
            with m.If(next_here & ~repeated):
                m.d.comb += self.fills.eq(1)
        else:
            with m.If(here):
                m.d.comb += [inner.i.valid.eq(0), self.i.ready.eq(0)]
            with m.If(next_here):
                m.d.comb += self.fills.eq(1)
        m.d.sync += [count.eq(then), again.eq(repeated)]
        return m


@pytest.fixture(scope="module")
def case():
    """A model with pooling between its layers, its foldings, and images."""
    rng = np.random.default_rng(12)
    model = random_model(rng, input_shape=(9, 8, 2), input_format=ActivationFormat(8),
                         kinds=("convolution", "max_pool", "convolution", "dense"), classes=5,
                         activation_bits=8)
    plan = planner.plan(model, boards.load("ice40"), target_rate=1e5)      # all on engines
    return model, plan.foldings, random_images(rng, model, 3)


def build(case):
    model, foldings, images = case
    return Observed(Network(model, foldings)), images


def trace(network, images):
    """Simulate, be it to the end or not, and compare every layer."""
    streams = network.streams.values()
    try:
        run = simulate(network, images, patience=PATIENCE, observe=streams)
    except Stuck as stuck:
        return compare_layers(network, images, stuck.observed, offering=stuck.offering), stuck
    return compare_layers(network, images, run.observed), None


def weighted(network):
    return [name for name, stage in network.network.stages.items()
            if isinstance(stage, LayerEngine)]


def test_layers_that_are_right(case):
    network, images = build(case)
    traces, stuck = trace(network, images)
    assert stuck is None
    assert traces.culprit is None
    assert traces.verdict == "every value of every layer is the golden model's"
    truth = golden.trace(network.model, images)
    for layer in traces.layers:
        assert layer.right
        assert layer.given == layer.expected == truth[layer.name].size
        assert layer.problem == ""
        assert f"{layer.expected:,}" in traces.as_text()
    assert [layer.name for layer in traces.layers] == list(network.network.stages)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_wrong_bias_is_found(case, which):
    """The same fault in the golden model says which value differs first, and how."""
    network, images = build(case)
    model, name = network.model, weighted(network)[which]
    layer = next(layer for layer in model.layers if layer.name == name)
    faulty = int(np.flatnonzero(np.array(layer.k))[-1])
    step = 3 << int(layer.shift[faulty])
    network.network.stages[name].requantizer.bias[faulty] += step

    truth = golden.trace(model, images)
    wrong = layer.bias.copy()
    wrong[faulty] += step
    source = truth[layer.inputs[0]]
    given = golden.apply(replace(layer, bias=wrong), source)
    image, row, column, channel = np.argwhere(given != truth[name])[0]

    traces, _ = trace(network, images)
    found = traces.culprit
    assert found.name == name
    assert found.differing == (given != truth[name]).sum()
    first = found.first
    assert (first.image, first.row, first.column, first.channel) == (image, row, column, channel)
    assert first.value == given[image, row, column, channel]
    assert first.expected == truth[name][image, row, column, channel]
    assert first.slip == 0
    assert traces.verdict == (
        f"layer {name!r} is the first that differs: image {image}, row {row}, column {column}, "
        f"channel {channel} is {first.value}, must be {first.expected}")
    before = [layer.right for layer in traces.layers]
    assert all(before[:list(network.streams).index(name)])
    assert traces.as_json()["first"] == name


@pytest.mark.parametrize(("fault", "slip", "words"), [
    ("lose", 1, "a value is missing"), ("repeat", -1, "a value too many")])
def test_a_value_lost_or_repeated_is_found(case, fault, slip, words):
    network, images = build(case)
    name = weighted(network)[1]
    engine = network.network.stages[name]
    truth = golden.trace(network.model, images)[name]
    flat = truth.reshape(-1)
    # Not the same as its neighbours, so that the place is exact.
    at = next(n for n in range(flat.size // 4, flat.size)
              if flat[n - 1] != flat[n] != flat[n + 1] and flat[n + 1] != flat[n + 2])
    engine.buffer = Faulty(engine.buffer.i.payload.shape(), at, fault)
    traces, stuck = trace(network, images)
    assert (stuck is not None) == (fault == "lose")
    found = traces.culprit
    assert found.name == name
    assert found.first.slip == slip
    place = at if fault == "lose" else at + 1
    assert (found.first.image, found.first.row, found.first.column,
            found.first.channel) == np.unravel_index(place, truth.shape)
    assert words in traces.verdict
    assert found.given == found.expected - slip or fault == "repeat"


def test_a_stream_that_is_short_is_found(case):
    network, images = build(case)
    name = weighted(network)[1]
    engine = network.network.stages[name]
    shape = golden.trace(network.model, images)[name].shape
    engine.buffer = Faulty(engine.buffer.i.payload.shape(), int(np.prod(shape)) - 1, "lose")
    traces, stuck = trace(network, images)
    assert "stuck: no transfer in" in str(stuck)
    found = traces.culprit
    assert found.name == name
    assert (found.given, found.differing) == (found.expected - 1, 0)
    row, column, channel = (size - 1 for size in shape[1:])
    assert traces.verdict.endswith(
        f"image 2, row {row}, column {column}, channel {channel} is missing, and all after it")
    later = compare_layers(network, images, stuck.observed, offering=stuck.offering,
                           first_image=16)
    assert "is the first that differs: image 18, row" in later.verdict


def test_a_layer_that_stops_is_named_and_not_those_that_wait_for_it(case):
    network, images = build(case)
    first, name = weighted(network)[:2]
    engine = network.network.stages[name]
    engine.buffer = Faulty(engine.buffer.i.payload.shape(), 1, "stop")
    traces, stuck = trace(network, np.concatenate([images] * 3))
    assert stuck is not None
    waiting = {layer.name: layer for layer in traces.layers}[first]
    assert waiting.given < waiting.expected
    assert waiting.offering
    assert traces.culprit.name == name
    assert not any(layer.differing for layer in traces.layers)


def bundled(name, board, rate=None):
    model, target = modelfile.load(name), boards.load(board)
    plan = planner.plan(model, target, target_rate=rate)
    network = Observed(Network(model, plan.foldings, memory_register=target.memory_register))
    return plan, network, samples.load(name)[0].astype(np.int64)


def check_activity(found, network, timing):
    """The simulation did what the cycle model foresees, and every cycle is accounted for."""
    model = network.model
    assert found.steady
    assert found.interval == timing.interval
    assert [layer.name for layer in found.layers] == ["input", *network.network.stages]
    for layer in found.layers:
        assert layer.busy + layer.starved + layer.stalled == found.interval
        size = (model.input if layer.name == "input" else model.tensors[layer.name]).size
        assert layer.given == size // network.pixels(layer.name)
        kinds = [type(each).__name__.lower() for each in model.layers if each.name == layer.name]
        assert layer.type.replace("_", "") == "".join(kinds)
        if layer.lanes:
            assert (layer.busy, layer.starved) == (timing.busy[layer.name],
                                                   timing.starved[layer.name])


@pytest.mark.parametrize(("board", "engine"), [
    ("icestick", "python"), pytest.param("icestick", "cxxrtl", marks=compiled),
    ("ecp5", "python")])
def test_activity_is_what_the_planner_foresees(board, engine):
    plan, network, images = bundled("digits", board)
    if engine == "cxxrtl":
        counts = count(cxxrtl.build(network).simulation(), network, images, patience=5000)
    else:
        counts = simulate(network, images[:12], patience=5000).counts
    found = activity(network, counts)
    timing = measure(network.model, plan.foldings, memory_register=plan.board.memory_register)
    check_activity(found, network, timing)
    for layer in found.layers:
        planned = [each.cycles for each in plan.layers if each.name == layer.name]
        assert [layer.needs] == (planned or [network.model.input.size])
    assert {layer.name for layer in found.slowest} == {
        layer.name for layer in plan.layers if layer.cycles == plan.slowest.cycles}
    assert found.verdict.startswith(f"{plan.slowest.name} holds the network up: it needs ")
    marked = [line for line in found.as_text().splitlines() if "<- slowest" in line]
    assert [line.split()[0] for line in marked] == [layer.name for layer in found.slowest]
    assert [row["busy"] for row in found.as_json()["rows"]] == [
        layer.busy for layer in found.layers]


@pytest.mark.parametrize("seed", [101, 104, 107])
def test_activity_of_random_networks(seed):
    rng = np.random.default_rng(seed)
    model = random_model(rng, input_shape=tuple(rng.integers(1, [7, 7, 4])))
    plan = planner.plan(model, boards.load("ice40"))
    network = Observed(Network(model, plan.foldings))
    run = simulate(network, random_images(rng, model, 12), patience=5000)
    check_activity(activity(network, run.counts), network, measure(model, plan.foldings))


def test_activity_takes_images_enough():
    _, network, images = bundled("digits", "ice40")
    assert simulate(network, images[:1], patience=5000).counts is None
    assert activity(network, simulate(network, images[:2], patience=5000).counts) is None


@compiled
def test_counting_tells_a_stuck_network():
    _, network, images = bundled("digits", "ice40", 20_000)
    with pytest.raises(Stuck, match="no transfer in 3 cycles, in image 0 of those"):
        count(cxxrtl.build(network).simulation(), network, images, patience=3)


@pytest.fixture
def broken_digits(monkeypatch):
    """The network of ``digits`` with a fault of the given kind in ``conv1``; and its first effect.

    Only what is simulated has it; the golden model, and all that is expected, do not.
    """
    model = modelfile.load("digits")
    images = samples.load("digits")[0].astype(np.int64)
    layer = model.layers[0]
    truth = golden.trace(model, images)["conv1"]

    def plant(fault):
        def faulty(*arguments, **options):
            network = Network(*arguments, **options)
            stage = network.stages["conv1"]
            if fault == "term":
                # The sign of one weight, in the ROM: the filter of lane 0, the last word.
                stage.weights.words[stage.folded.words - 1] ^= 1 << layer.format.exponent_bits
            else:
                stage.buffer = Faulty(stage.buffer.i.payload.shape(), 400, fault)
            return network

        monkeypatch.setattr("sim.compare.Network", faulty)
        monkeypatch.setattr("sim.waves.Network", faulty)

    terms = layer.terms.copy()
    terms[0, -1, -1, -1] ^= 1 << layer.format.exponent_bits
    wrong = golden.apply(replace(layer, terms=terms), images[..., :])
    place = np.argwhere(wrong != truth)[0]
    return plant, place, int(wrong[tuple(place)]), int(truth[tuple(place)])


@pytest.mark.parametrize("engine", ["python", pytest.param("cxxrtl", marks=compiled)])
def test_the_command_names_layer_pixel_channel_and_values(engine, broken_digits, capsys):
    plant, (image, row, column, channel), value, expected = broken_digits
    plant("term")
    arguments = ["digits", "--images", "4", "--engine", engine, "--target-rate", "9000"]
    verdict = (f"error: layer 'conv1' is the first that differs: image {image}, row {row}, column "
               f"{column}, channel {channel} is {value}, must be {expected}")
    assert main([*arguments, "--trace-layers"]) == 1
    output = capsys.readouterr()
    assert output.err.splitlines()[-1] == verdict
    assert "differ" in output.out
    assert main([*arguments, "--trace-layers", "--json"]) == 1
    trace = json.loads(capsys.readouterr().out)["trace"]
    assert trace["first"] == "conv1"
    assert trace["layers"][0]["first"] == {
        "image": image, "row": row, "column": column, "channel": channel, "value": value,
        "expected": expected, "slip": 0}
    if main(arguments) == 1:  # it may be that no logit changes
        assert "what helps: --trace-layers" in capsys.readouterr().err


@compiled
def test_the_command_names_the_layer_that_loses_a_value(broken_digits, capsys, tmp_path):
    plant, *_ = broken_digits
    plant("lose")
    arguments = ["digits", "--images", "3", "--engine", "cxxrtl", "--board", "icestick"]
    path = tmp_path / "wrong.vcd"
    with pytest.raises(Stuck, match=r"is stuck: no transfer(.|\n)*layer 'conv1' is the first that "
                                    r"differs: image 1, row .* a value is missing"):
        main([*arguments, "--trace-layers", "--vcd", str(path)])
    told = capsys.readouterr().err
    assert "recording image 1 of 3 in " in told
    # Alone, from reset, this image does not come as far as the fault.
    assert "it ends where" not in told
    assert path.stat().st_size > 100_000
    with pytest.raises(Stuck, match=r"is stuck(.|\n)*what helps: --trace-layers, which names"):
        main(arguments)


@compiled
@pytest.mark.parametrize("form", ["vcd", "fst"])
def test_the_command_records_the_image_that_is_wrong(form, broken_digits, capsys, tmp_path):
    plant, (image, *_), *_ = broken_digits
    plant("term")
    path = tmp_path / f"wrong.{form}"
    assert main(["digits", "--images", "4", "--engine", "cxxrtl", "--trace-layers",
                 "--target-rate", "9000", f"--{form}", str(path)]) == 1
    assert f"recording image {image} of 4 in " in capsys.readouterr().err
    assert path.stat().st_size > 10_000


@compiled
@pytest.mark.parametrize("name", FOR_SMALL_BOARDS)
def test_bundled_models_are_as_busy_as_planned(name):
    plan, network, images = bundled(name, "ice40")
    counts = count(cxxrtl.build(network).simulation(), network, images, patience=200_000)
    found = activity(network, counts)
    assert found.steady
    assert found.interval == plan.cycles_per_inference
    slowest = {layer.name for layer in plan.layers if layer.cycles == plan.slowest.cycles}
    if plan.cycles_per_inference == network.model.input.size:
        slowest.add(INPUT)
    assert {layer.name for layer in found.slowest} == slowest
    for layer in found.layers:
        assert layer.cycles == found.interval
        assert layer.needs - layer.stalled <= layer.busy <= layer.needs
    # The cycle model looks at the first interval that is as long as the one before, be the
    # buffers full by then or not.
    spans = counts[:, 0, :3].sum(axis=1)
    looked_at = next((n for n in range(2, len(spans)) if spans[n] == spans[n - 1]), -1)
    timing = measure(network.model, plan.foldings, memory_register=plan.board.memory_register)
    for place, counted in zip(network.places, counts[looked_at], strict=True):
        if place in timing.busy:
            assert tuple(counted[:2]) == (timing.busy[place], timing.starved[place])


@pytest.mark.parametrize(("arguments", "message"), [
    (["--level", "netlist", "--trace-layers"], "look into the gateware's source: leave them out"),
    (["--level", "bitstream", "--vcd", "a.vcd"], "look into the gateware's source: leave them"),
    (["--fst", "no/such/folder/a.fst"], "there is no folder no.such.folder: make it first"),
    (["--trace-layers", "--images", "9999999"], "choose at most "),
])
def test_refuses(arguments, message):
    with pytest.raises(UserError, match=message):
        main(["digits", *arguments])


def test_refuses_more_values_than_fit():
    model = modelfile.load("mnist")
    require_room(model, 10_000)
    with pytest.raises(UserError, match=r"--trace-layers keeps every .* choose at most"):
        require_room(model, 1_000_000)
