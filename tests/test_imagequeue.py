"""Images in words: what comes out of the queue, what is dropped, what is refused."""

import numpy as np
import pytest
from amaranth import Signal
from amaranth.hdl import Assert, Assume
from amaranth.sim import Simulator

from flightrtl.formats import ActivationFormat
from flightrtl.gateware import ImageQueue
from tests.formal import Failed, Spec, bound, planted, prove
from tests.streams import PERIOD, run_streams


def words(dut, images):
    mask = (1 << dut.value_bits) - 1
    return [sum((value & mask) << dut.value_bits * n for n, value in enumerate(part))
            for image in images for part in (image[at:at + dut.per_word]
                                             for at in range(0, len(image), dut.per_word))]


@pytest.mark.parametrize(("bits", "signed", "size"), [
    (8, False, 16), (8, True, 7), (1, False, 5), (5, False, 1), (12, True, 6), (16, False, 3)])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_values_come_in_order(bits, signed, size, stall):
    form = ActivationFormat(bits, signed)
    dut = ImageQueue(form, size)
    images = np.random.default_rng(size).integers(form.min, form.max, (6, size), endpoint=True)
    run = run_streams(dut, {"i": words(dut, images.tolist())}, {"o": images.size}, seed=bits,
                      stall=stall)
    assert run["o"] == images.ravel().tolist()
    if not stall:
        # No gap once an image has begun.
        ends = run.cycles["o"]
        assert all(ends[n + size - 1] - ends[n] == size - 1 for n in range(0, images.size, size))
        assert ends[0] == run.cycles["i"][dut.words - 1] + 2


def test_room_partial_and_drop():
    dut = ImageQueue(ActivationFormat(8), 12)     # three words, room for four

    async def bench(ctx):
        async def put(value):
            ctx.set(dut.i.payload, value)
            ctx.set(dut.i.valid, 1)
            await ctx.tick()
            ctx.set(dut.i.valid, 0)

        assert ctx.get(dut.room) == 4
        assert not ctx.get(dut.partial)
        await put(0x99999999)
        await put(0x99999999)
        assert ctx.get(dut.partial)
        assert ctx.get(dut.room) == 2
        ctx.set(dut.drop, 1)
        assert not ctx.get(dut.i.ready)
        await put(0x99999999)
        ctx.set(dut.drop, 0)
        assert not ctx.get(dut.partial)
        assert ctx.get(dut.room) == 4
        for value in (0x04030201, 0x08070605, 0x0C0B0A09):
            await put(value)
        assert not ctx.get(dut.partial)
        await ctx.tick().repeat(3)
        # One word has left the memory.
        assert ctx.get(dut.room) == 2
        await put(0x99999999)
        ctx.set(dut.drop, 1)
        await ctx.tick()
        ctx.set(dut.drop, 0)
        assert ctx.get(dut.room) == 2
        ctx.set(dut.o.ready, 1)
        for expected in range(1, 13):
            value, = await ctx.tick().sample(dut.o.payload).until(dut.o.valid)
            assert value == expected
        for _ in range(8):
            assert not ctx.get(dut.o.valid)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.run()


class OnlyWholeImages(Spec):
    """As many values leave as complete images had, or fewer; each word once and in order."""

    def says(self, m, dut):
        # The words of an image are numbered, in the lowest bits of both of their values.
        number, out, owed = Signal(2), Signal(3), Signal(6)
        put = dut.i.valid & dut.i.ready
        m.d.comb += [Assume(half[:2] == number, "words are numbered")
                     for half in (dut.i.payload[:16], dut.i.payload[16:])]
        with m.If(put):
            m.d.sync += number.eq(number + 1)
            with m.If(number == dut.words - 1):
                m.d.sync += number.eq(0)
        with m.Elif(dut.drop):
            m.d.sync += number.eq(0)
        m.d.comb += Assert(dut.complete == (put & (number == dut.words - 1)), "complete is wrong")
        taken = dut.o.valid & dut.o.ready
        m.d.sync += owed.eq(owed + dut.size * dut.complete - taken)
        with m.If(taken):
            m.d.comb += [Assert(owed != 0, "a value of half an image"),
                         Assert(dut.o.payload[:2] == out >> 1, "a word too early, late or twice")]
            m.d.sync += out.eq(out + 1)
            with m.If(out == dut.size - 1):
                m.d.sync += out.eq(0)


def test_only_whole_images_leave():
    """Bounded: with words, drops and stalls at any time."""
    prove(OnlyWholeImages(ImageQueue(ActivationFormat(16), 5)), mode="bmc", depth=bound(11, 16))


@pytest.mark.parametrize(("old", "new", "message"), [
    ("tail.eq(whole), filled.eq(0)", "filled.eq(0)", "too early|half"),
    ("fetched.eq(head != whole)", "fetched.eq(head != tail)", "half an image|too early"),
])
def test_only_whole_images_leave_twin(old, new, message, tmp_path):
    dut = planted(ImageQueue, old, new)(ActivationFormat(16), 5)
    with pytest.raises(Failed, match=message):
        prove(OnlyWholeImages(dut), mode="bmc", depth=12, folder=tmp_path)
