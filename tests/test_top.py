import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.lib import io, wiring
from amaranth.sim import Simulator

from flightrtl import boards, golden
from flightrtl.errors import BuildError, UserError
from flightrtl.gateware.uart import Uart
from flightrtl.model import WeightedLayer
from flightrtl.planner import plan
from flightrtl.protocol import FLAG, Counters, Decoder, Frame, Identity, Reply, Type, request
from flightrtl.top import SerialNetwork, Top, serial_port
from sim.flash import with_flash
from tests.models import exchange, random_images, random_model
from tests.streams import PERIOD
from tests.test_planner import two_layers
from tests.test_uart import bits_of, receive_byte, send_bits

FAST = 9_937_500   # 4 cycles per bit at 39.75 MHz, so that the simulation is short


def small_model(seed, **kwargs):
    return random_model(np.random.default_rng(seed), input_shape=(5, 4, 2), classes=4,
                        kinds=["convolution", "max_pool", "dense"], **kwargs)


def serial_network(model):
    chosen = plan(model, boards.load("icebreaker"))
    return SerialNetwork(model, chosen, serial_port(chosen.clock_mhz, FAST))


class Host:
    """A host at the pins of a serial port."""

    def __init__(self, ctx, rx, tx, cycles):
        self.ctx, self.rx, self.tx, self.cycles = ctx, rx, tx, cycles
        self.decoder = Decoder()

    async def send(self, data):
        for byte in data:
            await send_bits(self.ctx, self.rx, bits_of(byte), self.cycles)

    async def ask(self, data):
        await self.send(data)
        while True:
            byte = await receive_byte(self.ctx, self.tx, self.cycles)
            for content in self.decoder.feed(bytes([byte])):
                return Reply.parse(content)
            assert not self.decoder.damaged


def converse(dut, bench, deadline=300_000):
    """Run a host's ``bench(host, ctx)`` against the pins of ``dut``."""
    async def host(ctx):
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(20)
        await bench(Host(ctx, dut.rx, dut.tx, dut.transport.receiver.divisor), ctx)

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
    images, logits, frame = exchange(seed, model, 2)
    dut = serial_network(model)

    async def bench(host, ctx):
        for n, (image, expected) in enumerate(zip(images, logits, strict=True)):
            winner, got = frame.parse(await host.ask(frame.request(n, image)))
            assert got == expected
            assert winner == int(np.argmax(expected))
            assert ctx.get(dut.winner) == winner

    converse(dut, bench)


def test_weights_from_a_flash():
    """The design and the flash of the board: every logit, over the wire."""
    model = small_model(1, activation_bits=4)
    (images, logits, frame), board = exchange(1, model, 2), boards.load("icebreaker")
    layer = next(layer.name for layer in model.layers if isinstance(layer, WeightedLayer))
    chosen = plan(model, board, flash=layer)
    dut = with_flash(SerialNetwork(model, chosen, serial_port(chosen.clock_mhz, FAST)))
    dut.transport = dut.design.transport

    async def bench(host, ctx):
        for n, (image, expected) in enumerate(zip(images, logits, strict=True)):
            assert frame.parse(await host.ask(frame.request(n, image)))[1] == expected

    converse(dut, bench)


def test_after_a_damaged_request_the_next_result_is_right():
    model = small_model(5, activation_bits=8)
    images, logits, frame = exchange(5, model, 2)

    async def bench(host, ctx):
        good = frame.request(0, images[0])
        for damaged in (good[:9] + good[10:], good[:20], good[:9] + b"\0" + good[9:]):
            await host.send(damaged)
            reply = await host.ask(frame.request(1, images[1]))
            assert reply.sequence == 1
            assert frame.parse(reply)[1] == logits[1]
        counters = Counters.parse(await host.ask(request(Type.STATUS, 2)))
        assert counters == Counters(taken=3, damaged=2, overruns=1)    # the last one is too long

    converse(serial_network(model), bench)


