"""How good a choice of formats is: a short training run of it, judged against the float network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flightrtl.datasets import ImageFolder
from flightrtl.errors import UserError

from ..data import Data
from ..network import Network
from ..recipe import Recipe
from ..trainer import Trainer
from .space import Tables

__all__ = ["Judge", "Verdict", "divergence", "merged"]

_COST_IMAGES = 100


def divergence(wanted: Tensor, found: Tensor) -> float:
    """Mean Kullback-Leibler divergence of one network's classes from another's, in nats.

    Parameters
    ----------
    wanted, found : Tensor, (N, classes)
        Logits.

    >>> divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    0.0
    """
    return float(functional.kl_div(functional.log_softmax(found.double(), dim=1),
                                   functional.log_softmax(wanted.double(), dim=1),
                                   log_target=True, reduction="batchmean"))


def merged(recipe: Recipe, tables: Tables) -> Recipe:
    """A recipe of the method ``mixed`` whose layers have these formats."""
    layers: dict[str, dict[str, Any]] = {name: dict(table) for name, table in recipe.layers.items()}
    for name, table in tables.items():
        layers[name] = layers.get(name, {}) | table
    return dataclasses.replace(recipe, method="mixed", float_share=0.0, layers=layers)


@dataclass(frozen=True)
class Verdict:
    """How a choice did.

    Parameters
    ----------
    divergence : float
        Of its logits from the float network's; see :func:`divergence`.
    top1 : float
        On the images that were held back.
    lost : float
        By how much the float network's top-1 on them is higher.
    """

    divergence: float
    top1: float
    lost: float


class Judge:
    """Trains choices for a few steps each, all from the same float network on the same images.

    The images that it judges on are training images that are held back from these steps; the test
    split is not looked at. (The float network has seen them, so its own top-1 on them is high;
    what counts is how closely it is followed.)

    Parameters
    ----------
    recipe : Recipe
        How to train in the end; learning rate, distillation and augmentation are taken from it.
    data : Data
        Of its data set.
    init : Path
        The float network.
    steps : int
        Of training; 0: the weights are only rounded.
    images : int
        To judge on.
    device : str
        Where to compute.
    """

    def __init__(self, recipe: Recipe, data: Data, init: Path, *, steps: int, images: int,
                 device: str = "cpu") -> None:
        count = len(data.images)
        if images + recipe.batch_size > count:
            raise UserError(f"--images {images}: the training split has {count} images, and a "
                            f"batch of {recipe.batch_size} must be left to train on; use fewer")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(recipe.seed))
        each = max(1, min(steps // 2, (count - images) // recipe.batch_size))
        taken = order[images:images + each * recipe.batch_size]
        held = order[:images]
        self.data = Data(_pick(data.images, taken), data.labels[taken],
                         _pick(data.images, held), data.labels[held])
        self.epochs = max(2, math.ceil(steps / each))
        self.recipe, self.init, self.steps, self.device = recipe, init, steps, device
        trainer = self._trainer({})
        self.about: Mapping[str, Any] = trainer.init or {}
        self.network = trainer.network
        self.wanted = trainer.logits(self.data.test_images)
        self.float_top1 = trainer.evaluate()

    def _trainer(self, tables: Tables) -> Trainer:
        # No moving average: it would still hold the first of so few steps.
        short = dataclasses.replace(merged(self.recipe, tables), epochs=self.epochs, ema=0.0,
                                    target_k=0.0)
        return Trainer(short, self.data, device=self.device, init=self.init)

    def folded(self, tables: Tables, images: int = _COST_IMAGES) -> Network:
        """The network with these formats, its weights only rounded."""
        trainer = self._trainer(tables)
        pixels = self.data.images[:images]
        assert isinstance(pixels, Tensor)
        trainer.network.fold(pixels.to(self.device).float())
        return trainer.network

    def __call__(self, tables: Tables, report: Callable[[str], None] = lambda text: None
                 ) -> Verdict:
        """Train with these formats."""
        trainer = self._trainer(tables)
        if self.steps:
            for _ in range(self.epochs):
                trainer.run_epoch(report)
        else:
            pixels = self.data.images
            assert isinstance(pixels, Tensor)
            trainer.network.fold(pixels.to(self.device).float())
        logits = trainer.logits(self.data.test_images)
        top1 = float((logits.argmax(1) == trainer.data.test_labels).double().mean())
        return Verdict(divergence(self.wanted, logits), top1, self.float_top1 - top1)


def _pick(images: Tensor | ImageFolder, chosen: Tensor) -> Tensor:
    """Some images, in memory."""
    if isinstance(images, Tensor):
        return images[chosen]
    return torch.from_numpy(images[chosen.numpy()]).permute(0, 3, 1, 2)
