# amaranth: UnusedElaboratable=no
# (Hard-wired layers are made for their numbers, not to become hardware.)
"""Every way to compute one layer that is not worse than another in all respects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ..boards import Board
from ..formats import signed_bits
from ..gateware.engine import accumulator_bits, sum_range
from ..gateware.flash import Flash
from ..gateware.folding import FoldedLayer, Folding
from ..gateware.framing import Framed, FramedLayer
from ..gateware.hardwired import Hardwired, HardwiredLayer
from ..gateware.pool import pooled_pixels
from ..gateware.transfers import LayerChoice
from ..loadable import LoadableModel
from ..model import INPUT, Convolution, Dense, Join, Layer, MaxPool, Model, WeightedLayer
from .cost import Cost
from .engine import engine_cost, maps_to_blocks
from .frame import frame_cost
from .hardwired import hardwired_cost, hardwired_cycles

__all__ = ["Option", "feeders", "folded_options", "framed_option", "framed_options",
           "hardwired_options", "pixel_groups", "takes_single_pixels"]

_LARGE = 4
"""Times the device: what is larger still is no option."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to compute one layer.

    Parameters
    ----------
    cycles : int
        In which it is busy for one inference, or its stream if that takes longer.
    utilization : float
        Share of the lane-cycles that do a real term's work, or of the cycles of a hard-wired layer
        that give an output pixel; 0 without weights.
    cost : Cost
        Estimate.
    folded : FoldedLayer, optional
        The layer and its folding, if it is computed on an engine.
    hardwired : Hardwired, optional
        How it is hard-wired, if it is.
    buffer_bits : int
        Of the image rows that it keeps; those of poolings are not counted.
    framed : FramedLayer, optional
        The layer and how each of its weights is read once, if it is computed so.
    """

    cycles: int
    utilization: float
    cost: Cost
    folded: FoldedLayer | None = None
    hardwired: Hardwired | None = None
    buffer_bits: int = 0
    framed: FramedLayer | None = None

    @property
    def choice(self) -> LayerChoice | None:
        """What :class:`~flightrtl.gateware.Network` takes for the layer; None without weights."""
        if self.framed is not None:
            return self.framed.framed
        return self.folded.folding if self.folded else self.hardwired


def pixel_groups(model: Model) -> list[tuple[tuple[str, ...], list[int]]]:
    """Layers with weights that must give as many pixels at a time, and how many that can be.

    Operands of what joins maps must agree; a pooling takes what fits its windows; the logits leave
    one by one. Where an operand comes out of a pooling or is the image, it is one pixel.
    """
    layers = {layer.name: layer for layer in model.layers}
    takers: dict[str, list[Layer]] = {}
    for layer in model.layers:
        for name in layer.inputs:
            takers.setdefault(name, []).append(layer)
    leader: dict[str, str] = {}     # of the group that an operand's number of pixels is set by
    single = {_setter(layers, model.layers[-1].name)}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for layer in model.layers:
        if isinstance(layer, Join):
            setters = [_setter(layers, name) for name in layer.inputs]
            for name, given in zip(setters, layer.inputs, strict=True):
                if name == INPUT or name != _setter(layers, given, through_pools=False):
                    single.update(setters)
            for setter in setters[1:]:
                leader[find(setters[0])] = find(setter)
        elif isinstance(layer, WeightedLayer):
            find(layer.name)
    alone = {find(name) for name in single if name != INPUT} | {find(INPUT)}
    groups: dict[str, list[str]] = {}
    for layer in model.layers:
        if isinstance(layer, WeightedLayer):
            groups.setdefault(find(layer.name), []).append(layer.name)
    result = []
    for lead, names in groups.items():
        counts = [1]
        if lead not in alone:
            columns = model.tensors[names[0]].shape[1]
            counts = [count for count in range(1, columns + 1) if columns % count == 0
                      and all(_taken(takers, name, count) for name in names)]
        result.append((tuple(names), counts))
    return result


def feeders(model: Model, name: str) -> set[str]:
    """Layers with weights whose pixels at a time are those that a layer is fed."""
    layers = {layer.name: layer for layer in model.layers}
    return {_setter(layers, edge) for edge in layers[name].inputs} - {INPUT}


def _setter(layers: Mapping[str, Layer], name: str, *, through_pools: bool = True) -> str:
    """The layer with weights (or the image) whose pixels a result has, or follow from."""
    while name != INPUT:
        layer = layers[name]
        if isinstance(layer, WeightedLayer) or (isinstance(layer, MaxPool) and not through_pools):
            return name
        name = layer.inputs[0]
    return name


def _taken(takers: Mapping[str, Sequence[Layer]], name: str, pixels: int) -> bool:
    """Whether all that takes a result can take as many pixels at a time."""
    for layer in takers.get(name, ()):
        after: int | None = pixels
        if isinstance(layer, WeightedLayer):
            continue
        if isinstance(layer, MaxPool):
            after = pooled_pixels(pixels, layer.kernel[1], layer.stride[1])
        if after is None or not _taken(takers, layer.name, after):
            return False
    return True


def folded_options(model: Model, layer: Convolution | Dense, pixels: int,
                   board: Board) -> list[Option]:
    """The foldings of a layer for some output pixels at a time, those worth a thought.

    Left out is what takes more multiplier blocks than there are, or is many times as large as
    the device: somewhat larger ones are kept, so that a message can say by how much.

    Parameters
    ----------
    pixels : int
        ``M``.
    board : Board
        What it is for.
    """
    source, family = model.source(layer), board.family
    capacity = model.capacities.get(layer.name) if isinstance(model, LoadableModel) else None
    height, divisors, lanes = layer.kernel[0], _divisors(layer.channels), _lanes(layer.slots)
    transfers = model.tensors[layer.name].size // pixels
    found: list[Option] = []
    for dsp in (False, True) if maps_to_blocks(layer.format, source.format, family) else (False,):
        accumulator = 0
        for column in (False, True) if height > 1 else (False,):
            for simd in (height * n if column else n for n in divisors):
                for count in lanes:
                    if dsp and count * simd * pixels > board.resources.dsp:
                        break
                    folded = FoldedLayer(layer, source, Folding(count, simd, column, dsp=dsp,
                                                                pixels=pixels), 1, capacity)
                    # Found with the first folding: it is the same for all.
                    accumulator = accumulator or accumulator_bits(folded)
                    cost = engine_cost(folded, family, accumulator)
                    if found and cost.lut4 > _LARGE * board.resources.lut4:
                        break           # more lanes are larger still
                    found.append(Option(
                        folded=folded, cycles=max(folded.cycles, transfers),
                        utilization=folded.utilization, cost=cost,
                        buffer_bits=folded.buffer_bits))
    return _pareto(found)


def framed_options(model: Model, layer: Convolution | Dense, board: Board,
                   flash: Flash | None = None) -> list[Option]:
    """The layer with each weight read once: every width, and with room for one frame or two.

    Parameters
    ----------
    board : Board
        What it is for.
    flash : Flash, optional
        Where its weights are, if not in block RAM. Left out is what has no room there.
    """
    room = board.flash.bytes - board.flash.address if board.flash else 0
    source, register = model.source(layer), board.memory_register
    width = 0
    lanes = _lanes(layer.slots)
    found: list[Option] = []
    for simd in _divisors(layer.channels):
        for count in lanes:
            for frames in (1, 2):
                framed = FramedLayer(layer, source, Framed(count, simd, frames, flash=flash),
                                     register)
                if flash and framed.passes * framed.words * -(-framed.word_bits // 8) > room:
                    continue
                # Found with the first one: it is the same for all.
                width = width or _accumulator(framed)
                option = framed_option(framed, board.family, width)
                if found and option.cost.lut4 > _LARGE * board.resources.lut4:
                    break           # more lanes are larger still
                found.append(option)
    return _pareto(found)


def framed_option(framed: FramedLayer, family: str, width: int = 0) -> Option:
    """One way to read each weight of a layer once; ``width`` bits of a sum, if they are known."""
    width = width or _accumulator(framed)
    return Option(framed=framed, cycles=max(framed.cycles, framed.pixels * framed.layer.filters),
                  utilization=framed.utilization, cost=frame_cost(framed, family, width),
                  buffer_bits=framed.buffer_bits(width))


def _accumulator(framed: FramedLayer) -> int:
    return signed_bits(*sum_range(framed.layer, framed.source.format, framed.offsets))


def takes_single_pixels(model: Model, name: str) -> bool:
    """Whether a layer is fed pixel by pixel whatever is chosen for the others.

    A hard-wired layer must be. That is so where no layer with weights is before it.
    """
    layers = {layer.name: layer for layer in model.layers}
    return _setter(layers, layers[name].inputs[0]) == INPUT


def hardwired_options(model: Model, layer: Convolution | Dense, pixels: int,
                      board: Board) -> list[Option]:
    """The layer hard-wired, if it is not many times as large as the device.

    Parameters
    ----------
    pixels : int
        Of a transfer of the result.
    board : Board
        What it is for.
    """
    if (layer.weights != 0).sum() > board.resources.lut4:   # each is a cell at least
        return []
    chosen = Hardwired(pixels)
    made = HardwiredLayer(layer, model.source(layer), channels=1, filters=1, pixels=pixels,
                        register=board.memory_register)
    cost = hardwired_cost(made, board.family)
    if cost.lut4 > _LARGE * board.resources.lut4:
        return []
    rows, columns = model.tensors[layer.name].shape[:2]
    cycles = hardwired_cycles(made)
    return [Option(hardwired=chosen, cycles=cycles, utilization=rows * columns / cycles, cost=cost,
                   buffer_bits=made.window.memory_bits)]


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _lanes(slots: int) -> list[int]:
    """The least number of lanes for each number of passes."""
    return sorted({-(-slots // passes) for passes in range(1, slots + 1)} or {1})


def _pareto(options: Iterable[Option]) -> list[Option]:
    """Options of which no other is as fast, as cheap in all resources, and as well used."""
    kept: list[Option] = []
    ordered = sorted(options, key=_rank)
    for _, same in groupby(ordered, key=_rank):
        option = next(same)
        if not any(o.cost.lut4 <= option.cost.lut4 and o.cost.bram <= option.cost.bram
                   and o.cost.dsp <= option.cost.dsp
                   and o.utilization >= option.utilization for o in kept):
            kept.append(option)
    return kept


def _rank(option: Option) -> tuple[int, int, int, int, float]:
    return (option.cycles, option.cost.lut4, option.cost.bram, option.cost.dsp,
            -option.utilization)
