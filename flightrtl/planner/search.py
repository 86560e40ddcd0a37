# amaranth: UnusedElaboratable=no
# (Networks are made for their numbers, not to become hardware.)
"""The search for a plan: every folding of every layer, and the best choice for one rate."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from amaranth.utils import ceil_log2

from ..boards import Board
from ..errors import BuildError, UserError
from ..formats import signed_bits
from ..gateware.clocking import solve
from ..gateware.engine import sum_range
from ..gateware.folding import FoldedLayer, Folding
from ..gateware.network import Network, adder, require_supported
from ..gateware.processing import code_offsets
from ..model import INPUT, Add, Convolution, Dense, Layer, MaxPool, Model, WeightedLayer
from .cost import (
    Cost,
    add_cost,
    engine_cost,
    forks_cost,
    maps_to_blocks,
    pool_cost,
    system_costs,
    total,
)
from .cycles import Timing, measure
from .plan import LayerPlan, Plan
from .queues import endless, shortest

__all__ = ["plan"]

GOOD_UTILIZATION = 0.95
"""Share of the slowest layer's lane-cycles that should do work."""

WORTH = 1.25
"""How much slower a plan may be for the sake of :data:`GOOD_UTILIZATION`."""

# Logic cells that one block RAM is worth, where there is a choice between the two. Every value
# is tried, since either resource may be the scarce one.
_EXCHANGE_RATES = (0, 5, 20, 60, 200, 1000, 10_000)
# The same for a multiplier block, where a layer has a use for one.
_BLOCK_RATES = (0, 20, 40, 60, 80, 10_000)


@dataclass(frozen=True)
class _Option:
    """One way to compute one layer."""

    folded: FoldedLayer | None
    cycles: int
    utilization: float
    cost: Cost
    queues: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Budget:
    lut4: int
    bram: int
    dsp: int

    def holds(self, cost: Cost) -> bool:
        return cost.lut4 <= self.lut4 and cost.bram <= self.bram and cost.dsp <= self.dsp


