"""What a simulator of a network has to be able to do, and what it finds out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from flightrtl.formats import IntArray
from flightrtl.gateware import Network

__all__ = ["Engine", "Trace", "Watch"]

Watch = Callable[[int, int], None]
"""Called now and then with the cycles simulated and the images finished so far."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Trace:
    """What came out of a network that was fed images without a gap, and when.

    Parameters
    ----------
    logits : array of int64, (images, classes)
    winners : array of int64, (images,)
        The class that the network names with the last logit of each image.
    started, finished : arrays of int64, (images,)
        Clock cycle in which the first value of each image was taken, and the last logit given.
    cycles : int
        Cycles simulated.
    seconds : float
        Time that took, building the simulation not counted.
    """

    logits: IntArray
    winners: IntArray
    started: IntArray
    finished: IntArray
    cycles: int
    seconds: float

    @property
    def intervals(self) -> IntArray:
        """Cycles from each image's last logit to that of the next."""
        return np.diff(self.finished)

    @property
    def cycles_per_inference(self) -> int | None:
        """Interval between inferences once the pipeline is full: the last of :attr:`intervals`.

        ``None`` for a single image.
        """
        return int(self.intervals[-1]) if len(self.intervals) else None

    @property
    def latency_cycles(self) -> int:
        """From the first value of an image to its last logit, in a pipeline that was empty."""
        return int(self.finished[0] - self.started[0])

    @property
    def cycles_per_second(self) -> float:
        """Speed of the simulation."""
        return self.cycles / max(self.seconds, 1e-9)


class Engine(Protocol):
    """A simulator: a function that runs images through a network.

    Parameters
    ----------
    network : Network
        The gateware.
    images : array of integers, (images, height, width, channels)
        Fed back to back, a value in every cycle in which the network takes one.
    patience : int
        Cycles without any transfer after which the network counts as stuck.
    watch : callable, optional
        Progress.

    Raises
    ------
    BuildError
        If the network is stuck.
    """

    def __call__(self, network: Network, images: IntArray, *, patience: int,
                 watch: Watch | None = None) -> Trace:
        ...
