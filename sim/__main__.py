"""``python -m sim MODEL``: images through the gateware, every logit against the golden model.

``python -m sim serve`` and ``demo`` are :mod:`sim.serve` and :mod:`sim.demo`.

Exit status: 0 if all logits and winners are those of the golden model, 1 if not, 2 if the request
is wrong; see :mod:`flightrtl.errors`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flightrtl.errors import UserError, run_cli

if TYPE_CHECKING:
    from flightrtl.planner import Plan
    from flightrtl.progress import Progress

    from .compare import Comparison
    from .engine import Engine, Trace, Watch

__all__ = ["main"]

_SHOWN = 10
"""Mismatches that are told one by one, at most."""

_ENGINES = ("python", "cxxrtl")
_LEVELS = ("rtl", "netlist", "bitstream")


def _natural(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of images (1 or more)")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sim", allow_abbrev=False,
        description="Run images through the gateware of a trained network and compare every "
                    "logit with the golden model.",
        epilog="Two more commands: `python -m sim serve MODEL`, a virtual board behind a "
               "pseudo-terminal, and `python -m sim demo`; each has its own --help.")
    parser.add_argument("model", metavar="MODEL",
                        help="bundled model, or the path of a model file")
    parser.add_argument("--dataset", metavar="NAME",
                        help="take images from this data set's test split (default: the sample "
                             "images that come with flightrtl)")
    parser.add_argument("--data", type=Path, metavar="DIR",
                        help="folder with the data set's files (default: the user's cache, else "
                             "a download)")
    parser.add_argument("--images", type=_natural, default=10, metavar="N",
                        help="number of images (default: %(default)s)")
    parser.add_argument("--seed", type=int, metavar="N",
                        help="draw the images at random (default: the first ones)")
    parser.add_argument("--engine", choices=_ENGINES,
                        help="simulator: Amaranth's own, or compiled code (default: cxxrtl where "
                             "there is a C++ compiler)")
    parser.add_argument("--level", choices=_LEVELS, default="rtl",
                        help="what is simulated (default: %(default)s)")
    parser.add_argument("--board", default="ice40", metavar="NAME|FILE",
                        help="board that the network is planned for (default: %(default)s)")
    parser.add_argument("--target-rate", type=float, metavar="N",
                        help="inferences per second that the network is planned for (default: as "
                             "for a build)")
    parser.add_argument("--flash", metavar="LAYER",
                        help="as for a build: the layer whose weights are in the board's flash, "
                             "or auto; the flash is simulated too")
    parser.add_argument("--trace-layers", action="store_true",
                        help="compare every value that a layer hands on with the golden model, "
                             "and name the first that differs")
    waveform = parser.add_mutually_exclusive_group()
    waveform.add_argument("--vcd", type=Path, metavar="FILE",
                          help="write a waveform of one image: the first that is wrong, or else "
                               "the first")
    waveform.add_argument("--fst", type=Path, metavar="FILE",
                          help="the same in a format that takes a twentieth of the space")
    parser.add_argument("--json", action="store_true",
                        help="print the result as JSON, and nothing else, on standard output")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
    if arguments and arguments[0] in ("serve", "demo"):
        from . import demo, serve
        return (serve if arguments[0] == "serve" else demo).main(arguments[1:])
    options = _parser().parse_args(arguments)
    if options.level != "rtl" and options.engine is not None:
        raise UserError(f"--engine chooses a simulator of the gateware's source: leave it out, or "
                        f"--level {options.level}")
    form = "vcd" if options.vcd else "fst"
    waveform = options.vcd or options.fst
    if options.level != "rtl" and (options.trace_layers or waveform):
        raise UserError(f"--trace-layers, --vcd and --fst look into the gateware's source: "
                        f"leave them out, or --level {options.level}")
    if options.seed is not None and options.seed < 0:
        raise UserError(f"--seed must be 0 or more, not {options.seed}")

    # Imported late: so --help is quick, and Ctrl-C is clean from the first moment.
    from flightrtl import boards, modelfile, planner
    from flightrtl.gateware import require_supported
    from flightrtl.progress import Progress

    from .bitstream import BitstreamEngine
    from .compare import compare
    from .engine import Stuck
    from .images import choose
    from .netlist import NetlistEngine
    from .tracing import require_room
    from .waves import check_path, record_image

    model = modelfile.load(options.model)
    require_supported(model, link=options.level == "bitstream")
    board = boards.load(options.board)
    if waveform:
        check_path(waveform, form)
    if options.trace_layers:
        require_room(model, options.images)
    images, labels = choose(model, options.images, dataset=options.dataset, folder=options.data,
                            seed=options.seed)
    if options.level == "bitstream":
        for name in ("target_rate", "flash"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} is for --level rtl and netlist: a "
                                "bitstream is that of the default build")
    plan = planner.plan(model, board, target_rate=options.target_rate, flash=options.flash)
    progress = Progress()
    recorded = _recorded(model.provenance, options)
    expected = plan.latency_cycles + (len(images) - 1) * plan.cycles_per_inference
    engine: Engine
    line = None
    if options.level == "rtl":
        name, engine = _engine(options.engine, progress)
    elif options.level == "netlist":
        name, engine = "verilator", NetlistEngine(board, progress)
    else:
        name, engine = "verilator", BitstreamEngine(options.model, options.board, progress)
        line = engine.line_cycles(model)
        expected = len(images) * line

    progress.step(f"simulating {model.name} for {board.name}, {len(images):,} images, about "
                  f"{expected:,} cycles")
    try:
        result = compare(engine, model, plan, images, labels,
                         watch=_watch(progress, len(images), expected),
                         observe=options.level == "rtl", trace_layers=options.trace_layers)
    except Stuck as stuck:
        if waveform:
            progress.abandon()
            record_image(plan, model, images, stuck.part.start + stuck.finished, waveform, form,
                         progress)
        raise
    progress.done(f"{result.trace.cycles:,} cycles, {result.trace.cycles_per_second:,.0f} a "
                  "second")

    if options.json:
        print(json.dumps(result.as_json() | _on_line(result.trace, line) | {
            "planned_cycles_per_inference": plan.cycles_per_inference,
            "recorded_top1": recorded, "model": model.name, "board": board.name, "engine": name,
            "level": options.level}, indent=2))
    else:
        _print(result, plan, recorded, line)
    if waveform:
        record_image(plan, model, images, result.first_wrong or 0, waveform, form, progress)
    if result.mismatches:
        for text in itertools.islice(result.differences(), _SHOWN):
            print(f"error: {text}", file=sys.stderr)
        if result.mismatches > _SHOWN:
            print(f"error: and {result.mismatches - _SHOWN} more", file=sys.stderr)
        if options.level == "rtl" and not options.trace_layers:
            print("  what helps: --trace-layers, which names the first layer that differs",
                  file=sys.stderr)
    if result.layers is not None and result.layers.culprit is not None:
        print(f"error: {result.layers.verdict}", file=sys.stderr)
        return 1
    return 1 if result.mismatches else 0


def _engine(wanted: str | None, progress: Progress) -> tuple[str, Engine]:
    """The engine, and its name."""
    from . import compiler
    from .amaranth_engine import simulate
    from .cxxrtl_engine import CxxrtlEngine

    if wanted is None:
        wanted = "cxxrtl"
        if compiler.search() is None:
            progress.note("note: there is no C++ compiler, so Amaranth's own simulator is used, "
                          f"which is slow. What helps: {compiler.INSTALL}")
            wanted = "python"
    if wanted == "python":
        return wanted, simulate
    compiler.find()  # rather than find it missing after the images were loaded
    return wanted, CxxrtlEngine(progress=progress)


def _recorded(provenance: Mapping[str, Any], options: argparse.Namespace) -> float | None:
    """Accuracy that the model's file states, if it is that of the images that are simulated."""
    same = (options.dataset == provenance.get("dataset") and provenance.get("split") == "test"
            and options.images == provenance.get("images"))
    top1 = provenance.get("top1")
    return top1 if same and isinstance(top1, float) else None


