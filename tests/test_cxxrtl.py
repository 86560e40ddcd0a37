# amaranth: UnusedElaboratable=no
"""Components as compiled code, cycle by cycle against Amaranth's own simulator."""

import random
from typing import Any

import numpy as np
import pytest
from amaranth import ClockDomain, ClockSignal, Module, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from flightrtl.formats import ActivationFormat, TermFormat
from flightrtl.gateware import Argmax, MaxPooling, ShiftPE, StreamBuffer
from sim import compiler, cxxrtl
from sim.simulation import Port
from tests.streams import run_streams

pytestmark = pytest.mark.skipif(compiler.search() is None, reason=compiler.INSTALL)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of this module's own, that is empty at first."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLIGHTRTL_CACHE", str(folder))
        yield folder / "sim"


class Wide(wiring.Component):
    """Ports of many widths and kinds."""

    a: Signal
    b: Signal
    clear: Signal
    sum: Signal
    product: Signal
    next: Signal
    fields: Any
    pair: Any

    def __init__(self):
        out: Any = Out  # whose types do not know `init`
        super().__init__({
            "a": In(100), "b": In(signed(7)), "clear": In(1),
            "sum": out(100, init=3), "product": Out(signed(70)), "next": Out(64),
            "fields": Out(data.StructLayout({"low": 33, "high": signed(32)})),
            "pair": Out(unsigned(5)).array(2), "fixed": out(9, init=300), "nothing": Out(0)})

    def elaborate(self, platform):
        m = Module()
        with m.If(self.clear):
            m.d.sync += self.sum.eq(0)
        with m.Else():
            m.d.sync += self.sum.eq(self.sum + self.a)
        m.d.sync += [self.product.eq(self.b * self.a[:63].as_signed()),
                     self.pair[0].eq(self.pair[1] + 1), self.pair[1].eq(self.a)]
        m.d.comb += [self.next.eq(self.sum[:64] + self.b),
                     self.fields.as_value().eq(self.sum[20:])]
        return m


class Loops(wiring.Component):
    """Parts of a signal that depend on each other, and a register on the falling edge."""

    a: Signal
    chain: Signal
    late: Signal
    count: Signal

    def __init__(self):
        super().__init__({"a": In(8), "chain": Out(8), "late": Out(8), "count": Out(8)})

    def elaborate(self, platform):
        m = Module()
        fall: Any = ClockDomain("fall", clk_edge="neg", reset_less=True, local=True)
        m.domains += fall
        m.d.comb += [fall.clk.eq(ClockSignal()), self.chain[0].eq(self.a[0])]
        for n in range(1, 8):
            m.d.comb += self.chain[n].eq(self.chain[n - 1] ^ self.a[n])
        m.d.sync += self.count.eq(self.count + self.chain)
        m.d.fall += self.late.eq(self.count)
        return m


