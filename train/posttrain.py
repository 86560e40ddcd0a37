"""A float network as integers without training and without labels.

Usage: ``python -m train.posttrain FLOAT --method flightnn --target-k 1.3 --output MODEL``.

The network comes from ``python -m train --method float``. Batch norm is folded and activations get
their scales as after the float stage of training; then :mod:`train.calibration` chooses the terms
and corrects the biases. All of that looks at images of the training split only. What it costs is
told: top-1 of the float network and of the integers, on the test split.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flightrtl import datasets, modelfile
from flightrtl.errors import UserError, run_cli
from flightrtl.progress import Progress

from . import floatfile, origin
from .calibration import choose_terms, correct_biases
from .convert import convert
from .data import Data, as_tensors, batches
from .export import export, sizes
from .finish import compared
from .methods import METHODS
from .network import Network
from .networks import NETWORKS
from .recipe import Recipe

__all__ = ["main", "post_train"]

_DEFAULT_TARGET = 1.5


def post_train(network: Network, images: Tensor, *, target_k: float | None = None) -> None:
    """Take a float network to its quantized stage, in place, by looking at images alone.

    Parameters
    ----------
    network : Network
        In its float stage, trained; what :func:`~train.convert.convert` made of any module with
        the wanted formats. :func:`~train.export.export` takes it from there.
    images : Tensor
        Integer images (N, C, H, W) like those that it will see, some hundreds or more.
    target_k : float, optional
        Greatest mean number of terms of the filters that can choose (``flightnn``); None: all
        that the format allows.

    Raises
    ------
    ValueError
        If the network has been folded already, or ``target_k`` is less than 1.
    """
    if network.folded:
        raise ValueError("the network is in its quantized stage already: give a float network")
    network.eval()
    network.fold(images.float())
    for layer in network.weighted:
        assert layer.quantizer is not None
        layer.quantizer.advance(1.0)        # methods that go over to their weights step by step
    if target_k is not None:
        choose_terms(network, images, target_k)
    correct_biases(network, images)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m train.posttrain",
        description="Make a model of a float network without training: only images are looked at, "
                    "no labels. Top-1 before and after is told.")
    add = result.add_argument
    add("float", metavar="FLOAT", help="a float network (python -m train --method float)")
    add("--method", default="flightnn", metavar="NAME", help="default: flightnn")
    add("--target-k", type=float, metavar="X",
        help=f"mean number of terms of a filter, at most (flightnn; default {_DEFAULT_TARGET})")
    add("--exponent-bits", type=int, metavar="N", help="of a term without its sign")
    add("--weight-bits", type=int, metavar="N", help="of fixed-point weights")
    add("--activation-bits", type=int, metavar="N", help="of hidden activations")
    add("--max-terms", type=int, metavar="N", help="most terms in a weight (flightnn)")
    add("--scale-span", type=int, metavar="N", help="greatest difference of two filters' scales")
    add("--images", type=int, default=1000, metavar="N",
        help="of the training split to calibrate with (default 1000)")
    add("--seed", type=int, default=0, metavar="N", help="which images these are (default 0)")
    add("--data", metavar="DIR", help="folder with the data set's files")
    add("--output", metavar="FILE", required=True, help="the model file (.safetensors)")
    add("--json", action="store_true", help="print the result as JSON on standard output")
    return result


def _recipe(options: argparse.Namespace, about: dict[str, Any]) -> Recipe:
    """The formats that the command line asks for, checked."""
    values: dict[str, Any] = {"dataset": about.get("dataset"), "network": about.get("network"),
                              "seed": options.seed}
    for key in ("method", "target_k", "exponent_bits", "weight_bits", "activation_bits",
                "max_terms", "scale_span"):
        if (value := getattr(options, key)) is not None:
            values[key] = value
    recipe = Recipe.from_dict(values, "the command line")
    if recipe.real:
        possible = (name for name, method in METHODS.items() if method.quantizer is not None)
        raise UserError(f"--method {recipe.method}: nothing to quantize; there are "
                        f"{', '.join(possible)}")
    return recipe


def _output(name: str) -> Path:
    path = Path(name)
    if path.suffix != ".safetensors":
        raise UserError(f"--output {path}: the file's name must end in .safetensors")
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: there is no folder {path.parent}")
    return path


def _calibration(data: Data, count: int, seed: int) -> Tensor:
    """Random images of the training split."""
    available = len(data.images)
    if not 1 <= count <= available:
        raise UserError(f"--images must be 1 to {available}, the images of the training split, "
                        f"not {count}")
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:count]
    if isinstance(data.images, Tensor):
        return data.images[order]
    return torch.from_numpy(data.images[order.numpy()]).permute(0, 3, 1, 2)


@torch.no_grad()
def _top1(network: Network, data: Data) -> float:
    """Of the float network, on the test split."""
    network.eval()
    found = torch.cat([network(batch.float()).argmax(1)
                       for batch in batches(data.test_images)])
    return float((found == data.test_labels).double().mean())


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Carry out the command; returns what it prints."""
    source, output = Path(options.float), _output(options.output)
    recipe = _recipe(options, floatfile.provenance(source))
    target = ((recipe.target_k or min(_DEFAULT_TARGET, recipe.max_terms)) if recipe.learns_terms
              else None)
    progress = Progress()
    progress.step(f"reading {recipe.dataset}")
    data = as_tensors(datasets.load(recipe.dataset, options.data, "train"),
                      datasets.load(recipe.dataset, options.data, "test"))
    images = _calibration(data, options.images, options.seed)
    dataset = datasets.DATASETS[recipe.dataset]
    network = convert(NETWORKS[recipe.network].make(dataset.input, dataset.classes), dataset.input,
                      recipe.layer_settings(), logit_bits=recipe.logit_bits)
    init = floatfile.load(network, source, recipe)
    progress.step(f"the float network on {len(data.test_images)} test images")
    float_top1 = _top1(network, data)
    progress.done(f"top-1 {100 * float_top1:.2f} %")
    progress.step(f"quantizing with {len(images)} images of the training split")
    post_train(network, images, target_k=target)
    progress.step(f"the integer model on {len(data.test_images)} test images")
    model, top1 = compared(network, output.stem, data)
    progress.done(f"top-1 {100 * top1:.2f} %, every logit equal")
    size = sizes(model)
    modelfile.save(export(network, output.stem, {
        "dataset": recipe.dataset, "split": "test", "images": len(data.test_labels),
        "method": f"{recipe.method}, post-training", "network": recipe.network,
        "command": origin.command("train.posttrain", parser(), options, ("float",)),
        "seed": options.seed, "top1": top1,
        "mean_k": round(size["mean_k"], 4), "calibration_images": len(images),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": origin.versions(),
        "init": {key: init.get(key) for key in ("command", "top1", "epochs")}}), output)
    return {"model": str(output), "dataset": recipe.dataset, "network": recipe.network,
            "method": recipe.method, "target_k": target, "calibration_images": len(images),
            "float_top1": float_top1, "top1": top1, "difference": top1 - float_top1,
            "images": len(data.test_labels), "mismatches": 0, **size}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    result = run(options)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"{result['model']}: top-1 {100 * result['top1']:.2f} % of {result['images']} test "
              f"images, {100 * result['difference']:+.2f} points against the float network; mean k "
              f"{result['mean_k']:.3f}, {result['terms']} terms; every logit equal to the golden "
              "model")
    return 0


if __name__ == "__main__":
    run_cli(main)
