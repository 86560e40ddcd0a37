"""From Amaranth's build plan to a bitstream that is known to meet its timing."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BuildError
from .progress import Progress
from .toolchain import Tool, run

__all__ = ["FAMILIES", "DoesNotFit", "Family", "Implementation", "Usage", "blank_name",
           "implement", "pack_bitstream", "plan_commands", "synthesize"]

_NO_ROOM = re.compile("no B[Ee][Ll]s remaining|[Uu]nable to (find .*)?place|"
                      "Failed to expand region")
_TOLERANCE = 1e-3  # nextpnr keeps clock periods in whole picoseconds


class DoesNotFit(BuildError):
    """The design needs more of the device than there is."""


@dataclass(frozen=True)
class Usage:
    """How much of a resource is used, and how much there is."""

    used: int
    available: int

    def as_json(self) -> dict[str, int]:
        """As in ``report.json``."""
        return {"used": self.used, "available": self.available}


@dataclass(frozen=True)
class Family:
    """What nextpnr calls things in a device family, and the tools that build for it."""

    tools: tuple[str, str, str]
    lut4: str
    ff: str
    bram: str
    spram: str
    dsp: str
    bitstream: str
    configuration: str

    def resource(self, cell: Mapping[str, Any]) -> list[str]:
        """Resources that a placed cell of nextpnr's netlist takes."""
        kind = cell["type"]
        if kind == self.lut4 == self.ff:  # one cell holds both
            packed = int(cell["parameters"].get("DFF_ENABLE", "0"), 2)
            return ["lut4", "ff"] if packed else ["lut4"]
        return [name for name in ("lut4", "ff", "bram", "spram", "dsp")
                if getattr(self, name) == kind]


UNSET = "setattr -unset init a:no_init"
"""Yosys command after which registers with this attribute may start with anything. Where one of
them is the output of a block RAM, a 0 to begin with costs a LUT4 for each bit on iCE40."""


SPLIT_NETS = "proc; splitnets"
"""Yosys commands after which no net is called like one bit of another. A payload that is an array
gives rise to such names, and on some designs that have them Yosys 0.70 ends without a word when it
calls ABC. Not done unasked, because it makes names longer and changes nothing else."""


