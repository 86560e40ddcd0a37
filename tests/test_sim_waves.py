# amaranth: UnusedElaboratable=no
"""Waveforms: what a viewer finds in them is what the network computed."""

import importlib
import sys

import numpy as np
import pytest
from amaranth import Module, Signal, unsigned
from amaranth.lib import enum
from amaranth.sim import Simulator
from vcd.reader import TokenKind, tokenize

from flightrtl import boards, golden, modelfile, planner, samples
from flightrtl.errors import UserError
from flightrtl.gateware import Network
from sim import waves
from sim.engine import Stuck

PERIOD = 1e-6
ARGMAX = "bench.top.argmax."


def read_vcd(path):
    """Names to identifiers, and (time, identifier, value) of all changes."""
    scope, names, changes, now = [], {}, [], 0
    with open(path, "rb") as file:
        for token in tokenize(file):
            if token.kind is TokenKind.SCOPE:
                scope.append(token.scope.ident)
            elif token.kind is TokenKind.UPSCOPE:
                scope.pop()
            elif token.kind is TokenKind.VAR:
                names[".".join([*scope, token.var.reference])] = token.var.id_code
            elif token.kind is TokenKind.CHANGE_TIME:
                now = token.time_change
            elif token.kind is TokenKind.CHANGE_SCALAR:
                change = token.scalar_change
                changes.append((now, change.id_code, int(change.value)))
            elif token.kind is TokenKind.CHANGE_VECTOR:
                change = token.vector_change
                changes.append((now, change.id_code, change.value))
            elif token.kind is TokenKind.CHANGE_STRING:
                change = token.string_change
                changes.append((now, change.id_code, change.value))
    return names, changes


def read_fst(path):
    pylibfst = importlib.import_module("pylibfst")  # it has no types
    lib = pylibfst.lib
    file = lib.fstReaderOpen(str(path).encode())
    assert file != pylibfst.ffi.NULL
    _, signals = pylibfst.get_scopes_signals2(file)
    changes = []

    def plain(data, time, handle, value):
        changes.append((time, handle, int(pylibfst.string(value), 2)))

    def text(data, time, handle, value, length):
        raw = bytes(pylibfst.ffi.buffer(value, length))
        variable = handle in strings
        changes.append((time, handle, raw.decode() if variable else int(raw, 2)))

    strings = {signal.handle for signal in signals.by_name.values() if signal.length == 0}
    lib.fstReaderSetFacProcessMaskAll(file)
    pylibfst.fstReaderIterBlocks2(file, plain, text)
    lib.fstReaderClose(file)
    return {name: signal.handle for name, signal in signals.by_name.items()}, changes


READERS = {"vcd": read_vcd, "fst": read_fst}


def logits(names, changes):
    """Transfers at the network's output: values right before each rise of the clock."""
    found = {name.removeprefix(ARGMAX).lstrip("\\"): code for name, code in names.items()
             if name.startswith(ARGMAX)}
    state = dict.fromkeys(names.values(), 0)
    width = 12
    result, edges = [], 0
    by_time = {}
    for time, code, value in changes:
        by_time.setdefault(time, []).append((code, value))
    for time in sorted(by_time):
        before = dict(state)
        for code, value in by_time[time]:
            state[code] = value
        if state[found["clk"]] and not before[found["clk"]]:
            edges += 1
            if before[found["o__valid"]] and before[found["o__ready"]]:
                value = before[found["o__payload.logit"]]
                result.append(value - (value >> width - 1 << width))
    return result, edges


@pytest.fixture(scope="module")
def digits():
    model = modelfile.load("digits")
    assert model.output.format.bits == 12
    plan = planner.plan(model, boards.load("ice40"), target_rate=20_000)   # with engines
    return model, plan, samples.load("digits")[0][:1].astype(np.int64)


@pytest.mark.parametrize("form", waves.FORMATS)
def test_logits_in_the_waveform(digits, form, tmp_path):
    model, plan, images = digits
    path = tmp_path / f"image.{form}"
    failure = waves.record(Network(model, plan.foldings), images[0], path, form=form,
                           period=PERIOD, patience=5000)
    assert failure is None
    assert [each.name for each in tmp_path.iterdir()] == [path.name], "nothing is left beside it"
    names, changes = READERS[form](path)
    found, edges = logits(names, changes)
    assert found == golden.run(model, images)[0].tolist()
    assert edges == plan.latency_cycles + 1
    # Hierarchy and names are those of the source.
    assert {"bench.top.conv1.array.i__ready", "bench.top.conv1.array.clk",
            "bench.top.dense1.scheduler.carry"} <= names.keys()
    assert max(time for time, *_ in changes) == pytest.approx(edges * PERIOD * 1e15, rel=0.01)


@pytest.mark.parametrize("form", waves.FORMATS)
def test_both_formats_say_the_same_of_every_signal(form, tmp_path):
    """Enumerations, which come as text, wide values, signals without a name and aliases, too."""
    class Colour(enum.Enum, shape=unsigned(2)):
        RED = 0
        GREEN = 1
        DARK_BLUE = 2

    colour = Signal(Colour)
    wide = Signal(70)
    count = Signal(2)
    first, second, third = Signal(), Signal(), Signal()  # Amaranth finds no names for these
    m = Module()
    m.d.sync += [count.eq(count + 1), wide.eq(wide * 2 + 1)]
    m.d.comb += [first.eq(count[0]), second.eq(first), third.eq(second)]
    with m.If(count == 1):
        m.d.sync += colour.eq(Colour.DARK_BLUE)
    simulator = Simulator(m)
    simulator.add_clock(PERIOD)
    path = tmp_path / f"all.{form}"
    with waves._sink(path, form) as sink, simulator.write_vcd(sink):
        simulator.run_until(80 * PERIOD)
    names, changes = READERS[form](path)
    final = {}
    for _, code, value in changes:
        final[code] = value
    by_name = {name.rpartition(".")[2].lstrip("\\"): final[code] for name, code in names.items()}
    assert by_name["wide"] == (1 << 70) - 1
    assert by_name["count"] == 80 % 4
    assert by_name["colour"] == "DARK_BLUE"
    texts = [value for _, code, value in changes if isinstance(value, str)]
    assert texts == ["RED", "DARK_BLUE"]
    assert by_name["$signal"] == by_name["third"] == 0


def test_a_simulation_that_breaks_off_leaves_its_waveform(digits, tmp_path):
    model, plan, images = digits
    path = tmp_path / "stuck.vcd"
    failure = waves.record(Network(model, plan.foldings), images[0], path, form="vcd",
                           period=PERIOD, patience=3)
    assert isinstance(failure, Stuck)
    names, changes = read_vcd(path)
    assert max(time for time, *_ in changes) > 3 * PERIOD * 1e15


def test_paths_are_checked_before_the_work(tmp_path, monkeypatch):
    waves.check_path(tmp_path / "a.fst", "fst")
    with pytest.raises(UserError, match=r"--vcd .*: is a folder"):
        waves.check_path(tmp_path, "vcd")
    with pytest.raises(UserError, match=r"--fst .*there is no folder .*nowhere: make it first"):
        waves.check_path(tmp_path / "nowhere" / "a.fst", "fst")
    monkeypatch.setitem(sys.modules, "pylibfst", None)
    waves.check_path(tmp_path / "a.vcd", "vcd")
    with pytest.raises(UserError, match="pip install pylibfst, or write VCD"):
        waves.check_path(tmp_path / "a.fst", "fst")
