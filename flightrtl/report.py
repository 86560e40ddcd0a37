"""What came out of a build: for programs (JSON), for people (a table) and as a picture (SVG)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any

from .model import Model, WeightedLayer

if TYPE_CHECKING:       # tables are for the host too, which needs no planner
    from .planner import FrontPoint

__all__ = ["RESOURCES", "LayerReport", "Report", "table"]

RESOURCES: Mapping[str, str] = {
    "lut4": "LUT4", "ff": "FF", "bram": "BRAM", "spram": "SPRAM", "dsp": "DSP"}
"""Resources by their key in ``report.json``, and as people read them."""

Usage = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One layer.

    Parameters
    ----------
    name, type, dataflow : str
        As in the plan.
    lanes, simd, pixels : int
        Folding of its engine: ``P`` slots of ``S`` inputs for ``M`` output pixels in a cycle.
    output_pixels : int
        Of one inference.
    terms : int
        Term-by-activation products of one inference.
    cycles : int
        Cycles in which it is busy for one inference.
    utilization : float
        Share of its lane-cycles that do a real term's work, 0 to 1.
    k_histogram : mapping of int to int
        How many filters have how many terms per weight.
    buffer_bits, weight_read_bits : int
        Of the input rows kept on chip (poolings not counted), and of the weights that are read
        from memory for one inference.
    resources : mapping of str to int
        What it takes; measured after place and route, or estimated in an estimate.
    """

    name: str
    type: str
    dataflow: str
    lanes: int
    simd: int
    pixels: int
    output_pixels: int
    terms: int
    cycles: int
    utilization: float
    k_histogram: Mapping[int, int]
    buffer_bits: int
    weight_read_bits: int
    resources: Mapping[str, int]

    def of(self, model: Model) -> LayerReport:
        """The same for a model that the layer was padded for: with its own terms alone."""
        layer = next(layer for layer in model.layers if layer.name == self.name)
        if not isinstance(layer, WeightedLayer):
            return self
        terms = layer.slots * layer.taps * self.output_pixels
        return replace(
            self, terms=terms, k_histogram=dict(sorted(Counter(layer.k).items())),
            utilization=self.utilization * terms / self.terms if self.terms else 0.0)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayerReport:
        """What :meth:`as_json` gave."""
        return cls(**{**data, "k_histogram": {int(k): count for k, count
                                              in data["k_histogram"].items()}})

    def as_json(self) -> dict[str, Any]:
        """As in ``report.json``."""
        return {
            "name": self.name, "type": self.type, "dataflow": self.dataflow,
            "lanes": self.lanes, "simd": self.simd, "pixels": self.pixels,
            "output_pixels": self.output_pixels, "terms": self.terms, "cycles": self.cycles,
            "utilization": round(self.utilization, 6),
            "k_histogram": {str(k): count for k, count in sorted(self.k_histogram.items())},
            "buffer_bits": self.buffer_bits, "weight_read_bits": self.weight_read_bits,
            "resources": dict(self.resources)}