FAMILIES: Mapping[str, Family] = {
    "ice40": Family(("yosys", "nextpnr-ice40", "icepack"), "ICESTORM_LC", "ICESTORM_LC",
                    "ICESTORM_RAM", "ICESTORM_SPRAM", "ICESTORM_DSP", "top.bin", ".asc"),
    "ecp5": Family(("yosys", "nextpnr-ecp5", "ecppack"), "TRELLIS_COMB", "TRELLIS_FF",
                   "DP16KD", "", "MULT18X18D", "top.bit", ".config"),
}


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """A placed and routed design.

    Parameters
    ----------
    bitstream : Path
        In the build folder.
    seed : int
        Of the run that was kept.
    fmax_mhz : float
        What its slowest clock of the intended frequency could do.
    resources : mapping of str to Usage
        ``lut4``, ``ff``, ``bram``, ``spram``, ``dsp``.
    parts : mapping of str to mapping of str to int
        The same resources by part of the design, as ``owner`` names it.
    critical : (str, str)
        Cells at both ends of the longest path.
    tries : mapping of int to float
        Fmax by seed, MHz.
    """

    bitstream: Path
    seed: int
    fmax_mhz: float
    resources: Mapping[str, Usage]
    parts: Mapping[str, Mapping[str, int]]
    critical: tuple[str, str]
    tries: Mapping[int, float]

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON, the bitstream by its name alone."""
        return {
            "bitstream": self.bitstream.name, "seed": self.seed, "fmax_mhz": self.fmax_mhz,
            "resources": {name: usage.as_json() for name, usage in self.resources.items()},
            "parts": self.parts, "critical": self.critical, "tries": self.tries}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Implementation:
        """What :meth:`as_json` gave, with the bitstream in ``folder``."""
        return cls(
            bitstream=folder / data["bitstream"], seed=data["seed"], fmax_mhz=data["fmax_mhz"],
            resources={name: Usage(**usage) for name, usage in data["resources"].items()},
            parts=data["parts"], critical=tuple(data["critical"]),
            tries={int(seed): fmax for seed, fmax in data["tries"].items()})


@dataclass(frozen=True)
class _Attempt:
    seed: int
    fmax_mhz: float
    met: bool
    report: Mapping[str, Any]
    critical: tuple[str, str]


def plan_commands(plan: Any) -> list[list[str]]:
    """The command lines of an Amaranth build plan, each starting with the name of its tool."""
    commands: list[list[str]] = json.loads(plan.files["build_top.json"])["commands"]
    return commands


def implement(plan: Any, *, family: Family, tools: Mapping[str, Tool], folder: Path,
              clock_mhz: float, seeds: Sequence[int], owner: Callable[[str], str],
              progress: Progress, retry: Sequence[int] = (),
              contents: Callable[[str], str] | None = None) -> Implementation:
    """Synthesize, place, route and pack a design, and check that it is fast enough.

    Parameters
    ----------
    plan : amaranth.build.run.BuildPlan
        Of a design called ``top``.
    family : Family
        Of the device.
    tools : mapping of str to Tool
        By the names in ``family.tools``.
    folder : Path
        An existing folder in which everything happens. Logs stay there.
    clock_mhz : float
        What the clock of the design is meant to be.
    seeds : sequence of int
        Place and route with each, and keep the fastest.
    owner : callable
        Maps the hierarchical name of a cell to the part of the design to count it for.
    progress : Progress
        Where to tell what is being done.
    retry : sequence of int
        Seeds to try, until one is good, when none of ``seeds`` meets timing but one came close.
    contents : callable, optional
        What to make of nextpnr's text before it is packed. What it was before stays in the folder
        as :func:`blank_name` says.

    Raises
    ------
    BuildError
        If a tool fails, timing is missed, or the clock is not constrained as intended;
        :class:`DoesNotFit` if nextpnr finds no place for something.
    """
    plan.extract(str(folder))
    commands = {command[0]: command[1:] for command in plan_commands(plan)}
    yosys, route, pack = family.tools

    progress.step("synthesis")
    synthesize(tools[yosys], commands[yosys], folder=folder, progress=progress)
    progress.done("done")

    best: _Attempt | None = None
    tries: dict[int, float] = {}
    for seed in (*seeds, *retry):
        if seed in retry and best is not None and (
                best.met or best.fmax_mhz < 0.93 * clock_mhz):
            break
        progress.step(f"place and route, seed {seed}")
        attempt = _place(commands[route], tools[route], seed, folder, clock_mhz, progress)
        progress.done(f"{attempt.fmax_mhz:.1f} MHz, wanted {clock_mhz:g} MHz")
        tries[seed] = attempt.fmax_mhz
        if best is None or (attempt.met, attempt.fmax_mhz) > (best.met, best.fmax_mhz):
            best = attempt
            for name in _kept(commands[route]):
                (folder / name).replace(folder / f"best-{name}")
    if best is None:
        raise ValueError("seeds must not be empty")
    for name in _kept(commands[route]):
        (folder / f"best-{name}").replace(folder / name)
    if not best.met:
        raise _missed_timing(best, tries, clock_mhz, owner)

    if contents is not None:
        configuration = folder / _kept(commands[route])[0]
        text = configuration.read_text(encoding="utf-8")
        configuration.replace(folder / blank_name(family))
        configuration.write_text(contents(text), encoding="utf-8")
    bitstream = pack_bitstream(tools[pack], commands[pack], family, folder, progress)

    progress.step("counting cells")
    with open(folder / "placed.json", encoding="utf-8") as file:
        cells = json.load(file)["modules"]["top"]["cells"]
    parts = _count(cells, family, owner)
    progress.done()
    return Implementation(
        bitstream=bitstream, seed=best.seed, fmax_mhz=best.fmax_mhz,
        resources=_usage(best.report["utilization"], parts, family), parts=parts,
        critical=best.critical, tries=tries)


def blank_name(family: Family) -> str:
    """Name of the file that keeps a design without the contents of its memories."""
    return f"blank{family.configuration}"


def pack_bitstream(tool: Tool, arguments: Sequence[str], family: Family, folder: Path,
                   progress: Progress) -> Path:
    """Make the bitstream of nextpnr's text.

    Raises
    ------
    BuildError
        If that fails.
    """
    progress.step("packing the bitstream")
    run(tool, arguments, folder=folder, log="pack.log", progress=progress)
    progress.done()
    bitstream = folder / family.bitstream
    if not bitstream.is_file() or bitstream.stat().st_size == 0:
        raise BuildError(f"{tool.name} ended well and left no {family.bitstream}")
    return bitstream


def synthesize(tool: Tool, arguments: Sequence[str], *, folder: Path,
               progress: Progress) -> None:
    """Run a build plan's synthesis, once more with :data:`SPLIT_NETS` where that helps.

    Parameters
    ----------
    tool, arguments : Tool, sequence of str
        Yosys, and its command line in the plan.
    folder : Path
        Where the plan's files are. What Yosys prints goes to ``yosys.log`` there.
    progress : Progress
        Where to tell what is being done.

    Raises
    ------
    BuildError
        If Yosys fails.
    """
    try:
        run(tool, arguments, folder=folder, log="yosys.log", progress=progress)
    except BuildError:
        if not _split_nets(folder):
            raise
        run(tool, arguments, folder=folder, log="yosys.log", progress=progress)


def _split_nets(folder: Path) -> bool:
    """Prepare another try if Yosys stopped where it calls ABC; see :data:`SPLIT_NETS`."""
    log, script = folder / "yosys.log", folder / "top.ys"
    if not log.is_file() or not script.is_file():
        return False
    said = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(said) if line.strip()), "")
    if not last.startswith("Running ABC command"):
        return False
    commands = script.read_text(encoding="utf-8").splitlines()
    reads = [n for n, line in enumerate(commands) if line.lstrip().startswith("read_")]
    if not reads or SPLIT_NETS in commands:
        return False
    commands.insert(reads[-1] + 1, SPLIT_NETS)
    script.write_text("\n".join(commands) + "\n", encoding="utf-8")
    return True


def _kept(arguments: Sequence[str]) -> list[str]:
    """Files of a place-and-route run that the rest of the build needs."""
    output = next(arguments[index + 1] for index, argument in enumerate(arguments)
                  if argument in ("--asc", "--textcfg"))
    return [output, "timing.json", "placed.json", "nextpnr.log"]


def _place(arguments: Sequence[str], tool: Tool, seed: int, folder: Path, clock_mhz: float,
           progress: Progress) -> _Attempt:
    report_file = folder / "timing.json"
    report_file.unlink(missing_ok=True)
    try:
        # Missed timing gives a non-zero status too, but only after the report is written.
        run(tool, [*arguments, "--seed", str(seed), "--report", "timing.json",
                   "--write", "placed.json"],
            folder=folder, log="nextpnr.log", progress=progress, allow=report_file.exists)
    except BuildError as error:
        if _NO_ROOM.search(str(error)):
            raise DoesNotFit(str(error)) from None
        raise
    try:
        report = json.loads(report_file.read_text(encoding="utf-8"))
        clocks = {name: (float(clock["achieved"]), float(clock["constraint"]))
                  for name, clock in report["fmax"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{tool.name} ended well and left no readable timing report "
                         f"({error!r})") from error
    ours = {name: achieved for name, (achieved, constraint) in clocks.items()
            if abs(constraint - clock_mhz) <= _TOLERANCE * clock_mhz}
    if not ours:
        found = ", ".join(f"{name} {constraint:g}" for name, (_, constraint) in clocks.items())
        raise BuildError(
            f"no clock of the placed design is constrained to {clock_mhz:g} MHz, so its timing "
            f"is unchecked (nextpnr has: {found or 'none'})",
            knob="check clock.input_mhz in the board file, or ask for another --frequency")
    slowest = min(ours, key=lambda name: ours[name])
    met = all(achieved >= constraint * (1 - 1e-9) for achieved, constraint in clocks.values())
    return _Attempt(seed, ours[slowest], met and ours[slowest] >= clock_mhz, report,
                    _critical_path(report, slowest))


def _critical_path(report: Mapping[str, Any], clock: str) -> tuple[str, str]:
    """Cells at both ends of the longest path within a clock."""
    for path in report.get("critical_paths", ()):
        if path["path"] and clock in path["from"] and clock in path["to"]:
            return path["path"][0]["from"]["cell"], path["path"][-1]["to"]["cell"]
    return "", ""


def _missed_timing(best: _Attempt, tries: Mapping[int, float], clock_mhz: float,
                   owner: Callable[[str], str]) -> BuildError:
    start, end = (owner(cell) if cell else "" for cell in best.critical)
    path = f"; the longest path goes from {start!r} to {end!r}" if start else ""
    lower = int(best.fmax_mhz)
    return BuildError(
        f"timing is missed: {best.fmax_mhz:.1f} MHz reached, {clock_mhz:g} MHz wanted "
        f"({len(tries)} place-and-route {'try' if len(tries) == 1 else 'tries'}{path})",
        knob=f"a lower clock (--frequency {lower}) or more tries (--seeds {2 * len(tries) + 2})")


def _count(cells: Mapping[str, Any], family: Family,
           owner: Callable[[str], str]) -> dict[str, dict[str, int]]:
    """Cells of nextpnr's netlist by part of the design and resource."""
    nets: dict[int, str] = {}
    nameless: dict[str, list[Mapping[str, Any]]] = {}
    parts: dict[str, Counter[str]] = {}
    for name, cell in cells.items():
        if name.startswith("$"):
            # The two halves of an ECP5 carry cell belong together.
            nameless.setdefault(name.partition("$CCU2_COMB")[0], []).append(cell)
            continue
        part = owner(name)
        for bit in _bits(cell):
            nets.setdefault(bit, part)
        parts.setdefault(part, Counter()).update(family.resource(cell))
    for group in nameless.values():  # ends of carry chains and the like: they go to a neighbour
        bits = [bit for cell in group for bit in _bits(cell)]
        part = next((nets[bit] for bit in bits if bit in nets), owner(""))
        for cell in group:
            parts.setdefault(part, Counter()).update(family.resource(cell))
    return {part: dict(count) for part, count in parts.items() if count}


def _bits(cell: Mapping[str, Any]) -> Iterable[int]:
    for port, bits in cell["connections"].items():
        if port not in ("CLK", "CEN", "SR", "CE", "LSR"):  # shared by the whole design
            yield from (bit for bit in bits if isinstance(bit, int))


def _usage(utilization: Mapping[str, Mapping[str, int]],
           parts: Mapping[str, Mapping[str, int]], family: Family) -> dict[str, Usage]:
    usage = {}
    for name in ("lut4", "ff", "bram", "spram", "dsp"):
        entry = utilization.get(getattr(family, name), {"used": 0, "available": 0})
        used = entry["used"]
        if name == "ff" and family.ff == family.lut4:
            used = sum(count.get("ff", 0) for count in parts.values())
        usage[name] = Usage(used, entry["available"])
    return usage
