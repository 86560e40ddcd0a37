"""What there is to choose for each layer: weight format, activation bits, pruned filters."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from flightrtl.errors import UserError
from flightrtl.formats import TermFormat

from ..layers import QuantizedAdd
from ..methods import METHODS, LayerSettings
from ..network import Network

__all__ = ["FORMATS", "Choice", "LayerShape", "Space", "Tables", "select", "shapes"]

Tables = dict[str, dict[str, Any]]
"""``[layers.NAME]`` of a recipe."""


@dataclass(frozen=True)
class Choice:
    """A weight format, and the method that trains it.

    Parameters
    ----------
    name : str
        Key in :data:`FORMATS`.
    table : mapping
        What it says in a layer's table of a recipe.
    """

    name: str
    table: Mapping[str, Any]

    def _quantizer(self) -> Any:
        make = METHODS[self.table["method"]].quantizer
        assert make is not None
        return make(1, replace(LayerSettings(), **self.table))

    @property
    def bits(self) -> int:
        """Of a weight, at most: a filter of ``flightnn`` may end with fewer terms than its limit.

        >>> FORMATS["nbq1"].bits, FORMATS["flightnn-e3"].bits
        (1, 8)
        """
        quantizer = self._quantizer()
        return int(quantizer.format.code_bits * getattr(quantizer, "max_terms", 1))

    @property
    def in_hardware(self) -> bool:
        """Whether there is gateware for it."""
        return isinstance(self._quantizer().format, TermFormat)


def _choice(name: str, method: str, **table: int) -> Choice:
    return Choice(name, {"method": method, **table})


FORMATS: dict[str, Choice] = {choice.name: choice for choice in (
    _choice("binary", "bnn"),
    _choice("nbq1", "nbq", weight_bits=1),
    _choice("nbq2", "nbq", weight_bits=2),
    _choice("lightnn1-e1", "lightnn1", exponent_bits=1, max_terms=1),
    _choice("nbq3", "nbq", weight_bits=3),
    _choice("lightnn1-e2", "lightnn1", exponent_bits=2, max_terms=1),
    _choice("lightnn1-e3", "lightnn1", exponent_bits=3, max_terms=1),
    _choice("fixed4", "fixed", weight_bits=4),
    _choice("flightnn-e2", "flightnn", exponent_bits=2, max_terms=2),
    _choice("flightnn-e3", "flightnn", exponent_bits=3, max_terms=2),
    _choice("fixed8", "fixed", weight_bits=8),
)}
"""All of them, by the bits of a weight: neighbours are alike, which the search makes use of."""


@dataclass(frozen=True)
class LayerShape:
    """What a layer's cost depends on.

    Parameters
    ----------
    name : str
        In the recipe.
    filters : int
        0 for an addition, which has no weights.
    weights : int
        In each filter.
    last : bool
        Whether it gives the logits, whose bits are not chosen here.
    """

    name: str
    filters: int
    weights: int
    last: bool


def shapes(network: Network) -> tuple[LayerShape, ...]:
    """The layers of a network that have something to choose."""
    last = network.nodes[-1].name
    found = [LayerShape(layer.name, len(layer.weight), layer.weight[0].numel(), layer.name == last)
             for layer in network.weighted]
    found += [LayerShape(node.name, 0, 0, node.name == last) for node in network.nodes
              if isinstance(network.layers[node.name], QuantizedAdd)]
    return tuple(found)


class Suggests(Protocol):
    """The part of ``optuna.Trial`` that is used here."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """An integer, both ends included."""
        ...


@dataclass(frozen=True)
class Space:
    """Everything that a search may choose.

    Parameters
    ----------
    layers : tuple of LayerShape
        Of the network.
    formats : tuple of Choice
        By rising bits.
    activation_bits : (int, int)
        Least and greatest of hidden activations.
    sparsity : tuple of float
        Shares of the filters that may be pruned, the first 0; never in the last layer.
    """

    layers: tuple[LayerShape, ...]
    formats: tuple[Choice, ...]
    activation_bits: tuple[int, int] = (8, 8)
    sparsity: tuple[float, ...] = (0.0, 0.125, 0.25, 0.375, 0.5)

    def __post_init__(self) -> None:
        if not self.formats:
            raise UserError(f"there is no weight format to choose from; there are "
                            f"{', '.join(FORMATS)}")
        low, high = self.activation_bits
        if not 1 <= low <= high <= 16:
            raise UserError(f"activation bits {low} to {high}: they must be 1 to 16, the least "
                            "first")

    def _ranges(self) -> dict[str, tuple[int, int]]:
        """Parameter name to its least and greatest value; only where there is a choice."""
        result: dict[str, tuple[int, int]] = {}
        for layer in self.layers:
            if layer.filters:
                result[f"{layer.name}.format"] = (0, len(self.formats) - 1)
                if not layer.last:
                    result[f"{layer.name}.sparsity"] = (0, len(self.sparsity) - 1)
            if not layer.last:
                result[f"{layer.name}.activation_bits"] = self.activation_bits
        return {name: (low, high) for name, (low, high) in result.items() if low < high}

    def tables(self, chosen: Mapping[str, int]) -> Tables:
        """The tables of a recipe for the values of the parameters; the least where none is."""
        result: Tables = {}
        for layer in self.layers:
            own: dict[str, Any] = {}
            if layer.filters:
                own |= self.formats[chosen.get(f"{layer.name}.format", 0)].table
                share = self.sparsity[chosen.get(f"{layer.name}.sparsity", 0)]
                own |= {"sparsity": share} if share else {}
            if not layer.last:
                own["activation_bits"] = chosen.get(f"{layer.name}.activation_bits",
                                                    self.activation_bits[0])
            result[layer.name] = own
        return result

    def suggest(self, trial: Suggests) -> dict[str, int]:
        """Values of the parameters from a trial."""
        return {name: trial.suggest_int(name, low, high)
                for name, (low, high) in self._ranges().items()}

    def bits(self, chosen: Mapping[str, int]) -> dict[str, int]:
        """Bits of all weights of each layer, at most, for values of the parameters."""
        result = {}
        for layer in self.layers:
            if layer.filters:
                choice = self.formats[chosen.get(f"{layer.name}.format", 0)]
                share = self.sparsity[chosen.get(f"{layer.name}.sparsity", 0)]
                pruned = min(int(share * layer.filters + 1e-9), layer.filters - 1)
                result[layer.name] = (layer.filters - pruned) * layer.weights * choice.bits
        return result

    def starts(self, count: int, seed: int, budget: float | None) -> list[dict[str, int]]:
        """Where a search begins: bold choices and random ones, brought within a budget of bits.

        Bold, with nothing pruned: the best formats, made coarser in whichever layer has the most
        bits until the budget is met, so that large layers get few bits and small ones many; the
        best format in the first and the last layer and one format in all others, each in turn, as
        far as the budget allows.

        Parameters
        ----------
        count : int
            How many.
        seed : int
            Of the random ones.
        budget : float, optional
            Bits of all weights.
        """
        generator = random.Random(seed)
        ranges = self._ranges()
        finest = {name: high for name, (_, high) in ranges.items()}
        dense = {name: 0 if name.endswith(".sparsity") else high
                 for name, high in finest.items()}
        ends = [f"{layer.name}.format" for layer in self.layers if layer.filters]
        inner = [name for name in ends[1:-1] if name in ranges]
        bold = [dense | dict.fromkeys(inner, index) for index in range(len(self.formats))]
        result = [self._within(dense, budget)] if budget is not None else []
        result += [each for each in bold
                   if budget is None or sum(self.bits(each).values()) <= budget]
        while len(result) < count:
            drawn = {name: generator.randint(low, high) for name, (low, high) in ranges.items()}
            result.append(drawn if budget is None else self._within(drawn, budget, generator))
        return result[:count]

    def _within(self, chosen: dict[str, int], budget: float,
                generator: random.Random | None = None) -> dict[str, int]:
        """Coarser formats until the bits are in the budget: of the layer with the most bits.

        With a generator, of layers drawn with their bits as odds.
        """
        while True:
            bits = self.bits(chosen)
            names = [name for name in bits if chosen.get(f"{name}.format", 0)]
            if sum(bits.values()) <= budget or not names:
                return chosen
            name = (max(names, key=lambda each: bits[each]) if generator is None else
                    generator.choices(names, [bits[each] for each in names])[0])
            chosen = chosen | {f"{name}.format": chosen[f"{name}.format"] - 1}


def select(names: Sequence[str], *, hardware: bool) -> tuple[Choice, ...]:
    """The formats of these names in the order of :data:`FORMATS`; all if there are none.

    Raises
    ------
    UserError
        For a name that is not known, or a format without gateware if ``hardware`` is wanted.
    """
    usable = [name for name, choice in FORMATS.items() if choice.in_hardware or not hardware]
    for name in names:
        if name not in FORMATS:
            raise UserError(f"no weight format {name!r}; there are {', '.join(FORMATS)}")
        if name not in usable:
            raise UserError(f"there is no hardware for the weight format {name!r} yet; there is "
                            f"for {', '.join(usable)}")
    return tuple(FORMATS[name] for name in usable if name in names or not names)
