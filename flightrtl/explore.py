"""``python -m flightrtl.explore``: build many designs of a model for a board, from small to fast.

The rates are those of the planner's front (:func:`flightrtl.planner.front`) or asked for. Each
design is one run of ``python -m flightrtl.build`` in a folder of its own; what is there already is
not built again, so an interrupted exploration goes on where it was.

Exit status: see :mod:`flightrtl.errors`; 1 if a design could not be built.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BuildError, UserError, run_cli

if TYPE_CHECKING:
    from .boards import Board
    from .model import Model
    from .progress import Progress

__all__ = ["build_point", "main"]

_RESULT = "explore.json"
_PATIENCE = "10s"
"""How long to wait for a cluster's scheduler."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flightrtl.explore", allow_abbrev=False,
        description="Build a model for a board at many rates, and compare plan and result.",
        epilog=f"Writes a folder for each rate, {_RESULT} and explore.svg. Run it again to go on "
               "after an interruption; what failed is tried again with --retry only.")
    add = parser.add_argument
    add("--board", default="ice40", metavar="NAME|FILE", help="default: %(default)s")
    add("--model", default="mnist", metavar="NAME|FILE", help="default: %(default)s")
    add("--frequency", type=float, metavar="MHZ", help="clock (default: the board's)")
    add("--points", type=int, default=8, metavar="N",
        help="designs between the smallest and the fastest (default: %(default)s)")
    add("--rates", type=float, nargs="+", metavar="R",
        help="these inferences per second instead")
    add("--output", type=Path, metavar="DIR", help="default: build/explore/<board>/<model>")
    add("--jobs", type=int, metavar="N", help="designs at the same time (default: half the cores)")
    add("--dask", metavar="ADDRESS",
        help="build on a Dask cluster that shares this file system (needs `distributed`)")
    add("--retry", action="store_true", help="build again what failed before")
    add("--json", action="store_true", help=f"print {_RESULT} on standard output")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is its exit status."""
    options = _parser().parse_args(arguments)
    from amaranth.hdl import UnusedElaboratable

    from . import boards, modelfile
    from .cache import digest, source_digest
    from .gateware import require_supported
    from .progress import Progress

    warnings.filterwarnings("ignore", "", UnusedElaboratable)
    if options.points < 1:
        raise UserError(f"--points must be 1 or more, not {options.points}")
    jobs = options.jobs if options.jobs is not None else max(1, (os.cpu_count() or 1) // 2)
    if jobs < 1:
        raise UserError(f"--jobs must be 1 or more, not {jobs}")
    board, model = boards.load(options.board), modelfile.load(options.model)
    require_supported(model, link=True)
    progress = Progress()
    rates = _rates(options, model, board, progress)
    folder = options.output or Path("build", "explore", board.name, model.name)
    folder.mkdir(parents=True, exist_ok=True)
    results = _Results(folder, model.name, board.name)
    common = {"model": modelfile.sha256(options.model), "board": options.board,
              "frequency": options.frequency, "sources": source_digest()}
    tasks: dict[str, list[str]] = {}
    for rate in rates:
        key = digest({**common, "rate": rate})
        if not results.take(key, failed=not options.retry):
            tasks[key] = [
                "--model", options.model, "--board", options.board, "--target-rate",
                f"{rate:.12g}", "--output", str(folder / f"{rate:.12g}"), "--json",
                *(["--frequency", f"{options.frequency:.12g}"] if options.frequency else [])]
    if tasks:
        progress.step(f"building {len(tasks)} designs")
    try:
        for number, (key, result) in enumerate(_run(tasks, jobs, options.dask), 1):
            results.points[key] = result
            results.write()
            progress.update(f"{number} of {len(tasks)}, last {result['rate']:,.0f} a second: "
                            f"{result['status']}")
    except BaseException:
        progress.abandon()
        raise
    progress.done(f"{sum(results.points[key]['status'] == 'built' for key in tasks)} built")
    text = results.write()
    ordered = sorted(results.points.values(), key=lambda each: each["rate"])
    print(text if options.json else _table(ordered), end="", flush=True)
    failed = [point for point in ordered if point["status"] != "built"]
    if failed:
        raise BuildError(f"{len(failed)} of {len(ordered)} designs could not be built; the first, "
                         f"{failed[0]['rate']:,.0f} a second: "
                         f"{failed[0]['message'].splitlines()[0]}",
                         knob=f"the logs in {folder}; --retry tries them again")
    return 0


def _rates(options: argparse.Namespace, model: Model, board: Board,
           progress: Progress) -> list[float]:
    """Those that are asked for, or else those of the planner's front."""
    from . import planner

    if options.rates:
        rates = sorted(set(options.rates))
        if not all(math.isfinite(rate) and rate > 0 for rate in rates):
            raise UserError("--rates must be numbers above 0")
        return rates
    progress.step(f"planning {model.name} for {board.name}")
    found = planner.front(model, board, options.frequency, options.points)
    # A little less, so that a rounded rate asks for no cycle fewer.
    rates = [math.floor(point.rate * 1e3) / 1e3 for point in found]
    progress.done(f"{len(rates)} rates")
    return rates


