"""Synthesis that stops at a name clash is tried again with split nets."""

import numpy as np
from amaranth.back import rtlil
from amaranth.lib import data

from flightrtl import implement, toolchain
from flightrtl.gateware import RomStream

SCRIPT = "# made\nread_rtlil top.il\n# (script_after_read placeholder)\nsynth_ice40 -top top\n"
STOPPED = "1. Executing ABC9.\nRunning ABC command: \"yosys-abc\" -s -f abc.script 2>&1\n\n"


def test_another_try_splits_nets_once(tmp_path):
    (tmp_path / "top.ys").write_text(SCRIPT)
    (tmp_path / "yosys.log").write_text(STOPPED)
    assert implement._split_nets(tmp_path)
    assert (tmp_path / "top.ys").read_text().splitlines()[1:3] == [
        "read_rtlil top.il", implement.SPLIT_NETS]
    assert not implement._split_nets(tmp_path)


def test_other_failures_are_not_tried_again(tmp_path):
    assert not implement._split_nets(tmp_path)
    (tmp_path / "top.ys").write_text(SCRIPT)
    (tmp_path / "yosys.log").write_text(STOPPED + "ERROR: something else\n")
    assert not implement._split_nets(tmp_path)
    assert (tmp_path / "top.ys").read_text() == SCRIPT


def test_split_nets_get_an_array_of_arrays_through(tmp_path):
    """The design on which Yosys 0.70 stops: a port that is an array of arrays."""
    words = np.random.default_rng(0).integers(0, 1 << 16, 256).tolist()
    shape = data.ArrayLayout(data.ArrayLayout(4, 2), 2)
    (tmp_path / "top.il").write_text(rtlil.convert(RomStream(shape, words), name="top"))
    toolchain.run(toolchain.find("yosys"), [
        "-q", "-p", f"read_rtlil top.il; {implement.SPLIT_NETS}; synth_ice40 -abc9 -top top; "
        "write_json top.json"], folder=tmp_path, log="yosys.log")
    assert "SB_RAM40_4K" in (tmp_path / "top.json").read_text()
