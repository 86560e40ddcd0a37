"""Planted faults: which of them the test suite finds."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from flightrtl.errors import BuildError, UserError
from flightrtl.progress import Progress
from flightrtl.report import table

from .results import add_options, publish

__all__ = ["MUTATIONS", "RESULTS", "Mutation", "Outcome", "Tree", "load", "main"]

ROOT = Path(__file__).parent.parent
MUTATIONS = Path(__file__).with_name("mutations.toml")
RESULTS = Path(__file__).with_name("mutations.json")

_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
# Long tracebacks parse the source again, which CPython 3.11 refuses in the midst of a simulation.
_OPTIONS = ("-x", "-q", "--tb=line", "-p", "no:cacheprovider",
            "--hypothesis-profile=first-failure")
_FOUND = re.compile(r"^(?:FAILED|ERROR) (tests/\S.*?)(?: - .*)?$", re.MULTILINE)
_PACKAGES = ("amaranth", "hypothesis", "numpy", "pytest")


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One line of a source file, and the wrong one to put in its place.

    Parameters
    ----------
    id, fault : str
        Its name, and what is wrong with it, in words.
    file : str
        Path from the root of the repository.
    original, mutated : str
        The lines, without their indentation. ``original`` occurs exactly once in the file.
    tests : tuple of str
        What pytest is asked to run: the tests that must find it.
    """

    id: str
    fault: str
    file: str
    original: str
    mutated: str
    tests: tuple[str, ...]

    def apply(self, text: str) -> str:
        """The file's text with the fault in it.

        Raises
        ------
        UserError
            If ``original`` is not exactly one line of the text.
        """
        lines = text.split("\n")
        places = [n for n, line in enumerate(lines) if line.strip() == self.original]
        if len(places) != 1:
            raise UserError(f"{self.id}: {self.original!r} occurs {len(places)} times in "
                            f"{self.file}, not once: adapt {MUTATIONS.name} to the source")
        line = lines[places[0]]
        lines[places[0]] = line[:len(line) - len(line.lstrip())] + self.mutated
        return "\n".join(lines)


@dataclass(frozen=True)
class Outcome:
    """How tests ended.

    Parameters
    ----------
    status : str
        ``passed``; ``failed``; ``timeout``; ``broken`` where pytest could not even run them.
    test : str
        The first one that failed, or nothing.
    seconds : float
        How long it took.
    output : str
        What pytest printed.
    """

    status: str
    test: str
    seconds: float
    output: str


def load(path: Path = MUTATIONS) -> list[Mutation]:
    """The list of faults.

    Raises
    ------
    UserError
        If an entry is not complete, or a name is used twice.
    """
    names = {field.name for field in fields(Mutation)}
    result = []
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutation"]:
        if set(entry) != names:
            raise UserError(f"{path.name}: {entry.get('id', entry)!r} must have {sorted(names)}, "
                            f"not {sorted(entry)}")
        result.append(Mutation(**entry | {"tests": tuple(entry["tests"])}))
    twice = [name for name, count in Counter(each.id for each in result).items() if count > 1]
    if twice:
        raise UserError(f"{path.name}: {', '.join(twice)} occurs more than once")
    return result


class Tree:
    """A copy of the repository in which faults are planted; a context manager.

    The repository itself is never touched. What git does not keep is left out, compiled Python
    above all: a file changed within the second that leaves its size the same would not be
    compiled again.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="flightrtl-mutations-")
        self.root = Path(self._folder.name, "tree")

    def __enter__(self) -> Tree:
        shutil.copytree(ROOT, self.root, ignore=_LEFT_OUT)
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def test(self, tests: Sequence[str], *, timeout: float) -> Outcome:
        """Run tests in the copy as it is, up to the first that fails.

        Parameters
        ----------
        tests : sequence of str
            Files, or ``file::name``.
        timeout : float
            Seconds after which they are stopped.
        """
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        started = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-m", "pytest", *_OPTIONS, *tests], cwd=self.root,
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
            # A group of its own: a Ctrl-C reaches us alone, and we stop it.
            start_new_session=os.name == "posix")
        try:
            output, _ = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return Outcome("timeout", "", time.monotonic() - started, "")
        finally:
            _stop(child)
        found = _FOUND.search(output)
        status = {0: "passed", 1: "failed"}.get(child.returncode, "broken")
        return Outcome(status, found[1] if found else "", time.monotonic() - started, output)

    def plant(self, mutation: Mutation, *, timeout: float) -> Outcome:
        """Run a fault's tests with the fault in the copy, and take it out again."""
        path = self.root / mutation.file
        text = path.read_text(encoding="utf-8")
        path.write_text(mutation.apply(text), encoding="utf-8")
        try:
            return self.test(mutation.tests, timeout=timeout)
        finally:
            path.write_text(text, encoding="utf-8")


def _stop(child: subprocess.Popen[str]) -> None:
    """End pytest if it still runs: politely first, so that it ends what its tests started."""
    for number in (signal.SIGINT, signal.SIGTERM, None):
        if child.poll() is not None:
            return
        if number is None:
            child.kill()
        else:
            child.send_signal(number)
        try:
            child.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            continue


