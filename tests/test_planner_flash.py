# amaranth: UnusedElaboratable=no
"""Weights in the board's flash: plans, cycles to the cycle, and a board that is too small."""

from dataclasses import replace

import numpy as np
import pytest

from flightrtl import boards, golden
from flightrtl.errors import BuildError
from flightrtl.formats import ActivationFormat
from flightrtl.gateware import Flash, Folding, Framed, Network
from flightrtl.model import Model, TensorType
from flightrtl.planner import plan
from flightrtl.planner.cycles import measure
from flightrtl.planner.frame import board_flash
from sim import compiler
from sim.compare import compare
from sim.cxxrtl_engine import CxxrtlEngine
from sim.flash import Flashed, SpiFlash, with_flash
from tests.models import random_images, random_layer, random_map
from tests.streams import run_streams


def pair(hidden=(2, 2, 2), k=(1, 1), last=(1, 1, 2)):
    """A convolution of 2 x 2 and a dense layer."""
    rng = np.random.default_rng(1)
    source = TensorType(hidden, ActivationFormat(3))
    maps = random_map(rng, source, 4)
    first = random_layer(rng, "convolution", source, maps, name="first", stride=(1, 1),
                         kernel=(2, 2), padding=(1, 0, 1, 0), k=list(k), exponent_bits=3)
    between = TensorType(first.output_shape(source.shape), first.output)
    second = random_layer(rng, "dense", between, golden.apply(first, maps), name="second",
                          inputs=("first",), output=ActivationFormat(6, True), k=list(last),
                          exponent_bits=3)
    return Model("pair", source, (first, second))


@pytest.mark.parametrize(("register", "chosen"), [
    (False, {"first": Folding(2, 1), "second": Framed(2, 1, flash=Flash(0x1234, rest=3, wake=20))}),
    (True, {"first": Folding(2, 1), "second": Framed(1, 2, flash=Flash(0, 2, rest=1, wake=20))}),
    (True, {"first": Framed(1, 1, 2, flash=Flash(5, 3, wake=10)), "second": Framed(2, 2)}),
    (False, {"first": Framed(2, 2, flash=Flash(5, wake=5)), "second": Folding(2, 2)}),
])
def test_cycle_model(register, chosen):
    """Every logit, interval and latency, with a flash that sleeps at first."""
    model = pair()
    images = random_images(np.random.default_rng(0), model, 4)
    dut = with_flash(Network(model, chosen, memory_register=register))
    expected = golden.run(model, images)
    run = run_streams(dut, {"i": images.ravel().tolist()}, {"o": expected.size}, timeout=20_000)
    assert [word.logit for word in run["o"]] == expected.ravel().tolist()
    timing = measure(model, chosen, memory_register=register)
    ends = run.cycles["o"][model.output.size - 1::model.output.size]
    assert ends[0] - run.cycles["i"][0] == timing.latency
    assert np.diff(ends).tolist() == [timing.interval] * 3
    assert timing.interval >= dut.design.flashed.framed.cycles


def large():
    """A model whose dense layer has 23,000 bits of weights."""
    return pair((6, 6, 2), [1] * 2, [2] * 40)


def small_board(name="icebreaker"):
    board = boards.load(name)
    return replace(board, resources=replace(board.resources, bram=6))


@pytest.mark.skipif(compiler.search() is None, reason=compiler.INSTALL)
def test_a_network_that_does_not_fit_otherwise():
    """It runs at the pace of the flash, and gives every logit."""
    model, board = large(), small_board()
    with pytest.raises(BuildError, match="block RAMs") as error:
        plan(model, board)
    assert "--flash auto" in str(error.value.knob)
    chosen = plan(model, board, flash="auto")
    name, flash = chosen.flash
    assert name == "second"
    assert (flash.address, flash.half) == (0x100000, 1)
    bits = chosen.layers[1].weight_read_bits
    assert 16 * bits // 8 < chosen.cycles_per_inference < 16.2 * bits / 8
    assert chosen.cost.bram <= 6
    images = random_images(np.random.default_rng(0), model, 3)
    found = compare(CxxrtlEngine(), model, chosen, images, np.zeros(3, int), observe=True)
    assert found.mismatches == 0
    assert found.trace.cycles_per_inference == chosen.cycles_per_inference
    assert found.trace.latency_cycles == chosen.latency_cycles


def test_auto_leaves_alone_what_fits():
    assert plan(pair(), boards.load("icebreaker"), flash="auto").flash is None
    chosen = plan(pair(), boards.load("icebreaker"), flash="first", dataflow="frame")
    assert [layer.folding.flash is not None for layer in chosen.layers] == [True, False]


def test_no_room_in_the_flash():
    board = small_board()
    full = replace(board, flash=replace(board.flash, bytes=board.flash.address + 0x100))
    with pytest.raises(BuildError, match="no room in the flash of board 'icebreaker' from address "
                                         "0x100000 on"):
        plan(large(), full, flash="second")


def test_board_flash():
    """Never faster than the flash allows."""
    chip = boards.load("icebreaker").flash
    assert board_flash(chip, 39.75) == Flash(0x100000, 1, rest=4, wake=120)
    assert board_flash(chip, 100.5).half == 2


def test_one_flash_for_one_layer():
    flash = Flash()
    with pytest.raises(ValueError, match="layers 'first' and 'second' take their weights from a "
                                         "flash: there is one flash, for one layer"):
        Network(pair(), {"first": Framed(1, 1, flash=flash), "second": Framed(1, 1, flash=flash)})
    with pytest.raises(ValueError, match="leave out flash or external"):
        Framed(1, 1, external=True, flash=flash)
    with pytest.raises(TypeError, match="flash must be a Flash or None, not 0"):
        Framed(1, 1, flash=0)
    with pytest.raises(ValueError, match="no layer takes its weights from a flash"):
        Flashed(Network(pair(), {"first": Folding(1, 1), "second": Folding(1, 1)}))


def test_a_simulated_flash_sleeps_at_first():
    """And answers what it has, and ones where nothing was written."""
    async def ask(ctx, dut, command, count):
        got = []
        ctx.set(dut.pins.select, 1)
        for bit in [int(bit) for bit in f"{command:0{32 if command > 255 else 8}b}"] + [0] * count:
            ctx.set(dut.pins.data, bit)
            await ctx.tick()
            ctx.set(dut.pins.clock, 1)
            got.append(ctx.get(dut.pins.q))
            await ctx.tick()
            ctx.set(dut.pins.clock, 0)
        ctx.set(dut.pins.select, 0)
        await ctx.tick().repeat(2)
        return got[32:]

    async def bench(ctx):
        read = 0x03 << 24 | 0x101
        assert await ask(ctx, dut, read, 8) == [1] * 8
        await ask(ctx, dut, 0xAB, 0)
        assert await ask(ctx, dut, read, 16) == [0, 0, 1, 1, 0, 1, 0, 0] + [1] * 8
        assert await ask(ctx, dut, 0x9F << 24, 8) == [1] * 8

    from amaranth.sim import Simulator
    dut = SpiFlash(b"\x12\x34", 0x100)
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
