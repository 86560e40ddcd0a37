"""The long verification: whole test sets, netlists, bitstreams, proofs, random runs, faults.

Each step is a command of its own that can be typed alone, and is judged by what it prints. The
record, ``verification.json``, is kept step by step: an interrupted or partial run replaces what
it ran and leaves the rest, with the date and the digest of the sources that the rest had.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flightrtl.errors import BuildError, UserError
from flightrtl.files import atomic_write
from flightrtl.progress import Progress
from flightrtl.report import table

from .steps import ROOT, Step, steps

__all__ = ["RESULTS", "main", "perform", "read", "state"]

RESULTS = Path(__file__).with_name("verification.json")

Entry = dict[str, Any]


def read(path: Path) -> dict[str, Entry]:
    """The recorded steps by name; none if there is no record."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        recorded: dict[str, Entry] = document["steps"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a record of verification ({error}): restore it, or remove "
                        "it and run every step") from None
    return recorded


def _keep(path: Path, name: str, entry: Entry, known: Iterable[str]) -> None:
    """Put one step into the record; steps that there no longer are leave it."""
    recorded = read(path)
    # What could not run here says nothing against what was found elsewhere.
    if entry["outcome"] != "not run" or name not in recorded:
        recorded[name] = entry
    document = {
        "command": "python -m benchmarks verification --save",
        "about": "each step has its own date, and in `sources` the SHA-256 of the files on which "
                 "it depends; python -m benchmarks verification --status compares",
        "steps": {each: recorded[each] for each in known if each in recorded}}
    with atomic_write(path) as file:
        file.write(json.dumps(document, indent=2) + "\n")


def _execute(step: Step, folder: Path, data: Path | None) -> tuple[str, int]:
    """Run a step's command: what it printed, and its exit status.

    JSON is only collected; what people can read is also shown while it comes.
    """
    process = subprocess.Popen(
        [sys.executable, *step.arguments(folder, data)], cwd=ROOT, text=True, errors="replace",
        stdout=subprocess.PIPE, env=os.environ | dict(step.environment))
    printed = []
    with process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                printed.append(line)
                if "--json" not in step.command:
                    print(line, end="", file=sys.stderr, flush=True)
        except BaseException:
            process.terminate()
            raise
    return "".join(printed), process.returncode


def perform(step: Step, data: Path | None) -> Entry:
    """Run a step and judge it; the entry for the record."""
    entry: Entry = {"title": step.title, "command": step.shown(data), "seed": step.seed,
                    "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}
    missing = step.missing()
    if missing is not None:
        return entry | {"outcome": "not run", "problems": [missing]}
    entry |= {"sources": step.digest(), "tools": step.tools()}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        printed, status = _execute(step, Path(folder), data)
        seconds = round(time.monotonic() - start, 1)
        try:
            results, problems = step.judge(printed, Path(folder))
        except (ValueError, LookupError, TypeError, OSError, SyntaxError) as error:
            results, problems = {}, [f"its output cannot be judged: {error!r}"]
    if status and not problems:
        problems = [f"exit status {status}"]
    return entry | {"outcome": "failed" if problems else "passed", "problems": problems,
                    "results": results,
                    "context": {"seconds": seconds, "processors": os.cpu_count()}}


def state(step: Step, entry: Entry | None) -> str:
    """Whether an entry is about the sources as they are now."""
    if entry is None:
        return "missing"
    if "sources" not in entry:
        return "no result"
    return "current" if entry["sources"] == step.digest() else "older than the sources"


def _words(entry: Mapping[str, Any]) -> str:
    """What is wrong, or the numbers of a step."""
    if entry.get("problems"):
        return "; ".join(entry["problems"])
    results = entry.get("results", {})
    parts = [f"{results[name]:,} {name}" for name in (
        "images", "mismatches", "tests", "twins", "examples", "faults", "found")
        if name in results]
    if "top1" in results:
        parts.append(f"top-1 {100 * results['top1']:.2f} %")
    if results.get("cycles_per_inference") is not None:
        parts.append(f"{results['cycles_per_inference']:,} cycles per inference")
    if "ratio" in results:
        parts.append(f"{results['ratio']:,.0f} times as fast")
    return ", ".join(parts)


def _table(chosen: Mapping[str, Step], recorded: Mapping[str, Entry]) -> str:
    rows = []
    for name, step in chosen.items():
        entry = recorded.get(name)
        found = entry or {"outcome": "-", "date": "-"}
        rows.append([name, found["outcome"], found["date"], state(step, entry), _words(found)])
    return table(["step", "outcome", "date", "state", "found"], rows, left=range(5))


def _choose(known: Mapping[str, Step], only: Sequence[str] | None) -> dict[str, Step]:
    """The steps with these names, or in these groups: ``rtl``, ``rtl/mnist``."""
    for name in only or ():
        if not any(each == name or each.startswith(f"{name}/") for each in known):
            raise UserError(f"there is no step {name!r}; there is {', '.join(known)}")
    return {each: step for each, step in known.items()
            if not only or any(each == name or each.startswith(f"{name}/") for name in only)}


def main(arguments: Sequence[str]) -> int:
    """Everything that takes too long for `make test`: the hardware, proved at every level."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks verification",
                                     description=main.__doc__, allow_abbrev=False)
    parser.add_argument("--only", action="append", metavar="STEP",
                        help="only this step, or group of steps; may be given again")
    parser.add_argument("--resume", action="store_true",
                        help="leave out steps that are recorded as passed with today's sources")
    parser.add_argument("--status", action="store_true",
                        help="run nothing; show the record, and what is older than the sources")
    parser.add_argument("--data", type=Path, metavar="DIR",
                        help="folder with the data sets' files (default: the user's cache, else "
                             "a download)")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.add_argument("--save", action="store_true",
                        help=f"keep each step's outcome in benchmarks/{RESULTS.name}")
    options = parser.parse_args(arguments)
    known = steps()
    chosen = _choose(known, options.only)
    data = options.data.resolve() if options.data else None
    if data is not None and not data.is_dir():
        raise UserError(f"data folder {options.data}: no such folder")
    recorded = read(RESULTS) if options.status or options.resume or options.save else {}

    done = {}
    if options.status:
        done = recorded
    else:
        done = _run(chosen, recorded if options.resume else {}, data,
                    known if options.save else None)
    if options.json:
        print(json.dumps({"steps": {name: done[name] | {"state": state(chosen[name], done[name])}
                                    for name in chosen if name in done}}, indent=2))
    else:
        print(_table(chosen, done))
    failed = [name for name in chosen if name in done and done[name]["outcome"] == "failed"]
    if failed and not options.status:
        raise BuildError(f"failed: {', '.join(failed)}",
                         knob="the commands of these steps can be run alone")
    return 0


def _run(chosen: Mapping[str, Step], recorded: Mapping[str, Entry], data: Path | None,
         keep: Iterable[str] | None) -> dict[str, Entry]:
    """Run the steps one after the other; entries by name."""
    progress = Progress()
    done = {}
    for number, (name, step) in enumerate(chosen.items(), 1):
        entry = recorded.get(name)
        title = f"step {number} of {len(chosen)}, {name}: {step.title}"
        if entry and entry["outcome"] == "passed" and state(step, entry) == "current":
            progress.note(f"{title}: passed on {entry['date']}")
        else:
            progress.note(title)
            entry = perform(step, data)
            progress.note(f"{entry['outcome'].upper()}: {name}: {_words(entry)}")
            if keep is not None:
                _keep(RESULTS, name, entry, keep)
        done[name] = entry
    return done
