"""Learning rate and lambda as functions of how far a stage has come (0 to 1)."""

from __future__ import annotations

import math

__all__ = ["learning_rate", "ramp"]


def learning_rate(progress: float, warm_up: float) -> float:
    """Factor on the greatest learning rate: a straight rise, then half a cosine to zero.

    >>> [round(learning_rate(x / 4, 0.25), 3) for x in range(5)]
    [0.0, 1.0, 0.75, 0.25, 0.0]
    """
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def ramp(progress: float, end: float) -> float:
    """Factor on lambda: a straight rise to 1 at ``end``.

    >>> [ramp(x / 4, 0.5) for x in range(5)], ramp(0.0, 0.0)
    ([0.0, 0.5, 1.0, 1.0, 1.0], 1.0)
    """
    return min(1.0, progress / end) if end else 1.0
