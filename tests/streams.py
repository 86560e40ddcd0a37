"""Drives components through their streams, with random stalls, and checks the stream rules.

A test is then data only: what goes in, what must come out.

>>> run = run_streams(dut, {"i": [1, 2, 3]}, {"o": 3}, seed=1, stall=0.5)      # doctest: +SKIP
>>> run["o"]                                                                   # doctest: +SKIP
[2, 4, 6]
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from amaranth import Const, Value
from amaranth.lib import stream, wiring
from amaranth.sim import Simulator

from flightrtl.formats import IntArray

__all__ = ["PERIOD", "Pauses", "Run", "as_map", "as_transfers", "get", "put", "run_streams"]

PERIOD = 1e-6
"""Clock period of simulations, in simulated seconds; its value changes nothing."""


def as_transfers(maps: IntArray, pixels: int) -> list[Any]:
    """What a stream carries for (n, height, width, channels) maps, ``pixels`` at a time."""
    n, height, width, channels = maps.shape
    groups = maps.reshape(n, height, width // pixels, pixels, channels).swapaxes(3, 4)
    values: list[Any] = groups.reshape(-1, pixels).tolist()
    return values if pixels > 1 else [value for value, in values]


def as_map(transfers: Sequence[Any], shape: tuple[int, int, int], pixels: int) -> IntArray:
    """The maps that a stream carried: the reverse of :func:`as_transfers`."""
    height, width, channels = shape
    values = [[transfer[n] for n in range(pixels)] if pixels > 1 else [transfer]
              for transfer in transfers]
    groups = np.array(values, np.int64).reshape(-1, height, width // pixels, channels, pixels)
    return groups.swapaxes(3, 4).reshape(-1, height, width, channels)


async def put(ctx: Any, target: stream.Interface, payload: Any) -> None:
    """Transfer one payload into ``target``."""
    ctx.set(target.payload, payload)
    ctx.set(target.valid, 1)
    await ctx.tick().until(target.ready)
    ctx.set(target.valid, 0)


async def get(ctx: Any, source: stream.Interface) -> Any:
    """Transfer one payload out of ``source`` and return it."""
    ctx.set(source.ready, 1)
    payload, = await ctx.tick().sample(source.payload).until(source.valid)
    ctx.set(source.ready, 0)
    return payload


class Pauses(NamedTuple):
    """Stalls that last: long pauses fill and empty the buffers that single cycles do not.

    Parameters
    ----------
    share : float
        Part of the cycles in which the stream pauses, 0 to below 1.
    length : float
        Mean cycles of a pause; ``1 / (1 - share)`` is as long as they are by chance alone.
    """

    share: float
    length: float


class Run(dict[str, list[Any]]):
    """What came out, by stream, and when.

    Members
    -------
    cycles : dict of list of int
        For every stream, inputs too, the clock cycle of each transfer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cycles: dict[str, list[int]] = {}


class _End:
    """One end of a stream, as the test bench sees it."""

    def __init__(self, dut: wiring.Component, name: str, seed: int,
                 stall: float | Pauses) -> None:
        self.name = name
        # An element of an array of streams is a part of the name, too.
        self.stream: stream.Interface = dut
        for part in name.split("."):
            self.stream = self.stream[int(part)] if part.isdecimal() else getattr(
                self.stream, part)
        self.random = random.Random(f"{seed} {name}")
        if not isinstance(stall, Pauses):
            stall = Pauses(stall, 1 / (1 - stall))
        self.stall = stall.share
        # Chances that a pause begins, and that one goes on: equal where it is chance alone.
        self.chances = stall.share / (1 - stall.share) / stall.length, 1 - 1 / stall.length
        self.pauses = False
        self.cycles: list[int] = []

    def stalls(self) -> bool:
        self.pauses = self.random.random() < self.chances[self.pauses]
        return self.pauses


class _Source(_End):
    """Offers payloads. What it offers stays until it is taken."""

    def __init__(self, *end: Any, payloads: Sequence[Any]) -> None:
        super().__init__(*end)
        self.payloads = payloads
        self.offering = False
        self.always_valid = isinstance(self.stream.valid, Const)
        if self.always_valid and self.stall:
            raise ValueError(f"input {self.name} is always valid: stall must be 0 for it")

    @property
    def done(self) -> bool:
        return len(self.cycles) == len(self.payloads)

    def prepare(self, ctx: Any) -> None:
        if self.offering:
            return
        if not self.done and not self.stalls():
            ctx.set(self.stream.payload, self.payloads[len(self.cycles)])
            self.offering = True
        if not self.always_valid:
            ctx.set(self.stream.valid, self.offering)

    def finish(self, cycle: int, ready: int) -> None:
        if self.offering and ready:
            self.cycles.append(cycle)
            self.offering = False


