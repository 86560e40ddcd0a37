"""The fake-quantized network of a model file against the golden model, on every test image.

Usage: ``python -m train.verify MODEL [--dataset NAME] [--data DIR] [--json]``. Exit status 0 if
every logit is the same, 1 if not.

The network is rebuilt in PyTorch from the file alone and runs as it did in training: real-valued
weights, biases and activations, where an integer ``v`` of the file stands for ``v * 2**scale``, in
float32 (float64 for sums that could need more than 24 bits). The golden model has integers only.
So the comparison proves the scales in the file, too, which the golden model does not look at.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from flightrtl import datasets, golden, modelfile
from flightrtl.errors import UserError, run_cli
from flightrtl.formats import IntArray, signed_bits
from flightrtl.model import INPUT, Add, Convolution, Dense, Join, Layer, Model, SumPool
from flightrtl.progress import Progress

from . import activation
from .data import EVALUATION_BATCH

__all__ = ["fake_quantized", "main"]


def _real_bias(bias: ArrayLike, shift: ArrayLike, scale: IntArray | int) -> NDArray[np.float64]:
    """Bias without the rounding half, whose integers stand for multiples of ``2**scale``.

    >>> _real_bias([5, 5], [2, 0], [-1, -1]).tolist()
    [1.5, 2.5]
    """
    half = np.int64(1) << np.asarray(shift, np.int64) >> 1
    return np.ldexp((np.asarray(bias) - half).astype(np.float64), scale)


def _weighted(model: Model, layer: Convolution | Dense, values: Tensor) -> Tensor:
    """A convolution or dense layer on real values (N, C, H, W)."""
    source = model.source(layer)
    weights = np.ldexp(layer.weights.transpose(0, 3, 1, 2).astype(np.float64),
                       layer.scale[:, None, None, None])
    weight = torch.tensor(weights)
    bias = torch.tensor(_real_bias(layer.bias, layer.shift, layer.scale + source.scale))
    stride = (1, 1)
    if isinstance(layer, Convolution):
        top, bottom, left, right = layer.padding
        values = functional.pad(values, (left, right, top, bottom))
        stride = layer.stride
    low, high = layer.accumulator_range(source.format)
    bits = signed_bits(low + int(layer.bias.min()), high + int(layer.bias.max()))
    exact = max(bits, layer.accumulator_bits(source.format)) <= 24
    dtype = torch.float32 if exact else torch.float64
    result = functional.conv2d(values.to(dtype), weight.to(dtype), bias.to(dtype), stride,
                               groups=layer.groups)
    return activation.quantize(result, layer.output, layer.output_scale).float()


def _summed(model: Model, layer: SumPool, values: Tensor) -> Tensor:
    """A sum-pooling layer. Its shift and scales say by which power of two it divides the sums."""
    scale = model.source(layer).scale
    sums = functional.avg_pool2d(values.double(), layer.kernel, layer.stride, divisor_override=1)
    return ((sums + float(_real_bias(layer.bias, layer.shift, scale)))
            * 2.0 ** (layer.output_scale - scale - layer.shift))


def _result(model: Model, layer: Layer, *sources: Tensor) -> Tensor:
    """The result of one layer on real values (N, C, H, W)."""
    if isinstance(layer, (Convolution, Dense)):
        return _weighted(model, layer, *sources)
    if isinstance(layer, Join):
        scale = layer.output_scale - layer.shift
        real = [source.double() for source in sources]
        values = real[0] + real[1] if isinstance(layer, Add) else torch.cat(real, dim=1)
        values = values + float(_real_bias(layer.bias, layer.shift, scale))
    elif isinstance(layer, SumPool):
        values = _summed(model, layer, *sources)
    else:
        return functional.max_pool2d(sources[0], layer.kernel, layer.stride)
    return activation.quantize(values, layer.output, layer.output_scale).float()


@torch.no_grad()
def fake_quantized(model: Model, images: NDArray[np.uint8]) -> IntArray:
    """Logits of images (N, H, W, C), computed as in training, as integers."""
    results = []
    for batch in torch.tensor(images.transpose(0, 3, 1, 2).copy()).split(EVALUATION_BATCH):
        maps = {INPUT: batch.float() * 2.0 ** model.input.scale}
        for layer in model.layers:
            maps[layer.name] = _result(model, layer, *(maps[edge] for edge in layer.inputs))
            for edge in set(layer.inputs):
                if model.last_taker[edge] == layer.name:
                    del maps[edge]
        results.append(maps[model.layers[-1].name].flatten(1))
    logits = torch.cat(results).double() * 2.0 ** -model.output.scale
    return logits.numpy().astype(np.int64)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.verify",
        description="Compare a model's fake-quantized network with the golden model.")
    parser.add_argument("model", help="a bundled model's name, or a file")
    parser.add_argument("--dataset", metavar="NAME", help="default: the one in its provenance")
    parser.add_argument("--data", metavar="DIR", help="folder with the data set's files")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = modelfile.load(options.model)
    name = options.dataset or model.provenance.get("dataset")
    if not isinstance(name, str):
        raise UserError(f"model {options.model!r} does not say on which data set it was trained; "
                        "use --dataset NAME")
    progress = Progress()
    progress.step(f"{model.name} on the test images of {name}")
    images, labels = datasets.load(name, options.data)
    if images.shape[1:] != model.input.shape:
        raise UserError(f"model {options.model!r} takes images of {model.input.shape}, those of "
                        f"{name} are {images.shape[1:]}; use --dataset with another name")
    logits = golden.run(model, images)
    differ = int((fake_quantized(model, images) != logits).sum())
    correct = int((logits.argmax(axis=1) == labels).sum())
    progress.done()
    result = {"model": options.model, "dataset": name, "images": len(images), "correct": correct,
              "top1": correct / len(images), "logits": logits.size, "mismatches": differ}
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"{model.name}: top-1 {100 * result['top1']:.2f} % of {len(images)} images; "
              f"{differ} of {logits.size} logits differ from the fake-quantized network's")
    return 1 if differ else 0


if __name__ == "__main__":
    run_cli(main)