def _limit(seconds: float) -> float:
    """Seconds that tests get with a fault, if they take ``seconds`` without one."""
    return 60 + 10 * seconds


def _check(mutations: Sequence[Mutation], progress: Progress) -> dict[str, Any]:
    """Plant each fault; what came out, as JSON."""
    results = []
    unmutated: dict[tuple[str, ...], float] = {}
    with Tree() as tree:
        for number, mutation in enumerate(mutations, 1):
            if mutation.tests not in unmutated:
                progress.step(f"without a fault: {' '.join(mutation.tests)}")
                outcome = tree.test(mutation.tests, timeout=1800)
                if outcome.status != "passed":
                    progress.abandon()
                    raise BuildError(
                        f"{' '.join(mutation.tests)} does not pass without a fault "
                        f"({outcome.test or outcome.status}):\n{outcome.output[-2000:]}",
                        knob="make test, before anything is planted")
                progress.done()
                unmutated[mutation.tests] = outcome.seconds
            progress.step(f"{number} of {len(mutations)}: {mutation.id}")
            outcome = tree.plant(mutation, timeout=_limit(unmutated[mutation.tests]))
            result = {"passed": "survived", "failed": "caught"}.get(outcome.status, outcome.status)
            progress.done(f"{result} {outcome.test}".rstrip())
            results.append(asdict(mutation) | {
                "outcome": result, "caught_by": outcome.test,
                "seconds": round(outcome.seconds, 1)})
    return {
        "results": results,
        "unmutated_seconds": {" ".join(tests): round(seconds, 1)
                              for tests, seconds in unmutated.items()},
    }


def _text(results: Sequence[dict[str, Any]]) -> str:
    rows = [[result["id"], result["file"].removeprefix("flightrtl/"), result["outcome"],
             result["caught_by"].removeprefix("tests/")] for result in results]
    count = Counter(result["outcome"] for result in results)
    return (table(["fault", "in", "outcome", "by"], rows) + f"\n\n{len(results)} faults: "
            + ", ".join(f"{number} {outcome}" for outcome, number in count.items()))


def _require_record(mutations: Sequence[Mutation]) -> None:
    """Raise :class:`UserError` unless the record has all of these faults as they are now."""
    found: list[dict[str, Any]] = []
    if RESULTS.exists():
        found = json.loads(RESULTS.read_text(encoding="utf-8"))["results"]
    known = [{key: result[key] for key in vars(mutations[0])} for result in found]
    stale = [mutation.id for mutation in mutations
             if vars(mutation) | {"tests": list(mutation.tests)} not in known]
    if stale:
        raise UserError(f"{RESULTS.name} has no outcome of {', '.join(stale)} as {MUTATIONS.name} "
                        "has it: name these faults too, or leave --only out")


def _merged(again: dict[str, Any], mutations: Sequence[Mutation]) -> dict[str, Any]:
    """The record, with the outcomes of some faults that were planted again.

    It says which ones, and when.
    """
    record: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    results = {result["id"]: result for result in record["results"]} | {
        result["id"]: result for result in again["results"]}
    seconds = record["unmutated_seconds"] | again["unmutated_seconds"]
    return record | {
        "results": [results[mutation.id] for mutation in mutations],
        "unmutated_seconds": {tests: seconds[tests] for tests in dict.fromkeys(
            " ".join(mutation.tests) for mutation in mutations)},
        "again": [*record.get("again", []), {
            "command": again["command"], "date": again["date"], "tools": again["tools"]}]}


def main(arguments: Sequence[str]) -> int:
    """Faults of one line each, planted in the sources: whether the tests find them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks mutations",
                                     description=main.__doc__)
    parser.add_argument("--only", nargs="+", metavar="ID",
                        help=f"only these faults of benchmarks/{MUTATIONS.name}")
    add_options(parser, RESULTS)
    options = parser.parse_args(arguments)
    mutations = load(MUTATIONS)
    everything = mutations
    if options.only:
        if unknown := set(options.only) - {mutation.id for mutation in mutations}:
            raise UserError(f"{MUTATIONS.name} has no fault {', '.join(sorted(unknown))}")
        mutations = [mutation for mutation in mutations if mutation.id in options.only]
        if options.save:
            _require_record([other for other in everything if other.id not in options.only])
    document = {
        "command": " ".join(["python -m benchmarks mutations", *arguments]),
        "date": date.today().isoformat(),
        "tools": {"python": ".".join(map(str, sys.version_info[:3])),
                  **{package: metadata.version(package) for package in _PACKAGES}},
        "seed": "none: the tests draw the same examples in every run",
        "counted": "a fault is caught if its tests, which pass without it, fail with it; 'timeout' "
                   "if they do not end within a minute and ten times as long as without it",
        **_check(mutations, Progress(sys.stderr)),
    }
    if options.only and options.save:
        document = _merged(document, everything)
    publish(document, _text(document["results"]), RESULTS, options)
    missed = [result["id"] for result in document["results"]
              if result["outcome"] not in ("caught", "timeout")]
    if missed:
        raise BuildError(f"not found by the tests: {', '.join(missed)}",
                         knob="a test that fails with the fault; or, if nobody could tell it "
                              "from the original, another fault in its place")
    return 0
