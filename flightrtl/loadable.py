"""Models made ready for a design whose contents can be replaced by another model's.

A design is usually made for one model: each memory is as deep, each adder as wide as that model
needs, and what is constant becomes logic. A *loadable* design keeps all that depends on a training
in block RAM, and has room for other trainings of the same network: its layers have a
:class:`Capacity`, and the model that it is planned for is padded to it. :func:`loadable` does that,
and changes no logit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TypeVar

import numpy as np

from .errors import UserError
from .formats import ActivationFormat, TermFormat, signed_bits
from .model import Convolution, Dense, Layer, Model, WeightedLayer

__all__ = ["PORT_BITS", "SPARE_BITS", "SPARE_SHIFTS", "Capacity", "LoadableModel", "loadable",
           "pad", "padded", "total_range"]

_Weighted = TypeVar("_Weighted", bound=WeightedLayer)

SPARE_BITS = 1
"""By how much an accumulator is wider than the model needs that the design is made for."""

SPARE_SHIFTS = 1
"""By how much a shift may be smaller or greater than any of that model's."""

PORT_BITS: Mapping[str, int] = {"ice40": 16, "ecp5": 36}
"""Widest port of a block RAM. Parameters are read in as many parts as that takes, where there is
time for it: on iCE40 one block RAM for a layer in place of two."""


@dataclass(frozen=True)
class Capacity:
    """Which trainings of a layer a design has room for.

    Parameters
    ----------
    slots : int
        Term planes, of all filters together. Every filter takes at least one, and every group of
        channels as many.
    width : int
        Bits of an accumulator, which starts at the filter's bias.
    least, shift_bits : int
        Shifts are ``least`` to ``least + 2**shift_bits - 1``.
    port : int
        Widest part in which parameters are read, bits.
    """

    slots: int
    width: int
    least: int
    shift_bits: int
    port: int

    @property
    def greatest(self) -> int:
        """Greatest shift."""
        return self.least + (1 << self.shift_bits) - 1

    @property
    def word_bits(self) -> int:
        """Bits of a slot's parameters: two marks, bias, shift."""
        return 2 + self.width + self.shift_bits

    def misfits(self, layer: WeightedLayer, source: ActivationFormat) -> list[str]:
        """All reasons why a layer of the right shape has no room, one sentence each."""
        found = []
        needed = _slots(layer)
        if needed > self.slots:
            found.append(f"layer {layer.name!r} has {needed} terms per weight in all its filters "
                         f"together and the design has room for {self.slots}")
        if not isinstance(layer.format, TermFormat) and 0 in layer.k and not _has_zero(layer):
            found.append(f"layer {layer.name!r} has filters without weights, and there is no "
                         f"{type(layer.format).__name__} code for the weight 0")
        low, high = total_range(layer, source)
        if signed_bits(low, high) > self.width:
            found.append(f"layer {layer.name!r} has sums of {low} to {high}, with bias, and the "
                         f"design's accumulators have {self.width} bits")
        least, greatest = int(layer.shift.min()), int(layer.shift.max())
        if least < self.least or greatest > self.greatest:
            found.append(f"layer {layer.name!r} has shifts of {least} to {greatest}, and the "
                         f"design's are {self.least} to {self.greatest}")
        return found

    def as_json(self) -> dict[str, int]:
        """The fields by their names."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class LoadableModel(Model):
    """A model padded to the capacities of a design.

    Parameters
    ----------
    capacities : mapping of str to Capacity
        For each layer with weights, by name.
    writable : bool
        Whether the design's contents can be replaced at run time too.
    """

    capacities: Mapping[str, Capacity] = field(default_factory=dict)
    writable: bool = False


def total_range(layer: WeightedLayer, source: ActivationFormat) -> tuple[int, int]:
    """Least and greatest ``sum(weight * activation) + bias`` of any filter.

    Sums on the way may be beyond it: they are modulo a power of two, and the last one is right.
    """
    weights = layer.weights.reshape(layer.filters, -1)
    positive = np.maximum(weights, 0).sum(axis=1)
    negative = np.minimum(weights, 0).sum(axis=1)
    low = positive * source.min + negative * source.max + layer.bias
    high = positive * source.max + negative * source.min + layer.bias
    return int(low.min()), int(high.max())


def _slots(layer: WeightedLayer) -> int:
    """Slots that a layer needs. Groups of channels have passes of their own, and equally many."""
    groups = np.maximum(layer.k, 1).reshape(layer.groups, -1).sum(axis=1)
    return int(groups.max()) * layer.groups


def _has_zero(layer: WeightedLayer) -> bool:
    """Whether code 0 is the weight 0."""
    return int(layer.format.decode(np.zeros(1, np.uint8))[0]) == 0


def pad(layer: _Weighted, slots: int) -> _Weighted:
    """The layer with slots of zeros, so that it has ``slots`` and every filter at least one.

    What it computes is the same.
    """
    if (needed := _slots(layer)) > slots:
        raise ValueError(f"layer {layer.name!r} takes {needed} slots, more than {slots}")
    groups = np.maximum(layer.k, 1).reshape(layer.groups, -1)
    for group in groups:        # views of k
        extra = slots // layer.groups - group.sum()
        group += extra // len(group) + (np.arange(len(group)) < extra % len(group))
    k = groups.ravel()
    terms = np.zeros((slots, *layer.terms.shape[1:]), layer.terms.dtype)
    # The first slots of each filter are its own.
    starts = np.cumsum(k) - k
    own = np.concatenate([start + np.arange(count) for start, count
                          in zip(starts, layer.k, strict=True)]).astype(np.int64)
    terms[own] = layer.terms
    return replace(layer, terms=terms, k=tuple(k.tolist()))


def padded(model: Model, capacities: Mapping[str, Capacity], *,
           writable: bool = False) -> LoadableModel:
    """A model padded to capacities, by its layers' names, that it fits."""
    layers: list[Layer] = [
        pad(layer, capacities[layer.name].slots) if isinstance(layer, (Convolution, Dense))
        else layer for layer in model.layers]
    return LoadableModel(model.name, model.input, tuple(layers), model.provenance,
                         capacities=capacities, writable=writable)


