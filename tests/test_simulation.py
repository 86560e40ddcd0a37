# amaranth: UnusedElaboratable=no
"""The interface of a compiled design: values, streams, and what it refuses."""

import threading
from typing import Any

import numpy as np
import pytest
from amaranth import Module, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from flightrtl.gateware import MaxPooling, StreamBuffer
from sim import compiler, cxxrtl, shim
from sim.simulation import Port

pytestmark = pytest.mark.skipif(compiler.search() is None, reason=compiler.INSTALL)


class Echo(wiring.Component):
    """Adds a number to wide payloads; takes one in every other cycle, and only if it is wanted."""

    i: Any
    o: Any
    free: Any
    more: Signal
    open: Signal

    def __init__(self):
        super().__init__({"i": In(stream.Signature(signed(130))), "more": In(signed(70)),
                          "o": Out(stream.Signature(signed(130))),
                          "free": Out(stream.Signature(6, always_ready=True)), "open": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.open.eq(~self.open)
        m.d.comb += [self.o.payload.eq(self.i.payload + self.more),
                     self.o.valid.eq(self.i.valid & self.open),
                     self.i.ready.eq(self.o.ready & self.open),
                     self.free.valid.eq(self.open), self.free.payload.eq(self.i.payload)]
        return m


@pytest.fixture(scope="module")
def echo():
    return cxxrtl.build(Echo())


@pytest.fixture(scope="module")
def pooling():
    dut = MaxPooling(shape=(4, 4, 2), kernel=(2, 2), stride=(2, 2))
    return cxxrtl.build(dut, probes={"in": dut.i, "out": dut.o})


@pytest.fixture(scope="module")
def buffer():
    return cxxrtl.build(StreamBuffer(8))


def test_ports():
    assert Port("a", 64, "in").words == 1
    assert Port("a", 65, "in").words == 2
    assert Port("a", 4, "out").limits == (0, 15)
    assert Port("a", 4, "out", signed=True).limits == (-8, 7)


def test_set_and_get(echo):
    simulation = echo.simulation()
    simulation.set("more", -(1 << 69))
    simulation.set("i__payload", 1 << 128)
    assert simulation.get("o__payload") == (1 << 128) - (1 << 69)
    simulation.set("i__payload", -(1 << 129))
    simulation.set("more", -1)
    assert simulation.get("o__payload") == (1 << 129) - 1, "wraps"
    assert [simulation.get("open"), simulation.tick(), simulation.get("open")] == [0, None, 1]
    simulation.tick(100_001)
    assert simulation.get("open") == 0
    assert simulation.get("more") == -1


@pytest.mark.parametrize(("name", "value", "error", "message"), [
    ("more", 1 << 69, ValueError, "does not fit port 'more', 70 bits signed: it takes -"),
    ("rst", -1, ValueError, "-1 does not fit port 'rst', 1 bits unsigned: it takes 0 to 1"),
    ("open", 1, ValueError, "port 'open' is an output"),
    ("close", 1, ValueError, "there is no port 'close'; there is i__payload"),
    ("rst", 0.5, TypeError, "integer"),
])
def test_set_refuses(echo, name, value, error, message):
    with pytest.raises(error, match=message):
        echo.simulation().set(name, value)


def test_wide_and_signed_streams(echo):
    values = [0, -1, 5, -(1 << 129), (1 << 129) - 1, 1 << 64]
    run = echo.simulation().run({"i": values}, {"o": 6}, cycles=50)
    words = run.payloads["o"]
    assert words.shape == (6, 3)
    assert [int.from_bytes(row.tobytes(), "little") for row in words] == [
        value & (1 << 130) - 1 for value in values]
    again = echo.simulation().run({"i": words}, {"o": 6, "free": 3}, cycles=50)
    assert (again.payloads["o"] == words).all()
    assert run.times["i"].tolist() == [1, 3, 5, 7, 9, 11]
    assert again.payloads["free"].tolist() == [0, 63, 5]
    assert again.surplus == {"o": 0, "free": 3}
    small = echo.simulation().run({"i": np.array([-3, 4], np.int16)}, {"o": 2}, cycles=50)
    assert small.payloads["o"].tolist() == [[2**64 - 3, 2**64 - 1, 3], [4, 0, 0]]


def test_counts_and_watches(pooling):
    values = np.arange(32)
    run = pooling.simulation().run({"i": values}, {"o": 8}, cycles=1000, watch=["in", "out"])
    assert run.payloads["o"].tolist() == [10, 11, 14, 15, 26, 27, 30, 31]
    assert run.payloads["out"].tolist() == run.payloads["o"].tolist()
    assert run.payloads["in"].tolist() == values.tolist()
    assert run.counts["out"].transfer == 8
    for counts in run.counts.values():
        assert counts.transfer + counts.stalled + counts.idle == run.cycles
    bare = pooling.simulation().run({"i": values}, {"o": 8}, cycles=1000, watch=["in"],
                                    record=False)
    assert bare.counts["in"] == run.counts["in"]
    assert bare.payloads.keys() == {"o"}


def test_watched_streams_of_a_long_run(pooling):
    values = np.random.default_rng(0).integers(0, 256, 32 * 20_000)
    run = pooling.simulation().run({"i": values}, {"o": 8 * 20_000}, cycles=10**7, watch=["in"])
    assert (run.payloads["in"] == values).all()
    assert (np.diff(run.times["in"]) > 0).all()
    pooled = values.reshape(-1, 2, 2, 2, 2, 2).max(axis=(2, 4)).ravel()
    assert (run.payloads["o"] == pooled).all()


def test_a_run_goes_on_where_the_last_one_ended(buffer):
    simulation = buffer.simulation()
    first = simulation.run({"i": range(10)}, {"o": 4}, cycles=100)
    assert first.payloads["o"].tolist() == [0, 1, 2, 3]
    taken = len(first.times["i"])
    second = simulation.run({"i": range(taken, 10)}, {"o": 6}, cycles=100)
    assert second.payloads["o"].tolist() == [4, 5, 6, 7, 8, 9]
    assert second.times["o"][0] < 3


def test_a_run_that_does_not_finish(buffer):
    run = buffer.simulation().run({"i": [1, 2]}, {"o": 3}, cycles=50)
    assert (run.complete, run.stuck, run.cycles) == (False, False, 50)
    assert run.payloads["o"].tolist() == [1, 2]
    run = buffer.simulation().run({"i": [1, 2]}, {"o": 3}, cycles=5000, patience=20)
    assert (run.complete, run.stuck) == (False, True)
    assert run.cycles == run.times["o"][-1] + 21


def test_surplus_transfers_are_seen(buffer):
    run = buffer.simulation().run({"i": range(6)}, {"o": 4}, cycles=100, idle=20)
    assert run.complete
    assert run.payloads["o"].tolist() == [0, 1, 2, 3]
    assert run.surplus == {"o": 2}
    assert run.cycles == run.times["o"][-1] + 21


def test_progress_can_end_a_run(buffer):
    seen = []

    def progress(cycles, transfers):
        seen.append((cycles, transfers["o"]))
        if cycles > 2000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        buffer.simulation().run({"i": np.zeros(10**6, int)}, {"o": 10**6}, cycles=10**9,
                                progress=progress)
    assert seen == sorted(set(seen))
    assert seen[-1][0] < 10**6


def test_instances_in_threads_share_nothing(pooling):
    results = {}

    def work(seed):
        values = np.random.default_rng(seed).integers(0, 256, 32 * 500)
        run = pooling.simulation().run({"i": values}, {"o": 8 * 500}, cycles=10**6)
        pooled = values.reshape(-1, 2, 2, 2, 2, 2).max(axis=(2, 4)).ravel()
        results[seed] = bool((run.payloads["o"] == pooled).all())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), True)


