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
from flightrtl.formats import IntArray
from flightrtl.model import INPUT, Convolution, Dense, Layer, MaxPool, Model

from .layers import QuantizedLayer
from .networks import Network
from .quantize import power_of_two

__all__ = ["compare", "export"]

def _integers(values: Tensor, exponent: Tensor, what: str) -> IntArray:
    """``values / 2**exponent``, which must be integers already."""
    scaled = values.detach().double() / power_of_two(exponent).double()
    result = scaled.round()
    if not torch.equal(result, scaled):
        raise AssertionError(f"{what} is not on its grid: the quantized stage is wrong")
    return result.to(torch.int64).numpy()


def _terms(layer: QuantizedLayer, scale: Tensor) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """Term codes by slot, (slots, height, width, channels), and k of every filter."""
    parts = layer.decompose()
    slots = [_integers(parts.terms[j, i], scale[i], f"{layer.name} filter {i} term {j}")
             for i in range(len(layer.weight)) for j in range(layer.max_terms)
             if bool(parts.on[j, i])]
    channels, height, width = layer.weight.shape[1:]
    terms = (np.stack(slots).transpose(0, 2, 3, 1) if slots
             else np.zeros((0, height, width, channels), np.int64))
    return layer.terms.encode(terms), tuple(parts.k.tolist())


@torch.no_grad()
def _weighted(layer: QuantizedLayer, source: str, dense: bool) -> Convolution | Dense:
    """A layer in its quantized stage."""
    scale = layer.scale()
    terms, k = _terms(layer, scale)
    accumulator = scale + layer.input_scale
    shift = (layer.output_scale - accumulator).to(torch.int64)
    bias = _integers(layer.quantized_bias(), accumulator, f"{layer.name} bias")
    half = torch.where(shift > 0, 1 << (shift - 1).clamp_min(0), 0).numpy()
    common: dict[str, Any] = {
        "name": layer.name, "inputs": (source,), "terms": terms, "k": k, "bias": bias + half,
        "shift": shift.numpy(), "scale": scale.to(torch.int64).numpy(), "format": layer.terms,
        "output": layer.output, "output_scale": int(layer.output_scale)}
    if dense:
        return Dense(**common)
    return Convolution(**common, stride=(layer.stride, layer.stride),
                       padding=(layer.padding,) * 4)


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
    source = INPUT
    for layer in network.sequence:
        if isinstance(layer, QuantizedLayer):
            layers.append(_weighted(layer, source, layer.name.startswith("dense")))
        else:
            assert isinstance(layer, nn.MaxPool2d)
            size = int(layer.kernel_size)     # type: ignore[arg-type]
            layers.append(MaxPool(name=str(layer.name), inputs=(source,), kernel=(size, size),
                                  stride=(size, size)))
        source = layers[-1].name
    return Model(name, network.input, tuple(layers), dict(provenance))


def compare(network: Network, model: Model, images: Tensor) -> tuple[int, IntArray]:
    """Run the fake-quantized network and the golden model on the same images.

    Returns
    -------
    mismatches : int
        Logits that differ; 0 is what the design promises.
    logits : int64 array, (N, classes)
        Of the golden model.
    """
    network.eval()
    with torch.no_grad():
        real = torch.cat([network(batch.float()) for batch in images.split(500)])
    expected = real.double().numpy() * 2.0 ** -model.output.scale
    logits = golden.run(model, images.permute(0, 2, 3, 1).numpy())
    return int((logits != expected).sum()), logits
