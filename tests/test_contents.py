# amaranth: UnusedElaboratable=no
"""Contents of loadable designs: the shape that models share, and where their bits go."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from amaranth import ClockDomain, Elaboratable, Module, Value
from amaranth.lib import io

from flightrtl import boards, flow, modelfile, toolchain
from flightrtl.contents import Misfit, Shape, blank, fill, placeholder
from flightrtl.errors import BuildError
from flightrtl.formats import ActivationFormat
from flightrtl.gateware import Folding, LoadableStream, Network
from flightrtl.implement import FAMILIES, plan_commands
from flightrtl.loadable import loadable
from flightrtl.model import Model
from flightrtl.planner import plan
from tests.models import residual_network
from tests.test_blockram import WRITERS
from tests.test_loadable import other_model


@pytest.fixture(scope="module")
def digits():
    return modelfile.load("digits")


@pytest.fixture(scope="module")
def shape(digits):
    made = loadable(digits, "ice40")
    return Shape.of(made, plan(made, boards.load("icestick")))


def test_a_shape_outlives_a_file(shape):
    again = Shape.from_json(json.loads(json.dumps(shape.as_json())))
    assert again == shape
    assert again.hash == shape.hash
    assert len(shape.hash) == 16


def test_another_training_has_the_same_shape(digits, shape):
    other = shape.fit(other_model(digits))
    mine = shape.fit(digits)
    memories = [shape.network(model).memories for model in (mine, other)]
    assert [(each.depth, each.width) for each in memories[0]] == [
        (each.depth, each.width) for each in memories[1]]
    assert [each.words for each in memories[0]] != [each.words for each in memories[1]]


def test_what_is_wired_makes_the_shape(digits, shape):
    """Names and scales do not; layers, formats, foldings and capacities do."""
    assert shape.misfits(replace(digits, name="renamed", layers=tuple(
        replace(layer, name=f"{layer.name}x", inputs=tuple(
            name if name == "input" else f"{name}x" for name in layer.inputs))
        for layer in digits.layers))) == []
    for change in ({"bits": 6}, {"shape": [8, 9, 1]}):
        data = shape.as_json()
        assert Shape.from_json({**data, "input": {**data["input"], **change}}).hash != shape.hash
    for place, key in ((0, "folding"), (0, "capacity"), (0, "kernel"), (1, "stride")):
        data = copy.deepcopy(shape.as_json())
        del data["layers"][place][key]
        assert Shape.from_json(data).hash != shape.hash


def test_every_reason_is_told_at_once(digits, shape):
    conv, pool, dense = digits.layers
    wrong = Model("wrong", replace(digits.input, format=ActivationFormat(6)), (
        replace(conv, stride=(2, 2)), pool,
        replace(dense, shift=dense.shift + 9, bias=dense.bias * 1000)), {})
    with pytest.raises(Misfit) as raised:
        shape.fit(wrong)
    assert [reason.split(" and the design's")[0] for reason in str(raised.value).split("; ")] == [
        f"model 'wrong' does not fit this design (shape {shape.hash}): the image has bits 6",
        "layer 'conv1' has stride 2 x 2",
        "layer 'dense1' has sums of -2975 to 5960, with bias,",
        "layer 'dense1' has shifts of 10 to 10,"]
    with pytest.raises(Misfit, match="it has 2 layers and the design 3"):
        shape.fit(replace(digits, layers=digits.layers[1:]))


def test_additions_and_queues_are_of_the_shape():
    model = residual_network(np.random.default_rng(0))
    made = loadable(model, "ecp5")
    foldings = {name: Folding(1, 1) for name in made.capacities}
    network = Network(made, foldings, memory_register=True)
    chosen: Any = SimpleNamespace(foldings=foldings, queues=network.queues,
                                  board=boards.load("ecp5"))
    shape = Shape.of(made, chosen)
    fitted = shape.fit(other_model_of_residual(model))
    assert shape.network(fitted).queues == {
        name: tuple(shape.queues[str(n)]) for n, name in enumerate(
            layer.name for layer in model.layers) if str(n) in shape.queues}
    add = next(layer for layer in model.layers if layer.name == "add1")
    wrong = tuple(replace(layer, bias=layer.bias + 1) if layer is add else layer
                  for layer in model.layers)
    with pytest.raises(Misfit, match=f"layer 'add1' has bias {add.bias + 1} and the design's"):
        shape.fit(replace(model, layers=wrong))


def other_model_of_residual(model):
    """The same with the classes in another order."""
    *before, dense = model.layers
    order = np.arange(dense.filters)[::-1]
    assert set(dense.k) == {1}
    return replace(model, layers=(*before, replace(
        dense, terms=dense.terms[order], bias=dense.bias[order], shift=dense.shift[order])))


def test_placeholders_have_no_constant_bit():
    words = np.array(placeholder(1, 256, 24))
    assert placeholder(1, 256, 24) != placeholder(2, 256, 24)
    assert all(0 < (words >> bit & 1).sum() < 256 for bit in range(24))
    # Designs of earlier versions hold these.
    assert placeholder(0, 2, 12) == [2542, 294]


def memories(rng):
    """Small and deep, narrow and wide, with words of their own."""
    return [LoadableStream(width, rng.integers(0, 1 << width, words).tolist())
            for width, words in ((5, 20), (17, 300), (2, 900), (3, 2100))]


def laid_out(family, rng, contents):
    """A configuration with these words, as Yosys lays them out: some of every width of port.

    ``contents``: width, stride (ice40) or width of the port (ecp5), words.
    """
    rams = []
    for width, mode, words in contents:
        bits = np.array([[word >> bit & 1 for bit in range(width)] for word in words], np.uint8)
        if family == "ice40":
            columns = [part[phase::mode, bit] for first in range(0, len(bits), 256 * mode)
                       for part in [bits[first:first + 256 * mode]] for bit in range(width)
                       for phase in range(mode)]
            order = rng.permutation(-(-len(columns) // 16) * 16)
            for first in range(0, len(order), 16):
                ram = np.zeros((256, 16), np.uint8)
                for place, column in enumerate(order[first:first + 16]):
                    if column < len(columns):
                        ram[:len(columns[column]), place] = columns[column]
                rams.append(ram.ravel())
        else:
            depth = 18432 // mode if mode > 8 else 16384 // mode
            for first in range(0, width, mode):
                for start in range(0, len(bits), depth):
                    ram = np.zeros(2048 * 9, np.uint8)
                    for address, word in enumerate(bits[start:start + depth]):
                        for bit, value in enumerate(word[first:first + mode]):
                            place = address * mode + bit
                            ram[place if mode > 8 else place // 8 * 9 + place % 8] = value
                    rams.append(ram)
    rams.append(np.zeros_like(rams[0]))     # a row buffer
    return WRITERS[family](*[rams[n] for n in rng.permutation(len(rams))])


MODES = {"ice40": (1, 2, 4, 8), "ecp5": (36, 9, 18, 4)}


@pytest.mark.parametrize("family", MODES)
def test_bits_go_where_their_placeholders_are(family):
    rng = np.random.default_rng(1)
    new = memories(rng)

    def configuration(words):
        return laid_out(family, np.random.default_rng(2), [
            (each.width, mode, its + [0] * (each.depth - len(its)))
            for each, mode, its in zip(new, MODES[family], words, strict=True)])

    blank = configuration([placeholder(n, each.depth, each.width) for n, each in enumerate(new)])
    assert fill(blank, family, new) == configuration([each.words for each in new])


@pytest.mark.parametrize("family", MODES)
def test_a_bit_that_is_missing_or_doubled(family):
    new = memories(np.random.default_rng(1))[:1]
    words = placeholder(0, new[0].depth, new[0].width)
    once = [(5, MODES[family][0], words)]
    for contents, places in ((once * 2, 2), ([(5, MODES[family][0], words[::-1])], 0)):
        blank = laid_out(family, np.random.default_rng(0), contents)
        with pytest.raises(BuildError, match=f"bit 0 of word 0 of memory 0 is in {places} places"):
            fill(blank, family, new)
    with pytest.raises(BuildError, match="in 0 places"):
        fill("", family, new)


class Memories(Elaboratable):
    """Streams, and nothing else, on a board."""

    def __init__(self, board, streams):
        self.board, self.streams = board, streams

    def elaborate(self, platform):
        m = Module()
        domain: Any = ClockDomain("sync", reset_less=True)
        m.domains.sync = domain
        clock, led = self.board.clock.resource, self.board.leds[0].resource
        m.submodules.clock = pin = io.Buffer("i", platform.request(clock, dir="-"))
        m.submodules.led = led = io.Buffer("o", platform.request(led, 0, dir="-"))
        m.d.comb += domain.clk.eq(pin.i)
        for number, each in enumerate(self.streams):
            m.submodules[f"stream_{number}"] = each
            m.d.comb += each.o.ready.eq(1)
        m.d.sync += led.o.eq(sum(Value.cast(each.o.payload).xor() for each in self.streams))
        return m


@pytest.mark.parametrize("name", ["icestick", "ulx3s_12f"])
def test_the_same_as_if_the_contents_had_been_there_from_the_start(name, tmp_path):
    """Nextpnr's text, from the real tools: every RAM, and all the rest."""
    board = boards.load(name)
    family = FAMILIES[board.family]
    try:
        tools = {tool: toolchain.find(tool) for tool in family.tools[:2]}
    except BuildError as error:
        pytest.skip(f"the tool chain is not installed: {error}")

    def routed(streams, folder):
        folder.mkdir()
        build_plan = flow.prepare(Memories(board, streams), board, board.make_platform())
        build_plan.extract(str(folder))
        for tool, *arguments in plan_commands(build_plan)[:2]:
            toolchain.run(tools[tool], arguments, folder=folder, log=f"{tool}.log")
        return (folder / f"top{family.configuration}").read_text(encoding="utf-8")

    # Wide, deep and small ones. They have no constant bit, which Yosys would take away.
    first, second, third = (memories(np.random.default_rng(3)) for _ in range(3))
    blank(first)
    before, after = routed(first, tmp_path / "blank"), routed(second, tmp_path / "full")
    same = fill(before, board.family, third) == after
    assert before != after
    assert same     # by itself: a comparison of a megabyte of text would take minutes to tell
