"""From a request to a bitstream and its report, or to a message that says why not."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from amaranth import Elaboratable
from amaranth.build.run import LocalBuildProducts

from . import __version__, boards, export, modelfile
from .blank import DESIGN, BlankDesign
from .boards import Board
from .cache import Cache, digest, file_digest, source_digest
from .contents import Shape, blank, fill, loadable_shape
from .errors import BuildError, UserError
from .files import atomic_write, work_folder
from .gateware import Framed, FramedLayer, FrameEngine, Network, require_supported
from .implement import (
    FAMILIES,
    UNSET,
    DoesNotFit,
    Implementation,
    blank_name,
    implement,
    plan_commands,
)
from .loadable import LoadableModel, loadable
from .model import Convolution, Dense, Model
from .planner import LayerPlan, Plan, front, plan
from .progress import Progress
from .protocol import Identity, require_loads
from .report import RESOURCES, LayerReport, Report
from .toolchain import find, without_amaranth_overrides
from .top import Top, link_report, require_link

__all__ = ["Request", "accuracy", "build", "estimate", "prepare", "program", "publish",
           "write_verilog"]

WEIGHTS = "fixed", "replaceable", "loadable"
"""What can be asked for, see :class:`Request`."""

_RETRIES = 3
"""Further seeds when the first one comes close to meeting timing and nobody asked for --seeds."""

WEIGHTS_FILE = "weights.bin"
"""What belongs into the board's flash besides the bitstream."""