@pytest.mark.parametrize(("inputs", "outputs", "options", "message"), [
    ({"j": [1]}, {"o": 1}, {}, "there is no stream 'j'; there is i, o"),
    ({"o": [1]}, {}, {}, "stream 'o' cannot be an input of the run"),
    ({}, {"i": 1}, {}, "stream 'i' cannot be an output of the run"),
    ({"i": [256]}, {"o": 1}, {}, "256 does not fit port 'i__payload', 8 bits unsigned"),
    ({"i": np.array([5, -1])}, {"o": 1}, {}, "-1 does not fit"),
    ({"i": [[1, 2]]}, {"o": 1}, {}, r"list of integers, not an array of shape \(1, 2\)"),
    ({"i": [1]}, {"o": 1}, {"watch": ["o"]}, "input or output of the run already"),
])
def test_run_refuses(buffer, inputs, outputs, options, message):
    with pytest.raises(ValueError, match=message):
        buffer.simulation().run(inputs, outputs, cycles=10, **options)


def test_run_refuses_words_that_do_not_fit(echo):
    simulation = echo.simulation()
    with pytest.raises(ValueError, match=r"must be uint64, \(N, 3\), not uint64, \(2, 2\)"):
        simulation.run({"i": np.zeros((2, 2), np.uint64)}, {}, cycles=1)
    with pytest.raises(ValueError, match="130 bits; the last word holds 0x4"):
        simulation.run({"i": np.array([[0, 0, 4]], np.uint64)}, {}, cycles=1)
    with pytest.raises(TypeError, match="integer"):
        simulation.run({"i": [1.5]}, {}, cycles=1)


def test_a_port_has_to_be_in_the_model():
    with pytest.raises(ValueError, match="does not say where in `model` port 'a' is"):
        shim.source("struct Model {};", {"a": (Port("a", 1, "in"), "top.a")})
