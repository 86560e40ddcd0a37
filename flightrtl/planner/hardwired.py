"""What a hard-wired layer costs, and what its handshakes do, before synthesis."""

from __future__ import annotations

import math

from ..gateware.hardwired import HardwiredLayer
from .buffer import BufferModel
from .cost import CHAIN_LUT4, Cost
from .memories import memory_cells

__all__ = ["HardwiredCycles", "hardwired_cost", "hardwired_cycles", "loose_registers"]

ADDER_BIT_LUT4 = {"ice40": 1.0, "ecp5": 1.07}
"""For each bit of an adder; ECP5 has them in pairs."""
SUBTRACTED_BIT_LUT4 = {"ice40": 0.75, "ecp5": 0.0}
"""For each bit that is subtracted: an inverter, which may serve several adders."""
CLAMP_LUT4 = 3
WINDOW_LUT4 = 50
INPUT_BIT_LUT4 = 1.4
SERIALIZER_LUT4 = 6
DECOUPLE_LUT4 = 3


def loose_registers(layer: HardwiredLayer) -> int:
    """Flip-flops that follow another one or a memory: on iCE40 each takes a cell of its own."""
    graph = layer.sums.graph
    taps = int((layer.layer.dense_weights != 0).any(axis=0).sum())
    passed = sum(width * (count - (node >= graph.inputs)) for node, (width, count) in enumerate(
        zip(graph.widths, graph.registers(layer.sums.stage), strict=True)) if count)
    return taps * layer.source.format.bits + passed


def hardwired_cost(layer: HardwiredLayer, family: str) -> Cost:
    """Estimate for a hard-wired layer.

    Parameters
    ----------
    layer : HardwiredLayer
        The component: the cost follows from its graph.
    family : str
        ``ice40`` or ``ecp5``.
    """
    weighted, graph, form = layer.layer, layer.sums.graph, layer.source.format
    subtracted = sum(graph.adder_bits(n) for n, adder in enumerate(graph.adders) if adder.subtract)
    totals = [layer.requantizer.total_bits(n) for n in range(weighted.filters)]
    # Of a sum, no register keeps what its shift drops.
    kept = sum(totals) - sum(layer.requantizer.plan(n)[-1] for n in range(weighted.filters))
    outputs = weighted.filters * weighted.output.bits
    bits = layer.channels * form.bits
    lut4 = (ADDER_BIT_LUT4[family] * (graph.lut4 + sum(totals))
            + SUBTRACTED_BIT_LUT4[family] * subtracted + outputs
            + CHAIN_LUT4[family] * (len(graph.adders) + weighted.filters)
            + CLAMP_LUT4 * weighted.filters + WINDOW_LUT4 + INPUT_BIT_LUT4 * bits)
    taps = int((weighted.dense_weights != 0).any(axis=0).sum())
    ff = (graph.register_bits(layer.sums.stage) + graph.latency(layer.sums.stage) + kept + outputs
          + taps * form.bits + 2 * bits + 26)
    if layer.serializer is not None:
        lut4 += layer.pixels * outputs + SERIALIZER_LUT4
        ff += (2 * layer.pixels - 1) * outputs + SERIALIZER_LUT4
    if layer.decouple is not None:
        lut4, ff = lut4 + outputs + DECOUPLE_LUT4, ff + 2 * outputs + 2
    brams = 0
    if weighted.kernel[0] > 1:
        word = (weighted.kernel[0] - 1) * weighted.source_channels * form.bits
        cells, flip_flops, brams = memory_cells(family, layer.source.shape[1], word)
        # A block RAM has the register of the word that is read.
        lut4, ff = lut4 + cells, ff + flip_flops + (0 if brams else word)
    if family == "ice40":
        lut4 += loose_registers(layer)
    return Cost(lut4=round(lut4), ff=ff, bram=brams)


