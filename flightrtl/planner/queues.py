# amaranth: UnusedElaboratable=no
# (Networks are made for their numbers, not to become hardware.)
"""How deep the queues before what joins maps should be: never a deadlock, and no cycle lost.

That a network cannot deadlock takes the depths of :mod:`flightrtl.gateware.dataflow`. It may still
be slower with them than it could be: what waits in a queue also covers for the time that the
longer way takes from a value to its result, and for the different moments at which two ways that
are equally fast work. How much that takes is measured with the cycle model, in a network whose
queues are never full.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..gateware.dataflow import Depths
from ..gateware.framing import Framed
from ..gateware.network import Network
from ..gateware.queue import StreamQueue
from ..gateware.transfers import LayerChoice
from ..model import Model
from .cycles import Timing, measure

__all__ = ["endless", "shortest"]


def endless(model: Model, foldings: Mapping[str, LayerChoice], *,
            memory_register: bool = False) -> Depths:
    """Depths with which no queue is ever full: two images, and those that frame buffers hold.

    Operands that need no queue have none.

    Parameters
    ----------
    model, foldings, memory_register
        As for a :class:`~flightrtl.gateware.Network`.
    """
    network = Network(model, foldings, memory_register=memory_register)
    images = 2 + sum(choice.frames for choice in foldings.values() if isinstance(choice, Framed))
    sizes = {name: images * model.tensors[name].size + 8 for name in network.queues}
    return {name: tuple(depth and sizes[name] for depth in depths)
            for name, depths in network.queues.items()}


def shortest(model: Model, foldings: Mapping[str, LayerChoice], best: Timing, *,
             memory_register: bool = False) -> tuple[Depths, Timing]:
    """The depths to build with, and the timing that they give.

    As deep as it takes not to deadlock, if that gives the interval of :func:`endless` queues.
    Otherwise each queue is doubled as often as all must be for that, but not beyond what it ever
    holds, and those that need not are made short again.

    Parameters
    ----------
    model, foldings, memory_register
        As for a :class:`~flightrtl.gateware.Network`.
    best : Timing
        With :func:`endless` queues.
    """
    def timing(queues: Depths) -> Timing:
        return measure(model, foldings, memory_register=memory_register, queues=queues)

    least = Network(model, foldings, memory_register=memory_register).queues
    if not least:
        return {}, best
    found = timing(least)
    if found.interval <= best.interval:
        return least, found

    def longer(doublings: int) -> dict[str, tuple[int, ...]]:
        return {name: tuple(StreamQueue.round(
            min(depth << doublings, max(depth, most)) if depth else 0, register=memory_register)
            for depth, most in zip(depths, best.queues[name], strict=True))
            for name, depths in least.items()}

    doublings = 0
    while found.interval > best.interval:
        doublings += 1
        chosen = longer(doublings)
        found = timing(chosen)
        if chosen == longer(doublings + 1):
            break
    for name, depths in least.items():
        trial = chosen | {name: depths}
        if trial != chosen:
            shorter = timing(trial)
            if shorter.interval <= found.interval:
                chosen, found = trial, shorter
    return chosen, found

