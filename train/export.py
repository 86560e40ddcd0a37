"""A trained network as integers: what the hardware is built from.

Nothing is rounded here that training has not rounded already, so the integers compute exactly
what the fake-quantized network computes. :func:`compare` proves it on images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flightrtl import golden
from flightrtl.datasets import ImageFolder
from flightrtl.formats import IntArray
from flightrtl.model import (
    INPUT,
    Add,
    Concat,
    Convolution,
    Dense,
    Layer,
    MaxPool,
    Model,
    SumPool,
    WeightedLayer,
)

from .binary_layers import BinaryAdd, BinaryLayer, BinarySumPool
from .data import batches
from .layers import QuantizedAdd, QuantizedJoin, QuantizedLayer, QuantizedSumPool
from .network import Network
from .quantizers.base import power_of_two

__all__ = ["compare", "export", "model_bits", "sizes"]


def _integers(values: Tensor, exponent: Tensor, what: str) -> IntArray:
    """``values / 2**exponent``, which must be integers already."""
    scaled = values.detach().double() / power_of_two(exponent).double()
    result = scaled.round()
    if not torch.equal(result, scaled):
        raise AssertionError(f"{what} is not on its grid: the quantized stage is wrong")
    return result.to(torch.int64).cpu().numpy()


def _codes(layer: QuantizedLayer, scale: Tensor) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """Weight codes by slot, (slots, height, width, channels), and k of every filter."""
    assert layer.quantizer is not None
    found, counts = layer.quantizer.slots(layer.weight, scale)
    k = counts.tolist()
    owners = np.repeat(np.arange(len(k)), k)
    slots = [_integers(values, scale[int(i)], f"{layer.name} filter {i}")
             for i, values in zip(owners, found, strict=True)]
    channels, height, width = layer.weight.shape[1:]
    codes = (np.stack(slots).transpose(0, 2, 3, 1) if slots
             else np.zeros((0, height, width, channels), np.int64))
    return layer.quantizer.format.encode(codes), tuple(k)


def _half(shift: int) -> int:
    return 1 << shift - 1 if shift else 0


@torch.no_grad()
def _weighted(layer: QuantizedLayer, sources: tuple[str, ...]) -> Convolution | Dense:
    """A layer in its quantized stage."""
    scale = layer.scale()
    assert layer.quantizer is not None
    if isinstance(layer, BinaryLayer):
        weights, bias, shift = (each.cpu().numpy() for each in layer.integers())
        kept = weights.reshape(len(weights), -1).any(axis=1)
        codes = layer.quantizer.format.encode(weights[kept].transpose(0, 2, 3, 1))
        k = tuple(kept.astype(int).tolist())
        # That of a weight times the factor of the batch norm, if that is more than a threshold.
        scale = int(layer.output_scale) - int(layer.input_scale) - torch.tensor(shift)
    else:
        codes, k = _codes(layer, scale)
        accumulator = scale + layer.input_scale
        shift = (layer.output_scale - accumulator).to(torch.int64).cpu().numpy()
        half = np.array([_half(int(each)) for each in shift], np.int64)
        bias = half + _integers(layer.quantized_bias(), accumulator, f"{layer.name} bias")
    common: dict[str, Any] = {
        "name": layer.name, "inputs": sources, "terms": codes, "k": k, "bias": bias,
        "shift": shift, "scale": scale.to(torch.int64).cpu().numpy(),
        "format": layer.quantizer.format, "output": layer.output,
        "output_scale": int(layer.output_scale)}
    if layer.dense:
        return Dense(**common)
    return Convolution(**common, stride=layer.stride, padding=layer.padding, groups=layer.groups)


def _sum_pool(layer: QuantizedSumPool, sources: tuple[str, ...], scale: int) -> SumPool:
    if isinstance(layer, BinarySumPool):
        bias, shift = layer.integers(scale)
    else:
        shift = int(layer.output_scale) - (scale - layer.shift)
        bias = _half(shift)
    return SumPool(name=layer.name, inputs=sources, kernel=layer.kernel, stride=layer.stride,
                   bias=bias, shift=shift, output=layer.output,
                   output_scale=int(layer.output_scale))


def _join(layer: QuantizedJoin, sources: tuple[str, ...], scales: list[int]) -> Add | Concat:
    shifts: tuple[int, ...]
    if isinstance(layer, BinaryAdd):
        shifts, bias, shift = layer.integers(scales)
    else:
        common = min(scales)
        shift = int(layer.output_scale) - common
        shifts, bias = tuple(scale - common for scale in scales), _half(shift)
    kind = Add if isinstance(layer, QuantizedAdd) else Concat
    return kind(name=layer.name, inputs=sources, shifts=shifts, bias=bias, shift=shift,
                output=layer.output, output_scale=int(layer.output_scale))


def export(network: Network, name: str, provenance: Mapping[str, Any]) -> Model:
    """The integer model of a network in its quantized stage.

    Parameters
    ----------
    network : Network
        Folded.
    name : str
        Of the model.
    provenance : mapping
        Plain data that is kept with it.
    """
    layers: list[Layer] = []
    names, scales = {INPUT: INPUT}, {INPUT: network.input.scale}
    for node in network.nodes:
        layer = network.layers[node.name]
        sources = tuple(names[source] for source in node.inputs)
        given = [scales[source] for source in node.inputs]
        if isinstance(layer, nn.MaxPool2d):
            kernel, stride = layer.kernel_size, layer.stride
            assert isinstance(kernel, tuple)        # convert() gives pairs
            assert isinstance(stride, tuple)
            layers.append(MaxPool(name=node.name, inputs=sources, kernel=kernel, stride=stride))
        elif isinstance(layer, QuantizedLayer):
            layers.append(_weighted(layer, sources))
        elif isinstance(layer, QuantizedSumPool):
            layers.append(_sum_pool(layer, sources, given[0]))
        elif isinstance(layer, QuantizedJoin):
            layers.append(_join(layer, sources, given))
        else:                                       # dropout
            names[node.name], scales[node.name] = sources[0], given[0]
            continue
        names[node.name] = node.name
        scales[node.name] = int(getattr(layer, "output_scale", given[0]))
    return Model(name, network.input, tuple(layers), dict(provenance))


def model_bits(model: Model) -> int:
    """Bits of all weight codes: the part of a model's size that the method decides."""
    return sum(layer.terms.size * layer.format.code_bits for layer in model.layers
               if isinstance(layer, WeightedLayer))