def _on_line(trace: Trace, line: int | None) -> dict[str, Any]:
    """What JSON says of times where images arrive over a serial line, which sets the pace.

    ``line`` is how many cycles the bytes of an image and its answer take there.
    """
    if line is None:
        return {}
    return {"cycles_per_inference": None, "latency_cycles": None, "steady": None,
            "cycles_per_image_on_the_line": int((trace.finished - trace.started).max()),
            "cycles_of_its_bytes": line}


def _print(result: Comparison, plan: Plan, recorded: float | None, line: int | None) -> None:
    """The table for people; ``line`` as for :func:`_on_line`."""
    interval, latency = plan.cycles_per_inference, plan.latency_cycles
    trace = result.trace
    measured = "unknown: takes two images or more"
    if trace.cycles_per_inference is not None:
        measured = f"{trace.cycles_per_inference:,}"
        if not trace.steady:
            measured += f" (varies from {trace.intervals.min():,} to {trace.intervals.max():,})"
    print(f"images                {result.images:,}")
    print(f"top-1                 {result.correct / result.images:.2%} "
          f"({result.correct:,} correct)"
          + (f"; recorded: {recorded:.2%}" if recorded is not None else ""))
    print(f"mismatches            {result.mismatches:,} of {result.expected.size:,} logits and "
          f"{result.images:,} winners")
    if line is None:
        print(f"cycles per inference  {measured} (planned: {interval:,})")
        print(f"latency in cycles     {trace.latency_cycles:,} (planned: {latency:,})")
    else:
        print(f"cycles per image      {(trace.finished - trace.started).max():,} over the serial "
              f"port, of which its bytes take {line:,}")
    print(f"simulation            {trace.cycles:,} cycles in {trace.seconds:.1f} s: "
          f"{trace.cycles_per_second:,.0f} cycles/s, {result.images / trace.seconds:,.1f} "
          f"images/s on {trace.cores} core{'s' if trace.cores > 1 else ''}; "
          f"{trace.build_seconds:.1f} s to build it")
    if result.activity is not None:
        print(f"\n{result.activity.as_text()}")
    if result.layers is not None:
        print(f"\n{result.layers.as_text()}")
        if result.layers.culprit is None:
            print(result.layers.verdict)


def _watch(progress: Progress, images: int, expected: int) -> Watch:
    """Turns the state of a simulation into a line of progress."""
    start = time.monotonic()

    def watch(cycles: int, finished: int) -> None:
        nonlocal start
        if not cycles:
            start = time.monotonic()
            return
        seconds = max(time.monotonic() - start, 1e-3)
        left = max(expected - cycles, 0) * seconds / cycles
        progress.update(f"image {min(finished + 1, images):,} of {images:,}, "
                        f"{cycles / seconds:,.0f} cycles/s, {finished / seconds:,.1f} images/s, "
                        f"about {left:,.0f} s to go")

    return watch


if __name__ == "__main__":
    run_cli(main)
