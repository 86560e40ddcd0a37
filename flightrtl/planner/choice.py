"""The cheapest choice of one option for each layer that keeps to a number of cycles."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import product

from .options import Option

__all__ = ["Choice"]

# Logic cells that one block RAM is worth, where there is a choice between the two. Every value
# is tried, since either resource may be the scarce one.
_EXCHANGE_RATES = (0, 5, 20, 60, 200, 1000, 10_000)
# The same for a multiplier block, where a layer has a use for one.
_BLOCK_RATES = (0, 20, 40, 60, 80, 10_000)


class _Cheapest:
    """The cheapest of some options within a limit, for one pair of exchange rates."""

    def __init__(self, options: Sequence[Option], rate: int, block: int) -> None:
        self.cycles: list[int] = []
        self.best: list[tuple[float, Option]] = []
        for option in sorted(options, key=lambda each: each.cycles):
            cost = option.cost
            price = cost.lut4 + rate * cost.bram + block * cost.dsp
            if not self.best or price < self.best[-1][0]:
                self.cycles.append(option.cycles)
                self.best.append((price, option))

    def within(self, limit: int) -> tuple[float, Option] | None:
        """Price and option."""
        index = bisect_right(self.cycles, limit)
        return self.best[index - 1] if index else None


class Choice:
    """One option for each layer.

    Parameters
    ----------
    options : mapping of str to mapping of int to sequence of Option
        For each layer, by the number of its output pixels.
    groups : sequence of sequence of str
        Layers that must have the same number; each layer is in one.
    """

    def __init__(self, options: Mapping[str, Mapping[int, Sequence[Option]]],
                 groups: Sequence[Sequence[str]]) -> None:
        self.options = options
        self.groups = groups
        blocks = _BLOCK_RATES if any(option.cost.dsp for name in options
                                     for option in self.all_of(name)) else (0,)
        self._tables = [{name: {pixels: _Cheapest(some, rate, block)
                                for pixels, some in by.items()} for name, by in options.items()}
                        for rate, block in product(_EXCHANGE_RATES, blocks)]

    def all_of(self, name: str) -> list[Option]:
        """All options of a layer."""
        return [option for some in self.options[name].values() for option in some]

    def limits(self, floor: int) -> list[int]:
        """Every interval from ``floor`` on at which the set of usable options changes."""
        return sorted({floor} | {option.cycles for name in self.options
                                 for option in self.all_of(name) if option.cycles > floor})

    def within(self, limit: int) -> list[dict[str, Option]]:
        """For each pair of exchange rates, the cheapest option of every layer.

        Nothing if some layer has none that is fast enough.
        The same choice is named once.
        """
        found: list[dict[str, Option]] = []
        for table in self._tables:
            chosen: dict[str, Option] = {}
            for group in self.groups:
                best: tuple[float, dict[str, Option]] | None = None
                for pixels in self.options[group[0]]:
                    some = {name: table[name][pixels].within(limit) for name in group}
                    priced = {name: each for name, each in some.items() if each is not None}
                    price = sum(each[0] for each in priced.values())
                    if len(priced) == len(group) and (best is None or price < best[0]):
                        best = price, {name: each[1] for name, each in priced.items()}
                if best is None:
                    return []
                chosen |= best[1]
            chosen = {name: chosen[name] for name in self.options}
            if chosen not in found:
                found.append(chosen)
        return found
