"""``python -m flightrtl.build``: a trained network into a bitstream.

Exit status: see :mod:`flightrtl.errors`.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .errors import run_cli

__all__ = ["main"]


def _number(kind: Callable[[str], Any], low: float, high: float, what: str) -> Callable[[str], Any]:
    """Type of a command-line number; argparse turns its error into a message."""
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not {what} ({low:g} to {high:g})")
        return value
    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flightrtl.build", allow_abbrev=False,
        description="Build the bitstream of a trained network for an FPGA board.",
        epilog="Writes the bitstream, report.json, report.txt, report.svg and the tools' logs. "
               "An unchanged build is found again at once.")
    parser.add_argument("--board", default="ice40", metavar="NAME|FILE",
                        help="board, or the path of a board's TOML file (default: %(default)s)")
    parser.add_argument("--model", default="mnist", metavar="NAME|FILE",
                        help="bundled model, or the path of a model file (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="folder for the results (default: build/<board>/<model>)")
    parser.add_argument("--frequency", type=_number(float, 0.001, 10_000, "a clock in MHz"),
                        metavar="MHZ", help="clock of the design (default: the board's)")
    parser.add_argument("--target-rate", metavar="N",
                        type=_number(float, 0.001, 1e12, "a rate in inferences per second"),
                        help="inferences per second that are enough (default: all that fit)")
    parser.add_argument("--dataflow", choices=("mixed", "folded", "frame"), default="mixed",
                        help="what suits each layer; an engine for each; or one that reads each "
                             "weight once per image (default: mixed)")
    parser.add_argument("--flash", metavar="LAYER",
                        help="the weights of one layer stay in the board's SPI flash, from where "
                             "each is read once per image: its name, or auto for one without "
                             "which the network does not fit; writes weights.bin too")
    parser.add_argument("--seeds", type=_number(int, 1, 1000, "a number of tries"), metavar="N",
                        help="place and route with N seeds and keep the fastest (default: one, "
                             "and up to three more while timing is only just missed)")
    parser.add_argument("--weights", choices=("fixed", "replaceable", "loadable"), default="fixed",
                        help="replaceable: the finished bitstream takes other models of the same "
                             "shape, see --reuse; loadable: the running board does too, see "
                             "flightrtl.host load-weights (default: %(default)s)")
    parser.add_argument("--room", metavar="K", type=_number(float, 0.001, 64, "a number of terms"),
                        help="with weights that are not fixed: terms per weight to have room "
                             "for, in the mean of each layer (default: as many as the model has)")
    parser.add_argument("--reuse", type=Path, metavar="DIR",
                        help="put --model into the finished design in DIR, built with --weights "
                             "replaceable or loadable: seconds, no synthesis, no place and route")
    parser.add_argument("--link", choices=("uart", "spi"), default="uart",
                        help="the line to the host: the board's serial port, or the pins that its "
                             "file names for SPI (default: %(default)s)")
    parser.add_argument("--estimate", action="store_true",
                        help="plan and cost only: seconds, no tool is run, nothing is written")
    parser.add_argument("--verilog", type=Path, metavar="FILE",
                        help="write the network (without the board) as Verilog with AXI4-Stream "
                             "ports, and a testbench, instead of building")
    parser.add_argument("--program", action="store_true",
                        help="load the bitstream into the board afterwards")
    parser.add_argument("--json", action="store_true",
                        help="print the report as JSON, and nothing else, on standard output")
    parser.add_argument("--list-boards", action="store_true", help="list the boards")
    parser.add_argument("--list-models", action="store_true", help="list the bundled models")
    return parser


_ABOUT_THE_DESIGN = ("board", "frequency", "target_rate", "seeds", "dataflow", "flash", "weights",
                     "room", "link", "estimate", "verilog")


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.program and (options.estimate or options.verilog):
        parser.error("--program needs a build: leave out --estimate and --verilog")
    if options.reuse is not None:
        others = [name for name in _ABOUT_THE_DESIGN
                  if getattr(options, name) != parser.get_default(name)]
        if others:
            parser.error(f"--reuse takes the design as it is: leave out --{_dashed(others[0])}")
    # Imported late: so --help is quick, and Ctrl-C is clean from the first moment.
    if options.list_boards:
        return _list_boards(options.json)
    if options.list_models:
        return _list_models(options.json)

    from amaranth.hdl import UnusedElaboratable

    from . import flow
    from .progress import Progress
    from .request import Request

    # Planning makes components for the sake of their timing alone, and a failed build leaves some
    # behind: Amaranth would warn of each one that was never elaborated.
    warnings.filterwarnings("ignore", "", UnusedElaboratable)
    progress = Progress()
    request = Request(
        model=options.model, board=options.board, frequency=options.frequency,
        target_rate=options.target_rate, seeds=options.seeds, dataflow=options.dataflow,
        flash=options.flash, output=options.output, weights=options.weights, terms=options.room,
        link=options.link)
    try:
        if options.reuse is not None:
            from .reuse import reuse

            request, (as_json, as_text) = reuse(options.reuse, options.model, options.output,
                                                progress)
        elif options.estimate or options.verilog is not None:
            if options.verilog is not None:
                flow.write_verilog(request, options.verilog, progress)
            report = flow.estimate(request, progress, link=options.verilog is None)
            as_json, as_text = json.dumps(report.as_json(), indent=2) + "\n", report.as_text()
        else:
            as_json, as_text = flow.build(request, progress)
        print(as_json if options.json else as_text, end="", flush=True)
        if options.program:
            flow.program(request, progress)
    except BaseException:
        progress.abandon()
        raise
    return 0


def _list_boards(as_json: bool) -> int:
    from . import boards
    from .report import table

    known = [boards.load(name) for name in boards.names()]
    if as_json:
        print(json.dumps([{"name": board.name, "aliases": list(board.aliases),
                           "title": board.title, "device": board.device} for board in known],
                         indent=2))
    else:
        print(table(("board", "also", "device", "logic cells", "MHz", ""),
                    [(board.name, ", ".join(board.aliases), board.device,
                      f"{board.resources.lut4:,}", f"{board.clock.default_mhz:g}", board.title)
                     for board in known], left=(0, 1, 2, 5)))
    return 0


def _list_models(as_json: bool) -> int:
    from . import modelfile, models

    known = {name: modelfile.load(name) for name in models.names()}
    if as_json:
        print(json.dumps([{"name": name, "input": list(model.input.shape),
                           "provenance": dict(model.provenance)}
                          for name, model in known.items()], indent=2))
    else:
        for name, model in known.items():
            shape = " x ".join(map(str, model.input.shape))
            print(f"{name}: {shape} in, {model.output.size} classes, {len(model.layers)} layers")
    return 0


if __name__ == "__main__":
    run_cli(main)
