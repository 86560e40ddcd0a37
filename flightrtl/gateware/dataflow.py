"""How deep the queues before additions must be, for a network never to deadlock.

Where a result goes two ways that meet again in an addition, the addition needs a value of both
at a time. If one way holds back more than the other can store (a convolution gives nothing until
it has some rows, and what feeds both ways may not run ahead), nothing moves any more. A queue in
the other way prevents that. This module computes how deep it must be, from what every layer needs
and what it can hold, and from nothing that depends on time.

**What layers promise.** Let a layer have consumed ``c`` values of an image, and let ``n`` of its
results be gone. For two functions that never decrease:

1. If ``c >= needs(n + 1)``, result ``n + 1`` is offered sooner or later, and remains so.
2. If ``c < takes(n)``, it is ready sooner or later, and remains so until it has taken a value.
   ``takes(n) >= needs(n + 1)``, so it is always waiting for a value or for somebody to take one.

For an engine, ``needs`` counts whole rows of its input, and ``takes`` the rows that its line
buffer holds beyond those that the rows of results behind it have released. For pooling, ``needs``
is the place of the last value of a window, and two results fit into its registers. An addition
takes its operands in pairs, and one pair more than results are gone. A queue takes a value while it
holds less than ``depth``. A fork hands a value to each taker as soon as all have the one before.

**A schedule is enough.** Suppose that one order of transfers exists that brings an image through
the network and breaks no promise: nothing is offered before (1) says so, nothing taken beyond
(2), no queue holds more than its depth. Then the network cannot deadlock, whatever stalls there
are. For assume that it did, and take the first transfer in this order, say the ``n``-th of a
stream, that never happens. All before it have happened. So who gives it has consumed at least as
much as in the schedule, and offers it by (1). Who takes it has as many values of this stream as
in the schedule, and has handed on at least as many results, so that by (2) it is ready; a queue
is not fuller, and a fork has no older value to deliver, by the same argument. Both remain so,
and the transfer happens: a contradiction. After an image everything is as it was before (a line
buffer releases its last row, an addition has had as many values of one operand as of the other),
so that the schedule repeats for the next.

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
from ..model import INPUT, Add, Model, WeightedLayer
from .engine import LayerEngine
from .pool import MaxPooling, SumPooling

__all__ = ["Depths", "completes", "direct", "least_depths"]

Stage = LayerEngine | MaxPooling | SumPooling
Depths = Mapping[str, tuple[int, int]]
"""For each addition, by its name: the depths of the queues before its operands, 0 for none."""


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
        else:
            self.inputs = int(np.prod(stage.shape)) // stage.pixels
            needs = self._ends(stage)
            # One more result in the register before the output: what follows it must wait.
            takes = np.append(needs[1:], [self.inputs] * 2)
        self.outputs = len(needs)
        self._needs: list[int] = needs.tolist()
        self._takes: list[int] = takes.tolist()

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


def direct(model: Model, add: Add, operand: int) -> bool:
    """Whether an operand may come without a queue: if it is an engine's result, and no other's.

    An engine ends in a buffer, a queue is one. So no ``ready`` runs through an addition and on.
    """
    edge = add.inputs[operand]
    takers = sum(layer.inputs.count(edge) for layer in model.layers)
    return takers == 1 and any(layer.name == edge for layer in model.layers
                               if isinstance(layer, WeightedLayer))


class _Schedule:
    """Brings one image through the network, as far as it goes."""

    def __init__(self, model: Model, stages: Mapping[str, Stage]) -> None:
        self.flows = {name: _Flow(stage) for name, stage in stages.items()}
        self.sizes: dict[str, int] = {}
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
                else self.sizes[layer.inputs[0]])
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

    def _waiting(self, add: Add, operand: int) -> int:
        """Values of an operand that have come as far as the addition."""
        if self.depths[add.name][operand]:
            return self.taken[add.name, operand]
        return self.offered[add.inputs[operand]]

    def _room(self) -> dict[tuple[str, int], int]:
        """How much each taker could have in all, if there were no end of its own values.

        And under ``(addition, -1)`` the pairs that it has room for.
        """
        limits: dict[tuple[str, int], int] = {}
        for layer in reversed(self.layers):
            takers = self.takers[layer.name]
            size = self.sizes[layer.name]
            gone = min(map(limits.__getitem__, takers), default=size)
            if isinstance(layer, Add):
                room = limits[layer.name, -1] = min(gone + 1, size)
                for operand, depth in enumerate(self.depths[layer.name]):
                    pairs = min(room, self._waiting(layer, 1 - operand))
                    limits[layer.name, operand] = min(pairs + depth, size)
            else:
                limits[layer.name, 0] = self.flows[layer.name].takes(gone)
        return limits

    def _move(self, limits: Mapping[tuple[str, int], int]) -> None:
        """Every transfer for which there is room, from the image on."""
        self._hand_on(INPUT, self.sizes[INPUT], limits)
        for layer in self.layers:
            if isinstance(layer, Add):
                count = min(limits[layer.name, -1], *(self._waiting(layer, n) for n in (0, 1)))
                for operand, depth in enumerate(self.depths[layer.name]):
                    if not depth:
                        self.taken[layer.name, operand] = count
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
        For every layer but the additions, what computes it.
    depths : mapping of str to (int, int)
        Queues before the operands of every addition.
    """
    return _Schedule(model, stages).completes(depths)


def least_depths(model: Model, stages: Mapping[str, Stage]) -> dict[str, tuple[int, int]]:
    """Depths with which a network cannot deadlock, and of which none can be less.

    An operand that may do without a queue (:func:`direct`) has 0 if that suffices, every other
    2 or more.

    Parameters
    ----------
    model, stages
        As for :func:`completes`.
    """
    adds = [layer for layer in model.layers if isinstance(layer, Add)]
    if not adds:
        return {}
    schedule = _Schedule(model, stages)
    # A whole map is always enough: one image after the other.
    depths = {add.name: [max(2, schedule.sizes[add.name])] * 2 for add in adds}

    def enough(add: Add, operand: int, depth: int) -> bool:
        before, depths[add.name][operand] = depths[add.name][operand], depth
        if schedule.completes({name: (a, b) for name, (a, b) in depths.items()}):
            return True
        depths[add.name][operand] = before
        return False

    for add in adds:
        for operand in (0, 1):
            if direct(model, add, operand) and enough(add, operand, 0):
                continue
            low, high = 2, depths[add.name][operand]
            while low < high:
                middle = (low + high) // 2
                if enough(add, operand, middle):
                    high = middle
                else:
                    low = middle + 1
    return {name: (a, b) for name, (a, b) in depths.items()}
