# amaranth: UnusedElaboratable=no
"""The test benches themselves: a broken component must not get past them."""

from itertools import pairwise
from typing import Any

import pytest
from amaranth import Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tests.streams import Pauses, run_streams


class Register(wiring.Component):
    """A register between two streams; `fault` breaks one rule."""

    i: stream.Interface
    o: stream.Interface

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        super().__init__({"i": In(stream.Signature(unsigned(8))),
                          "o": Out(stream.Signature(unsigned(8)))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        full = Signal()
        m.d.comb += [self.i.ready.eq(~full | self.o.ready & self.o.valid),
                     self.o.valid.eq(full)]
        with m.If(self.i.ready):
            m.d.sync += [full.eq(self.i.valid), self.o.payload.eq(self.i.payload)]
        match self.fault:
            case "waits":
                m.d.comb += self.o.valid.eq(full & self.o.ready)
            case "drops":
                m.d.sync += full.eq(self.i.valid & self.i.ready)
            case "changes":
                with m.If(self.o.valid & ~self.o.ready):
                    m.d.sync += self.o.payload.eq(self.o.payload + 1)
            case "repeats":
                with m.If(self.o.payload == 13):
                    m.d.sync += full.eq(1)
        return m


@pytest.mark.parametrize("stall", [0.0, 0.3, 0.8])
def test_passes_what_it_is_given(stall):
    payloads = list(range(40))
    run = run_streams(Register(), {"i": payloads}, {"o": 40}, seed=3, stall=stall)
    assert run["o"] == payloads
    assert len(run.cycles["i"]) == 40
    if stall == 0:
        assert run.cycles["o"] == list(range(1, 41))


@pytest.mark.parametrize(("fault", "message"), [
    ("waits", "not done after"),
    ("drops", "valid fell"),
    ("changes", "payload changed"),
    ("repeats", "a transfer more"),
])
def test_catches(fault, message):
    with pytest.raises(AssertionError, match=message):
        run_streams(Register(fault), {"i": list(range(14))}, {"o": 14}, seed=1, stall=0.5,
                    timeout=1000)


def test_pauses_last():
    """As long as they say, on the whole as often; by chance alone they would take 1.7 cycles."""
    count = 2000
    run = run_streams(Register(), {"i": [0] * count}, {"o": count}, seed=5,
                      stall={"i": Pauses(0.4, 12)})
    pauses = [b - a - 1 for a, b in pairwise(run.cycles["i"]) if b - a > 1]
    assert 9 < sum(pauses) / len(pauses) < 15
    assert 0.3 < sum(pauses) / run.cycles["i"][-1] < 0.5


@pytest.mark.parametrize("stall", [1, Pauses(1, 3)])
def test_refuses_a_stall_that_never_ends(stall):
    with pytest.raises(ValueError, match="stall must be 0 to below 1, not 1"):
        run_streams(Register(), {"i": [1]}, {"o": 1}, stall=stall)
