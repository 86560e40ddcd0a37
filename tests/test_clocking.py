# amaranth: UnusedElaboratable=no
import dataclasses
import json
import math
import re
import subprocess
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest
from amaranth import ClockDomain, Const, DomainRenamer, Module, Signal
from amaranth.hdl import IOPort
from amaranth.lib import io, wiring
from amaranth.sim import Simulator

from flightrtl import boards
from flightrtl.errors import BuildError, UserError
from flightrtl.gateware.clocking import (
    STARTUP_SECONDS,
    ClockReset,
    StartupTimer,
    solve,
    solve_ecp5,
    solve_ice40,
)
from tests.streams import PERIOD


def tool(name, *arguments, cwd=None):
    path = Path(sysconfig.get_path("scripts")) / f"yowasp-{name}"
    if not path.exists():
        pytest.skip(f"yowasp-{name} is not installed")
    run = subprocess.run([path, *arguments], capture_output=True, text=True, check=True, cwd=cwd)
    return run.stdout + run.stderr


@pytest.mark.parametrize(("source", "target"), [
    (12, 16), (12, 30), (12, 36), (12, 37), (12, 39.75), (12, 48), (12, 60), (12, 275), (25, 33),
    (16, 50), (100, 70), (48, 36)])
def test_ice40_settings_are_icepll_s(source, target):
    text = tool("icepll", "-i", str(source), "-o", str(target))
    pll = solve_ice40(source, target)
    expected = {key: int(re.search(rf"{key}:\s+(\d+)", text)[1])
                for key in ("DIVR", "DIVF", "DIVQ")}
    assert {"DIVR": pll.reference - 1, "DIVF": pll.feedback - 1,
            "DIVQ": pll.output.bit_length() - 1} == expected
    assert float(pll.mhz) == pytest.approx(
        float(re.search(r"PLLOUT:\s+([\d.]+) MHz \(achieved", text)[1]), abs=0.0006)


@pytest.mark.parametrize(("source", "target"), [
    (25, 25.5), (25, 50), (25, 100), (25, 110), (25, 125), (25, 112), (100, 120), (25, 66.6),
    (48, 100), (25, 400), (25, 10)])
def test_ecp5_settings_are_ecppll_s(source, target):
    text = tool("ecppll", "-i", str(source), "-o", str(target))
    pll = solve_ecp5(source, target)
    value = {key: float(re.search(rf"{key}:? (\S+)", text)[1])
             for key in ("Refclk divisor", "Feedback divisor", "clkout0 divisor",
                         "clkout0 frequency")}
    assert float(pll.mhz) == pytest.approx(value["clkout0 frequency"], abs=0.001)
    assert pll.output == value["clkout0 divisor"]
    assert pll.feedback / pll.reference == pytest.approx(
        value["Feedback divisor"] / value["Refclk divisor"])


def settings(text):
    """Parameters and constant inputs of the PLL in Verilog: name, value."""
    found = re.findall(r"\.(\w+)\((?:\d+'b([01]+)|(\d+)|\"(\w+)\")\)", text)
    return {name: int(binary, 2) if binary else int(number) if number else word
            for name, binary, number, word in found}


@pytest.mark.parametrize(("name", "source", "target"), [
    ("icebreaker", 12, 36), ("icestick", 12, 48), ("icebreaker", 25, 33), ("icestick", 48, 36),
    ("icebreaker", 100, 70), ("ulx3s_85f", 25, 100), ("ulx3s_85f", 25, 66.6),
    ("ulx3s_85f", 100, 120), ("ulx3s_85f", 25, 400)])
def test_all_settings_of_the_pll_are_those_of_icepll_and_ecppll(name, source, target, tmp_path):
    """Parameters and constant inputs; all but the phase, on which nothing here depends."""
    board = boards.load(name)
    board = dataclasses.replace(board, clock=dataclasses.replace(board.clock, input_mhz=source))
    program = "icepll" if board.family == "ice40" else "ecppll"
    tool(program, "-i", str(source), "-o", str(target), *["-m"] * (program == "icepll"),
         "-f", "pll.v", cwd=tmp_path)
    pin = io.SingleEndedPort(IOPort(1, name="pin"), direction="i")
    platform = SimpleNamespace(request=lambda *_, **__: pin)
    pll = ClockReset(board, target).elaborate(platform).submodules.pll
    ports = {port: value.value for port, (value, _) in pll.ports.items()
             if isinstance(value, Const)}
    expected = settings((tmp_path / "pll.v").read_text())
    expected.pop("CLKOP_CPHASE", None)
    assert len(expected) >= 7
    assert {key: value for key, value in (pll.parameters | ports).items()
            if key in expected} == expected


@pytest.mark.parametrize("target", [16, 30, 36.4, 100, 275])
def test_settings_are_within_the_device_s_limits(target):
    for pll, low, high in ((solve_ice40(12, target), 533, 1066),
                           (solve_ecp5(25, target), 400, 800)):
        assert low <= pll.vco_mhz <= high
        assert abs(pll.mhz - target) < 0.03 * target


def test_what_a_pll_cannot_do_is_refused():
    with pytest.raises(BuildError, match="gives 16 to 275 MHz, not 400 MHz"):
        solve_ice40(12, 400)
    with pytest.raises(BuildError, match="gives 10 to 400 MHz, not 500 MHz"):
        solve_ecp5(25, 500)
    with pytest.raises(BuildError, match="takes 10 to 133 MHz, not 5 MHz"):
        solve_ice40(5, 36)


