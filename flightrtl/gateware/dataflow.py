"""How deep the queues before additions and concatenations must be, for a network never to deadlock.

Where a result goes two ways that meet again in an addition, the addition needs a value of both
at a time; in a concatenation, it needs all channels of a pixel of one, then those of the other. If
one way holds back more than the other can store (a convolution gives nothing until
it has some rows, and what feeds both ways may not run ahead), nothing moves any more. A queue in
the other way prevents that. This module computes how deep it must be, from what every layer needs
and what it can hold, and from nothing that depends on time.

**What layers promise.** Let a layer have consumed ``c`` values of an image, and let ``n`` of its
results be gone. For two functions that never decrease:

1. If ``c >= needs(n + 1)``, result ``n + 1`` is offered sooner or later, and remains so.
2. If ``c < takes(n)``, it is ready sooner or later, and remains so until it has taken a value.
   ``takes(n) >= needs(n + 1)``, so it is always waiting for a value or for somebody to take one.

For an engine, ``needs`` counts whole rows of its input, and ``takes`` the rows that its line
buffer holds beyond those that the rows of results behind it have released. An engine with a frame
buffer needs the whole map for its first result, and takes it whatever becomes of its results. A
hard-wired layer needs a result's window, and takes those of a few results more, which its
registers hold. For pooling, ``needs`` is the place of the last value of a window, and two results
fit into its registers. An addition takes its operands in pairs, and one pair more than results are
gone. A concatenation takes its operands in the order of the result's channels, and one value more
than results are gone. A queue takes a value while it holds less than ``depth``. A fork hands a
value to each taker as soon as all have the one before.

**A schedule is enough.** Suppose that one order of transfers exists that brings an image through
the network and breaks no promise: nothing is offered before (1) says so, nothing taken beyond
(2), no queue holds more than its depth. Then the network cannot deadlock, whatever stalls there
are. For assume that it did, and take the first transfer in this order, say the ``n``-th of a
stream, that never happens. All before it have happened. So who gives it has consumed at least as
much as in the schedule, and offers it by (1). Who takes it has as many values of this stream as
in the schedule, and has handed on at least as many results, so that by (2) it is ready; a queue
is not fuller, and a fork has no older value to deliver, by the same argument. Both remain so,
and the transfer happens: a contradiction. After an image everything is as it was before (a line
buffer releases its last row, a frame buffer its map, an addition has had as many values of one
operand as of the other, a concatenation whole pixels of all), so that the schedule repeats for
the next.

:func:`completes` builds such a schedule greedily. As more can only happen by what already has
(all promises are monotone), the order in which it tries things is of no matter: if the greedy one
ends early, so does every other, as far as the promises go. :func:`least_depths` therefore finds
depths of which none can be lowered alone. For a queue that a fork feeds directly beside a single
engine, the promises are exact (an engine can give nothing before its rows are complete), so that
with one place less the gateware does deadlock.

See T. M. Parks, "Bounded Scheduling of Process Networks" (University of California at Berkeley,
1995), for networks of this kind, and that finite queues make deadlocks but never wrong values.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

import numpy as np

from ..formats import IntArray
from ..model import INPUT, Add, Join, Model, WeightedLayer
from .engine import LayerEngine
from .frameengine import FrameEngine
from .hardwired import HardwiredLayer
from .pool import MaxPooling, SumPooling

__all__ = ["Depths", "completes", "direct", "least_depths"]

Stage = LayerEngine | HardwiredLayer | FrameEngine | MaxPooling | SumPooling
Depths = Mapping[str, tuple[int, ...]]
"""For each addition or concatenation, by its name: the depths of the queues before its operands, 0
for none."""


class _Flow:
    """``needs`` and ``takes`` of a layer for one image, in transfers; see the module."""

    def __init__(self, stage: Stage) -> None:
        if isinstance(stage, LayerEngine):
            window = stage.window
            self.inputs = window.shape[0] * window.transfers
            per_row = window.output[1] // window.pixels * stage.folded.layer.filters
            rows, released = [], [0]
            for step in window.steps:
                rows.append(released[-1] + step.rows)
                released.append(released[-1] + step.release)
            needs = np.repeat(rows, per_row) * window.transfers
            # With so many rows of results gone, so many rows can have been consumed.
            limits = np.minimum(np.array(released) + window.ring.rows, window.shape[0])
            takes = np.append(np.repeat(limits[:-1], per_row), limits[-1]) * window.transfers
        elif isinstance(stage, FrameEngine):
            self.inputs = stage.framed.source.size
            needs = np.full(stage.framed.pixels * stage.framed.layer.filters, self.inputs)
            takes = np.full(len(needs) + 1, self.inputs)
        elif isinstance(stage, HardwiredLayer):
            self.inputs = stage.source.size
            needs, takes = self._hardwired(stage)
        else:
            self.inputs = int(np.prod(stage.shape)) // stage.pixels
            needs = self._ends(stage)
            # One more result in the register before the output: what follows it must wait.
            takes = np.append(needs[1:], [self.inputs] * 2)
        self.outputs = len(needs)
        self._needs: list[int] = needs.tolist()
        self._takes: list[int] = takes.tolist()

    @staticmethod
    def _hardwired(stage: HardwiredLayer) -> tuple[IntArray, IntArray]:
        rows, columns = stage.window.rows, stage.window.columns
        steps = [(y < rows.size and x < columns.size, rows.complete(y) and columns.complete(x))
                 for y in range(rows.steps) for x in range(columns.steps)]
        real, ends = np.array(steps).T
        # The transfers up to each window's last pixel.
        windows = np.cumsum(real)[ends] * stage.gatherer.parts
        transfers = stage.layer.filters // stage.filters
        needs = np.repeat(windows[stage.pixels - 1::stage.pixels], transfers)
        # When nothing moves any more, the serializer has whole pixels, and three registers a window
        # each: before the serializer, behind the sums, and the window's own. Or two of them are in
        # the buffer behind the requantizers.
        held = np.arange(len(needs)) // transfers * stage.pixels + 3
        if stage.serializer is not None:
            held += stage.pixels
        # The next pixel's channels wait before the window, and one or two more in the buffer.
        before = stage.gatherer.parts + 1
        limits = np.append(windows, np.full(held.max(initial=0) + 1, stage.source.size))[held - 1]
        takes = np.minimum(limits + before, stage.source.size)
        return needs, np.append(takes, stage.source.size)

    @staticmethod
    def _ends(pool: MaxPooling | SumPooling) -> IntArray:
        """Transfers up to the last one of each result's windows."""
        (_, width, channels), (rows, columns, _) = pool.shape, pool.output_shape
        last = np.arange(pool.output_pixels - 1, columns, pool.output_pixels)[:, None]
        y = np.arange(rows)[:, None, None] * pool.stride[0] + pool.kernel[0] - 1
        x = (last * pool.stride[1] + pool.kernel[1] - 1) // pool.pixels
        places = (y * (width // pool.pixels) + x) * channels + np.arange(channels)
        return np.asarray(places.reshape(-1) + 1)

    def gives(self, consumed: int) -> int:
        """Results that can be offered."""
        return bisect_right(self._needs, consumed)

    def takes(self, gone: int) -> int:
        """Transfers that can be consumed, with so many results gone."""
        return self._takes[gone]


class _Turns:
    """In which order a join takes its operands; ``None`` channels: one value of each at a time."""

    def __init__(self, channels: list[int] | None) -> None:
        self._channels = channels

    def share(self, operand: int, count: int) -> int:
        """Values of an operand in the first ``count`` results."""
        if self._channels is None:
            return count
        whole, rest = divmod(count, sum(self._channels))
        mine = self._channels[operand]
        return whole * mine + min(max(rest - sum(self._channels[:operand]), 0), mine)

    def results(self, operand: int, values: int) -> int:
        """Results before the one for which it takes more than ``values`` of an operand."""
        if self._channels is None:
            return values
        whole, rest = divmod(values, self._channels[operand])
        return whole * sum(self._channels) + sum(self._channels[:operand]) + rest


def direct(model: Model, join: Join, operand: int) -> bool:
    """Whether an operand may come without a queue.

    That is so before an addition, if it is an engine's result, and no other's. An engine ends in a
    buffer (or begins with one, if it is hard-wired), a queue is one. So no ``ready`` runs through
    an addition and on. A concatenation's
    operands wait for their turn, for which an engine would stop.
    """
    if not isinstance(join, Add):
        return False
    edge = join.inputs[operand]
    takers = sum(layer.inputs.count(edge) for layer in model.layers)
    return takers == 1 and any(layer.name == edge for layer in model.layers
                               if isinstance(layer, WeightedLayer))


class _Schedule:
    """Brings one image through the network, as far as it goes."""

    def __init__(self, model: Model, stages: Mapping[str, Stage]) -> None:
        self.flows = {name: _Flow(stage) for name, stage in stages.items()}
        self.sizes: dict[str, int] = {}
        self.turns = {layer.name: _Turns(None if isinstance(layer, Add) else
                                         [model.tensors[edge].shape[2] for edge in layer.inputs])
                      for layer in model.layers if isinstance(layer, Join)}
        self.takers: dict[str, list[tuple[str, int]]] = {
            name: [] for name in model.tensors}
        for layer in model.layers:
            for operand, edge in enumerate(layer.inputs):
                self.takers[edge].append((layer.name, operand))
                if layer.name in self.flows:
                    self.sizes[edge] = self.flows[layer.name].inputs
        self.sizes.setdefault(INPUT, model.input.size)
        for layer in model.layers:
            self.sizes[layer.name] = (
                self.flows[layer.name].outputs if layer.name in self.flows
                else self.sizes[layer.inputs[0]] if isinstance(layer, Add)
                else sum(self.sizes[edge] for edge in layer.inputs))
        self.layers = model.layers

    def completes(self, depths: Depths) -> bool:
        """Whether every value of every map is given and taken."""
        self.depths = depths
        self.offered = dict.fromkeys(self.sizes, 0)
        self.taken = {taker: 0 for takers in self.takers.values() for taker in takers}
        before = -1
        while before != (now := sum(self.taken.values()) + sum(self.offered.values())):
            before = now
            self._move(self._room())
        return self.offered == self.sizes and all(
            self.taken[taker] == self.sizes[edge]
            for edge, takers in self.takers.items() for taker in takers)

    def _waiting(self, join: Join, operand: int) -> int:
        """Results before one that must wait for this operand, which may have come that far."""
        values = (self.taken[join.name, operand] if self.depths[join.name][operand]
                  else self.offered[join.inputs[operand]])
        return self.turns[join.name].results(operand, values)

    def _room(self) -> dict[tuple[str, int], int]:
        """How much each taker could have in all, if there were no end of its own values.

        And under ``(join, -1)`` the results that it has room for.
        """
        limits: dict[tuple[str, int], int] = {}
        for layer in reversed(self.layers):
            takers = self.takers[layer.name]
            size = self.sizes[layer.name]
            gone = min(map(limits.__getitem__, takers), default=size)
            if isinstance(layer, Join):
                room = limits[layer.name, -1] = min(gone + 1, size)
                waiting = [self._waiting(layer, n) for n in range(len(layer.inputs))]
                for operand, depth in enumerate(self.depths[layer.name]):
                    count = min(room, *waiting[:operand], *waiting[operand + 1:])
                    limits[layer.name, operand] = min(
                        self.turns[layer.name].share(operand, count) + depth,
                        self.sizes[layer.inputs[operand]])
            else:
                limits[layer.name, 0] = self.flows[layer.name].takes(gone)
        return limits

    def _move(self, limits: Mapping[tuple[str, int], int]) -> None:
        """Every transfer for which there is room, from the image on."""
        self._hand_on(INPUT, self.sizes[INPUT], limits)
        for layer in self.layers:
            if isinstance(layer, Join):
                count = min(limits[layer.name, -1],
                            *(self._waiting(layer, n) for n in range(len(layer.inputs))))
                for operand, depth in enumerate(self.depths[layer.name]):
                    if not depth:
                        self.taken[layer.name, operand] = self.turns[layer.name].share(
                            operand, count)
            else:
                count = self.flows[layer.name].gives(self.taken[layer.name, 0])
            self._hand_on(layer.name, count, limits)

    def _hand_on(self, edge: str, count: int, limits: Mapping[tuple[str, int], int]) -> None:
        """Offer ``count`` values of a map: no taker gets more than one ahead of the slowest."""
        takers = self.takers[edge]
        self.offered[edge] = max(self.offered[edge], count)
        all_have = min((min(count, limits[taker]) for taker in takers), default=0)
        for taker in takers:
            self.taken[taker] = max(self.taken[taker], min(count, limits[taker], all_have + 1))


def completes(model: Model, stages: Mapping[str, Stage], depths: Depths) -> bool:
    """Whether a network with queues of these depths cannot deadlock.

    Parameters
    ----------
    model : Model
        The network.
    stages : mapping of str to component
        For every layer but those that join maps, what computes it.
    depths : mapping of str to tuple of int
        Queues before the operands of every layer that joins maps.
    """
    return _Schedule(model, stages).completes(depths)


def least_depths(model: Model, stages: Mapping[str, Stage]) -> dict[str, tuple[int, ...]]:
    """Depths with which a network cannot deadlock, and of which none can be less.

    An operand that may do without a queue (:func:`direct`) has 0 if that suffices, every other
    2 or more.

    Parameters
    ----------
    model, stages
        As for :func:`completes`.
    """
    joins = [layer for layer in model.layers if isinstance(layer, Join)]
    if not joins:
        return {}
    schedule = _Schedule(model, stages)
    # A whole map is always enough: one image after the other.
    depths = {join.name: [max(2, schedule.sizes[edge]) for edge in join.inputs] for join in joins}

    def enough(join: Join, operand: int, depth: int) -> bool:
        before, depths[join.name][operand] = depths[join.name][operand], depth
        if schedule.completes({name: tuple(chosen) for name, chosen in depths.items()}):
            return True
        depths[join.name][operand] = before
        return False

    for join in joins:
        for operand in range(len(join.inputs)):
            if direct(model, join, operand) and enough(join, operand, 0):
                continue
            low, high = 2, depths[join.name][operand]
            while low < high:
                middle = (low + high) // 2
                if enough(join, operand, middle):
                    high = middle
                else:
                    low = middle + 1
    return {name: tuple(chosen) for name, chosen in depths.items()}
