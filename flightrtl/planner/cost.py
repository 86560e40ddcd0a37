"""What components cost, estimated before synthesis.

Engines are in :mod:`flightrtl.planner.engine`, hard-wired layers in :mod:`.hardwired`, those with
frame buffers in :mod:`.frame`; here is all the rest. Flip-flops are counted from the gateware's
structure; the named constants were fitted to synthesis (Yosys 0.70, ``-abc9``, ECP5 with
``-nowidelut``) and to what nextpnr packs of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from amaranth.utils import ceil_log2

from ..boards import Board
from ..gateware.concat import ChannelConcat
from ..gateware.fold import windows_along
from ..gateware.link import Layout
from ..gateware.queue import StreamQueue
from ..gateware.residual import ResidualAdd
from ..loadable import LoadableModel
from ..model import MaxPool, Model, SumPool, TensorType, WeightedLayer
from ..protocol import Frame, link_problems, value_bytes
from .memories import memory_brams, memory_cells

__all__ = ["CHAIN_LUT4", "Cost", "enables_cost", "forks_cost", "join_cost", "pool_cost",
           "queue_cost", "registered", "system_costs", "total"]


@dataclass(frozen=True)
class Cost:
    """Estimated use of a device.

    Parameters
    ----------
    lut4 : int
        Logic cells, as nextpnr counts them.
    ff : int
        Flip-flops.
    bram, spram, dsp : int
        Block RAMs, single-port RAMs, multiplier blocks.
    """

    lut4: int = 0
    ff: int = 0
    bram: int = 0
    spram: int = 0
    dsp: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.lut4 + other.lut4, self.ff + other.ff, self.bram + other.bram,
                    self.spram + other.spram, self.dsp + other.dsp)


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of ``costs``."""
    return sum(costs, Cost())


def registered(family: str, flip_flops: int, gates: float = 0) -> Cost:
    """Flip-flops, and LUT4s that feed none of them.

    On iCE40 a flip-flop takes a logic cell whether or not a LUT4 feeds it; on ECP5 LUT4s are
    counted alone, and ``gates`` are all of them.
    """
    return Cost(lut4=round(gates) + (flip_flops if family == "ice40" else 0), ff=flip_flops)


CHAIN_LUT4 = {"ice40": 0, "ecp5": 4}
"""For each carry chain: on ECP5 a carry gets into it and out of it through cells of its own."""

# Fitted to poolings in whole designs.
POOL_LUT4 = {"ice40": 0, "ecp5": 24}
"""Handshakes of a pooling layer, and per bit of its counters and addresses:"""
POOL_COUNTER_LUT4 = {"ice40": 0.7, "ecp5": 1.0}
POOL_BIT_LUT4 = 3.0
"""Per bit of what is kept for a window: a comparison or an addition, and two choices."""


