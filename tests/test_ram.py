# amaranth: UnusedElaboratable=no
"""The block RAM: what it keeps, that it costs nothing else, and that nobody asks more of it."""

import numpy as np
import pytest
from amaranth import Module, Signal, Value
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator

from flightrtl.gateware import DualPortRam
from tests import (
    test_framebuffer,
    test_imagequeue,
    test_link,
    test_pixelwindow,
    test_pool,
    test_queue,
    test_reorder,
    test_window,
)
from tests.streams import PERIOD
from tests.synthesis import cells


def simulate(dut, bench):
    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize(("depth", "granularity"), [(1, None), (5, None), (16, 4)])
def test_words_are_kept(depth, granularity):
    """Against a list, with every word at first and any of its parts written later."""
    rng = np.random.default_rng(depth)
    words: list[int] = rng.integers(0, 1 << 12, depth).tolist()
    dut = DualPortRam(12, depth, init=words, granularity=granularity)
    part = granularity or 12

    async def bench(ctx):
        expected = None
        for _ in range(200):
            reads = int(rng.integers(2))
            place, target = (int(number) for number in rng.integers(0, depth, 2))
            enable, data = int(rng.integers(1 << 12 // part)), int(rng.integers(1 << 12))
            if reads and place == target:
                enable = 0
            for signal, value in ((dut.read.en, reads), (dut.read.addr, place),
                                  (dut.write.en, enable), (dut.write.addr, target),
                                  (dut.write.data, data)):
                ctx.set(signal, value)
            await ctx.tick()
            expected = words[place] if reads else expected
            for at in range(12 // part):
                if enable >> at & 1:
                    mask = ((1 << part) - 1) << at * part
                    words[target] = words[target] & ~mask | data & mask
            assert expected is None or ctx.get(dut.read.data) == expected
        assert [ctx.get(dut.data[n]) for n in range(depth)] == words

    simulate(dut, bench)


def test_reads_unless_told_not_to():
    dut = DualPortRam(8, 2, init=[3, 4])

    async def bench(ctx):
        await ctx.tick()
        assert ctx.get(dut.read.data) == 3

    simulate(dut, bench)


@pytest.mark.parametrize(("family", "ram"), [("ice40", "SB_RAM40_4K"), ("ecp5", "DP16KD")])
def test_block_ram_and_nothing_else(family, ram, tmp_path):
    found = cells(DualPortRam(8, 512), family, tmp_path)
    assert dict(found) == {ram: 1}


def spoilt(self, platform):
    """A block RAM in which what is not promised is as wrong as can be."""
    m = Module()
    m.submodules.store = store = Memory(self.data)
    write, read = store.write_port(granularity=self.granularity), store.read_port(domain="comb")
    word = Signal(len(Value.cast(self.read.data)), init=-1, reset_less=True)
    m.d.comb += [read.addr.eq(self.read.addr), write.addr.eq(self.write.addr),
                 write.en.eq(self.write.en), write.data.eq(self.write.data),
                 Value.cast(self.read.data).eq(word)]
    with m.If(self.read.en):
        m.d.sync += word.eq(read.data)
        with m.If(write.en.any() & (read.addr == write.addr)):
            m.d.sync += word.eq(~Value.cast(read.data))
    return m


@pytest.mark.parametrize(("test", "arguments"), [
    (test_framebuffer.test_latency_and_throughput, (2, True)),
    (test_imagequeue.test_values_come_in_order, (8, False, 9, 0.0)),
    (test_link.test_images_in_results_out, (test_link.FRAMES[2], 0.0, True)),
    (test_link.test_identity_counters_reset, (False,)),
    (test_pixelwindow.test_twin_by_hand, ()),
    (test_pool.test_max, ((6, 6, 1), (3, 3), (2, 2), False, 0.0)),
    (test_pool.test_max, ((6, 6, 2), (2, 2), (2, 2), False, 0.4)),
    (test_queue.test_it_holds_as_many_as_it_says, (5, False)),
    (test_queue.test_it_holds_as_many_as_it_says, (5, True)),
    (test_reorder.test_delay, (3, False)),
    (test_reorder.test_delay, (8, True)),
    (test_reorder.test_reorder, ([[0, 1], [3], [2]], 3, False, 0.0)),
    (test_window.test_no_pause_between_rows_and_images, (True,)),
    (test_window.test_groups_of_channels, ([2, 1, 3], [0, 0, 1, 2, 2, 2], 2)),
    (test_window.test_latency, (True,)),
], ids=lambda value: getattr(value, "__name__", ""))
def test_nobody_looks_at_what_is_not_promised(test, arguments, monkeypatch):
    """Tests of those that have one, with a memory that differs where simulation is too kind."""
    monkeypatch.setattr(DualPortRam, "elaborate", spoilt)
    test(*arguments)
