# amaranth: UnusedElaboratable=no
"""Parameters of slots, read from memory in parts."""

import numpy as np
import pytest
from amaranth import ResetInserter, Signal
from amaranth.sim import Simulator

from flightrtl.gateware import ParameterStream
from tests.streams import PERIOD, run_streams
from tests.test_loadablestream import load

WIDTH, SHIFT_BITS = 13, 3


def words(seed, count=5):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 1 << 2 + WIDTH + SHIFT_BITS, count).tolist()


def raw(payload):
    return (payload.first | payload.ends << 1 | (payload.bias & (1 << WIDTH) - 1) << 2
            | payload.shift << 2 + WIDTH)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("register", [False, True])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_words_of_parts(parts, register, stall):
    dut = ParameterStream(words(parts), width=WIDTH, shift_bits=SHIFT_BITS, parts=parts,
                          register=register)
    run = run_streams(dut, {}, {"o": 12}, stall=stall, idle=0)
    assert [raw(payload) for payload in run["o"]] == dut.compute(12)
    if not stall:
        assert set(np.diff(run.cycles["o"])) == {parts}
        assert run.cycles["o"][0] == register + parts


@pytest.mark.parametrize("register", [False, True])
def test_a_word_that_is_half_read_is_dropped(register):
    old, new = (ParameterStream(words(seed), width=WIDTH, shift_bits=SHIFT_BITS, parts=2, number=1,
                                register=register) for seed in (1, 2))
    found, reset = [], Signal()

    async def bench(ctx):
        await ctx.tick().repeat(10)
        ctx.set(reset, 1)
        await load(ctx, old.write, 1, new.memory.as_bytes())
        ctx.set(reset, 0)
        ctx.set(old.o.ready, 1)
        while len(found) < 7:
            _, _, valid, word = await ctx.tick().sample(old.o.valid, old.o.payload)
            if valid:
                found.append(raw(word))

    simulator = Simulator(ResetInserter(reset)(old))
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.run()
    assert found == new.compute(7)
