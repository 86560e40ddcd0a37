"""What a term costs: a PE array with its weight memory, synthesized, placed and routed."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from amaranth import Module, Signal
from amaranth.back import rtlil
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from flightrtl import implement, toolchain
from flightrtl.errors import UserError
from flightrtl.formats import ActivationFormat, TermFormat
from flightrtl.gateware import PEArray, RomStream
from flightrtl.progress import Progress
from flightrtl.report import table

from .results import add_options, publish

RESULTS = Path(__file__).with_name("pe.json")
FORMATS = ((8, 3), (8, 2), (6, 2), (4, 3), (4, 2))
"""Activation bits and exponent bits, as in the tables of the documentation."""
WORDS = 64
"""Words in the weight memory, and in a pass."""
ACCUMULATOR_BITS = 20
"""Of the harness; those of the bundled MNIST model have 17 to 21."""


@dataclass(frozen=True)
class _Device:
    name: str
    synthesis: str
    router: str
    arguments: tuple[str, ...]
    cell: str


DEVICES = {
    "ice40": _Device("iCE40UP5K", "synth_ice40 -abc9 -device u -top top", "nextpnr-ice40",
                     ("--up5k", "--package", "sg48", "--pcf-allow-unconstrained", "--freq", "70"),
                     "ICESTORM_LC"),
    "ecp5": _Device("LFE5U-85F-6", "synth_ecp5 -abc9 -nowidelut -top top", "nextpnr-ecp5",
                    ("--85k", "--package", "CABGA381", "--speed", "6",
                     "--lpf-allow-unconstrained", "--freq", "140"), "TRELLIS_COMB"),
}


class Harness(wiring.Component):
    """An array between two memories, so that nothing of it is optimized away.

    One pin comes out: the parity of the sums. The array is as in an engine: accumulators, drain,
    and terms from a block RAM (with a register on ECP5).

    Members
    -------
    parity : Out(1)
        Depends on every bit of every sum.
    """

    parity: Signal

    def __init__(self, *, lanes: int, simd: int, activation: ActivationFormat, term: TermFormat,
                 register: bool) -> None:
        rng = np.random.default_rng(0)
        bits = simd * activation.bits
        codes = rng.integers(0, 1 << term.code_bits, (WORDS, lanes * simd))
        codes[codes == term.negative_zero] = 0
        self.array = PEArray(lanes=lanes, simd=simd, width=ACCUMULATOR_BITS,
                             activation=activation, term=term)
        self.terms = RomStream(lanes * simd * term.code_bits, [
            sum(int(code) << n * term.code_bits for n, code in enumerate(row)) for row in codes],
            register=register)
        self.activations = RomStream(bits + 1, [
            int.from_bytes(rng.bytes(bits // 8 + 1), "little") % (1 << bits)
            | (n == WORDS - 1) << bits for n in range(WORDS)], register=register)
        super().__init__({"parity": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.array = array = self.array
        m.submodules.terms = terms = self.terms
        m.submodules.activations = activations = self.activations
        into = array.i.payload
        m.d.comb += [
            array.i.valid.eq(terms.o.valid & activations.o.valid),
            terms.o.ready.eq(array.i.ready & activations.o.valid),
            activations.o.ready.eq(array.i.ready & terms.o.valid),
            into.terms.as_value().eq(terms.o.payload),
            into.activations.as_value().eq(activations.o.payload),
            into.last.eq(activations.o.payload[-1]),
            array.o.ready.eq(1),
        ]
        with m.If(array.o.valid):
            m.d.sync += self.parity.eq(array.o.payload.xor())
        return m


def measure(family: str, *, lanes: int, simd: int, bits: int, exponent_bits: int, seed: int,
            progress: Progress) -> dict[str, Any]:
    """Cells per term and Fmax of one harness, from the real tools."""
    device = DEVICES[family]
    dut = Harness(lanes=lanes, simd=simd, activation=ActivationFormat(bits),
                  term=TermFormat(exponent_bits), register=family == "ecp5")
    title = f"{device.name}, {bits}-bit activations, {exponent_bits} exponent bits"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "top.il").write_text(rtlil.convert(dut, name="top", emit_src=False))
        progress.step(f"{title}: synthesis")
        toolchain.run(toolchain.find("yosys"), [
            "-p", f"read_rtlil top.il; {implement.SPLIT_NETS}; {device.synthesis}; "
                  "write_json top.json"],
            folder=folder, log="yosys.log", progress=progress)
        progress.done()
        progress.step(f"{title}: place and route")
        toolchain.run(toolchain.find(device.router), [
            *device.arguments, "--timing-allow-fail", "--seed", str(seed), "--json", "top.json",
            "--report", "report.json"], folder=folder, log="nextpnr.log", progress=progress)
        progress.done()
        report = json.loads((folder / "report.json").read_text())
    cells = report["utilization"][device.cell]["used"]
    clock, = report["fmax"].values()
    return {"family": family, "device": device.name, "lanes": lanes, "simd": simd,
            "activation_bits": bits, "exponent_bits": exponent_bits, "lut4": cells,
            "lut4_per_term": round(cells / (lanes * simd), 2),
            "fmax_mhz": round(clock["achieved"], 2), "seed": seed}


def main(arguments: Sequence[str]) -> int:
    """Logic cells per term of the PE array, and its Fmax, on both families."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks pe", description=main.__doc__)
    parser.add_argument("--lanes", type=int, default=8, metavar="P", help="lanes (default 8)")
    parser.add_argument("--simd", type=int, default=4, metavar="S",
                        help="terms per lane and cycle (default 4)")
    parser.add_argument("--all", action="store_true",
                        help="all formats of the documentation, not only 8 x 3 bits")
    parser.add_argument("--family", choices=sorted(DEVICES), action="append",
                        help="only this family (default: both)")
    parser.add_argument("--seed", type=int, default=1, help="of place and route (default 1)")
    add_options(parser, RESULTS)
    options = parser.parse_args(arguments)
    for name in ("lanes", "simd"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} must be 1 or more, not {getattr(options, name)}")
    progress = Progress(sys.stderr)
    families = options.family or list(DEVICES)
    results = [measure(family, lanes=options.lanes, simd=options.simd, bits=bits,
                       exponent_bits=exponent_bits, seed=options.seed, progress=progress)
               for bits, exponent_bits in (FORMATS if options.all else FORMATS[:1])
               for family in families]
    document: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks pe", *arguments]),
        "date": date.today().isoformat(),
        "tools": {name: toolchain.find(name).version
                  for name in ("yosys", *(DEVICES[family].router for family in families))},
        "counted": "nextpnr's occupied logic cells of the array (shift PEs, adder trees, "
                   "accumulators, drain), its weight memory's and the harness's few cells",
        "results": results,
    }
    text = table(
        ["device", "activation", "exponent bits", "P x S", "cells", "cells a term", "MHz"],
        [[r["device"], f"{r['activation_bits']} bits", str(r["exponent_bits"]),
          f"{r['lanes']} x {r['simd']}", str(r["lut4"]), f"{r['lut4_per_term']:.1f}",
          f"{r['fmax_mhz']:.1f}"] for r in results])
    text += f"\n\n{document['counted'][0].upper()}{document['counted'][1:]}.\n"
    text += ", ".join(f"{name} {version}" for name, version in document["tools"].items())
    publish(document, text, RESULTS, options)
    return 0
