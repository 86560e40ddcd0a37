# amaranth: UnusedElaboratable=no
"""Memories whose contents can be replaced: as streams, as block RAM, and written at run time."""

import numpy as np
import pytest
from amaranth import ResetInserter, Signal
from amaranth.sim import Simulator

from flightrtl.gateware import LoadableStream
from tests.streams import PERIOD, run_streams
from tests.synthesis import cells


async def load(ctx, write, memory, data, first=0):
    """Write bytes into a memory, from an address on. What it belongs to must be in reset."""
    ctx.set(write.valid, 1)
    ctx.set(write.memory, memory)
    for address, byte in enumerate(data, first):
        ctx.set(write.address, address)
        ctx.set(write.data, byte)
        await ctx.tick()
    ctx.set(write.valid, 0)


@pytest.mark.parametrize("register", [False, True])
@pytest.mark.parametrize("number", [None, 3])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_repeats_for_ever(register, number, stall):
    words = np.random.default_rng(1).integers(0, 1 << 11, 5).tolist()
    dut = LoadableStream(11, words, register=register, number=number)
    run = run_streams(dut, {}, {"o": 13}, stall=stall, idle=0)
    assert run["o"] == dut.compute(13)
    if not stall:
        assert run.cycles["o"] == list(range(1 + register, 14 + register))


@pytest.mark.parametrize("register", [False, True])
@pytest.mark.parametrize("width", [3, 8, 21, 40])
def test_new_words_start_from_the_first_one(register, width):
    rng = np.random.default_rng(width)
    old, new = (rng.integers(0, 1 << width, 6).tolist() for _ in range(2))
    dut = LoadableStream(width, old, register=register, number=7)
    other = LoadableStream(width, new, number=7)
    found, reset = [], Signal()

    async def bench(ctx):
        ctx.set(dut.o.ready, 1)
        await ctx.tick().repeat(4)
        ctx.set(dut.o.ready, 0)
        ctx.set(reset, 1)
        await load(ctx, dut.write, 7, other.as_bytes())
        await load(ctx, dut.write, 6, bytes(range(64)))     # another memory's
        size = dut.depth * dut.stride
        for beyond in {size, 2 * size, 1 << 15} - {1 << 16}:
            await load(ctx, dut.write, 7, bytes(range(64)), beyond)
        ctx.set(reset, 0)
        ctx.set(dut.o.ready, 1)
        while len(found) < 13:
            _, _, valid, word = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            if valid:
                found.append(word)

    simulator = Simulator(ResetInserter(reset)(dut))
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.run()
    assert found == other.compute(13)


def test_bytes_lie_on_powers_of_two():
    dut = LoadableStream(17, [0x1abcd, 2], number=0)
    assert dut.stride == 4
    assert dut.as_bytes() == bytes([0xcd, 0xab, 1, 0, 2, 0, 0, 0])
    with pytest.raises(ValueError, match="more bytes than 16 bits of address"):
        LoadableStream(17, [0] * 16385, number=0)


@pytest.mark.parametrize(("family", "number"), [("ice40", 0), ("ecp5", None)])
def test_is_block_ram_even_if_constant(family, number, tmp_path):
    """Contents that synthesis could see through, in a memory that small, are all the same kept."""
    dut = LoadableStream(16, [1, 2, 3, 4] * 5, number=number)
    dut.initial = np.random.default_rng(0).integers(0, 1 << 16, dut.depth).tolist()
    found = cells(dut, family, tmp_path)
    assert found["SB_RAM40_4K"] + found["DP16KD"] + found["PDPW16KD"] == 1
    assert found["SB_LUT4"] + found["LUT4"] < (26 if number is not None else 30)
