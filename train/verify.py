"""The fake-quantized network of a model file against the golden model, on every test image.

Usage: ``python -m train.verify MODEL [--dataset NAME] [--data DIR] [--json]``. Exit status 0 if
every logit is the same, 1 if not.

The network is rebuilt in PyTorch from the file alone and runs as it did in training: real-valued
weights, biases and activations in float32 (float64 in a layer whose sums need more than 24 bits).
The golden model has integers only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from flightrtl import datasets, golden, modelfile
from flightrtl.errors import UserError, run_cli
from flightrtl.formats import IntArray
from flightrtl.model import Convolution, Dense, MaxPool, Model, SumPool
from flightrtl.progress import Progress

from . import activation
from .quantize import power_of_two

__all__ = ["fake_quantized", "main"]

_BATCH = 500


def _weighted(model: Model, layer: Convolution | Dense, values: Tensor) -> Tensor:
    """A convolution or dense layer on real values (N, C, H, W)."""
    scale = torch.tensor(layer.scale)
    source = model.source(layer)
    weight = torch.tensor(layer.weights.transpose(0, 3, 1, 2).astype(np.float32))
    weight = weight * power_of_two(scale)[:, None, None, None]
    half = np.where(layer.shift > 0, np.int64(1) << np.maximum(layer.shift - 1, 0), 0)
    bias = torch.tensor((layer.bias - half).astype(np.float64))
    bias = bias * power_of_two(scale + source.scale).double()
    stride = (1, 1)
    if isinstance(layer, Convolution):
        top, bottom, left, right = layer.padding
        values = functional.pad(values, (left, right, top, bottom))
        stride = layer.stride
    dtype = torch.float32 if layer.accumulator_bits(source.format) <= 24 else torch.float64
    result = functional.conv2d(values.to(dtype), weight.to(dtype), bias.to(dtype), stride)
    return activation.quantize(result, layer.output, layer.output_scale).float()


@torch.no_grad()
def fake_quantized(model: Model, images: NDArray[np.uint8]) -> IntArray:
    """Logits of images (N, H, W, C), computed as in training, as integers.

    Raises
    ------
    UserError
        If the model has a layer that the trainer does not know.
    """
    results = []
    for batch in torch.tensor(images.transpose(0, 3, 1, 2).copy()).split(_BATCH):
        values = batch.float() * 2.0 ** model.input.scale
        for layer in model.layers:
            if isinstance(layer, (Convolution, Dense)):
                values = _weighted(model, layer, values)
            elif isinstance(layer, MaxPool) and not isinstance(layer, SumPool):
                values = functional.max_pool2d(values, layer.kernel, layer.stride)
            else:
                raise UserError(f"layer {layer.name!r}: the trainer has no sum-pooling; only "
                                "convolution, dense and max-pooling layers can be verified")
        results.append(values.flatten(1))
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
