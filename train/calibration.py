"""What a float network needs to become integers without training: which filters get which terms,
and biases that make up for the error of the rest. Only images are looked at, never labels.
"""

from __future__ import annotations

import copy
import heapq
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import QuantizedJoin, QuantizedLayer, QuantizedSumPool
from .network import Network
from .quantizers.flightnn import TermQuantizer
from .quantizers.terms import Decomposition, decompose
from .target import choosing

__all__ = ["choose_terms", "correct_biases", "harm", "settle_terms"]

_BATCH = 100


def _pooled(layer: nn.Module, inputs: list[Tensor]) -> Tensor:
    """The real-valued result of a layer without weights."""
    if isinstance(layer, QuantizedJoin):
        return layer.activate(layer.join(*inputs))
    if isinstance(layer, QuantizedSumPool):
        return layer.activate(functional.avg_pool2d(inputs[0], layer.kernel, layer.stride))
    result: Tensor = layer.eval()(*inputs)
    return result


@torch.no_grad()
def _whole(layer: QuantizedLayer, quantizer: TermQuantizer) -> Decomposition:
    """A layer's weights with all terms that the format allows, whatever is switched off."""
    return decompose(layer.weight, torch.zeros_like(quantizer.thresholds), layer.scale(),
                     quantizer.terms, torch.ones_like(quantizer.frozen_on))


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
    dict of Tensor, (K + 1, filters)
        By the name of each layer that can choose its terms: the harm with 0, 1, .. K terms.
    """
    network = copy.deepcopy(network).train()        # binary layers have gradients in training only
    chosen = choosing(network.weighted)
    residuals = {}
    for layer, quantizer in chosen:
        terms = _whole(layer, quantizer).terms
        taken = torch.cat([torch.zeros_like(terms[:1]), terms.cumsum(dim=0)])
        residuals[layer.name] = layer.weight.detach() - taken
    total = {name: torch.zeros(rest.shape[:2], dtype=torch.float64, device=rest.device)
             for name, rest in residuals.items()}
    generator = torch.Generator(images.device).manual_seed(seed)
    for batch in images.split(_BATCH):
        seen: dict[str, tuple[QuantizedLayer, Tensor, Tensor]] = {}

        def compute(name: str, layer: nn.Module, inputs: list[Tensor],
                    seen: dict[str, tuple[QuantizedLayer, Tensor, Tensor]] = seen) -> Tensor:
            if name not in residuals:
                passed: Tensor = layer(*inputs)
                return passed
            assert isinstance(layer, QuantizedLayer)
            result = layer.convolve(inputs[0], layer.weight, layer.bias)
            seen[name] = layer, inputs[0].detach(), result
            return layer.requantize(result)
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
def settle_terms(network: Network, images: Tensor, target_k: float) -> int:
    """Bring the mean number of terms to a target: to it exactly, where that does no harm.

    A term costs the same in every filter (the target is a mean over filters). So while there are
    too many, the one goes that increases :func:`harm` least; while there are too few, the one
    comes that reduces it most, until none reduces it. A filter keeps its last term, unless
    filters may vanish (``prune``), and one that has vanished stays so.

    Parameters
    ----------
    network : Network
        Folded, and its layers frozen: ``frozen_on`` of their quantizers is changed.
    images : Tensor
        Integer images (N, C, H, W).
    target_k : float
        Greatest mean number of terms of the filters that can choose.

    Returns
    -------
    int
        By how many terms there are more now, negative if fewer.
    """
    with torch.enable_grad():
        found = {name: each.tolist() for name, each in harm(network, images).items()}
    layers = {layer.name: (layer, quantizer) for layer, quantizer in choosing(network.weighted)}
    counts = {name: quantizer.frozen_on.sum(dim=0).tolist()
              for name, (_, quantizer) in layers.items()}
    most = {name: _whole(*pair).on.sum(dim=0).tolist() for name, pair in layers.items()}
    start = used = sum(map(sum, counts.values()))
    budget = math.floor(target_k * sum(map(len, counts.values())) + 1e-9)
    step = 1 if used < budget else -1
    queue: list[tuple[float, str, int]] = []

    def offer(name: str, i: int) -> None:
        k = counts[name][i]
        least = 0 if layers[name][1].first_trained == 0 else 1
        if (step > 0 and 1 <= k < most[name][i]) or (step < 0 and k > least):
            heapq.heappush(queue, (found[name][k + step][i] - found[name][k][i], name, i))
    for name, each in counts.items():
        for i in range(len(each)):
            offer(name, i)
    while queue and used != budget:
        change, name, i = heapq.heappop(queue)
        if step > 0 and change >= 0:
            break
        counts[name][i] += step
        used += step
        offer(name, i)
    for name, (_, quantizer) in layers.items():
        k = torch.tensor(counts[name], device=quantizer.frozen_on.device)
        quantizer.frozen_on.copy_(torch.arange(quantizer.max_terms, device=k.device)[:, None] < k)
    return used - start


@torch.no_grad()
def choose_terms(network: Network, images: Tensor, target_k: float) -> None:
    """Let every filter have one term, and give further ones to those that gain most by them.

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
    for layer, quantizer in choosing(network.weighted):
        layer.freeze()
        quantizer.frozen_on[1:] = False
    settle_terms(network, images, target_k)


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
