"""Stand-ins for Yosys, nextpnr and icepack that fail, stall or succeed as a test asks.

Environment variables tell them what to do: ``FAKE_FMAX`` (MHz, of every seed or
of one after the other from ``FAKE_SEED`` on), ``FAKE_CONSTRAINT`` (MHz), ``FAKE_OTHER_FMAX`` (MHz,
of another clock, meant for 12), ``FAKE_FAIL`` and ``FAKE_STALL`` (name of a tool), ``FAKE_SAY``
(last words of the one that fails), ``FAKE_VERSION``. Every run is noted in ``FAKE_CALLS``.
"""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

__all__ = ["alive", "calls", "install", "interrupt"]

CELLS = {
    "system.network.first.pe_LC": ("ICESTORM_LC", {"O": [5]}),
    "system.network.first.sum_LC": ("ICESTORM_LC", {"O": [6]}),
    "$nextpnr_ICESTORM_LC_0": ("ICESTORM_LC", {"COUT": [6]}),
    "system.network.first.rom": ("ICESTORM_RAM", {"RDATA": [7]}),
    "system.network.last.sum_LC": ("ICESTORM_LC", {"O": [8]}),
    "system.network.argmax.best_LC": ("ICESTORM_LC", {"O": [9]}),
    "system.link.state_LC": ("ICESTORM_LC", {"O": [10]}),
    "clocking.pll": ("ICESTORM_PLL", {"O": [11]}),
    "led_0.buf0": ("SB_IO", {"D": [12]}),
}
"""Placed cells that the stand-in of nextpnr reports: name, type, connections. ``first`` and
``last`` stand for the names of layers."""

_SOURCE = '''#!{python}
import json, os, pathlib, shutil, subprocess, sys, time
name = pathlib.Path(sys.argv[0]).name
arguments = sys.argv[1:]
env = os.environ.get
if arguments in (["-V"], ["--version"]):
    print(name, "Version", env("FAKE_VERSION", "0.70"))
    sys.exit()
with open(env("FAKE_CALLS"), "a") as file:
    file.write(json.dumps([name, arguments, sorted(os.environ)]) + "\\n")
if env("FAKE_STALL") == name:
    print("1. Executing PROC pass", flush=True)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with open(env("FAKE_CALLS") + ".pids", "w") as file:
        file.write(f"{{os.getpid()}} {{child.pid}}")
    time.sleep(60)
option = dict(zip(arguments, arguments[1:]))
if env("FAKE_FAIL") == name:
    print("Info: so far so good")
    print(env("FAKE_SAY", "ERROR: out of luck"))
    sys.exit(125)
if name == "yosys":
    shutil.copy("top.ys", env("FAKE_CALLS") + ".ys")
    print("2.5. Executing FLATTEN pass (flatten design).")
    pathlib.Path("top.json").write_text("{{}}")
elif name.startswith("nextpnr"):
    seed, wanted = int(option["--seed"]), float(env("FAKE_CONSTRAINT"))
    speeds = [float(text) for text in env("FAKE_FMAX").split(",")]
    fmax = speeds[seed - int(env("FAKE_SEED"))] if len(speeds) > 1 else speeds[0]
    print("Info: Packing LUT-FFs..")
    print("Info:     at iteration #3, type ALL: wirelen solved = 102")
    print("Info:        565 |        1        456 |    1   456 |        17|       0.03       0.03|")
    cells = json.loads({cells!r})
    ends = {{"from": {{"cell": next(iter(cells))}}, "to": {{"cell": "system.link.x"}}}}
    clocks = {{"clk": {{"achieved": fmax, "constraint": wanted}}}}
    if env("FAKE_OTHER_FMAX"):
        clocks["other"] = {{"achieved": float(env("FAKE_OTHER_FMAX")), "constraint": 12}}
    pathlib.Path(option["--report"]).write_text(json.dumps({{
        "fmax": clocks,
        "critical_paths": [{{"from": "posedge clk", "to": "posedge clk", "path": [ends]}}],
        "utilization": {{"ICESTORM_LC": {{"used": 6, "available": 5280}},
                        "ICESTORM_RAM": {{"used": 1, "available": 30}},
                        "ICESTORM_SPRAM": {{"used": 0, "available": 4}},
                        "ICESTORM_DSP": {{"used": 0, "available": 8}}}}}}))
    placed = {{name: {{"type": kind, "connections": nets,
                      "parameters": {{"DFF_ENABLE": "1" if "sum" in name else "0"}}}}
              for name, (kind, nets) in cells.items()}}
    pathlib.Path(option["--write"]).write_text(
        json.dumps({{"modules": {{"top": {{"cells": placed}}}}}}))
    pathlib.Path(option["--asc"]).write_text(f"seed {{seed}}")
    if any(clock["achieved"] < clock["constraint"] for clock in clocks.values()):
        print("ERROR: Max frequency for clock 'clk': FAIL")
        sys.exit(1)
elif name == "icepack":
    pathlib.Path(arguments[-1]).write_text("bits of " + pathlib.Path(arguments[-2]).read_text())
'''


def install(folder: Path, monkeypatch: pytest.MonkeyPatch,
            layers: Sequence[str] = ("first", "last"), *, seed: int = 1) -> None:
    """Put the stand-ins into ``folder`` and make the tool chain use them.

    ``seed`` is the first that will be asked for.
    """
    folder.mkdir(exist_ok=True)
    cells = json.dumps(CELLS).replace("first", layers[0]).replace("last", layers[-1])
    source = _SOURCE.format(python=sys.executable, cells=cells)
    for name in ("yosys", "nextpnr-ice40", "icepack"):
        path = folder / name
        path.write_text(source, encoding="utf-8")
        path.chmod(0o755)
        monkeypatch.setenv(name.upper().replace("-", "_"), str(path))
    monkeypatch.setenv("FAKE_CALLS", str(folder / "calls"))
    monkeypatch.setenv("FAKE_CONSTRAINT", "39.75")
    monkeypatch.setenv("FAKE_FMAX", "40,41,42,43,44")
    monkeypatch.setenv("FAKE_SEED", str(seed))
    (folder / "calls").touch()


def calls(folder: Path) -> list[list]:
    """Name, arguments and environment variables' names of every run so far."""
    text = (folder / "calls").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def alive(pid: int) -> bool:
    """Whether a process is still running (one that only waits to be collected is not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def interrupt(folder: Path, command: Sequence[str], number: int) -> tuple[int, str, str]:
    """Run a command of this project until the tool that ``FAKE_STALL`` names runs, and signal it.

    Returns its status and what it printed, once the tool is gone too.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=Path(__file__).parents[1],
        # Whoever starts the tests in the background has them ignore Ctrl-C, which is inherited.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL))
    note = folder / "calls.pids"
    deadline = time.monotonic() + 60
    while not (note.exists() and len(note.read_text().split()) == 2):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(number)
    printed, err = child.communicate(timeout=30)
    for pid in map(int, note.read_text().split()):
        while alive(pid):
            assert time.monotonic() < deadline, "the tool is still running"
            time.sleep(0.05)
    return child.returncode, printed, err
