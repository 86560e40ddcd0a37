"""FLightNN and LightNN: the terms of :mod:`train.quantizers.terms` as the quantizer of a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flightrtl.formats import TermFormat

from .base import Quantizer, norm
from .terms import Decomposition, FLightNN, decompose, place_window, residual_penalty, window_scale

__all__ = ["TermQuantizer"]

_PLACE_EVERY = 50
_WIDE = 3
"""Exponent bits from which the largest weight decides where a filter's window lies."""


class TermQuantizer(Quantizer):
    """Weights that are sums of up to ``max_terms`` signed powers of two.

    Parameters
    ----------
    filters : int
        Of the layer.
    format : TermFormat
        Of every term.
    span : int
        See :func:`~train.quantizers.base.limit_scale`.
    max_terms : int
        ``K``.
    learn : bool
        True: thresholds are trained (FLightNN). False: every filter has ``max_terms`` (LightNN).
    prune : bool
        Whether ``t_0`` is trained too, so that filters can vanish. Otherwise it stays 0.
    """

    def __init__(self, filters: int, format: TermFormat, span: int, *, max_terms: int = 2,
                 learn: bool = True, prune: bool = False) -> None:
        super().__init__(filters, format, span)
        self.terms, self.max_terms, self.learn = format, max_terms, learn
        self.first_trained = 0 if prune else 1
        self.thresholds = nn.Parameter(torch.zeros(max_terms), requires_grad=learn)
        self.frozen: Tensor
        self.frozen_on: Tensor
        self.unit: Tensor
        self.down: Tensor
        self.steps: Tensor
        self.register_buffer("frozen", torch.tensor(False))
        self.register_buffer("frozen_on", torch.ones(max_terms, filters, dtype=torch.bool))
        self.register_buffer("unit", torch.tensor(1.0))
        self.register_buffer("down", torch.zeros(filters, dtype=torch.int64))
        self.register_buffer("steps", torch.tensor(0))
        self.parts: Decomposition | None = None

    @property
    def learned(self) -> list[nn.Parameter]:
        """The thresholds, if they are trained."""
        return [self.thresholds] if self.learn else []

    def fold(self, weight: Tensor) -> None:
        """The layer's mean filter norm becomes the unit of its thresholds."""
        self.unit.copy_(norm(weight).mean())
        self._place(weight, torch.ones_like(self.frozen_on))

    @torch.no_grad()
    def _place(self, weight: Tensor, on: Tensor) -> None:
        """Choose anew where the filters' windows lie, for the terms that they have."""
        if self.terms.exponent_bits < _WIDE:
            self.down.copy_(place_window(weight, self.terms, on))

    def scale(self, weight: Tensor, highest: int | None = None) -> Tensor:
        """Exponent of the least power of two of every filter, see ``window_scale``."""
        return window_scale(weight, self.terms, span=self.span, highest=highest, down=self.down)

    def absolute_thresholds(self) -> Tensor:
        """``t``: the trained thresholds are relative to the layer's filter norm when folded.

        So the thresholds of all layers move at a comparable rate.
        """
        trained = torch.arange(self.max_terms, device=self.unit.device) >= self.first_trained
        return self.thresholds * self.unit * trained

    def decompose(self, weight: Tensor, scale: Tensor) -> Decomposition:
        """The weights as terms, with the present thresholds."""
        return decompose(weight, self.absolute_thresholds(), scale, self.terms,
                         self.frozen_on if bool(self.frozen) else None)

    @torch.no_grad()
    def freeze(self, weight: Tensor, scale: Tensor) -> None:
        """Keep the present number of terms of every filter from now on."""
        if not bool(self.frozen):
            self.frozen_on.copy_(self.decompose(weight, scale).on)
            self.frozen.fill_(True)
            self._place(weight, self.frozen_on)

    def forward(self, weight: Tensor, scale: Tensor) -> Tensor:
        """``Q_K(w|t)``."""
        self.parts = self.decompose(weight, scale)
        if self.training and torch.is_grad_enabled() and not bool(self.frozen):
            self.steps += 1
            if not int(self.steps) % _PLACE_EVERY:      # holds from the next step on
                self._place(weight, self.parts.on)
        result: Tensor = FLightNN.apply(weight, self.absolute_thresholds(), self.parts)
        return result

    def penalty(self, weight: Tensor, strengths: Tensor) -> Tensor | None:
        """The group lasso on the residuals of the last forward pass; none once frozen.

        What it would still do then is to shrink the terms that filters were left with.
        """
        if not self.learn or bool(self.frozen):
            return None
        assert self.parts is not None
        return residual_penalty(weight, self.parts, strengths)

    def slots(self, weight: Tensor, scale: Tensor) -> tuple[list[Tensor], Tensor]:
        """The terms of every filter that are on."""
        parts = self.decompose(weight, scale)
        return ([parts.terms[j, i] for i in range(len(weight)) for j in range(self.max_terms)
                 if bool(parts.on[j, i])], parts.k)

    def describe(self, weight: Tensor, scale: Tensor) -> dict[str, Any]:
        """Counts of k, thresholds, and what the first terms leave of the weights.

        ``residual`` is the mean over the filters of ``||r_1||``, ``relative_residual`` that of
        ``||r_1|| / ||w||``.
        """
        parts = self.decompose(weight, scale)
        k = parts.k.tolist()
        first = norm(weight.detach() - parts.terms[0])
        whole = norm(weight.detach()).clamp_min(1e-12)
        return {"mean_k": sum(k) / len(k), "sum_k": sum(k),
                "k_histogram": {str(count): k.count(count) for count in range(self.max_terms + 1)},
                "thresholds": [round(t, 6) for t in self.absolute_thresholds().tolist()],
                "residual": round(float(first.mean()), 6),
                "relative_residual": round(float((first / whole).mean()), 6),
                "scales": [int(scale.min()), int(scale.max())]}
