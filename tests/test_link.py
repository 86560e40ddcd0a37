import random
import re
from pathlib import Path

import numpy as np
import pytest
from amaranth.sim import Simulator

from flightrtl.formats import ActivationFormat
from flightrtl.gateware.link import (
    COMMAND_RUN,
    SYNC,
    Crc16,
    Frame,
    Link,
    LinkError,
    Status,
    checksum,
)
from tests.streams import PERIOD

BAUD = 320  # a timeout of 32 ticks


def test_checksum_is_crc16_kermit():
    assert checksum(b"123456789") == bytes([0x89, 0x21])
    assert checksum(b"123456789" + bytes([0x89, 0x21])) == b"\0\0"


def test_crc_component_matches_its_twin():
    dut = Crc16()
    data = random.Random(1).randbytes(100)

    async def bench(ctx):
        for n, byte in enumerate(data):
            for position in range(8):
                ctx.set(dut.bit, byte >> position & 1)
                ctx.set(dut.enable, 1)
                await ctx.tick()
                ctx.set(dut.enable, 0)
                await ctx.tick()
            assert ctx.get(dut.crc) == int.from_bytes(checksum(data[:n + 1]), "little")
        ctx.set(dut.clear, 1)
        ctx.set(dut.enable, 1)
        await ctx.tick()
        assert ctx.get(dut.crc) == 0

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("logit", [ActivationFormat(8, True), ActivationFormat(13, True),
                                   ActivationFormat(16, True), ActivationFormat(6, False)])
def test_frame_reads_back_what_a_device_would_answer(logit):
    frame = Frame(ActivationFormat(8), 4, logit, 3)
    logits = [logit.min, 1, logit.max]
    width = 1 if logit.bits <= 8 else 2
    body = bytes([Status.OK]) + b"".join(
        value.to_bytes(width, "little", signed=logit.signed) for value in logits) + bytes([2])
    answer = body + checksum(body)
    assert len(answer) == frame.answer_size
    assert frame.parse(answer) == (2, logits)


