"""Coarse sparsity: a fixed share of a layer's filters is pruned (k = 0), whatever the format.

A pruned filter stores nothing and costs no cycles; its output is a constant, which training still
chooses (the bias). Zeros inside a filter would save neither: every weight of a filter that has
terms is stored and computed, zero or not.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .base import Quantizer, column, norm

__all__ = ["SparseQuantizer", "weakest"]


def weakest(weight: Tensor, share: float) -> Tensor:
    """Which filters to prune: the ``share`` with the least norm, rounded down, never all of them.

    Parameters
    ----------
    weight : Tensor, (filters, ...)
        With the batch norm folded in, so that norms tell how much a filter's output varies.
    share : float
        0 to less than 1.

    Returns
    -------
    bool Tensor, (filters,)

    >>> weakest(torch.tensor([[3.0, 4.0], [0.1, 0.1], [1.0, 1.0]]), 0.4).tolist()
    [False, True, False]
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share of pruned filters must be 0 to less than 1, not {share:g}")
    length = norm(weight.detach())
    result = torch.zeros(len(length), dtype=torch.bool, device=length.device)
    # Slightly up: 0.29 of 100 filters is 28.999999999999996 of them in floating point.
    count = min(math.floor(share * len(length) + 1e-9), len(length) - 1)
    result[length.argsort(stable=True)[:count]] = True
    return result


class SparseQuantizer(Quantizer):
    """Another quantizer, and a share of the filters pruned when the float stage ends.

    Parameters
    ----------
    inner : Quantizer
        Of the filters that are kept.
    share : float
        See :func:`weakest`.

    Raises
    ------
    ValueError
        If the share is not 0 to less than 1.
    """

    def __init__(self, inner: Quantizer, share: float) -> None:
        super().__init__(inner.filters, inner.format, inner.span)
        if not 0 <= share < 1:
            raise ValueError(f"the share of pruned filters must be 0 to less than 1, not {share:g}")
        self.inner, self.share = inner, share
        self.needs_progress = inner.needs_progress
        self.pruned: Tensor
        self.register_buffer("pruned", torch.zeros(inner.filters, dtype=torch.bool))

    @property
    def learned(self) -> list[nn.Parameter]:
        """Those of the inner quantizer."""
        return self.inner.learned

    def fold(self, weight: Tensor) -> None:
        """Prune."""
        self.pruned.copy_(weakest(weight, self.share))
        self.inner.fold(weight)

    def advance(self, progress: float) -> None:
        """See the inner quantizer."""
        self.inner.advance(progress)

    def freeze(self, weight: Tensor, scale: Tensor) -> None:
        """See the inner quantizer."""
        self.inner.freeze(weight, scale)

    def scale(self, weight: Tensor, highest: int | None = None) -> Tensor:
        """See the inner quantizer."""
        return self.inner.scale(weight, highest)

    def forward(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Zero for pruned filters, with a gradient of zero."""
        values: Tensor = self.inner(weight, scale)
        return values * column(~self.pruned, values)

    def penalty(self, weight: Tensor, strengths: Tensor) -> Tensor | None:
        """See the inner quantizer."""
        return self.inner.penalty(weight, strengths)

    def slots(self, weight: Tensor, scale: Tensor) -> tuple[list[Tensor], Tensor]:
        """Those of the filters that are kept; k = 0 for the others."""
        values, k = self.inner.slots(weight, scale)
        pruned = self.pruned.tolist()
        owners = [i for i, count in enumerate(k.tolist()) for _ in range(count)]
        kept = [value for owner, value in zip(owners, values, strict=True) if not pruned[owner]]
        return kept, k * ~self.pruned.to(k.device)

    def describe(self, weight: Tensor, scale: Tensor) -> dict[str, Any]:
        """What the inner quantizer says, with the counts of k as they are here."""
        return self.inner.describe(weight, scale) | super().describe(weight, scale)
