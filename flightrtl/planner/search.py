"""The search for a plan: the best choice of every layer's option for one rate, and for many."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from ..boards import Board
from ..errors import BuildError, UserError
from ..gateware.clocking import solve
from ..gateware.network import require_supported
from ..loadable import LoadableModel
from ..model import Convolution, Dense, Model, WeightedLayer
from .cost import Cost, enables_cost, forks_cost, system_costs, total
from .cycles import Timing
from .designs import Budget, Design, DesignSpace
from .frame import board_flash
from .options import Option
from .plan import LayerPlan, Plan
from .queues import shortest

__all__ = ["DATAFLOWS", "FrontPoint", "front", "plan"]

DATAFLOWS = "mixed", "folded", "frame"

_TRIES = 4
"""Slower designs tried where the fastest that seems to fit does not."""

_LONG = 200_000
"""Layers times cycles from which a percent of the rate is not worth further runs of the cycle
model, each of which takes seconds."""


def plan(model: Model, board: Board, frequency: float | None = None,
         target_rate: float | None = None, dataflow: str = "mixed",
         flash: str | None = None) -> Plan:
    """The plan for a model on a board.

    Without ``target_rate`` it aims at the board's ``default_rate``, and where that cannot be
    reached (or there is none) at the highest rate that fits in its ``default_fill``. Among plans
    of equal rate the cheapest is taken, so that a layer is no wider than the slowest one lets it
    be.

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
    dataflow : {"mixed", "folded", "frame"}
        Whether each layer gets the data flow that suits it (see
        :attr:`~flightrtl.planner.plan.LayerPlan.dataflow`), or all with weights a folded engine,
        or all but grouped convolutions one that reads each weight once per image.
    flash : str, optional
        A layer that reads its weights from the board's flash, each once per image; or "auto":
        where the model does not fit otherwise, the one with the fewest weights for which it does.

    Raises
    ------
    UserError
        For a frequency or rate that is not a positive number, another data flow, a layer that
        cannot take its weights from a flash, a board without one, or a model that
        has layers without hardware (:class:`~flightrtl.modelfile.ModelError`).
    BuildError
        If the model does not fit, or the rate cannot be reached; names the layer and the knob.
    """
    if target_rate is not None and not (math.isfinite(target_rate) and target_rate > 0):
        raise UserError(f"the target rate must be above 0 inferences per second, "
                        f"not {target_rate:g}")
    if dataflow not in DATAFLOWS:
        raise UserError(f"the data flow must be one of {', '.join(DATAFLOWS)}, not {dataflow!r}")
    share = board.default_fill if target_rate is None else board.fill
    search, clock_mhz, overhead = _space(model, board, frequency, share, dataflow, flash)

    wanted = target_rate or board.default_rate
    limit = search.floor if wanted is None else math.floor(clock_mhz * 1e6 / wanted)
    if target_rate is not None:
        search.check_reachable(limit, target_rate, clock_mhz)
    design = search.cheapest(limit) if wanted is not None else None
    if design is None and target_rate is not None:
        raise search.too_large(limit, target_rate)
    reachable = design is not None
    if design is None:
        design = search.fastest()
    if reachable:
        design, timing, missed = _keeping_to(search, design, limit)
        if missed is not None and target_rate is not None:
            raise search.too_slow(limit, missed, target_rate, timing.interval, clock_mhz)
    else:
        design, timing = search.buffered(design, _enough(search, design, design.slowest.cycles))
    queues, timing = shortest(model, design.foldings, timing,
                              memory_register=board.memory_register)
    design = search.complete(design.options, queues)
    return Plan(board=board, clock_mhz=clock_mhz, overhead=overhead,
                layers=tuple(_layer_plan(model, name, option, queues.get(name))
                             for name, option in design.options.items()),
                cycles_per_inference=timing.interval, latency_cycles=timing.latency)


def _enough(search: DesignSpace, design: Design, limit: int) -> int:
    """For how long an interval buffers are made longer."""
    if limit * len(search.model.layers) > _LONG:
        return max(limit, design.slowest.cycles * 101 // 100)
    return limit


def _keeping_to(search: DesignSpace, design: Design,
                limit: int) -> tuple[Design, Timing, int | None]:
    """``design`` with the buffers that it needs, or a wider one: the whole keeps to a limit.

    Layers as slow as the limit allows may still wait for each other: they are made faster until
    the interval is right. If there is no room for that, the third is how fast they would have had
    to be, and the others are the last that was tried.
    """
    design, timing = search.buffered(design, _enough(search, design, limit))
    tighter = limit
    while timing.interval > limit:
        tighter = min(tighter * limit // timing.interval, tighter - 1)
        narrower = search.cheapest(tighter)
        if narrower is None:
            return design, timing, tighter
        design, timing = search.buffered(narrower, limit)
    return design, timing, None


@dataclass(frozen=True)
class FrontPoint:
    """A design that no other one beats in rate and in logic cells.

    Parameters
    ----------
    cycles : int
        Of its slowest layer for one inference, or of the whole where layers wait for each other and
        the device is nearly full. A plan for the rate keeps to it, perhaps with longer buffers.
    rate : float
        Inferences per second that this gives.
    cost : Cost
        Estimate for the whole design.
    """

    cycles: int
    rate: float
    cost: Cost


def front(model: Model, board: Board, frequency: float | None = None,
          points: int = 16, dataflow: str = "mixed",
          flash: str | None = None) -> list[FrontPoint]:
    """Designs from the smallest to the fastest that fits, evenly spaced in their rates' logarithm.

    Each is one that :func:`plan` finds for its rate.

    Parameters
    ----------
    model, board, frequency, dataflow, flash
        As for :func:`plan`.
    points : int
        At most.

    Raises
    ------
    UserError, BuildError
        As :func:`plan`.
    """
    space, clock_mhz, overhead = _space(model, board, frequency, board.fill, dataflow, flash)
    spent = total(overhead.values())
    fastest, smallest = space.fastest(), space.choose(max(space.choice.limits(0)))
    assert smallest is not None         # _space has found a choice
    low, high = (max(design.slowest.cycles, space.floor) for design in (fastest, smallest))
    limits = {round(low * (high / low) ** (n / max(points - 1, 1))) for n in range(points)}
    found: list[FrontPoint] = []
    for limit in sorted(limits | {low}):
        if (point := _point(space, limit)) is None:
            continue
        cycles, cost = point
        if not found or (cost.lut4 + spent.lut4 < found[-1].cost.lut4
                         and cycles > found[-1].cycles):
            found.append(FrontPoint(cycles, clock_mhz * 1e6 / cycles, total([cost, spent])))
    return found[::-1]


def _point(space: DesignSpace, limit: int) -> tuple[int, Cost] | None:
    """Cycles of the cheapest layers that keep to ``limit``, and what they cost.

    A fast design that takes nearly all of the device is tried as a plan: where its layers wait for
    each other and there is no room for longer buffers, it is a somewhat slower one.
    """
    design = space.choose(limit)
    if design is None:
        return None
    cycles = max(design.slowest.cycles, space.floor)
    if not space.budget.nearly_full(design.cost) or cycles * len(design.options) > _LONG:
        return cycles, design.cost
    for _ in range(_TRIES):
        cheapest = space.cheapest(cycles)
        if cheapest is None:
            break
        design, timing, missed = _keeping_to(space, cheapest, cycles)
        if missed is None:
            return cycles, design.cost
        cycles = max(timing.interval, cycles + 1)
    return None


def _space(model: Model, board: Board, frequency: float | None, share: float,
           dataflow: str = "mixed",
           flash: str | None = None) -> tuple[DesignSpace, float, dict[str, Cost]]:
    """All designs that take no more than a share of the board's logic cells.

    With the clock that the PLL gives (MHz), and the cost of what is there besides the layers.
    """
    require_supported(model)
    pll = solve(board, frequency)
    clock_mhz = float(pll.mhz) if pll else board.clock.input_mhz
    overhead = system_costs(model, board)
    if (enables := enables_cost(model, board)).lut4:
        overhead["enables"] = enables
    if not model.chain:
        overhead["forks"] = forks_cost(model)
    spent = total(overhead.values())
    budget = Budget(int(board.resources.lut4 * share) - spent.lut4,
                    board.resources.bram - spent.bram, board.resources.dsp - spent.dsp)

    def fits(layer: str | None) -> DesignSpace:
        source = (layer, board_flash(board.flash, clock_mhz)) if layer and board.flash else None
        space = DesignSpace(model, board, budget, dataflow, source)
        space.check_fits()
        return space

    candidates = _flash_layers(model, board, flash)
    if flash != "auto":
        return fits(flash), clock_mhz, overhead
    why: BuildError | None = None
    for name in (None, *candidates):
        try:
            return fits(name), clock_mhz, overhead
        except BuildError as error:
            why = error
    raise why or AssertionError


def _flash_layers(model: Model, board: Board, flash: str | None) -> list[str]:
    """Layers that may take their weights from the board's flash, those with the fewest first."""
    if flash is None:
        return []
    if board.flash is None:
        raise UserError(f"board {board.name!r} has no flash for weights: add [flash] to its file "
                        "(docs/boards.md), or leave out --flash")
    if isinstance(model, LoadableModel):
        raise UserError("weights in a flash are no part of a design whose weights can be replaced: "
                        "leave out --weights, or --flash")
    bits = {layer.name: layer.terms.size * layer.format.code_bits for layer in model.layers
            if isinstance(layer, (Convolution, Dense)) and layer.groups == 1}
    if flash != "auto" and flash not in bits:
        raise UserError(f"--flash takes one layer, convolution or dense and without groups: auto "
                        f"or {', '.join(bits)}, not {flash!r}")
    return sorted(bits, key=lambda name: bits[name])


def _layer_plan(model: Model, name: str, option: Option,
                queues: tuple[int, ...] | None) -> LayerPlan:
    layer = next(layer for layer in model.layers if layer.name == name)
    shape = model.tensors[name].shape
    folded, engine = option.folded, option.framed or option.folded
    kind = {"Convolution": "convolution", "Dense": "dense", "SumPool": "sum_pool",
            "MaxPool": "max_pool", "Add": "add", "Concat": "concat"}[type(layer).__name__]
    return LayerPlan(
        name=name, type=kind,
        dataflow=("frame" if option.framed else "folded" if folded
                  else "hard-wired" if option.hardwired else "streamed"),
        folding=option.choice, pixels=shape[0] * shape[1],
        terms=(layer.slots * layer.taps * shape[0] * shape[1]
               if isinstance(layer, WeightedLayer) else 0),
        cycles=option.cycles,
        utilization=option.utilization,
        k_histogram=dict(sorted(Counter(layer.k).items())) if isinstance(layer, WeightedLayer)
        else {},
        cost=option.cost, buffer_bits=option.buffer_bits,
        weight_read_bits=engine.weight_read_bits if engine else 0, queues=queues)
