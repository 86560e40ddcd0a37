# amaranth: UnusedElaboratable=no
"""The queue: order, exact depth, rate, and a block RAM without logic around it."""

import numpy as np
import pytest
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from flightrtl.gateware import StreamQueue
from tests.strategies import seeds, stalls
from tests.streams import PERIOD, run_streams
from tests.synthesis import cells


@given(depth=st.integers(2, 40), width=st.integers(1, 20), register=st.booleans(), seed=seeds(),
       stall=stalls("i", "o"))
def test_first_in_first_out(depth, width, register, seed, stall):
    values = np.random.default_rng(seed).integers(0, 1 << width, 200).tolist()
    run = run_streams(StreamQueue(width, depth, register=register), {"i": values}, {"o": 200},
                      seed=seed, stall=stall)
    assert run["o"] == values
    # Never more than `depth` in it.
    taken, left = run.cycles["i"], run.cycles["o"]
    assert all(taken[n] > left[n - depth] for n in range(depth, 200))


@pytest.mark.parametrize("register", [False, True])
@pytest.mark.parametrize("depth", [2, 3, 4, 5, 9, 18])
def test_it_holds_as_many_as_it_says(depth, register):
    queue = StreamQueue(8, depth, register=register)
    held = 0

    async def fill(ctx):
        nonlocal held
        ctx.set(queue.i.valid, 1)
        for _ in range(3 * depth + 8):
            _, _, ready = await ctx.tick().sample(queue.i.ready)
            held += ready

    simulator = Simulator(queue)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(fill)
    simulator.run()
    assert held == depth


@pytest.mark.parametrize(("depth", "register", "latency"), [
    (2, False, 1), (2, True, 1), (3, False, 2), (9, False, 2), (4, True, 3), (33, True, 3)])
def test_latency_and_rate(depth, register, latency):
    run = run_streams(StreamQueue(8, depth, register=register), {"i": range(100)}, {"o": 100})
    assert run.cycles["o"] == [cycle + latency for cycle in run.cycles["i"]]
    if depth > latency:
        assert run.cycles["i"] == list(range(100))


@pytest.mark.parametrize(("family", "memory"), [("ice40", "SB_RAM40_4K"), ("ecp5", "DP16KD")])
def test_one_block_ram_and_little_else(family, memory, tmp_path):
    count = cells(StreamQueue(8, 514, register=True), family, tmp_path)
    assert count[memory] == 1
    assert not count["TRELLIS_DPR16X4"]
    luts = count["LUT4"] + count["SB_LUT4"] + 2 * count["CCU2C"]
    assert luts <= 50
    # Two words, two addresses, four flags.
    flip_flops = sum(n for name, n in count.items() if name.startswith(("SB_DFF", "TRELLIS_FF")))
    assert flip_flops <= 2 * 8 + 2 * 9 + 4


def test_round_depths():
    asked = [0, 2, 3, 4, 5, 513, 514]
    for register, depths in ((False, [0, 2, 3, 5, 5, 513, 1025]),
                             (True, [0, 2, 3, 4, 6, 514, 514])):
        assert [StreamQueue.round(n, register=register) for n in asked] == depths
        for depth in depths[2:]:
            words = StreamQueue(1, depth, register=register).words
            assert words & (words - 1) == 0


def test_refuses():
    with pytest.raises(ValueError, match="depth must be 2 to 16777216, not 1"):
        StreamQueue(8, 1)
    with pytest.raises(TypeError, match="depth must be an integer, not 2.5"):
        StreamQueue(8, 2.5)
