# amaranth: UnusedElaboratable=no
"""Loadable models: padding, capacities, their networks, and other models loaded at run time."""

from dataclasses import replace

import numpy as np
import pytest
from amaranth import ResetInserter, Signal
from amaranth.sim import Simulator

from flightrtl import boards, golden, modelfile
from flightrtl.contents import loads
from flightrtl.errors import UserError
from flightrtl.formats import ActivationFormat, BinaryFormat, TermFormat
from flightrtl.gateware import Folding, Hardwired, Network
from flightrtl.loadable import loadable, pad, padded, total_range
from flightrtl.model import Convolution, Dense, Model, TensorType
from flightrtl.planner import plan
from flightrtl.planner.cycles import measure
from tests.models import extreme_maps, random_images, random_layer, random_map, random_model
from tests.streams import PERIOD
from tests.test_loadablestream import load
from tests.test_network import simulate


def other_model(model, seed=0):
    """Another model of the same shape: filters, and who takes them, in another order."""
    rng = np.random.default_rng(seed)
    layers, order = [], None
    for layer in model.layers:
        if isinstance(layer, (Convolution, Dense)):
            new = rng.permutation(layer.filters)
            slots = np.concatenate([np.flatnonzero(layer.slot_filter == n) for n in new])
            terms = layer.terms[slots]
            layer = replace(layer, terms=terms if order is None else terms[..., order],
                            k=tuple(layer.k[n] for n in new), bias=layer.bias[new],
                            shift=layer.shift[new], scale=layer.scale[new])
            order = new
        layers.append(layer)
    return Model(f"{model.name}-other", model.input, tuple(layers), model.provenance)


def small(seed, **more):
    rng = np.random.default_rng(seed)
    model = random_model(rng, input_shape=(5, 5, 2), classes=3, exponent_bits=2,
                         kinds=["convolution", "max_pool", "dense"], activation_bits=4, **more)
    return rng, model


@pytest.mark.parametrize("seed", [0, 1, 6, 9])
def test_network_equals_golden_and_its_cycle_model(seed):
    """With one or two parts of parameters, a register behind memories, pruned filters, spares."""
    rng, model = small(seed)
    register = bool(seed % 2)
    made = loadable(model, "ecp5" if register else "ice40", terms=3 if seed % 3 == 0 else None)
    foldings = {name: Folding(1 + seed % 4, 1) for name in made.capacities}
    images = random_images(rng, model, 6)
    expected = golden.run(model, images)
    np.testing.assert_array_equal(golden.run(made, images), expected)
    network = Network(made, foldings, memory_register=register)
    np.testing.assert_array_equal(network.compute(images), expected)
    timing = measure(made, foldings, memory_register=register)
    run = simulate(network, images)
    ends = run.cycles["o"][model.output.size - 1::model.output.size]
    assert ends[0] - run.cycles["i"][0] == timing.latency
    assert max(ends[-1] - ends[-2], ends[-2] - ends[-3]) == timing.interval
    simulate(Network(made, foldings, memory_register=register), images[:2], stall=0.4, seed=seed)


def test_groups_of_channels():
    """Each group has passes of its own, and room for as many slots."""
    rng = np.random.default_rng(4)
    source = TensorType((4, 4, 4), ActivationFormat(3))
    maps = random_map(rng, source, 4)
    conv = random_layer(rng, "convolution", source, maps, k=[2, 0, 1, 1], kernel=(2, 2),
                        stride=(1, 1), padding=(0, 0, 0, 0), exponent_bits=2, groups=2,
                        output=ActivationFormat(8, True), name="conv")
    middle = TensorType((3, 3, 4), ActivationFormat(8, True))
    dense = random_layer(rng, "dense", middle, golden.apply(conv, maps), k=[1, 2], name="dense",
                         inputs=("conv",), exponent_bits=2, output=ActivationFormat(8, True))
    model = Model("groups", source, (conv, dense), {})
    made = loadable(model, "ice40")
    assert made.capacities["conv"].slots == 6
    network = Network(made, {"conv": Folding(2, 1), "dense": Folding(1, 2)})
    images = random_images(rng, model, 3)
    np.testing.assert_array_equal(network.compute(images), golden.run(model, images))
    simulate(network, images, stall=0.2)


def test_parameters_come_in_parts_only_where_there_is_time():
    made = loadable(modelfile.load("mnist"), "ice40")
    network = Network(made, {name: Folding(2, 1) for name in made.capacities})
    assert {stage.parameters.parts for stage in network.stages.values()} == {2}
    wide = Network(made, {name: Folding(30, 1) for name in made.capacities})
    assert wide.stages["conv1"].parameters.parts == 1


