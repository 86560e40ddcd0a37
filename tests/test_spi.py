"""The SPI peripheral at a host whose clock has nothing to do with the design's."""

import random

import numpy as np
import pytest
from amaranth.sim import Simulator

from flightrtl import boards
from flightrtl.gateware.spi import CYCLES_PER_BIT, SpiPeripheral
from flightrtl.planner import plan
from flightrtl.protocol import FLAG, Counters, Decoder, Reply, Type, request
from flightrtl.top import SerialNetwork
from tests.models import exchange, random_model
from tests.streams import PERIOD, put

PINS = 1.99
"""Cycles between the last look at `cipo` and the edge of `sck`: what pins and wires may need."""


class SpiHost:
    """A host; times are in cycles of the design, and fractions of them."""

    def __init__(self, ctx, dut, *, low=CYCLES_PER_BIT / 2, high=CYCLES_PER_BIT / 2, jitter=0.0,
                 seed=0):
        self.ctx, self.dut, self.low, self.high = ctx, dut, low, high
        self.random = random.Random(seed)
        self.jitter = jitter
        self.decoder = Decoder()

    async def wait(self, cycles):
        await self.ctx.delay((cycles + self.random.uniform(0, self.jitter)) * PERIOD)

    async def bit(self, value):
        self.ctx.set(self.dut.copi, value)
        await self.wait(self.low - PINS)
        got = self.ctx.get(self.dut.cipo)
        await self.ctx.delay(PINS * PERIOD)
        self.ctx.set(self.dut.sck, 1)
        await self.wait(self.high)
        assert self.ctx.get(self.dut.cipo) == got, "some hosts look at the end of the bit"
        self.ctx.set(self.dut.sck, 0)
        return got

    async def byte(self, value, bits=8):
        got = 0
        for n in range(bits):
            got = got << 1 | await self.bit(value >> 7 - n & 1)
        return got

    async def select(self, on=True):
        await self.wait(2)
        self.ctx.set(self.dut.cs, on)
        await self.wait(2 if on else 4)

    async def move(self, data):
        """The bytes that come back while ``data`` is sent."""
        await self.select()
        assert self.ctx.get(self.dut.cipo_oe)
        got = [await self.byte(value) for value in data]
        await self.select(False)
        assert not self.ctx.get(self.dut.cipo_oe)
        return got

    async def ask(self, data):
        """The reply to a request."""
        found = self.decoder.feed(bytes(await self.move(data)))
        while not found:
            found = self.decoder.feed(bytes(await self.move([FLAG] * 5)))
        assert not self.decoder.damaged
        return Reply.parse(found[0])


def simulate(dut, bench, *background, deadline=60_000):
    async def watchdog(ctx):
        await ctx.tick().repeat(deadline)
        raise AssertionError(f"not done after {deadline} cycles")

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    for each in (*background, watchdog):
        simulator.add_testbench(each, background=True)
    simulator.run()


def converse(bench, data=(), *, stall=lambda: 0, late=lambda: 0, **timing):
    """Run ``bench(host)`` against a peripheral that sends ``data``; what it got, and lost."""
    dut = SpiPeripheral()
    got, lost = [], []

    async def host(ctx):
        await bench(SpiHost(ctx, dut, **timing))
        await ctx.tick().repeat(100)

    async def give(ctx):
        for byte in data:
            await put(ctx, dut.i, byte)
            await ctx.tick().repeat(1 + late())

    async def take(ctx):
        while True:
            await ctx.tick().until(dut.o.valid)
            if pause := stall():
                await ctx.tick().repeat(pause)
            ctx.set(dut.o.ready, 1)
            payload, = await ctx.tick().sample(dut.o.payload).until(dut.o.valid)
            ctx.set(dut.o.ready, 0)
            got.append(payload)

    async def watch(ctx):
        async for _, _, pulse in ctx.tick().sample(dut.lost):
            lost.extend([1] * pulse)

    simulate(dut, host, give, take, watch)
    return got, len(lost)


@pytest.mark.parametrize(("low", "high", "jitter"), [
    (4, 4, 0), (4, 4, 0.7), (4.01, 1.01, 0), (4.37, 4.37, 0), (5, 1.1, 3), (23.7, 31.2, 9)])
def test_all_bytes_both_ways(low, high, jitter):
    """Also at the shortest times that are allowed, at any phase."""
    there = random.Random(low).sample(range(256), k=256 if low < 9 else 40)
    back = random.Random(high).sample(range(256), k=len(there))

    async def bench(host):
        await host.wait(host.random.uniform(3, 4))
        # What is there at first was fetched before anything was offered.
        assert await host.move(there) == [FLAG, *back[:-1]]
        assert await host.move([FLAG]) == back[-1:]

    assert converse(bench, back, low=low, high=high, jitter=jitter, seed=low * high) == (
        [*there, FLAG], 0)


@pytest.mark.parametrize("phase", np.linspace(0, 1, 12, endpoint=False))
def test_every_phase(phase):
    async def bench(host):
        await host.wait(3 + phase)
        assert await host.move([0x5A, 0xC3, 0x80]) == [FLAG, 0xA5, 0x01]

    assert converse(bench, [0xA5, 0x01]) == ([0x5A, 0xC3, 0x80], 0)


def test_without_anything_to_send_there_are_flags():
    async def bench(host):
        assert await host.move([1, 2, 3]) == [FLAG] * 3

    assert converse(bench) == ([1, 2, 3], 0)


