"""What each layer does during an inference: busy, starved or stalled, and which sets the pace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flightrtl.check import LAYER_TYPES
from flightrtl.formats import IntArray
from flightrtl.gateware import Folding, Framed, FrameEngine, LayerEngine
from flightrtl.model import Concat, Layer
from flightrtl.report import table

from .engine import Stuck
from .observed import COUNTED, INPUT, Observed
from .simulation import Simulation

__all__ = ["Activity", "LayerActivity", "activity", "count"]

_IMAGES = 200
"""Images after which counting ends, should the counts still vary. A layer that is a little faster
than the slowest one fills the buffer between them by a little with each image."""

_AHEAD = 24
"""Images on offer at a time: more than the pipeline takes while one leaves it."""


@dataclass(frozen=True, kw_only=True)
class LayerActivity:
    """One layer during one inference.

    Parameters
    ----------
    name, type : str
        The layer, and its kind as in the model; ``"input"`` for where images enter.
    lanes, simd : int
        Folding; 0 where there is none.
    busy : int
        Cycles in which it takes a word to work on.
    starved : int
        Cycles in which it could and has none.
    stalled : int
        Cycles in which it cannot: its own drain holds it up, or what comes behind it.
    given : int
        Transfers at its output.
    needs : int
        Cycles that it takes if nothing outside holds it up.
    work : float, optional
        Share of the lane-cycles of ``busy`` that work on a term of the model, 0 to 1; the rest
        is padding of the last pass. None where nothing multiplies.
    """

    name: str
    type: str
    lanes: int
    simd: int
    busy: int
    starved: int
    stalled: int
    given: int
    needs: int
    work: float | None

    @property
    def cycles(self) -> int:
        """All of the time."""
        return self.busy + self.starved + self.stalled


@dataclass(frozen=True, kw_only=True)
class Activity:
    """All layers during one inference, the pipeline full and fed without a gap.

    Parameters
    ----------
    interval : int
        Cycles between the last logits of two images that follow each other.
    steady : bool
        Whether every count was the same an image before, and each layer handed on as much as an
        image has.
    layers : sequence of LayerActivity
        ``"input"`` first, then the layers in the network's order.
    """

    interval: int
    steady: bool
    layers: Sequence[LayerActivity]

    @property
    def slowest(self) -> Sequence[LayerActivity]:
        """The places that need most cycles, and so set the pace of all: one, or several alike."""
        most = max(layer.needs for layer in self.layers)
        return [layer for layer in self.layers if layer.needs == most]

    @property
    def verdict(self) -> str:
        """Which layer holds the network up, in a sentence."""
        slowest = self.slowest
        names = ["the input" if each.name == INPUT else each.name for each in slowest]
        hold, need = ("holds", "it needs") if len(names) == 1 else ("hold", "each needs")
        text = (f"{' and '.join(names)} {hold} the network up: {need} {slowest[0].needs:,} of the "
                f"{self.interval:,} cycles from one image to the next")
        if slowest[0].starved:
            text += f", and is starved in {slowest[0].starved:,}"
        if not self.steady:
            text += " (seen once; whether it repeats takes more images)"
        return text

    def as_json(self) -> dict[str, Any]:
        """As the command line prints it, under ``layers``."""
        return {
            "interval": self.interval, "steady": self.steady,
            "slowest": [layer.name for layer in self.slowest],
            "rows": [{
                "name": layer.name, "type": layer.type, "lanes": layer.lanes, "simd": layer.simd,
                "busy": layer.busy, "starved": layer.starved, "stalled": layer.stalled,
                "share": round(layer.busy / self.interval, 6), "needs": layer.needs,
                "work": None if layer.work is None else round(layer.work, 6),
                "given": layer.given} for layer in self.layers]}

    def as_text(self) -> str:
        """A table for people, and the verdict."""
        rows = [(layer.name, layer.type, f"{layer.lanes} x {layer.simd}" if layer.lanes else "",
                 f"{layer.needs:,}", f"{layer.busy:,}", f"{layer.starved:,}",
                 f"{layer.stalled:,}",
                 f"{100 * layer.busy / self.interval:.1f} %",
                 "" if layer.work is None else f"{100 * layer.work:.1f} %", f"{layer.given:,}",
                 "<- slowest" if layer in self.slowest else "") for layer in self.layers]
        header = ("layer", "type", "P x S", "needs", "busy", "starved", "stalled", "share", "work",
                  "out", "")
        return table(header, rows, left=(0, 1, 10)) + f"\n{self.verdict}"


def activity(network: Observed, counts: IntArray) -> Activity | None:
    """What the layers did in the latest interval in which the input never ran dry.

    Parameters
    ----------
    network : Observed
        What was simulated.
    counts : array of int64, (intervals, places, COUNTED)
        How often what happened from each image's last logit to that of the next, at each of the
        network's ``places``.

    Returns
    -------
    Activity or None
        None if there was no such interval: all images fit into the pipeline at once.
    """
    fed = np.flatnonzero(counts[:, 0, COUNTED.index("starved")] == 0)
    if not fed.size:
        return None
    last = int(fed[-1])
    span = counts[last]
    layers = [_row(network, name, dict(zip(COUNTED, map(int, row), strict=True)))
              for name, row in zip(network.places, span, strict=True)]
    # While buffers fill, more enters a layer than leaves it.
    full = bool((span[:, COUNTED.index("given")] == _values(network)).all())
    return Activity(interval=layers[0].cycles, layers=layers,
                    steady=full and last > 0 and bool((counts[last - 1] == span).all()))


def _values(network: Observed) -> list[int]:
    """Transfers of one image that each of the ``places`` hands on."""
    tensors = network.model.tensors
    return [network.model.input.size, *(tensors[name].size // network.pixels(name)
                                        for name in network.places[1:])]


def _row(network: Observed, name: str, counted: dict[str, int]) -> LayerActivity:
    model = network.model
    if name == INPUT:
        return LayerActivity(name=name, type="", lanes=0, simd=0, work=None,
                             needs=model.input.size, **counted)
    layer = next(layer for layer in model.layers if layer.name == name)
    kind = next(kind for kind, cls in LAYER_TYPES.items() if type(layer) is cls)
    stage = network.network.stages[name]
    if not isinstance(stage, (LayerEngine, FrameEngine)):
        return LayerActivity(name=name, type=kind, lanes=0, simd=0, work=None,
                             needs=_needs(network, layer),
                             **counted)
    choice: Folding | Framed
    if isinstance(stage, LayerEngine):
        choice, terms, needs = stage.folded.folding, stage.folded.terms, stage.folded.cycles
    else:
        choice, terms, needs = stage.framed.framed, stage.framed.terms, stage.framed.cycles
    lane_cycles = counted["busy"] * choice.lanes * choice.simd * choice.pixels
    work = terms / lane_cycles if lane_cycles else 0.0
    return LayerActivity(name=name, type=kind, lanes=choice.lanes, simd=choice.simd, work=work,
                         needs=needs, **counted)


def _needs(network: Observed, layer: Layer) -> int:
    """Cycles that a layer without weights takes for an image if it never waits."""
    sizes = [network.model.tensors[name].size // network.pixels(name) for name in layer.inputs]
    return sum(sizes) if isinstance(layer, Concat) else sizes[0]


def count(simulation: Simulation, network: Observed, images: IntArray, *,
          patience: int) -> IntArray:
    """Counts for :func:`activity` from a compiled network that is fed without an end.

    Parameters
    ----------
    simulation : Simulation
        Of ``network``, as it is after reset.
    network : Observed
        The gateware.
    images : array of integers, (images, height, width, channels)
        At least one. They are fed over and over until the counts repeat; which values they have
        changes nothing.
    patience : int
        As for an engine.

    Raises
    ------
    Stuck
        If the network is stuck.
    """
    size, classes = network.model.input.size, network.model.output.size
    values = np.resize(np.asarray(images, np.int64).reshape(-1), (_AHEAD + 1) * size)
    taken = 0
    rows: list[IntArray] = []
    for number in range(_IMAGES):
        # From one image's last logit to the next's: a run goes on where the one before ended.
        offered = values[taken % size:]
        run = simulation.run({"i": offered}, {"o": classes},
                             cycles=(patience + 1) * (size + classes),
                             watch=[*network.work.values(), *network.streams.values()],
                             record=False, patience=patience)
        if not run.complete:
            raise Stuck(f"the network is stuck: no transfer in {patience} cycles, in image "
                        f"{number} of those that are fed to count cycles", observed={},
                        offering=(), part=slice(0, 0), finished=0)
        taken += run.counts["i"].transfer
        rows.append(np.array([
            [(work := run.counts[port]).transfer, work.stalled, work.idle,
             run.counts[network.streams.get(name, port)].transfer]
            for name, port in network.work.items()], np.int64))
        if number > 1:
            found = activity(network, np.array(rows[1:]))
            if found is not None and found.steady:
                break
    # What the first image took is no interval.
    return np.array(rows[1:])
