"""How fast networks are simulated: Amaranth's simulator and compiled code, in one run."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from flightrtl import boards, modelfile, planner, toolchain
from flightrtl.errors import BuildError, UserError
from flightrtl.progress import Progress
from flightrtl.report import table
from sim import compiler
from sim.amaranth_engine import simulate
from sim.compare import compare
from sim.cxxrtl_engine import CxxrtlEngine
from sim.engine import Engine
from sim.parallel import cores

from .results import add_options, publish

RESULTS = Path(__file__).with_name("simulation.json")
DESIGNS = (("mnist", "icebreaker"), ("mnist", "ulx3s_85f"), ("digits", "icestick"))
CYCLES = {"amaranth": 5_000, "one core": 2_000_000, "all cores": 4_000_000}
"""To simulate with each, at least: whole images, seconds of compiled code."""


def measure(name: str, board_name: str, *, seed: int, progress: Progress) -> dict[str, Any]:
    """Cycles per second of one design in each simulator, on random images.

    Raises
    ------
    BuildError
        If a simulator does not give the golden model's logits.
    """
    model, board = modelfile.load(name), boards.load(board_name)
    plan = planner.plan(model, board)
    limits = model.input.format
    result: dict[str, Any] = {"model": model.name, "board": board.name}
    engines: dict[str, Engine] = {
        "amaranth": simulate, "one core": CxxrtlEngine(progress=progress, threads=1),
        "all cores": CxxrtlEngine(progress=progress)}
    for kind, engine in engines.items():
        count = -(-CYCLES[kind] // plan.cycles_per_inference)
        images = np.random.default_rng(seed).integers(
            limits.min, limits.max + 1, (count, *model.input.shape))
        progress.step(f"{model.name} on {board.name}, {kind}: {count:,} images")
        comparison = compare(engine, model, plan, images, np.zeros(count, int))
        trace = comparison.trace
        progress.done(f"{trace.cycles_per_second:,.0f} cycles/s")
        if comparison.mismatches:
            raise BuildError(f"{model.name} on {board.name}, {kind}: {comparison.mismatches} "
                             "mismatches with the golden model")
        key = kind.replace(" ", "_")
        result[f"{key}_cycles"] = trace.cycles
        result[f"{key}_cycles_per_second"] = round(trace.cycles_per_second)
        if kind == "one core":
            result["compile_seconds"] = round(trace.build_seconds, 1)
    for key in ("one_core", "all_cores"):
        result[f"{key}_ratio"] = round(result[f"{key}_cycles_per_second"]
                                       / result["amaranth_cycles_per_second"], 1)
    return result


def _processor() -> str:
    """What the processor calls itself, as far as that can be found out."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main(arguments: Sequence[str]) -> int:
    """Cycles per second of Amaranth's simulator and of compiled code, on the same designs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks simulation",
                                     description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the images (default: %(default)s)")
    parser.add_argument("--model", choices=sorted({model for model, _ in DESIGNS}),
                        help="only the designs of this model (default: all)")
    add_options(parser, RESULTS)
    options = parser.parse_args(arguments)
    if options.seed < 0:
        raise UserError(f"--seed must be 0 or more, not {options.seed}")
    if options.save and options.model is not None:
        raise UserError("--save keeps the results of all designs: leave out --model")
    tool = compiler.find()
    progress = Progress(sys.stderr)
    # A cache of its own: the time to compile is to be measured too.
    with tempfile.TemporaryDirectory(prefix="flightrtl-") as folder:
        before = os.environ.get(compiler.CACHE_VARIABLE)
        os.environ[compiler.CACHE_VARIABLE] = folder
        try:
            results = [measure(model, board, seed=options.seed, progress=progress)
                       for model, board in DESIGNS if options.model in (None, model)]
        finally:
            del os.environ[compiler.CACHE_VARIABLE]
            if before is not None:
                os.environ[compiler.CACHE_VARIABLE] = before
    document = {
        "command": " ".join(["python -m benchmarks simulation", *arguments]),
        "date": date.today().isoformat(), "seed": options.seed,
        "tools": {"amaranth": metadata.version("amaranth"), "python": platform.python_version(),
                  "yosys": toolchain.find("yosys").version, "c++": tool.version},
        "processor": _processor(), "cores": cores(),
        "measured": "wall-clock time of the simulation alone; ratios to Amaranth's simulator in "
                    "the same run; every logit equal to the golden model's",
        "results": results,
    }
    publish(document, table(
        ["model", "board", "Amaranth, cycles/s", "one core", "ratio", f"{cores()} cores", "ratio",
         "compile, s"],
        [[each["model"], each["board"], f"{each['amaranth_cycles_per_second']:,}",
          f"{each['one_core_cycles_per_second']:,}", f"{each['one_core_ratio']:,.0f}",
          f"{each['all_cores_cycles_per_second']:,}", f"{each['all_cores_ratio']:,.0f}",
          f"{each['compile_seconds']:.1f}"] for each in results], left=(0, 1)), RESULTS, options)
    return 0
