"""A trained network as data: tensors, layers and the shapes that follow from them.

A :class:`Model` is what the trainer exports, the golden model computes and the gateware is
built from. Its file is read and written by :mod:`flightrtl.modelfile`.

Feature maps are ``(height, width, channels)``; everything that is laid out in a row (a stream,
the inputs of a dense layer) is in that order, channel fastest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import ActivationFormat, IntArray, TermFormat, WeightFormat, signed_bits

__all__ = ["INPUT", "Add", "Concat", "Convolution", "Dense", "Join", "Layer", "MaxPool", "Model",
           "SumPool", "TensorType", "WeightedLayer", "most_values"]

INPUT = "input"
"""The name by which layers refer to the image."""

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class TensorType:
    """Shape and number format of a feature map.

    Parameters
    ----------
    shape : (int, int, int)
        Height, width, channels.
    format : ActivationFormat
        The integers in it.
    scale : int
        An integer ``v`` stands for the real number ``v * 2**scale``.
    """

    shape: Shape
    format: ActivationFormat = ActivationFormat()
    scale: int = 0

    @property
    def size(self) -> int:
        """Values in the map."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, eq=False, kw_only=True)
class WeightedLayer:
    """What convolution and dense layers share: packed weights and requantization.

    The terms are packed by *slot*: filter ``i`` owns ``k[i]`` consecutive slots, and each slot
    holds one term for every input of the filter. Weight ``w`` of filter ``i`` is the sum over
    its slots; a filter with ``k[i] = 0`` owns none. Weights that are fixed-point or binary are one
    "term" each: every filter has one slot, or none if it is pruned.

    Parameters
    ----------
    name : str
        Unique in the model.
    inputs : tuple of str
        The layer that feeds this one, or :data:`INPUT`.
    terms : array of uint8, (sum(k), kernel height, kernel width, input channels of a filter)
        Codes of terms or weights, as ``format`` says. A filter takes all channels of the input, or
        those of its group (:attr:`Convolution.groups`).
    k : tuple of int
        Terms per weight, for each filter. 0 or 1 unless ``format`` is of terms.
    bias, shift : arrays of int64, (filters,)
        ``out = clamp((acc + bias) >> shift)``.
    scale : array of int64, (filters,)
        The real value of a weight is its integer times ``2**scale``. Information only: no
        computation in this package uses it.
    format : TermFormat, FixedFormat or BinaryFormat
        Of ``terms``.
    output : ActivationFormat
        What the result is clamped to.
    output_scale : int
        Power-of-two scale of the result.
    """

    name: str
    inputs: tuple[str, ...]
    terms: NDArray[np.uint8]
    k: tuple[int, ...]
    bias: IntArray
    shift: IntArray
    scale: IntArray
    format: WeightFormat = TermFormat()
    output: ActivationFormat = ActivationFormat()
    output_scale: int = 0
    groups: int = field(default=1, init=False)

    @property
    def filters(self) -> int:
        """Output channels."""
        return len(self.k)

    @property
    def slots(self) -> int:
        """``sum(k)``, the term planes that the hardware computes for each output pixel."""
        return sum(self.k)

    @property
    def kernel(self) -> tuple[int, int]:
        """Kernel height and width."""
        return int(self.terms.shape[1]), int(self.terms.shape[2])

    @property
    def channels(self) -> int:
        """Input channels of a filter."""
        return int(self.terms.shape[3])

    @property
    def source_channels(self) -> int:
        """Input channels of the layer."""
        return self.channels * self.groups

    @property
    def group_slots(self) -> tuple[int, ...]:
        """``sum(k)`` over the filters of each group."""
        size = self.filters // self.groups
        return tuple(sum(self.k[first:first + size]) for first in range(0, self.filters, size))

    @property
    def taps(self) -> int:
        """Weights of one filter."""
        return self.kernel[0] * self.kernel[1] * self.channels

    @cached_property
    def term_values(self) -> IntArray:
        """The terms as integers, in the shape of ``terms``."""
        return self.format.decode(self.terms)

    @cached_property
    def slot_filter(self) -> IntArray:
        """The filter that owns each slot."""
        return np.repeat(np.arange(self.filters), self.k).astype(np.int64)

    @cached_property
    def weights(self) -> IntArray:
        """Integer weights, (filters, kernel height, kernel width, input channels of a filter)."""
        weights = np.zeros((self.filters, *self.terms.shape[1:]), np.int64)
        np.add.at(weights, self.slot_filter, self.term_values)
        return weights

    @property
    def dense_weights(self) -> IntArray:
        """Weights of all input channels: 0 where a channel is not of the filter's group."""
        height, width = self.kernel
        spread = np.zeros((self.groups, self.filters // self.groups, height, width, self.groups,
                           self.channels), np.int64)
        each = np.arange(self.groups)
        spread[each, :, :, :, each] = self.weights.reshape(self.groups, -1, height, width,
                                                           self.channels)
        return spread.reshape(self.filters, height, width, -1)

    def accumulator_range(self, source: ActivationFormat) -> tuple[int, int]:
        """Least and greatest value that ``sum(weight * activation)`` can take in any filter."""
        weights = self.weights.reshape(self.filters, -1)
        positive = np.maximum(weights, 0).sum(axis=1)
        negative = np.minimum(weights, 0).sum(axis=1)
        low = (positive * source.min + negative * source.max).min(initial=0)
        high = (positive * source.max + negative * source.min).max(initial=0)
        return int(low), int(high)

    def accumulator_bits(self, source: ActivationFormat) -> int:
        """Width of an accumulator that can never overflow, and no wider."""
        return signed_bits(*self.accumulator_range(source))


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(WeightedLayer):
    """Two-dimensional convolution (cross-correlation, as in PyTorch) over a zero-padded map.

    Parameters
    ----------
    stride : (int, int)
        Vertical, horizontal.
    padding : (int, int, int, int)
        Rows of zeros above and below, columns of zeros left and right.
    groups : int
        The filters and the input's channels are divided into as many groups of neighbours, and a
        filter takes the channels of its group only. With as many groups as channels the
        convolution is depthwise.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    def output_shape(self, source: Shape) -> Shape:
        """Shape of the result for an input of shape ``source``."""
        top, bottom, left, right = self.padding
        return ((source[0] + top + bottom - self.kernel[0]) // self.stride[0] + 1,
                (source[1] + left + right - self.kernel[1]) // self.stride[1] + 1, self.filters)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dense(WeightedLayer):
    """Fully connected layer: a convolution whose kernel covers the whole input map."""

    stride: tuple[int, int] = field(default=(1, 1), init=False)
    padding: tuple[int, int, int, int] = field(default=(0, 0, 0, 0), init=False)

    def output_shape(self, source: Shape) -> Shape:
        """Shape of the result."""
        return (1, 1, self.filters)


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """Largest value of each window; rows and columns that no window reaches are dropped."""

    name: str
    inputs: tuple[str, ...]
    kernel: tuple[int, int]
    stride: tuple[int, int]

    def output_shape(self, source: Shape) -> Shape:
        """Shape of the result for an input of shape ``source``."""
        return ((source[0] - self.kernel[0]) // self.stride[0] + 1,
                (source[1] - self.kernel[1]) // self.stride[1] + 1, source[2])


@dataclass(frozen=True, kw_only=True)
class SumPool(MaxPool):
    """Sum of each window, then ``clamp((sum + bias) >> shift)``: an average without division."""

    bias: int
    shift: int
    output: ActivationFormat = ActivationFormat()
    output_scale: int = 0


@dataclass(frozen=True, kw_only=True)
class Join:
    """What joins several maps into one: each value is shifted to the left, the result requantized.

    The shifts to the left bring all operands to a common power-of-two scale; ``bias`` already holds
    the rounding half of ``shift``.

    Parameters
    ----------
    name : str
        Unique in the model.
    inputs : tuple of str
        The layers that give the operands, or :data:`INPUT`.
    shifts : tuple of int
        For each operand, 0 to 15.
    bias, shift, output, output_scale
        As in :class:`SumPool`.
    """

    name: str
    inputs: tuple[str, ...]
    shifts: tuple[int, ...]
    bias: int
    shift: int
    output: ActivationFormat = ActivationFormat()
    output_scale: int = 0


@dataclass(frozen=True, kw_only=True)
class Add(Join):
    """Sum of two maps of the same shape, value by value: the end of a residual block.

    ``out = clamp(((a << shifts[0]) + (b << shifts[1]) + bias) >> shift)``. See :class:`Join`.
    """

    def output_shape(self, *sources: Shape) -> Shape:
        """Shape of the result: that of both inputs."""
        return sources[0]


@dataclass(frozen=True, kw_only=True)
class Concat(Join):
    """Maps of the same height and width behind each other, channel by channel.

    A channel of operand ``n`` is ``out = clamp(((a << shifts[n]) + bias) >> shift)``. That is exact
    (no value is rounded or clamped) if bias and shift are 0 and the output holds every operand's
    range times ``2**shifts[n]``. See :class:`Join`.
    """

    def output_shape(self, *sources: Shape) -> Shape:
        """Shape of the result: the channels of all inputs."""
        return (*sources[0][:2], sum(source[2] for source in sources))


Layer = Convolution | Dense | MaxPool | SumPool | Add | Concat


def most_values(layers: Sequence[Layer], sizes: Mapping[str, int]) -> int:
    """Most values that are needed at the same time when the layers are computed in their order.

    A map is needed from the layer that gives it to the last one that takes it.

    Parameters
    ----------
    sizes : mapping of str to int
        Values of the image (under :data:`INPUT`) and of every layer's result.
    """
    last = {edge: index for index, layer in enumerate(layers) for edge in layer.inputs}
    kept, most = sizes[INPUT], sizes[INPUT]
    for index, layer in enumerate(layers):
        kept += sizes[layer.name]
        most = max(most, kept)
        kept -= sum(sizes[edge] for edge in set(layer.inputs) if last[edge] == index)
    return most


@dataclass(frozen=True, eq=False)
class Model:
    """A network: its input, its layers in order, and where it comes from.

    Parameters
    ----------
    name : str
        By which people call it.
    input : TensorType
        The image.
    layers : tuple of Layer
        In an order in which every layer comes after its inputs. The last one gives the logits.
    provenance : mapping
        Data set, accuracy of the integer model, training command, seed: see ``docs``.
    """

    name: str
    input: TensorType
    layers: tuple[Layer, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> dict[str, TensorType]:
        """Type of the image (under :data:`INPUT`) and of every layer's result, by name."""
        tensors = {INPUT: self.input}
        for layer in self.layers:
            source = tensors[layer.inputs[0]]
            shape = layer.output_shape(*(tensors[edge].shape for edge in layer.inputs))
            if isinstance(layer, (WeightedLayer, SumPool, Join)):
                tensors[layer.name] = TensorType(shape, layer.output, layer.output_scale)
            else:
                tensors[layer.name] = TensorType(shape, source.format, source.scale)
        return tensors

    @cached_property
    def chain(self) -> bool:
        """Whether every layer takes the result of the one before it, and nothing else."""
        before = [INPUT, *(layer.name for layer in self.layers)]
        return all(layer.inputs == (name,)
                   for layer, name in zip(self.layers, before, strict=False))

    @cached_property
    def last_taker(self) -> dict[str, str]:
        """For the image and each result that is taken: the last layer that takes it."""
        return {edge: layer.name for layer in self.layers for edge in layer.inputs}

    def source(self, layer: Layer) -> TensorType:
        """What feeds ``layer``: the first of its inputs, if it has several."""
        return self.tensors[layer.inputs[0]]

    @property
    def output(self) -> TensorType:
        """Type of the logits."""
        return self.tensors[self.layers[-1].name]
