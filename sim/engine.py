"""What a simulator of a network has to be able to do, and what it finds out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flightrtl.errors import BuildError
from flightrtl.formats import IntArray

from .observed import Simulated

__all__ = ["Engine", "Streams", "Stuck", "Trace", "Watch", "nothing_moves", "wrong_last"]

Streams = Mapping[str, NDArray[Any]]
"""Payloads of observed streams by port: integers (N,), or ``uint64`` (N, words) if wider than 64
bits, least significant word first."""

Watch = Callable[[int, int], None]
"""Called with the cycles simulated and the images finished so far: once before the first cycle,
then now and then."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Trace:
    """What came out of a network that was fed images without a gap, and when.

    An engine may split the images into parts and simulate each by itself. Every part then starts
    with an empty pipeline, and has its own count of cycles.

    Parameters
    ----------
    logits : array of int64, (images, classes)
    winners : array of int64, (images,)
        The class that the network names with the last logit of each image.
    started, finished : arrays of int64, (images,)
        Clock cycle of the part in which the first value of each image was taken, and the last
        logit given.
    cycles : int
        Cycles simulated, of all parts together.
    seconds : float
        Time that took, building the simulation not counted.
    first : array of int64, (parts,)
        The image that each part begins with.
    build_seconds : float
        Time that it took to build the simulation; short if that was done before.
    cores : int
        Threads that simulated at the same time.
    observed : mapping of str to array
        Payloads of those ports that were to be observed.
    counts : array of int64, (intervals, places, COUNTED), optional
        Of an :class:`~sim.observed.Observed`: how often what happened at each of its ``places``,
        from each image's last logit to that of the next; not necessarily of all images.
    """

    logits: IntArray
    winners: IntArray
    started: IntArray
    finished: IntArray
    cycles: int
    seconds: float
    first: IntArray = field(default_factory=lambda: np.zeros(1, np.int64))
    build_seconds: float = 0.0
    cores: int = 1
    observed: Streams = field(default_factory=dict)
    counts: IntArray | None = None

    @property
    def intervals(self) -> IntArray:
        """Cycles from each image's last logit to that of the next, within each part."""
        return np.delete(np.diff(self.finished), self.first[1:] - 1)

    @property
    def cycles_per_inference(self) -> int | None:
        """Interval between inferences once the pipeline is full: the last of :attr:`intervals`.

        ``None`` for a single image.
        """
        return int(self.intervals[-1]) if len(self.intervals) else None

    @property
    def steady(self) -> bool:
        """Whether all :attr:`intervals` are the same."""
        return len(np.unique(self.intervals)) <= 1

    @property
    def latency_cycles(self) -> int:
        """From the first value of the first image to its last logit: the pipeline was empty."""
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
    part : slice
        The images that ``observed`` is of.
    finished : int
        How many of them had all their logits, and no value that is known to be wrong.
    """

    def __init__(self, message: str, *, observed: Streams, offering: Collection[str],
                 part: slice, finished: int) -> None:
        super().__init__(message)
        self.observed = observed
        self.offering = offering
        self.part = part
        self.finished = finished


def nothing_moves(patience: int, given: tuple[int, int], taken: tuple[int, int]) -> str:
    """What to say of a network that is stuck.

    Parameters
    ----------
    patience : int
        Cycles in which nothing moved.
    given, taken : (int, int)
        Values that had gone in, and logits that had come out, each with the number that should.
    """
    return (f"the network is stuck: no transfer in {patience} cycles, after {given[0]} of "
            f"{given[1]} values in and {taken[0]} of {taken[1]} logits out")


def wrong_last(cycle: int, logit: int, last: int, classes: int) -> BuildError:
    """What to raise when an image does not end where it should."""
    return BuildError(f"cycle {cycle}: logit {logit} has last = {last}, but an image has "
                      f"{classes} logits")


class Engine(Protocol):
    """A simulator: a function that runs images through a network.

    Parameters
    ----------
    network : Network, Flashed or Observed
        The gateware.
    images : array of integers, (images, height, width, channels)
        Fed back to back, a value in every cycle in which the network takes one.
    patience : int
        Cycles without any transfer after which the network counts as stuck.
    watch : callable, optional
        Progress.
    observe : collection of str
        Ports of an :class:`~sim.observed.Observed` whose payloads to keep: its ``streams``.

    Raises
    ------
    Stuck
        If the network is stuck.
    """

    def __call__(self, network: Simulated, images: IntArray, *, patience: int,
                 watch: Watch | None = None, observe: Collection[str] = ()) -> Trace:
        ...
