"""The network as compiled code: some hundred times as fast as Amaranth's simulator."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace

from flightrtl.formats import IntArray
from flightrtl.progress import Progress

from . import cxxrtl
from .engine import Trace, Watch
from .layers import count
from .observed import Observed, Simulated
from .parallel import run_images

__all__ = ["CxxrtlEngine"]


class CxxrtlEngine:
    """An :class:`~sim.engine.Engine` that compiles the network through CXXRTL.

    Parameters
    ----------
    progress : Progress, optional
        Told of the compilation, in a step that the caller has begun.
    threads : int, optional
        Cores to use; all by default.
    """

    def __init__(self, *, progress: Progress | None = None, threads: int | None = None) -> None:
        self._progress = progress
        self._threads = threads

    def __call__(self, network: Simulated, images: IntArray, *, patience: int,
                 watch: Watch | None = None, observe: Collection[str] = ()) -> Trace:
        """Run images through a network; see :class:`~sim.engine.Engine`."""
        start = time.perf_counter()
        design = cxxrtl.build(network, progress=self._progress)
        seconds = time.perf_counter() - start
        trace = run_images(design, network, images, patience=patience, watch=watch,
                           observe=observe, threads=self._threads, build_seconds=seconds)
        if isinstance(network, Observed) and len(images):
            counts = count(design.simulation(), network, images, patience=patience)
            trace = replace(trace, counts=counts)
        return trace
