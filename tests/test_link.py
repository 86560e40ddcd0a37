import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from amaranth import ResetInserter, Signal
from amaranth.sim import Simulator

from flightrtl import protocol
from flightrtl.formats import ActivationFormat
from flightrtl.gateware.link import Deframer, Framer, Link, layout
from flightrtl.protocol import (
    ESCAPE,
    FLAG,
    Counters,
    Decoder,
    Frame,
    Identity,
    LinkError,
    Reply,
    Request,
    Status,
    Type,
    load_body,
    request,
)
from tests.streams import PERIOD, run_streams


def identity_of(frame, loadable=False):
    return Identity(b"the mode", bytes([FLAG, ESCAPE, 0, 1, 2, 3, 4, 255]), frame.image_bytes,
                    frame.classes, loadable)


class Rig:
    """A link between a host and a network that adds up its input.

    Parameters
    ----------
    gap : int
        Cycles between two bytes from the host.
    stall : float
        Chance that the network, or what takes the bytes to the host, pauses in a cycle.
    register, loadable : bool
        Of the link.
    """

    def __init__(self, frame, *, gap=1, seed=0, stall=0.0, register=False, loadable=False):
        self.frame = frame
        self.dut = Link(frame, identity_of(frame, loadable), register=register)
        self.writes = []
        self.random = random.Random(seed)
        self.stall = stall
        self.gap = gap
        self.images = []
        self.replies = []
        self.decoder = Decoder()

    def results(self, image):
        """What the network computes: logits and winner."""
        fmt = self.frame.logit
        span = fmt.max - fmt.min + 1
        logits = [(sum(image) * (n + 1) - fmt.min) % span + fmt.min
                  for n in range(self.frame.classes)]
        return logits, int(np.argmax(logits))

    def reply(self, sequence, image):
        """The reply to a request for an image."""
        return Reply(Type.CLASSIFY, sequence, body=self.frame.answer_body(*self.results(image)))

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
        while True:
            await self._pause(ctx)
            ctx.set(self.dut.o.ready, 1)
            byte, = await ctx.tick().sample(self.dut.o.payload).until(self.dut.o.valid)
            ctx.set(self.dut.o.ready, 0)
            self.replies += map(Reply.parse, self.decoder.feed(bytes([byte])))
            assert not self.decoder.damaged

    async def memories(self, ctx):
        """What is written: memory, address, byte."""
        bus, loading = self.dut.write, self.dut.loading
        async for _, _, valid, held, memory, address, byte in ctx.tick().sample(
                bus.valid, loading, bus.memory, bus.address, bus.data):
            if valid:
                assert held, "the network is not in reset"
                self.writes.append((memory, address, byte))

    async def send(self, ctx, data):
        for byte in data:
            ctx.set(self.dut.i.payload, byte)
            ctx.set(self.dut.i.valid, 1)
            await ctx.tick().until(self.dut.i.ready)
            ctx.set(self.dut.i.valid, 0)
            if self.gap:
                await ctx.tick().repeat(self.gap)

    async def answer(self, ctx, deadline=20_000):
        """The only reply that comes, or None."""
        for _ in range(deadline):
            if self.replies:
                break
            await ctx.tick()
        await ctx.tick().repeat(40)
        found = self.replies.copy()
        self.replies.clear()
        assert len(found) <= 1
        return found[0] if found else None

    async def ask(self, ctx, data, deadline=20_000):
        await self.send(ctx, data)
        return await self.answer(ctx, deadline)

    async def counters(self, ctx):
        return Counters.parse(await self.ask(ctx, request(Type.STATUS, 99)))

    def run(self, bench, reset=None):
        """``reset``: for the link, if it has one."""
        simulator = Simulator(self.dut if reset is None else ResetInserter(reset)(self.dut))
        simulator.add_clock(PERIOD)
        simulator.add_testbench(bench)
        others = [self.network, self.transmitter]
        if self.dut.responder.identity.loadable:
            others.append(self.memories)
        for other in others:
            simulator.add_testbench(other, background=True)
        simulator.run()


FRAMES = [
    Frame(ActivationFormat(8), 9, ActivationFormat(13, True), 10),
    Frame(ActivationFormat(8, True), 16, ActivationFormat(8, True), 3),
    Frame(ActivationFormat(4), 1, ActivationFormat(16, True), 2),
    Frame(ActivationFormat(11, True), 5, ActivationFormat(16, True), 4),
    Frame(ActivationFormat(16), 8, ActivationFormat(5, True), 1),
    Frame(ActivationFormat(3), 2, ActivationFormat(2, True), 257),
]
NOTHING = 400
"""Cycles after which no reply comes any more."""


