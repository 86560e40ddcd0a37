"""The golden model: exact integer inference in NumPy.

What this module computes is the definition of right for the trainer's export, the gateware, the
netlist and the bitstream. The arithmetic itself is :func:`flightrtl.formats.requantize`; here are
the sums before it.

A convolution is one matrix product over unrolled windows. BLAS has only floating point, but a sum
of integers is exact in it as long as no partial sum, in whatever order, leaves the range in which
every integer is representable: :func:`exact_dtype` picks the type by that bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from .formats import IntArray, requantize
from .model import (
    INPUT,
    Add,
    Convolution,
    Dense,
    Join,
    Layer,
    MaxPool,
    Model,
    SumPool,
    WeightedLayer,
    most_values,
)

__all__ = ["accumulate", "apply", "exact_dtype", "run", "top1", "trace"]

_BATCH_VALUES = 1 << 22
"""Values that a batch needs at the same time: 16 to 32 MiB, however many images there are."""


def exact_dtype(bound: int) -> type[np.float32] | type[np.float64] | type[np.int64]:
    """The fastest type in which sums of integers of magnitude up to ``bound`` are exact."""
    if bound <= 1 << 24:
        return np.float32
    if bound <= 1 << 53:
        return np.float64
    return np.int64


def accumulate(layer: Convolution | Dense, activations: IntArray) -> IntArray:
    """``sum(weight * activation)`` of a convolution or dense layer, before bias and shift.

    Parameters
    ----------
    layer : Convolution or Dense
        With the weights.
    activations : array of integers, (N, H, W, C)
        The layer's input.

    Returns
    -------
    array of int64, (N, output height, output width, filters)
    """
    (top, bottom, left, right), (down, across) = layer.padding, layer.stride
    largest = int(np.abs(activations).max(initial=0))
    groups = layer.groups
    weights = layer.weights.reshape(layer.filters, -1)
    dtype = exact_dtype(largest * int(np.abs(weights).sum(axis=1).max(initial=0)))
    padded = np.pad(activations.astype(dtype), ((0, 0), (top, bottom), (left, right), (0, 0)))
    windows = sliding_window_view(padded, layer.kernel, axis=(1, 2))[:, ::down, ::across]
    count, height, width = windows.shape[:3]
    # (N, y, x, channel, row, column) to one row (row, column, channel) for each group of channels
    # and output pixel.
    split = windows.reshape(*windows.shape[:3], groups, layer.channels, *layer.kernel)
    columns = split.transpose(3, 0, 1, 2, 5, 6, 4).reshape(groups, -1, layer.taps)
    sums = columns @ weights.reshape(groups, -1, layer.taps).swapaxes(1, 2).astype(dtype)
    return sums.swapaxes(0, 1).astype(np.int64).reshape(count, height, width, layer.filters)


def _window_slices(layer: MaxPool, activations: IntArray) -> Iterator[IntArray]:
    """For each position in the pooling window, the values there for all output pixels."""
    height, width, _ = layer.output_shape(activations.shape[1:])
    (down, across) = layer.stride
    for row in range(layer.kernel[0]):
        for column in range(layer.kernel[1]):
            yield activations[:, row:row + (height - 1) * down + 1:down,
                              column:column + (width - 1) * across + 1:across]


def apply(layer: Layer, *activations: IntArray) -> IntArray:
    """The result of one layer.

    Parameters
    ----------
    layer : Layer
        Of any type.
    *activations : arrays of int64, (N, H, W, C)
        The layer's inputs: several for one that joins maps, else one.

    Returns
    -------
    array of int64, (N, H', W', C')
    """
    if isinstance(layer, Join):
        operands = [maps << shift for maps, shift in zip(activations, layer.shifts, strict=True)]
        joined = (operands[0] + operands[1] if isinstance(layer, Add) else
                  np.concatenate(operands, axis=-1))
        return requantize(joined, layer.bias, layer.shift, layer.output)
    source, = activations
    if isinstance(layer, (Convolution, Dense)):
        return requantize(accumulate(layer, source), layer.bias, layer.shift, layer.output)
    slices = _window_slices(layer, source)
    result = next(slices).copy()
    if isinstance(layer, SumPool):
        for values in slices:
            result += values
        return requantize(result, layer.bias, layer.shift, layer.output)
    for values in slices:
        np.maximum(result, values, out=result)
    return result


def _checked(model: Model, images: ArrayLike) -> NDArray[Any]:
    """``images`` as an array, or the reason why they cannot be this model's input."""
    array = np.asarray(images)
    shape, form = model.input.shape, model.input.format
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"images must be integers, not {array.dtype}: model {model.name!r} takes "
                        f"{form.min} to {form.max}")
    if array.ndim != 4 or array.shape[1:] != shape:
        raise ValueError(f"images must have the shape (N, {', '.join(map(str, shape))}) (number, "
                         f"rows, columns, channels), not {array.shape}: resize or reshape them")
    if array.size and (array.min() < form.min or array.max() > form.max):
        raise ValueError(f"images must hold {form.min} to {form.max}, the input of model "
                         f"{model.name!r}, not {array.min()} to {array.max()}")
    return array


