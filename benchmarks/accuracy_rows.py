"""Rows of the table of accuracies: one JSON file for each training run, made from its log."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flightrtl import modelfile
from flightrtl.errors import UserError
from flightrtl.formats import FixedFormat, TermFormat
from flightrtl.model import Model, WeightedLayer

__all__ = ["FOLDER", "Group", "Row", "as_json", "from_log", "grouped", "load"]

FOLDER = Path(__file__).parent / "accuracy"
"""Where the rows are kept."""


@dataclass(frozen=True)
class Row:
    """One trained network. Rates are fractions of 1.

    Parameters
    ----------
    name : str
        Of the file.
    dataset, network, method, seed, epochs
        As in the recipe.
    command, machine, seconds, date, versions
        How, where, for how long (s) and when it was trained.
    images : int
        Of the test split: all of them.
    float_top1 : float, optional
        Of the float network that quantized training started from (or of this one).
    top1 : float, optional
        Of the integers; None for a float network.
    mismatches : int, optional
        Logits in which the golden model and the trained network differ: 0.
    mean_k : float, optional
        Terms for each filter; None where weights are not sums of terms.
    weights, model_bits : int
        Weights of the network, and bits of all their codes.
    formats : dict
        Lists of what occurs: ``weights`` (``terms``, ``fixed``, ``binary``, ``float``),
        ``exponent_bits``, ``weight_bits`` (of a code), ``activation_bits`` (hidden ones).
    layers : dict
        Of each weighted layer the same, and how many filters have which k.
    recipe : dict
        Everything that determines the run.
    """

    name: str
    dataset: str
    network: str
    method: str
    seed: int
    epochs: int
    command: str
    machine: str
    seconds: float
    date: str
    versions: dict[str, str]
    images: int
    float_top1: float | None
    top1: float | None
    mismatches: int | None
    mean_k: float | None
    weights: int
    model_bits: int
    formats: dict[str, list[Any]]
    layers: dict[str, dict[str, Any]]
    recipe: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """Top-1 of what was trained: of the integers, or of the float network."""
        found = self.float_top1 if self.top1 is None else self.top1
        assert found is not None
        return found


def _not_finite(value: Any, where: str) -> Iterator[str]:
    """Places of all numbers that are not finite.

    >>> list(_not_finite({"loss": float("nan"), "layers": [1.0, float("inf")]}, "epoch 1"))
    ['epoch 1 loss', 'epoch 1 layers 1']
    """
    if isinstance(value, float) and not math.isfinite(value):
        yield where
    items = (value.items() if isinstance(value, dict) else
             enumerate(value) if isinstance(value, list) else ())
    for key, each in items:
        yield from _not_finite(each, f"{where} {key}")


def _layer_formats(model: Model) -> dict[str, dict[str, Any]]:
    """Formats and filters by k of each weighted layer of a model."""
    result = {}
    for layer in model.layers:
        if isinstance(layer, WeightedLayer):
            entry: dict[str, Any] = {"weight_bits": layer.format.code_bits}
            if isinstance(layer.format, TermFormat):
                entry |= {"weights": "terms", "exponent_bits": layer.format.exponent_bits}
            else:
                entry["weights"] = "fixed" if isinstance(layer.format, FixedFormat) else "binary"
            if not layer.output.signed:
                entry["activation_bits"] = layer.output.bits
            k = list(layer.k)
            result[layer.name] = entry | {
                "filters": layer.filters,
                "k_histogram": {str(n): k.count(n) for n in sorted(set(k))}}
    return result


def _occurring(layers: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: sorted({entry[key] for entry in layers.values() if key in entry})
            for key in ("weights", "exponent_bits", "weight_bits", "activation_bits")}


def _mean_k(layers: dict[str, dict[str, Any]]) -> float | None:
    """Terms for each filter, over the layers whose weights are sums of terms."""
    found = [entry for entry in layers.values() if entry["weights"] == "terms"]
    filters = sum(entry["filters"] for entry in found)
    terms = sum(int(k) * count for entry in found for k, count in entry["k_histogram"].items())
    return terms / filters if filters else None


def _completed(recipe: dict[str, Any], path: Path) -> dict[str, Any]:
    """A recipe with the defaults of options that are newer than its log."""
    from train.recipe import Recipe  # with it comes PyTorch, which rows alone do not need
    return Recipe.from_dict(recipe, str(path)).as_dict()


def from_log(path: Path, name: str | None = None) -> Row:
    """The row of a training run.

    Parameters
    ----------
    path : Path
        The log that ``python -m train`` wrote, with the model file beside it.
    name : str, optional
        Of the row; the log's own if not said.

    Raises
    ------
    UserError
        If it is no such log, the run has not ended or not every logit was right, a number in an
        epoch is not finite, or the model file is not the one that the log tells of.
    """
    try:
        log = json.loads(path.read_text(encoding="utf-8"))
        recipe, epochs, result = log["recipe"], log["epochs"], log["result"]
        if not result:
            raise UserError(f"{path}: this run has not ended ({len(epochs)} of {recipe['epochs']} "
                            "epochs): finish it with --resume")
        for epoch in epochs:
            for where in _not_finite(epoch, f"epoch {epoch['epoch']}"):
                raise UserError(f"{path}: {where} is not a finite number; train again with a "
                                "lower learning rate")
        if len(epochs) != recipe["epochs"]:
            raise UserError(f"{path}: {len(epochs)} epochs in a log of {recipe['epochs']}; it is "
                            "not complete: train again")
        real = recipe["method"] == "float"
        if not real and result["mismatches"]:
            raise UserError(f"{path}: {result['mismatches']} logits of the integer model differ "
                            "from the trained network's; such a run is no result")
        layers = {} if real else _layer_formats(_model(path, result))
        formats: dict[str, list[Any]] = ({"weights": ["float"], "exponent_bits": [],
                                          "weight_bits": [32], "activation_bits": [32]}
                                         if real else _occurring(layers))
        return Row(
            name=name or path.stem, command=log["command"], machine=log["machine"],
            seconds=log["seconds"], date=log["date"], versions=log["versions"],
            images=result["images"], float_top1=result["top1"] if real else result["float_top1"],
            top1=None if real else result["top1"],
            mismatches=None if real else result["mismatches"], mean_k=_mean_k(layers),
            weights=result["weights"], model_bits=result["model_bits"], formats=formats,
            layers=layers, recipe=_completed(recipe, path),
            **{key: recipe[key] for key in ("dataset", "network", "method", "seed", "epochs")})
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such log") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError,
            AttributeError) as error:
        raise UserError(f"{path}: not the log of a training run, or of an older version "
                        f"({type(error).__name__}: {error}); train again") from None


def _model(path: Path, result: dict[str, Any]) -> Model:
    """The model file beside a log."""
    file = path.with_suffix(".safetensors")
    if not file.is_file():
        raise UserError(f"{path}: its model file {file.name} is not beside it; a row says which "
                        "formats it has, so copy it there")
    model = modelfile.load(file)
    if model.provenance.get("top1") != result["top1"]:
        raise UserError(f"{file}: its top-1 is {model.provenance.get('top1')}, the log's "
                        f"{result['top1']}: they are not of the same run")
    return model


def load(folder: Path | None = None) -> list[Row]:
    """All rows that are kept in a folder (:data:`FOLDER` if none is said), by name."""
    rows = []
    for path in sorted((folder or FOLDER).glob("*.json")):
        try:
            rows.append(Row(**json.loads(path.read_text(encoding="utf-8"))))
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            raise UserError(f"{path}: not a row of this table ({error}); make it again with "
                            "--add") from None
    return rows


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed, by seed."""

    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        """For what all rows share."""
        return self.rows[0]

    @cached_property
    def accuracies(self) -> list[float]:
        """Top-1 of each run."""
        return [row.accuracy for row in self.rows]

    @property
    def accuracy(self) -> float:
        """Mean top-1."""
        return sum(self.accuracies) / len(self.rows)

    @property
    def float_accuracy(self) -> float | None:
        """Mean top-1 of the float networks, if all are known."""
        found = [row.float_top1 for row in self.rows if row.float_top1 is not None]
        return sum(found) / len(found) if len(found) == len(self.rows) else None

    @property
    def mean_k(self) -> float | None:
        """Mean number of terms, of filters and runs."""
        found = [row.mean_k for row in self.rows if row.mean_k is not None]
        return sum(found) / len(found) if found else None

    @property
    def model_bits(self) -> float:
        """Mean size."""
        return sum(row.model_bits for row in self.rows) / len(self.rows)


def grouped(rows: Sequence[Row]) -> list[Group]:
    """Rows with the same settings together; by data set, network, method, size."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        settings = {key: value for key, value in row.recipe.items() if key != "seed"}
        found.setdefault(json.dumps(settings, sort_keys=True), []).append(row)
    groups = [Group(tuple(sorted(each, key=lambda row: (row.seed, row.name))))
              for each in found.values()]
    return sorted(groups, key=lambda group: (
        group.first.dataset, group.first.network, group.first.method != "float",
        group.first.method, -group.model_bits, group.first.name))


def as_json(row: Row) -> str:
    """What a file holds."""
    return json.dumps(dataclasses.asdict(row), indent=1) + "\n"
