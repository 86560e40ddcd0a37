"""What happens after the last epoch: export, comparison, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flightrtl import modelfile
from flightrtl.errors import BuildError
from flightrtl.model import Model
from flightrtl.progress import Progress

from . import floatfile
from .data import Data
from .export import compare, export, sizes
from .network import Network
from .trainer import Trainer

__all__ = ["compared", "finish_float", "finish_quantized"]


def compared(network: Network, name: str, data: Data) -> tuple[Model, float]:
    """The integer model of a network, and its top-1 on the test split.

    Raises
    ------
    BuildError
        If a single logit differs from the network's.
    """
    model = export(network, name, {})
    mismatches, logits = compare(network, model, data.test_images)
    if mismatches:
        raise BuildError(f"{mismatches} logits of the integer model differ from the trained "
                         "network's: this is a defect of the trainer, please report it")
    return model, float(np.mean(logits.argmax(axis=1) == data.test_labels.cpu().numpy()))


def _provenance(trainer: Trainer, log: dict[str, Any]) -> dict[str, Any]:
    recipe = trainer.recipe
    result = {"dataset": recipe.dataset, "split": "test", "images": len(trainer.data.test_labels),
              "method": recipe.method, "network": recipe.network, "epochs": recipe.epochs,
              "seed": recipe.seed, "command": log["command"], "date": log["date"],
              "versions": log["versions"]}
    if trainer.init is not None:
        result["init"] = {key: trainer.init.get(key) for key in ("command", "top1", "epochs")}
    return result


def finish_float(trainer: Trainer, output: Path, log: dict[str, Any],
                 progress: Progress) -> dict[str, Any]:
    """Write a float network (:mod:`train.floatfile`); what the log says of the result."""
    progress.step("evaluating the float network")
    top1 = trainer.evaluate()
    floatfile.save(trainer.network, output, {**_provenance(trainer, log), "top1": top1})
    progress.done(f"top-1 {100 * top1:.2f} %")
    weights = sum(layer.weight.numel() for layer in trainer.network.weighted)
    return {"top1": top1, "images": len(trainer.data.test_labels), "model_bits": 32 * weights,
            "weights": weights}


def finish_quantized(trainer: Trainer, output: Path, log: dict[str, Any],
                     progress: Progress) -> dict[str, Any]:
    """Write the model file, if every logit is right; what the log says of the result."""
    data = trainer.data
    progress.step(f"comparing with the integer model on {len(data.test_images)} test images")
    model, top1 = compared(trainer.network, output.stem, data)
    size = sizes(model)
    model = export(trainer.network, output.stem, {
        **_provenance(trainer, log), "top1": top1, "mean_k": round(size["mean_k"], 4)})
    modelfile.save(model, output)
    progress.done(f"top-1 {100 * top1:.2f} %, every logit equal")
    return {"top1": top1, "images": len(data.test_labels), "mismatches": 0, **size,
            "float_top1": _float_top1(trainer)}


def _float_top1(trainer: Trainer) -> float | None:
    """Top-1 of the float network that quantized training started from."""
    if trainer.init is not None:
        return trainer.init.get("top1")
    stages = [epoch["top1"] for epoch in trainer.epochs if epoch["stage"] == "float"]
    return stages[-1] if stages else None