def _batches(model: Model, images: NDArray[Any]) -> Iterator[IntArray]:
    """``images`` in int64 pieces small enough that no layer needs much memory (at least one)."""
    needed = most_values(model.layers, {name: kind.size for name, kind in model.tensors.items()})
    for layer in model.layers:
        if isinstance(layer, WeightedLayer):
            rows, columns, _ = model.tensors[layer.name].shape
            needed = max(needed, rows * columns * layer.taps * layer.groups)
    step = max(1, _BATCH_VALUES // needed)
    for start in range(0, max(1, len(images)), step):
        yield images[start:start + step].astype(np.int64)


def run(model: Model, images: ArrayLike) -> IntArray:
    """Logits of a batch of images.

    Parameters
    ----------
    model : Model
        Free of problems (:func:`flightrtl.check.check`; every loaded model is).
    images : array of integers, (N, H, W, C)
        In the range of the model's input format.

    Returns
    -------
    array of int64, (N, logits)

    Raises
    ------
    TypeError
        If the images are not integers.
    ValueError
        If their shape or their range is not the model's.
    """
    results = []
    for batch in _batches(model, _checked(model, images)):
        maps = {INPUT: batch}
        for layer in model.layers:
            maps[layer.name] = apply(layer, *(maps[edge] for edge in layer.inputs))
            for edge in set(layer.inputs):
                if model.last_taker[edge] == layer.name:    # give its memory back
                    del maps[edge]
        logits = maps[model.layers[-1].name]
        results.append(logits.reshape(len(logits), model.output.size))
    return np.concatenate(results)


def trace(model: Model, images: ArrayLike) -> dict[str, IntArray]:
    """Everything between the layers: int64 (N, H, W, C) for ``"input"`` and each layer's name.

    Takes and raises what :func:`run` does. All of it is kept in memory.
    """
    results: dict[str, list[IntArray]] = {name: [] for name in model.tensors}
    for batch in _batches(model, _checked(model, images)):
        maps = {INPUT: batch}
        for layer in model.layers:
            maps[layer.name] = apply(layer, *(maps[edge] for edge in layer.inputs))
        for name, values in maps.items():
            results[name].append(values)
    return {name: np.concatenate(values) for name, values in results.items()}


def top1(model: Model, images: ArrayLike, labels: ArrayLike) -> float:
    """The fraction of images whose largest logit (the first, if several are equal) is the label.

    Raises
    ------
    TypeError
        If images or labels are not integers.
    ValueError
        If there are no images, or their shape, range or number does not fit.
    """
    expected = np.asarray(labels)
    if not np.issubdtype(expected.dtype, np.integer):
        raise TypeError(f"labels must be integers, not {expected.dtype}")
    logits = run(model, images)
    if not len(logits) or expected.shape != (len(logits),):
        raise ValueError(f"labels must be one integer for each of at least one image, not "
                         f"{expected.shape} for {len(logits)} images")
    return float(np.mean(logits.argmax(axis=1) == expected))