def images(frame, count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(frame.input.min, frame.input.max + 1, (count, frame.size)).tolist()


@pytest.mark.parametrize("register", [False, True])
@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("frame", FRAMES)
def test_images_in_results_out(frame, stall, register):
    rig = Rig(frame, stall=stall, seed=1, register=register)
    inputs = images(frame, 2)

    async def bench(ctx):
        for sequence, image in enumerate(inputs, 0x7C):
            reply = await rig.ask(ctx, frame.request(sequence, image))
            assert reply == rig.reply(sequence, image)
            assert ctx.get(rig.dut.winner) == rig.results(image)[1]
        assert rig.images == inputs

    rig.run(bench)


@pytest.mark.parametrize("register", [False, True])
def test_identity_counters_reset(register):
    frame = FRAMES[0]
    rig = Rig(frame, register=register)
    image, = images(frame, 1)

    async def bench(ctx):
        reply = await rig.ask(ctx, request(Type.IDENTIFY, 255))
        assert (reply.type, reply.sequence) == (Type.IDENTIFY, 255)
        assert Identity.parse(reply) == rig.dut.responder.identity
        assert await rig.counters(ctx) == Counters(1)
        assert await rig.ask(ctx, frame.request(7, image)) == rig.reply(7, image)
        assert await rig.counters(ctx) == Counters(3)
        assert await rig.ask(ctx, request(Type.RESET, 3)) == Reply(Type.RESET, 3)
        assert await rig.counters(ctx) == Counters(0)
        assert await rig.counters(ctx) == Counters(1)
        assert await rig.ask(ctx, frame.request(8, image)) == rig.reply(8, image)

    rig.run(bench)


@pytest.mark.parametrize("register", [False, True])
@pytest.mark.parametrize("frame", [FRAMES[0], FRAMES[3]])
def test_weights_are_written_and_the_model_is_named(frame, register):
    """No image is taken and no model is named between the first weights and the last."""
    rig = Rig(frame, register=register, loadable=True, gap=0)
    image, = images(frame, 1)
    data = bytes([FLAG, ESCAPE, *range(frame.load_bytes - 2)])
    right = rig.reply(7, image)

    async def model(ctx):
        identity = Identity.parse(await rig.ask(ctx, request(Type.IDENTIFY, 1)))
        assert identity == replace(identity_of(frame, True), model=identity.model)
        return identity.model

    async def bench(ctx):
        assert await rig.ask(ctx, frame.request(7, image)) == right
        assert await model(ctx) == b"the mode"
        for number, address in ((3, 0xFFFE), (0, 0)):
            rig.writes.clear()
            body = load_body(number, address, data)
            assert await rig.ask(ctx, request(Type.LOAD, 2, body)) == Reply(Type.LOAD, 2)
            wanted = [(number, address + n & 0xFFFF, byte) for n, byte in enumerate(data)]
            assert list(dict.fromkeys(rig.writes)) == wanted
            assert len(rig.writes) == len(data)
            assert await model(ctx) == bytes(8)
            assert await rig.ask(ctx, frame.request(8, image)) == Reply(
                Type.CLASSIFY, 8, Status.WEIGHTS_INCOMPLETE)
        assert await rig.ask(ctx, request(Type.RESET, 9)) == Reply(Type.RESET, 9)
        assert await rig.ask(ctx, frame.request(8, image)) == Reply(
            Type.CLASSIFY, 8, Status.WEIGHTS_INCOMPLETE)
        assert await rig.counters(ctx) == Counters(taken=0, refused=1)
        rig.writes.clear()
        for name in (b"another.", bytes([FLAG, ESCAPE] * 4)):
            assert await rig.ask(ctx, request(Type.COMMIT, 4, name)) == Reply(Type.COMMIT, 4)
            assert await model(ctx) == name
            assert await rig.ask(ctx, frame.request(7, image)) == right
        assert rig.writes == []
        assert len(rig.images) == 3

    rig.run(bench)


def test_requests_to_load_that_are_not_whole_write_nothing():
    frame = FRAMES[0]
    rig = Rig(frame, loadable=True, gap=0)
    image, = images(frame, 1)
    body = load_body(0, 0, bytes(frame.load_bytes))
    wrong = [(Type.LOAD, body[:-1]), (Type.LOAD, body + b"\0"), (Type.LOAD, b""),
             (Type.COMMIT, b""), (Type.COMMIT, b"anothe."), (Type.COMMIT, b"another.."),
             (Type.COMMIT, body)]

    async def bench(ctx):
        for n, (kind, content) in enumerate(wrong):
            assert await rig.ask(ctx, Request(kind, n, content).encode()) == Reply(
                kind, n, Status.BAD_LENGTH)
        for kind, content in ((Type.LOAD, body), (Type.COMMIT, b"another.")):
            wire = bytearray(request(kind, 1, content))
            wire[-8] ^= 0x10
            await rig.send(ctx, wire)
            await rig.send(ctx, request(kind, 1, content)[:-2])
            await rig.send(ctx, [FLAG])
        for kind in (0, 7, 8, 13, 14):
            assert await rig.ask(ctx, Request(kind, 3, body).encode()) == Reply(
                kind, 3, Status.UNKNOWN_TYPE)
        assert await rig.counters(ctx) == Counters(damaged=4, refused=len(wrong) + 5)
        assert rig.writes == []
        assert not ctx.get(rig.dut.loading)
        assert Identity.parse(await rig.ask(ctx, request(Type.IDENTIFY, 1))).model == b"the mode"
        assert await rig.ask(ctx, frame.request(7, image)) == rig.reply(7, image)

    rig.run(bench)


def test_weights_are_incomplete_after_a_reset_too():
    """The memories keep what was written, so this is no way out."""
    frame = FRAMES[0]
    rig = Rig(frame, loadable=True, gap=0)
    image, = images(frame, 1)
    load = request(Type.LOAD, 1, load_body(0, 0, bytes(frame.load_bytes)))
    reset = Signal()

    async def bench(ctx):
        await rig.send(ctx, load)
        await ctx.tick().repeat(32)
        for _ in range(2):      # in the middle of the request, and at rest
            ctx.set(reset, 1)
            await ctx.tick()
            ctx.set(reset, 0)
            rig.decoder = Decoder()
            assert await rig.answer(ctx, NOTHING) is None
            assert await rig.ask(ctx, frame.request(8, image)) == Reply(
                Type.CLASSIFY, 8, Status.WEIGHTS_INCOMPLETE)
        assert Identity.parse(await rig.ask(ctx, request(Type.IDENTIFY, 1))).model == bytes(8)
        await rig.ask(ctx, request(Type.COMMIT, 4, b"another."))
        assert await rig.ask(ctx, frame.request(7, image)) == rig.reply(7, image)

    rig.run(bench, reset)


def test_a_request_to_load_needs_room():
    frame = Frame(ActivationFormat(8), 3, ActivationFormat(8, True), 2)
    with pytest.raises(ValueError, match="an image has 3 bytes.* it must have 4 or more"):
        Link(frame, identity_of(frame, True))


@pytest.mark.parametrize("frame", [FRAMES[2], FRAMES[4]])
def test_a_damaged_request_is_never_answered(frame):
    """Every kind of damage, and the next good request has its own answer."""
    rig = Rig(frame, seed=2)
    image, = images(frame, 1)
    rng = random.Random(3)
    wire = frame.request(1, image)

    async def bench(ctx):
        for kind in range(12):
            at = rng.randrange(1, len(wire) - 1)
            bad = bytearray(wire)
            if kind % 4 == 0:
                bad[at] ^= 1 << rng.randrange(8)
            elif kind % 4 == 1:
                del bad[at]
            elif kind % 4 == 2:
                bad.insert(at, rng.choice([FLAG, ESCAPE, bad[at]]))
            else:
                del bad[at:]
            if Decoder().feed(bytes(bad)) == [wire[1:-5]]:
                continue    # an escape twice is an escape
            await rig.send(ctx, bad)
            assert await rig.ask(ctx, frame.request(kind, image)) == rig.reply(kind, image)
        counters = await rig.counters(ctx)
        assert counters.damaged + counters.overruns >= 8
        assert counters.taken == len(rig.images)

    rig.run(bench)


def test_every_bit_of_the_checksum_counts():
    frame = FRAMES[2]
    rig = Rig(frame)
    content = request(Type.IDENTIFY, 0)[1:3]
    right = protocol.checksum(content)

    async def bench(ctx):
        for bit in range(32):
            wrong = (int.from_bytes(right, "little") ^ 1 << bit).to_bytes(4, "little")
            await rig.send(ctx, escaped(content + wrong))
        await rig.send(ctx, escaped(content + right)[:-1] + bytes([ESCAPE, FLAG]))  # given up
        assert await rig.counters(ctx) == Counters(damaged=33)

    rig.run(bench)


def escaped(inside):
    """A frame whose checksum is already there, right or not."""
    for special in (ESCAPE, FLAG):
        inside = inside.replace(bytes([special]), bytes([ESCAPE, special ^ 0x20]))
    return bytes([FLAG]) + inside + bytes([FLAG])


def test_a_host_that_vanishes_leaves_nothing_behind():
    frame = FRAMES[2]
    rig = Rig(frame, stall=0.3, seed=4)
    image, = images(frame, 1)
    wire = frame.request(5, image)

    async def bench(ctx):
        lengths = [2, 3, 4, 7, len(wire) - 3, len(wire) - 2]
        for length in lengths:
            await rig.send(ctx, wire[:length])
            assert await rig.answer(ctx, deadline=60) is None
            assert await rig.ask(ctx, wire) == rig.reply(5, image)
        assert rig.images == [image] * len(lengths)
        assert await rig.counters(ctx) == Counters(taken=len(lengths), damaged=len(lengths))

    rig.run(bench)


def test_what_is_no_request_is_refused():
    frame = FRAMES[0]
    rig = Rig(frame)
    body = frame.image_body(images(frame, 1)[0])
    wrong = [(Type.CLASSIFY, b"", Status.BAD_LENGTH), (Type.CLASSIFY, body[:-1], Status.BAD_LENGTH),
             (Type.IDENTIFY, b"\0", Status.BAD_LENGTH), (Type.STATUS, body, Status.BAD_LENGTH),
             (Type.RESET, b"ab", Status.BAD_LENGTH), (Type.LOAD, b"abcd", Status.NOT_LOADABLE),
             (Type.COMMIT, bytes(8), Status.NOT_LOADABLE), (0, b"", Status.UNKNOWN_TYPE),
             (7, b"", Status.UNKNOWN_TYPE), (9, body, Status.UNKNOWN_TYPE),
             (0x7F, b"", Status.UNKNOWN_TYPE), (0x41, body, Status.UNKNOWN_TYPE)]

    async def bench(ctx):
        for n, (kind, content, status) in enumerate(wrong):
            reply = await rig.ask(ctx, Request(kind, n, content).encode())
            assert reply == Reply(kind, n, status)
        assert await rig.counters(ctx) == Counters(refused=len(wrong))
        assert rig.images == []

    rig.run(bench)


def test_a_frame_that_is_too_long_is_dropped():
    frame = FRAMES[0]
    rig = Rig(frame)
    image, = images(frame, 1)
    body = frame.image_body(image)

    async def bench(ctx):
        for more in (64, 300):
            await rig.send(ctx, Request(Type.CLASSIFY, 1, body + bytes(more)).encode())
        # Nor do its bytes stand where others are.
        assert Identity.parse(await rig.ask(ctx, request(Type.IDENTIFY, 2))).model == b"the mode"
        assert await rig.ask(ctx, frame.request(7, image)) == rig.reply(7, image)
        assert await rig.counters(ctx) == Counters(taken=2, overruns=2)

    rig.run(bench)


def test_what_comes_during_a_reply_is_dropped_and_counted():
    frame = FRAMES[0]
    rig = Rig(frame, stall=0.9)
    image, = images(frame, 1)

    async def bench(ctx):
        reply = await rig.ask(ctx, frame.request(1, image) + frame.request(2, image))
        assert reply == rig.reply(1, image)
        assert await rig.ask(ctx, frame.request(3, image)) == rig.reply(3, image)
        assert await rig.counters(ctx) == Counters(taken=2, overruns=1)
        # Flags, as a line may carry them all the time, are no loss.
        reply = await rig.ask(ctx, frame.request(4, image) + bytes([FLAG] * 30))
        assert reply == rig.reply(4, image)
        assert await rig.counters(ctx) == Counters(taken=4, overruns=1)

    rig.run(bench)


def test_a_frame_with_a_byte_that_the_line_lost_is_dropped():
    frame = FRAMES[2]
    rig = Rig(frame)
    image, = images(frame, 1)
    wire = frame.request(1, image)

    async def bench(ctx):
        for at in (1, 5, len(wire) - 1):
            await rig.send(ctx, wire[:at])
            ctx.set(rig.dut.lost, 1)
            await ctx.tick()
            ctx.set(rig.dut.lost, 0)
            await rig.send(ctx, wire[at:])
            assert await rig.answer(ctx, NOTHING) is None
        assert await rig.ask(ctx, wire) == rig.reply(1, image)
        assert await rig.counters(ctx) == Counters(taken=1, overruns=3)

    rig.run(bench)


def test_counters_carry_and_wrap():
    rig = Rig(FRAMES[2], gap=0)
    bad = bytes([1, 2, 3, 4, 5, 6, FLAG])

    async def bench(ctx):
        await rig.send(ctx, bad * 2)
        assert await rig.counters(ctx) == Counters(damaged=2)
        memory = rig.dut.responder.buffer.data
        for at, byte in enumerate(bytes([255, 255, 255, 254, 0, 255, 255, 255]), layout.COUNTERS):
            ctx.set(memory[at], byte)
        await rig.send(ctx, bad)
        assert await rig.counters(ctx) == Counters(65535, 255 * 256, 65280, 65535)
        assert await rig.counters(ctx) == Counters(0, 255 * 256, 65280, 65535)

    rig.run(bench)


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_framer_and_deframer_are_the_inverse_of_each_other(stall):
    content = bytes([FLAG, ESCAPE, 0, FLAG ^ 0x20, ESCAPE ^ 0x20, 255, ESCAPE, FLAG])
    tokens = [{"data": byte, "end": 0} for byte in content] + [{"data": FLAG, "end": 1}]
    wire = escaped(content)[1:]
    run = run_streams(Framer(), {"i": tokens}, {"o": len(wire)}, seed=1, stall=stall)
    assert bytes(run["o"]) == wire
    run = run_streams(Deframer(), {"i": wire}, {"o": len(tokens)}, seed=2, stall=stall)
    assert [(token.data, token.end) for token in run["o"]] == [
        (token["data"], token["end"]) for token in tokens]


def test_a_deframer_tells_which_frame_was_given_up():
    wire = bytes([1, ESCAPE, FLAG, ESCAPE, ESCAPE, 2, FLAG])
    run = run_streams(Deframer(), {"i": wire}, {"o": 4})
    assert [(token.data, token.end) for token in run["o"]] == [
        (1, 0), (FLAG ^ 0x20, 1), (2 ^ 0x20, 0), (FLAG, 1)]


class FakePort:
    """A serial port with a device behind it that answers every other request."""

    def __init__(self, replies):
        self.replies = replies
        self.waiting = b""
        self.requests = []

    def reset_input_buffer(self):
        self.waiting = b""

    def write(self, data):
        self.requests.append(data)
        self.waiting = self.replies.get(data, b"") if len(self.requests) % 2 == 0 else b""

    def read(self, count):
        data, self.waiting = self.waiting[:count], self.waiting[count:]
        return data


def page():
    return (Path(__file__).parent.parent / "docs" / "link.md").read_text(encoding="utf-8")


def test_the_host_on_the_page_about_the_link():
    example, = re.findall(r"^```python\n(.*?)^```$", page(), re.MULTILINE | re.DOTALL)
    names = {}
    exec(compile(example, "docs/link.md", "exec"), names)
    frame = names["frame"]
    image, = images(frame, 1)
    logits = list(range(-5, 5))
    late = Reply(Type.CLASSIFY, 6, body=frame.answer_body(logits[::-1], 0)).encode()
    right = Reply(Type.CLASSIFY, 7, body=frame.answer_body(logits, 9)).encode()
    port = FakePort({frame.request(7, image): late + right})
    assert names["classify"](port, image, 7) == (9, logits)
    assert len(port.requests) == 2
    with pytest.raises(LinkError, match="no answer to 3 requests"):
        names["classify"](FakePort({}), image)


def test_the_page_about_the_link_names_every_number():
    for value in (FLAG, ESCAPE, protocol.REPLY, protocol.VERSION):
        assert f"`0x{value:02X}`" in page()
    for value in (*Type, *Status):
        assert f"`0x{value:02X}` {value.name}" in page()
