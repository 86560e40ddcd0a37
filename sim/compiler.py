"""Finds a C++ compiler and makes shared libraries with it, each of them once."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flightrtl import toolchain
from flightrtl.cache import file_digest
from flightrtl.errors import BuildError, UserError
from flightrtl.files import atomic_path, atomic_write
from flightrtl.progress import Progress

__all__ = ["CACHE_VARIABLE", "INSTALL", "Compiler", "cache_folder", "cached_library", "cores",
           "find", "key", "library", "search"]

INSTALL = ("install one (on Debian: apt install g++), or pip install ziglang, "
           "or name yours with the environment variable CXX")
"""How to get a compiler, in words."""

CACHE_VARIABLE = "FLIGHTRTL_CACHE"
"""Environment variable that names the folder for the cache."""

_NAMES = ("g++", "c++", "clang++")
_KEPT = 200
"""Libraries in the cache, at most; about half a megabyte each."""


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler.

    Parameters
    ----------
    command : tuple of str
        What to execute: the program and its first arguments.
    version : str
        First line of what it says of itself.
    """

    command: tuple[str, ...]
    version: str

    @property
    def name(self) -> str:
        """The command as one would type it."""
        return "ziglang" if "ziglang" in self.command else shlex.join(self.command)


def search() -> Compiler | None:
    """The compiler to use: ``CXX``, else what the search path has, else ``ziglang``; or None.

    Raises
    ------
    UserError
        If the environment variable ``CXX`` names something that is no compiler.
    """
    if named := os.environ.get("CXX"):
        compiler = _ask(tuple(shlex.split(named)))
        if compiler is None:
            raise UserError(f"CXX is set to {named!r}, which does not run: unset it, or name a "
                            "C++ compiler")
        return compiler
    candidates = [(path,) for name in _NAMES if (path := shutil.which(name)) is not None]
    found = (_ask(command) for command in candidates)
    compiler = next((each for each in found if each is not None), None)
    if compiler is None and importlib.util.find_spec("ziglang") is not None:
        compiler = _ask((sys.executable, "-m", "ziglang", "c++"))
    return compiler


def find() -> Compiler:
    """Like :func:`search`, for those who need one.

    Raises
    ------
    UserError
        If there is none; the message says how to get one.
    """
    compiler = search()
    if compiler is None:
        raise UserError(f"a C++ compiler is needed, and none was found: {INSTALL}")
    return compiler


def _ask(command: tuple[str, ...]) -> Compiler | None:
    with suppress(OSError, subprocess.TimeoutExpired):
        result = subprocess.run([*command, "--version"], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, errors="replace", timeout=120,
                                env=toolchain.clean_environment(), check=False)
        lines = result.stdout.strip().splitlines()
        if result.returncode == 0 and lines:
            return Compiler(command, lines[0])
    return None


def cache_folder() -> Path:
    """Where finished libraries are kept.

    ``sim`` in the folder that the environment variable :data:`CACHE_VARIABLE` names, else in
    ``flightrtl`` of the user's folder for such things (``XDG_CACHE_HOME``, ``~/.cache``).
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named) / "sim"
    # As the standard has it, a relative path is to be ignored.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "flightrtl" / "sim"


def _usable_folder() -> Path:
    """The cache, or a folder of this process where it cannot be written to."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="flightrtl-sim-"))


def key(*parts: object) -> str:
    """Name of a library: a hash of all that it is made from."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:40]


def cached_library(name: str) -> Path | None:
    """A library that was finished before and that nothing happened to since, or None."""
    path = cache_folder() / f"{name}.so"
    try:
        known = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if isinstance(known, dict) and known.get("sha256") == file_digest(path):
            os.utime(path)  # used: among the last to go
            return path
    except (OSError, ValueError):
        pass
    return None


def library(name: str, sources: Sequence[Path], *, compiler: Compiler, folder: Path,
            flags: Sequence[str] = (), include: Iterable[Path] = (),
            progress: Progress | None = None) -> Path:
    """Compile C++ files to a shared library and put it into the cache.

    Parameters
    ----------
    name : str
        From :func:`key`.
    sources : sequence of Path
        The files, in ``folder``.
    compiler : Compiler
        From :func:`find`.
    folder : Path
        Working folder, for intermediate files.
    flags, include : str, Path
        Further arguments, and folders with headers.
    progress : Progress, optional
        Where to tell that it is going on.

    Returns
    -------
    Path
        The library.

    Raises
    ------
    BuildError
        If the compiler fails; the message holds its own.
    """
    program, *first = compiler.command
    output = f"{name}.so"
    if progress is not None:
        progress.update(f"compiling with {compiler.name}")
    toolchain.run(
        toolchain.Tool("C++ compiler", program, compiler.version),
        [*first, "-shared", "-fPIC", "-fvisibility=hidden", *flags,
         *(f"-I{path}" for path in include),
         *(str(path.relative_to(folder)) for path in sources), "-o", output],
        folder=folder, log="compiler.log", progress=progress)
    cache = _usable_folder()
    try:
        with atomic_path(cache / output) as temporary:
            shutil.copyfile(folder / output, temporary)
        with atomic_write(cache / f"{name}.json") as file:
            json.dump({"sha256": file_digest(cache / output), "compiler": compiler.version}, file)
    except OSError as error:
        raise BuildError(f"{cache}: {error.strerror}",
                         knob=f"name another folder with {CACHE_VARIABLE}") from error
    _prune(cache)
    return cache / output


def _prune(folder: Path) -> None:
    """Remove the libraries that were not used for the longest time."""
    def used(path: Path) -> float:
        with suppress(OSError):
            return path.stat().st_mtime
        return 0.0

    for path in sorted(folder.glob("*.so"), key=used)[:-_KEPT]:
        for each in (path.with_suffix(".json"), path):
            each.unlink(missing_ok=True)
