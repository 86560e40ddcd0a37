"""The network in Amaranth's own simulator: slow, and there wherever Amaranth is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from contextlib import nullcontext
from typing import IO, Any

import numpy as np
from amaranth import Const, Value
from amaranth.sim import Simulator
from numpy.typing import NDArray

from flightrtl.formats import IntArray

from .engine import Stuck, Trace, Watch, nothing_moves, wrong_last
from .observed import Observed, Simulated

__all__ = ["simulate"]

_PERIOD = 1e-6  # simulated seconds per cycle; only waveforms show it
_WATCH_CYCLES = 64  # between two looks at the progress


def simulate(network: Simulated, images: IntArray, *, patience: int,
             watch: Watch | None = None, observe: Collection[str] = (),
             waveform: IO[str] | None = None, period: float = _PERIOD) -> Trace:
    """Run images through a network; see :class:`~sim.engine.Engine`.

    Parameters
    ----------
    network, images, patience, watch, observe
        As for any engine.
    waveform : text file, optional
        Where to write a waveform of all signals, in the format VCD.
    period : float
        Clock period in seconds, for the waveform.
    """
    values = np.asarray(images).reshape(-1).tolist()
    size = network.model.input.size
    classes = network.model.output.size
    logits: list[int] = []
    winners: list[int] = []
    started: list[int] = []
    finished: list[int] = []
    cycle = 0
    taps = {name: getattr(network, name) for name in observe}
    kept: dict[str, list[int]] = {name: [] for name in taps}
    offering: set[str] = set()
    flags = network.flags if isinstance(network, Observed) else Const(0)
    seen: Counter[int] = Counter()
    counts: list[IntArray] = []
    members = [value for tap in taps.values()
               for value in (tap.valid, tap.ready, Value.cast(tap.payload).as_unsigned())]

    async def bench(ctx: Any) -> None:
        nonlocal cycle
        i, o = network.i, network.o
        sent = 0
        active = 0  # the cycle of the latest transfer
        ctx.set(o.ready, 1)
        ctx.set(i.payload, values[0])
        ctx.set(i.valid, 1)
        while len(finished) < len(images):
            _, _, taken, given, payload, now, *tapped = await ctx.tick().sample(
                i.ready, o.valid, o.payload, flags, *members)
            seen[now] += 1
            for n, name in enumerate(taps):
                valid, ready, value = tapped[3 * n:3 * n + 3]
                if valid and ready:
                    kept[name].append(value)
                if valid and not ready:
                    offering.add(name)
                else:
                    offering.discard(name)
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
                    if isinstance(network, Observed):
                        counts.append(network.tally(seen))
                        seen.clear()
                if payload.last != (len(logits) % classes == 0):
                    raise wrong_last(cycle, len(logits) - 1, payload.last, classes)
            if cycle - active > patience:
                raise Stuck(
                    nothing_moves(patience, (sent, len(values)),
                                  (len(logits), len(images) * classes)),
                    observed=observed(), offering=offering, part=slice(0, len(images)),
                    finished=len(finished))
            cycle += 1
            if watch is not None and cycle % _WATCH_CYCLES == 0:
                watch(cycle, len(finished))

    def observed() -> dict[str, NDArray[Any]]:
        return {name: _words(kept[name], len(Value.cast(tap.payload)))
                for name, tap in taps.items()}

    before = time.perf_counter()
    simulator = Simulator(network)
    simulator.add_clock(period)
    simulator.add_testbench(bench)
    start = time.perf_counter()
    if watch is not None:
        watch(0, 0)
    with simulator.write_vcd(waveform) if waveform is not None else nullcontext():
        if values:
            simulator.run()
    return Trace(
        logits=np.array(logits, np.int64).reshape(-1, classes),
        winners=np.array(winners, np.int64), started=np.array(started, np.int64),
        finished=np.array(finished, np.int64), cycles=cycle, seconds=time.perf_counter() - start,
        build_seconds=start - before, observed=observed(),
        # The first image takes more than an interval.
        counts=np.array(counts[1:]) if len(counts) > 1 else None)


def _words(values: list[int], width: int) -> NDArray[np.uint64]:
    """Payloads of ``width`` bits as 64-bit words: (N,), or (N, words) if they are several."""
    words = max(1, -(-width // 64))
    raw = b"".join(value.to_bytes(8 * words, "little") for value in values)
    array = np.frombuffer(raw, "<u8").astype(np.uint64).reshape(-1, words)
    return array[:, 0] if words == 1 else array
