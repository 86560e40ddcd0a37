"""``python -m benchmarks accuracy``: keeps rows of trained networks, and makes the page of them."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path

from flightrtl.errors import UserError
from flightrtl.files import atomic_write

from . import accuracy_page, accuracy_plots, accuracy_rows

__all__ = ["main", "stale"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def stale() -> list[Path]:
    """Files in ``docs/`` that are not what :func:`main` would make of the rows now."""
    rows = accuracy_rows.load()
    page = accuracy_page.PAGE.read_text(encoding="utf-8")
    found = [] if accuracy_page.filled(page, accuracy_page.parts(rows)) == page else [
        accuracy_page.PAGE]
    return found + [path for across, path in accuracy_plots.PICTURES.items()
                    if not path.is_file()
                    or accuracy_plots.drawn_digest(path) != accuracy_plots.digest(rows, across)]


def _add(log: str, name: str | None) -> Path:
    """Keep the row of a log; returns its file."""
    row = accuracy_rows.from_log(Path(log), name)
    if not _NAME.fullmatch(row.name):
        raise UserError(f"a row cannot be called {row.name!r}: use --name with small letters, "
                        "digits, '-', '_' and '.'")
    path = accuracy_rows.FOLDER / f"{row.name}.json"
    with atomic_write(path) as file:
        file.write(accuracy_rows.as_json(row))
    return path


def _table() -> list[Path]:
    """Make the page and the pictures again; returns the files."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("drawing needs matplotlib, which is not installed: pip install matplotlib")
    rows = accuracy_rows.load()
    page = accuracy_page.filled(accuracy_page.PAGE.read_text(encoding="utf-8"),
                                accuracy_page.parts(rows))
    with atomic_write(accuracy_page.PAGE) as file:
        file.write(page)
    for across, path in accuracy_plots.PICTURES.items():
        accuracy_plots.draw(rows, across, path)
    return [accuracy_page.PAGE, *accuracy_plots.PICTURES.values()]


def main(arguments: Sequence[str]) -> None:
    """Accuracy of trained networks: keep a run's row, make docs/accuracy.md of all rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks accuracy", description=main.__doc__)
    parser.add_argument("--add", metavar="LOG.json", nargs="+", default=[],
                        help="keep the rows of these training logs (beside their model files) in "
                             "benchmarks/accuracy/; a row of that name is replaced")
    parser.add_argument("--name", metavar="NAME", help="of the row, if not that of the log")
    parser.add_argument("--table", action="store_true",
                        help="make docs/accuracy.md and its pictures again")
    parser.add_argument("--json", action="store_true", help="print JSON: files written, or all "
                                                            "rows if there was nothing to write")
    options = parser.parse_args(arguments)
    if options.name is not None and len(options.add) != 1:
        raise UserError("--name is for one log: use it with --add LOG.json")
    files = [_add(log, options.name) for log in options.add]
    if options.table:
        files += _table()
    if files:
        names = [str(path) for path in files]
        print(json.dumps(names, indent=2) if options.json else "\n".join(names))
        return
    rows = accuracy_rows.load()
    if options.json:
        print(json.dumps([json.loads(accuracy_rows.as_json(row)) for row in rows], indent=2))
        return
    for row in rows:
        k = "" if row.mean_k is None else f", mean k {row.mean_k:.2f}"
        print(f"{row.name}: {row.dataset}, {row.network}, {row.method}{k}, "
              f"{row.model_bits:,} bits, top-1 {100 * row.accuracy:.2f} %")
    if not rows:
        print("no rows yet: keep one with --add LOG.json")