_LOGS = ("yosys.log", "nextpnr.log", "pack.log")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Parameters
    ----------
    model, board : str
        Name or file.
    frequency : float, optional
        Clock of the design, MHz; the board's own if None.
    target_rate : float, optional
        Inferences per second that are enough; as fast as possible if None.
    seeds : int, optional
        Place-and-route tries, of which the fastest is kept; if None, as many as it takes, up
        to four.
    dataflow : {"mixed", "folded", "frame"}
        Whether the planner chooses one for each layer, or all are folded or all have frame
        buffers.
    output : Path, optional
        Where the products go; ``build/<board>/<model>`` if None.
    weights : {"fixed", "replaceable", "loadable"}
        Whether the contents of the finished bitstream can be replaced by another model's, see
        :mod:`flightrtl.reuse`; and whether those of the running design can too, over the link.
    terms : float, optional
        For weights that are not fixed, terms per weight to have room for, in the mean over a
        layer's filters; as many as the model has if None.
    link : {"uart", "spi"}
        The line to the host.
    flash : str, optional
        The layer whose weights are in the board's flash; "auto" if that is to be found out.
    """

    model: str = "mnist"
    board: str = "ice40"
    frequency: float | None = None
    target_rate: float | None = None
    seeds: int | None = None
    dataflow: str = "mixed"
    output: Path | None = None
    weights: str = "fixed"
    terms: float | None = None
    flash: str | None = None
    link: str = "uart"

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, not {self.weights!r}")


class _Job:
    """A request with its model and board read and checked.

    With ``link``, it is for a design that a host talks to.
    """

    def __init__(self, request: Request, *, link: bool = True) -> None:
        self.request = request
        self.board: Board = boards.load(request.board)
        require_link(self.board, request.link)
        self.model: Model = modelfile.load(request.model)
        require_supported(self.model, link=link)
        self.sha256 = modelfile.sha256(request.model)
        self.output = request.output or Path("build", self.board.name, self.model.name)
        self.design: Model = self.model
        """What the hardware is made for: the model, padded if its weights can be replaced."""
        self.writable = request.weights == "loadable"
        if request.weights != "fixed":
            if request.dataflow == "frame":
                raise UserError("weights of layers with frame-based reuse cannot be replaced: "
                                f"leave out --weights {request.weights}, or --dataflow frame")
            if self.writable:
                require_loads(self.model)
            self.design = loadable(self.model, self.board.family, terms=request.terms,
                                   writable=self.writable)
        elif request.terms is not None:
            raise UserError("room for more terms is for weights that are not fixed: ask for that "
                            "too (--weights replaceable, or loadable), or leave it out (--room)")

    def plan(self, progress: Progress) -> Plan:
        """Choose the foldings."""
        progress.step(f"planning {self.model.name} for {self.board.name}")
        chosen = plan(self.design, self.board, frequency=self.request.frequency,
                      target_rate=self.request.target_rate, dataflow=self.request.dataflow,
                      flash=self.request.flash)
        progress.done(f"{chosen.inferences_per_second:,.0f} inferences per second "
                      f"at {chosen.clock_mhz:g} MHz")
        return chosen

    def owner(self, cell: str) -> str:
        """The part of the design that a cell is counted for, by its hierarchical name.

        ``network.NAME`` for a layer, and otherwise ``network`` (what joins the layers), or, as
        in a plan, ``argmax``, ``link``, ``clock``; ``pins`` for the rest.
        """
        path = cell.split(".")
        if path[:2] == ["system", "network"] and len(path) > 3:
            if any(layer.name == path[2] for layer in self.model.layers):
                return f"network.{path[2]}"
            return "argmax" if path[2] == "argmax" else "network"
        if path[:2] == ["system", "network"]:
            return "network"
        return {"system": "link", "clocking": "clock"}.get(path[0], "pins")


def estimate(request: Request, progress: Progress, *, link: bool = True) -> Report:
    """The plan and its cost, without any tool.

    Parameters
    ----------
    request : Request
        What is asked for.
    progress : Progress
        Where to tell what is being done.
    link : bool
        Whether it is for the board; else for the network alone, which may be too large for a host.

    Raises
    ------
    UserError
        If the request is wrong.
    BuildError
        If the model does not fit.
    """
    job = _Job(request, link=link)
    report = _report(job, job.plan(progress), _library_versions(), None)
    progress.step("other rates")
    points = front(job.design, job.board, request.frequency, dataflow=request.dataflow,
                   flash=request.flash)
    progress.done()
    return dataclasses.replace(report, front=points)


def build(request: Request, progress: Progress) -> tuple[str, str]:
    """Make the bitstream, or find that it is already there.

    Returns
    -------
    (str, str)
        The report as JSON and as text, which are also in the output folder.

    Raises
    ------
    UserError
        If the request is wrong.
    BuildError
        If it does not fit, is too slow, or a tool is missing or fails.
    """
    job = _Job(request)
    family = FAMILIES[job.board.family]
    tools = {name: find(name) for name in family.tools}
    versions = _library_versions() | {tool.name: tool.version for tool in tools.values()}
    # Two keys: the request's is known at once, the design's only after elaboration, but it
    # stays the same when nothing changed that matters to the hardware.
    platform: Any = job.board.make_platform()
    request_key = digest({
        "model": job.sha256, "board": dataclasses.asdict(job.board), "versions": versions,
        "platform": file_digest(Path(inspect.getfile(type(platform)))),
        "frequency": request.frequency, "target_rate": request.target_rate,
        "seeds": request.seeds, "dataflow": request.dataflow, "weights": request.weights,
        "terms": request.terms, "flash": request.flash, "link": request.link,
        "sources": source_digest(),
        "output": str(job.output.resolve())})
    cache = Cache.read(job.output)
    if cache.holds(request=request_key):
        progress.note(f"unchanged, cached in {job.output}")
        return ((job.output / "report.json").read_text(encoding="utf-8"),
                (job.output / "report.txt").read_text(encoding="utf-8"))

    chosen = job.plan(progress)
    progress.step("elaborating")
    top = Top(job.design, chosen, job.board, link=request.link, identity=Identity.of(
        job.model, job.sha256, design=loadable_shape(job.design, chosen)))
    memories = top.system.memories
    blank(memories)
    build_plan = prepare(top, job.board, platform,
                         dsp=any(layer.cost.dsp for layer in chosen.layers))
    progress.done()
    design = None
    if isinstance(job.design, LoadableModel):
        design = BlankDesign(Shape.of(job.design, chosen), job.board.family,
                             plan_commands(build_plan)[-1])
    seed = job.board.seed
    seeds = range(seed, seed + (request.seeds or 1))
    retry = range(seed + 1, seed + 1 + _RETRIES) if request.seeds is None else range(0)
    design_key = digest({
        "design": build_plan.digest().hex(), "tools": versions, "clock": chosen.clock_mhz,
        "seeds": list(seeds), "retry": list(retry), "layers": list(chosen.foldings),
        "counting": file_digest(Path(__file__))})

    with work_folder(job.output) as work:
        if cache.holds(design=design_key):
            progress.note(f"same design, bitstream cached in {job.output}")
            result = Implementation.from_json(cache.result, job.output)
            if design is not None:
                result = dataclasses.replace(result, bitstream=design.bitstream(
                    job.output, memories, tool=tools[family.tools[-1]], folder=work,
                    progress=progress))
        else:
            with _explained(chosen, work, job.output):
                result = implement(
                    build_plan, family=family, tools=tools, folder=work, seeds=seeds, retry=retry,
                    clock_mhz=chosen.clock_mhz, owner=job.owner, progress=progress, contents=(
                        (lambda text: fill(text, job.board.family, memories)) if design else None))
            if design is not None:
                design.save(work)
        kept = [*design.files] if design else []
        flash = _flash_contents(job, chosen)
        if flash is not None:
            (work / WEIGHTS_FILE).write_bytes(flash)
            kept.append(WEIGHTS_FILE)
        return publish(_report(job, chosen, versions, result, design), result, job.output, work,
                       kept, request=request_key, design=design_key)


def prepare(top: Elaboratable, board: Board, platform: Any, *, dsp: bool = False) -> Any:
    """Amaranth's build plan of a design called ``top`` for a board, with the board's options.

    Parameters
    ----------
    top : Elaboratable
        The design.
    board : Board
        The board.
    platform : Platform
        The board's, new.
    dsp : bool
        Whether multiplications go to multiplier blocks.
    """
    # On ECP5 they do unasked, and nothing else in a design multiplies.
    synth_opts = f"{board.synth_opts} -dsp" if dsp and board.family == "ice40" else board.synth_opts
    with without_amaranth_overrides():
        return platform.build(top, name="top", do_build=False, emit_src=False, verbose=True,
                              script_after_read=UNSET, synth_opts=synth_opts,
                              nextpnr_opts=board.nextpnr_opts)


def write_verilog(request: Request, path: Path, progress: Progress) -> None:
    """Write the planned network, without the board's pins and clock, as Verilog.

    See :func:`flightrtl.export.write_verilog`.
    """
    job = _Job(request, link=False)
    if job.writable:
        raise UserError("exported Verilog has no link to load weights over: leave out --weights "
                        "loadable")
    yosys = find("yosys")
    chosen = job.plan(progress)
    progress.step("elaborating")
    if chosen.flash is not None:
        raise UserError("there is no Verilog of a network whose weights are in a board's flash: "
                        "leave out --verilog, or --flash")
    export.write_verilog(_network(job, chosen), chosen, job.sha256, path, yosys, progress)


def program(request: Request, progress: Progress) -> None:
    """Load a finished build into the board: its bitstream with the platform's programmer.

    Before it, weights that belong into the flash with the command in the board file.
    """
    job = _Job(request)
    platform: Any = job.board.make_platform()
    flash = json.loads((job.output / "report.json").read_text(encoding="utf-8")).get("flash")
    progress.step(f"programming {job.board.name}")
    try:
        if flash is not None:
            assert job.board.flash is not None      # it was built for this board
            tool, *arguments = [
                each.replace("{address}", str(flash["address"])).replace("{file}", flash["file"])
                for each in job.board.flash.program]
            subprocess.check_call([os.environ.get(tool.upper(), tool), *arguments])
        platform.toolchain_program(LocalBuildProducts(str(job.output)), "top")
    except NotImplementedError as error:
        raise BuildError(f"amaranth_boards cannot program {job.board.name}",
                         knob=f"load {job.output / FAMILIES[job.board.family].bitstream} with "
                              "the board's own programmer") from error
    except FileNotFoundError as error:
        raise BuildError(f"the programmer {error.filename!r} is not installed",
                         knob="install it, or load the bitstream in another way") from error
    except subprocess.CalledProcessError as error:
        raise BuildError(f"the programmer failed (status {error.returncode})",
                         knob="is the board connected, and may you use its USB port?") from error
    progress.done()


def _network(job: _Job, chosen: Plan) -> Network:
    return Network(job.design, chosen.foldings, memory_register=job.board.memory_register,
                   queues=chosen.queues)


def _library_versions() -> dict[str, str]:
    packages = ("amaranth", "amaranth-boards", "numpy")
    return {package: metadata.version(package) for package in packages} | {
        "flightrtl": __version__, "python": ".".join(map(str, sys.version_info[:3]))}


@contextmanager
def _explained(chosen: Plan, work: Path, output: Path) -> Iterator[None]:
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


def _flash_contents(job: _Job, chosen: Plan) -> bytes | None:
    """What a design reads from the board's flash."""
    if chosen.flash is None:
        return None
    name, _ = chosen.flash
    layer = next(layer for layer in job.model.layers if layer.name == name)
    framed = chosen.foldings[name]
    assert isinstance(layer, (Convolution, Dense))
    assert isinstance(framed, Framed)
    return FrameEngine(FramedLayer(layer, job.model.source(layer), framed)).flash_contents


