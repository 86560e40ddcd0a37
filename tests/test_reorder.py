# amaranth: UnusedElaboratable=no
"""What brings the results of frame-based weight reuse into order: ROMs, drain, delay, memory."""

import random

import numpy as np
import pytest
from amaranth import ClockDomain, Module, ResetInserter, Signal
from amaranth.sim import Simulator

from flightrtl.formats import ActivationFormat
from flightrtl.gateware import DelayLine, FrameDrain, MapReorder, RepeatingRom, RomStream
from flightrtl.gateware.repeatrom import repeating_rom
from tests.streams import PERIOD, run_streams
from tests.synthesis import cells


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("groups", [[[1, 2], [3]], [[1], [2, 3], [4], [5, 6, 7]],
                                    [[1, 2], [3, 4], [5, 6]], [[5]]])
def test_rom_repeats_groups(groups, stall):
    dut = RepeatingRom(8, groups, repeat=3)
    count = 2 * 3 * sum(map(len, groups)) + 2
    run = run_streams(dut, {}, {"o": count}, stall=stall, idle=0)
    assert run["o"] == dut.compute(count)
    if not stall:
        assert run.cycles["o"] == list(range(1, count + 1))


def test_rom_by_hand():
    assert RepeatingRom(8, [[1, 2], [3]], repeat=2).compute(8) == [1, 2, 1, 2, 3, 3, 1, 2]
    for groups, repeat in (([[1, 2]], 3), ([[1, 2], [1, 2]], 3), ([[1], [2, 3]], 1)):
        rom = repeating_rom(8, groups, repeat=repeat)
        assert isinstance(rom, RomStream)
        assert rom.compute(9) == RepeatingRom(8, groups, repeat=repeat).compute(9)
    with pytest.raises(ValueError, match="must not be empty"):
        RepeatingRom(8, [[1], []], repeat=1)


@pytest.mark.parametrize("register", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7, 8])
def test_delay(depth, register):
    """Steps with pauses between them; and after a reset as at first."""
    dut = DelayLine(8, depth, register=register)
    draw = random.Random(depth)
    words = [draw.randrange(1, 256) for _ in range(40)]
    assert dut.compute([1, 2, 3])[depth:] == [1, 2, 3][:max(0, 3 - depth)]

    async def bench(ctx):
        for _ in range(2):
            wait = 0
            ctx.set(dut.i, 0)
            while not ctx.get(dut.ready):
                await ctx.tick()
                wait += 1
            assert wait == dut.words
            found = []
            for word in words:
                while draw.random() < 0.3:
                    ctx.set(dut.i, draw.randrange(256))
                    await ctx.tick()
                ctx.set(dut.i, word)
                ctx.set(dut.step, 1)
                found.append(ctx.get(dut.o))
                await ctx.tick()
                ctx.set(dut.step, 0)
            assert found == dut.compute(words)
            ctx.set(reset, 1)
            await ctx.tick()
            ctx.set(reset, 0)

    m = Module()
    reset = Signal()
    m.domains.sync = ClockDomain()
    m.submodules.dut = ResetInserter(reset)(dut)
    simulator = Simulator(m)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.run()


def test_delay_is_block_ram(tmp_path):
    found = cells(DelayLine(64, 200), "ice40", tmp_path)
    assert found["SB_RAM40_4K"] == 4
    assert sum(count for kind, count in found.items() if kind.startswith("SB_DFF")) < 30


@pytest.mark.parametrize("stall", [0.0, {"i": 0.5}, {"o": 0.5}, 0.3])
def test_drain(stall):
    drain = [[(True, 2), (True, None)], [], [(True, 0), (True, 1), (False, 3)]]
    dut = FrameDrain(drain=drain, pixels=2, width=6)
    sums = list(range(-8, 8))
    expected = [-8, -6, -4, -3, 0, -2, -1, 0, 0, 2, 4, 5, 0, 6, 7, 0]
    assert dut.compute(sums) == expected
    run = run_streams(dut, {"i": sums}, {"o": len(expected)}, stall=stall)
    assert run["o"] == expected


@pytest.mark.parametrize("stall", [0.0, {"i": 0.5}, {"o": 0.5}, 0.3])
@pytest.mark.parametrize("register", [False, True])
@pytest.mark.parametrize(("order", "pixels"), [
    ([[2, 0], [1]], 3), ([[1, 0, 2]], 2), ([[0], [1], [2]], 1), ([[0, 1], [2, 3]], 4)])
def test_reorder(order, pixels, register, stall):
    form = ActivationFormat(5, True)
    dut = MapReorder(order=order, pixels=pixels, format=form, register=register)
    values = np.random.default_rng(0).integers(-16, 16, 6 * pixels * dut.filters)
    maps = dut.compute(values)
    assert dut.memory_bits == maps[0].size * 5
    first = values[:pixels * dut.filters]
    assert maps[0, 0, order[0][0]] == first[0]
    assert maps[0, -1, order[-1][-1]] == first[-1]
    run = run_streams(dut, {"i": values.tolist()}, {"o": values.size}, stall=stall)
    assert run["o"] == maps.ravel().tolist()
    if not stall:
        ends = len(order[-1]) - 1 - pixels * len(order[-1])
        assert run.cycles["o"][0] - run.cycles["i"][pixels * dut.filters + ends] == 2 + register


def test_reorder_names_every_filter():
    for order in ([[0, 2]], [[0], [0, 1]], [[0], []]):
        with pytest.raises(ValueError, match="must name every filter once"):
            MapReorder(order=order, pixels=1)
