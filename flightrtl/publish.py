"""A build's products, into its output folder: whole files only, and the tools' logs in any case."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .blank import DESIGN
from .cache import Cache
from .errors import BuildError
from .files import atomic_write
from .implement import FAMILIES, DoesNotFit, Implementation, blank_name
from .planner import Plan
from .report import Report

__all__ = ["WEIGHTS_FILE", "logs_kept", "publish"]

WEIGHTS_FILE = "weights.bin"
"""What belongs into the board's flash besides the bitstream."""

_LOGS = ("yosys.log", "nextpnr.log", "pack.log")


def publish(report: Report, result: Implementation, output: Path, work: Path,
            kept: Sequence[str], **keys: str) -> tuple[str, str]:
    """Put the products into the output folder: each file complete, the cache's note last.

    Parameters
    ----------
    report, result : Report, Implementation
        What was built. The bitstream is in ``work``, or there already.
    output, work : Path
        Where to; where files are that are new.
    kept : sequence of str
        Files that belong to the build besides bitstream and reports.
    keys
        Of the cache's note.

    Returns
    -------
    (str, str)
        The report as JSON and as text.
    """
    texts = {"report.json": json.dumps(report.as_json(), indent=2) + "\n",
             "report.txt": report.as_text(), "report.svg": report.as_svg()}
    name = result.bitstream.name
    Cache.invalidate(output)
    for family in FAMILIES.values():        # those of another build
        for old in {DESIGN, WEIGHTS_FILE, blank_name(family)} - set(kept):
            (output / old).unlink(missing_ok=True)
    os.replace(result.bitstream, output / name)
    for new in kept:
        if (work / new).exists():
            os.replace(work / new, output / new)
    for file_name, text in texts.items():
        with atomic_write(output / file_name) as file:
            file.write(text)
    Cache.write(output, (name, *kept, *texts), result=result.as_json(), **keys)
    return texts["report.json"], texts["report.txt"]


@contextmanager
def logs_kept(chosen: Plan, work: Path, output: Path) -> Iterator[None]:
    """Keep the tools' logs, and say where they are in the message of a :class:`BuildError`."""
    try:
        yield
    except BuildError as error:
        kept = _keep_logs(work, output)
        if isinstance(error, DoesNotFit):
            largest = max(chosen.layers, key=lambda layer: layer.cost.lut4)
            error = BuildError(str(error), layer=largest.name,
                               knob="fewer lanes (a lower --target-rate) or a larger --board")
        error.args = (f"{error.args[0]}\n  logs: {kept}",)
        raise error from None
    _keep_logs(work, output)


def _keep_logs(work: Path, output: Path) -> str:
    kept = [name for name in _LOGS if (work / name).exists()]
    for name in kept:
        os.replace(work / name, output / name)
    return ", ".join(str(output / name) for name in kept) or "none"
