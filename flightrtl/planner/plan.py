"""A plan: how each layer is computed, how fast that is, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..boards import Board
from ..gateware.flash import Flash
from ..gateware.folding import Folding
from ..gateware.framing import Framed
from ..gateware.transfers import LayerChoice
from .cost import Cost, total

__all__ = ["LayerPlan", "Plan"]


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """One layer of a plan.

    Parameters
    ----------
    name : str
        The layer's name in the model.
    type : {"convolution", "dense", "max_pool", "sum_pool", "add"}
        What it is.
    dataflow : {"folded", "frame", "hard-wired", "streamed"}
        Computed on a folded engine, on one that reads each weight once
        (:mod:`flightrtl.gateware.frameengine`), by a graph of adders
        (:mod:`flightrtl.gateware.hardwired`), or on the fly as values pass (pooling, additions).
    folding : Folding, Framed, Hardwired or None
        Lanes and SIMD of the engine, or how the layer is hard-wired.
    pixels : int
        Output pixels of one inference.
    terms : int
        Term-by-activation products of one inference.
    cycles : int
        Cycles in which the layer is busy for one inference; of a streamed one, the values that
        it reads (an addition, in pairs).
    utilization : float
        Share of the lane-cycles in ``cycles`` that do a real term's work; of a hard-wired layer,
        share of its cycles that give an output pixel; 0 if it is streamed.
    k_histogram : mapping of int to int
        How many filters have how many terms per weight.
    cost : Cost
        Estimate for its engine, or for what else computes it.
    buffer_bits : int
        Of the input rows or maps, partial sums and results that it keeps on chip; those of
        poolings are not counted.
    weight_read_bits : int
        Of weights that it reads from memory for one inference.
    queues : tuple of int, optional
        Of an addition or concatenation: depths of the queues before its operands.
    """

    name: str
    type: str
    dataflow: str
    folding: LayerChoice | None
    pixels: int
    terms: int
    cycles: int
    utilization: float
    k_histogram: Mapping[int, int]
    cost: Cost
    buffer_bits: int = 0
    weight_read_bits: int = 0
    queues: tuple[int, ...] | None = None

    @property
    def lanes(self) -> int:
        """Slots computed at the same time; 1 without an engine."""
        return self.folding.lanes if isinstance(self.folding, (Folding, Framed)) else 1

    @property
    def simd(self) -> int:
        """Inputs that each lane takes per cycle; 1 without an engine."""
        return self.folding.simd if isinstance(self.folding, (Folding, Framed)) else 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is decided before synthesis.

    Parameters
    ----------
    board : Board
        What it is for.
    clock_mhz : float
        Clock of the design, MHz: what the PLL really gives for the frequency asked for.
    layers : tuple of LayerPlan
        In the model's order.
    overhead : mapping of str to Cost
        What is there besides the layers: clock and reset, serial port, host link.
    cycles_per_inference : int
        Interval between inferences when images are fed without a gap, from the cycle model.
    latency_cycles : int
        Cycles from an image's first value to its last logit, in an idle pipeline whose input
        never pauses; from the cycle model.
    """

    board: Board
    clock_mhz: float
    layers: tuple[LayerPlan, ...]
    overhead: Mapping[str, Cost]
    cycles_per_inference: int
    latency_cycles: int

    @property
    def foldings(self) -> dict[str, LayerChoice]:
        """What was chosen for every weighted layer by name, as ``Network`` takes it."""
        return {layer.name: layer.folding for layer in self.layers if layer.folding}

    @property
    def flash(self) -> tuple[str, Flash] | None:
        """The layer whose weights are in the board's flash, and where they are there."""
        return next(((layer.name, layer.folding.flash) for layer in self.layers
                     if isinstance(layer.folding, Framed) and layer.folding.flash), None)

    @property
    def queues(self) -> dict[str, tuple[int, ...]]:
        """Depths of the queues before what joins maps, by name, as ``Network`` takes them."""
        return {layer.name: layer.queues for layer in self.layers if layer.queues is not None}

    @property
    def cost(self) -> Cost:
        """Estimate for the whole design."""
        return total([*(layer.cost for layer in self.layers), *self.overhead.values()])

    @property
    def inferences_per_second(self) -> float:
        """Rate of the network when images are fed without a gap."""
        return self.clock_mhz * 1e6 / self.cycles_per_inference

    @property
    def slowest(self) -> LayerPlan:
        """The layer that sets the rate."""
        return max(self.layers, key=lambda layer: layer.cycles)
