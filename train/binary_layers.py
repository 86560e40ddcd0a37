"""Layers of a binary network: where others have a ReLU, these take the sign.

In the float stage they are like the layers of :mod:`train.layers`, ReLU and all. In the quantized
stage the batch norm stays, since a binary network does not train without it, and is turned into
integers only for evaluation and export, by :meth:`BinaryLayer.integers`, which both use.

A sign is an unsigned integer ``b`` of 1 bit that stands for ``2 b - 1``. More generally an integer
``v`` of a map stands for ``v 2^scale + offset``, where the offset is -1 or 0, known from the graph.
Padding is ``v = 0``, so that around a map of signs there are signs -1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from flightrtl.formats import ActivationFormat, FixedFormat
from flightrtl.rules import LIMITS

from . import activation
from .layers import EXACT, QuantizedAdd, QuantizedLayer, QuantizedSumPool
from .quantizers.base import Quantizer, column, power_of_two
from .quantizers.binary import Sign
from .quantizers.terms import SQRT_HALF

__all__ = ["BinaryAdd", "BinaryLayer", "BinaryPart", "BinarySumPool"]

_SCALES = (-10, 4)
"""Of results that are not signs: so close together that an addition can shift them."""

_MOST_BIAS = 1 << 46
"""Of results of at most 16 bits: beyond, they are clamped whatever the sum is."""


class BinaryPart(nn.Module):
    """What the layers here share; mixed into a layer of :mod:`train.layers`.

    Attributes
    ----------
    sign : bool
        Whether the result is a sign.
    before : int
        Offset of the input; of both together, if there are two.
    after : int
        Offset of the result.
    preactivation : Tensor, optional
        What the sign was taken of in the last step of training, with its gradient.
    """

    output: ActivationFormat
    output_scale: Tensor
    folded: Tensor

    def offsets(self, sign: bool, before: int, after: int) -> None:
        """Set what the graph says of the layer."""
        self.sign, self.before, self.after = sign, before, -1 if sign else after
        self.preactivation: Tensor | None = None

    def start(self, inputs: list[Tensor], scales: list[int]) -> Tensor:
        """End the float stage, on a sample of the inputs; the result for it."""
        raise NotImplementedError

    def settle(self, values: Tensor, finest: int) -> None:
        """Choose the scale of the result on a sample of what it is made from."""
        low, high = max(finest, _SCALES[0]), max(finest, _SCALES[1])
        wanted = activation.calibrate(values - self.after, self.output)
        self.output_scale.fill_(1 if self.sign else min(max(wanted, low), high))
        self.folded.fill_(True)

    def requantize(self, values: Tensor) -> Tensor:
        """The real value of the result."""
        if self.sign:
            self.preactivation = values if self.training else None
            signs: Tensor = Sign.apply(values, False)
            return signs
        result = activation.quantize(values - self.after, self.output, int(self.output_scale))
        return result + self.after


class BinaryLayer(BinaryPart, QuantizedLayer):
    """A convolution or dense layer of a binary network, with binary or fixed-point weights.

    Batch norm in front of a sign becomes a threshold. In front of wider results (operands of an
    addition) its factor is rounded to a power of two, so that a shift does it.

    Parameters
    ----------
    source : ActivationFormat
        Of its input.
    before : int
        Offset of its input.
    sign : bool
        Whether the result is a sign.
    others
        See :class:`~train.layers.QuantizedLayer`.
    """

    def __init__(self, *, name: str, channels: int, filters: int, kernel: tuple[int, int],
                 stride: tuple[int, int], padding: tuple[int, int, int, int], groups: int,
                 quantizer: Quantizer | None, output: ActivationFormat, batch_norm: bool,
                 dense: bool, source: ActivationFormat, before: int, sign: bool) -> None:
        super().__init__(name=name, channels=channels, filters=filters, kernel=kernel,
                         stride=stride, padding=padding, groups=groups, quantizer=quantizer,
                         output=output, batch_norm=batch_norm, dense=dense)
        self.source = source
        self.live_norm = nn.BatchNorm2d(filters) if batch_norm or sign else None
        self.bias.requires_grad_(not batch_norm)        # which has one of its own
        self.offsets(sign, before, 0)

    def scale(self, *, limited: bool = True) -> Tensor:
        """As in other layers; without a limit where a batch norm can make up for it."""
        return super().scale(limited=limited and self.live_norm is None)

    @torch.no_grad()
    def fold(self) -> None:
        """The batch norm goes over to the quantized stage as it is."""
        if self.norm is not None and self.live_norm is not None:
            self.live_norm.load_state_dict(self.norm.state_dict())
            self.live_norm.eps, self.live_norm.momentum = self.norm.eps, self.norm.momentum
            self.norm = None
        assert self.quantizer is not None
        self.quantizer.fold(self.weight)

    def quantized_weight(self) -> Tensor:
        """Real-valued, with gradients. As far below zero as above, so that signs can turn."""
        assert self.quantizer is not None
        scale = self.scale()
        weight: Tensor = self.quantizer(self.weight, scale)
        if not isinstance(self.quantizer.format, FixedFormat):
            return weight
        least = column(power_of_two(scale), weight) * -self.quantizer.format.max
        return weight + (torch.maximum(weight, least) - weight).detach()

    def sums(self, values: Tensor) -> Tensor:
        """The convolution of real-valued inputs; with a bias only where no batch norm follows."""
        bias = self.bias if self.live_norm is None else None
        return self.convolve(values, self.quantized_weight(), bias, around=float(self.before))

    @torch.no_grad()
    def factors(self, *, limited: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Batch norm as a power of two: its exponents, its signs, and its exact factors (float64).

        The exponents are limited to those for which there is a shift, unless told otherwise. A
        factor of zero has the least of them, which makes the result a constant.
        """
        if self.live_norm is None:
            ones = torch.ones_like(self.bias).double()
            return torch.zeros_like(self.bias, dtype=torch.int32), ones, ones
        variance = self.live_norm.running_var
        assert variance is not None             # it is tracked
        exact = self.live_norm.weight.double() / (variance.double() + self.live_norm.eps).sqrt()
        mantissa, exponent = torch.frexp(exact.abs())
        nearest = exponent - (mantissa < SQRT_HALF).to(torch.int32)
        if limited:
            highest = self.output_scale - self.input_scale - self.scale()
            lowest = highest - LIMITS.shift
            nearest = torch.where(exact == 0, lowest, nearest).clamp(lowest, highest)
        return nearest, torch.where(exact < 0, -1.0, 1.0).double(), exact

    def normalize(self, sums: Tensor) -> Tensor:
        """The batch norm, its factor rounded if the result has more than a sign."""
        if self.live_norm is None:
            return sums
        result: Tensor = self.live_norm(sums)
        if self.sign:
            return result
        exponent, _, exact = self.factors()
        ratio = torch.where(exact == 0, 0.0, power_of_two(exponent) / exact.abs())
        shift = column(self.live_norm.bias, result[0])
        return (result - shift) * column(ratio.float(), result[0]) + shift

    @torch.no_grad()
    def start(self, inputs: list[Tensor], scales: list[int]) -> Tensor:
        """Statistics of the binarized sums replace those of the float stage."""
        if not bool(self.folded):
            self.fold()
        self.input_scale.fill_(scales[0])
        # Only so that the scale of the weights, without a limit from it yet, can be asked for.
        self.output_scale.fill_(1 << 7)
        sums = self.sums(inputs[0])
        finest = self.scale(limited=False) + self.input_scale
        if self.live_norm is not None:
            norm = self.live_norm
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.reset_running_stats()
            norm.running_mean.copy_(sums.mean(dim=(0, 2, 3)))
            norm.running_var.copy_(sums.var(dim=(0, 2, 3)))
            result = functional.batch_norm(sums, norm.running_mean, norm.running_var, norm.weight,
                                           norm.bias, eps=norm.eps)
            exponent, _, exact = self.factors(limited=False)
            constant = (exact == 0) | (norm.running_var == 0)
            finest = torch.where(constant, finest.min(), finest + exponent)
        else:
            result = sums
        # Factors still grow: one binary place is kept for that.
        self.settle(result, int(finest.max()) + 1)
        return self.requantize(result)

    @torch.no_grad()
    def integers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, biases and shifts of ``clamp((sum + bias) >> shift)``, all int64.

        Where the batch norm has a negative factor, the signs of the filter's weights are turned.
        A filter that gives a constant has a bias that makes it so.
        """
        scale = self.scale()
        codes = (self.quantized_weight().double()
                 / column(power_of_two(scale), self.weight).double()).round()
        step = power_of_two(scale + self.input_scale).double()
        # The real sum is step * (sum of integers) + constant.
        constant = power_of_two(scale) * codes.flatten(1).sum(dim=1) * self.before
        exponent, sign, exact = self.factors(limited=not self.sign)
        codes = codes * column(sign, codes)
        if self.live_norm is None:
            addend, mean = self.bias.double(), torch.zeros_like(constant)
        else:
            assert self.live_norm.running_mean is not None
            addend = self.live_norm.bias.double()
            mean = self.live_norm.running_mean.double()
        if self.sign:
            bias = self._thresholds(codes, sign * (mean - addend / exact - constant) / step,
                                    exact == 0, addend >= 0)
            shift = torch.zeros_like(bias)
        else:
            factor = power_of_two(exponent).double()
            shift = (self.output_scale - scale - self.input_scale - exponent).long()
            half = torch.where(shift > 0, 1 << (shift - 1).clamp_min(0), 0)
            free = torch.floor((sign * factor * (constant - mean) + addend) / (factor * step)
                               + 0.5).clamp(-_MOST_BIAS, _MOST_BIAS)
            bias = free.long() + half
        return codes.long(), bias, shift

    def _thresholds(self, codes: Tensor, least: Tensor, constant: Tensor,
                    positive: Tensor) -> Tensor:
        """Biases with which ``sum + bias >= 1`` exactly if ``sum >= least``."""
        flat = codes.flatten(1)
        up, down = flat.clamp_min(0).sum(dim=1), flat.clamp_max(0).sum(dim=1)
        low = up * self.source.min + down * self.source.max
        high = up * self.source.max + down * self.source.min
        least = torch.where(constant, torch.where(positive, low, high + 1), torch.ceil(least))
        return 1 - torch.minimum(torch.maximum(least, low), high + 1).long()

    def evaluate(self, values: Tensor) -> Tensor:
        """In integers, as the hardware does it; back in real values at the end."""
        codes, bias, shift = self.integers()
        inputs = (values - self.before) * 2.0 ** -int(self.input_scale)
        largest = float(inputs.abs().amax()) if inputs.numel() else 0.0
        bound = float(codes.abs().flatten(1).sum(dim=1).max()) * largest
        dtype = torch.float32 if bound < EXACT else torch.float64
        sums = self.convolve(inputs.to(dtype), codes.to(dtype), None)
        biased = sums.double() + column(bias.double(), sums[0])
        result = torch.floor(biased * column(power_of_two(-shift).double(), sums[0]))
        result = result.clamp(self.output.min, self.output.max)
        return (result * 2.0 ** int(self.output_scale) + self.after).float()

    def forward(self, values: Tensor) -> Tensor:
        """Real-valued activations in, real-valued activations out; exact in evaluation."""
        if not bool(self.folded):
            return super().forward(values)
        if not self.training:
            self.preactivation = None
            return self.evaluate(values)
        return self.requantize(self.normalize(self.sums(values)))


class BinaryAdd(BinaryPart, QuantizedAdd):
    """An addition of signs or wider values, with or without a sign behind it.

    Parameters
    ----------
    name, output
        See :class:`~train.layers.QuantizedAdd`.
    before : int
        Sum of the offsets of both inputs.
    sign : bool
        Whether the result is a sign.
    """

    def __init__(self, name: str, output: ActivationFormat, before: int, sign: bool) -> None:
        super().__init__(name, output)
        self.offsets(sign, before, 0)

    @torch.no_grad()
    def start(self, inputs: list[Tensor], scales: list[int]) -> Tensor:
        """Choose the scale of the result."""
        values = inputs[0] + inputs[1]
        self.settle(values, min(scales))
        return self.requantize(values)

    def integers(self, scales: list[int]) -> tuple[tuple[int, int], int, int]:
        """Shifts to the left, bias, and shift, for inputs of these scales."""
        common = min([*scales, 0])          # not above 0, so that the offset is an integer
        offset = self.before << -common
        shift = int(self.output_scale) - common
        # A sign: v + offset >= 0 exactly if (v + offset + 2^shift) >> shift is 1 or more.
        bias = offset + (1 << shift if self.sign else 1 << shift >> 1)
        return (scales[0] - common, scales[1] - common), bias, shift


class BinarySumPool(BinaryPart, QuantizedSumPool):
    """Average pooling of signs or wider values, with or without a sign behind it.

    Without one, an offset of the input is that of the result.

    Parameters
    ----------
    name, output, kernel, stride
        See :class:`~train.layers.QuantizedSumPool`.
    before : int
        Offset of the input.
    sign : bool
        Whether the result is a sign.
    """

    def __init__(self, name: str, output: ActivationFormat, kernel: tuple[int, int],
                 stride: tuple[int, int], before: int, sign: bool) -> None:
        super().__init__(name, output, kernel, stride)
        self.offsets(sign, before, before)

    @torch.no_grad()
    def start(self, inputs: list[Tensor], scales: list[int]) -> Tensor:
        """Choose the scale of the result."""
        values = functional.avg_pool2d(inputs[0].float(), self.kernel, self.stride)
        self.settle(values, scales[0] - self.shift)
        return self.requantize(values)

    def integers(self, scale: int) -> tuple[int, int]:
        """Bias and shift for an input of this scale."""
        if self.sign:                       # sum 2^scale + area offset >= 0
            return 1 - math.ceil(-(self.before << self.shift) * 2.0 ** -scale), 0
        shift = int(self.output_scale) - (scale - self.shift)
        return 1 << shift >> 1, shift
