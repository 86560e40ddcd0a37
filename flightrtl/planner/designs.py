# amaranth: UnusedElaboratable=no
# (Networks are made for their numbers, not to become hardware.)
"""All designs of a model on a board: options of every layer, and choices between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..boards import Board
from ..errors import BuildError
from ..gateware.dataflow import Depths
from ..gateware.engine import accumulator_bits
from ..gateware.flash import Flash
from ..gateware.folding import FoldedLayer
from ..gateware.network import Network, joiner
from ..gateware.transfers import LayerChoice, stream_pixels
from ..loadable import LoadableModel
from ..model import Convolution, Dense, Join, Model, WeightedLayer
from .choice import Choice
from .cost import Cost, join_cost, pool_cost, total
from .cycles import Timing, measure
from .engine import engine_cost
from .options import (
    Option,
    feeders,
    folded_options,
    framed_option,
    framed_options,
    hardwired_options,
    pixel_groups,
    takes_single_pixels,
)
from .queues import endless

__all__ = ["GOOD_UTILIZATION", "WORTH", "Budget", "Design", "DesignSpace"]

GOOD_UTILIZATION = 0.95
"""Share of the slowest layer's lane-cycles that should do work."""

WORTH = 1.25
"""How much slower a plan may be for the sake of :data:`GOOD_UTILIZATION`."""

_NEARLY = 0.8
"""Share of what there is that is nearly all of it."""

_TRIALS = 64
"""Limits tried where many would do."""


@dataclass(frozen=True)
class Budget:
    """What a board has for the layers of a network."""

    lut4: int
    bram: int
    dsp: int

    def holds(self, cost: Cost) -> bool:
        """Whether a design fits."""
        return cost.lut4 <= self.lut4 and cost.bram <= self.bram and cost.dsp <= self.dsp

    def nearly_full(self, cost: Cost) -> bool:
        """Whether a design leaves little room for longer buffers."""
        return cost.lut4 > _NEARLY * self.lut4 or cost.bram > _NEARLY * self.bram


@dataclass(frozen=True)
class Design:
    """An option for every layer, in the model's order, and what all cost."""

    options: dict[str, Option]
    cost: Cost

    @property
    def foldings(self) -> dict[str, LayerChoice]:
        """As a network takes them."""
        return _foldings(self.options)

    @property
    def slowest(self) -> Option:
        """Of the layer that takes the most cycles."""
        return max(self.options.values(), key=lambda option: option.cycles)


