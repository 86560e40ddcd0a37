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

from .distribution import DISTRIBUTIONS
from .methods import METHODS, LayerSettings
from .networks import NETWORKS

__all__ = ["RECIPES", "Recipe", "load_recipe"]

RECIPES = Path(__file__).parent / "recipes"
"""Folder of the recipes that come with the trainer."""

_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (2, 100_000), "seed": (0, 2**31 - 1), "batch_size": (2, 65536),
    "float_share": (0, 1), "learning_rate": (0, 10), "quantized_learning_rate": (0, 10),
    "weight_decay": (0, 10), "label_smoothing": (0, 0.9), "augmentation": (0, 3),
    "exponent_bits": (1, 4), "activation_bits": (1, 16), "logit_bits": (2, 16),
    "max_terms": (1, 8), "scale_span": (0, 31), "lambda_": (0, 1e6), "lambda_prune": (0, 1e6),
    "ramp": (0, 1), "freeze": (0, 1), "threshold_rate": (0, 100), "weight_bits": (1, 8),
    "residual_bits": (2, 16), "crop": (0, 64), "cutout": (0, 64), "distillation": (0, 1),
    "temperature": (0.1, 100), "ema": (0, 0.99999), "target_k": (0, 8), "momentum": (0, 0.999),
    "warm_up": (0, 1), "sparsity": (0, 0.95),
    "distribution_weight": (0, 1e6), "distribution_until": (0, 1),
}

