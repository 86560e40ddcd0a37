# amaranth: UnusedElaboratable=no
# (Of a network whose bitstream is simulated, only the model is asked.)
"""Runs images through a network and compares all that comes out with the golden model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from flightrtl import golden
from flightrtl.formats import IntArray
from flightrtl.gateware import Network
from flightrtl.model import Model
from flightrtl.planner import Plan

from .engine import Engine, Stuck, Trace, Watch
from .flash import with_flash
from .layers import Activity, activity
from .observed import Observed
from .tracing import LayerTraces, compare_layers

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """Outcome of a simulation.

    Parameters
    ----------
    trace : Trace
        What the gateware did.
    expected : array of int64, (images, classes)
        The golden model's logits.
    labels : array of integers, (images,)
        What is on the images.
    activity : Activity, optional
        What each layer did, where that was observed for long enough.
    layers : LayerTraces, optional
        Each layer's output beside the golden model, where that was asked for.
    """

    trace: Trace
    expected: IntArray
    labels: IntArray
    activity: Activity | None = None
    layers: LayerTraces | None = None

    @property
    def images(self) -> int:
        """How many images there were."""
        return len(self.expected)

    @property
    def correct(self) -> int:
        """Images whose class the gateware named."""
        return int((self.trace.winners == self.labels).sum())

    @property
    def mismatches(self) -> int:
        """Logits and winners of the gateware that differ from the golden model's."""
        return int((self.trace.logits != self.expected).sum()
                   + (self.trace.winners != self.expected.argmax(axis=1)).sum())

    @property
    def first_wrong(self) -> int | None:
        """The first image with a mismatch, be it of an inner layer."""
        wrong = ((self.trace.logits != self.expected).any(axis=1)
                 | (self.trace.winners != self.expected.argmax(axis=1)))
        images = [int(wrong.argmax())] if wrong.any() else []
        if self.layers is not None:
            images += [layer.first.image for layer in self.layers.layers if layer.first]
        return min(images, default=None)

    def differences(self) -> Iterator[str]:
        """Each mismatch in words."""
        for image, name in np.argwhere(self.trace.logits != self.expected):
            yield (f"image {image}: logit {name} is {self.trace.logits[image, name]}, "
                   f"must be {self.expected[image, name]}")
        winners = self.expected.argmax(axis=1)
        for image, in np.argwhere(self.trace.winners != winners):
            yield (f"image {image}: the winner is {self.trace.winners[image]}, "
                   f"must be {winners[image]}")

    def as_json(self) -> dict[str, Any]:
        """The outcome as the command line prints it."""
        return {
            "images": self.images,
            "correct": self.correct,
            "top1": self.correct / self.images,
            "mismatches": self.mismatches,
            "cycles_per_inference": self.trace.cycles_per_inference,
            "steady": self.trace.steady,
            "latency_cycles": self.trace.latency_cycles,
            "simulated_cycles": self.trace.cycles,
            "simulated_cycles_per_second": round(self.trace.cycles_per_second, 1),
            "simulation_seconds": round(self.trace.seconds, 3),
            "build_seconds": round(self.trace.build_seconds, 3),
            "cores": self.trace.cores,
            "layers": None if self.activity is None else self.activity.as_json(),
            **({} if self.layers is None else {"trace": self.layers.as_json()}),
        }


def compare(engine: Engine, model: Model, plan: Plan, images: IntArray, labels: IntArray, *,
            watch: Watch | None = None, observe: bool = False,
            trace_layers: bool = False) -> Comparison:
    """Simulate the network that ``plan`` describes, image after image without a gap.

    Parameters
    ----------
    engine : Engine
        The simulator.
    model, plan, images, labels
        What to simulate.
    watch : callable, optional
        Progress.
    observe : bool
        Look at what each layer does, too. The engine must be one of the gateware's source.
    trace_layers : bool
        With ``observe``: compare all that each layer hands on with the golden model.

    Raises
    ------
    Stuck
        If the network is stuck; with ``trace_layers`` the message names the first layer that is
        wrong.
    """
    network = with_flash(Network(model, plan.foldings, queues=plan.queues,
                                 memory_register=plan.board.memory_register))
    # Nothing in a network pauses for longer than an image takes from end to end.
    patience = 4 * (plan.latency_cycles + plan.cycles_per_inference) + 1000
    expected = golden.run(model, images)
    if not observe:
        trace = engine(network, images, patience=patience, watch=watch)
        return Comparison(trace=trace, expected=expected, labels=labels)
    observed = Observed(network)
    try:
        trace = engine(observed, images, patience=patience, watch=watch,
                       observe=list(observed.streams.values()) if trace_layers else ())
    except Stuck as stuck:
        if not trace_layers:
            stuck.knob = "--trace-layers, which names the first layer that is wrong"
        if not stuck.observed:
            raise
        found = compare_layers(observed, images[stuck.part], stuck.observed,
                               offering=stuck.offering, first_image=stuck.part.start)
        wrong = [layer.first.image - stuck.part.start for layer in found.layers if layer.first]
        raise Stuck(f"{stuck}\n{found.as_text()}\n{found.verdict}", observed=stuck.observed,
                    offering=stuck.offering, part=stuck.part,
                    finished=min([stuck.finished, *wrong])) from stuck
    return Comparison(
        trace=trace, expected=expected, labels=labels,
        activity=None if trace.counts is None else activity(observed, trace.counts),
        layers=compare_layers(observed, images, trace.observed) if trace_layers else None)