def test_bytes_that_the_line_damages_are_counted():
    model = small_model(6, activation_bits=8)
    (image,), logits, frame = exchange(6, model, 1)

    async def bench(host, ctx):
        wire = frame.request(1, image)
        await host.send(wire[:10])
        await send_bits(ctx, host.rx, [0] * 10 + [1] * 3, host.cycles)      # no stop bit
        await host.send(wire[10:])
        assert frame.parse(await host.ask(wire))[1] == logits[0]
        counters = Counters.parse(await host.ask(request(Type.STATUS, 2)))
        assert counters == Counters(taken=1, overruns=1)

    converse(serial_network(model), bench)


def test_a_reset_in_the_middle_of_everything_changes_no_result():
    model = small_model(6, activation_bits=8)
    (image,), logits, frame = exchange(6, model, 1)

    async def bench(host, ctx):
        for n in range(2):
            assert frame.parse(await host.ask(frame.request(n, image)))[1] == logits[0]
            assert await host.ask(request(Type.RESET, 9)) == Reply(Type.RESET, 9)

    converse(serial_network(model), bench)


def test_the_design_says_what_it_is():
    model = small_model(6, activation_bits=8)
    chosen = plan(model, boards.load("icebreaker"))
    digest = "0123456789abcdef" * 4
    dut = SerialNetwork(model, chosen, serial_port(chosen.clock_mhz, FAST),
                        identity=Identity.of(model, digest))

    async def bench(host, ctx):
        identity = Identity.parse(await host.ask(request(Type.IDENTIFY, 1)))
        assert identity == Identity.of(model, digest)
        assert identity.model.hex() == digest[:16]

    converse(dut, bench)


def test_the_identity_must_say_whether_weights_can_be_loaded():
    model = small_model(6, activation_bits=8)
    chosen = plan(model, boards.load("icebreaker"))
    with pytest.raises(ValueError, match="the identity must say whether weights can be loaded"):
        SerialNetwork(model, chosen, Uart(4), identity=Identity.of(model, "", design="ab" * 8))


def test_the_fastest_line_loses_no_byte():
    """Four cycles per bit, and an image takes less time on the line than in the network."""
    model = two_layers(k=(2, 2, 1))
    chosen = plan(model, boards.load("icebreaker"), target_rate=1000)
    frame = Frame.of(model)
    assert 40 * frame.request_size < chosen.cycles_per_inference
    dut = SerialNetwork(model, chosen, Uart(4))
    images = random_images(np.random.default_rng(9), model, 2)
    logits = golden.run(model, images).tolist()

    async def bench(host, ctx):
        for n, (image, expected) in enumerate(zip(images, logits, strict=True)):
            await host.send(frame.request(n, image)[:30])       # and the host is gone
            assert frame.parse(await host.ask(frame.request(n, image)))[1] == expected
        counters = Counters.parse(await host.ask(request(Type.STATUS, 2)))
        assert counters == Counters(taken=2, damaged=2)

    converse(dut, bench)


class Pins(wiring.Component):
    """A design on a board whose pins belong to the test."""

    def __init__(self, top, **others):
        self.top = top
        self.others = others
        self.uart = SimpleNamespace(rx=io.SimulationPort("i", 1), tx=io.SimulationPort("o", 1))
        self.leds = [io.SimulationPort("o", 1) for _ in top.board.leds]
        super().__init__({})

    def request(self, name, number, dir):
        if name in self.others:
            return self.others[name]
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
    frame, cycles = Frame.of(model), dut.top.system.transport.receiver.divisor

    async def bench(ctx):
        ctx.set(dut.uart.rx.i, 1)
        await ctx.tick().repeat(20)
        host = Host(ctx, dut.uart.rx.i, dut.uart.tx.o, cycles)
        assert frame.parse(await host.ask(frame.request(0, images[number])))[0] == 1
        assert [ctx.get(led.o) for led in dut.leds] == [1, 0, 0]

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize(("name", "link"), [
    *((name, "uart") for name in boards.names()),
    *((name, "spi") for name in boards.names() if boards.load(name).spi)])