def test_frame_refuses_what_is_wrong():
    frame = Frame(ActivationFormat(8), 4, ActivationFormat(8, True), 2)
    with pytest.raises(ValueError, match="has 3 values; it must have 4"):
        frame.request([1, 2, 3])
    with pytest.raises(ValueError, match="outside 0 to 255"):
        frame.request([1, 2, 3, 256])
    good = bytes([Status.OK, 1, 2, 0])
    good += checksum(good)
    assert frame.parse(good) == (0, [1, 2])
    for n in range(8 * len(good)):
        bad = bytearray(good)
        bad[n // 8] ^= 1 << n % 8
        with pytest.raises(LinkError):
            frame.parse(bytes(bad))
    with pytest.raises(LinkError, match="has 1 bytes; it must have 6"):
        frame.parse(bytes([Status.OK]))
    with pytest.raises(LinkError, match="answers TIMEOUT"):
        frame.parse(bytes([Status.TIMEOUT]))
    with pytest.raises(LinkError, match="answers 0x0"):
        frame.parse(bytes(6))
    with pytest.raises(LinkError, match="no answer"):
        frame.parse(b"")


def test_two_byte_values_are_little_endian():
    frame = Frame(ActivationFormat(12, True), 2, ActivationFormat(8, True), 2)
    assert frame.request([-2, 0x123])[:-2] == bytes([SYNC, COMMAND_RUN, 0xFE, 0xFF, 0x23, 0x01])


class Rig:
    """A link between a host (bytes, ticks) and a network that adds up its input."""

    def __init__(self, frame, *, gap=3, seed=0, stall=0.0):
        self.frame = frame
        self.dut = Link(frame, baud=BAUD)
        self.random = random.Random(seed)
        self.stall = stall
        self.gap = gap
        self.images = []
        self.sent = bytearray()

    def results(self, image):
        """What the network computes: (logit, winner) for each class."""
        fmt = self.frame.logit
        span = fmt.max - fmt.min + 1
        logits = [(sum(image) * (n + 1) - fmt.min) % span + fmt.min
                  for n in range(self.frame.classes)]
        return logits, int(np.argmax(logits))

    def answer(self, image):
        logits, winner = self.results(image)
        width = self.frame.answer_size - 3
        each = (width - 1) // self.frame.classes
        body = bytes([Status.OK]) + b"".join(
            value.to_bytes(each, "little", signed=True) for value in logits) + bytes([winner])
        return body + checksum(body)

    async def _pause(self, ctx):
        while self.random.random() < self.stall:
            await ctx.tick()

    async def network(self, ctx):
        dut = self.dut
        while True:
            image = []
            for _ in range(self.frame.size):
                await self._pause(ctx)
                ctx.set(dut.image.ready, 1)
                value, = await ctx.tick().sample(dut.image.payload).until(dut.image.valid)
                ctx.set(dut.image.ready, 0)
                image.append(value)
            self.images.append(image)
            logits, winner = self.results(image)
            for n, logit in enumerate(logits):
                await self._pause(ctx)
                last = n == len(logits) - 1
                ctx.set(dut.result.payload, {"logit": logit, "winner": winner if last else 0,
                                             "last": last})
                ctx.set(dut.result.valid, 1)
                await ctx.tick().until(dut.result.ready)
                ctx.set(dut.result.valid, 0)

    async def transmitter(self, ctx):
        dut = self.dut
        while True:
            await self._pause(ctx)
            ctx.set(dut.tx.ready, 1)
            byte, = await ctx.tick().sample(dut.tx.payload).until(dut.tx.valid)
            ctx.set(dut.tx.ready, 0)
            self.sent.append(byte)
            await self._bits(ctx, "tx", byte)

    async def _bits(self, ctx, line, byte):
        """The bits of a byte, as a serial port passes them to the checksum."""
        for position in range(8):
            ctx.set(getattr(self.dut, f"{line}_bit"), byte >> position & 1)
            ctx.set(getattr(self.dut, f"{line}_bit_valid"), 1)
            await ctx.tick()
            ctx.set(getattr(self.dut, f"{line}_bit_valid"), 0)

    async def ticks(self, ctx):
        while True:
            await ctx.tick().repeat(7)
            ctx.set(self.dut.tick, 1)
            await ctx.tick()
            ctx.set(self.dut.tick, 0)

    async def send(self, ctx, data):
        for byte in data:
            await self._bits(ctx, "rx", byte)
            ctx.set(self.dut.rx.payload, byte)
            ctx.set(self.dut.rx.valid, 1)
            await ctx.tick().until(self.dut.rx.ready)
            ctx.set(self.dut.rx.valid, 0)
            await ctx.tick().repeat(self.gap)

    async def expect(self, ctx, count, deadline=20_000):
        """The next bytes sent; then silence."""
        for _ in range(deadline):
            if len(self.sent) >= count:
                break
            await ctx.tick()
        await ctx.tick().repeat(50)
        data = bytes(self.sent)
        self.sent.clear()
        return data

    def run(self, bench):
        simulator = Simulator(self.dut)
        simulator.add_clock(PERIOD)
        simulator.add_testbench(bench)
        for other in (self.network, self.transmitter, self.ticks):
            simulator.add_testbench(other, background=True)
        simulator.run()


FRAMES = [
    Frame(ActivationFormat(8), 9, ActivationFormat(13, True), 10),
    Frame(ActivationFormat(8, True), 16, ActivationFormat(8, True), 3),
    Frame(ActivationFormat(4), 1, ActivationFormat(16, True), 2),
    Frame(ActivationFormat(11, True), 5, ActivationFormat(16, True), 4),
    Frame(ActivationFormat(16), 8, ActivationFormat(5, True), 1),
]


def images(frame, count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(frame.input.min, frame.input.max + 1, (count, frame.size)).tolist()


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("frame", FRAMES)
def test_images_in_results_out(frame, stall):
    rig = Rig(frame, stall=stall, seed=1)
    inputs = images(frame, 4)

    async def bench(ctx):
        for image in inputs:
            await rig.send(ctx, frame.request(image))
            answer = await rig.expect(ctx, frame.answer_size)
            assert answer == rig.answer(image)
            logits, winner = rig.results(image)
            assert frame.parse(answer) == (winner, logits)
            assert ctx.get(rig.dut.winner) == winner
        assert rig.images == inputs

    rig.run(bench)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_damaged_request_is_never_answered_with_a_result(frame):
    rig = Rig(frame, seed=2)
    image, = images(frame, 1)
    good = frame.request(image)
    error = bytes([Status.BAD_CHECKSUM])
    bits = random.Random(3).sample(range(16, 8 * len(good)), 12)

    async def bench(ctx):
        await rig.send(ctx, good)
        assert await rig.expect(ctx, frame.answer_size) == rig.answer(image)
        winner = ctx.get(rig.dut.winner)
        for bit in bits:
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            await rig.send(ctx, bad)
            assert await rig.expect(ctx, 1) == error
            assert ctx.get(rig.dut.winner) == winner
        await rig.send(ctx, good)
        assert await rig.expect(ctx, frame.answer_size) == rig.answer(image)

    rig.run(bench)


def test_every_bit_of_the_checksum_counts():
    """Two bytes of damage at the end can leave any remainder, of a single bit too."""
    frame = FRAMES[2]
    rig = Rig(frame)
    image, = images(frame, 1)
    good = frame.request(image)
    remainders = {int.from_bytes(checksum(damage.to_bytes(2, "big")), "little"): damage
                  for damage in range(1 << 16)}
    damages = [remainders[1 << bit] for bit in range(16)]

    async def bench(ctx):
        for damage in damages:
            await rig.send(ctx, good[:-2] + bytes(
                a ^ b for a, b in zip(good[-2:], damage.to_bytes(2, "big"), strict=True)))
            assert await rig.expect(ctx, 1) == bytes([Status.BAD_CHECKSUM])

    rig.run(bench)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_request_that_breaks_off_is_given_up(frame):
    rig = Rig(frame, stall=0.3, seed=4)
    image, = images(frame, 1)
    good = frame.request(image)
    late = bytes([Status.TIMEOUT])
    width = (frame.request_size - 4) // frame.size

    async def bench(ctx):
        for length in range(1, len(good)):
            await rig.send(ctx, good[:length])
            answer = await rig.expect(ctx, 1, deadline=2000)
            # Before the command there is nothing to answer.
            assert answer == (late if length > 1 else b"")
            if length > 1:  # what is missing of the image becomes zeros
                there = image[:(length - 2) // width]
                assert rig.images[-1] == there + [0] * (frame.size - len(there))
            await rig.send(ctx, good)
            assert await rig.expect(ctx, frame.answer_size) == rig.answer(image)

    rig.run(bench)


def test_a_pause_shorter_than_the_timeout_does_no_harm():
    frame = FRAMES[0]
    rig = Rig(frame)
    rig.gap = 8 * 29     # cycles: 29 of 32 ticks, and the bits
    image, = images(frame, 1)

    async def bench(ctx):
        await rig.send(ctx, frame.request(image))
        assert await rig.expect(ctx, frame.answer_size) == rig.answer(image)

    rig.run(bench)


def test_noise_before_a_request_is_skipped():
    frame = FRAMES[0]
    rig = Rig(frame)
    image, = images(frame, 1)
    noise = [bytes([SYNC]), bytes([SYNC, SYNC]), bytes([SYNC, 0x00]), b"\x00\x01\xff",
             bytes([COMMAND_RUN]), bytes([SYNC, 0x55, 0x01])]

    async def bench(ctx):
        for prefix in noise:
            await rig.send(ctx, prefix + frame.request(image))
            assert await rig.expect(ctx, frame.answer_size) == rig.answer(image)

    rig.run(bench)


def test_bytes_during_an_answer_are_dropped():
    frame = FRAMES[0]
    rig = Rig(frame, stall=0.8)
    image, = images(frame, 1)

    async def bench(ctx):
        await rig.send(ctx, frame.request(image) + b"\x00" * 3)
        assert await rig.expect(ctx, frame.answer_size) == rig.answer(image)
        await rig.send(ctx, frame.request(image))
        assert await rig.expect(ctx, frame.answer_size) == rig.answer(image)

    rig.run(bench)


def test_parameters_are_checked():
    with pytest.raises(ValueError, match="baud must be 1 to"):
        Link(FRAMES[0], baud=0)


class FakePort:
    """A serial port with a device behind it that answers one request."""

    def __init__(self, requests):
        self.requests = requests
        self.answer = b""

    def reset_input_buffer(self):
        self.answer = b""

    def write(self, data):
        self.answer = self.requests[data]

    def read(self, count):
        data, self.answer = self.answer[:count], self.answer[count:]
        return data


def test_the_host_on_the_page_about_the_link():
    text = (Path(__file__).parent.parent / "docs" / "link.md").read_text(encoding="utf-8")
    example, = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names = {}
    exec(compile(example, "docs/link.md", "exec"), names)
    frame = names["frame"]
    image, = images(frame, 1)
    logits = list(range(-5, 5))
    body = bytes([Status.OK]) + np.array(logits, "<i2" if frame.logit.bits > 8 else "i1").tobytes()
    body += bytes([9])
    port = FakePort({frame.request(image): body + checksum(body)})
    assert names["classify"](port, image) == (9, logits)
    port.requests[frame.request(image)] = bytes([Status.TIMEOUT])
    with pytest.raises(LinkError, match="TIMEOUT"):
        names["classify"](port, image)


def test_the_page_about_the_link_names_every_byte():
    text = (Path(__file__).parent.parent / "docs" / "link.md").read_text(encoding="utf-8")
    for value in (SYNC, COMMAND_RUN, *Status):
        assert f"`0x{value:02X}`" in text
