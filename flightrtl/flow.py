"""From a request to a bitstream and its report, or to a message that says why not."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from amaranth import Elaboratable
from amaranth.build.run import LocalBuildProducts

from . import __version__, export
from .blank import BlankDesign
from .boards import Board
from .cache import Cache, digest, file_digest, source_digest
from .contents import Shape, blank, fill, loadable_shape
from .errors import BuildError, UserError
from .files import work_folder
from .gateware import Network
from .implement import FAMILIES, UNSET, Implementation, implement, plan_commands
from .loadable import LoadableModel
from .planner import Plan, front
from .progress import Progress
from .protocol import Identity
from .publish import WEIGHTS_FILE, logs_kept, publish
from .report import Report
from .request import Job, Request
from .summary import flash_contents, report_of
from .toolchain import find, without_amaranth_overrides
from .top import Top

__all__ = ["build", "estimate", "prepare", "program", "write_verilog"]

_RETRIES = 3
"""Further seeds when the first one comes close to meeting timing and nobody asked for --seeds."""


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
    job = Job(request, link=link)
    report = report_of(job, job.plan(progress), _library_versions(), None)
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
    job = Job(request)
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
        "counting": file_digest(Path(inspect.getfile(Job)))})

    with work_folder(job.output) as work:
        if cache.holds(design=design_key):
            progress.note(f"same design, bitstream cached in {job.output}")
            result = Implementation.from_json(cache.result, job.output)
            if design is not None:
                result = dataclasses.replace(result, bitstream=design.bitstream(
                    job.output, memories, tool=tools[family.tools[-1]], folder=work,
                    progress=progress))
        else:
            with logs_kept(chosen, work, job.output):
                result = implement(
                    build_plan, family=family, tools=tools, folder=work, seeds=seeds, retry=retry,
                    clock_mhz=chosen.clock_mhz, owner=job.owner, progress=progress, contents=(
                        (lambda text: fill(text, job.board.family, memories)) if design else None))
            if design is not None:
                design.save(work)
        kept = [*design.files] if design else []
        flash = flash_contents(job, chosen)
        if flash is not None:
            (work / WEIGHTS_FILE).write_bytes(flash)
            kept.append(WEIGHTS_FILE)
        return publish(report_of(job, chosen, versions, result, design), result, job.output, work,
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
    job = Job(request, link=False)
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
    job = Job(request)
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


def _network(job: Job, chosen: Plan) -> Network:
    return Network(job.design, chosen.foldings, memory_register=job.board.memory_register,
                   queues=chosen.queues)


def _library_versions() -> dict[str, str]:
    packages = ("amaranth", "amaranth-boards", "numpy")
    return {package: metadata.version(package) for package in packages} | {
        "flightrtl": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
