"""Layers that train in floating point and end as integers.

A layer has two stages. In the *float* stage it is convolution, batch norm, activation. Then
:meth:`QuantizedLayer.fold` merges the batch norm into weights and bias, for good, and from there
on the layer is trained exactly as the hardware will compute it: quantized weights, a bias on the
accumulator's grid, round half up, clamp. So training, evaluation and the exported integers are
the same function, and no batch-norm statistics are left to lag behind.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from flightrtl.formats import ActivationFormat
from flightrtl.rules import LIMITS

from . import activation
from .quantizers.base import Quantizer, power_of_two

__all__ = ["EXACT", "QuantizedAdd", "QuantizedConcat", "QuantizedJoin", "QuantizedLayer",
           "QuantizedSumPool"]

EXACT = 1 << 24
"""Integers up to this are exact in float32."""

_GREATEST_BIAS = 1 << LIMITS.accumulator_bits - 2
_GREATEST_SCALE = 40
"""Of activations, either way; with it, every sum of scales is one of float32."""


def _exact(values: Tensor) -> Tensor:
    """In float64 where no gradients are wanted: sums of wide integers can have over 24 bits."""
    return values if torch.is_grad_enabled() else values.double()


class _Requantized(nn.Module):
    """A layer whose result is rounded to the grid of an output format.

    Parameters
    ----------
    name : str
        Name in the exported model.
    output : ActivationFormat
        Unsigned where a ReLU ends the layer; signed otherwise (logits, operands of an addition).
    """

    def __init__(self, name: str, output: ActivationFormat) -> None:
        super().__init__()
        self.name, self.output = name, output
        self.folded: Tensor
        self.input_scale: Tensor
        self.output_scale: Tensor
        self.register_buffer("folded", torch.tensor(False))
        self.register_buffer("input_scale", torch.tensor(0))
        self.register_buffer("output_scale", torch.tensor(0))

    def activate(self, values: Tensor) -> Tensor:
        """What ends the layer in the float stage."""
        return values if self.output.signed else functional.relu(values)

    def requantize(self, values: Tensor) -> Tensor:
        """What ends it in the quantized stage."""
        return activation.quantize(values, self.output, int(self.output_scale))

    def calibrate(self, values: Tensor, finest: int, *, otherwise: int = 0,
                  limits: tuple[int, int] = (-_GREATEST_SCALE, _GREATEST_SCALE)) -> None:
        """Choose the scale of the result on a sample of it.

        Parameters
        ----------
        values : Tensor
            The sample, not yet through the ReLU.
        finest : int
            The shift behind the layer would be negative below it.
        otherwise : int
            Scale of a result that is zero throughout.
        limits : (int, int)
            Least and greatest scale, whatever the sample says.
        """
        if not self.output.signed and not bool((values > 0).any()):
            values = values.abs()       # dead: what its range would be if it came to life
        scale = activation.calibrate(values, self.output) if bool(values.any()) else otherwise
        self.output_scale.fill_(min(max(scale, finest, limits[0]), limits[1]))
        self.folded.fill_(True)


class QuantizedLayer(_Requantized):
    """A convolution whose weights end in a format of the hardware.

    A dense layer is one whose kernel covers the whole input.

    Parameters
    ----------
    name, output
        See above.
    channels, filters : int
        Input and output channels.
    kernel : (int, int)
        Height, width.
    stride : (int, int)
        Down, across.
    padding : (int, int, int, int)
        Rows above, rows below, columns left, columns right.
    groups : int
        Of filters and channels, see :class:`flightrtl.model.Convolution`.
    quantizer : Quantizer, optional
        Of the weights. None: the layer is for the float stage only.
    batch_norm : bool
        In the float stage.
    dense : bool
        Exported as a dense layer.
    """

    def __init__(self, *, name: str, channels: int, filters: int, kernel: tuple[int, int],
                 stride: tuple[int, int] = (1, 1),
                 padding: tuple[int, int, int, int] = (0, 0, 0, 0), groups: int = 1,
                 quantizer: Quantizer | None, output: ActivationFormat, batch_norm: bool = True,
                 dense: bool = False) -> None:
        super().__init__(name, output)
        self.stride, self.padding, self.groups, self.dense = stride, padding, groups, dense
        self.weight = nn.Parameter(torch.empty(filters, channels // groups, *kernel))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(filters))
        self.norm = nn.BatchNorm2d(filters) if batch_norm else None
        self.quantizer = quantizer

    def extra_repr(self) -> str:
        """For ``print``."""
        return f"{self.name}, {tuple(self.weight.shape)}, stride={self.stride}"

    def scale(self, *, limited: bool = True) -> Tensor:
        """Scale of every filter's weights, int32 (filters,).

        Limited so that the shift behind the accumulator is one that hardware has, unless told
        otherwise.
        """
        assert self.quantizer is not None
        if not limited:
            return self.quantizer.scale(self.weight, None)
        highest = int(self.output_scale) - int(self.input_scale)
        return self.quantizer.scale(self.weight, highest).clamp_min(highest - LIMITS.shift)

    def quantized_bias(self) -> Tensor:
        """The bias on the grid of each filter's accumulator."""
        step = power_of_two(self.scale() + self.input_scale)
        integers = torch.floor(self.bias.detach() / step + 0.5)
        # Beyond that, the result is saturated anyway.
        rounded = integers.clamp(-_GREATEST_BIAS, _GREATEST_BIAS) * step
        return rounded + (self.bias - self.bias.detach())   # exactly the rounded values

    def freeze(self) -> None:
        """Let the quantizer settle what was open."""
        assert self.quantizer is not None
        self.quantizer.freeze(self.weight, self.scale())

    @torch.no_grad()
    def fold(self) -> None:
        """Merge the batch norm into weights and bias."""
        if self.norm is not None:
            mean, variance = self.norm.running_mean, self.norm.running_var
            assert mean is not None         # it tracks both
            assert variance is not None
            deviation = torch.sqrt(variance + self.norm.eps)
            factor = self.norm.weight / deviation
            self.bias.copy_(self.norm.bias + (self.bias - mean) * factor)
            self.weight.mul_(factor[:, None, None, None])
            self.norm = None
        if self.quantizer is not None:
            self.quantizer.fold(self.weight)

    def convolve(self, values: Tensor, weight: Tensor, bias: Tensor | None, *,
                 around: float = 0.0) -> Tensor:
        """The convolution alone, without a promise of exactness; ``around`` is the padding."""
        top, bottom, left, right = self.padding
        if around or top != bottom or left != right:
            values = functional.pad(values, (left, right, top, bottom), value=around)
            top = left = 0
        return functional.conv2d(values, weight, bias, self.stride, (top, left),
                                 groups=self.groups)

    def accumulate(self, values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The convolution of quantized values; exact where no gradients are wanted.

        It takes float64 for that where the sums of integers can have more than 24 bits.
        """
        if torch.is_grad_enabled():
            return self.convolve(values, weight, bias)
        steps = power_of_two(self.scale() + self.input_scale)
        largest = values.abs().amax() if values.numel() else values.new_zeros(())
        bound = (weight.flatten(1).abs().sum(dim=1) * largest + bias.abs()) / steps
        if bool((bound < EXACT).all()):
            return self.convolve(values, weight, bias)
        return self.convolve(values.double(), weight.double(), bias.double())

    def forward(self, values: Tensor) -> Tensor:
        """Real-valued activations in, real-valued activations out (on the grid once folded)."""
        if not bool(self.folded):
            result = self.convolve(values, self.weight, self.bias)
            return self.activate(result if self.norm is None else self.norm(result))
        assert self.quantizer is not None
        weight = self.quantizer(self.weight, self.scale())
        return self.requantize(self.accumulate(values, weight, self.quantized_bias()))


class QuantizedJoin(_Requantized):
    """What makes one map of several, with or without a ReLU behind it."""

    def join(self, *maps: Tensor) -> Tensor:
        """The maps as one, before ReLU or rounding."""
        raise NotImplementedError

    def forward(self, *maps: Tensor) -> Tensor:
        """Of maps of the same height and width."""
        if not bool(self.folded):
            return self.activate(self.join(*maps))
        return self.requantize(self.join(*map(_exact, maps)))


class QuantizedAdd(QuantizedJoin):
    """A residual addition of two maps of the same shape."""

    def join(self, *maps: Tensor) -> Tensor:
        """Their sum."""
        one, other = maps
        return one + other


class QuantizedConcat(QuantizedJoin):
    """A concatenation: the channels of one map behind those of the other."""

    def join(self, *maps: Tensor) -> Tensor:
        """All channels."""
        return torch.cat(maps, dim=1)


class QuantizedSumPool(_Requantized):
    """Average pooling over windows whose area is a power of two.

    Parameters
    ----------
    name, output
        See above.
    kernel, stride : (int, int)
        Down, across.
    """

    def __init__(self, name: str, output: ActivationFormat, kernel: tuple[int, int],
                 stride: tuple[int, int]) -> None:
        super().__init__(name, output)
        self.kernel, self.stride = kernel, stride
        area = kernel[0] * kernel[1]
        if area & (area - 1):
            raise ValueError(f"the area of an average pooling must be a power of two, not {area}: "
                             "the hardware divides by shifting")
        self.shift = area.bit_length() - 1

    def forward(self, values: Tensor) -> Tensor:
        """Sums of integers over a window."""
        if not bool(self.folded):
            return self.activate(functional.avg_pool2d(values.float(), self.kernel,
                                                        self.stride))
        values = _exact(values.float())
        return self.requantize(functional.avg_pool2d(values, self.kernel, self.stride))