def _flash_report(job: _Job, chosen: Plan, built: bool) -> dict[str, Any] | None:
    contents = _flash_contents(job, chosen)
    if contents is None or chosen.flash is None:
        return None
    name, flash = chosen.flash
    return {"layer": name, "address": flash.address, "bytes": len(contents),
            "mhz": round(chosen.clock_mhz / (2 * flash.half), 6),
            "file": str((job.output / WEIGHTS_FILE).resolve()) if built else None}


def _report(job: _Job, chosen: Plan, versions: Mapping[str, str],
            result: Implementation | None, design: BlankDesign | None = None) -> Report:
    if result is None:
        parts: Mapping[str, Mapping[str, int]] = {
            **{f"network.{layer.name}": _rounded(layer.cost) for layer in chosen.layers},
            **{name: _rounded(cost) for name, cost in chosen.overhead.items()}}
    else:
        parts = result.parts
    layers = {f"network.{layer.name}": layer for layer in chosen.layers}
    have = dataclasses.asdict(job.board.resources)
    total = _rounded(chosen.cost)
    report = Report(
        model=job.model.name, sha256=job.sha256, accuracy=accuracy(job.model.provenance),
        layers=[_layer_report(layer, job.model, parts.get(part, {}))
                for part, layer in layers.items()],
        other={part: _every(parts[part]) for part in sorted(parts) if part not in layers},
        board=job.board.name, device=job.board.device, tools=versions,
        clock_mhz=float(chosen.clock_mhz), cycles_per_inference=chosen.cycles_per_inference,
        latency_cycles=chosen.latency_cycles,
        link=link_report(job.board, float(chosen.clock_mhz), job.request.link),
        estimate={key: {"used": total[key], "available": have[key]} for key in RESOURCES},
        weights={"kind": job.request.weights, "shape": design.shape.hash if design else None,
                 "reused": None, "load_lut4": round(chosen.overhead["loading"].lut4)
                 if "loading" in chosen.overhead else 0},
        flash=_flash_report(job, chosen, result is not None))
    if result is None:
        return report
    return dataclasses.replace(
        report, resources={key: usage.as_json() for key, usage in result.resources.items()},
        fmax_mhz=result.fmax_mhz, seed=result.seed, tries=result.tries,
        critical_path=_ends(result.critical, job.owner),
        bitstream=str((job.output / result.bitstream.name).resolve()))


