"""Activations on a power-of-two grid, with the integer rounding of the hardware."""

from __future__ import annotations

import torch
from torch import Tensor

from flightrtl.formats import ActivationFormat

__all__ = ["calibrate", "quantize"]


_BFLOAT16_INTEGERS = 256
"""Integers up to this, of either sign, are exact in bfloat16."""


class _Quantize(torch.autograd.Function):
    """Round half up and clamp; the gradient passes where nothing was clamped.

    A large part of a training step on a CPU, so it goes over memory as seldom as it can.
    """

    @staticmethod
    def forward(ctx, values: Tensor, low: float, high: float, step: float) -> Tensor:  # type: ignore[no-untyped-def]
        """``clamp(floor(values / step + 1/2)) * step``; in bfloat16 only where that is exact."""
        wide = torch.promote_types(values.dtype, torch.float32)
        narrow = values.dtype if max(-low, high) <= _BFLOAT16_INTEGERS else wide
        # The step is a power of two, so the product is the quotient.
        integers = values.to(wide, copy=True).mul_(1 / step).add_(0.5).floor_()
        ctx.bounds = low - 0.5, high + 0.5      # no integer is one of them
        # An integer beyond the bounds stays so when it is rounded to bfloat16.
        ctx.save_for_backward(integers.to(narrow, copy=True))
        return integers.clamp_(low, high).mul_(step).to(narrow)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        """Straight through, inside the range."""
        (integers,) = ctx.saved_tensors
        inside = torch.ops.aten.hardtanh_backward(gradient, integers, *ctx.bounds)
        return inside, None, None, None


def quantize(values: Tensor, format: ActivationFormat, scale: int) -> Tensor:
    """Real values as the integers of ``format`` times ``2**scale``.

    The same as ``(acc + bias) >> shift`` with the rounding half in ``bias``: adding one half and
    rounding down. An unsigned format is a ReLU as well.

    >>> quantize(torch.tensor([-1.0, 0.24, 0.25, 0.75, 9.0]), ActivationFormat(4), -1).tolist()
    [0.0, 0.0, 0.5, 1.0, 7.5]
    """
    result: Tensor = _Quantize.apply(values, float(format.min), float(format.max), 2.0 ** scale)
    return result.float() if result.dtype == torch.float64 else result


def calibrate(values: Tensor, format: ActivationFormat) -> int:
    """The scale that makes the squared error of :func:`quantize` least on a sample of values.

    For unsigned formats the error is measured behind the ReLU.

    >>> calibrate(torch.linspace(0, 7.9, 1000), ActivationFormat(8))
    -5
    """
    values = values.detach().flatten()
    target = values if format.signed else values.clamp_min(0)
    largest = float(target.abs().max())
    if largest == 0:
        return 0
    top = int(torch.frexp(torch.tensor(largest / format.max))[1])      # nothing clamped
    errors = {scale: float((quantize(target, format, scale) - target).square().mean())
              for scale in range(top, top - 6, -1)}
    return min(errors, key=lambda scale: errors[scale])
