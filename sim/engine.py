"""What a simulator of a network has to be able to do, and what it finds out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flightrtl.errors import BuildError
from flightrtl.formats import IntArray
from flightrtl.gateware import Network

from .observed import Observed

__all__ = ["Engine", "Streams", "Stuck", "Trace", "Watch"]

Streams = Mapping[str, NDArray[Any]]
"""Payloads of observed streams by port: integers (N,), or ``uint64`` (N, words) if wider than 64
bits, least significant word first."""

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
    observed : mapping of str to array
        Payloads of those ports that were to be observed.
    """

    logits: IntArray
    winners: IntArray
    started: IntArray
    finished: IntArray
    cycles: int
    seconds: float
    observed: Streams = field(default_factory=dict)

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


class Stuck(BuildError):
    """Nothing moves any more, and something should.

    Parameters
    ----------
    message : str
        What had moved until then.
    observed : mapping of str to array
        Payloads of those ports that were to be observed, as in :class:`Trace`.
    offering : collection of str
        Those of the ports with a value that nobody had taken.
    first_image : int
        Number of the image that ``observed`` begins with.
    """

    def __init__(self, message: str, *, observed: Streams | None = None,
                 offering: Collection[str] = (), first_image: int = 0) -> None:
        super().__init__(message)
        self.observed = observed or {}
        self.offering = offering
        self.first_image = first_image


class Engine(Protocol):
    """A simulator: a function that runs images through a network.

    Parameters
    ----------
    network : Network or Observed
        The gateware.
    images : array of integers, (images, height, width, channels)
        Fed back to back, a value in every cycle in which the network takes one.
    patience : int
        Cycles without any transfer after which the network counts as stuck.
    watch : callable, optional
        Progress.
    observe : collection of str
        Ports of an :class:`~sim.observed.Observed` whose payloads to keep: ``"counts"`` or one of
        its ``streams``.

    Raises
    ------
    Stuck
        If the network is stuck.
    """

    def __call__(self, network: Network | Observed, images: IntArray, *, patience: int,
                 watch: Watch | None = None, observe: Collection[str] = ()) -> Trace:
        ...