@dataclass(frozen=True, kw_only=True)
class Report:
    """A build, or the estimate of one.

    Parameters
    ----------
    model, sha256 : str
        Name of the model, and the hash of its file.
    accuracy : mapping
        ``dataset``, ``images`` and ``top1`` of the integer model; values may be None.
    layers : sequence of LayerReport
        In the model's order.
    other : mapping of str to mapping
        Resources of the parts of the design that are no layers, by name.
    board, device : str
        What it is for.
    tools : mapping of str to str
        Versions by name.
    clock_mhz : float
        Clock of the design, MHz.
    cycles_per_inference, latency_cycles : int
        Interval between inferences when images are fed without a gap; time of one alone.
    estimate : mapping
        Planned ``{"used", "available"}`` of each resource.
    resources : mapping, optional
        The same, measured; None in an estimate.
    fmax_mhz : float, optional
        What the placed and routed design could do, MHz.
    seed : int, optional
        Of place and route.
    tries : mapping of int to float
        Fmax by seed, MHz.
    critical_path : (str, str), optional
        Parts of the design at both ends of the longest path.
    bitstream : str, optional
        Where the bitstream is.
    front : sequence of FrontPoint
        What else the board could do with the model, of an estimate.
    weights : mapping, optional
        ``kind`` (``fixed``, ``replaceable``, ``loadable``); of a design whose weights can be
        replaced, the hash of its ``shape``, and the folder that it was ``reused`` from, if it was;
        ``load_lut4``: an estimate of what it takes to load them, which is a part of the rest.
    link : mapping
        The line to a host: its ``kind``, with ``baud`` (``uart``) or ``max_sck_mhz`` (``spi``).
    flash : mapping, optional
        What else must be written to the board's flash: ``layer``, ``file`` (None in an estimate),
        ``address``, ``bytes``, and the clock that it is read with, ``mhz``.
    """

    model: str
    sha256: str
    accuracy: Mapping[str, Any]
    layers: Sequence[LayerReport]
    other: Mapping[str, Mapping[str, int]]
    board: str
    device: str
    tools: Mapping[str, str]
    clock_mhz: float
    cycles_per_inference: int
    latency_cycles: int
    estimate: Usage
    resources: Usage | None = None
    fmax_mhz: float | None = None
    seed: int | None = None
    tries: Mapping[int, float] = field(default_factory=dict)
    critical_path: tuple[str, str] | None = None
    bitstream: str | None = None
    front: Sequence[FrontPoint] = ()
    weights: Mapping[str, Any] = field(default_factory=lambda: {
        "kind": "fixed", "shape": None, "reused": None, "load_lut4": 0})
    link: Mapping[str, Any] = field(default_factory=dict)
    flash: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """What :meth:`as_json` gave for a build."""
        model = data["model"]
        return cls(
            model=model["name"], sha256=model["sha256"], accuracy=model["accuracy"],
            layers=[LayerReport.from_json(layer) for layer in model["layers"]],
            other=data["other_resources"], board=data["board"], device=data["device"],
            tools=data["tools"], clock_mhz=data["clock_mhz"],
            cycles_per_inference=data["cycles_per_inference"],
            latency_cycles=data["latency_cycles"], estimate=data["estimate"]["resources"],
            resources=data["resources"], fmax_mhz=data["fmax_mhz"], seed=data["seed"],
            tries={int(seed): fmax for seed, fmax in data["fmax_mhz_by_seed"].items()},
            critical_path=tuple(data["critical_path"]) if data["critical_path"] else None,
            bitstream=data["bitstream"], weights=data["weights"], link=data.get("link", {}),
            flash=data.get("flash"))

    @property
    def inferences_per_second(self) -> float:
        """Rate of the network when images are fed without a gap."""
        return self.clock_mhz * 1e6 / self.cycles_per_inference

    def as_json(self) -> dict[str, Any]:
        """The content of ``report.json``: fractions and plain SI numbers, MHz where named so."""
        return {
            "model": {
                "name": self.model, "sha256": self.sha256, "accuracy": dict(self.accuracy),
                "layers": [layer.as_json() for layer in self.layers]},
            "board": self.board, "device": self.device, "tools": dict(self.tools),
            "seed": self.seed, "resources": _plain(self.resources),
            "other_resources": _plain(self.other),
            "estimate": {"resources": _plain(self.estimate)},
            "clock_mhz": self.clock_mhz, "fmax_mhz": _rounded(self.fmax_mhz),
            "fmax_mhz_by_seed": {str(seed): _rounded(fmax) for seed, fmax in self.tries.items()},
            "critical_path": list(self.critical_path) if self.critical_path else None,
            "cycles_per_inference": self.cycles_per_inference,
            "latency_cycles": self.latency_cycles,
            "inferences_per_second": round(self.inferences_per_second, 3),
            "bitstream": self.bitstream, "weights": dict(self.weights),
            "link": dict(self.link), "flash": None if self.flash is None else dict(self.flash)} | (
                {"front": [{"cycles": point.cycles, "inferences_per_second": round(point.rate, 3),
                            "lut4": point.cost.lut4, "bram": point.cost.bram,
                            "dsp": point.cost.dsp} for point in self.front]} if self.front else {})

    def as_text(self) -> str:
        """Tables for people, at most 100 columns wide."""
        blocks = [self._title(), self._layer_table(), self._cost_table(), self._device_table(),
                  self._timing()]
        if self.front:
            blocks.append(self._front())
        return "\n\n".join(blocks) + "\n"

    def _title(self) -> str:
        title = f"{self.model} on {self.board} ({self.device})"
        if self.accuracy.get("top1") is not None:
            title += (f", top-1 {100 * self.accuracy['top1']:.2f} % of "
                      f"{self.accuracy.get('images'):,} {self.accuracy.get('dataset')} images")
        return title

    def _layer_table(self) -> str:
        rows = [(layer.name, layer.type,
                 {"folded": f"{layer.lanes} x {layer.simd} x {layer.pixels}",
                  "frame": f"{layer.lanes} x {layer.simd}, frame"}.get(layer.dataflow,
                                                                       layer.dataflow),
                 f"{layer.output_pixels:,}",
                 f"{layer.terms:,}", f"{layer.cycles:,}",
                 _percent(layer.cycles, self.cycles_per_inference),
                 f"{100 * layer.utilization:.1f} %" if layer.terms else "",
                 ", ".join(f"{count} of {k}" for k, count in sorted(layer.k_histogram.items())))
                for layer in self.layers]
        return table(("layer", "type", "P x S x M", "pixels", "terms", "cycles", "busy", "work",
                      "filters of k"), rows, left=(0, 1, 8))

    def _cost_table(self) -> str:
        parts = [(layer.name, layer.resources) for layer in self.layers]
        parts += list(self.other.items())
        source = "estimated" if self.resources is None else "placed and routed"
        rows = [(name, *(f"{used.get(key, 0):,}" for key in RESOURCES)) for name, used in parts]
        return table((source, *RESOURCES.values()), rows, left=(0,))

    def _device_table(self) -> str:
        rows = []
        for key, name in RESOURCES.items():
            estimate = self.estimate[key]
            used = "" if self.resources is None else f"{self.resources[key]['used']:,}"
            shown = estimate if self.resources is None else self.resources[key]
            if shown["available"]:
                rows.append((name, f"{estimate['used']:,}", used, f"{shown['available']:,}",
                             _percent(shown["used"], shown["available"])))
        return table(("device", "estimate", "used", "available", ""), rows, left=(0,))

    def _timing(self) -> str:
        lines = [f"clock       {self.clock_mhz:g} MHz"]
        if self.fmax_mhz is not None:
            lines[0] += f", the design could do {self.fmax_mhz:.1f} MHz (seed {self.seed})"
        if self.critical_path:
            lines.append("slowest     path from {} to {}".format(*self.critical_path))
        milliseconds = self.latency_cycles / self.clock_mhz / 1e3
        lines += [
            f"interval    {self.cycles_per_inference:,} cycles: "
            f"{self.inferences_per_second:,.0f} inferences per second",
            f"latency     {self.latency_cycles:,} cycles: {milliseconds:.3f} ms"]
        if self.link:
            lines.append("link        " + (
                f"SPI, up to {math.floor(100 * self.link['max_sck_mhz']) / 100:g} MHz"
                if self.link["kind"] == "spi" else f"serial port, {self.link['baud']:,} baud"))
        if self.weights["shape"]:
            origin, cells = self.weights["reused"], self.weights.get("load_lut4")
            lines.append(f"weights     {self.weights['kind']}, shape {self.weights['shape']}"
                         + (f", about {cells} logic cells for it" if cells else "")
                         + (f", in the design of {origin}" if origin else ""))
        if self.flash is not None:
            lines.append(
                f"flash       weights of {self.flash['layer']}, {self.flash['bytes']:,} bytes at "
                f"{self.flash['address']:#x}, read at {self.flash['mhz']:g} MHz"
                + (f": {self.flash['file']}" if self.flash["file"] else ""))
        if self.bitstream:
            lines.append(f"bitstream   {self.bitstream}")
        return "\n".join(lines)

    def _front(self) -> str:
        """Rate against logic cells, each cell of a bar as many LUT4."""
        most = max(point.cost.lut4 for point in self.front)
        rows = [(f"{point.rate:,.0f}", f"{point.cycles:,}", f"{point.cost.lut4:,}",
                 f"{point.cost.bram:,}", "#" * max(1, round(48 * point.cost.lut4 / most)))
                for point in self.front]
        return ("what the board could do instead (--target-rate), estimated\n\n"
                + table(("per second", "cycles", "LUT4", "BRAM", ""), rows, left=(4,)))

    def as_svg(self) -> str:
        """A picture of where logic cells and cycles go."""
        cells = [(layer.name, float(layer.resources.get("lut4", 0))) for layer in self.layers]
        cells += [(name, float(used.get("lut4", 0))) for name, used in self.other.items()]
        cycles = [(layer.name, float(layer.cycles)) for layer in self.layers]
        usage = self.estimate if self.resources is None else self.resources
        shares = [(f"{name} ({usage[key]['used']:,} of {usage[key]['available']:,})",
                   100 * usage[key]["used"] / usage[key]["available"])
                  for key, name in RESOURCES.items() if usage[key]["available"]]
        charts = [
            _Chart(f"Logic cells{' (estimate)' if self.resources is None else ''}", cells,
                   "{:,.0f}"),
            _Chart("Cycles per inference", cycles, "{:,.0f}"),
            _Chart("Share of the device", shares, "{:.1f} %", limit=100)]
        height = 56 + sum(chart.height for chart in charts)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13">',
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            f'<text x="20" y="32" font-size="17" font-weight="bold">{escape(self.model)} on '
            f'{escape(self.board)}: {self.inferences_per_second:,.0f} inferences per second at '
            f'{self.clock_mhz:g} MHz</text>']
        top = 48
        for chart in charts:
            parts += chart.draw(top)
            top += chart.height
        return "\n".join([*parts, "</svg>"]) + "\n"


