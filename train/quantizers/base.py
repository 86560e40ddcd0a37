"""What all quantizers share: the interface to a layer, and exact powers of two.

Tensors hold one filter per row (dimension 0) and any shape behind it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flightrtl.formats import WeightFormat

__all__ = ["Quantizer", "column", "limit_scale", "norm", "power_of_two"]


def power_of_two(exponent: Tensor) -> Tensor:
    """``2.0 ** exponent``, exactly (a library ``pow`` may be one unit off), as float32.

    Parameters
    ----------
    exponent : integer Tensor
        Each -126 to 127.

    >>> power_of_two(torch.tensor([-3, 0, 10])).tolist()
    [0.125, 1.0, 1024.0]
    """
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)


def column(values: Tensor, like: Tensor) -> Tensor:
    """One value per filter, in a shape that broadcasts against ``like``."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))


def norm(values: Tensor) -> Tensor:
    """Euclidean norm of every filter."""
    return values.flatten(1).norm(dim=1)


def limit_scale(scale: Tensor, span: int, highest: int | None) -> Tensor:
    """Scales that hardware can do: none above ``highest``, and all within ``span`` of the greatest.

    Parameters
    ----------
    scale : integer Tensor, (filters,)
        As each filter would have it alone.
    span : int
        Greatest difference between two scales of the layer. The shifter behind the layer's
        accumulators needs ``span + 1`` positions, so a small span is cheap in hardware, 0 free.
    highest : int, optional
        The shift behind the layer would be negative above it.

    >>> limit_scale(torch.tensor([-6, -9, -2]), 3, -4).tolist()
    [-6, -7, -4]
    """
    if highest is not None:
        scale = scale.clamp_max(highest)
    return torch.maximum(scale, scale.max() - span).to(torch.int32)


class Quantizer(nn.Module):
    """How the real weights of one layer become weights of a format.

    It holds what the method learns beside the weights. The weights are the layer's.

    Parameters
    ----------
    filters : int
        Of the layer.
    format : WeightFormat
        Of the exported weights.
    span : int
        See :func:`limit_scale`.
    """

    needs_progress = False
    """Whether :meth:`advance` matters."""

    def __init__(self, filters: int, format: WeightFormat, span: int) -> None:
        super().__init__()
        self.filters, self.format, self.span = filters, format, span

    @property
    def learned(self) -> list[nn.Parameter]:
        """Parameters with a learning rate of their own (``threshold_rate`` of a recipe)."""
        return []

    def fold(self, weight: Tensor) -> None:
        """The float stage is over: ``weight`` is what quantization starts from."""

    def advance(self, progress: float) -> None:
        """How far the quantized stage has come, 0 to 1; told before every step."""

    def freeze(self, weight: Tensor, scale: Tensor) -> None:
        """Settle what was open (the number of terms of every filter) from now on."""

    def scale(self, weight: Tensor, highest: int | None = None) -> Tensor:
        """Scale of every filter, int32 (filters,): a weight is an integer times ``2**scale``."""
        raise NotImplementedError

    def forward(self, weight: Tensor, scale: Tensor) -> Tensor:
        """The quantized weights, real-valued, with gradients."""
        raise NotImplementedError

    def penalty(self, weight: Tensor, strengths: Tensor) -> Tensor | None:
        """What the method adds to the loss, after a forward pass; None if nothing."""
        return None

    def slots(self, weight: Tensor, scale: Tensor) -> tuple[list[Tensor], Tensor]:
        """What hardware stores: by slot the real value of each weight, and slots of every filter.

        Filter ``i`` owns ``k[i]`` consecutive tensors, whose sum is its weights.
        """
        values = self(weight, scale)
        return list(values), torch.ones(len(values), dtype=torch.int64)

    def describe(self, weight: Tensor, scale: Tensor) -> dict[str, Any]:
        """What the log says of the layer."""
        _, k = self.slots(weight, scale)
        counts = k.tolist()
        return {"mean_k": sum(counts) / len(counts), "sum_k": sum(counts),
                "k_histogram": {str(n): counts.count(n) for n in range(max(counts) + 1)},
                "scales": [int(scale.min()), int(scale.max())]}
