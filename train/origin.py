"""Where a result comes from: the command that gives it again, and the versions that it ran with."""

from __future__ import annotations

import argparse
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import flightrtl

__all__ = ["command", "versions"]

_OF_NO_MATTER = {"list", "data", "resume", "json"}
_FILES = {"output", "init"}


def command(module: str, usual: argparse.ArgumentParser, options: argparse.Namespace,
            files: Sequence[str] = ()) -> str:
    """The command that gives the same again, without the paths of this machine.

    Parameters
    ----------
    module : str
        What ``python -m`` runs.
    usual : ArgumentParser
        Knows the defaults, which are left out.
    options : Namespace
        What was asked for.
    files : sequence of str
        Options that are files and have no name on the command line; they come first.

    >>> usual = argparse.ArgumentParser()
    >>> for name in ("--output", "--seed", "--data"):
    ...     _ = usual.add_argument(name)
    >>> options = usual.parse_args(["--output", "/tmp/x.toml", "--seed", "3", "--data", "/data"])
    >>> command("train", usual, options)
    'python -m train --output x.toml --seed 3'
    """
    words = ["python", "-m", module, *(Path(getattr(options, name)).name for name in files)]
    for name, value in vars(options).items():
        if value == usual.get_default(name) or name in _OF_NO_MATTER or name in files:
            continue
        words.append("--" + name.rstrip("_").replace("_", "-"))
        if value is not True:
            words.append(Path(value).name if name in _FILES else str(value))
    return shlex.join(words)


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    import torch  # late: `python -m train --help` does without it
    return {"flightrtl": flightrtl.__version__, "python": platform.python_version(),
            "torch": torch.__version__, "numpy": np.__version__}
