"""Weights as sums of signed powers of two, with a learned number of terms for every filter.

This is the training method of FLightNN (Ding, Liu, Chin, Marculescu, Blanton; DAC 2019, arXiv
1904.02835). Of that paper only the abstract was at hand; the formulas below are the known
formulation, completed here so that it is consistent and trains (``docs/training.md`` lists what is
our own). In the formulas, ``w_i`` is filter ``i``, ``K`` the greatest number of terms::

    R(x)      = sign(x) 2^round(log2 |x|), within the filter's window; 0 below half its least power
    r_{i,0}   = w_i
    s_{i,j}   = 1 if ||r_{i,j}|| > t_j else 0
    r_{i,j+1} = r_{i,j} - s_{i,j} R(r_{i,j})
    Q_K(w_i|t) = w_i - r_{i,K},   k_i = sum_j s_{i,j}

The window of a filter holds the powers ``2^scale_i .. 2^(scale_i + max_exponent)``; see
:func:`window_scale`. LightNN-k is the same with every ``t_j = 0``.

Tensors hold one filter per row (dimension 0) and any shape behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flightrtl.formats import TermFormat

from .base import column, limit_scale, norm, power_of_two

__all__ = ["SIGMOID_WIDTH", "SQRT_HALF", "Decomposition", "FLightNN", "decompose", "place_window",
           "residual_penalty", "round_term", "window_scale"]

SIGMOID_WIDTH = 0.05
"""Width of the sigmoid that stands for ``s`` in the backward pass, relative to ``||w_i||``.

