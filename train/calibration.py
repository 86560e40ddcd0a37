"""What a float network needs to become integers without training: which filters get which terms,
and biases that make up for the error of the rest. Only images are looked at, never labels.
"""

from __future__ import annotations

import heapq
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import QuantizedAdd, QuantizedLayer, QuantizedSumPool
from .network import Network
from .quantizers.flightnn import TermQuantizer

__all__ = ["choose_terms", "correct_biases", "harm"]

_BATCH = 100


def _pooled(layer: nn.Module, inputs: list[Tensor]) -> Tensor:
    """The real-valued result of a layer without weights."""
    if isinstance(layer, QuantizedAdd):
        return layer.activate(inputs[0] + inputs[1])
    if isinstance(layer, QuantizedSumPool):
        return layer.activate(functional.avg_pool2d(inputs[0], layer.kernel, layer.stride))
    result: Tensor = layer.eval()(*inputs)
    return result


def _residuals(layer: QuantizedLayer, quantizer: TermQuantizer) -> list[Tensor]:
    """What is left of the weights after 1, 2, .. K terms."""
    parts = quantizer.decompose(layer.weight, layer.scale())
    taken = parts.terms.cumsum(dim=0)
    return [layer.weight.detach() - each for each in taken]


def harm(network: Network, images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """How much the logits' distribution suffers from what terms leave over, for each filter.

    To second order, an error ``e`` in the map of a filter changes the expected log-likelihood of
    the network's own predictions by half of ``E[(sum over the map of g e)^2]``, where ``g`` is the
    gradient of the cross entropy to the map, for a class drawn from the prediction (the Fisher
    information). ``e`` is the convolution with what is left of the weights, without its mean,
    which :func:`correct_biases` takes away.

    Parameters
    ----------
    network : Network
        Folded, its weights still real.
    images : Tensor
        Integer images (N, C, H, W), any type.
    seed : int
        Of the drawn classes.

    Returns
    -------
    dict of Tensor, (K, filters)
        By the name of each layer that can choose its terms: the harm with 1, 2, .. K terms.
    """
    chosen = [(layer, layer.quantizer) for layer in network.weighted
              if isinstance(layer.quantizer, TermQuantizer) and layer.quantizer.learn]
    residuals = {layer.name: _residuals(layer, quantizer) for layer, quantizer in chosen}
    total = {layer.name: torch.zeros(quantizer.max_terms, len(layer.weight), dtype=torch.float64,
                                     device=layer.weight.device) for layer, quantizer in chosen}
    generator = torch.Generator(images.device).manual_seed(seed)
    for batch in images.split(_BATCH):
        seen: dict[str, tuple[QuantizedLayer, Tensor, Tensor]] = {}

        def compute(name: str, layer: nn.Module, inputs: list[Tensor],
                    seen: dict[str, tuple[QuantizedLayer, Tensor, Tensor]] = seen) -> Tensor:
            if not isinstance(layer, QuantizedLayer):
                return _pooled(layer, inputs)
            result = layer.convolve(inputs[0], layer.weight, layer.bias)
            seen[name] = layer, inputs[0].detach(), result
            return layer.activate(result)
        logits = network.run(batch.float(), compute)
        labels = torch.multinomial(logits.detach().softmax(dim=1), 1, generator=generator)[:, 0]
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        maps = [result for _, _, result in seen.values()]
        gradients = dict(zip(seen, torch.autograd.grad(loss, maps), strict=True))
        for name, rest in residuals.items():
            layer, values, _ = seen[name]
            for j, weight in enumerate(rest):
                error = layer.convolve(values, weight, None)
                error -= error.mean(dim=(0, 2, 3), keepdim=True)
                change = (gradients[name] * error).sum(dim=(2, 3))
                total[name][j] += change.double().square().sum(dim=0) / (2 * len(images))
    return total


@torch.no_grad()
def choose_terms(network: Network, images: Tensor, target_k: float) -> None:
    """Let every filter have one term, and give further ones to those that gain most by them.

    A term costs the same in every filter (the target is a mean over filters), so the greatest
    reduction of :func:`harm` comes first, until the mean is reached or no term reduces it.

    Parameters
    ----------
    network : Network
        Folded, its weights still real.
    images : Tensor
        Integer images (N, C, H, W).
    target_k : float
        Greatest mean number of terms of the filters that can choose, 1 or more.

    Raises
    ------
    ValueError
        If ``target_k`` is less than 1.
    """
    if not target_k >= 1:
        raise ValueError(f"target_k must be 1 or more, not {target_k}: every filter keeps a term")
    with torch.enable_grad():
        found = harm(network, images)
    switches: dict[str, Tensor] = {}
    queue: list[tuple[float, str, int, int]] = []
    layers = {layer.name: layer for layer in network.weighted if layer.name in found}

    def offer(name: str, i: int, j: int) -> None:
        if j < len(switches[name]) and bool(possible[name][j, i]):
            gain = float(found[name][j - 1, i] - found[name][j, i])
            if gain > 0:
                heapq.heappush(queue, (-gain, name, i, j))
    possible: dict[str, Tensor] = {}
    used = filters = 0
    for name, layer in layers.items():
        layer.freeze()
        assert isinstance(layer.quantizer, TermQuantizer)
        switches[name] = layer.quantizer.frozen_on
        possible[name] = switches[name].clone()
        switches[name][1:] = False
        used += int(switches[name].sum())
        filters += len(layer.weight)
    for name, layer in layers.items():
        for i in range(len(layer.weight)):
            offer(name, i, 1)
    budget = math.floor(target_k * filters + 1e-9)
    while queue and used < budget:
        _, name, i, j = heapq.heappop(queue)
        switches[name][j, i] = True
        used += 1
        offer(name, i, j + 1)


@torch.no_grad()
def correct_biases(network: Network, images: Tensor) -> dict[str, float]:
    """Move the mean error of every output channel into its bias, layer by layer.

    Each layer sees what the quantized layers before it really give (Nagel, van Baalen,
    Blankevoort, Welling: *Data-Free Quantization Through Weight Equalization and Bias
    Correction*, ICCV 2019, section 4.2, with images instead of batch-norm statistics).

    Parameters
    ----------
    network : Network
        Folded; its weights are real still, its biases are changed.
    images : Tensor
        Integer images (N, C, H, W).

    Returns
    -------
    dict of float
        By layer: greatest mean error of a channel before its correction, relative to the
        standard deviation of the layer's map.
    """
    errors: dict[str, float] = {}

    def compute(name: str, layer: nn.Module, inputs: list[Tensor]) -> Tensor:
        real, quantized = zip(*(each.chunk(2) for each in inputs), strict=True)
        if not isinstance(layer, QuantizedLayer):
            return torch.cat([_pooled(layer, list(real)), layer.eval()(*quantized)])
        wanted = layer.convolve(real[0], layer.weight, layer.bias)
        error = (wanted - _accumulated(layer, quantized[0])).mean(dim=(0, 2, 3))
        errors[name] = float(error.abs().max() / wanted.std().clamp_min(1e-12))
        layer.bias.add_(error)
        return torch.cat([layer.activate(wanted),
                          layer.requantize(_accumulated(layer, quantized[0]))])
    network.run(torch.cat([images, images]).float(), compute)
    return errors


def _accumulated(layer: QuantizedLayer, values: Tensor) -> Tensor:
    """What the hardware's accumulator holds, real-valued, the bias in it."""
    assert layer.quantizer is not None
    weight = layer.quantizer(layer.weight, layer.scale())
    return layer.accumulate(values, weight, layer.quantized_bias()).float()