def test_bytes_that_come_late_are_sent_once():
    back = [0x11, 0x22, 0x33, 0x44]
    pauses = iter([0, 200, 90, 0])

    async def bench(host):
        found = [byte for _ in range(4) for byte in await host.move([FLAG] * 3)]
        assert [byte for byte in found if byte != FLAG] == back
        assert found.count(FLAG) > 4

    converse(bench, back, late=lambda: next(pauses))


@pytest.mark.parametrize("bits", range(1, 8))
def test_a_byte_that_is_cut_off_is_told_and_sent_again(bits):
    async def bench(host):
        assert await host.move([0x12, 0x34]) == [FLAG, 0xC1]
        await host.select()
        assert await host.byte(0xFF, bits) == 0xB2 >> 8 - bits
        await host.select(False)
        assert await host.move([0x56, 0x78]) == [0xB2, 0xA3]

    assert converse(bench, [0xC1, 0xB2, 0xA3]) == ([0x12, 0x34, 0x56, 0x78], 1)


def test_the_end_of_cs_between_bytes_is_nothing():
    async def bench(host):
        assert [byte for n in range(5) for byte in await host.move([n])] == [FLAG, 9, 8, 7, FLAG]

    assert converse(bench, [9, 8, 7]) == ([0, 1, 2, 3, 4], 0)


def test_what_is_sent_to_another_device_is_nothing():
    async def bench(host):
        await host.select()
        await host.byte(0xAA)
        await host.select(False)
        assert await host.byte(0x55) >= 0       # without cs
        await host.byte(0x55, 3)
        assert await host.move([0xBB]) == [0x77]

    assert converse(bench, [0x77]) == ([0xAA, 0xBB], 0)


def test_a_glitch_of_cs_spoils_a_byte_and_no_other_transfer():
    async def bench(host):
        await host.select()
        await host.byte(0xAB, 3)
        host.ctx.set(host.dut.cs, 0)
        await host.wait(1.2)
        host.ctx.set(host.dut.cs, 1)
        await host.byte(0xAB, 5)
        await host.select(False)
        assert await host.move([0x21, 0x43]) == [FLAG, FLAG]

    assert converse(bench) == ([0x21, 0x43], 2)     # three bits, and five


def test_the_newer_of_two_bytes_is_dropped_and_told():
    pauses = iter([0, 100, 0, 0])

    async def bench(host):
        await host.move([1, 2, 3, 4, 5])

    assert converse(bench, stall=lambda: next(pauses)) == ([1, 2, 4, 5], 1)


def test_a_byte_may_wait_until_the_next_is_complete():
    """Longer than a link with a register takes."""
    async def bench(host):
        await host.move(list(range(9)))

    assert converse(bench, stall=lambda: 61) == (list(range(9)), 0)


# The whole network.

def small_model(seed, **kwargs):
    return random_model(np.random.default_rng(seed), input_shape=(2, 3, 1), classes=3,
                        kinds=["dense"], **kwargs)


def network(model, board="icebreaker", **kwargs):
    return SerialNetwork(model, plan(model, boards.load(board), **kwargs), SpiPeripheral())


def run(dut, bench, **timing):
    async def host(ctx):
        await ctx.tick().repeat(20)
        await bench(SpiHost(ctx, dut, **timing))

    simulate(dut, host)


@pytest.mark.parametrize(("seed", "bits", "board"), [(1, 8, "icebreaker"), (4, 12, "ulx3s_25f")])
def test_every_logit_over_spi_is_the_golden_model_s(seed, bits, board):
    """At the highest clock of the host, with a link that takes a byte within 30 or 60 cycles."""
    model = small_model(seed, activation_bits=bits)
    images, logits, frame = exchange(seed, model, 2)
    dut = network(model, board)

    async def bench(host):
        for n, (image, expected) in enumerate(zip(images, logits, strict=True)):
            winner, got = frame.parse(await host.ask(frame.request(n, image)))
            assert (winner, got) == (int(np.argmax(expected)), expected)
            assert host.ctx.get(dut.winner) == winner
        counters = Counters.parse(await host.ask(request(Type.STATUS, 9)))
        assert counters == Counters(taken=2)

    run(dut, bench, seed=seed)


def test_after_a_damaged_request_the_next_result_is_right():
    model = small_model(5, activation_bits=8)
    images, logits, frame = exchange(5, model, 2)

    async def bench(host):
        good = frame.request(0, images[0])
        changed = bytes([*good[:7], good[7] ^ 0x40, *good[8:]])
        for damaged in (good[:7] + good[8:], good[:9], changed):
            assert set(await host.move(damaged)) == {FLAG}
            reply = await host.ask(frame.request(1, images[1]))
            assert (reply.sequence, frame.parse(reply)[1]) == (1, logits[1])
        # A byte is cut off, and the rest of the frame comes as if it had not been.
        await host.move(good[:6])
        await host.select()
        await host.byte(good[6], 5)
        await host.select(False)
        await host.move(good[6:])
        assert frame.parse(await host.ask(frame.request(2, images[0])))[1] == logits[0]
        counters = Counters.parse(await host.ask(request(Type.STATUS, 3)))
        assert counters == Counters(taken=4, damaged=3, overruns=1)

    run(network(model), bench)


def test_a_reply_that_is_cut_off_in_a_byte_goes_on():
    model = small_model(6, activation_bits=8)
    (image,), logits, frame = exchange(6, model, 1)

    async def bench(host):
        found = host.decoder.feed(bytes(await host.move(frame.request(1, image))))
        while not found:
            await host.select()
            await host.byte(FLAG, host.random.randrange(8))
            await host.select(False)
            found = host.decoder.feed(bytes(await host.move([FLAG])))
        assert frame.parse(Reply.parse(found[0]))[1] == logits[0]
        assert not host.decoder.damaged

    run(network(model), bench)