class _Sink(_End):
    """Takes payloads and watches that they keep the rules.

    For some transfers, drawn at random, it waits for valid before it raises ready: a component
    that waits for ready instead, which the rules forbid, never gets there.
    """

    def __init__(self, *end: Any, count: int) -> None:
        super().__init__(*end)
        self.count = count
        self.payloads: list[Any] = []
        self.always_ready = isinstance(self.stream.ready, Const)
        if self.always_ready and self.stall:
            raise ValueError(f"output {self.name} is always ready: stall must be 0 for it")
        self.ready = self.always_ready
        self.waits = self.stalls()
        self.pending: Any = None

    @property
    def done(self) -> bool:
        return len(self.payloads) >= self.count

    def prepare(self, ctx: Any) -> None:
        if self.always_ready:
            return
        ready = not self.stalls() and not (self.waits and self.pending is None)
        if ready != self.ready:
            ctx.set(self.stream.ready, ready)
            self.ready = ready

    def finish(self, cycle: int, valid: int, raw: int, payload: Any) -> None:
        if self.pending is not None:
            assert valid, f"{self.name}: cycle {cycle}: valid fell before the transfer"
            assert raw == self.pending, f"{self.name}: cycle {cycle}: payload changed while stalled"
        if not valid:
            return
        if not self.ready:
            self.pending = raw
            return
        assert not self.done, (
            f"{self.name}: cycle {cycle}: a transfer more than {self.count}: {payload}")
        self.payloads.append(payload)
        self.cycles.append(cycle)
        self.pending = None
        self.waits = self.stalls()


def run_streams(dut: wiring.Component, inputs: Mapping[str, Sequence[Any]],
                outputs: Mapping[str, int], *, seed: int = 0,
                stall: float | Pauses | Mapping[str, float | Pauses] = 0.0, timeout: int = 10_000,
                idle: int = 16, beside: Sequence[Callable[[Any], Any]] = ()) -> Run:
    """Feed a component's input streams and collect its output streams.

    Checked on every output: valid stays until the transfer, the payload stays with it, valid does
    not wait for ready, and no transfer follows the last expected one.

    Parameters
    ----------
    dut : wiring.Component
        The component, of the ``sync`` domain.
    inputs : mapping of str to sequence
        Payloads by name of the stream (``"i"``, or dotted for a nested one or one of an array).
    outputs : mapping of str to int
        Number of transfers to expect, by name of the stream.
    seed : int
        Of the stalls. Equal seeds give equal runs.
    stall : float, Pauses, or mapping of str to these
        Probability, 0 to below 1, that a stream pauses in a cycle, for all or by name (those not
        named do not stall); or :class:`Pauses` that last. With 0, sources are always valid and
        sinks always ready.
    timeout : int
        Cycles after which a run that is not done fails.
    idle : int
        Cycles to go on after the last transfer, to see that no other one follows.
    beside : sequence of async callable
        Testbenches that look on, without end.

    Returns
    -------
    Run
        Payloads by name of the output; ``.cycles`` has the clock cycle of every transfer.

    Raises
    ------
    AssertionError
        A rule was broken, or the run is not done in time; the message names stream and cycle.
    """
    def ends(kind: type, streams: Mapping[str, Any], parameter: str) -> list[Any]:
        result = []
        for name, value in streams.items():
            probability = stall.get(name, 0.0) if isinstance(stall, Mapping) else stall
            share = probability.share if isinstance(probability, Pauses) else probability
            if not 0 <= share < 1:
                raise ValueError(f"stall must be 0 to below 1, not {share}")
            result.append(kind(dut, name, seed, probability, **{parameter: value}))
        return result

    sources: list[_Source] = ends(_Source, inputs, "payloads")
    sinks: list[_Sink] = ends(_Sink, outputs, "count")
    everything: list[_Source | _Sink] = [*sources, *sinks]
    watched = [source.stream.ready for source in sources]
    for sink in sinks:
        payload = sink.stream.payload
        watched += [sink.stream.valid, Value.cast(payload).as_unsigned(), payload]

    async def bench(ctx: Any) -> None:
        cycle = finished = 0
        while True:
            for end in everything:
                end.prepare(ctx)
            _, _, *values = await ctx.tick().sample(*watched)
            sampled = iter(values)
            for source in sources:
                source.finish(cycle, next(sampled))
            for sink in sinks:
                sink.finish(cycle, next(sampled), next(sampled), next(sampled))
            cycle += 1
            if all(end.done for end in everything):
                finished += 1
                if finished > idle:
                    return
            elif cycle >= timeout:
                state = ", ".join(f"{end.name} {len(end.cycles)} of {total}" for end, total in (
                    *((source, len(source.payloads)) for source in sources),
                    *((sink, sink.count) for sink in sinks)))
                raise AssertionError(f"not done after {timeout} cycles; transfers: {state}")

    simulator = Simulator(dut)
    simulator.add_clock(PERIOD, if_exists=True)
    simulator.add_testbench(bench)
    for other in beside:
        simulator.add_testbench(other, background=True)
    simulator.run()

    run = Run()
    for end in everything:
        run.cycles[end.name] = end.cycles
    for sink in sinks:
        run[sink.name] = sink.payloads
    return run