@pytest.mark.parametrize("register", [False, True])
def test_a_model_that_is_written_at_run_time(register):
    """Both models classify their images, in a design that was made for the first."""
    rng, model = small(0)
    first = loadable(model, "ecp5" if register else "ice40", writable=True)
    foldings = {name: Folding(2, 1) for name in first.capacities}
    network = Network(first, foldings, memory_register=register)
    second = other_model(model)
    made = padded(second, first.capacities, writable=True)
    memories = Network(made, foldings).memories
    assert [memory.number for memory in network.memories] == [0, 1, 2, 3]
    images = random_images(rng, model, 3)
    logits = [golden.run(each, images) for each in (model, second)]
    assert (logits[0] != logits[1]).any()
    found, reset = [], Signal()

    async def classify(ctx):
        for image in images:
            sent, got = image.ravel().tolist(), []
            while len(got) < model.output.size:
                ctx.set(network.i.valid, bool(sent))
                if sent:
                    ctx.set(network.i.payload, sent[0])
                ctx.set(network.o.ready, 1)
                _, _, taken, valid, payload = await ctx.tick().sample(
                    network.i.ready, network.o.valid, network.o.payload)
                if taken and sent:
                    sent.pop(0)
                if valid:
                    got.append(payload.logit)
            found.append(got)

    async def bench(ctx):
        await classify(ctx)
        ctx.set(reset, 1)
        for number, first, data in loads(memories, 50):
            assert len(data) == 50
            await load(ctx, network.write, number, data, first)
        ctx.set(reset, 0)
        await classify(ctx)

    async def patience(ctx):
        await ctx.tick().repeat(20_000)
        raise AssertionError("the network gives no more logits")

    simulator = Simulator(ResetInserter(reset)(network))
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.add_testbench(patience, background=True)
    simulator.run()
    np.testing.assert_array_equal(found, np.concatenate(logits))


def test_padding_changes_nothing():
    rng = np.random.default_rng(2)
    source = TensorType((4, 4, 3))
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 2), k=[0, 2, 0, 1])
    assert isinstance(layer, Convolution)
    more = pad(layer, 11)
    assert sum(more.k) == 11
    assert min(more.k) >= 1
    np.testing.assert_array_equal(more.weights, layer.weights)
    with pytest.raises(ValueError, match="takes 5 slots, more than 4"):
        pad(layer, 4)


def test_range_of_totals_is_reached():
    rng = np.random.default_rng(5)
    source = TensorType((3, 3, 2), ActivationFormat(4, True))
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 4), kernel=(3, 3),
                         stride=(1, 1), padding=(0, 0, 0, 0), k=[2, 1, 0])
    layer = replace(layer, shift=np.zeros(3, np.int64), output=ActivationFormat(16, True))
    ends = np.concatenate([golden.apply(layer, extreme_maps(layer, source, n)).ravel()[n::3]
                           for n in range(3)])
    assert (ends.min(), ends.max()) == total_range(layer, source.format)


def test_room_for_more_terms():
    model = modelfile.load("digits")
    least = loadable(model, "ice40").capacities
    room = loadable(model, "ice40", terms=2).capacities
    assert [each.slots for each in least.values()] == [9, 16]
    assert [each.slots for each in room.values()] == [16, 20]
    with pytest.raises(UserError, match=r"layer 'dense1' has 1.6 terms .* does not fit 1.3"):
        loadable(model, "ice40", terms=1.3)


def test_every_reason_why_a_layer_does_not_fit():
    model = modelfile.load("digits")
    layer = model.layers[0]
    capacity = loadable(model, "ice40").capacities["conv1"]
    assert capacity.misfits(layer, model.input.format) == []
    tight = replace(capacity, slots=8, width=9, least=4, shift_bits=0)
    assert [reason.split(" and the")[0].split(", and")[0].rstrip(",") for reason in tight.misfits(
        layer, model.input.format)] == [
        "layer 'conv1' has 9 terms per weight in all its filters together",
        "layer 'conv1' has sums of -279 to 279, with bias",
        "layer 'conv1' has shifts of 3 to 3"]


def test_binary_filters_cannot_be_pruned():
    rng = np.random.default_rng(1)
    image = TensorType((2, 2, 4), ActivationFormat(1))
    dense = random_layer(rng, "dense", image, random_map(rng, image, 4), k=[1, 0, 1],
                         weights=BinaryFormat(), output=ActivationFormat(8, True))
    with pytest.raises(UserError, match="no BinaryFormat code for the weight 0"):
        loadable(Model("binary", image, (dense,), {}), "ice40")


def test_what_cannot_be_loaded_is_refused():
    model = modelfile.load("digits")
    with pytest.raises(ValueError, match="'conv1' is hard-wired"):
        Network(loadable(model, "ice40"), {"conv1": Hardwired(), "dense1": Folding(1, 1)})
    planned = plan(loadable(model, "ecp5"), boards.load("ecp5"), target_rate=200_000)
    assert all(isinstance(folding, Folding) for folding in planned.foldings.values())
    assert isinstance(model.layers[0].format, TermFormat)