class DesignSpace:
    """All options of a model's layers, and the choices between them.

    Parameters
    ----------
    model : Model
        What to compute.
    board : Board
        What with.
    budget : Budget
        What the board has for the layers.
    dataflow : {"mixed", "folded", "frame"}
        Whether each layer gets the data flow that suits it, or all a folded engine, or all one
        that reads each weight once.
    flash : (str, Flash), optional
        A layer that reads each weight once, from there.
    """

    def __init__(self, model: Model, board: Board, budget: Budget,
                 dataflow: str = "mixed", flash: tuple[str, Flash] | None = None) -> None:
        self.flash = flash
        self.model, self.board, self.budget = model, board, budget
        self.floor = max(model.input.size, model.output.size)
        """Cycles that the image or the logits take to pass, one value in a cycle."""
        layers = {layer.name: layer for layer in model.layers}
        groups = pixel_groups(model)
        if dataflow == "frame":
            groups = [(names, [1]) for names, _ in groups]
        elif flash:
            # What has a frame buffer takes one pixel at a time, and gives one.
            single = {flash[0], *feeders(model, flash[0])}
            groups = [(names, [1] if single & set(names) else counts) for names, counts in groups]
        options: dict[str, dict[int, list[Option]]] = {}
        for names, counts in groups:
            for name in names:
                layer = layers[name]
                assert isinstance(layer, (Convolution, Dense))
                if flash and name == flash[0]:
                    options[name] = {1: framed_options(model, layer, board, flash[1])}
                    if not options[name][1]:
                        raise BuildError(
                            f"the weights have no room in the flash of board {board.name!r} from "
                            f"address {flash[1].address:#x} on", layer=name,
                            knob="another layer (--flash), or a larger device (--board)")
                    continue
                options[name] = {pixels: framed_options(model, layer, board)
                                 if dataflow == "frame" and layer.groups == 1
                                 else folded_options(model, layer, pixels, board)
                                 for pixels in counts}
                if (dataflow == "mixed" and takes_single_pixels(model, name)
                        and not isinstance(model, LoadableModel)):
                    for pixels in counts:
                        options[name][pixels] += hardwired_options(model, layer, pixels, board)
        self.choice = Choice(options, [names for names, _ in groups])
        self.queues: Depths = {}
        if not model.chain:     # those of a narrow network, until it is known which are needed
            narrow = {name: min(by[1], key=lambda each: each.cost.lut4)
                      for name, by in options.items()}
            self.queues = Network(model, _foldings(narrow),
                                  memory_register=board.memory_register).queues

    def complete(self, chosen: Mapping[str, Option], queues: Depths | None = None) -> Design:
        """With the layers without weights, and engines that take what is sent to them."""
        model, family = self.model, self.board.family
        pixels = stream_pixels(model, _foldings(chosen))
        options: dict[str, Option] = {}
        for layer in model.layers:
            source = model.source(layer)
            given = pixels[layer.inputs[0]]
            if isinstance(layer, WeightedLayer):
                option = chosen[layer.name]
                if option.folded is not None and option.folded.source_pixels != given:
                    option = _with(option, replace(option.folded, source_pixels=given), family)
            elif isinstance(layer, Join):
                join = joiner(model, layer, (queues or self.queues)[layer.name], pixels=given,
                              register=self.board.memory_register)
                option = Option(cycles=model.tensors[layer.name].size // given, utilization=0.0,
                                cost=join_cost(join, family))
            else:
                option = Option(cycles=source.size // given, utilization=0.0,
                                cost=pool_cost(layer, source, family, given))
            options[layer.name] = option
        return Design(options, total(option.cost for option in options.values()))

    def choose(self, limit: int) -> Design | None:
        """The cheapest option of each layer that keeps to ``limit`` cycles, if all of them fit."""
        best = None
        for chosen in self.choice.within(limit):
            design = self.complete(chosen)
            if self.budget.holds(design.cost) and (best is None
                                                   or design.cost.lut4 < best.cost.lut4):
                best = design
        return best

    def cheapest(self, limit: int) -> Design | None:
        """The cheapest choice that keeps to ``limit`` cycles, wasting little in the slowest layer.

        Where the cheapest wastes much, a somewhat faster one that does not is taken.
        """
        if limit < self.floor:
            return None
        near = [each for each in self.choice.limits(self.floor) if limit / WORTH <= each < limit]
        best: tuple[tuple[bool, int], Design] | None = None
        for candidate in [limit, *_some(near)]:
            design = self.choose(candidate)
            if design is None:
                continue
            for each in (design, self._better_used(design, candidate)):
                rank = not self._wastes_little(each), each.cost.lut4
                if best is None or rank < best[0]:
                    best = rank, each
        return best and best[1]

    def _better_used(self, design: Design, limit: int) -> Design:
        """``design``, or if its slowest layer wastes much, with one in its place that does not."""
        if self._wastes_little(design):
            return design
        slowest = design.slowest
        name = next(name for name, option in design.options.items() if option is slowest)
        assert slowest.folded is not None       # it would not waste
        others = [option for option in self.choice.options[name][slowest.folded.folding.pixels]
                  if option.cycles <= limit and option.utilization >= GOOD_UTILIZATION]
        if not others:
            return design
        other = min(others, key=lambda option: option.cost.lut4)
        changed = self.complete({**design.options, name: other})
        return changed if self.budget.holds(changed.cost) else design

    def _wastes_little(self, design: Design) -> bool:
        """Whether the slowest layer's lanes nearly always work, or none with lanes is slowest."""
        slowest = design.slowest
        return (slowest.folded is None or slowest.cycles < self.floor
                or slowest.utilization >= GOOD_UTILIZATION)

    def fastest(self) -> Design:
        """The choice with the least interval, or a slightly slower one that wastes less."""
        limits = self.choice.limits(self.floor)
        # What fits within a limit fits within a longer one: look for the first by halves.
        low, high = 0, len(limits) - 1
        while low < high:
            middle = (low + high) // 2
            if self.choose(limits[middle]) is None:
                low = middle + 1
            else:
                high = middle
        best = self.choose(limits[low])
        assert best is not None     # check_fits has found a choice
        if self._wastes_little(best):
            return best
        near = [each for each in limits[low + 1:] if each <= best.slowest.cycles * WORTH]
        for limit in _some(near):
            design = self.choose(limit)
            if design is not None and self._wastes_little(design):
                return design
        return best

    def buffered(self, design: Design, limit: int) -> tuple[Design, Timing]:
        """``design`` with buffers long enough that no layer waits where that costs rate.

        As long as the network is slower than ``limit`` and than its slowest layer, doubles the
        line or frame buffer of a layer that goes hungry, if that helps and fits; or else those of
        all convolutions. With branches it begins with all: there, one layer's buffer rarely helps.
        """
        timing = self._timing(design)
        slowest = max(design.slowest.cycles, limit)
        improves = True
        while improves and timing.interval > slowest:
            improves = False
            hungry = sorted((name for name, cycles in timing.starved.items()
                             if cycles and _longer(design.options[name], self.board.family)),
                            key=lambda name: -timing.starved[name])
            every = [layer.name for layer in self.model.layers if isinstance(layer, Convolution)
                     and design.options[layer.name].folded is not None]
            single = [[name] for name in hungry]
            both = [every * 2, every]
            for names in [*single, *both[::-1]] if self.model.chain else [*both, *single]:
                options = dict(design.options)
                for name in names:
                    options[name] = _longer(options[name], self.board.family) or options[name]
                trial = self.complete(options)
                if not self.budget.holds(trial.cost):
                    continue
                longer = self._timing(trial)
                if longer.interval < timing.interval:
                    design, timing, improves = trial, longer, True
                    break
        return design, timing

    def _timing(self, design: Design) -> Timing:
        """With queues that are never full; how deep they must be is seen later."""
        foldings, register = design.foldings, self.board.memory_register
        queues = (None if self.model.chain
                  else endless(self.model, foldings, memory_register=register))
        return measure(self.model, foldings, memory_register=register, queues=queues)

    def check_fits(self) -> None:
        """Raise :class:`BuildError` if not even the smallest design fits."""
        cells = self._least(lambda option: option.cost.lut4)
        self._blame(self.budget.lut4, "logic cells", "lut4", cells)
        rams = self._least(lambda option: option.cost.bram)
        self._blame(self.budget.bram, "block RAMs", "bram", rams)
        if self.choose(max(self.choice.limits(0))) is None:
            self._blame(-1, "logic cells and block RAMs together", "bram", rams)

    def _least(self, price: Callable[[Option], int]) -> dict[str, Option]:
        """The smallest option of each layer."""
        return self.complete({name: min(by[1], key=price)
                              for name, by in self.choice.options.items()}).options

    def _blame(self, available: int, what: str, key: str, least: dict[str, Option]) -> None:
        board = self.board
        needs = {name: getattr(option.cost, key) for name, option in least.items()}
        if sum(needs.values()) <= available:
            return
        worst = max(needs, key=lambda name: needs[name])
        have = f"{board.device} leaves {max(available, 0)}" if available >= 0 else \
            f"{board.device} has {board.resources.bram} RAMs"
        raise BuildError(
            f"the model is too large for board {board.name!r}: it needs at least "
            f"{sum(needs.values())} {what} and {have}; this layer alone takes {needs[worst]}",
            layer=worst, knob=("--flash auto, which leaves the weights of one layer in the "
                               "board's flash, or " if key == "bram" and board.flash
                               and not self.flash and not isinstance(self.model, LoadableModel)
                               else "")
            + "fewer filters or fewer terms per filter in this layer, or a larger device (--board)")

    def check_reachable(self, limit: int, rate: float, clock_mhz: float) -> None:
        """Raise :class:`BuildError` if a rate is out of reach on a device of any size."""
        at = f"{rate:g} inferences per second at {clock_mhz:g} MHz leave {limit} cycles each, but "
        if limit < self.floor:
            what = ("the input" if self.model.input.size == self.floor
                    else f"layer {self.model.layers[-1].name!r}")
            raise BuildError(
                f"{at}{self.floor} values pass through {what}, one per cycle",
                knob=f"--target-rate {math.floor(clock_mhz * 1e6 / self.floor)} or less, or a "
                     "higher --frequency")
        for name in self.choice.options:
            least = min(option.cycles for option in self.choice.all_of(name))
            if least > limit:
                raise BuildError(
                    f"{at}this layer takes {least} at its widest", layer=name,
                    knob=f"--target-rate {math.floor(clock_mhz * 1e6 / least)} or less, or a "
                         "higher --frequency, or fewer terms in this layer")

    def too_slow(self, limit: int, tighter: int, rate: float, interval: int,
                 clock_mhz: float) -> BuildError:
        """Why a rate is missed though each layer keeps to ``limit`` cycles by itself.

        The network takes ``interval`` cycles, and no layers that keep to ``tighter`` were found.
        """
        least = max(min(option.cycles for option in self.choice.all_of(name))
                    for name in self.choice.options)
        if tighter >= max(least, self.floor):
            return self.too_large(tighter, rate)
        return BuildError(
            f"{rate:g} inferences per second at {clock_mhz:g} MHz leave {limit} cycles each, but "
            f"where the layers wait for each other the network takes {interval}",
            knob=f"--target-rate {math.floor(clock_mhz * 1e6 / interval)} or less, or a higher "
                 "--frequency")

    def too_large(self, limit: int, rate: float) -> BuildError:
        """Why a rate that is within reach does not fit."""
        board, budget = self.board, self.budget
        least = {name: min((option for option in self.choice.all_of(name)
                            if option.cycles <= limit), key=lambda option: option.cost.lut4)
                 for name in self.choice.options}
        cost = total(option.cost for option in least.values())
        worst = max(least, key=lambda name: least[name].cost.lut4)
        return BuildError(
            f"{rate:g} inferences per second need about {cost.lut4} logic cells and {cost.bram} "
            f"block RAMs; board {board.name!r} leaves {budget.lut4} and {budget.bram}; this "
            f"layer alone takes {least[worst].cost.lut4} cells",
            layer=worst, knob="a lower --target-rate (none gives the highest that fits), a higher "
                              "--frequency, or a larger device (--board)")


def _foldings(options: Mapping[str, Option]) -> dict[str, LayerChoice]:
    """What was chosen for the layers with weights."""
    return {name: option.choice for name, option in options.items() if option.choice is not None}


def _some(limits: list[int]) -> list[int]:
    """At most :data:`_TRIALS` of them, evenly."""
    step = max(1, -(-len(limits) // _TRIALS))
    return limits[::step]


def _with(option: Option, folded: FoldedLayer, family: str) -> Option:
    """The option, folded a little differently, at what that costs."""
    return replace(option, folded=folded, buffer_bits=folded.buffer_bits,
                   cost=engine_cost(folded, family, accumulator_bits(folded)))


def _longer(option: Option, family: str) -> Option | None:
    """The same engine with a line buffer of twice as many rows, or room for a second frame."""
    folded, framed = option.folded, option.framed
    if framed is not None and framed.framed.frames == 1:
        return framed_option(replace(framed, framed=replace(framed.framed, frames=2)), family)
    if folded is None:
        return None
    folding = replace(folded.folding, rows=2 * folded.ring.rows)
    return _with(option, replace(folded, folding=folding), family)
