"""Synthesizes single components and counts their cells."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from amaranth.back import rtlil
from amaranth.lib import wiring

from flightrtl import implement, toolchain

__all__ = ["cells", "packed"]

SYNTHESIS = {
    "ice40": "synth_ice40 -abc9",
    "ecp5": "synth_ecp5 -abc9 -nowidelut",
    # Before mapping: words, not bits, so that a multiplication is still one cell, `$mul`.
    "generic": "proc; flatten; opt -full; wreduce; memory -nomap",
}


PACKING = {
    "ice40": ("nextpnr-ice40", "--hx8k", "--package", "ct256"),
    "ecp5": ("nextpnr-ecp5", "--85k", "--package", "CABGA381"),
}


def cells(dut: wiring.Component, family: str, folder: Path) -> Counter[str]:
    """Cells of ``dut`` by type, synthesized for a family of :data:`SYNTHESIS` in ``folder``."""
    (folder / "dut.il").write_text(rtlil.convert(dut), encoding="utf-8")
    command = SYNTHESIS[family]
    if command.startswith("synth_"):
        command = f"{implement.UNSET}; {implement.SPLIT_NETS}; {command} -top top"
    toolchain.run(toolchain.find("yosys"), [
        "-q", "-p", f"read_rtlil dut.il; hierarchy -top top; {command}; write_json dut.json",
    ], folder=folder, log="dut.log")
    module = json.loads((folder / "dut.json").read_text(encoding="utf-8"))["modules"]["top"]
    return Counter(cell["type"] for cell in module["cells"].values())


def packed(dut: wiring.Component, family: str, folder: Path) -> Counter[str]:
    """Resources that ``dut`` takes, as nextpnr packs it: ``lut4``, ``ff``, ``bram`` and ``dsp``.

    Without placing it. On iCE40 a flip-flop without a LUT4 takes a cell of its own, on ECP5 a carry
    chain takes some at its ends.
    """
    cells(dut, family, folder)
    name, *device = PACKING[family]
    toolchain.run(toolchain.find(name), [
        *device, "--json", "dut.json", "--pack-only", "--write", "packed.json",
    ], folder=folder, log="packed.log")
    module = json.loads((folder / "packed.json").read_text(encoding="utf-8"))["modules"]["top"]
    return Counter(resource for cell in module["cells"].values()
                   for resource in implement.FAMILIES[family].resource(cell))
