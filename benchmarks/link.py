"""A host and a simulated board, with a line between them that damages frames."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from flightrtl import boards, golden, modelfile, planner, samples, toolchain
from flightrtl.errors import BuildError, UserError
from flightrtl.host.device import Answer, Device
from flightrtl.progress import Progress
from flightrtl.report import table
from sim import compiler
from sim.board import VirtualBoard, compile_board
from sim.faulty import FAULTS, FaultyLine

from .results import add_options, publish

RESULTS = Path(__file__).with_name("link.json")
MODEL, BOARD = "digits", "icestick"
REQUESTS = 10_000
RATES = (0.01, 0.05, 0.2)
BAUD = 10_500_000
"""Eight cycles a bit, so that 30,000 requests are simulated in minutes. What a fault does to a
frame does not depend on it."""


def stress(board: VirtualBoard, sha256: str, *, rate: float, requests: int, seed: int,
           progress: Progress) -> dict[str, Any]:
    """One run: so many images over a line on which so many frames are damaged.

    Parameters
    ----------
    board : VirtualBoard
        That nobody has talked to yet.
    sha256 : str
        Of the model's file.
    rate : float
        Share of the frames, in both directions, to which something happens.
    requests : int
        Images.
    seed : int
        Of images and faults.
    progress : Progress
        Told how far it is, in a step of its own.

    Returns
    -------
    dict
        ``requests``, of which ``answered`` with all logits the golden model's, ``wrong`` and
        ``failed`` (reported as such); ``hangs``: requests that took longer than all their
        time-outs together can be; ``unanswered_clean``: see :class:`~sim.faulty.FaultyLine`;
        ``next_clean_tries``: requests that the first clean image after all this took.
    """
    model = board.model
    images, _ = samples.load(str(model.provenance["dataset"]))
    expected = golden.run(model, images)
    line = FaultyLine(board, seed=seed)
    device = Device(line, model, sha256=sha256, sequence=0)
    before = device.statistics.requests
    line.rate = rate
    progress.step(f"{requests:,} requests, {rate:.0%} of all frames damaged")
    wrong = answered = hangs = 0
    longest_wait = device.longest_wait()
    longest = 0.0
    order = np.random.default_rng(seed).integers(len(images), size=requests)
    for number, chosen in enumerate(order):
        start = line.now()
        answer = next(device.classify_all([images[chosen]]))
        taken = line.now() - start
        longest = max(longest, taken)
        hangs += taken > longest_wait
        if isinstance(answer, Answer):
            good = list(answer.logits) == expected[chosen].tolist()
            answered += good
            wrong += not good
        progress.update(f"{number + 1:,} of {requests:,}, {answered:,} right, {wrong} wrong, "
                        f"{number + 1 - answered - wrong} failed")
    statistics = device.statistics
    found = {"rate": rate, "requests": requests, "answered": answered, "wrong": wrong,
             "failed": statistics.failed, "hangs": hangs,
             "sent_again": statistics.retried, "timeouts": statistics.timeouts,
             "damaged_replies": statistics.damaged, "stale_replies": statistics.stale,
             "faults": {fault: line.faults[fault] for fault in FAULTS},
             "unanswered_clean": line.unanswered, "longest_seconds": round(longest, 3)}
    assert statistics.requests - before == requests
    line.rate = 0.0
    answer = next(device.classify_all([images[0]]))
    right = isinstance(answer, Answer) and list(answer.logits) == expected[0].tolist()
    found["next_clean_tries"] = answer.tries if isinstance(answer, Answer) and right else None
    found["device_counters"] = vars(device.counters())
    found["board_seconds"] = round(board.seconds, 3)
    found["cycles"] = board.cycles
    progress.done(f"{answered:,} right, {wrong} wrong, {statistics.failed} failed")
    return found


def problems(found: dict[str, Any]) -> list[str]:
    """What of a run is not as it must be."""
    said = [f"{found[key]} {key}" for key in ("wrong", "hangs", "unanswered_clean") if found[key]]
    if found["answered"] + found["wrong"] + found["failed"] != found["requests"]:
        said.append("requests that were neither answered nor reported failed")
    if found["next_clean_tries"] != 1:
        said.append("the next clean image was not answered at once")
    return said


def main(arguments: Sequence[str]) -> int:
    """A host and a simulated board, with a line between them that damages frames."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks link", description=main.__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS, metavar="N",
                        help="at each rate (default: %(default)s)")
    parser.add_argument("--rate", type=float, action="append", metavar="SHARE",
                        help="share of the frames to which something happens (default: 0.01, "
                             "0.05 and 0.2)")
    parser.add_argument("--baud", type=int, default=BAUD, metavar="N",
                        help="bit rate of the design (default: %(default)s, not the board's: that "
                             "takes much longer to simulate)")
    parser.add_argument("--seed", type=int, default=0,
                        help="of images and faults (default: %(default)s)")
    add_options(parser, RESULTS)
    options = parser.parse_args(arguments)
    rates = options.rate or RATES
    if options.requests < 1 or options.seed < 0 or not all(0 <= rate <= 1 for rate in rates):
        raise UserError("--requests must be 1 or more, --seed 0 or more, --rate 0 to 1")
    if options.save and (options.rate, options.requests, options.baud) != (None, REQUESTS, BAUD):
        raise UserError("--save keeps the results of all rates and requests: leave out --rate, "
                        "--requests and --baud")
    tool = compiler.find()
    progress = Progress(sys.stderr)
    model = modelfile.load(MODEL)
    plan = planner.plan(model, boards.load(BOARD))
    progress.step(f"virtual {BOARD} with {MODEL}")
    sha256 = modelfile.sha256(MODEL)
    design = compile_board(model, plan, sha256, baud=options.baud,
                           progress=progress)
    results = [stress(VirtualBoard(design, model, plan, baud=options.baud), sha256, rate=rate,
                      requests=options.requests, seed=options.seed, progress=progress)
               for rate in rates]
    document = {
        "command": " ".join(["python -m benchmarks link", *arguments]),
        "date": date.today().isoformat(), "seed": options.seed,
        "tools": {"amaranth": metadata.version("amaranth"), "python": platform.python_version(),
                  "yosys": toolchain.find("yosys").version, "c++": tool.version},
        "model": MODEL, "board": BOARD, "baud": options.baud,
        "measured": "gateware behind its serial pins, in simulated time; faults in both "
                    "directions; every logit compared with the golden model's",
        "results": results,
    }
    publish(document, table(
        ["damaged frames", "requests", "answered", "wrong", "failed", "hangs", "sent again",
         "faults", "next clean"],
        [[f"{each['rate']:.0%}", f"{each['requests']:,}", f"{each['answered']:,}",
          str(each["wrong"]), str(each["failed"]), str(each["hangs"]),
          f"{each['sent_again']:,}", f"{sum(each['faults'].values()):,}",
          "at once" if each["next_clean_tries"] == 1 else "NOT AT ONCE"] for each in results]),
        RESULTS, options)
    wrong = [f"{each['rate']:.0%}: {text}" for each in results for text in problems(each)]
    if wrong:
        raise BuildError("; ".join(wrong))
    return 0
