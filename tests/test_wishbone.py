"""The rules of Wishbone, for any initiator; and that amaranth-soc's members are what we have."""

import pytest
from amaranth import Signal
from amaranth.hdl import Assert, Assume
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from flightrtl.gateware import CsrSignature, WishboneRegisters, WishboneSignature
from tests.formal import Failed, Spec, planted, prove
from tests.streams import PERIOD


class Rules(Spec):
    """An initiator that asks and gives up whenever it likes."""

    def says(self, m, dut):
        bus, csr = dut.bus, dut.csr
        asked, waited, held = bus.cyc & bus.stb, Signal(), Signal(6)
        what = Signal(6)
        m.d.comb += what.eq(bus.adr ^ bus.we)
        m.d.sync += [waited.eq(asked & ~bus.ack), held.eq(what)]
        with m.If(waited & asked):
            m.d.comb += Assume(what == held, "the initiator keeps what it asks for")
        m.d.comb += [
            Assert(~bus.ack | asked, "ack without an access"),
            Assert(~bus.ack | waited, "ack of an access that was not asked for before"),
            Assert(~(asked & waited) | bus.ack, "an access without its ack"),
            Assert((csr.w_stb | dut.refused) == (bus.ack & bus.we), "a write without an ack"),
            Assert(~(csr.w_stb & dut.refused), "a write that is refused and happens"),
            Assert(~csr.r_stb | (asked & ~bus.we & ~bus.ack), "a read that nobody asked for"),
        ]


def test_every_access_is_answered_once():
    """By induction, with resets at any time."""
    prove(Rules(WishboneRegisters(3)), depth=2, reset=True)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("bus.ack.eq(asked & second)", "bus.ack.eq(second)", "ack without an access"),
    ("second.eq(asked & ~second)", "second.eq(asked)", "was not asked for before"),
    ("csr.w_stb.eq(bus.ack & bus.we", "csr.w_stb.eq(asked & bus.we", "without an ack"),
])
def test_every_access_is_answered_once_twin(old, new, message, tmp_path):
    with pytest.raises(Failed, match=message):
        prove(Rules(planted(WishboneRegisters, old, new)(3)), mode="bmc", depth=6,
              folder=tmp_path)


def test_reads_and_writes():
    """What is read is there with the ack; half a write does nothing, and says so."""
    dut = WishboneRegisters(4)

    async def registers(ctx):
        async for *_, stb, addr in ctx.tick().sample(dut.csr.r_stb, dut.csr.addr):
            ctx.set(dut.csr.r_data, 0x1000 + addr if stb else 0)

    async def bench(ctx):
        bus = dut.bus
        ctx.set(bus.cyc, 1)
        for adr, we, sel in ((3, 0, 15), (9, 0, 0), (7, 1, 15), (7, 1, 7), (5, 1, 15)):
            for signal, value in ((bus.adr, adr), (bus.we, we), (bus.sel, sel), (bus.stb, 1),
                                  (bus.dat_w, 77 + adr)):
                ctx.set(signal, value)
            assert not ctx.get(bus.ack)
            await ctx.tick()
            await ctx.delay(PERIOD / 10)
            assert ctx.get(bus.ack)
            assert ctx.get(bus.dat_r) == (0 if we else 0x1000 + adr)
            assert ctx.get(dut.csr.w_stb) == (we and sel == 15)
            assert ctx.get(dut.refused) == (we and sel != 15)
            assert (ctx.get(dut.csr.addr), ctx.get(dut.csr.w_data)) == (adr, 77 + adr)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.add_testbench(registers, background=True)
    simulator.run()


def test_members_are_those_of_amaranth_soc():
    """As ``amaranth_soc`` declares them: so ``wiring.connect`` joins both."""
    wishbone = wiring.Signature({
        "adr": Out(5), "dat_w": Out(32), "dat_r": In(32), "sel": Out(4), "cyc": Out(1),
        "stb": Out(1), "we": Out(1), "ack": In(1)})
    csr = wiring.Signature({
        "addr": Out(7), "r_data": In(8), "r_stb": Out(1), "w_data": Out(8), "w_stb": Out(1)})
    assert wishbone.members == WishboneSignature(5).members
    assert csr.members == CsrSignature(7, 8).members
