"""Steering lambda, so that the mean number of terms becomes what was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from .layers import QuantizedLayer
from .quantizers.flightnn import TermQuantizer

__all__ = ["TermTarget", "choosing", "mean_k"]

_GAIN = 0.5
_LIMIT = math.log(1e4)


def choosing(layers: Sequence[QuantizedLayer]) -> list[tuple[QuantizedLayer, TermQuantizer]]:
    """The layers whose filters choose their terms, with their quantizers."""
    return [(layer, layer.quantizer) for layer in layers
            if isinstance(layer.quantizer, TermQuantizer) and layer.quantizer.learn]


def mean_k(layers: Sequence[QuantizedLayer]) -> float:
    """Terms for each filter of the layers that learn them, in their last forward pass."""
    counts = [quantizer.parts.k for _, quantizer in choosing(layers)
              if quantizer.parts is not None]
    return float(torch.cat(counts).double().mean()) if counts else 0.0


class TermTarget:
    """A factor on lambda that is raised while there are more terms than planned, and lowered else.

    The plan falls in a straight line from what the filters start with to the target, which it
    reaches at ``end``.

    Parameters
    ----------
    target : float
        Mean number of terms of a filter.
    end : float
        Part of the quantized stage, 0 to 1.

    >>> steering = TermTarget(1.2, 0.8)
    >>> steering.update(2.0, 0.0)
    >>> steering.update(1.9, 0.4)
    >>> steering.factor > 1
    True
    """

    def __init__(self, target: float, end: float) -> None:
        self.target, self.end = target, end
        self.factor = 1.0
        self.start: float | None = None

    def update(self, mean: float, progress: float) -> None:
        """Told the mean number of terms now and then (the same number of times in every run)."""
        if self.start is None:
            self.start = mean
        share = min(1.0, progress / self.end) if self.end else 1.0
        planned = self.start + (self.target - self.start) * share
        exponent = math.log(self.factor) + _GAIN * (mean - planned)
        self.factor = math.exp(max(-_LIMIT, min(_LIMIT, exponent)))
