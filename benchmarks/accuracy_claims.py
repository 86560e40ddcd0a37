"""What was to be shown about the methods, and what the rows say to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .accuracy_rows import Group

__all__ = ["Verdict", "comparisons", "targets"]

_COMPARED_K = 1.5
"""Up to this mean number of terms ``flightnn`` is compared with the other methods."""

_SLACK = 1e-9


@dataclass(frozen=True)
class Verdict:
    """A claim, whether it holds (None: there is no row to tell), and on which figures."""

    claim: str
    holds: bool | None
    reason: str


@dataclass(frozen=True)
class _Target:
    """The best group that fits has to reach a rate."""

    text: str
    dataset: str
    top1: float
    mean_k: float
    network: str | None = None
    exponent_bits: int | None = None
    activation_bits: int | None = None

    def fits(self, group: Group) -> bool:
        row, formats = group.first, group.first.formats
        return (row.dataset == self.dataset and row.method == "flightnn"
                and self.network in (None, row.network)
                and self.exponent_bits in (None, *formats["exponent_bits"][-1:])
                and self.activation_bits in (None, *formats["activation_bits"][-1:])
                and group.mean_k is not None and group.mean_k <= self.mean_k + _SLACK)


_TARGETS = (
    _Target("MNIST: `flightnn` at least 99.4 % with a mean k of at most 1.3", "mnist", 0.994, 1.3),
    _Target("Fashion-MNIST: `flightnn` at least 91.5 %", "fashion-mnist", 0.915, math.inf),
    _Target("CIFAR-10, ResNet-8: `flightnn` at least 86 % with 4-bit terms, 8-bit activations and "
            "a mean k of at most 1.4", "cifar10", 0.86, 1.4, "resnet8", 3, 8),
    _Target("CIFAR-10, ResNet-8: `flightnn` at least 85 % with 3-bit terms, 4-bit activations and "
            "a mean k of at most 1.4", "cifar10", 0.85, 1.4, "resnet8", 2, 4),
)
_COMPRESSION, _LOST = 22, 0.01


def _runs(group: Group) -> str:
    """Figures of a group, in words.

    The number of seeds is said, so that nobody takes a single run for more than it is.
    """
    each = group.accuracies
    text = f"{100 * group.accuracy:.2f} %"
    if len(each) > 1:
        text += f" ({100 * min(each):.2f} to {100 * max(each):.2f}, {len(each)} seeds)"
    else:
        text += " (one seed)"
    return text


def targets(groups: Sequence[Group]) -> list[Verdict]:
    """The figures that were set beforehand, each against the best settings that fit it."""
    result = []
    for target in _TARGETS:
        found = [group for group in groups if target.fits(group)]
        if not found:
            result.append(Verdict(target.text, None, "no row yet"))
            continue
        best = max(found, key=lambda group: group.accuracy)
        result.append(Verdict(target.text, best.accuracy >= target.top1 - _SLACK,
                              f"{best.first.network}, mean k {best.mean_k:.2f}: {_runs(best)}"))
    return [*result, _compression(groups)]


def _compression(groups: Sequence[Group]) -> Verdict:
    """The method `mixed`: size against float32, and accuracy against the float network."""
    claim = (f"CIFAR-10: `mixed` makes one network at least {_COMPRESSION} times smaller than in "
             "float32 and loses at most 1 point")
    found = [group for group in groups if group.first.method == "mixed"
             and group.first.dataset == "cifar10" and group.float_accuracy is not None]
    if not found:
        return Verdict(claim, None, "no row yet")
    def judged(group: Group) -> tuple[bool, float, float]:
        ratio = 32 * group.first.weights / group.model_bits
        lost = (group.float_accuracy or 0) - group.accuracy
        return ratio >= _COMPRESSION and lost <= _LOST + _SLACK, ratio, lost
    best = max(found, key=lambda group: (judged(group)[0], -judged(group)[2]))
    holds, ratio, lost = judged(best)
    return Verdict(claim, holds, f"{best.first.network}: {ratio:.1f} times smaller, "
                                 f"{100 * lost:+.2f} points lost, {_runs(best)}")


def _partners(group: Group, groups: Sequence[Group], method: str) -> list[Group]:
    """Groups of another method that this one can be compared with.

    Same data, network, epochs, start and activations; the same terms where both have some.
    """
    one = group.first
    def comparable(other: Group) -> bool:
        row = other.first
        same = all(getattr(row, key) == getattr(one, key)
                   for key in ("dataset", "network", "epochs"))
        bits = all(row.formats[key] == one.formats[key] or not row.formats[key]
                   for key in ("exponent_bits", "activation_bits"))
        shared = all(row.recipe.get(key) == one.recipe.get(key)
                     for key in ("float_share", "distillation", "quantized_learning_rate"))
        return row.method == method and same and bits and shared
    return [other for other in groups if comparable(other)]


def comparisons(groups: Sequence[Group]) -> list[Verdict]:
    """``flightnn`` against two terms everywhere, and against 4-bit fixed point."""
    within, above = [], []
    for group in groups:
        row = group.first
        if row.method != "flightnn" or group.mean_k is None or group.mean_k > _COMPARED_K:
            continue
        about = (f"{row.dataset}, {row.network}, {row.formats['exponent_bits'][-1]} exponent bits, "
                 f"{row.formats['activation_bits'][-1]}-bit activations, mean k "
                 f"{group.mean_k:.2f}")
        for other in _partners(group, groups, "lightnn2"):
            gap = group.accuracy - other.accuracy
            within.append(Verdict(
                f"{about}: within 0.1 points of `lightnn2`", gap >= -0.001 - _SLACK,
                f"{100 * gap:+.2f} points: {_runs(group)} against {_runs(other)}"))
        for other in _partners(group, groups, "fixed"):
            if other.first.formats["weight_bits"] == [4]:
                gap = group.accuracy - other.accuracy
                above.append(Verdict(
                    f"{about}: above `fixed` with 4 bits", gap > 0,
                    f"{100 * gap:+.2f} points: {_runs(group)} against {_runs(other)}"))
    return [*(within or [Verdict(f"`flightnn` within 0.1 points of `lightnn2` at a mean k of at "
                                 f"most {_COMPARED_K}", None, "no rows to compare yet")]),
            *(above or [Verdict("`flightnn` above `fixed` with 4 bits", None,
                                "no rows to compare yet")])]