_WIDTH = 760
_LABEL = 210    # left of the bars
_BAR = 430      # the longest bar
_ROW = 22


@dataclass(frozen=True)
class _Chart:
    """Horizontal bars with a title; the longest is emphasized."""

    title: str
    bars: Sequence[tuple[str, float]]
    format: str
    limit: float | None = None

    @property
    def height(self) -> int:
        return 44 + _ROW * len(self.bars)

    def draw(self, top: int) -> list[str]:
        longest = max((value for _, value in self.bars), default=0)
        scale = _BAR / (self.limit or longest or 1)
        parts = [f'<text x="20" y="{top + 24}" font-weight="bold">{escape(self.title)}</text>']
        for index, (label, value) in enumerate(self.bars):
            y = top + 34 + _ROW * index
            fill = "#c8553d" if value == longest and self.limit is None else "#4a7c9b"
            if self.limit is not None:
                parts.append(f'<rect x="{_LABEL}" y="{y}" width="{_BAR}" height="16" '
                             f'fill="#e6e9ec"/>')
            width = min(value * scale, _BAR)
            parts += [
                f'<text x="{_LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(label)}</text>',
                f'<rect x="{_LABEL}" y="{y}" width="{width:.1f}" height="16" fill="{fill}"/>',
                f'<text x="{_LABEL + (_BAR if self.limit else width) + 6:.1f}" y="{y + 13}">'
                f'{escape(self.format.format(value))}</text>']
        return parts


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *,
          left: Sequence[int] = ()) -> str:
    """Columns under a ruled header, two spaces apart; numbers to the right.

    Parameters
    ----------
    header, rows : sequences of str
        All of the same length.
    left : sequence of int
        Columns that are text.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) if index in left else cell.rjust(width)
                       for index, (cell, width) in enumerate(zip(row, widths, strict=True)))
             for row in (header, ["-" * width for width in widths], *rows)]
    return "\n".join(line.rstrip() for line in lines)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else ""


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _plain(usage: Mapping[str, Mapping[str, int]] | None) -> dict[str, dict[str, int]] | None:
    return None if usage is None else {name: dict(value) for name, value in usage.items()}
