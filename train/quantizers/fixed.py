"""Fixed point: weights of a few bits in two's complement, the baseline of the comparisons."""

from __future__ import annotations

import torch
from torch import Tensor

from flightrtl.formats import FixedFormat

from .base import Quantizer, column, limit_scale, power_of_two

__all__ = ["FixedQuantizer", "fixed_scale", "round_fixed"]

_CANDIDATES = 3


def round_fixed(weight: Tensor, scale: Tensor, format: FixedFormat) -> Tensor:
    """``clamp(floor(w / 2^scale + 1/2)) 2^scale``; the gradient passes straight through.

    >>> w = torch.tensor([[0.30, -0.9, 2.0]])
    >>> round_fixed(w, torch.tensor([-2]), FixedFormat(4)).tolist()
    [[0.25, -1.0, 1.75]]
    """
    step = column(power_of_two(scale), weight)
    rounded = torch.floor(weight.detach() / step + 0.5).clamp(format.min, format.max) * step
    return rounded + (weight - weight.detach())         # exactly the rounded values


def fixed_scale(weight: Tensor, format: FixedFormat, *, span: int = 31,
                highest: int | None = None) -> Tensor:
    """Of every filter the power-of-two step with the least squared error, int32 (filters,).

    The step at which nothing is clamped, and the next two smaller ones, are tried.

    Parameters
    ----------
    weight : Tensor
        Filters.
    format : FixedFormat
        Its number of bits.
    span, highest
        See :func:`~train.quantizers.base.limit_scale`.

    >>> fixed_scale(torch.tensor([[1.0, -0.5, 0.25], [7.0, 3.0, -8.0]]), FixedFormat(4)).tolist()
    [-2, 0]
    """
    weight = weight.detach()
    largest = weight.flatten(1).abs().amax(dim=1).clamp_min(2.0 ** -60)
    top = torch.frexp(largest / format.max)[1]
    scales = torch.stack([top - down for down in range(_CANDIDATES)])
    errors = torch.stack([(round_fixed(weight, scale, format) - weight).flatten(1).square()
                          .sum(dim=1) for scale in scales])
    best = scales.gather(0, errors.argmin(dim=0, keepdim=True))[0]
    return limit_scale(best, span, highest)


class FixedQuantizer(Quantizer):
    """Weights of ``format.bits`` bits in two's complement, straight-through gradient.

    Power-of-two steps, one for each filter (one for the layer if ``span`` is 0), so that no
    multiplier is needed behind the accumulator either.
    """

    format: FixedFormat

    def scale(self, weight: Tensor, highest: int | None = None) -> Tensor:
        """See :func:`fixed_scale`."""
        return fixed_scale(weight, self.format, span=self.span, highest=highest)

    def forward(self, weight: Tensor, scale: Tensor) -> Tensor:
        """See :func:`round_fixed`."""
        return round_fixed(weight, scale, self.format)