Without that normalisation the thresholds of layers with large norms do not move.
"""

SQRT_HALF = 0.5 ** 0.5
"""Mantissa (0.5 .. 1) from which a number is nearer to the next power of two, in its logarithm."""


def window_scale(weight: Tensor, format: TermFormat, *, span: int = 31,
                 highest: int | None = None, down: Tensor | int = 0) -> Tensor:
    """Scale of every filter: the exponent of its least power of two.

    The window's greatest power is ``2^floor(log2(4/3 max|w_i|))``: the power of two nearest to the
    largest weight (measured linearly), so that this weight lies in 3/4 to 3/2 of it. Or it lies
    ``down`` places lower, see :func:`place_window`.

    Parameters
    ----------
    weight : Tensor
        Filters.
    format : TermFormat
        Gives the number of powers in a window.
    span, highest
        See :func:`~train.quantizers.base.limit_scale`. With a small span, filters with smaller
        weights get a higher window than they would have alone.
    down : int, or integer Tensor (filters,)
        Places by which the window lies lower.

    Returns
    -------
    int32 Tensor, one scale per filter

    >>> weight = torch.tensor([[0.75, 0.1], [0.1, -0.74], [0.02, 0.01]])
    >>> window_scale(weight, TermFormat(3)).tolist()
    [-6, -7, -12]
    """
    largest = weight.detach().flatten(1).abs().amax(dim=1).clamp_min(2.0 ** -60)
    mantissa, exponent = torch.frexp(largest)          # largest = mantissa 2^exponent, 0.5 .. 1
    top = exponent - (mantissa < 0.75).to(torch.int32)
    return limit_scale(top - format.max_exponent - down, span, highest)


def place_window(weight: Tensor, format: TermFormat, on: Tensor) -> Tensor:
    """How many places lower than the largest weight asks for a filter's window does least harm.

    A window of few powers is better placed where most weights are: a large weight that is cut off
    is one error, weights below the window are many (and with two terms, twice the greatest power
    can be said). With 3 exponent bits, 0 is best for weights as they occur, so only narrower
    windows are tried.

    Parameters
    ----------
    weight : Tensor, (filters, ...)
        Filters.
    format : TermFormat
        Of the terms.
    on : bool Tensor, (K, filters)
        The terms that each filter has.

    Returns
    -------
    int64 Tensor, (filters,)
        Of 0 .. 3 - exponent_bits, the one with the least squared error.

    >>> weight = torch.tensor([[1.0, 0.2, 0.2, 0.2, -0.2, -0.2, 0.1, 0.3], [1.0] * 8])
    >>> place_window(weight, TermFormat(2), torch.ones(2, 2, dtype=torch.bool)).tolist()
    [1, 0]
    """
    highest = window_scale(weight, format)
    thresholds = weight.new_zeros(len(on))
    errors = [(decompose(weight, thresholds, highest - down, format, on).value - weight.detach())
              .flatten(1).square().sum(dim=1) for down in range(max(1, 4 - format.exponent_bits))]
    return torch.stack(errors).argmin(dim=0)


def round_term(values: Tensor, scale: Tensor, format: TermFormat) -> Tensor:
    """``R``: the nearest term in the logarithmic sense, within each filter's window.

    >>> x = torch.tensor([[1.41, -1.42, 0.3, 0.0, 9.0, -0.49, 0.51]])
    >>> round_term(x, torch.tensor([0]), TermFormat(2)).tolist()
    [[1.0, -2.0, 0.0, 0.0, 4.0, -0.0, 1.0]]
    """
    low = column(power_of_two(scale), values)
    high = low * format.max_term
    mantissa, exponent = torch.frexp(values.detach())
    nearest = power_of_two((exponent - (mantissa.abs() < SQRT_HALF).to(torch.int32))
                           .clamp(-100, 100))
    magnitude = torch.minimum(torch.maximum(nearest, low), high)
    magnitude = torch.where(values.abs() < low / 2, 0.0, magnitude)
    return torch.copysign(magnitude, values)


@dataclass(frozen=True)
class Decomposition:
    """A layer's weights taken apart into terms.

    Parameters
    ----------
    terms : Tensor, (K, filters, ...)
        ``s_{i,j} R(r_{i,j})``.
    candidates : Tensor, (K, filters, ...)
        ``R(r_{i,j})``.
    residuals : Tensor, (K, filters, ...)
        ``r_{i,j}``.
    norms : Tensor, (K, filters)
        ``||r_{i,j}||``.
    on : bool Tensor, (K, filters)
        ``s_{i,j}``.
    """

    terms: Tensor
    candidates: Tensor
    residuals: Tensor
    norms: Tensor
    on: Tensor

    @property
    def k(self) -> Tensor:
        """Terms of every filter."""
        return self.on.sum(dim=0)

    @property
    def value(self) -> Tensor:
        """``Q_K(w|t)``."""
        return self.terms.sum(dim=0)


def decompose(weight: Tensor, thresholds: Tensor, scale: Tensor, format: TermFormat,
              on: Tensor | None = None) -> Decomposition:
    """Take filters apart greedily, term by term.

    A term whose values are all zero counts as off even if its residual is above the threshold:
    hardware would spend cycles on adding zeros.

    Parameters
    ----------
    weight : Tensor, (filters, ...)
        Real weights.
    thresholds : Tensor, (K,)
        ``t``.
    scale : int32 Tensor, (filters,)
        From :func:`window_scale`.
    format : TermFormat
        Of every term.
    on : bool Tensor, (K, filters), optional
        Take these ``s`` instead of comparing norms with thresholds.

    >>> w = torch.tensor([[0.6, -0.3], [0.5, 0.25]])
    >>> parts = decompose(w, torch.tensor([0.0, 0.05]), torch.tensor([-7, -7]), TermFormat(3))
    >>> parts.k.tolist(), parts.value.tolist()
    ([2, 1], [[0.625, -0.3125], [0.5, 0.25]])
    """
    residual = weight.detach()
    terms: list[Tensor] = []
    candidates: list[Tensor] = []
    residuals: list[Tensor] = []
    norms: list[Tensor] = []
    switches: list[Tensor] = []
    for index in range(len(thresholds)):
        length = norm(residual)
        candidate = round_term(residual, scale, format)
        switch = length > thresholds[index].detach() if on is None else on[index]
        switch = switch & (candidate != 0).flatten(1).any(dim=1)
        term = candidate * column(switch, candidate)
        for values, value in ((terms, term), (candidates, candidate), (residuals, residual),
                              (norms, length), (switches, switch)):
            values.append(value)
        residual = residual - term
    return Decomposition(torch.stack(terms), torch.stack(candidates), torch.stack(residuals),
                         torch.stack(norms), torch.stack(switches))


class FLightNN(torch.autograd.Function):
    """``Q_K(w|t)`` with gradients for the weights and for the thresholds.

    Backward, ``g`` being the gradient of the loss to ``Q``: to ``w`` it goes straight through.
    For the thresholds, ``R`` is taken as the identity and ``s`` as a sigmoid of
    ``u = (||r_j|| - t_j) / width``, which gives, from ``a_K = -g`` down to ``j = 0``::

        dL/ds_j = -<a_{j+1}, R(r_j)>            dL/dt_j = -sigma'(u) / width dL/ds_j
        a_j     = (1 - s_j) a_{j+1} + sigma'(u) / width dL/ds_j r_j / ||r_j||

    summed over the filters of the layer. Switching off a term that the next one would take over
    therefore costs nothing, as it should.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, thresholds: Tensor, parts: Decomposition) -> Tensor:  # type: ignore[no-untyped-def]
        """``parts`` is the decomposition of ``weight`` with ``thresholds``."""
        ctx.parts = parts
        ctx.save_for_backward(weight, thresholds)
        return parts.value

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        """Gradients of ``weight`` and ``thresholds``."""
        weight, thresholds = ctx.saved_tensors
        parts: Decomposition = ctx.parts
        to_thresholds = None
        if ctx.needs_input_grad[1]:
            to_thresholds = torch.zeros_like(thresholds)
            width = SIGMOID_WIDTH * norm(weight).clamp_min(1e-12)
            a = -gradient.flatten(1)
            for j in reversed(range(len(thresholds))):
                logistic = torch.sigmoid((parts.norms[j] - thresholds[j]) / width)
                slope = logistic * (1 - logistic) / width
                to_switch = -(a * parts.candidates[j].flatten(1)).sum(dim=1)
                to_thresholds[j] = -(slope * to_switch).sum()
                unit = parts.residuals[j].flatten(1) / parts.norms[j].clamp_min(1e-12)[:, None]
                a = a * ~parts.on[j][:, None] + (slope * to_switch)[:, None] * unit
        return gradient, to_thresholds, None