def loadable(model: Model, family: str, *, terms: float | None = None,
             writable: bool = False) -> LoadableModel:
    """A model padded for a design whose contents can be replaced.

    Parameters
    ----------
    model : Model
        What the design is made for.
    family : str
        Of the device: ``ice40`` or ``ecp5``.
    terms : float, optional
        Terms per weight to have room for, in the mean over a layer's filters; by default as many
        as ``model`` has. More of them take more cycles.
    writable : bool
        Whether contents are to be replaced at run time too.

    Raises
    ------
    UserError
        If the model has less room than it needs itself, or a layer that cannot be padded.
    """
    capacities: dict[str, Capacity] = {}
    problems: list[str] = []
    for layer in model.layers:
        if not isinstance(layer, WeightedLayer):
            continue
        needed = slots = _slots(layer)
        if isinstance(layer.format, TermFormat) and terms is not None:
            slots = math.ceil(terms * layer.filters / layer.groups) * layer.groups
            if slots < needed:
                problems.append(f"layer {layer.name!r} has {needed / layer.filters:.4g} terms per "
                                f"weight and so does not fit {terms:g}")
                slots = needed
        source = model.source(layer).format
        low, high = total_range(layer, source)
        least = max(0, int(layer.shift.min()) - SPARE_SHIFTS)
        capacity = Capacity(
            slots=slots, width=signed_bits(low, high) + SPARE_BITS, least=least,
            shift_bits=(int(layer.shift.max()) + SPARE_SHIFTS - least).bit_length(),
            port=PORT_BITS[family])
        problems += capacity.misfits(layer, source)
        capacities[layer.name] = capacity
    if problems:
        raise UserError(f"model {model.name!r} cannot be built loadable: " + "; ".join(problems))
    return padded(model, capacities, writable=writable)

