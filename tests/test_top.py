import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.lib import io, wiring
from amaranth.sim import Simulator

from flightrtl import boards, golden
from flightrtl.errors import BuildError
from flightrtl.gateware.link import Frame, Status
from flightrtl.planner import plan
from flightrtl.top import SerialNetwork, Top
from tests.models import random_images, random_model
from tests.streams import PERIOD
from tests.test_planner import two_layers
from tests.test_uart import bits_of, receive_byte, send_bits

FAST = 4_000_000   # 10 cycles per bit at 39.75 MHz, so that the simulation is short


def small_model(seed, **kwargs):
    return random_model(np.random.default_rng(seed), input_shape=(5, 4, 2), classes=4,
                        kinds=["convolution", "max_pool", "dense"], **kwargs)


def serial_network(model):
    return SerialNetwork(model, plan(model, boards.load("icebreaker")), FAST)


def converse(dut, bench, deadline=300_000):
    """Run a host's ``bench(send, receive)`` against the pins of ``dut``."""
    async def host(ctx):
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(20)

        async def send(data):
            for byte in data:
                await send_bits(ctx, dut.rx, bits_of(byte), dut.divisor)

        async def receive(count):
            return bytes([await receive_byte(ctx, dut.tx, dut.divisor) for _ in range(count)])

        await bench(send, receive, ctx)

    async def watchdog(ctx):
        await ctx.tick().repeat(deadline)
        raise AssertionError(f"not done after {deadline} cycles")

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(host)
    simulator.add_testbench(watchdog, background=True)
    simulator.run()


@pytest.mark.parametrize(("seed", "bits"), [(1, 8), (2, 8), (3, 4), (4, 12)])
def test_every_logit_over_the_wire_is_the_golden_model_s(seed, bits):
    model = small_model(seed, activation_bits=bits)
    images = random_images(np.random.default_rng(seed), model, 3)
    logits = golden.run(model, images)
    frame = Frame.of(model)
    dut = serial_network(model)

    async def bench(send, receive, ctx):
        for image, expected in zip(images, logits.tolist(), strict=True):
            await send(frame.request(image))
            winner, got = frame.parse(await receive(frame.answer_size))
            assert got == expected
            assert winner == int(np.argmax(expected))
            assert ctx.get(dut.winner) == winner

    converse(dut, bench)


def test_after_a_damaged_request_the_next_result_is_right():
    model = small_model(5, activation_bits=8)
    images = random_images(np.random.default_rng(5), model, 2)
    logits = golden.run(model, images).tolist()
    frame = Frame.of(model)
    error = bytes([Status.BAD_CHECKSUM])

    async def bench(send, receive, ctx):
        for byte in (3, 20, frame.request_size - 1):
            bad = bytearray(frame.request(images[0]))
            bad[byte] ^= 0x10
            await send(bad)
            assert await receive(1) == error
            await send(frame.request(images[1]))
            assert frame.parse(await receive(frame.answer_size))[1] == logits[1]

    converse(serial_network(model), bench)


def test_a_lost_byte_times_out_and_the_next_result_is_right(monkeypatch):
    # 0.1 s is 400,000 bits of simulation; the counter does the same with fewer bits.
    monkeypatch.setattr("flightrtl.gateware.link.TIMEOUT_SECONDS", 100 / FAST)
    model = small_model(6, activation_bits=8)
    image, = random_images(np.random.default_rng(6), model, 1)
    logits = golden.run(model, image[None]).tolist()
    frame = Frame.of(model)
    late = bytes([Status.TIMEOUT])

    async def bench(send, receive, ctx):
        request = frame.request(image)
        await send(request[:10] + request[11:])
        assert await receive(1) == late
        await send(request)
        assert frame.parse(await receive(frame.answer_size))[1] == logits[0]

    converse(serial_network(model), bench)


def test_the_fastest_line_that_is_allowed_loses_no_byte():
    model = two_layers(k=(2, 2, 1))
    chosen = plan(model, boards.load("icebreaker"), target_rate=2500)
    frame = Frame.of(model)
    cycles = -(-chosen.cycles_per_inference // (10 * frame.request_size))
    assert cycles >= 4
    dut = SerialNetwork(model, chosen, round(chosen.clock_mhz * 1e6 / cycles))
    assert dut.divisor == cycles
    images = random_images(np.random.default_rng(9), model, 1)
    logits = golden.run(model, images).tolist()

    async def bench(send, receive, ctx):
        for image, expected in zip(images, logits, strict=True):
            await send(frame.request(image))
            assert frame.parse(await receive(frame.answer_size))[1] == expected

    converse(dut, bench)


class Pins(wiring.Component):
    """A design on a board whose pins belong to the test."""

    def __init__(self, top):
        self.top = top
        self.uart = SimpleNamespace(rx=io.SimulationPort("i", 1), tx=io.SimulationPort("o", 1))
        self.leds = [io.SimulationPort("o", 1) for _ in top.board.leds]
        super().__init__({})

    def request(self, name, number, dir):
        return self.uart if name == self.top.board.uart.resource else self.leds[number]

    def elaborate(self, platform):
        return self.top.elaborate(self)


def test_the_leds_show_the_class_of_the_last_image():
    model = small_model(1, activation_bits=8)
    images = random_images(np.random.default_rng(1), model, 40)
    winners = golden.run(model, images).argmax(axis=1)
    # A class whose bits are those of another one from the other side.
    number = winners.tolist().index(1)
    board = boards.load("icebreaker")
    three = tuple(replace(board.leds[0], number=number) for number in range(3))
    board = replace(board, leds=three, uart=replace(board.uart, baud=FAST))
    dut = Pins(Top(model, plan(model, board), board))
    frame, cycles = Frame.of(model), dut.top.system.divisor

    async def bench(ctx):
        ctx.set(dut.uart.rx.i, 1)
        await ctx.tick().repeat(20)
        for byte in frame.request(images[number]):
            await send_bits(ctx, dut.uart.rx.i, bits_of(byte), cycles)
        answer = bytes([await receive_byte(ctx, dut.uart.tx.o, cycles)
                        for _ in range(frame.answer_size)])
        assert frame.parse(answer)[0] == 1
        assert [ctx.get(led.o) for led in dut.leds] == [1, 0, 0]

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("name", boards.names())
def test_the_design_of_every_board_asks_only_for_what_the_board_has(name):
    board = boards.load(name)
    model = random_model(np.random.default_rng(10), input_shape=(5, 4, 2), kinds=["dense"],
                         classes=4, activation_bits=8, exponent_bits=3)
    files = board.make_platform().prepare(Top(model, plan(model, board), board)).files
    constraints = next(text for file, text in files.items() if file.endswith((".pcf", ".lpf")))
    text = constraints if isinstance(constraints, str) else constraints.decode()
    # Clock, two pins of the serial port, LEDs; a differential clock is one line in the file.
    assert len(re.findall(r"set_io|LOCATE", text)) == 3 + len(board.leds)


def test_a_line_faster_than_the_network_is_refused():
    model = small_model(7)
    slow = replace(plan(model, boards.load("icebreaker")), cycles_per_inference=100_000)
    with pytest.raises(BuildError, match="baud, but the network needs 100000") as caught:
        SerialNetwork(model, slow, FAST)
    assert caught.value.layer == slow.slowest.name


def test_a_baud_rate_that_the_clock_does_not_give_is_refused():
    model = small_model(8)
    with pytest.raises(BuildError, match="off; 2% is allowed"):
        SerialNetwork(model, plan(model, boards.load("icebreaker"), frequency=16), 3_000_000)
