"""Images through a compiled network, on all cores."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from flightrtl.formats import IntArray

from .compiler import cores
from .cxxrtl import unpack
from .engine import Stuck, Trace, Watch, nothing_moves, wrong_last
from .observed import Simulated
from .simulation import Design, Simulation, StreamRun

__all__ = ["cores", "run_images"]

_SMALLEST = 16
"""Images in a part, at least: each fills the pipeline anew."""
_PARTS = 8
"""For each core, so that none waits long for another one at the end."""


class _Stop(Exception):
    """Another thread failed, or Ctrl-C."""


class _Work:
    """The parts that are left, what came of the others, and how far all of it is."""

    def __init__(self, design: Design, network: Simulated, images: IntArray,
                 parts: list[slice], patience: int, observe: Collection[str],
                 prepare: Callable[[Simulation], None] | None) -> None:
        self.design = design
        self.images = images
        self.classes = network.model.output.size
        self.layout = network.o.payload.shape()
        self.patience = patience
        self.observe = tuple(observe)
        self.prepare = prepare
        self.left = deque(enumerate(parts))
        self.runs: dict[int, StreamRun] = {}
        self.running: dict[int, tuple[int, int]] = {}
        self.stop = threading.Event()

    def worker(self) -> None:
        """Take parts until none is left; in a thread."""
        simulation = self.design.simulation()
        if self.prepare is not None:
            self.prepare(simulation)
        while True:
            try:
                number, part = self.left.popleft()
            except IndexError:
                return

            def progress(cycles: int, transfers: Mapping[str, int], number: int = number) -> None:
                self.running[number] = cycles, transfers["o"] // self.classes
                if self.stop.is_set():
                    raise _Stop

            images = self.images[part]
            run = simulation.run(
                {"i": images.reshape(-1)}, {"o": len(images) * self.classes},
                cycles=(images.size + 1) * (self.patience + 1), watch=self.observe,
                patience=self.patience, progress=progress)
            if not run.complete:
                raise Stuck(
                    nothing_moves(self.patience, (run.counts["i"].transfer, images.size),
                                  (run.counts["o"].transfer, len(images) * self.classes)),
                    observed={name: run.payloads[name] for name in self.observe},
                    offering=[name for name in self.observe if simulation.get(f"{name}__valid")
                              and not simulation.get(f"{name}__ready")],
                    part=part, finished=run.counts["o"].transfer // self.classes)
            self.check(run)
            self.runs[number] = run

    def check(self, run: StreamRun) -> None:
        """See that images end where they should."""
        last = unpack(run.payloads["o"], self.layout)["last"]
        due = np.arange(1, len(last) + 1) % self.classes == 0
        for logit in np.flatnonzero(last != due)[:1]:
            raise wrong_last(int(run.times["o"][logit]), int(logit), int(last[logit]),
                             self.classes)

    def state(self) -> tuple[int, int]:
        """Cycles simulated and images finished so far."""
        so_far = list(self.running.values())
        return sum(cycles for cycles, _ in so_far), sum(done for _, done in so_far)


def run_images(design: Design, network: Simulated, images: IntArray, *, patience: int,
               watch: Watch | None = None, observe: Collection[str] = (),
               threads: int | None = None, build_seconds: float = 0.0,
               prepare: Callable[[Simulation], None] | None = None) -> Trace:
    """Run images through a design that has the streams ``i`` and ``o`` of a network.

    Parameters
    ----------
    design : Design
        Compiled at whatever level.
    network : Network, Flashed or Observed
        What it is made from: tells the sizes, and what a payload of ``o`` consists of.
    images, patience, watch, observe
        See :class:`~sim.engine.Engine`.
    threads : int, optional
        Cores to use; all by default.
    build_seconds : float
        How long it took to make ``design``, for the trace.
    prepare : callable, optional
        Called with each new instance of the design, to reset it.

    Raises
    ------
    Stuck, BuildError
        If the network is stuck, or its images end in the wrong place.
    """
    threads = threads or cores()
    size = max(_SMALLEST, -(-len(images) // (threads * _PARTS)))
    number = max(len(images) // size, 1)  # rounded down: a small part is mostly pipeline filling
    edges = np.linspace(0, len(images), number + 1).astype(np.int64)
    parts = [slice(a, b) for a, b in itertools.pairwise(edges.tolist()) if a < b]
    work = _Work(design, network, images, parts, patience, observe, prepare)
    threads = min(threads, max(len(parts), 1))
    start = time.perf_counter()
    if watch is not None:
        watch(0, 0)
    with ThreadPoolExecutor(threads) as pool:
        pending = {pool.submit(work.worker) for _ in range(threads)}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.2)
                for future in done:
                    future.result()
                if watch is not None and work.running:
                    watch(*work.state())
        finally:
            work.stop.set()
    seconds = time.perf_counter() - start
    runs = [work.runs[n] for n in range(len(parts))]
    classes, pixels = work.classes, network.model.input.size
    none = np.zeros(0, np.int64)
    fields = unpack(np.concatenate([run.payloads["o"] for run in runs] or [none]), work.layout)
    return Trace(
        logits=fields["logit"].reshape(-1, classes),
        winners=fields["winner"][classes - 1::classes],
        started=np.concatenate([none, *(run.times["i"][::pixels] for run in runs)]),
        finished=np.concatenate([none, *(run.times["o"][classes - 1::classes] for run in runs)]),
        cycles=sum(run.cycles for run in runs), seconds=seconds, first=edges[:-1],
        build_seconds=build_seconds, cores=threads,
        observed={name: np.concatenate([run.payloads[name] for run in runs])
                  for name in observe if runs})
