"""Named networks: what layers, how wide, and in which number formats."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flightrtl.formats import ActivationFormat, TermFormat
from flightrtl.model import TensorType

from .activation import calibrate
from .layers import QuantizedLayer

__all__ = ["NETWORKS", "Conv", "Dense", "Network", "Pool"]


@dataclass(frozen=True)
class Conv:
    """A square convolution, batch norm, ReLU."""

    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0

    def __str__(self) -> str:
        text = f"{self.filters} filters {self.kernel}x{self.kernel}"
        text += f" stride {self.stride}" if self.stride > 1 else ""
        return text + (f" padding {self.padding}" if self.padding else "")


@dataclass(frozen=True)
class Pool:
    """Max-pooling of square windows that do not overlap."""

    size: int

    def __str__(self) -> str:
        return f"max-pool {self.size}x{self.size}"


@dataclass(frozen=True)
class Dense:
    """A fully connected layer; ``units = 0`` stands for the number of classes."""

    units: int = 0

    def __str__(self) -> str:
        return f"dense {self.units or 'classes'}"


NETWORKS: dict[str, tuple[Conv | Pool | Dense, ...]] = {
    "mnist": (Conv(8, 5, stride=2, padding=2), Conv(16, 3, stride=2, padding=1), Conv(24, 3),
              Conv(24, 3), Dense()),
    "digits": (Conv(8, 3), Pool(2), Dense()),
}


class Network(nn.Module):
    """A chain of layers.

    Parameters
    ----------
    layers : tuple of Conv, Pool, Dense
        As in :data:`NETWORKS`.
    input : TensorType
        The image.
    classes : int
        Logits.
    exponent_bits, max_terms, learn_terms, prune, scale_span
        See :class:`~train.layers.QuantizedLayer`.
    activation_bits, logit_bits : int
        Of hidden layers (unsigned) and of the result (signed).
    """

    def __init__(self, layers: tuple[Conv | Pool | Dense, ...], input: TensorType, classes: int, *,
                 exponent_bits: int = 3, activation_bits: int = 8, logit_bits: int = 16,
                 max_terms: int = 2, learn_terms: bool = True, prune: bool = False,
                 scale_span: int = 3) -> None:
        super().__init__()
        self.input = input
        self.sequence = nn.ModuleList()
        height, width, channels = input.shape
        counts = {Conv: 0, Pool: 0, Dense: 0}
        for position, layer in enumerate(layers):
            counts[type(layer)] += 1
            last = position == len(layers) - 1
            if isinstance(layer, Pool):
                pool = nn.MaxPool2d(layer.size)
                pool.name = f"pool{counts[Pool]}"      # type: ignore[assignment]
                self.sequence.append(pool)
                height, width = height // layer.size, width // layer.size
                continue
            if isinstance(layer, Conv):
                name, filters = f"conv{counts[Conv]}", layer.filters
                kernel = (layer.kernel, layer.kernel)
                stride, padding = layer.stride, layer.padding
            else:
                name, filters = f"dense{counts[Dense]}", layer.units or classes
                kernel, stride, padding = (height, width), 1, 0
            self.sequence.append(QuantizedLayer(
                name=name, channels=channels, filters=filters, kernel=kernel, stride=stride,
                padding=padding, terms=TermFormat(exponent_bits), max_terms=max_terms,
                learn_terms=learn_terms, prune=prune, scale_span=scale_span, batch_norm=not last,
                output=ActivationFormat(logit_bits, True) if last
                else ActivationFormat(activation_bits)))
            height = (height + 2 * padding - kernel[0]) // stride + 1
            width = (width + 2 * padding - kernel[1]) // stride + 1
            channels = filters
            if min(height, width) < 1:
                raise ValueError(f"{name}: an image of {input.shape} is too small for this "
                                 "network; choose another network")

    @property
    def weighted(self) -> list[QuantizedLayer]:
        """The layers that have weights, in order."""
        return [layer for layer in self.sequence if isinstance(layer, QuantizedLayer)]

    def forward(self, images: Tensor) -> Tensor:
        """Real-valued logits (N, classes) of integer images (N, C, H, W) in float32."""
        values = images * 2.0 ** self.input.scale
        for layer in self.sequence:
            values = layer(values)
        return values.flatten(1)

    @torch.no_grad()
    def fold(self, images: Tensor) -> None:
        """End the float stage; scales of activations are chosen on ``images``."""
        values = images * 2.0 ** self.input.scale
        scale = self.input.scale
        for layer in self.sequence:
            if isinstance(layer, QuantizedLayer):
                layer.fold()
                result = layer.accumulate(values, layer.weight, layer.bias).float()
                layer.input_scale.fill_(scale)
                # No finer than the accumulator, or the shift behind it would be negative. Weights
                # of the last layer still grow: one binary place is kept for that.
                finest = scale + int(layer.scale(limited=False).max()) + int(layer.output.signed)
                scale = max(calibrate(result, layer.output), finest)
                layer.output_scale.fill_(scale)
                values = result if layer.output.signed else result.relu()
            else:
                values = layer(values)
