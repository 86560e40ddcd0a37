"""The planner's estimates against place and route, over designs that no estimate was fitted to."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from flightrtl.errors import BuildError
from flightrtl.report import RESOURCES, table

from .results import add_options, publish

__all__ = ["LIMIT", "RESULTS", "deviations", "main"]

RESULTS = Path(__file__).with_name("estimates.json")
CASES = (("digits", "icestick", 3), ("digits", "ulx3s_12f", 7), ("mnist", "ice40_hx8k_b_evn", 4),
         ("fashion-mnist", "ulx3s_25f", 4))
"""Model, board, and points of the front between the smallest and the fastest design."""
LIMIT = 0.1
"""How far an estimate may be off, as a share of what was counted ..."""
_FEW = {"bram": 2, "dsp": 2}
"""... or as many blocks, of which a small design has a handful."""


def deviations(report: Mapping[str, Any]) -> Iterator[tuple[str, int, int, bool]]:
    """Resource, estimate, count, and whether these agree, for each that a design has or should."""
    for key in RESOURCES:
        planned = report["estimate"]["resources"][key]["used"]
        used = report["resources"][key]["used"]
        if planned or used:
            yield key, planned, used, abs(planned - used) <= max(LIMIT * used, _FEW.get(key, 0))


def main(arguments: Sequence[str]) -> int:
    """Estimated against counted resources, of real builds over the front of rate against size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks estimates",
                                     description=main.__doc__)
    add_options(parser, RESULTS)
    options = parser.parse_args(arguments)
    points: list[dict[str, Any]] = []
    for model, board, count in CASES:
        command = [sys.executable, "-m", "flightrtl.explore", "--model", model, "--board", board,
                   "--points", str(count), "--jobs", "1", "--json"]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if not result.stdout:
            raise BuildError(f"{model} on {board} was not explored")
        points += [{"model": model, "board": board, **{
            key: point[key] for key in ("rate", "status", "message", "report")}}
            for point in json.loads(result.stdout)["points"]]
    for point in points:
        if point["report"] is not None:
            point["report"]["bitstream"] = Path(point["report"]["bitstream"]).name
    rows, off = [], 0
    for point in points:
        about = [point["model"], point["board"], f"{point['rate']:,.0f}"]
        if point["report"] is None:
            rows.append([*about, *[""] * len(RESOURCES), point["message"].splitlines()[0]])
            continue
        found = {key: (planned, used, agrees)
                 for key, planned, used, agrees in deviations(point["report"])}
        off += any(not agrees for _, _, agrees in found.values())
        rows.append([*about, *(f"{found[key][0]:,} / {found[key][1]:,}"
                               f"{'' if found[key][2] else ' !'}" if key in found else ""
                               for key in RESOURCES), ""])
    text = table(["model", "board", "inferences/s", *(f"{name}" for name in RESOURCES.values()),
                  ""], rows, left=(0, 1, len(RESOURCES) + 3))
    built = sum(point["report"] is not None for point in points)
    text += (f"\n\nestimate / counted; {off} of {built} designs that were built are off by more "
             f"than {100 * LIMIT:.0f} % in something (!)")
    publish({"command": "python -m benchmarks estimates", "date": date.today().isoformat(),
             "off": off, "points": points}, text, RESULTS, options)
    return 0
