"""A network as plain Verilog with AXI4-Stream ports, for designs without Amaranth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from amaranth import ClockDomain, Module, Signal
from amaranth.back import rtlil
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from . import testbench
from .errors import UserError
from .files import atomic_path, work_folder
from .gateware import AxiStreamNetwork, Network
from .planner import Plan
from .progress import Progress
from .toolchain import Tool, run

__all__ = ["AxiStreamTop", "module_name", "write_verilog"]


def module_name(model: str) -> str:
    """The Verilog module's name for a model's."""
    return "flightrtl_" + re.sub(r"\W", "_", model)


class AxiStreamTop(wiring.Component):
    """An :class:`~flightrtl.gateware.AxiStreamNetwork` with clock, reset and ports named as in AXI.

    Parameters
    ----------
    inner : AxiStreamNetwork
        The network.

    Members
    -------
    aclk, aresetn : In(1)
        Clock, and reset (active low, synchronous).
    ...
        The members of ``inner``, those of streams joined with one underscore: ``s_axis_tdata``.
    """

    aclk: Signal
    aresetn: Signal

    def __init__(self, inner: AxiStreamNetwork) -> None:
        self.inner = inner
        ports = {"aclk": In(1), "aresetn": In(1)}
        for path, member, _ in inner.signature.flatten(inner):
            ports["_".join(map(str, path))] = member
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        domain: Any = ClockDomain("sync")
        m.domains.sync = domain
        m.submodules.network = self.inner
        m.d.comb += [domain.clk.eq(self.aclk), domain.rst.eq(~self.aresetn)]
        for path, member, value in self.inner.signature.flatten(self.inner):
            port = getattr(self, "_".join(map(str, path)))
            m.d.comb += value.eq(port) if member.flow == In else port.eq(value)
        return m


def _header(module: str, sha256: str, top: AxiStreamTop) -> str:
    """What a reader of the file needs to know, and an instance to copy."""
    model = top.inner.network.model
    height, width, channels = model.input.shape
    given, taken = model.input.format, model.output.format
    pins = ",\n".join(f"//       .{name}({name})" for name in top.signature.members)
    return (f"// Model {module.removeprefix('flightrtl_')}, SHA-256 {sha256}.\n"
            f"// s_axis: images of {height} x {width} x {channels} values by row, column, channel, "
            f"each {'signed' if given.signed else 'unsigned'} of {given.bits} bits.\n"
            f"// m_axis: {model.output.size} logits, {'signed' if taken.signed else 'unsigned'} of "
            f"{taken.bits} bits, extended; with the last one tlast, and the class in tuser.\n"
            "// aresetn is sampled at the rising edge of aclk. Weights are in the initial values "
            "of memories.\n//\n"
            f"//   {module} network (\n{pins}\n//   );\n\n"
            # Yosys leaves it to Verilog to widen and cut, as Verilog does.
            "/* verilator lint_off WIDTHEXPAND */\n/* verilator lint_off WIDTHTRUNC */\n\n")


def write_verilog(network: Network, plan: Plan, sha256: str, path: Path, yosys: Tool,
                  progress: Progress) -> None:
    """Write a network as one Verilog file, and a testbench with its data beside it.

    For ``NAME.v`` these are ``NAME_tb.v``, ``NAME_tb_images.hex`` and ``NAME_tb_results.hex``.
    The same network and tools give the same bytes.

    Parameters
    ----------
    network : Network
        Not elaborated before.
    plan : Plan
        Its plan, for its times.
    sha256 : str
        Of the model's file; a comment.
    path : Path
        Where to; ends with ``.v``.
    yosys : Tool
        Writes Verilog.
    progress : Progress
        Told what is going on, in a step that the caller has begun.

    Raises
    ------
    UserError
        If ``path`` does not end with ``.v``.
    BuildError
        If Yosys fails.
    """
    if path.suffix != ".v" or not re.fullmatch(r"[\w-]+", path.stem):
        raise UserError(f"{path}: the name of a Verilog file consists of letters, digits, _ and -, "
                        "and ends with .v")
    top = AxiStreamTop(AxiStreamNetwork(network))
    name = module_name(network.model.name)
    text = rtlil.convert(top, name=name, emit_src=False)
    files = testbench.files(top.inner, name, path, patience=(
        1000 + 4 * (plan.latency_cycles + plan.cycles_per_inference)))
    path.parent.mkdir(parents=True, exist_ok=True)
    progress.step(f"writing {path}")
    with work_folder(path.parent) as work:
        (work / "network.il").write_text(text, encoding="utf-8")
        # Without processes, unlike Amaranth's own conversion: Verilog's `always @*` waits for an
        # event, and in SystemVerilog initial values are none (Icarus -g2009 stays undefined).
        # With names for what has none: Icarus takes a function called `$...` for a system task.
        (work / "network.ys").write_text(
            "read_rtlil network.il\nproc\nopt_clean\nmemory_collect\n"
            "attrmap -remove generator -remove top -remove src -remove amaranth.hierarchy\n"
            "attrmap -modattr -remove generator -remove top -remove amaranth.hierarchy\n"
            "write_verilog network.v\n", encoding="utf-8")
        run(yosys, ["network.ys"], folder=work, log="yosys.log", progress=progress)
        files[path] = _header(name, sha256, top) + (work / "network.v").read_text(encoding="utf-8")
        for where, content in files.items():
            with atomic_path(where) as temporary:
                temporary.write_text(content, encoding="utf-8", newline="\n")
    progress.done()