def sizes(model: Model) -> dict[str, Any]:
    """``mean_k``, ``terms``, ``weights``, ``model_bits``; ``layers``: filters with each k.

    Layers without terms count one for each weight.
    """
    layers = [layer for layer in model.layers if isinstance(layer, WeightedLayer)]
    k = {layer.name: list(layer.k) for layer in layers}
    return {
        "mean_k": sum(map(sum, k.values())) / sum(map(len, k.values())),
        "terms": sum(layer.slots * layer.taps for layer in layers),
        "weights": sum(layer.filters * layer.taps for layer in layers),
        "model_bits": model_bits(model),
        "layers": {name: {str(n): counts.count(n) for n in range(max(counts) + 1)}
                   for name, counts in k.items()}}


def compare(network: Network, model: Model, images: Tensor | ImageFolder) -> tuple[int, IntArray]:
    """Run the fake-quantized network and the golden model on the same images.

    Returns
    -------
    mismatches : int
        Logits that differ; 0 is what the design promises.
    logits : int64 array, (N, classes)
        Of the golden model.
    """
    network.eval()
    device = network.weighted[0].weight.device
    mismatches, found = 0, []
    with torch.no_grad():
        for batch in batches(images):
            real = network(batch.to(device).float()).double().cpu().numpy()
            logits = golden.run(model, batch.permute(0, 2, 3, 1).cpu().numpy())
            mismatches += int((logits != real * 2.0 ** -model.output.scale).sum())
            found.append(logits)
    return mismatches, np.concatenate(found)