def plan(model: Model, board: Board, frequency: float | None = None,
         target_rate: float | None = None) -> Plan:
    """The plan for a model on a board.

    Without ``target_rate`` it aims at the board's ``default_rate``, and where that cannot be
    reached (or there is none) at the highest rate that fits. Among plans of equal rate the
    cheapest is taken, so that a layer is no wider than the slowest one lets it be.

    Parameters
    ----------
    model : Model
        What to compute.
    board : Board
        What with.
    frequency : float, optional
        Clock, MHz; the board's default if not given.
    target_rate : float, optional
        Inferences per second to reach, with the smallest design that does.

    Raises
    ------
    UserError
        For a frequency or rate that is not a positive number, or a model that has layers without
        hardware (:class:`~flightrtl.modelfile.ModelError`).
    BuildError
        If the model does not fit, or the rate cannot be reached; names the layer and the knob.
    """
    require_supported(model)
    if target_rate is not None and not (math.isfinite(target_rate) and target_rate > 0):
        raise UserError(f"the target rate must be above 0 inferences per second, "
                        f"not {target_rate:g}")
    pll = solve(board, frequency)
    clock_mhz = float(pll.mhz) if pll else board.clock.input_mhz
    overhead = system_costs(model.output)
    if not model.chain:
        overhead["forks"] = forks_cost(model)
    spent = total(overhead.values())
    budget = _Budget(int(board.resources.lut4 * board.fill) - spent.lut4,
                     board.resources.bram - spent.bram, board.resources.dsp - spent.dsp)
    options = {layer.name: _options(model, layer, board) for layer in model.layers
               if not isinstance(layer, Add)}
    options |= _additions(model, board, options)
    options = {layer.name: options[layer.name] for layer in model.layers}
    floor = max(tensor.size for tensor in model.tensors.values())
    _check_fits(model, board, budget, options)

    wanted = target_rate or board.default_rate
    limit = floor if wanted is None else math.floor(clock_mhz * 1e6 / wanted)
    if target_rate is not None:
        _check_reachable(model, board, limit, floor, target_rate, clock_mhz, options)
    chosen = _cheapest(options, limit, floor, budget) if wanted is not None else None
    if chosen is None and target_rate is not None:
        raise _too_large(board, budget, options, limit, target_rate)
    reachable = chosen is not None
    if chosen is None:
        chosen = _fastest(options, floor, budget)
    chosen, timing = _buffered(model, board, budget, chosen)
    # Layers as slow as the limit allows may still wait for each other: narrow it until the
    # whole keeps to it.
    tighter = limit
    while reachable and timing.interval > limit:
        tighter = min(tighter * limit // timing.interval, tighter - 1)
        narrower = _cheapest(options, tighter, floor, budget)
        if narrower is None:
            if target_rate is not None:
                raise _too_large(board, budget, options, limit, target_rate)
            break
        chosen, timing = _buffered(model, board, budget, narrower)
    queues, timing = shortest(model, _foldings(chosen), memory_register=board.memory_register)
    for name, depths in queues.items():
        chosen[name] = replace(chosen[name], queues=depths,
                               cost=_add_cost(model, name, depths, board))
    return Plan(board=board, clock_mhz=clock_mhz, overhead=overhead,
                layers=tuple(_layer_plan(model, name, option) for name, option in chosen.items()),
                cycles_per_inference=timing.interval, latency_cycles=timing.latency)


def _buffered(model: Model, board: Board, budget: _Budget,
              chosen: dict[str, _Option]) -> tuple[dict[str, _Option], Timing]:
    """``chosen`` with line buffers long enough that no layer waits where that costs rate.

    As long as the network is slower than its slowest layer, doubles the buffer of a layer that
    goes hungry, if that helps and fits; or else those of all convolutions.
    """
    timing = _timing(model, board, chosen)
    slowest = max(option.cycles for option in chosen.values())
    improves = True
    while improves and timing.interval > slowest:
        improves = False
        hungry = sorted((name for name, cycles in timing.starved.items() if cycles),
                        key=lambda name: -timing.starved[name])
        every = [layer.name for layer in model.layers if isinstance(layer, Convolution)]
        for names, doublings in [*(([name], 1) for name in hungry), (every, 1), (every, 2)]:
            trial = dict(chosen)
            for name in names * doublings:
                trial[name] = _longer(trial[name], board.family)
            if not budget.holds(total(each.cost for each in trial.values())):
                continue
            longer = _timing(model, board, trial)
            if longer.interval < timing.interval:
                chosen, timing, improves = trial, longer, True
                break
    return chosen, timing


def _longer(option: _Option, family: str) -> _Option:
    """The same engine with a line buffer of twice as many rows."""
    folded = option.folded
    assert folded is not None
    rows = 2 * (folded.folding.rows or 1 << ceil_log2(folded.kernel[0] + 1))
    longer = replace(folded, folding=replace(folded.folding, rows=rows))
    accumulator = signed_bits(*sum_range(folded.layer, folded.source.format, folded.offsets))
    return replace(option, folded=longer, cost=engine_cost(longer, family, accumulator))


def _foldings(chosen: Mapping[str, _Option]) -> dict[str, Folding]:
    return {name: option.folded.folding for name, option in chosen.items() if option.folded}


def _timing(model: Model, board: Board, chosen: Mapping[str, _Option]) -> Timing:
    """What is measured with queues that are never full; how deep they must be is seen later."""
    foldings, register = _foldings(chosen), board.memory_register
    queues = None if model.chain else endless(model, foldings, memory_register=register)
    return measure(model, foldings, memory_register=register, queues=queues)


def _additions(model: Model, board: Board,
               options: Mapping[str, list[_Option]]) -> dict[str, list[_Option]]:
    """The one way to compute each addition. Its queues are those of a narrow network for now."""
    if model.chain:
        return {}
    narrow = _foldings({name: some[0] for name, some in options.items()})
    queues = Network(model, narrow, memory_register=board.memory_register).queues
    return {name: [_Option(None, model.tensors[name].size, 0.0,
                           _add_cost(model, name, depths, board), depths)]
            for name, depths in queues.items()}


def _add_cost(model: Model, name: str, depths: tuple[int, int], board: Board) -> Cost:
    layer = next(layer for layer in model.layers if layer.name == name)
    assert isinstance(layer, Add)
    return add_cost(adder(model, layer, depths, pixels=1, register=board.memory_register),
                    board.family)


def _options(model: Model, layer: Layer, board: Board) -> list[_Option]:
    """Every way to compute a layer that is not worse than another in all respects."""
    source, family = model.source(layer), board.family
    if isinstance(layer, MaxPool):
        return [_Option(None, source.size, 0.0, pool_cost(layer, source, family))]
    assert isinstance(layer, (Convolution, Dense))     # what else there is was refused
    height, channels = layer.kernel[0], layer.channels
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    # The least number of lanes for each number of passes.
    lanes = sorted({-(-layer.slots // passes) for passes in range(1, layer.slots + 1)} or {1})
    found = []
    for dsp in (False, True) if maps_to_blocks(layer.format, source.format, family) else (False,):
        accumulator = signed_bits(*sum_range(layer, source.format, code_offsets(
            layer.format, source.format, dsp)))
        for column in (False, True) if height > 1 else (False,):
            for simd in (height * n if column else n for n in divisors):
                for count in lanes:
                    if dsp and count * simd > board.resources.dsp:
                        continue
                    folded = FoldedLayer(layer, source, Folding(count, simd, column, dsp=dsp))
                    found.append(_Option(folded, folded.cycles, folded.utilization,
                                         engine_cost(folded, family, accumulator)))
    return _pareto(found)


def _pareto(options: Iterable[_Option]) -> list[_Option]:
    """Options of which no other is as fast, as cheap in every resource, and as well used."""
    kept: list[_Option] = []
    for option in sorted(options, key=lambda o: (o.cycles, o.cost.lut4, o.cost.bram,
                                                 o.cost.dsp, -o.utilization)):
        if not any(o.cost.lut4 <= option.cost.lut4 and o.cost.bram <= option.cost.bram
                   and o.cost.dsp <= option.cost.dsp
                   and o.utilization >= option.utilization for o in kept):
            kept.append(option)
    return kept


def _choose(options: dict[str, list[_Option]], limit: int,
            budget: _Budget) -> dict[str, _Option] | None:
    """The cheapest option of each layer that keeps to ``limit`` cycles, if all of them fit."""
    fast = {name: [option for option in some if option.cycles <= limit]
            for name, some in options.items()}
    if not all(fast.values()):
        return None
    best = None
    blocks = _BLOCK_RATES if any(o.cost.dsp for some in fast.values() for o in some) else (0,)
    for rate, block in itertools.product(_EXCHANGE_RATES, blocks):
        chosen = {name: min(some, key=lambda o: (
            o.cost.lut4 + rate * o.cost.bram + block * o.cost.dsp, o.cycles))
            for name, some in fast.items()}
        cost = total(option.cost for option in chosen.values())
        if budget.holds(cost) and (best is None or cost.lut4 < best[0]):
            best = cost.lut4, chosen
    return best and best[1]


def _cheapest(options: dict[str, list[_Option]], limit: int, floor: int,
              budget: _Budget) -> dict[str, _Option] | None:
    """The cheapest choice that keeps to ``limit`` cycles, wasting little in the slowest layer.

    Where the cheapest wastes much, a somewhat faster one that does not is taken.
    """
    if limit < floor:
        return None
    best: tuple[tuple[bool, int], dict[str, _Option]] | None = None
    for candidate in [limit, *_limits(options, floor)]:
        if not limit / WORTH <= candidate <= limit:
            continue
        chosen = _choose(options, candidate, budget)
        if chosen is None:
            continue
        rank = (not _wastes_little(chosen, floor),
                total(option.cost for option in chosen.values()).lut4)
        if best is None or rank < best[0]:
            best = rank, chosen
    return best and best[1]


def _wastes_little(chosen: dict[str, _Option], floor: int) -> bool:
    """Whether the slowest layer's lanes nearly always work, or no layer with lanes is slowest."""
    slowest = max(chosen.values(), key=lambda option: option.cycles)
    return (slowest.folded is None or slowest.cycles < floor
            or slowest.utilization >= GOOD_UTILIZATION)


def _limits(options: dict[str, list[_Option]], floor: int) -> list[int]:
    """Every interval at which the set of usable options changes, ascending."""
    return sorted({floor} | {option.cycles for some in options.values() for option in some
                             if option.cycles > floor})


def _fastest(options: dict[str, list[_Option]], floor: int,
             budget: _Budget) -> dict[str, _Option]:
    """The choice with the least interval, or a slightly slower one that wastes less."""
    fastest: tuple[int, dict[str, _Option]] | None = None
    for limit in _limits(options, floor):
        chosen = _choose(options, limit, budget)
        if chosen is None:
            continue
        slowest = max(chosen.values(), key=lambda option: option.cycles)
        if fastest is None:
            fastest = slowest.cycles, chosen
        if _wastes_little(chosen, floor):
            return chosen
        if slowest.cycles > fastest[0] * WORTH:
            break
    assert fastest is not None  # _check_fits has found a choice
    return fastest[1]


def _check_fits(model: Model, board: Board, budget: _Budget,
                options: dict[str, list[_Option]]) -> None:
    """Raise :class:`BuildError` if not even the smallest design fits."""
    least = {name: min(some, key=lambda o: o.cost.lut4) for name, some in options.items()}
    _blame(board, budget.lut4, "logic cells", "lut4", least)
    least = {name: min(some, key=lambda o: o.cost.bram) for name, some in options.items()}
    _blame(board, budget.bram, "block RAMs", "bram", least)
    if _choose(options, max(_limits(options, 0)), budget) is None:
        _blame(board, -1, "logic cells and block RAMs together", "bram", least)


def _blame(board: Board, available: int, what: str, key: str, least: dict[str, _Option]) -> None:
    needs = {name: getattr(option.cost, key) for name, option in least.items()}
    if sum(needs.values()) <= available:
        return
    worst = max(needs, key=lambda name: needs[name])
    have = f"{board.device} leaves {max(available, 0)}" if available >= 0 else \
        f"{board.device} has {board.resources.bram} RAMs"
    raise BuildError(
        f"the model is too large for board {board.name!r}: it needs at least "
        f"{sum(needs.values())} {what} and {have}; this layer alone takes {needs[worst]}",
        layer=worst,
        knob="fewer filters or fewer terms per filter in this layer, or a larger device (--board)")


def _check_reachable(model: Model, board: Board, limit: int, floor: int, rate: float,
                     clock_mhz: float, options: dict[str, list[_Option]]) -> None:
    """Raise :class:`BuildError` if a rate is out of reach on a device of any size."""
    if limit < floor:
        name = max(model.tensors, key=lambda key: model.tensors[key].size)
        raise BuildError(
            f"{rate:g} inferences per second at {clock_mhz:g} MHz leave {limit} cycles each, but "
            f"{floor} values pass through {'the input' if name == INPUT else f'layer {name!r}'}, "
            f"one per cycle",
            knob=f"--target-rate {math.floor(clock_mhz * 1e6 / floor)} or less, or a higher "
                 f"--frequency")
    for name, some in options.items():
        least = min(option.cycles for option in some)
        if least > limit:
            raise BuildError(
                f"{rate:g} inferences per second at {clock_mhz:g} MHz leave {limit} cycles each, "
                f"but this layer takes {least} at its widest", layer=name,
                knob=f"--target-rate {math.floor(clock_mhz * 1e6 / least)} or less, or a higher "
                     f"--frequency, or fewer terms in this layer")


def _too_large(board: Board, budget: _Budget, options: dict[str, list[_Option]], limit: int,
               rate: float) -> BuildError:
    least = {name: min((o for o in some if o.cycles <= limit), key=lambda o: o.cost.lut4)
             for name, some in options.items()}
    cost = total(option.cost for option in least.values())
    worst = max(least, key=lambda name: least[name].cost.lut4)
    return BuildError(
        f"{rate:g} inferences per second need about {cost.lut4} logic cells and {cost.bram} block "
        f"RAMs; board {board.name!r} leaves {budget.lut4} and {budget.bram}; this layer alone "
        f"takes {least[worst].cost.lut4} cells",
        layer=worst, knob="a lower --target-rate (none gives the highest that fits), a higher "
                          "--frequency, or a larger device (--board)")


def _layer_plan(model: Model, name: str, option: _Option) -> LayerPlan:
    layer = next(layer for layer in model.layers if layer.name == name)
    shape = model.tensors[name].shape
    folded = option.folded
    kind = {"Convolution": "convolution", "Dense": "dense", "SumPool": "sum_pool",
            "MaxPool": "max_pool", "Add": "add"}[type(layer).__name__]
    return LayerPlan(
        name=name, type=kind, dataflow="folded" if folded else "streamed",
        folding=folded.folding if folded else None, pixels=shape[0] * shape[1],
        terms=folded.terms if folded else 0, cycles=option.cycles,
        utilization=option.utilization,
        k_histogram=dict(sorted(Counter(layer.k).items())) if isinstance(layer, WeightedLayer)
        else {},
        cost=option.cost, queues=option.queues)