def test_the_design_of_every_board_asks_only_for_what_the_board_has(name, link):
    board = boards.load(name)
    model = random_model(np.random.default_rng(10), input_shape=(5, 4, 2), kinds=["dense"],
                         classes=4, activation_bits=8, exponent_bits=3)
    top = Top(model, plan(model, board), board, link=link)
    files = board.make_platform().prepare(top).files
    constraints = next(text for file, text in files.items() if file.endswith((".pcf", ".lpf")))
    text = constraints if isinstance(constraints, str) else constraints.decode()
    # Clock, pins of the link, LEDs; a differential clock is one line in the file.
    assert len(re.findall(r"set_io|LOCATE", text)) == (
        1 + {"uart": 2, "spi": 4}[link] + len(board.leds))


def test_the_pins_of_spi():
    """The select pin is 1 when idle, and the data pin drives nothing then."""
    model = random_model(np.random.default_rng(10), input_shape=(3, 2, 1), kinds=["dense"],
                         classes=2, activation_bits=8)
    board = boards.load("icebreaker")
    top = Top(model, plan(model, board), board, link="spi")
    pins = SimpleNamespace(
        clk=io.SimulationPort("i", 1), copi=io.SimulationPort("i", 1),
        cs=io.SimulationPort("i", 1, invert=True), cipo=io.SimulationPort("o", 1))
    dut = Pins(top, **{board.spi.RESOURCE: pins})

    async def bench(ctx):
        ctx.set(pins.cs.i, 1)
        await ctx.tick().repeat(20)
        assert not ctx.get(pins.cipo.oe)
        ctx.set(pins.cs.i, 0)
        await ctx.tick().repeat(4)
        assert ctx.get(pins.cipo.oe)
        found = 0
        for _ in range(8):
            found = found << 1 | ctx.get(pins.cipo.o)
            ctx.set(pins.clk.i, 1)
            await ctx.tick().repeat(4)
            ctx.set(pins.clk.i, 0)
            await ctx.tick().repeat(4)
        assert found == FLAG

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.run()


def test_a_board_without_pins_for_spi():
    model = random_model(np.random.default_rng(10), input_shape=(3, 2, 1), kinds=["dense"],
                         classes=2, activation_bits=8)
    board = boards.load("icebreaker")
    chosen = plan(model, board)
    assert board.spi is not None
    with pytest.raises(UserError, match=r"leave out --link spi.*\n.*icebreaker, icestick"):
        Top(model, chosen, replace(board, spi=None), link="spi")
    with pytest.raises(ValueError, match="link must be one of uart, spi, not 'i2c'"):
        Top(model, chosen, board, link="i2c")
    for change, message in (({"connector": "pmod:7"}, "nonexistent connector pin pmod_7:1"),
                            ({"cs": "99"}, "nonexistent connector pin pmod_0:99"),
                            ({"cs": "2"}, "physical pin 2, but it is already used")):
        wrong = replace(board, spi=replace(board.spi, **change))
        with pytest.raises(UserError, match=f"has not the pins that .spi. names.*{message}"):
            wrong.make_platform().prepare(Top(model, chosen, wrong, link="spi"))


@pytest.mark.parametrize("name", [name for name in boards.names() if boards.load(name).flash])
def test_the_pins_of_the_flash(name):
    board = boards.load(name)
    model = random_model(np.random.default_rng(10), input_shape=(5, 4, 2), kinds=["dense"],
                         classes=4, activation_bits=8, exponent_bits=3)
    chosen = plan(model, board, flash=model.layers[-1].name)
    files = board.make_platform().prepare(Top(model, chosen, board)).files
    constraints = next(text for file, text in files.items() if file.endswith((".pcf", ".lpf")))
    text = constraints if isinstance(constraints, str) else constraints.decode()
    pins = re.findall(rf"(?:set_io|LOCATE COMP) \"?{board.flash.resource}_0__(\w+?)__", text)
    design = next(text for file, text in files.items() if file.endswith(".il"))
    design = design if isinstance(design, str) else design.decode()
    expected = {"cs", "copi", "cipo"}
    if board.family == "ecp5":
        assert "cell \\USRMCLK" in design
    else:
        expected.add("clk")
    assert expected <= set(pins) <= expected | {"wp", "hold"}


def test_a_baud_rate_that_the_clock_does_not_give_is_refused():
    with pytest.raises(BuildError, match="off; 2% is allowed"):
        serial_port(16, 3_000_000)
