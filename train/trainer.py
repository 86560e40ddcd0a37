"""The training loop, with a checkpoint after every epoch from which it resumes exactly.

All randomness of an epoch comes from a generator seeded by the run's seed and the epoch's number,
so an interrupted run that is resumed gives the same model as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from flightrtl.datasets import DATASETS
from flightrtl.errors import BuildError, UserError
from flightrtl.files import atomic_path

from . import journal, schedule
from .augment import affine
from .networks import NETWORKS, Network
from .quantize import residual_penalty
from .recipe import Recipe

__all__ = ["Data", "Trainer", "as_tensors"]

_CHECKPOINT_VERSION = 1
_CALIBRATION_IMAGES = 2000
_EVALUATION_BATCH = 500
_WARM_UP = {"float": 0.15, "quantized": 0.03}

Report = Callable[[str], None]


@dataclass(frozen=True)
class Data:
    """Images uint8 (N, C, H, W) and labels int64 (N,) of both splits."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def as_tensors(train: tuple[NDArray[Any], NDArray[Any]],
               test: tuple[NDArray[Any], NDArray[Any]]) -> Data:
    """Data sets as :func:`flightrtl.datasets.load` gives them, for PyTorch."""
    tensors = []
    for images, labels in (train, test):
        tensors += [torch.tensor(images.transpose(0, 3, 1, 2).copy()),
                    torch.tensor(labels.astype("int64"))]
    return Data(*tensors)