def test_solve_for_a_board():
    board = boards.load("icebreaker")
    assert solve(board).mhz == board.clock.default_mhz
    assert solve(board, 30).mhz == 30
    assert solve(board, 12) is None
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="must be above 0 MHz"):
            solve(board, wrong)
    without = dataclasses.replace(board, clock=dataclasses.replace(board.clock, pll="none"))
    assert solve(without, 12) is None
    with pytest.raises(BuildError, match="has no PLL"):
        solve(without, 36)


@pytest.mark.parametrize("cycles", [1, 2, 3, 8, 540])
def test_timer_counts_at_least_so_many_cycles_and_stays_done(cycles):
    dut = StartupTimer(cycles)

    async def bench(ctx):
        count = 0
        while not ctx.get(dut.done):
            await ctx.tick()
            count += 1
        assert cycles <= count <= max(2, 2 * cycles)
        for _ in range(4 * count):
            await ctx.tick()
            assert ctx.get(dut.done)

    simulator = Simulator(DomainRenamer({"startup": "sync"})(dut))
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.run()


def test_in_simulation_it_is_nothing():
    class Counter(wiring.Component):
        count: Signal

        def __init__(self):
            super().__init__({"count": wiring.Out(4)})

        def elaborate(self, platform):
            m = Module()
            m.submodules.clocking = ClockReset(boards.load("icebreaker"), 36.0)
            m.d.sync += self.count.eq(self.count + 1)
            return m

    dut = Counter()

    async def bench(ctx):
        await ctx.tick().repeat(5)
        assert ctx.get(dut.count) == 5

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD)
    simulator.add_testbench(bench)
    simulator.run()


class Blinker(wiring.Component):
    """A counter on whatever pins the board has."""

    def __init__(self, board, clock_mhz):
        self.board = board
        self.clocking = ClockReset(board, clock_mhz)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.clocking = self.clocking
        port = platform.request(self.board.uart.resource, self.board.uart.number, dir="-").tx
        m.submodules.tx = tx = io.Buffer("o", port)
        counter = Signal(12)
        m.d.sync += counter.eq(counter + 1)
        m.d.comb += tx.o.eq(counter[-1])
        return m


@pytest.mark.parametrize("name", ["icebreaker", "icestick", "ulx3s_85f"])
def test_the_constraint_that_nextpnr_derives_is_the_clock(name, tmp_path, monkeypatch):
    board = boards.load(name)
    top = Blinker(board, board.clock.default_mhz)
    platform = board.make_platform()
    files = platform.prepare(top, "top", nextpnr_opts="--report report.json").files
    for filename, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / filename).write_bytes(data)
    tool("yosys", "-q", "top.ys", cwd=tmp_path)
    flags = ["--json", "top.json", "--report", "report.json", "--seed", "1"]
    if board.family == "ice40":
        package = {"SG48": "up5k", "TQ144": "hx1k"}[platform.package]
        flags += [f"--{package}", "--package", platform.package.lower(), "--pcf", "top.pcf",
                  "--asc", "top.asc"]
    else:
        flags += ["--85k", "--package", "CABGA381", "--speed", "6", "--lpf", "top.lpf"]
    tool(f"nextpnr-{board.family}", *flags, cwd=tmp_path)
    (clock,) = [value for key, value in json.loads(
        (tmp_path / "report.json").read_text())["fmax"].items() if "startup" not in key]
    assert clock["constraint"] == pytest.approx(board.clock.default_mhz, rel=0.001)


def test_the_reset_is_long_enough_on_every_board():
    for name in boards.names():
        board = boards.load(name)
        clocking = ClockReset(board, board.clock.default_mhz)
        timer = StartupTimer(round(STARTUP_SECONDS * clocking.clock_mhz * 1e6))
        assert (1 << timer.bits) / (clocking.clock_mhz * 1e6) >= 14.9e-6


class Started(wiring.Component):
    """Counts cycles of ``sync`` since its reset, behind a PLL that locks when a test says so."""

    count: Signal

    def __init__(self, board, clock_mhz):
        self.pin = io.SimulationPort("i", 1)
        self.locked = Signal()
        self.clocking = ClockReset(board, clock_mhz)
        self.clocking._ice40 = self._pll
        super().__init__({"count": wiring.Out(16)})

    def _pll(self, m, pin, clock, locked):
        m.d.comb += [clock.eq(pin.i), locked.eq(self.locked)]

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.clocking = self.clocking.elaborate(self)
        m.d.sync += self.count.eq(self.count + 1)
        return m

    def request(self, name, dir):
        assert (name, dir) == (self.clocking.board.clock.resource, "-")
        return self.pin


def test_the_reset_is_held_until_the_pll_has_locked_and_the_memories_have_started():
    dut = Started(boards.load("icebreaker"), 36.0)
    least = math.ceil(STARTUP_SECONDS * 36e6)

    async def bench(ctx):
        async def cycle():
            for level in (1, 0):
                ctx.set(dut.pin.i, level)
                await ctx.delay(PERIOD / 2)

        for _ in range(3 * least):
            await cycle()
            assert ctx.get(dut.count) == 0
        ctx.set(dut.locked, 1)
        for _ in range(least):
            await cycle()
            assert ctx.get(dut.count) == 0
        for _ in range(least + 10):
            await cycle()
        started = ctx.get(dut.count)
        assert started > 0
        for n in range(1, 9):
            await cycle()
            assert ctx.get(dut.count) == started + n

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