def pool_cost(layer: MaxPool | SumPool, source: TensorType, family: str, pixels: int = 1) -> Cost:
    """Estimate for a pooling layer: a row of partial results, a comparison or an addition.

    ``pixels`` arrive at a time; those of a window are compared or added first.
    """
    height, width, channels = source.shape
    kernel, stride, bits = layer.kernel, layer.stride, source.format.bits
    value, result, kept = bits, bits, bits
    if isinstance(layer, SumPool):
        result = layer.output.bits
        kept = (math.prod(kernel) * source.format.max + abs(layer.bias)).bit_length()
    outputs = max(1, pixels // kernel[1]) if pixels > 1 else 1
    folds = []
    if kernel[1] > stride[1]:       # windows overlap in a row: it is folded first
        if isinstance(layer, SumPool):
            value = (kernel[1] * source.format.max).bit_length()
        folds.append(_fold_cost((width, 1, channels), (kernel[1], 1), (stride[1], 1), bits, value,
                                value, family))
        width, kernel, stride = layer.output_shape(source.shape)[1], (kernel[0], 1), (stride[0], 1)
    across = max(1, kernel[1] // pixels), max(1, stride[1] // pixels)
    folds.append(_fold_cost(
        (height, max(1, width // pixels), channels), (kernel[0], across[0]),
        (stride[0], across[1]), value * outputs, kept * outputs, result * outputs, family))
    return total([*folds, Cost(lut4=2 * bits * (pixels - outputs))])


def _fold_cost(shape: tuple[int, int, int], kernel: tuple[int, int], stride: tuple[int, int],
               value: int, kept: int, result: int, family: str) -> Cost:
    """Of a :class:`~flightrtl.gateware.fold.WindowFold`, by the bits of what goes through it."""
    height, width, channels = shape
    word = kept * -(-kernel[0] // stride[0])
    depth = windows_along(width, kernel[1], stride[1]) * channels
    counters = sum(ceil_log2(n) for n in (channels, width, stride[1], height, stride[0]))
    counters += 3 * ceil_log2(depth)
    cells, flip_flops, brams = memory_cells(family, depth, word)
    # What the memory gave; where the same word is needed again at once, what was written too.
    flip_flops += (0 if brams else word) + (word + 1) * (channels == 1)
    gates = (POOL_LUT4[family] + POOL_COUNTER_LUT4[family] * counters + POOL_BIT_LUT4 * word
             + word * (channels == 1))
    return registered(family, counters + 4 + value + result + flip_flops, gates + cells) + Cost(
        bram=brams)


# Fitted to queues and additions alone (``python -m benchmarks components``).
QUEUE_LUT4 = {"ice40": 10, "ecp5": 20}
"""Flags of a queue, and per bit of an address, of which it has two:"""
QUEUE_ADDRESS_LUT4 = {"ice40": 1.6, "ecp5": 3.6}
FORK_LUT4 = 3
"""Per output of a fork."""
ADD_BIT_LUT4 = 1.0
"""Per bit of the sum, and per bit of the result if it is clamped:"""
ADD_CLAMP_LUT4 = 1.2


def queue_cost(depth: int, width: int, family: str, *, register: bool) -> Cost:
    """Estimate for a queue of ``depth`` transfers of ``width`` bits; 0 for none."""
    if depth <= 2:
        return (registered(family, 2 * width + 2, 3 + width * (family == "ecp5")) if depth
                else Cost())
    words = StreamQueue.words_of(depth, register)
    address = (words - 1).bit_length()
    lut4, ff, bram = memory_cells(family, words, width)
    flip_flops = 2 * address + 3 + register + width * (register + (not bram))
    flags = registered(family, flip_flops,
                       QUEUE_LUT4[family] + QUEUE_ADDRESS_LUT4[family] * address)
    return flags + Cost(lut4=round(lut4), ff=ff, bram=bram)


CONCAT_LUT4 = 7
"""Control of a concatenation, per bit of its counters, and per bit and further operand:"""
CONCAT_COUNTER_LUT4 = 1.0
CONCAT_BIT_LUT4 = 1.0


def join_cost(join: ResidualAdd | ChannelConcat, family: str) -> Cost:
    """Estimate for an addition or a concatenation, with the queues before its operands."""
    own = _add_cost(join, family) if isinstance(join, ResidualAdd) else _concat_cost(join)
    return total([own, *(queue_cost(depth, form.bits * join.values, family,
                                    register=join.register)
                         for depth, form in zip(join.depths, join.formats, strict=True))])


def _add_cost(add: ResidualAdd, family: str) -> Cost:
    low, high = add.total_range
    clamps = low >> add.shift < add.output.min or high >> add.shift > add.output.max
    bits = add.output.bits
    gates = (ADD_BIT_LUT4 * add.total_width + ADD_CLAMP_LUT4 * bits * clamps
             + CHAIN_LUT4[family])
    return registered(family, (add.total_width + bits) * add.values + 2, gates * add.values + 3)


def _concat_cost(concat: ChannelConcat) -> Cost:
    bits, operands = concat.output.bits, len(concat.formats)
    counters = (max(concat.channels) - 1).bit_length() + (operands - 1).bit_length()
    rounds = concat.bias % (1 << concat.shift) != 0
    value = (CONCAT_BIT_LUT4 * bits * (operands - 1)
             + (ADD_BIT_LUT4 * rounds + ADD_CLAMP_LUT4 * concat.clamps) * bits)
    return Cost(lut4=round(CONCAT_LUT4 + CONCAT_COUNTER_LUT4 * counters + value * concat.values),
                ff=counters + bits * concat.values + 1)


def forks_cost(model: Model) -> Cost:
    """Estimate for what hands results on to several layers."""
    edges = [edge for layer in model.layers for edge in layer.inputs]
    outputs = sum(count for edge in set(edges) if (count := edges.count(edge)) > 1)
    return Cost(lut4=FORK_LUT4 * outputs, ff=outputs)


CLOCK_LUT4 = {"ice40": 24, "ecp5": 19}
LINK_LUT4 = {"ice40": 205, "ecp5": 314}
"""The link's logic but for what feeds a flip-flop on iCE40, and what the pins take."""
LINK_FF = 93
"""Of the link: states, checksum, shift registers and flags."""
ARGMAX_LUT4 = 12
"""The search for the winner, and per bit of a logit, whose comparison is a carry chain:"""
ARGMAX_BIT_LUT4 = 1.0
LINK_ENABLES_LUT4 = 32
ENGINE_ENABLES_LUT4 = 15
POOL_ENABLES_LUT4 = 8
"""What link, engines and poolings have more with ``-dffe_min_ce_use 16`` than with 4."""
_LEAST_ENABLED = re.compile(r"-dffe_min_ce_use (\d+)")
# From whole designs with and without it.
LOAD_LUT4 = {"ice40": 65, "ecp5": 65}
"""What the link has more where weights can be loaded, and each layer's memories:"""
LOAD_LAYER_LUT4 = {"ice40": 15, "ecp5": 17}


def system_costs(model: Model, board: Board) -> dict[str, Cost]:
    """What every design has besides its layers: clock, host link, and the winner's search.

    There is no link for a model that it cannot take (:func:`~flightrtl.protocol.link_problems`).
    Where weights can be loaded, what that takes in the link and in the layers' memories is there
    too.
    """
    family, bits = board.family, model.output.format.bits
    number = ceil_log2(max(2, model.output.size))
    link = {} if link_problems(model) else {"link": _link_cost(model, board, number)}
    if isinstance(model, LoadableModel) and model.writable:
        link["loading"] = Cost(lut4=LOAD_LUT4[family]
                               + LOAD_LAYER_LUT4[family] * len(model.capacities), ff=30)
    return {"clock": Cost(lut4=CLOCK_LUT4[family], ff=15), **link,
            "argmax": registered(family, 2 * (bits + number + 1),
                                 ARGMAX_LUT4 + ARGMAX_BIT_LUT4 * bits)}


def enables_cost(model: Model, board: Board) -> Cost:
    """What a board's ``-dffe_min_ce_use`` takes: that few flip-flops may not share an enable.

    Those that are fewer get a multiplexer each in its place. Where a LUT4 feeds the flip-flop and
    has an input left, that is free; it was measured how often it is not.
    """
    found = _LEAST_ENABLED.search(board.synth_opts)
    share = min(1.0, max(0, int(found[1]) - 4) / 12) if found else 0.0
    parts = [LINK_ENABLES_LUT4 * (not link_problems(model)), *(
        ENGINE_ENABLES_LUT4 if isinstance(layer, WeightedLayer) else POOL_ENABLES_LUT4
        for layer in model.layers)]
    return Cost(lut4=round(share * sum(parts)))


def _link_cost(model: Model, board: Board, number: int) -> Cost:
    """Of the link with its serial port; ``number`` bits of a class."""
    frame = Frame.of(model)
    size = Layout(frame).end
    # Two counters of the cycles of a bit, and where in the buffer it is.
    ff = (LINK_FF + 2 * (1 + ceil_log2(round(board.clock.default_mhz * 1e6 / board.uart.baud)))
          + ceil_log2(size + 1) + number + 8 * board.memory_register
          + 10 * (value_bytes(frame.input.bits) == 2))
    return registered(board.family, ff, LINK_LUT4[board.family]) + Cost(
        bram=memory_brams(board.family, size, 8))
