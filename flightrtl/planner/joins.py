# amaranth: UnusedElaboratable=no
# (Queues are made for their numbers, not to become hardware.)
"""Forks, queues and what joins maps in the cycle model, see :mod:`flightrtl.planner.cycles`."""

from __future__ import annotations

from collections.abc import Sequence
from operator import or_

from ..gateware.concat import ChannelConcat
from ..gateware.queue import StreamQueue
from ..gateware.residual import ResidualAdd

__all__ = ["AddModel", "ConcatModel", "ForkModel", "QueueModel"]


class ForkModel:
    """The handshakes of a :class:`~flightrtl.gateware.fork.StreamFork`.

    ``had`` says which outputs do not offer the input's transfer (any more).
    """

    def __init__(self, count: int) -> None:
        self.had = self.nobody = [False] * count

    def accepts(self, ready: Sequence[bool]) -> bool:
        """``ready`` of the input, for that of the outputs."""
        return all(map(or_, self.had, ready))

    def tick(self, ready: Sequence[bool]) -> None:
        """One clock edge with an input."""
        self.had = self.nobody if self.accepts(ready) else list(map(or_, self.had, ready))


class QueueModel:
    """The handshakes of a :class:`~flightrtl.gateware.queue.StreamQueue`."""

    def __init__(self, queue: StreamQueue) -> None:
        self.words, self.register = queue.words, queue.register
        self.level = self.most = 0      # in the memory, or in the spare register of a buffer
        self.fetched = self.held = False

    @property
    def ready(self) -> bool:
        """Of the input."""
        return self.level != (self.words or 1)

    @property
    def out(self) -> bool:
        """``valid`` of the output."""
        return self.held if self.register and self.words else self.fetched

    def tick(self, valid: bool, ready: bool) -> None:
        """One clock edge."""
        put = valid and self.ready
        if not self.words:
            if ready or not self.fetched:
                self.fetched = valid or self.level != 0
                self.level = 0
            else:
                self.level += put
            return
        moves = ready
        if self.register:
            moves = ready or not self.held
            if moves:
                self.held = self.fetched
        fetch = self.level != 0
        if moves or not self.fetched:
            self.fetched = fetch
            self.level -= fetch
        self.level += put
        if self.level > self.most:
            self.most = self.level

    @property
    def needed(self) -> int:
        """A depth with which all would have been the same, if the queue was never full."""
        return self.most + 2 + self.register if self.words else 2


class AddModel:
    """The handshakes of a :class:`~flightrtl.gateware.residual.ResidualAdd`."""

    def __init__(self, add: ResidualAdd) -> None:
        self.first, self.second = _queues(add)
        self.summed = self.out = False

    @property
    def needed(self) -> tuple[int, ...]:
        """Of both queues, see :class:`QueueModel`."""
        return _needed([self.first, self.second])

    def accepts(self, valid: Sequence[bool], ready: bool) -> tuple[bool, ...]:
        """``ready`` of both operands."""
        first, second = self.first, self.second
        advance = ready or not self.out
        return (first.ready if first else advance and (second.out if second else valid[1]),
                second.ready if second else advance and (first.out if first else valid[0]))

    def tick(self, valid: Sequence[bool], ready: bool) -> None:
        """One clock edge."""
        first, second = self.first, self.second
        a = first.out if first else valid[0]
        b = second.out if second else valid[1]
        advance = ready or not self.out
        if first:
            first.tick(valid[0], advance and b)
        if second:
            second.tick(valid[1], advance and a)
        if advance:
            self.out, self.summed = self.summed, a and b


class ConcatModel:
    """The handshakes of a :class:`~flightrtl.gateware.concat.ChannelConcat`."""

    def __init__(self, concat: ChannelConcat) -> None:
        self.queues = _queues(concat)
        self.order = [number for number, channels in enumerate(concat.channels)
                      for _ in range(channels)]
        self.place = 0
        self.out = False

    @property
    def needed(self) -> tuple[int, ...]:
        """Of all queues, see :class:`QueueModel`."""
        return _needed(self.queues)

    def accepts(self, valid: Sequence[bool], ready: bool) -> tuple[bool, ...]:
        """``ready`` of all operands."""
        advance, turn = ready or not self.out, self.order[self.place]
        return tuple(queue.ready if queue else advance and number == turn
                     for number, queue in enumerate(self.queues))

    def tick(self, valid: Sequence[bool], ready: bool) -> None:
        """One clock edge."""
        advance, turn = ready or not self.out, self.order[self.place]
        queue = self.queues[turn]
        has = queue.out if queue else valid[turn]
        for number, each in enumerate(self.queues):
            if each:
                each.tick(valid[number], advance and number == turn)
        if advance:
            self.out = has
            if has:
                self.place = (self.place + 1) % len(self.order)


def _queues(join: ResidualAdd | ChannelConcat) -> list[QueueModel | None]:
    """Those before its operands."""
    return [QueueModel(StreamQueue(1, depth, register=join.register)) if depth else None
            for depth in join.depths]


def _needed(queues: Sequence[QueueModel | None]) -> tuple[int, ...]:
    return tuple(queue.needed if queue else 0 for queue in queues)