_LAYER_KEYS = {item.name: item.type for item in dataclasses.fields(LayerSettings)
               if item.name != "prune"}


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Parameters
    ----------
    dataset, network, method : str
        Keys of ``DATASETS``, ``NETWORKS``, ``METHODS``.
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
    crop, flip, cutout : int, bool, int
        See :func:`train.augment.crop_flip` and :func:`train.augment.cutout`.
    optimizer : {"adamw", "sgd"}
        Of the float stage (``sgd``: with Nesterov's momentum); the quantized stage has AdamW.
    momentum : float
        Of ``sgd``.
    warm_up : float
        Part of the float stage in which the learning rate rises.
    distillation, temperature : float
        Share of the loss that compares with the float network's logits (Hinton et al. 2015), and
        by what both are divided; in the quantized stage.
    ema : float
        Decay, for each step, of the moving average of the weights that is evaluated and
        exported; 0: the weights themselves.
    amp : bool
        Train in bfloat16 where that is faster. Evaluation and export are exact all the same.
    exponent_bits, max_terms, weight_bits, activation_bits, residual_bits, scale_span : int
        See :class:`train.methods.LayerSettings`.
    sparsity : float
        Likewise.
    logit_bits : int
        Of the result (signed).
    layers : mapping
        Layer name to a table of the same keys, and ``method``, that differ there.
    target_k : float
        Wanted mean number of terms; lambda is steered towards it. 0: lambda is as said.
    lambda_ : float
        Strength of the group lasso on the residuals ``r_1, r_2, ...`` (``lambda`` in a file).
    lambda_prune : float
        The same on ``r_0``, the whole filter. If 0, no filter is ever pruned.
    lambda_layers : mapping
        Layer name to a factor on both strengths.
    ramp, freeze : float
        Parts of the quantized stage: after ``ramp`` of it lambda is fully there; after
        ``freeze`` of it every filter keeps its number of terms, and the lasso has ended.
    threshold_rate : float
        Learning rate of the thresholds relative to the weights'.
    distribution : {"none", "paper", "code"}
        Of the method ``bnn``: loss on what signs are taken of, and which form of it; see
        :func:`train.distribution.distribution_loss`.
    distribution_weight, distribution_until : float
        Its weight, and the part of the quantized stage in which it acts. The authors have 60 of
        65 epochs.
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
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    optimizer: str = "adamw"
    momentum: float = 0.9
    warm_up: float = 0.15
    distillation: float = 0.0
    temperature: float = 2.0
    ema: float = 0.0
    amp: bool = False
    exponent_bits: int = 3
    weight_bits: int = 4
    activation_bits: int = 8
    residual_bits: int = 8
    logit_bits: int = 16
    max_terms: int = 2
    scale_span: int = 3
    sparsity: float = 0.0
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    target_k: float = 0.0
    lambda_: float = 3e-4
    lambda_prune: float = 0.0
    lambda_layers: dict[str, float] = field(default_factory=dict)
    ramp: float = 0.4
    freeze: float = 0.8
    threshold_rate: float = 0.1
    distribution: str = "none"
    distribution_weight: float = 2.0
    distribution_until: float = 0.92

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
            if item.type == "bool" and not isinstance(value, bool):
                raise UserError(f"{_shown(item.name)} must be true or false, not {value!r}")
            if item.name in _RANGES:
                _in_range(_shown(item.name), item.name, value)
        if self.optimizer not in _OPTIMIZERS:
            raise UserError(f"no optimizer {self.optimizer!r}; there are {', '.join(_OPTIMIZERS)}")
        if self.distribution not in DISTRIBUTIONS:
            raise UserError(f"no distribution {self.distribution!r}; there are "
                            f"{', '.join(DISTRIBUTIONS)}")
        if self.distribution != "none" and self.method != "bnn":
            raise UserError(f"distribution is for the method bnn; {self.method} takes no signs")
        if self.target_k and not self.learns_terms:
            raise UserError(f"target_k is for the method flightnn; {self.method} has a fixed cost")
        least = 0.0 if self.lambda_prune else 1.0
        if self.target_k and not least <= self.target_k <= self.max_terms:
            raise UserError(f"target_k {self.target_k:g} cannot be met: every filter has {least:g} "
                            f"to {self.max_terms} terms" + (
                                "; set lambda_prune to let filters vanish" if least else ""))
        if not isinstance(self.lambda_layers, dict):
            raise UserError(f"lambda_layers must be a table of layer names and factors, not "
                            f"{self.lambda_layers!r}")
        for layer, factor in self.lambda_layers.items():
            if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor >= 0:
                raise UserError(f"lambda_layers.{layer} must be a number from 0, not {factor!r}")
        if not isinstance(self.layers, dict):
            raise UserError(f"layers must be tables [layers.NAME], not {self.layers!r}")
        self.layer_settings()
        for layer in self.layers:
            self.layer_settings(layer)

    def layer_settings(self, layer: str | None = None) -> LayerSettings:
        """Formats of a layer, or those of every layer for which nothing else is said.

        Raises
        ------
        UserError
            If the layer's table has a key or a value that is not known.
        """
        values = {name: getattr(self, name) for name in _LAYER_KEYS}
        own = self.layers.get(layer, {}) if layer is not None else {}
        if not isinstance(own, dict):
            raise UserError(f"layers.{layer} must be a table, not {own!r}")
        for key, value in own.items():
            where = f"layers.{layer}.{key}"
            if key not in _LAYER_KEYS:
                raise UserError(f"{where}: unknown key; there are {', '.join(_LAYER_KEYS)}")
            if key == "method":
                if (not isinstance(value, str) or value not in METHODS
                        or METHODS[value].quantizer is None):
                    raise UserError(f"{where}: no method {value!r} for a layer; there are " +
                                    ", ".join(name for name, method in METHODS.items()
                                              if method.quantizer is not None))
            elif isinstance(value, bool) or not isinstance(
                    value, (int, float) if _LAYER_KEYS[key] == "float" else int):
                raise UserError(f"{where} must be {_kind(_LAYER_KEYS[key])}, not {value!r}")
            else:
                _in_range(where, key, value)
        result = LayerSettings(**values | own, prune=self.lambda_prune > 0)
        low, high = METHODS[result.method].weight_bits
        if not low <= result.weight_bits <= high:
            where = "" if layer is None else f"layers.{layer}: "
            raise UserError(f"{where}the method {result.method} has weight_bits {low} to {high}, "
                            f"not {result.weight_bits}")
        return result

    @property
    def real(self) -> bool:
        """Whether there is no quantized stage."""
        return METHODS[self.method].quantizer is None

    @property
    def float_epochs(self) -> int:
        """Epochs of the float stage; 0 if ``float_share`` is, otherwise both have at least one."""
        if self.real or not self.float_share:
            return self.epochs if self.real else 0
        return min(max(1, round(self.epochs * self.float_share)), self.epochs - 1)

    @property
    def learns_terms(self) -> bool:
        """Whether thresholds are trained and the group lasso acts."""
        return METHODS[self.method].learns_terms

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


_OPTIMIZERS = ("adamw", "sgd")


def _kind(annotation: object) -> str:
    return "a number" if annotation == "float" else "an integer"


def _in_range(shown: str, name: str, value: float) -> None:
    low, high = _RANGES[name]
    if not low <= value <= high:
        raise UserError(f"{shown} must be {low:g} to {high:g}, not {value:g}")


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
