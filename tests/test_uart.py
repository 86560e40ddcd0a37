import math
import random

import pytest
from amaranth.sim import Simulator

from flightrtl.gateware.uart import MAX_BAUD_ERROR, UartReceiver, UartTransmitter, divisor
from tests.streams import PERIOD


async def send_bits(ctx, line, bits, cycles):
    """Put bits on a line. ``cycles`` per bit may be a fraction: a host with another clock."""
    done = 0.0
    for bit in bits:
        ctx.set(line, bit)
        done += cycles
        await ctx.tick().repeat(max(1, math.floor(done)))
        done -= math.floor(done)


def bits_of(byte):
    return [0, *((byte >> n) & 1 for n in range(8)), 1]


async def receive_byte(ctx, line, cycles):
    """The next byte on a line, sampled in the middle of each bit; checks start and stop bit."""
    await ctx.tick().until(~line)
    await ctx.tick().repeat(cycles // 2)
    bits = [ctx.get(line)]
    for _ in range(9):
        await ctx.tick().repeat(cycles)
        bits.append(ctx.get(line))
    assert (bits[0], bits[9]) == (0, 1)
    return sum(bit << n for n, bit in enumerate(bits[1:9]))


def simulate(dut, *benches, background=(), deadline=200_000):
    async def watchdog(ctx):
        await ctx.tick().repeat(deadline)
        raise AssertionError(f"not done after {deadline} cycles")
    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    for bench in benches:
        simulator.add_testbench(bench)
    for bench in (*background, watchdog):
        simulator.add_testbench(bench, background=True)
    simulator.run()


def receive(cycles, bits, count, *, take_after=0, host=1.0):
    """Bytes, framing errors and overruns that a receiver makes of bits on its line."""
    dut = UartReceiver(cycles)
    got, events = [], []

    async def line(ctx):
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(3)
        await send_bits(ctx, dut.rx, bits, cycles * host)
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(20 * cycles)

    async def take(ctx):
        while True:
            await ctx.tick().until(dut.o.valid)
            if take_after:
                await ctx.tick().repeat(take_after)
            ctx.set(dut.o.ready, 1)
            payload, = await ctx.tick().sample(dut.o.payload).until(dut.o.valid)
            ctx.set(dut.o.ready, 0)
            got.append(payload)

    async def watch(ctx):
        async for _, _, framing, overrun in ctx.tick().sample(dut.framing_error, dut.overrun):
            events.extend(["framing"] * framing + ["overrun"] * overrun)

    simulate(dut, line, background=(take, watch))
    assert len(got) == count
    return got, events


@pytest.mark.parametrize("cycles", [4, 5, 7, 36, 101])
def test_receiver_takes_back_to_back_bytes(cycles):
    data = random.Random(cycles).choices(range(256), k=20)
    bits = [bit for byte in data for bit in bits_of(byte)]
    assert receive(cycles, bits, 20) == (data, [])


@pytest.mark.parametrize("host", [1 - MAX_BAUD_ERROR, 1 + MAX_BAUD_ERROR])
@pytest.mark.parametrize("cycles", [8, 36, 104])
def test_receiver_follows_a_host_that_is_off(cycles, host):
    data = random.Random(cycles).choices(range(256), k=20)
    bits = [bit for byte in data for bit in bits_of(byte)]
    assert receive(cycles, bits, 20, host=host) == (data, [])


def test_receiver_reports_a_break_once_and_recovers():
    bits = [*bits_of(0x12), *[0] * 35, 1, *bits_of(0x34)]
    assert receive(16, bits, 2) == ([0x12, 0x34], ["framing"])


def test_receiver_ignores_a_glitch():
    dut = UartReceiver(16)

    async def line(ctx):
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(5)
        ctx.set(dut.rx, 0)
        await ctx.tick().repeat(4)
        ctx.set(dut.rx, 1)
        for _ in range(400):
            await ctx.tick()
            assert not ctx.get(dut.o.valid)
            assert not ctx.get(dut.framing_error)
        await send_bits(ctx, dut.rx, bits_of(0x77), 16)
        assert ctx.get(dut.o.valid)
        assert ctx.get(dut.o.payload) == 0x77

    simulate(dut, line)


def test_receiver_keeps_a_byte_into_the_next_start_bit():
    bits = [bit for byte in [1, 2, 3] for bit in bits_of(byte)]
    assert receive(16, bits, 3, take_after=12) == ([1, 2, 3], [])


def test_receiver_drops_the_newer_of_two_bytes_and_says_so():
    bits = [*bits_of(1), *bits_of(0xFF), *bits_of(3)]
    assert receive(16, bits, 2, take_after=5 * 16) == ([1, 3], ["overrun"])


def test_receiver_is_in_step_again_after_an_idle_line():
    bits = [*bits_of(0x11), *bits_of(0x55), *[1] * 10, *bits_of(0x22)]
    got, events = receive(16, bits, 2, take_after=12 * 16)
    assert got == [0x11, 0x22]
    assert "overrun" in events


@pytest.mark.parametrize("cycles", [4, 5, 7, 36, 101])
def test_transmitter_sends_what_it_is_given(cycles):
    dut = UartTransmitter(cycles)
    data = random.Random(cycles).choices(range(256), k=12)
    got = []

    async def feed(ctx):
        for n, byte in enumerate(data):
            ctx.set(dut.i.payload, byte)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)
            await ctx.tick().repeat(1 + n * cycles * (n % 3 == 0))

    async def read(ctx):
        for _ in data:
            got.append(await receive_byte(ctx, dut.tx, cycles))

    simulate(dut, feed, read)
    assert got == data


def test_transmitter_is_idle_high():
    dut = UartTransmitter(9)

    async def watch(ctx):
        for _ in range(90):
            _, _, tx = await ctx.tick().sample(dut.tx)
            assert tx == 1

    simulate(dut, watch)


@pytest.mark.parametrize(("clock_mhz", "baud", "cycles"), [
    (36.0, 1_000_000, 36), (36.0, 115_200, 312), (100.0, 1_000_000, 100), (48.0, 300, 160_000)])
def test_divisor(clock_mhz, baud, cycles):
    assert divisor(clock_mhz, baud) == cycles


def test_divisor_refuses_what_does_not_work():
    with pytest.raises(ValueError, match="3000000 baud at 13.5 MHz would be"):
        divisor(13.5, 3_000_000)
    with pytest.raises(ValueError, match="4 to 1048576"):
        divisor(12.0, 6_000_000)


@pytest.mark.parametrize("component", [UartReceiver, UartTransmitter])
def test_parameters_are_checked(component):
    with pytest.raises(ValueError, match="divisor must be 4 to 1048576, not 3"):
        component(3)
    with pytest.raises(TypeError, match="divisor must be an integer, not 4.5"):
        component(4.5)
