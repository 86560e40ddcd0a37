"""What every benchmark does with its results: keep them, print them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from flightrtl.files import atomic_write

__all__ = ["add_options", "publish"]


def add_options(parser: argparse.ArgumentParser, path: Path) -> None:
    """The options ``--json`` and ``--save``."""
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.add_argument("--save", action="store_true",
                        help=f"write the results to benchmarks/{path.name} as well")


def publish(document: Any, text: str, path: Path, options: argparse.Namespace) -> None:
    """Print the results, as JSON or as ``text``, and keep them in ``path``, as the options say."""
    if options.save:
        with atomic_write(path) as file:
            file.write(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2) if options.json else text)