class Gate(wiring.Component):
    """No clock at all."""

    a: Signal
    b: Signal
    o: Signal

    def __init__(self):
        super().__init__({"a": In(4), "b": In(4), "o": Out(5)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(self.a + self.b)
        return m


def signals(component):
    return {"__".join(map(str, path)): Value.cast(value)
            for path, _, value in component.signature.flatten(component)}


def compare(make, *, cycles=60, clocked=True):
    """Random inputs into both simulators, and every output of every cycle the same in both."""
    rng = random.Random(5)
    simulation = cxxrtl.build(make()).simulation()
    outputs = [name for name, port in simulation.ports.items() if port.direction == "out"]
    plan = [{name: rng.randint(*port.limits) for name, port in simulation.ports.items()
             if port.direction == "in" and (name != "rst" or n % 20 == 19)}
            for n in range(cycles)]
    plan = [{"rst": 0, **inputs} if "rst" in simulation.ports else inputs for inputs in plan]

    seen = []
    for inputs in plan:
        for name, value in inputs.items():
            simulation.set(name, value)
        before = {name: simulation.get(name) for name in outputs}
        simulation.tick()
        seen.append((before, {name: simulation.get(name) for name in outputs}))

    dut = make()
    m = Module()
    m.submodules.dut = dut
    domain: Any = ClockDomain("sync")
    if clocked:
        m.domains += domain
    known = signals(dut)

    def read(ctx):
        return {name: ctx.get(known[name]) for name in outputs}

    async def bench(ctx):
        for inputs, (before, after) in zip(plan, seen, strict=True):
            for name, value in inputs.items():
                ctx.set(domain.rst if name == "rst" else known[name], value)
            assert read(ctx) == before
            if clocked:
                await ctx.tick()
            assert read(ctx) == after

    simulator = Simulator(m)
    if clocked:
        simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_ports_of_any_width():
    compare(Wide)


def test_feedback_and_a_falling_edge():
    compare(Loops)


def test_no_clock():
    compare(Gate, clocked=False)


def test_ports():
    ports = cxxrtl.build(Wide()).ports
    assert ports["a"] == Port("a", 100, "in")
    assert ports["product"] == Port("product", 70, "out", signed=True)
    assert ports["pair__1"].width == 5
    assert "clk" not in ports
    assert "nothing" not in ports, "no bits, no port"
    assert cxxrtl.build(Wide()).simulation().get("sum") == 3


COMPONENTS = {
    "StreamBuffer": lambda: StreamBuffer(signed(9)),
    "ShiftPE": lambda: ShiftPE(simd=3, activation=ActivationFormat(8, signed=True),
                               term=TermFormat(3)),
    "MaxPooling": lambda: MaxPooling(shape=(6, 4, 3), kernel=(2, 2), stride=(2, 2)),
    "Argmax": lambda: Argmax(count=5, width=12),
}


@pytest.mark.parametrize("name", COMPONENTS)
def test_streams(name):
    """Payloads and the cycle of every transfer."""
    dut: Any = COMPONENTS[name]()
    shape, bits = dut.i.payload.shape(), len(Value.cast(dut.i.payload))
    rng = np.random.default_rng(3)
    raw = rng.integers(0, 1 << bits, 144 if bits < 60 else 30).tolist()
    if isinstance(shape, data.Layout):
        inputs = [shape.from_bits(value) for value in raw]
    else:
        inputs = raw = [value - (value >> bits - 1 << bits if shape.signed else 0)
                        for value in raw]
    count = len(raw) // 4 if name == "MaxPooling" else len(raw)
    wanted = run_streams(dut, {"i": inputs}, {"o": count})
    run = cxxrtl.build(COMPONENTS[name]()).simulation().run(
        {"i": raw}, {"o": count}, cycles=1000, idle=16)
    expected = [value if isinstance(value, int) else value.as_bits() for value in wanted["o"]]
    assert run.payloads["o"].tolist() == expected
    assert run.times["i"].tolist() == wanted.cycles["i"]
    assert run.times["o"].tolist() == wanted.cycles["o"]
    assert run.surplus == {"o": 0}
    assert run.complete


def test_probes():
    """A stream and any value inside of a component, seen from outside."""
    dut = Wide()
    simulation = cxxrtl.build(dut, probes={"high": dut.sum[64:], "both": dut.b + dut.b}
                              ).simulation()
    simulation.set("a", 5 << 64)
    simulation.set("b", -9)
    simulation.tick(2)
    assert simulation.get("high") == 10
    assert simulation.get("both") == -18
    pooling = MaxPooling(shape=(6, 4, 3), kernel=(2, 2), stride=(2, 2))
    design = cxxrtl.build(pooling, probes={"in": pooling.i})
    run = design.simulation().run({"i": range(72)}, {"o": 18}, cycles=500, watch=["in"])
    assert run.payloads["in"].tolist() == list(range(72))
    assert run.times["in"].tolist() == run.times["i"].tolist()
    assert run.counts["in"].transfer == 72
    assert run.counts["in"].stalled + run.counts["in"].idle == run.cycles - 72


def test_a_probe_must_not_hide_a_port():
    dut = Wide()
    with pytest.raises(ValueError, match="has a port 'sum' already: give the probe 'sum' another"):
        cxxrtl.build(dut, probes={"sum": dut.a})


def test_built_once(cache, monkeypatch):
    first = cxxrtl.build(Gate())
    made = first.library.stat().st_ino
    assert first.library.parent == cache
    monkeypatch.setattr(compiler, "library", None)
    assert cxxrtl.build(Gate()).library.stat().st_ino == made
    monkeypatch.undo()
    first.library.with_suffix(".json").write_text("{")
    again = cxxrtl.build(Gate())
    assert again.library.stat().st_ino != made, "built again"
    assert again.simulation().get("o") == 0


def test_unpack():
    layout: Any = data.StructLayout({"a": 3, "b": signed(5), "c": data.ArrayLayout(2, 2), "d": 52})
    values = [{"a": 6, "b": -16, "c": [1, 2], "d": 2**52 - 1},
              {"a": 1, "b": 7, "c": [3, 0], "d": 5}]
    raw = np.array([layout.const(value).as_bits() for value in values], np.uint64)
    fields = cxxrtl.unpack(raw, layout)
    assert fields["a"].tolist() == [6, 1]
    assert fields["b"].tolist() == [-16, 7]
    assert fields["c"].tolist() == [0b1001, 0b0011]
    assert fields["d"].tolist() == [2**52 - 1, 5]
