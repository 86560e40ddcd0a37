"""The training loop, with a checkpoint after every epoch from which it resumes exactly.

All randomness of an epoch comes from a generator seeded by the run's seed and the epoch's number,
so an interrupted run that is resumed gives the same model as one that was not.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flightrtl.datasets import DATASETS, ImageFolder
from flightrtl.errors import BuildError, UserError

from . import augment, checkpoint, floatfile, journal, schedule
from .average import Average
from .binary_layers import BinaryPart
from .calibration import settle_terms
from .convert import convert
from .data import Data, batches
from .distributed import Group
from .distribution import distribution_loss
from .network import Network
from .networks import NETWORKS
from .recipe import Recipe
from .target import TermTarget, mean_k

__all__ = ["Trainer"]

_CALIBRATION_IMAGES = 2000
_SETTLING_IMAGES = 1000
_QUANTIZED_WARM_UP = 0.03
_STEER_EVERY = 10
_SURPLUS = 0.1
"""Mean terms above the target while steering: settle_terms can then tell which ones matter."""

Report = Callable[[str], None]


class Trainer:
    """Trains one network by one recipe.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    data : Data
        Of the recipe's data set.
    device : str
        Where to compute.
    init : Path, optional
        A float network (``--method float``) to start from; see :mod:`train.floatfile`.
    group : Group, optional
        The processes that train together.

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
    seconds : float
        Spent in all epochs.
    init : dict, optional
        What the float network says of itself.
    """

    def __init__(self, recipe: Recipe, data: Data, *, device: str = "cpu",
                 init: Path | None = None, group: Group | None = None) -> None:
        dataset = DATASETS[recipe.dataset]
        self.recipe, self.device = recipe, torch.device(device)
        self.group = group or Group()
        self.share = self.group.share(recipe.batch_size)
        self.data = data.to(self.device)
        self.epoch = self.saved = 0
        self.seconds = 0.0
        self.epochs: list[dict[str, Any]] = []
        torch.manual_seed(recipe.seed)
        try:
            module = NETWORKS[recipe.network].make(dataset.input, dataset.classes)
        except ValueError as error:
            raise UserError(f"network {recipe.network!r} and data set {recipe.dataset!r}: "
                            f"{error}") from None
        network = convert(module, dataset.input, recipe.layer_settings(), layers={
            name: recipe.layer_settings(name) for name in recipe.layers},
            logit_bits=recipe.logit_bits)
        names = {layer.name for layer in network.weighted}
        for name in recipe.lambda_layers:
            if name not in names:
                raise UserError(f"lambda_layers: network {recipe.network!r} has no layer {name!r};"
                                f" it has {', '.join(sorted(names))}")
        self.init = None if init is None else floatfile.load(network, init, recipe)
        self.network: Network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps = len(data.images) // recipe.batch_size
        if not self.steps:
            raise UserError(f"batch_size {recipe.batch_size} is more than the {len(data.images)} "
                            "training images; use a smaller one")
        self.parallel = self.group.wrap(self.network)
        self.teacher: Network | None = None
        self.target = (TermTarget(min(recipe.target_k + _SURPLUS, recipe.max_terms),
                                  0.9 * self._freeze_from) if recipe.target_k else None)
        self.optimizer = self._optimizer()
        self.average = Average(self.network, recipe.ema) if recipe.ema else None

    @property
    def stage(self) -> str:
        """``float`` or ``quantized``: of the next epoch."""
        return "float" if self.epoch < self.recipe.float_epochs else "quantized"

    @property
    def frozen(self) -> bool:
        """Whether filters keep their number of terms in the next epoch."""
        return self.stage == "quantized" and self.progress(0) >= self._freeze_from

    @property
    def _freeze_from(self) -> float:
        """Progress from which epochs are frozen; the last one always is if there is a target."""
        epochs = self.recipe.epochs - self.recipe.float_epochs
        return (min(self.recipe.freeze, (epochs - 1) / epochs) if self.recipe.target_k
                else self.recipe.freeze)

    def _optimizer(self) -> torch.optim.Optimizer:
        """A fresh optimizer for the present stage."""
        recipe = self.recipe
        learned = [parameter for layer in self.network.weighted if layer.quantizer is not None
                   for parameter in layer.quantizer.learned]
        chosen = {id(parameter) for layer in self.network.weighted if layer.quantizer is not None
                  for parameter in layer.quantizer.parameters()}
        others = [parameter for parameter in self.network.parameters()
                  if id(parameter) not in chosen]
        decay = recipe.weight_decay if self.stage == "float" else 0.0
        groups: list[dict[str, Any]] = [{"params": others, "weight_decay": decay, "factor": 1.0}]
        if self.stage == "quantized" and learned:
            groups.append({"params": learned, "weight_decay": 0.0,
                           "factor": recipe.threshold_rate})
        if self.stage == "float" and recipe.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum,
                                   nesterov=recipe.momentum > 0)
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99))

    def progress(self, step: int) -> float:
        """How far the present stage has come at a step of the next epoch, 0 to 1."""
        first, last = ((0, self.recipe.float_epochs) if self.stage == "float"
                       else (self.recipe.float_epochs, self.recipe.epochs))
        return (self.epoch - first + step / self.steps) / (last - first)

    def strengths(self, layer: str, progress: float) -> Tensor:
        """``lambda_j`` of a layer."""
        recipe = self.recipe
        settings = recipe.layer_settings(layer)
        factor = (recipe.lambda_layers.get(layer, 1.0)
                  * (self.target.factor if self.target is not None
                     else schedule.ramp(progress, recipe.ramp)))
        values = torch.full((settings.max_terms,), recipe.lambda_)
        values[0] = recipe.lambda_prune
        return values * factor

    def run_epoch(self, report: Report = lambda text: None) -> dict[str, Any]:
        """Train for one epoch and evaluate on the test split; returns the epoch's log."""
        started = time.monotonic()
        if self.stage == "quantized" and self.epoch == self.recipe.float_epochs:
            self._quantize()
        stage = self.stage
        if self.frozen:
            self._freeze()
        loss, penalty = self._train(report)
        report("evaluating")
        log: dict[str, Any] = {"epoch": self.epoch + 1, "stage": stage, "loss": loss,
                               "penalty": penalty}
        with self.average.applied() if self.average is not None else nullcontext():
            log["top1"] = self.evaluate()
            if stage == "quantized":
                log["frozen"] = self.frozen
                end = self.progress(self.steps)
                log["layers"] = {
                    layer.name: journal.describe(layer, self.strengths(layer.name, end))
                    for layer in self.network.weighted}
        self.epoch += 1
        self.epochs.append(log)
        self.seconds += time.monotonic() - started
        return log

    def finish(self) -> None:
        """After the last epoch: the average of the weights, if there is one, is the result."""
        if self.average is not None:
            self.average.keep()

    def _quantize(self) -> None:
        """Go over to the quantized stage."""
        self.finish()
        if self.recipe.distillation:
            self.teacher = copy.deepcopy(self.network).eval()
        self.network.fold(self._input(torch.cat(list(batches(
            self.data.images, _CALIBRATION_IMAGES)))))
        self.parallel = self.group.wrap(self.network)
        self.optimizer = self._optimizer()
        if self.average is not None:
            self.average = Average(self.network, self.recipe.ema)

    def _freeze(self) -> None:
        """Let every filter keep its number of terms; with a target, they are what it says."""
        if self.epochs and self.epochs[-1].get("frozen"):
            return                          # they do already
        for layer in self.network.weighted:
            layer.freeze()
        if self.recipe.target_k:
            settle_terms(self.network, torch.cat([self._input(batch) for batch in batches(
                self.data.images, _SETTLING_IMAGES)]), self.recipe.target_k)

    def _input(self, images: Tensor) -> Tensor:
        return images.to(self.device).float().contiguous(memory_format=torch.channels_last)

    def _batch(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Training images, augmented."""
        recipe = self.recipe
        images = augment.take(self.data.images, chosen, generator).to(self.device)
        if recipe.crop or recipe.flip:
            images = augment.crop_flip(images, recipe.crop, recipe.flip, generator)
        if recipe.cutout:
            images = augment.cutout(images, recipe.cutout, generator)
        images = self._input(images)
        return augment.affine(images, recipe.augmentation, generator)

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy, and the difference to the float network's logits if that is wanted."""
        recipe = self.recipe
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.amp):
            logits = self.parallel(images).float()
            if self.teacher is not None:
                with torch.no_grad():
                    wanted = self.teacher(images).float()
        loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        if self.teacher is None:
            return loss
        t = recipe.temperature
        other = functional.kl_div(functional.log_softmax(logits / t, dim=1),
                                  functional.log_softmax(wanted / t, dim=1), log_target=True,
                                  reduction="batchmean") * t * t
        return (1 - recipe.distillation) * loss + recipe.distillation * other

    def _penalty(self, progress: float) -> Tensor:
        """What the methods add to the loss, after a forward pass."""
        total = torch.zeros((), device=self.device)
        if self.stage == "quantized":
            for layer in self.network.weighted:
                assert layer.quantizer is not None
                own = layer.quantizer.penalty(layer.weight, self.strengths(layer.name, progress))
                total = total if own is None else total + own
            recipe = self.recipe
            if recipe.distribution != "none" and progress < recipe.distribution_until:
                maps = [layer.preactivation for layer in self.network.layers.values()
                        if isinstance(layer, BinaryPart) and layer.preactivation is not None]
                total = total + recipe.distribution_weight * distribution_loss(
                    maps, recipe.distribution)
        return total

    def _train(self, report: Report) -> tuple[float, float]:
        """All steps of an epoch; mean loss and mean penalty."""
        recipe, size = self.recipe, self.recipe.batch_size
        generator = torch.Generator(self.device).manual_seed((recipe.seed << 20) + self.epoch)
        torch.manual_seed((recipe.seed << 20) + self.epoch)     # for dropout, which has no other
        order = torch.randperm(len(self.data.images), generator=generator, device=self.device)
        if self.group.rank:     # the order is common to all processes, what follows is not
            generator.manual_seed((recipe.seed << 20) + self.epoch + (self.group.rank << 52))
        rate, warm_up = ((recipe.learning_rate, recipe.warm_up) if self.stage == "float"
                         else (recipe.quantized_learning_rate, _QUANTIZED_WARM_UP))
        losses = penalties = 0.0
        self.network.train()
        for step in range(self.steps):
            progress = self.progress(step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * schedule.learning_rate(progress, warm_up) * group["factor"]
            if self.stage == "quantized":
                for layer in self.network.weighted:
                    assert layer.quantizer is not None
                    layer.quantizer.advance(progress)
            first = step * size + self.group.rank * self.share
            chosen = order[first:first + self.share]
            loss = self._loss(self._batch(chosen, generator), self.data.labels[chosen])
            penalty = self._penalty(progress)
            self.optimizer.zero_grad()
            (loss + penalty).backward()
            self.optimizer.step()
            if self.average is not None:
                self.average.update()
            if self.target is not None and self.stage == "quantized" and not (
                    self.frozen or step % _STEER_EVERY):
                self.target.update(mean_k(self.network.weighted), progress)
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
    def logits(self, images: Tensor | ImageFolder) -> Tensor:
        """Of integer images (N, C, H, W), in evaluation."""
        self.network.eval()
        return torch.cat([self.network(self._input(batch))
                          for batch in batches(images)])

    def evaluate(self) -> float:
        """Top-1 on the test split."""
        hits = self.logits(self.data.test_images).argmax(1) == self.data.test_labels
        return float(hits.double().mean())

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        state: dict[str, Any] = {
            "epoch": self.epoch, "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(), "epochs": self.epochs,
            "seconds": self.seconds}
        if self.teacher is not None:
            state["teacher"] = self.teacher.state_dict()
        if self.average is not None:
            state["average"] = {"values": self.average.values, "steps": self.average.steps}
        if self.target is not None:
            state["target"] = {"factor": self.target.factor, "start": self.target.start}
        checkpoint.write(path, self.recipe, state)
        self.saved = self.epoch

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of the same recipe; see :func:`train.checkpoint.read`."""
        state = checkpoint.read(path, self.recipe, self.device)
        # What the checkpoint holds is of the last epoch's stage.
        self.epoch, self.epochs = state["epoch"] - 1, state["epochs"]
        self.seconds = state["seconds"]
        if self.stage == "quantized":
            if self.recipe.distillation:
                self.teacher = copy.deepcopy(self.network).eval()
                self.teacher.load_state_dict(state["teacher"])
            self.network.drop_norms()
        self.network.load_state_dict(state["network"])
        self.parallel = self.group.wrap(self.network)
        self.optimizer = self._optimizer()
        self.epoch += 1
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average = Average(self.network, self.recipe.ema)
            self.average.values = state["average"]["values"]
            self.average.steps = state["average"]["steps"]
        if self.target is not None:
            self.target.factor = state["target"]["factor"]
            self.target.start = state["target"]["start"]
        self.saved = self.epoch
