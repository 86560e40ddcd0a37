"""Convolution and dense layers that train in floating point and end as integers.

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

from flightrtl.formats import ActivationFormat, TermFormat

from . import activation
from .quantize import Decomposition, FLightNN, decompose, power_of_two, window_scale

__all__ = ["QuantizedLayer"]


class QuantizedLayer(nn.Module):
    """A convolution whose weights are sums of signed powers of two.

    A dense layer is one whose kernel covers the whole input.

    Parameters
    ----------
    name : str
        Name in the exported model.
    channels, filters : int
        Input and output channels.
    kernel : (int, int)
        Height, width.
    stride, padding : int
        The same in both directions and on all sides.
    terms : TermFormat
        Of the weights.
    max_terms : int
        ``K``.
    learn_terms : bool
        True: thresholds are trained (FLightNN). False: every filter has ``max_terms`` (LightNN).
    prune : bool
        Whether ``t_0`` is trained too, so that filters can vanish. Otherwise it stays 0.
    output : ActivationFormat
        Unsigned for a hidden layer (a ReLU), signed for logits.
    scale_span : int
        See :func:`~train.quantize.window_scale`.
    batch_norm : bool
        In the float stage.
    """

    def __init__(self, *, name: str, channels: int, filters: int, kernel: tuple[int, int],
                 stride: int = 1, padding: int = 0, terms: TermFormat, max_terms: int = 2,
                 learn_terms: bool = True, prune: bool = False, output: ActivationFormat,
                 scale_span: int = 3, batch_norm: bool = True) -> None:
        super().__init__()
        self.name = name
        self.stride, self.padding = stride, padding
        self.terms, self.max_terms, self.learn_terms = terms, max_terms, learn_terms
        self.output, self.scale_span = output, scale_span
        self.weight = nn.Parameter(torch.empty(filters, channels, *kernel))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(filters))
        self.norm = nn.BatchNorm2d(filters) if batch_norm else None
        self.thresholds = nn.Parameter(torch.zeros(max_terms), requires_grad=learn_terms)
        self.first_trained = 0 if prune else 1
        self.folded: Tensor
        self.frozen: Tensor
        self.frozen_on: Tensor
        self.unit: Tensor
        self.input_scale: Tensor
        self.output_scale: Tensor
        self.register_buffer("folded", torch.tensor(False))
        self.register_buffer("frozen", torch.tensor(False))
        self.register_buffer("frozen_on", torch.ones(max_terms, filters, dtype=torch.bool))
        self.register_buffer("unit", torch.tensor(1.0))
        self.register_buffer("input_scale", torch.tensor(0))
        self.register_buffer("output_scale", torch.tensor(0))
        self.parts: Decomposition | None = None

    def extra_repr(self) -> str:
        """For ``print``."""
        return f"{self.name}, {tuple(self.weight.shape)}, stride={self.stride}"

    def scale(self, *, limited: bool = True) -> Tensor:
        """Exponent of the least power of two of every filter, see ``window_scale``.

        Limited so that the shift behind the accumulator is not negative, unless told otherwise.
        """
        highest = int(self.output_scale) - int(self.input_scale) if limited else None
        return window_scale(self.weight, self.terms, span=self.scale_span, highest=highest)

    def absolute_thresholds(self) -> Tensor:
        """``t``: the trained thresholds are relative to the layer's filter norm when folded.

        So the thresholds of all layers move at a comparable rate.
        """
        trained = torch.arange(self.max_terms) >= self.first_trained
        return self.thresholds * self.unit * trained

    def decompose(self) -> Decomposition:
        """The weights as terms, with the present thresholds."""
        return decompose(self.weight, self.absolute_thresholds(), self.scale(), self.terms,
                         self.frozen_on if bool(self.frozen) else None)

    def quantized_bias(self) -> Tensor:
        """The bias on the grid of each filter's accumulator."""
        step = power_of_two(self.scale() + self.input_scale)
        rounded = torch.floor(self.bias.detach() / step + 0.5) * step
        return self.bias + (rounded - self.bias).detach()

    @torch.no_grad()
    def freeze(self) -> None:
        """Keep the present number of terms of every filter from now on."""
        self.frozen_on.copy_(self.decompose().on)
        self.frozen.fill_(True)

    @torch.no_grad()
    def fold(self) -> None:
        """End the float stage: merge the batch norm into weights and bias."""
        if self.norm is not None:
            mean, variance = self.norm.running_mean, self.norm.running_var
            assert mean is not None         # it tracks both
            assert variance is not None
            deviation = torch.sqrt(variance + self.norm.eps)
            factor = self.norm.weight / deviation
            self.bias.copy_(self.norm.bias - mean * factor)
            self.weight.mul_(factor[:, None, None, None])
            self.norm.requires_grad_(False)
        self.unit.copy_(self.weight.flatten(1).norm(dim=1).mean())
        self.folded.fill_(True)

    def accumulate(self, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution alone.

        Without gradients, in float64: there every sum is exact, whatever the formats are. In
        float32 it is while it has no more than 24 bits.
        """
        if torch.is_grad_enabled():
            return functional.conv2d(values, weight, bias, self.stride, self.padding)
        return functional.conv2d(values.double(), weight.double(),
                                 None if bias is None else bias.double(), self.stride,
                                 self.padding)

    def forward(self, values: Tensor) -> Tensor:
        """Real-valued activations in, real-valued activations out (on the grid once folded)."""
        if not bool(self.folded):
            if self.norm is None:
                result = self.accumulate(values, self.weight, self.bias).float()
            else:
                result = self.norm(self.accumulate(values, self.weight, None).float())
            return result if self.output.signed else functional.relu(result)
        self.parts = self.decompose()
        weight = FLightNN.apply(self.weight, self.absolute_thresholds(), self.parts)
        result = self.accumulate(values, weight, self.quantized_bias())
        return activation.quantize(result, self.output, int(self.output_scale)).float()
