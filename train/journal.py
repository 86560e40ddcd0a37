"""The log of a training run: ``NAME.json`` and ``NAME.csv`` beside the model."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from flightrtl.files import atomic_write

from .layers import QuantizedLayer

__all__ = ["describe", "rows", "summary", "write"]

_COLUMNS = ("epoch", "stage", "loss", "penalty", "top1", "layer", "lambda", "mean_k", "sum_k",
            "k_histogram", "thresholds", "residual", "relative_residual", "scales")


def describe(layer: QuantizedLayer, strengths: Tensor) -> dict[str, Any]:
    """What a log says about a layer in the quantized stage.

    ``lambda`` for each term, and what its quantizer says of itself.
    """
    assert layer.quantizer is not None
    return {"lambda": [round(value, 9) for value in strengths.tolist()],
            **layer.quantizer.describe(layer.weight, layer.scale())}


def summary(epoch: dict[str, Any]) -> str:
    """One line about an epoch, for people."""
    text = f"{epoch['stage']}, loss {epoch['loss']:.4f}, top-1 {100 * epoch['top1']:.2f} %"
    if layers := epoch.get("layers"):
        text += ", mean k " + " ".join(f"{layer['mean_k']:.2f}" for layer in layers.values())
    return text


def rows(epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The epochs as a flat table: one row for each epoch and layer."""
    table = []
    for epoch in epochs:
        common = {key: value for key, value in epoch.items() if key in _COLUMNS}
        for name, layer in epoch.get("layers", {"": {}}).items():
            flat = {key: " ".join(map(str, value)) if isinstance(value, list) else
                    " ".join(f"{k}:{count}" for k, count in value.items())
                    if isinstance(value, dict) else value for key, value in layer.items()}
            table.append(common | {"layer": name} | flat)
    return table


def write(log: dict[str, Any], model_file: Path) -> None:
    """Write (or replace) both files of a log."""
    with atomic_write(model_file.with_suffix(".json")) as file:
        file.write(json.dumps(log, indent=1) + "\n")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(log["epochs"]))
    with atomic_write(model_file.with_suffix(".csv")) as file:
        file.write(text.getvalue())
