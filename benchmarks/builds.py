"""The bundled models, built for real: the reports that the README quotes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from flightrtl.errors import BuildError
from flightrtl.report import table

from .results import add_options, publish

RESULTS = Path(__file__).with_name("builds.json")
BUILDS = (("mnist", "icebreaker"), ("mnist", "ulx3s_85f"), ("fashion-mnist", "icebreaker"),
          ("digits", "icestick"), ("cifar10", "ulx3s_85f"))
"""Model and board."""


def build(model: str, board: str, *options: str) -> dict[str, Any]:
    """The report of one build, with the bitstream's name in place of its path.

    It stays in ``build``, where it is found again as long as nothing has changed.
    """
    command = [sys.executable, "-m", "flightrtl.build", "--model", model, "--board", board,
               *options]
    result = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise BuildError(f"{model} on {board} was not built")
    report: dict[str, Any] = json.loads(result.stdout)
    report["bitstream"] = Path(report["bitstream"]).name
    return {"command": " ".join(["python", *command[1:]]), "date": date.today().isoformat(),
            **report}


def summary(reports: Sequence[dict[str, Any]]) -> str:
    """The builds side by side, as a table."""
    rows = []
    for report in reports:
        lut4, bram = report["resources"]["lut4"], report["resources"]["bram"]
        rows.append([
            report["model"]["name"], report["board"],
            f"{100 * report['model']['accuracy']['top1']:.2f} %",
            f"{lut4['used']:,} of {lut4['available']:,}", f"{bram['used']} of {bram['available']}",
            str(report["resources"]["dsp"]["used"]),
            f"{report['clock_mhz']:g} ({report['fmax_mhz']:.1f})",
            f"{report['cycles_per_inference']:,}", f"{report['inferences_per_second']:,.0f}"])
    return table(["model", "board", "top-1", "logic cells", "block RAM", "DSP", "MHz (Fmax)",
                  "cycles", "inferences/s"], rows)


def main(arguments: Sequence[str]) -> int:
    """Every bundled model on a board that it is meant for: cells, clock and rate."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks builds", description=main.__doc__)
    parser.add_argument("--only", nargs="+", metavar="MODEL",
                        choices=sorted({model for model, _ in BUILDS}),
                        help="build only these; of the others, the results on record are shown")
    add_options(parser, RESULTS)
    options = parser.parse_args(arguments)
    wanted = [each for each in BUILDS if not options.only or each[0] in options.only]
    done = {}
    if options.only:
        done = {(report["model"]["name"], report["board"]): report
                for report in json.loads(RESULTS.read_text(encoding="utf-8"))}
    for number, (model, board) in enumerate(wanted, 1):
        print(f"build {number} of {len(wanted)}: {model} on {board}", file=sys.stderr)
        done[model, board] = build(model, board)
    reports = [done[each] for each in BUILDS if each in done]
    publish(reports, summary(reports), RESULTS, options)
    return 0