class _Results:
    """What came of each design, by key: those of this run, kept in the folder's files.

    Parameters
    ----------
    folder : Path
        Where the files are, perhaps of an earlier run.
    model, board : str
        Names.
    """

    def __init__(self, folder: Path, model: str, board: str) -> None:
        self.folder, self.model, self.board = folder, model, board
        self.points: dict[str, dict[str, Any]] = {}
        self._earlier = _read(folder / _RESULT)

    def take(self, key: str, *, failed: bool) -> bool:
        """Take over what an earlier run has of a design, if it was built, or even if it failed."""
        known = self._earlier.get(key)
        if known is None or not (known["status"] == "built" or failed):
            return False
        self.points[key] = known
        return True

    def write(self) -> str:
        """Write the files; what is in the one for programs."""
        from .files import atomic_write

        text = json.dumps({"model": self.model, "board": self.board, "points": [
            {"key": key, **point} for key, point in sorted(
                self.points.items(), key=lambda each: each[1]["rate"])]}, indent=2) + "\n"
        with atomic_write(self.folder / _RESULT) as file:
            file.write(text)
        with atomic_write(self.folder / "explore.svg") as file:
            file.write(_picture(f"{self.model} on {self.board}", self.points.values()))
        return text


def build_point(arguments: Sequence[str]) -> dict[str, Any]:
    """Build one design with the command line, and say what came out.

    Parameters
    ----------
    arguments : sequence of str
        Of ``python -m flightrtl.build``, ``--json`` among them.

    Returns
    -------
    dict
        ``rate`` (asked for), ``status`` (``built`` or ``failed``), ``message``, ``report``.
    """
    rate = float(arguments[arguments.index("--target-rate") + 1])
    process = subprocess.Popen([sys.executable, "-m", "flightrtl.build", *arguments],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _RUNNING.add(process)
    try:
        out, err = process.communicate()
    finally:
        _RUNNING.discard(process)
    if process.returncode:
        # The message is what follows the progress; it starts with "error:".
        message = (err[err.rfind("error: "):].removeprefix("error: ").strip()
                   or f"status {process.returncode}")
        return {"rate": rate, "status": "failed", "message": message, "report": None}
    return {"rate": rate, "status": "built", "message": "", "report": json.loads(out)}


_RUNNING: set[subprocess.Popen[str]] = set()


def _run(tasks: Mapping[str, list[str]], jobs: int,
         dask: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Results as they come; whatever ends it early stops what still runs."""
    if dask is not None and tasks:
        yield from _run_on_cluster(tasks, dask)
        return
    pool = ThreadPoolExecutor(jobs)
    futures: dict[Future[dict[str, Any]], str] = {
        pool.submit(build_point, arguments): key for key, arguments in tasks.items()}
    pending = set(futures)
    try:
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield futures[future], future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(_RUNNING):
            process.send_signal(signal.SIGTERM)     # it removes what is half done
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _run_on_cluster(tasks: Mapping[str, list[str]],
                    address: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise UserError("--dask needs Dask's scheduler: pip install 'flightrtl[cluster]'"
                        ) from error
    try:
        client = Client(address, timeout=_PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        raise UserError(f"no Dask scheduler answers at {address!r}: {error}") from None
    with client:
        futures = {client.submit(build_point, arguments, key=key, pure=False): key
                   for key, arguments in tasks.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            client.cancel(list(futures))
            raise


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The points of an earlier run by key; none if there are no or unreadable ones."""
    try:
        points = json.loads(path.read_text(encoding="utf-8"))["points"]
        return {point.pop("key"): point for point in points
                if isinstance(point["rate"], float) and point["status"] in ("built", "failed")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _table(points: Iterable[Mapping[str, Any]]) -> str:
    from .report import table

    rows = []
    for point in points:
        report = point["report"]
        if report is None:
            rows.append((f"{point['rate']:,.0f}", "", "", "", "", "", point["status"]))
            continue
        used, planned = report["resources"]["lut4"]["used"], \
            report["estimate"]["resources"]["lut4"]["used"]
        rows.append((f"{point['rate']:,.0f}", f"{report['inferences_per_second']:,.0f}",
                     f"{planned:,}", f"{used:,}", f"{100 * (planned / used - 1):+.1f} %",
                     f"{report['resources']['bram']['used']:,}", f"{report['fmax_mhz']:.1f} MHz"))
    return table(("wanted", "per second", "planned LUT4", "LUT4", "off by", "BRAM", "fmax"),
                 rows) + "\n"


_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 400, 80, 50


def _picture(title: str, points: Iterable[Mapping[str, Any]]) -> str:
    """Logic cells against rate, as planned (rings) and as built (dots)."""
    from html import escape

    built = sorted((report["inferences_per_second"],
                    report["estimate"]["resources"]["lut4"]["used"],
                    report["resources"]["lut4"]["used"])
                   for report in (point["report"] for point in points) if report is not None)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
             f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
             f'<text x="20" y="28" font-size="16" font-weight="bold">{escape(title)}: logic cells '
             'against inferences per second</text>']
    if built:
        low, high = math.log10(built[0][0]), math.log10(built[-1][0])
        most = 1.1 * max(max(planned, used) for _, planned, used in built)
        width, height = _WIDTH - _LEFT - 40, _HEIGHT - _TOP - 60

        def place(rate: float, cells: float) -> tuple[float, float]:
            across = (math.log10(rate) - low) / (high - low) if high > low else 0.5
            return _LEFT + across * width, _TOP + height - cells / most * height
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(rate, used)
                                                        for rate, _, used in built))
        parts.append(f'<polyline points="{line}" fill="none" stroke="#4a7c9b"/>')
        for rate, planned, used in built:
            x, y = place(rate, planned)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="#c8553d"/>')
            x, y = place(rate, used)
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="#4a7c9b"/>',
                      f'<text x="{x:.1f}" y="{y - 10:.1f}" text-anchor="middle">{used:,}</text>',
                      f'<text x="{x:.1f}" y="{_TOP + height + 20}" text-anchor="middle">'
                      f'{rate:,.0f}</text>']
        parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 12}">dots: LUT4 placed and routed; rings: '
                     'planned; below: inferences per second (logarithmic)</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    run_cli(main)