class Trainer:
    """Trains one network by one recipe.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    data : Data
        Of the recipe's data set.

    Attributes
    ----------
    network : Network
        Being trained.
    epoch : int
        Epochs done.
    saved : int
        Epochs in the last checkpoint.
    epochs : list of dict
        The log of each of them.
    """

    def __init__(self, recipe: Recipe, data: Data) -> None:
        dataset = DATASETS[recipe.dataset]
        self.recipe, self.data = recipe, data
        self.epoch = self.saved = 0
        self.epochs: list[dict[str, Any]] = []
        torch.manual_seed(recipe.seed)
        try:
            self.network = Network(
                NETWORKS[recipe.network], dataset.input, dataset.classes,
                exponent_bits=recipe.exponent_bits, activation_bits=recipe.activation_bits,
                logit_bits=recipe.logit_bits, max_terms=recipe.terms,
                learn_terms=recipe.learns_terms, prune=recipe.lambda_prune > 0,
                scale_span=recipe.scale_span)
        except ValueError as error:
            raise UserError(f"network {recipe.network!r} and data set {recipe.dataset!r}: "
                            f"{error}") from None
        names = {layer.name for layer in self.network.weighted}
        for name in recipe.lambda_layers:
            if name not in names:
                raise UserError(f"lambda_layers: network {recipe.network!r} has no layer {name!r};"
                                f" it has {', '.join(sorted(names))}")
        self.steps = len(data.images) // recipe.batch_size
        if not self.steps:
            raise UserError(f"batch_size {recipe.batch_size} is more than the {len(data.images)} "
                            "training images; use a smaller one")
        self.optimizer = self._optimizer()

    @property
    def stage(self) -> str:
        """``float`` or ``quantized``: of the next epoch."""
        return "float" if self.epoch < self.recipe.float_epochs else "quantized"

    def _optimizer(self) -> torch.optim.Optimizer:
        """A fresh optimizer for the present stage."""
        thresholds = [layer.thresholds for layer in self.network.weighted]
        chosen = {id(parameter) for parameter in thresholds}
        others = [parameter for parameter in self.network.parameters()
                  if id(parameter) not in chosen]
        decay = self.recipe.weight_decay if self.stage == "float" else 0.0
        groups: list[dict[str, Any]] = [{"params": others, "weight_decay": decay, "factor": 1.0}]
        if self.stage == "quantized" and self.recipe.learns_terms:
            groups.append({"params": thresholds, "weight_decay": 0.0,
                           "factor": self.recipe.threshold_rate})
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99))

    def progress(self, step: int) -> float:
        """How far the present stage has come at a step of the next epoch, 0 to 1."""
        first, last = ((0, self.recipe.float_epochs) if self.stage == "float"
                       else (self.recipe.float_epochs, self.recipe.epochs))
        return (self.epoch - first + step / self.steps) / (last - first)

    def strengths(self, layer: str, progress: float) -> Tensor:
        """``lambda_j`` of a layer."""
        recipe = self.recipe
        values = torch.full((recipe.terms,), recipe.lambda_ if recipe.learns_terms else 0.0)
        values[0] = recipe.lambda_prune if recipe.learns_terms else 0.0
        return (values * recipe.lambda_layers.get(layer, 1.0)
                * schedule.ramp(progress, recipe.ramp))

    def run_epoch(self, report: Report = lambda text: None) -> dict[str, Any]:
        """Train for one epoch and evaluate on the test split; returns the epoch's log."""
        if self.stage == "quantized" and self.epoch == self.recipe.float_epochs:
            self.network.fold(self.data.images[:_CALIBRATION_IMAGES].float())
            self.optimizer = self._optimizer()
        stage, start = self.stage, self.progress(0)
        if stage == "quantized" and self.recipe.learns_terms and start >= self.recipe.freeze:
            for layer in self.network.weighted:
                if not bool(layer.frozen):
                    layer.freeze()
        loss, penalty = self._train(report)
        report("evaluating")
        log: dict[str, Any] = {"epoch": self.epoch + 1, "stage": stage, "loss": loss,
                               "penalty": penalty, "top1": self.evaluate()}
        if stage == "quantized":
            log["frozen"] = bool(self.network.weighted[0].frozen)
            end = self.progress(self.steps)
            log["layers"] = {layer.name: journal.describe(layer, self.strengths(layer.name, end))
                             for layer in self.network.weighted}
        self.epoch += 1
        self.epochs.append(log)
        return log

    def _train(self, report: Report) -> tuple[float, float]:
        """All steps of an epoch; mean loss and mean penalty."""
        recipe, size = self.recipe, self.recipe.batch_size
        generator = torch.Generator().manual_seed((recipe.seed << 20) + self.epoch)
        order = torch.randperm(len(self.data.images), generator=generator)
        rate = recipe.learning_rate if self.stage == "float" else recipe.quantized_learning_rate
        losses = penalties = 0.0
        self.network.train()
        for step in range(self.steps):
            progress = self.progress(step)
            factor = rate * schedule.learning_rate(progress, _WARM_UP[self.stage])
            for group in self.optimizer.param_groups:
                group["lr"] = factor * group["factor"]
            chosen = order[step * size:(step + 1) * size]
            images = affine(self.data.images[chosen].float(), recipe.augmentation, generator)
            loss = functional.cross_entropy(self.network(images), self.data.labels[chosen],
                                            label_smoothing=recipe.label_smoothing)
            penalty = torch.zeros(())
            if self.stage == "quantized" and recipe.learns_terms:
                for layer in self.network.weighted:
                    assert layer.parts is not None      # set by the forward pass
                    penalty = penalty + residual_penalty(layer.weight, layer.parts,
                                                         self.strengths(layer.name, progress))
            self.optimizer.zero_grad()
            (loss + penalty).backward()
            self.optimizer.step()
            losses += loss.item()
            penalties += penalty.item()
            if not step % 10:
                report(f"step {step} of {self.steps}, loss {losses / (step + 1):.4f}")
        if not losses < float("inf"):
            raise BuildError(f"training diverged in epoch {self.epoch + 1}: the loss is {losses}",
                             knob="a lower learning rate (learning_rate, "
                                  "quantized_learning_rate in the recipe)")
        return losses / self.steps, penalties / self.steps

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Of integer images (N, C, H, W), in evaluation."""
        self.network.eval()
        return torch.cat([self.network(batch.float())
                          for batch in images.split(_EVALUATION_BATCH)])

    def evaluate(self) -> float:
        """Top-1 on the test split."""
        hits = self.logits(self.data.test_images).argmax(1) == self.data.test_labels
        return float(hits.double().mean())

    def save(self, path: Path) -> None:
        """Write a checkpoint; it appears under its name only when it is complete."""
        with atomic_path(path) as temporary:
            torch.save({"version": _CHECKPOINT_VERSION, "recipe": self.recipe.as_dict(),
                        "epoch": self.epoch, "network": self.network.state_dict(),
                        "optimizer": self.optimizer.state_dict(), "epochs": self.epochs},
                       temporary)
        self.saved = self.epoch

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of the same recipe.

        Raises
        ------
        UserError
            If there is none, it is damaged, or it belongs to another recipe.
        """
        if not path.is_file():
            raise UserError(f"{path}: there is no checkpoint to resume from; leave out --resume")
        try:
            state = torch.load(path, weights_only=True)
            version, recipe = state["version"], state["recipe"]
        except (OSError, RuntimeError, EOFError, UnpicklingError, KeyError, TypeError,
                ValueError) as error:
            raise UserError(f"{path}: not a checkpoint, or damaged ({type(error).__name__}); "
                            "start again without --resume") from None
        if version != _CHECKPOINT_VERSION:
            raise UserError(f"{path}: a checkpoint of version {version}, this is "
                            f"{_CHECKPOINT_VERSION}; start again without --resume")
        mine = self.recipe.as_dict()
        changed = [f"{key} {recipe.get(key)!r} there, {mine.get(key)!r} here"
                   for key in sorted({*mine, *recipe}) if recipe.get(key) != mine.get(key)]
        if changed:
            raise UserError(f"{path}: a checkpoint of another run: {'; '.join(changed)}. Give the "
                            "options of that run, or start again without --resume")
        self.network.load_state_dict(state["network"])
        self.epoch, self.epochs = state["epoch"], state["epochs"]
        # The optimizer in the checkpoint is that of the last epoch's stage.
        self.epoch -= 1
        self.optimizer = self._optimizer()
        self.epoch += 1
        self.optimizer.load_state_dict(state["optimizer"])
        self.saved = self.epoch
