"""Registers on a narrow bus: each is read and written whole."""

import random

import pytest
from amaranth.sim import Simulator

from flightrtl.gateware import CsrNarrow
from tests.streams import PERIOD


@pytest.mark.parametrize("data_width", [8, 16])
def test_parts_belong_together(data_width):
    """Random accesses, one per cycle, against four registers that change all the time."""
    dut = CsrNarrow(2, data_width)
    parts = 32 // data_width
    mask = (1 << data_width) - 1
    rng = random.Random(data_width)
    registers = [rng.getrandbits(32) for _ in range(4)]
    writes, expected_writes = [], []

    async def wide(ctx):
        async for *_, r_stb, w_stb, addr, w_data in ctx.tick().sample(
                dut.csr.r_stb, dut.csr.w_stb, dut.csr.addr, dut.csr.w_data):
            ctx.set(dut.csr.r_data, registers[addr] if r_stb else 0)
            if w_stb:
                writes.append((addr, w_data))
            registers[:] = [rng.getrandbits(32) for _ in range(4)]

    async def bench(ctx):
        seen = 0
        written = [0] * parts
        for _ in range(600):
            address, kind = rng.randrange(4 * parts), rng.randrange(3)
            part = address % parts
            value = rng.getrandbits(data_width)
            ctx.set(dut.bus.addr, address)
            ctx.set(dut.bus.r_stb, kind == 1)
            ctx.set(dut.bus.w_stb, kind == 2)
            ctx.set(dut.bus.w_data, value)
            expected = 0
            if kind == 1:
                if part == 0:
                    seen = registers[address // parts]
                expected = seen >> part * data_width & mask
            elif kind == 2:
                written[part] = value
                if part == parts - 1:
                    expected_writes.append((address // parts, sum(
                        each << n * data_width for n, each in enumerate(written))))
            await ctx.tick()
            await ctx.delay(PERIOD / 10)
            assert ctx.get(dut.bus.r_data) == expected
        ctx.set(dut.bus.w_stb, 0)
        await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.add_testbench(wide, background=True)
    simulator.run()
    assert writes == expected_writes
    assert len(writes) > 20


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="data_width must be 8 or 16, not 32"):
        CsrNarrow(3, 32)
