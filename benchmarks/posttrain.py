"""Post-training: what a float network loses as integers, for several methods, without labels."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from flightrtl.errors import BuildError
from flightrtl.report import table

from .results import add_options, publish

__all__ = ["RESULTS", "line", "main"]

RESULTS = Path(__file__).with_name("posttrain.json")
CASES: tuple[tuple[str, ...], ...] = (
    ("--method", "flightnn", "--target-k", "1.3"), ("--method", "flightnn", "--target-k", "1.5"),
    ("--method", "lightnn2"), ("--method", "fixed", "--weight-bits", "4"))
HEADER = ("Method", "Mean k", "Top-1", "Against float")


def line(result: Mapping[str, Any]) -> tuple[str, ...]:
    """A result as a row under :data:`HEADER`, as it also stands in ``docs/training.md``."""
    command = result["options"]
    rest = {"--target-k": f", `--target-k {result['target_k']}`", "--weight-bits": ", 4 bits"}
    about = "".join(text for option, text in rest.items() if option in command)
    return (f"`{result['method']}`{about}",
            f"{result['mean_k']:.3f}".rstrip("0").rstrip(".") if "fixed" not in command else "-",
            f"{100 * result['top1']:.2f} %", f"{100 * result['difference']:+.2f} points")


def main(arguments: Sequence[str]) -> int:
    """Float networks quantized without training: accuracy of several methods on one of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks posttrain",
                                     description=main.__doc__)
    parser.add_argument("float", metavar="FLOAT",
                        help="the float network, of the recipe cifar10-float")
    parser.add_argument("--data", metavar="DIR", help="folder with the data set's files")
    parser.add_argument("--images", type=int, default=500, metavar="N",
                        help="to look at (default 500)")
    add_options(parser, RESULTS)
    options = parser.parse_args(arguments)
    results = []
    for number, case in enumerate(CASES, 1):
        print(f"network {number} of {len(CASES)}: {' '.join(case)}", file=sys.stderr)
        results.append({"options": list(case), **_run(options, case)})
    document = {
        "command": f"python -m benchmarks posttrain {Path(options.float).name} "
                   f"--images {options.images}",
        "date": date.today().isoformat(), "seed": 0,
        "versions": {name: metadata.version(name) for name in ("torch", "numpy")},
        "results": results}
    publish(document, table(HEADER, [line(result) for result in results], left=(0,)), RESULTS,
            options)
    return 0


def _run(options: argparse.Namespace, case: Sequence[str]) -> dict[str, Any]:
    """One network; the model file is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "train.posttrain", options.float, *case, "--images",
                   str(options.images), "--output", str(Path(folder) / "model.safetensors"),
                   "--json"]
        if options.data:
            command += ["--data", options.data]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise BuildError(f"{' '.join(case)}: no result, see the message above")
        result: dict[str, Any] = json.loads(done.stdout)
    del result["model"]
    return result
