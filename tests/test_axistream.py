# amaranth: UnusedElaboratable=no
"""A network on AXI4-Stream: packets of any length, and the rules of the streams."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from amaranth import Cat, Module, Mux, Signal
from amaranth.hdl import Assert, Assume
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from flightrtl import golden
from flightrtl.formats import ActivationFormat
from flightrtl.gateware import (
    AxiStreamNetwork,
    AxiStreamSignature,
    Folding,
    Network,
    NetworkRegisters,
)
from flightrtl.model import TensorType, WeightedLayer
from tests.formal import AnySeq, Failed, Spec, internal, planted, prove
from tests.models import random_images, random_model
from tests.streams import PERIOD

WIDE = random_model(np.random.default_rng(8), input_shape=(2, 3, 1), classes=3,
                    input_format=ActivationFormat(11, signed=True), kinds=["convolution", "dense"])


def component():
    return AxiStreamNetwork(Network(WIDE, {
        layer.name: Folding(4, 1) for layer in WIDE.layers if isinstance(layer, WeightedLayer)}))


def run(packets, results, *, stall, seed=0):
    """Send packets of values; what came out, as (tdata, tuser at tlast), and ``short_image``."""
    dut = component()
    rng = random.Random(seed)
    taken = []

    async def source(ctx):
        for packet in packets:
            for number, value in enumerate(packet):
                while rng.random() < stall:
                    await ctx.tick()
                # Bits beyond the format are of no meaning.
                ctx.set(dut.s_axis.tdata, value & 0x7FF | rng.getrandbits(5) << 11)
                ctx.set(dut.s_axis.tlast, number == len(packet) - 1)
                ctx.set(dut.s_axis.tvalid, 1)
                await ctx.tick().until(dut.s_axis.tready)
                ctx.set(dut.s_axis.tvalid, 0)

    async def sink(ctx):
        m_axis = dut.m_axis
        for number in range(results * 3 + 1):
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(m_axis.tready, 1)
            for _ in range(2000):
                *_, valid, data, user, last = await ctx.tick().sample(
                    m_axis.tvalid, m_axis.tdata, m_axis.tuser, m_axis.tlast)
                if valid:
                    break
            ctx.set(m_axis.tready, 0)
            if number == results * 3:
                assert not valid, "a result too many"
                break
            assert valid, f"only {number} of {results * 3} logits"
            assert last == (number % 3 == 2)
            assert len(m_axis.tdata) % 8 == 0
            taken.append((data - (data >> len(m_axis.tdata) - 1 << len(m_axis.tdata)),
                          user if last else None))

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(source)
    simulator.add_testbench(sink)
    simulator.run()
    return taken


def expected(images):
    logits = golden.run(WIDE, images)
    return [(int(logit), int(row.argmax()) if n == len(row) - 1 else None)
            for row in logits for n, logit in enumerate(row)]


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_a_packet_is_an_image_or_a_batch(stall):
    images = random_images(np.random.default_rng(1), WIDE, 5)
    flat = images.reshape(5, -1).tolist()
    packets = [flat[0], flat[1] + flat[2] + flat[3], flat[4]]
    assert run(packets, 5, stall=stall) == expected(images)


def test_the_end_of_a_packet_ends_an_image():
    """What is missing is zero, and the images after it are not touched."""
    images = random_images(np.random.default_rng(2), WIDE, 4)
    images[1].reshape(-1)[4:] = 0
    images[2].reshape(-1)[1:] = 0
    flat = images.reshape(4, -1).tolist()
    for stall in (0.0, 0.4):
        assert run([flat[0] + flat[1][:4], flat[2][:1], flat[3]], 4, stall=stall) == expected(
            images)


@pytest.mark.parametrize(("lasts", "short"), [
    ((0, 0, 0, 0, 0, 1), 0), ((0, 0, 0, 0, 0, 0), 0), ((0, 0, 0, 0, 1, 0), 1),
    ((1, 0, 0, 0, 0, 0), 1)])
def test_short_image(lasts, short):
    dut = component()

    async def bench(ctx):
        ctx.set(dut.s_axis.tvalid, 1)
        for last in lasts:
            ctx.set(dut.s_axis.tlast, last)
            await ctx.tick().until(dut.s_axis.tready)
        ctx.set(dut.s_axis.tvalid, 0)
        await ctx.tick().repeat(3)
        assert ctx.get(dut.short_image) == short

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.run()


class AnyNetwork(wiring.Component):
    """In the place of a network of images of three values: takes and gives whatever it likes."""

    i: stream.Interface
    o: stream.Interface

    def __init__(self):
        self.model = SimpleNamespace(input=TensorType((1, 3, 1), ActivationFormat(2)))
        self.argmax = SimpleNamespace(width=3)
        self.external: dict[str, Any] = {}
        super().__init__({
            "i": In(stream.Signature(2)),
            "o": Out(stream.Signature(data.StructLayout({"logit": 3, "winner": 1, "last": 1})))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.i.ready.eq(AnySeq(1)), self.o.valid.eq(AnySeq(1)),
                     self.o.payload.as_value().eq(AnySeq(5))]
        return m


class Rules(Spec):
    """What is offered stays, on both sides; and a packet ends at the end of an image."""

    def says(self, m, dut):
        source, sink, network = dut.s_axis, dut.m_axis, dut.network
        for kind, valid, ready, payload, name in (
                (Assume, source.tvalid, source.tready, Cat(source.tdata, source.tlast), "s_axis"),
                (Assume, network.o.valid, network.o.ready, network.o.payload.as_value(), "result"),
                (Assert, sink.tvalid, sink.tready, Cat(sink.tdata, sink.tuser, sink.tlast),
                 "m_axis"),
                (Assert, network.i.valid, network.i.ready, network.i.payload, "image")):
            stalled = Signal(name=f"{name}_stalled")
            held = Signal(len(payload), name=f"{name}_held")
            m.d.sync += [stalled.eq(valid & ~ready), held.eq(payload)]
            with m.If(stalled):
                m.d.comb += kind(valid & (payload == held), f"{name} changed while stalled")
        number, ended = Signal(range(3)), Signal(init=1)
        with m.If(network.i.valid & network.i.ready):
            m.d.sync += number.eq(Mux(number == 2, 0, number + 1))
        with m.If(source.tvalid & source.tready):
            m.d.sync += ended.eq(source.tlast)
            m.d.comb += Assert(~ended | (number == 0), "a packet begins within an image")
        # Which states there are.
        place, filling = internal(self, "dut.place", 2), internal(self, "dut.filling", 1)
        m.d.comb += [Assert(place == number, "place"), Assert(number < 3, "number"),
                     Assert(~ended | filling | (number == 0), "ended")]


def test_what_is_offered_stays():
    """By induction, with resets at any time."""
    prove(Rules(AxiStreamNetwork(AnyNetwork())), depth=2, reset=True)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("source.tvalid | filling", "source.tvalid ^ filling", "image changed"),
    ("sink.tvalid.eq(network.o.valid)", "sink.tvalid.eq(network.o.valid & network.i.ready)",
     "m_axis changed"),
    ("source.tlast & ~filling", "source.tlast & source.tdata[0] & ~filling",
     "within an image|ended")])
def test_what_is_offered_stays_twin(old, new, message, tmp_path):
    with pytest.raises(Failed, match=message):
        prove(Rules(planted(AxiStreamNetwork, old, new)(AnyNetwork())), mode="bmc", depth=8,
              folder=tmp_path)


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="a multiple of 8 bits, not 12"):
        AxiStreamSignature(12)
    network = AnyNetwork()
    network.external = {"conv1": None}
    for wrapper in (AxiStreamNetwork, NetworkRegisters):
        with pytest.raises(ValueError, match="'conv1' takes its weights from outside"):
            wrapper(network)
