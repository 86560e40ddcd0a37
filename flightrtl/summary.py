"""The report of a plan, or of a design that was built from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .blank import BlankDesign
from .gateware import Framed, FramedLayer, FrameEngine
from .implement import Implementation
from .model import Convolution, Dense, Model
from .planner import LayerPlan, Plan
from .publish import WEIGHTS_FILE
from .report import RESOURCES, LayerReport, Report
from .request import Job
from .top import link_report

__all__ = ["accuracy", "flash_contents", "report_of"]


def flash_contents(job: Job, chosen: Plan) -> bytes | None:
    """What a design reads from the board's flash."""
    if chosen.flash is None:
        return None
    name, _ = chosen.flash
    layer = next(layer for layer in job.model.layers if layer.name == name)
    framed = chosen.foldings[name]
    assert isinstance(layer, (Convolution, Dense))
    assert isinstance(framed, Framed)
    return FrameEngine(FramedLayer(layer, job.model.source(layer), framed)).flash_contents


def _flash_report(job: Job, chosen: Plan, built: bool) -> dict[str, Any] | None:
    contents = flash_contents(job, chosen)
    if contents is None or chosen.flash is None:
        return None
    name, flash = chosen.flash
    return {"layer": name, "address": flash.address, "bytes": len(contents),
            "mhz": round(chosen.clock_mhz / (2 * flash.half), 6),
            "file": str((job.output / WEIGHTS_FILE).resolve()) if built else None}


def report_of(job: Job, chosen: Plan, versions: Mapping[str, str],
            result: Implementation | None, design: BlankDesign | None = None) -> Report:
    """The report of what a request came to.

    Parameters
    ----------
    job : Job
        The request.
    chosen : Plan
        Its plan.
    versions : mapping
        Of all that took part.
    result : Implementation, optional
        What the tools made of the plan; None: the report is an estimate.
    design : BlankDesign, optional
        Of a bitstream whose contents can be replaced.
    """
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
