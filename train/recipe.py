"""Everything that determines a training run, in one object, from a TOML file or the command line.

Two runs of the same recipe on the same machine and versions give the same model.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flightrtl.datasets import DATASETS
from flightrtl.errors import UserError

from .networks import NETWORKS

__all__ = ["METHODS", "RECIPES", "Recipe", "load_recipe"]

RECIPES = Path(__file__).parent / "recipes"
"""Folder of the recipes that come with the trainer."""

METHODS = {
    "flightnn": "every filter learns its number of terms, 1 to max_terms",
    "lightnn1": "one term in every weight",
    "lightnn2": "two terms in every weight",
}

_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (2, 100_000), "seed": (0, 2**31 - 1), "batch_size": (2, 65536),
    "float_share": (0, 1), "learning_rate": (0, 10), "quantized_learning_rate": (0, 10),
    "weight_decay": (0, 10), "label_smoothing": (0, 0.9), "augmentation": (0, 3),
    "exponent_bits": (1, 4), "activation_bits": (1, 16), "logit_bits": (2, 16),
    "max_terms": (1, 8), "scale_span": (0, 31), "lambda_": (0, 1e6), "lambda_prune": (0, 1e6),
    "ramp": (0, 1), "freeze": (0, 1), "threshold_rate": (0, 100),
}


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Parameters
    ----------
    dataset, network, method : str
        Keys of ``DATASETS``, ``NETWORKS``, :data:`METHODS`.
    epochs : int
        Of both stages together, at least 2 (one each).
    seed : int
        Of initial weights, order and augmentation.
    batch_size : int
        Images in a step; what is left over at the end of an epoch is not used in that epoch.
    float_share : float
        Part of the epochs spent in the float stage.
    learning_rate, quantized_learning_rate : float
        Greatest rate of AdamW in the two stages (a short warm-up, then half a cosine to zero).
    weight_decay : float
        In the float stage.
    label_smoothing, augmentation : float
        See PyTorch's ``cross_entropy`` and :func:`train.augment.affine`.
    exponent_bits, activation_bits, logit_bits : int
        Formats of terms, of hidden activations (unsigned) and of the result (signed).
    max_terms : int
        ``K`` of FLightNN.
    scale_span : int
        Greatest difference of the scales of a layer's filters, see
        :func:`train.quantize.window_scale`.
    lambda_ : float
        Strength of the group lasso on the residuals ``r_1, r_2, ...`` (``lambda`` in a file).
    lambda_prune : float
        The same on ``r_0``, the whole filter. If 0, no filter is ever pruned.
    lambda_layers : mapping
        Layer name to a factor on both strengths.
    ramp, freeze : float
        Parts of the quantized stage: after ``ramp`` of it lambda is fully there; after
        ``freeze`` of it every filter keeps its number of terms.
    threshold_rate : float
        Learning rate of the thresholds relative to the weights'.
    """

    dataset: str
    network: str
    method: str = "flightnn"
    epochs: int = 30
    seed: int = 0
    batch_size: int = 128
    float_share: float = 0.5
    learning_rate: float = 5e-3
    quantized_learning_rate: float = 1.5e-3
    weight_decay: float = 1e-4
    label_smoothing: float = 0.05
    augmentation: float = 0.0
    exponent_bits: int = 3
    activation_bits: int = 8
    logit_bits: int = 16
    max_terms: int = 2
    scale_span: int = 3
    lambda_: float = 3e-4
    lambda_prune: float = 0.0
    lambda_layers: dict[str, float] = field(default_factory=dict)
    ramp: float = 0.4
    freeze: float = 0.8
    threshold_rate: float = 0.1

    def __post_init__(self) -> None:
        for name, known in (("dataset", DATASETS), ("network", NETWORKS), ("method", METHODS)):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in known:
                raise UserError(f"no {name} {value!r}; there are {', '.join(known)}")
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.type == "int" and (isinstance(value, bool) or not isinstance(value, int)):
                raise UserError(f"{_shown(item.name)} must be an integer, not {value!r}")
            if item.type == "float" and (isinstance(value, bool)
                                         or not isinstance(value, (int, float))):
                raise UserError(f"{_shown(item.name)} must be a number, not {value!r}")
            if item.name in _RANGES:
                low, high = _RANGES[item.name]
                if not low <= value <= high:
                    raise UserError(f"{_shown(item.name)} must be {low:g} to {high:g}, not "
                                    f"{value:g}")
        if not isinstance(self.lambda_layers, dict):
            raise UserError(f"lambda_layers must be a table of layer names and factors, not "
                            f"{self.lambda_layers!r}")
        for layer, factor in self.lambda_layers.items():
            if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor >= 0:
                raise UserError(f"lambda_layers.{layer} must be a number from 0, not {factor!r}")

    @property
    def float_epochs(self) -> int:
        """Epochs of the float stage; both stages have at least one."""
        return min(max(1, round(self.epochs * self.float_share)), self.epochs - 1)

    @property
    def terms(self) -> int:
        """``K`` of the method."""
        return {"lightnn1": 1, "lightnn2": 2}.get(self.method, self.max_terms)

    @property
    def learns_terms(self) -> bool:
        """Whether thresholds are trained and the group lasso acts."""
        return self.method == "flightnn"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with the keys of a TOML file."""
        return {_shown(name): value for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str) -> Recipe:
        """The reverse of :meth:`as_dict`; ``source`` is named in error messages."""
        known = {_shown(item.name): item.name for item in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise UserError(f"{source}: unknown key {key!r}; there are {', '.join(known)}")
        for key in ("dataset", "network"):
            if key not in values:
                raise UserError(f"{source}: {key} is not said; use --{key} NAME "
                                "(--list shows what there is)")
        return cls(**{known[key]: value for key, value in values.items()})


def _shown(name: str) -> str:
    """``lambda`` is a Python keyword, so its field has another name."""
    return name.rstrip("_")


def load_recipe(name: str) -> dict[str, Any]:
    """The values in a recipe file.

    Parameters
    ----------
    name : str
        Name of a recipe that comes with the trainer, or a path that ends in ``.toml``.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        raise UserError(f"no recipe {name!r}; there are {names}, or name a .toml file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file: {error}") from None