class HardwiredCycles:
    """The handshakes of a :class:`HardwiredLayer`, cycle by cycle.

    See :mod:`flightrtl.planner.cycles`.
    """

    def __init__(self, layer: HardwiredLayer) -> None:
        window = layer.window
        rows, columns = window.rows, window.columns
        # For each position of the raster: whether a pixel is taken there, whether a window ends.
        self.positions = [
            (y < rows.size and x < columns.size, rows.complete(y) and columns.complete(x))
            for y in range(rows.steps) for x in range(columns.steps)]
        self.parts = layer.gatherer.parts
        self.end = layer.sums.graph.latency(layer.sums.stage)
        self.pixels = layer.pixels
        self.serial = layer.serializer.parts if layer.serializer is not None else 0
        self.buffer = BufferModel()                 # of the input
        self.count = self.position = 0              # gatherer, raster
        self.window = False
        self.sums = self.results = 0                # valid bits of the pipelines
        self.gathered = self.left = 0               # serializer
        self.last = True
        self.decouple = BufferModel() if layer.decouple is not None else None
        self.busy = self.starved = 0

    @property
    def out(self) -> bool:
        """``valid`` of the output."""
        return self.left != 0 if self.serial else self._whole

    @property
    def _whole(self) -> bool:
        """Whether a pixel with all its filters is there."""
        return self.results & 2 != 0 if self.decouple is None else self.decouple.out

    def accepts(self, ready: bool) -> bool:
        """``ready`` of the input, which does not depend on that of the output."""
        return self.buffer.ready

    def tick(self, valid: bool, ready: bool) -> None:
        """One clock edge; ``valid`` of the input, ``ready`` of the output before it."""
        # What is combinational, from the output back.
        result = self._whole
        if self.serial:
            free = self.last and (self.left == 0 or ready)
            whole = self.gathered == self.pixels - 1
            takes = not whole or free
        else:
            free = whole = False
            takes = ready
        sum_ = self.sums >> (self.end - 1) & 1 != 0
        if self.decouple is None:
            results_move = not result or takes
            sums_move = not sum_ or results_move
            window_moves = not self.window or sums_move
        else:
            offered = self.results & 2 != 0
            results_move = sums_move = window_moves = not offered or self.decouple.ready
            self.decouple.tick(offered, takes)
        real, ends = self.positions[self.position]
        joined = self.count == self.parts - 1
        pixel = self.buffer.out and joined
        steps = window_moves and (pixel or not real)
        taken = not joined or (window_moves and real)
        self.busy += steps
        self.starved += window_moves and not steps

        # Serializer.
        if self.serial:
            if self.left and ready:
                self.last = self.left == 2 or self.last
                self.left -= 1
            if result and takes:
                self.gathered = 0 if whole else self.gathered + 1
                if whole:
                    self.left, self.last = self.serial, self.serial == 1
        # Pipelines.
        if results_move:
            self.results = (self.results << 1 | sum_) & 3
        if sums_move:
            self.sums = (self.sums << 1 | self.window) & ((1 << self.end) - 1)
        if window_moves:
            self.window = steps and ends
        if steps:
            self.position = (self.position + 1) % len(self.positions)
        # Gatherer and buffer.
        if self.buffer.out and taken:
            self.count = 0 if joined else self.count + 1
        self.buffer.tick(valid, taken)


def hardwired_cycles(layer: HardwiredLayer) -> int:
    """Cycles between two images of a layer that never waits for others.

    Counted: where a row of results takes longer to leave than a row of the image to pass, the rows
    without results do not make up for it.
    """
    cycles = HardwiredCycles(layer)
    size = math.prod(layer.layer.output_shape(layer.source.shape)) // (layer.pixels * layer.filters)
    ends: list[int] = []
    count = cycle = 0
    while len(ends) < 3:
        if cycles.out:
            count += 1
            if count % size == 0:
                ends.append(cycle)
        cycles.tick(True, True)
        cycle += 1
    return ends[2] - ends[1]
