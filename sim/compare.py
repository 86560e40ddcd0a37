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

from .engine import Engine, Trace, Watch

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
    """

    trace: Trace
    expected: IntArray
    labels: IntArray

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
        }


def compare(engine: Engine, model: Model, plan: Plan, images: IntArray, labels: IntArray, *,
            watch: Watch | None = None) -> Comparison:
    """Simulate the network that ``plan`` describes, image after image without a gap."""
    network = Network(model, plan.foldings, memory_register=plan.board.memory_register)
    # Nothing in a network pauses for longer than an image takes from end to end.
    patience = 4 * (plan.latency_cycles + plan.cycles_per_inference) + 1000
    trace = engine(network, images, patience=patience, watch=watch)
    return Comparison(trace=trace, expected=golden.run(model, images), labels=labels)
