# amaranth: UnusedElaboratable=no
"""Hard-wired layers against the golden model: any layer, any weights, random stalls."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl import golden, modelfile
from flightrtl.formats import ActivationFormat
from flightrtl.gateware import HardwiredConvolution, HardwiredDense, HardwiredLayer
from flightrtl.model import TensorType
from flightrtl.shiftadd import shift_add
from tests.models import extreme_maps, random_layer, random_map
from tests.strategies import (
    activation_formats,
    paddings,
    seeds,
    stalls,
    strides,
    weight_formats,
)
from tests.streams import run_streams


def simulate(dut, maps, **options):
    layer = dut.layer
    expected = golden.apply(layer, maps)
    assert dut.compute(maps).tolist() == expected.tolist()
    width = dut.channels
    transfers = maps.ravel().tolist() if width == 1 else maps.reshape(-1, width).tolist()
    run = run_streams(dut, {"i": transfers}, {"o": expected.size // layer.filters},
                      timeout=20_000, **options)
    got = [[word] if layer.filters == 1 else [word[n] for n in range(layer.filters)]
           for word in run["o"]]
    assert got == expected.reshape(-1, layer.filters).tolist()
    return run


@st.composite
def cases(draw):
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 4])))
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return {"shape": shape, "format": draw(activation_formats(8)),
            "kind": draw(st.sampled_from(["convolution", "dense"])),
            "kernel": kernel, "padding": draw(paddings(kernel, shape)), "stride": draw(strides()),
            "weights": draw(weight_formats()), "output": draw(activation_formats()),
            "filters": draw(st.integers(1, 4)),
            "channels": draw(st.sampled_from([0, *(n for n in (1, 2, 4) if shape[2] % n == 0)])),
            "stage": draw(st.integers(1, 3)), "register": draw(st.booleans()),
            "seed": draw(seeds())}


@given(cases(), stalls("i", "o"))
def test_equals_the_golden_model(case, stall):
    rng = np.random.default_rng(case["seed"])
    source = TensorType(case["shape"], case["format"])
    layer = random_layer(rng, case["kind"], source, random_map(rng, source, 4),
                         kernel=case["kernel"], stride=case["stride"], padding=case["padding"],
                         weights=case["weights"], output=case["output"], filters=case["filters"])
    maps = np.concatenate([random_map(rng, source, 2), extreme_maps(layer, source, 0)])
    dut = HardwiredLayer(layer, source, channels=case["channels"], stage=case["stage"],
                         register=case["register"])
    simulate(dut, maps, seed=case["seed"], stall=stall)


@pytest.mark.parametrize(("stage", "register"), [(1, False), (2, False), (1, True)])
def test_bundled_layer_at_its_pace(stage, register):
    """The digits' first layer: a pixel in every cycle, over the edges of images too."""
    model = modelfile.load("digits")
    layer = model.layers[0]
    dut = HardwiredConvolution(layer, model.input, stage=stage, register=register)
    maps = random_map(np.random.default_rng(0), model.input, 4)
    run = simulate(dut, maps)
    assert run.cycles["i"] == list(range(4 * 64))
    assert run.cycles["o"][0] - run.cycles["i"][2 * 8 + 2] == dut.latency
    assert run.cycles["o"][-1] - run.cycles["i"][-1] == dut.latency
    assert dut.latency == 4 + dut.sums.graph.latency(stage) + register


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_fewer_channels_take_more_cycles(channels):
    rng = np.random.default_rng(0)
    source = TensorType((4, 5, 4), ActivationFormat(4))
    maps = random_map(rng, source, 3)
    layer = random_layer(rng, "convolution", source, maps, kernel=(2, 2), stride=(1, 1),
                         padding=(0, 0, 0, 0), filters=3)
    dut = HardwiredLayer(layer, source, channels=channels)
    run = simulate(dut, maps)
    assert run.cycles["i"] == list(range(3 * 20 * 4 // channels))


def test_graph_may_be_given():
    model = modelfile.load("digits")
    layer = model.layers[0]
    graph = shift_add(layer.weights.reshape(8, -1), model.input.format)
    assert HardwiredLayer(layer, model.input, graph=graph).sums.graph is graph
    for other in (shift_add(layer.weights.reshape(8, -1) * 2, model.input.format),
                  shift_add(layer.weights.reshape(8, -1), ActivationFormat(3)),
                  shift_add([[1]], model.input.format)):
        with pytest.raises(ValueError, match="'conv1': the graph computes other weights"):
            HardwiredLayer(layer, model.input, graph=other)


def test_wrong_kind_of_layer():
    model = modelfile.load("digits")
    conv, pool, dense = model.layers
    with pytest.raises(TypeError, match="layer must be a Convolution, not"):
        HardwiredConvolution(dense, model.source(dense))
    with pytest.raises(TypeError, match="layer must be a Dense, not"):
        HardwiredDense(conv, model.input)
    with pytest.raises(TypeError, match="layer must be a Convolution or Dense, not"):
        HardwiredLayer(pool, model.source(pool))
    with pytest.raises(ValueError, match="source=3 must divide channels=8"):
        HardwiredDense(dense, model.source(dense), channels=3)
