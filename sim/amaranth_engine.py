"""The network in Amaranth's own simulator: slow, and there wherever Amaranth is."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from flightrtl.errors import BuildError
from flightrtl.formats import IntArray
from flightrtl.gateware import Network

from .engine import Trace, Watch

__all__ = ["simulate"]

_PERIOD = 1e-6  # simulated seconds per cycle; nothing depends on it
_WATCH_CYCLES = 64  # between two looks at the progress


def simulate(network: Network, images: IntArray, *, patience: int,
             watch: Watch | None = None) -> Trace:
    """Run images through a network; see :class:`~sim.engine.Engine`."""
    values = np.asarray(images).reshape(-1).tolist()
    size = network.model.input.size
    classes = network.model.output.size
    logits: list[int] = []
    winners: list[int] = []
    started: list[int] = []
    finished: list[int] = []
    cycle = 0

    async def bench(ctx: Any) -> None:
        nonlocal cycle
        i, o = network.i, network.o
        sent = 0
        active = 0  # the cycle of the latest transfer
        ctx.set(o.ready, 1)
        ctx.set(i.payload, values[0])
        ctx.set(i.valid, 1)
        while len(finished) < len(images):
            _, _, taken, given, payload = await ctx.tick().sample(i.ready, o.valid, o.payload)
            if taken and sent < len(values):
                if sent % size == 0:
                    started.append(cycle)
                sent += 1
                active = cycle
                if sent < len(values):
                    ctx.set(i.payload, values[sent])
                else:
                    ctx.set(i.valid, 0)
            if given:
                active = cycle
                logits.append(payload.logit)
                if payload.last:
                    winners.append(payload.winner)
                    finished.append(cycle)
                if payload.last != (len(logits) % classes == 0):
                    raise BuildError(f"cycle {cycle}: logit {len(logits) - 1} has last = "
                                     f"{payload.last}, but an image has {classes} logits")
            if cycle - active > patience:
                raise BuildError(
                    f"the network is stuck: no transfer in {patience} cycles, after {sent} of "
                    f"{len(values)} values in and {len(logits)} of {len(images) * classes} "
                    "logits out")
            cycle += 1
            if watch is not None and cycle % _WATCH_CYCLES == 0:
                watch(cycle, len(finished))

    simulator = Simulator(network)
    simulator.add_clock(_PERIOD)
    simulator.add_testbench(bench)
    start = time.perf_counter()
    if values:
        simulator.run()
    return Trace(
        logits=np.array(logits, np.int64).reshape(-1, classes),
        winners=np.array(winners, np.int64), started=np.array(started, np.int64),
        finished=np.array(finished, np.int64), cycles=cycle, seconds=time.perf_counter() - start)