def _layer_report(layer: LayerPlan, model: Model, resources: Mapping[str, int]) -> LayerReport:
    return LayerReport(
        name=layer.name, type=layer.type, dataflow=layer.dataflow, lanes=layer.lanes,
        simd=layer.simd, pixels=layer.folding.pixels if layer.folding else 1,
        output_pixels=layer.pixels, terms=layer.terms, cycles=layer.cycles,
        utilization=layer.utilization, k_histogram=layer.k_histogram,
        buffer_bits=layer.buffer_bits, weight_read_bits=layer.weight_read_bits,
        resources=_every(resources)).of(model)


def _rounded(cost: Any) -> dict[str, int]:
    return {key: round(getattr(cost, key)) for key in RESOURCES}


def _every(counts: Mapping[str, int]) -> dict[str, int]:
    return {key: counts.get(key, 0) for key in RESOURCES}


def _ends(cells: Sequence[str], owner: Callable[[str], str]) -> tuple[str, str] | None:
    start, end = cells
    return (owner(start), owner(end)) if start else None


def accuracy(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """``dataset``, ``images`` and ``top1`` of a model, as far as it says."""
    found = provenance.get("accuracy", provenance)
    found = found if isinstance(found, Mapping) else {}
    return {key: found.get(key) for key in ("dataset", "images", "top1")}
