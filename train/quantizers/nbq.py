"""n-BQ-NN: weights of n bits that are zero or one signed power of two (arXiv 2004.02396).

Chen, Liu, Liu, Zeng, IEEE TNNLS 2020. From the paper, with ``r = 2^(n-1) - 1`` powers and
thresholds ``tau``::

    levels        0, +-2^-i for i < r; n = 1: +-1                                     (eq. 4)
    staircase(W)  2^-i sign(W) where tau_{i+1} <= |W| < tau_i;  0 where |W| < tau_r
    training      W~ = W - blend (W - staircase(W)),  blend from 1/2 to 1             (eq. 14)

Two things are our own completion:

- The batch norm is part of the weights here (nothing but a shift is left behind the accumulator),
  so the greatest level of a filter is a power of two that suits it instead of 1.
- The paper has no formula for the thresholds. It asks that the quantized weights have the variance
  of the real ones (eq. 18), and that is how they are found: see :func:`match_spread`.

Tensors hold one filter per row (dimension 0) and any shape behind it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flightrtl.formats import BinaryFormat, TermFormat

from .base import Quantizer, column, limit_scale, power_of_two

__all__ = ["NBQQuantizer", "blend", "match_spread", "nbq_scale", "staircase"]

_LEAST, _MIDDLE, _MOST = 0.5, 0.75, 1.0
_HALVINGS = 8
_CANDIDATES = 5


def blend(progress: float) -> float:
    """Share of the quantized weights in the blend; the authors' code has this schedule.

    Parameters
    ----------
    progress : float
        How far the quantized stage has come, 0 to 1.

    >>> [round(blend(x), 3) for x in (0.0, 0.5, 1.0)]
    [0.5, 0.707, 1.0]
    """
    return float(0.5 * 2.0 ** progress)


def staircase(weight: Tensor, ratio: Tensor, scale: Tensor,
              format: TermFormat | BinaryFormat) -> Tensor:
    """The level of every weight: the greatest ``L`` with ``|W| >= ratio L``, or zero.

    Parameters
    ----------
    weight : Tensor
        Filters.
    ratio : Tensor, (filters,)
        ``c``: the thresholds are ``tau_{i+1} = c 2^-i`` times the greatest level. Of no matter for
        binary weights, which are the sign (``+`` for zero).
    scale : int32 Tensor, (filters,)
        Exponent of each filter's least level.
    format : TermFormat or BinaryFormat
        How many levels there are.

    >>> w = torch.tensor([[0.1, 0.2, -0.4, 0.7, -0.8, 3.0]])
    >>> staircase(w, torch.tensor([0.75]), torch.tensor([-2]), TermFormat(2)).tolist()
    [[0.0, 0.25, -0.5, 0.5, -1.0, 1.0]]
    """
    weight = weight.detach()
    low = column(power_of_two(scale), weight)
    if isinstance(format, BinaryFormat):
        return torch.where(weight < 0, -low, low)
    relative = weight.abs() / (column(ratio, weight) * low)
    exponent = torch.frexp(relative)[1] - 1                     # floor(log2), exactly
    level = power_of_two(exponent.clamp(0, format.max_exponent)) * low
    return torch.where(relative < 1, 0.0, torch.copysign(level, weight))


def match_spread(weight: Tensor, scale: Tensor, format: TermFormat | BinaryFormat) -> Tensor:
    """Of every filter the ratio ``c`` at which quantized and real weights spread alike.

    ``sum(q^2) = sum(W^2)``; with weights on both sides of zero alike, mean and variance then agree
    (eq. 18). Found by bisection, since ``sum(q^2)`` falls with ``c``. Between 1/2 and 1 every level
    is quantized to itself, on which the convergence of the blend rests. Of ratios that do equally
    well the first one tried is taken: weights that have come close to the levels stay at them.

    >>> w = torch.tensor([[0.9, 0.55, -0.1, 0.02]])
    >>> c = match_spread(w, torch.tensor([-1]), TermFormat(2))
    >>> staircase(w, c, torch.tensor([-1]), TermFormat(2)).tolist()
    [[1.0, 0.5, 0.0, 0.0]]
    """
    wanted = weight.detach().flatten(1).square().sum(dim=1)
    low, high = torch.full_like(wanted, _LEAST), torch.full_like(wanted, _MOST)
    best, least = torch.full_like(wanted, _MIDDLE), torch.full_like(wanted, torch.inf)
    for _ in range(_HALVINGS):
        ratio = (low + high) / 2
        found = staircase(weight, ratio, scale, format).flatten(1).square().sum(dim=1)
        error = (found - wanted).abs()
        best, least = torch.where(error < least, ratio, best), torch.minimum(error, least)
        low = torch.where(found > wanted, ratio, low)
        high = torch.where(found > wanted, high, ratio)
    return best


def nbq_scale(weight: Tensor, format: TermFormat | BinaryFormat) -> Tensor:
    """Of every filter the exponent of the least level, for the least squared error.

    With each weight at its nearest level. As the greatest level, the power of two above the
    filter's largest weight and the next four smaller ones are tried.

    >>> nbq_scale(torch.tensor([[1.0, -0.5, 0.25], [7.0, 1.6, -8.0]]), TermFormat(2)).tolist()
    [-2, 1]
    """
    weight = weight.detach()
    powers = 0 if isinstance(format, BinaryFormat) else format.max_exponent
    largest = weight.flatten(1).abs().amax(dim=1).clamp_min(2.0 ** -60)
    top = torch.frexp(largest)[1] - powers
    ratio = torch.full_like(largest, _MIDDLE)
    scales = torch.stack([top - down for down in range(_CANDIDATES)])
    errors = torch.stack([(staircase(weight, ratio, scale, format) - weight).flatten(1).square()
                          .sum(dim=1) for scale in scales])
    return scales.gather(0, errors.argmin(dim=0, keepdim=True))[0].to(torch.int32)


class NBQQuantizer(Quantizer):
    """Weights of ``n`` bits by the staircase; in training blended with the real ones.

    The levels of a filter are chosen when the float stage ends and stay, as they do in the paper.
    The thresholds follow the weights.

    Parameters
    ----------
    filters : int
        Of the layer.
    bits : int
        ``n``, 1 to 5.
    span : int
        See :func:`~train.quantizers.base.limit_scale`.
    """

    needs_progress = True
    format: TermFormat | BinaryFormat

    def __init__(self, filters: int, bits: int, span: int) -> None:
        if not 1 <= bits <= 5:
            raise ValueError(f"weights of n-BQ-NN have 1 to 5 bits, not {bits}")
        super().__init__(filters, TermFormat(bits - 1) if bits > 1 else BinaryFormat(), span)
        self.blend = blend(0.0)
        self.levels: Tensor
        self.register_buffer("levels", torch.zeros(filters, dtype=torch.int32))

    def fold(self, weight: Tensor) -> None:
        """Choose the levels."""
        self.levels.copy_(nbq_scale(weight, self.format))

    def advance(self, progress: float) -> None:
        """More of the quantized weights."""
        self.blend = blend(progress)

    def scale(self, weight: Tensor, highest: int | None = None) -> Tensor:
        """Exponent of the least level, as chosen, within what the hardware can do."""
        return limit_scale(self.levels, self.span, highest)

    def quantized(self, weight: Tensor, scale: Tensor) -> Tensor:
        """The weights that evaluation uses and that are exported."""
        return staircase(weight, match_spread(weight, scale, self.format), scale, self.format)

    def forward(self, weight: Tensor, scale: Tensor) -> Tensor:
        """The blend while training, with its exact gradient, ``1 - blend``; else the levels."""
        values = self.quantized(weight, scale)
        if not (self.training and torch.is_grad_enabled()):
            return values
        return weight - self.blend * (weight - values)

    def slots(self, weight: Tensor, scale: Tensor) -> tuple[list[Tensor], Tensor]:
        """One slot for each filter."""
        values = self.quantized(weight, scale)
        return list(values), torch.ones(len(values), dtype=torch.int64)
