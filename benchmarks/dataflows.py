"""What it pays to choose the data flow layer by layer: real builds, side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flightrtl.report import table

from .builds import build
from .results import add_options, publish

RESULTS = Path(__file__).with_name("dataflows.json")
CASES = (("digits", "ulx3s_12f", 1_190_000, 85_000), ("fashion-mnist", "ulx3s_85f", 74_000, 8_500))
"""Model, board, inferences per second that the mix and an engine for every layer must reach, and
those that a frame buffer for every layer gets to."""
FLOWS = "mixed", "folded", "frame"
TITLES = ("model", "board", "layers with weights", "inferences/s", "Fmax", "logic cells",
          "block RAM", "buffer bits", "weight bits read")


def line(report: dict[str, Any]) -> list[str]:
    """A build as a row of the table, in the order of :data:`TITLES`."""
    layers = report["model"]["layers"]
    flows = [layer["dataflow"] for layer in layers if layer["terms"]]
    return [
        report["model"]["name"], report["board"],
        " + ".join(f"{flows.count(flow)} {flow}" for flow in dict.fromkeys(flows)),
        f"{report['inferences_per_second']:,.0f}", f"{report['fmax_mhz']:.1f}",
        f"{report['resources']['lut4']['used']:,}", f"{report['resources']['bram']['used']}",
        f"{sum(layer['buffer_bits'] for layer in layers):,}",
        f"{sum(layer['weight_read_bits'] for layer in layers):,}"]


def main(arguments: Sequence[str]) -> int:
    """The planner's mix of data flows against a single one for every layer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks dataflows",
                                     description=main.__doc__)
    add_options(parser, RESULTS)
    options = parser.parse_args(arguments)
    reports: list[dict[str, Any]] = []
    for model, board, rate, frame_rate in CASES:
        for dataflow in FLOWS:
            wanted = frame_rate if dataflow == "frame" else rate
            print(f"build {len(reports) + 1} of {len(CASES) * len(FLOWS)}: {model} on {board}, "
                  f"{dataflow}", file=sys.stderr)
            reports.append(build(model, board, "--target-rate", str(wanted), "--dataflow", dataflow,
                                 "--output", f"build/{board}/{model}-{dataflow}"))
    publish(reports, table(TITLES, list(map(line, reports))), RESULTS, options)
    return 0
