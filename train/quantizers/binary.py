"""Binary weights: the sign of a real weight (Courbariaux et al. 2016, arXiv 1602.02830)."""

from __future__ import annotations

import torch
from torch import Tensor

from flightrtl.formats import BinaryFormat

from .base import Quantizer, column, limit_scale, power_of_two
from .nbq import nbq_scale

__all__ = ["BinaryQuantizer", "Sign"]


class Sign(torch.autograd.Function):
    """``-1`` below zero, else ``1``; backward a hard tanh.

    The gradient passes where ``|x| <= 1``. With ``inward`` it passes outside too where following
    it leads back: this has the fixed points of clamping ``x`` to [-1, 1] after every step.

    >>> x = torch.tensor([-2.0, -0.5, 0.0, 3.0], requires_grad=True)
    >>> y = Sign.apply(x, False)
    >>> y.sum().backward()
    >>> y.tolist(), x.grad.tolist()
    ([-1.0, -1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0])
    """

    @staticmethod
    def forward(ctx, values: Tensor, inward: bool) -> Tensor:  # type: ignore[no-untyped-def]
        """The signs; zero counts as positive."""
        ctx.save_for_backward(values)
        ctx.inward = inward
        return torch.where(values < 0, -1.0, 1.0).to(values.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        """Gradient of ``values``."""
        (values,) = ctx.saved_tensors
        passes = values.abs() <= 1
        if ctx.inward:
            passes = passes | (gradient * values > 0)
        return gradient * passes, None


class BinaryQuantizer(Quantizer):
    """Weights ``+-2^scale``: the sign of real weights, which are kept for training.

    The scale of a filter is the power of two with the least squared error when the float stage
    ends, and stays: a batch norm behind the layer takes over from there. Real weights outside
    [-1, 1] are not pushed any further out.

    Parameters
    ----------
    filters : int
        Of the layer.
    span : int
        See :func:`~train.quantizers.base.limit_scale`.
    """

    format: BinaryFormat

    def __init__(self, filters: int, span: int) -> None:
        super().__init__(filters, BinaryFormat(), span)
        self.levels: Tensor
        self.register_buffer("levels", torch.zeros(filters, dtype=torch.int32))

    def fold(self, weight: Tensor) -> None:
        """Choose the scales."""
        self.levels.copy_(nbq_scale(weight, self.format))

    def scale(self, weight: Tensor, highest: int | None = None) -> Tensor:
        """As chosen, within what the hardware can do."""
        return limit_scale(self.levels, self.span, highest)

    def forward(self, weight: Tensor, scale: Tensor) -> Tensor:
        """The signs times ``2**scale``, see :class:`Sign`."""
        signs: Tensor = Sign.apply(weight, True)
        return signs * column(power_of_two(scale), weight)
