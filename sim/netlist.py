"""The network as Yosys leaves it for a board's device: vendor cells, simulated by Verilator.

The script and the options are those of :mod:`flightrtl.build`; only what is synthesized differs:
the network alone, with its streams as ports, instead of the whole design with the board's pins.
The cells are those of Yosys' own libraries, and of ``sim/cells`` where those have none.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from amaranth import Module, Signal, Value
from amaranth.back import rtlil
from amaranth.lib.wiring import In

from flightrtl import toolchain
from flightrtl.boards import Board
from flightrtl.cache import file_digest
from flightrtl.flow import prepare
from flightrtl.formats import IntArray
from flightrtl.gateware import LayerEngine, Network
from flightrtl.implement import plan_commands, synthesize
from flightrtl.progress import Progress
from flightrtl.toolchain import Tool

from . import verilator
from .engine import Trace, Watch
from .flash import Flashed
from .observed import Observed, Simulated
from .parallel import run_images
from .simulation import Design, Port, Simulation

__all__ = ["NetlistEngine", "compile_netlist", "library_cells", "reset"]

_CELLS = Path(__file__).with_name("cells")

# Each net a wire of its own: a bus of which one bit drives another looks like a loop to Verilator.
_WRITE = "splitnets\nwrite_verilog -noattr netlist.v\n"

_RESET_CYCLES = 4


class NetlistEngine:
    """An :class:`~sim.engine.Engine` that simulates the network's netlist.

    Parameters
    ----------
    board : Board
        The board whose device the network is synthesized for.
    progress : Progress
        Told of synthesis and compilation, in a step that the caller has begun.
    threads : int, optional
        Cores to use; all by default.

    Raises
    ------
    UserError
        If Verilator or a C++ compiler is missing.
    """

    def __init__(self, board: Board, progress: Progress, *, threads: int | None = None) -> None:
        verilator.check()
        self._board = board
        self._progress = progress
        self._threads = threads

    def __call__(self, network: Simulated, images: IntArray, *, patience: int,
                 watch: Watch | None = None, observe: Collection[str] = ()) -> Trace:
        """Run images through a network's netlist; see :class:`~sim.engine.Engine`."""
        if isinstance(network, Observed):
            raise ValueError("a netlist's layers cannot be observed: take the network itself")
        start = time.perf_counter()
        design = compile_netlist(network, self._board, self._progress)
        return run_images(design, network, images, patience=patience, watch=watch,
                          threads=self._threads, prepare=reset,
                          build_seconds=time.perf_counter() - start)


def compile_netlist(network: Network | Flashed, board: Board, progress: Progress,
                    alter: Callable[[str], str] | None = None) -> Design:
    """Synthesize a network as a board's build does, and compile the netlist for simulation.

    Parameters
    ----------
    network : Network or Flashed
        Not elaborated before.
    board : Board
        Chooses the device, and the options for Yosys.
    progress : Progress
        Where to tell what is being done.
    alter : callable, optional
        Takes the netlist as Verilog and gives the one to simulate; for tests that plant faults.

    Raises
    ------
    UserError
        If Verilator or a C++ compiler is missing.
    BuildError
        If a tool fails.
    """
    yosys = toolchain.find("yosys")
    platform: Any = board.make_platform()
    dsp = any(isinstance(stage, LayerEngine) and stage.folded.folding.dsp
              for stage in network.stages.values())
    plan = prepare(Module(), board, platform, dsp=dsp)
    script = plan.files["top.ys"]
    script = (script if isinstance(script, str) else script.decode()) + _WRITE
    command = next(arguments for tool, *arguments in plan_commands(plan) if tool == "yosys")
    with toolchain.without_amaranth_overrides():
        text = rtlil.convert(network, name="top", platform=platform, emit_src=False)

    def make(folder: Path) -> Sequence[Path]:
        (folder / "top.il").write_text(text, encoding="utf-8")
        (folder / "top.ys").write_text(script, encoding="utf-8")
        progress.update("synthesis")
        synthesize(yosys, command, folder=folder, progress=progress)
        netlist = folder / "netlist.v"
        if alter is not None:
            netlist.write_text(alter(netlist.read_text(encoding="utf-8")), encoding="utf-8")
        return [netlist, *cells]

    cells, include = library_cells(board, yosys)
    # The text of `alter` says nothing of what it does to this netlist: such a design has a name
    # that is used once.
    altered = "" if alter is None else f"altered {time.time_ns()}"
    return verilator.build(
        make, [text, script, yosys.version, altered, *map(file_digest, cells)], "top",
        _ports(network), defines=_defines(board), include=include, progress=progress)


def library_cells(board: Board, yosys: Tool) -> tuple[list[Path], list[Path]]:
    """Verilog files with a device family's cells, and folders that they include files from.

    Ours come first, and so replace outlines without content in Yosys'.

    Raises
    ------
    BuildError
        If this Yosys has no such files where they are looked for.
    """
    share = toolchain.yosys_files(yosys, f"{board.family}/cells_sim.v",
                                  f"the cell models of {board.family}")
    path = share / board.family / "cells_sim.v"
    ours = _CELLS / f"{board.family}.v"
    return [*([ours] if ours.is_file() else []), path], [share / "lattice", path.parent]


def _defines(board: Board) -> list[str]:
    """Macros that ``cells_sim.v`` goes by."""
    if board.family != "ice40":
        return []
    kind = re.match(r"iCE40(HX|LP|U)", board.device)
    # Verilator has no default values for inputs of modules; netlists connect all of them.
    return ["NO_ICE40_DEFAULT_ASSIGNMENTS", *([f"ICE40_{kind[1]}"] if kind else [])]


def _ports(network: Network | Flashed) -> list[Port]:
    ports = [Port("rst", 1, "in")]
    for path, member, member_value in network.signature.flatten(network):
        value = Value.cast(member_value)
        if isinstance(value, Signal):
            ports.append(Port("__".join(map(str, path)), len(value),
                              "in" if member.flow == In else "out", value.shape().signed))
    return ports


def reset(simulation: Simulation) -> None:
    """As a board's start does it: some cycles of reset."""
    simulation.set("rst", 1)
    simulation.tick(_RESET_CYCLES)
    simulation.set("rst", 0)