def residual_penalty(weight: Tensor, parts: Decomposition, strengths: Tensor) -> Tensor:
    """The group lasso ``sum_j lambda_j sum_i ||r_{i,j}||`` that makes filters need fewer terms.

    ``R`` is held constant here (``dR/dr = 0``), so the gradient of ``||r_{i,j}||`` to the weights
    is ``r_{i,j} / ||r_{i,j}||``: it pulls each weight to what its first ``j`` terms can say. With
    the straight-through ``R`` that :class:`FLightNN` uses the penalty would have no gradient.

    >>> w = torch.tensor([[0.6, 0.5]], requires_grad=True)
    >>> parts = decompose(w, torch.zeros(2), torch.tensor([-7]), TermFormat(3))
    >>> penalty = residual_penalty(w, parts, torch.tensor([0.0, 1.0]))
    >>> penalty.backward()
    >>> round(penalty.item(), 4), w.grad.tolist()
    (0.1, [[1.0, 0.0]])
    """
    total = weight.new_zeros(())
    taken = torch.zeros_like(weight)
    for j, strength in enumerate(strengths.tolist()):
        if strength:
            residual = (weight - taken).flatten(1)
            total = total + strength * (residual.square().sum(dim=1) + 1e-16).sqrt().sum()
        taken = taken + parts.terms[j]
    return total
