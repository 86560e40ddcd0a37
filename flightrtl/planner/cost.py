"""What components cost, estimated before synthesis.

The formulas follow the structure of the gateware; the named constants in them were fitted to
synthesis runs (Yosys 0.70, ``-abc9``, ECP5 with ``-nowidelut``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass

from ..formats import ActivationFormat, FixedFormat, TermFormat, WeightFormat
from ..gateware.concat import ChannelConcat
from ..gateware.folding import FoldedLayer
from ..gateware.link import Layout
from ..gateware.processing import processing_element
from ..gateware.queue import StreamQueue
from ..gateware.residual import ResidualAdd
from ..gateware.weights import BLOCK_BITS
from ..loadable import Capacity, LoadableModel
from ..model import MaxPool, Model, TensorType
from ..protocol import Frame, link_problems

__all__ = ["Cost", "array_cost", "engine_cost", "forks_cost", "join_cost", "maps_to_blocks",
           "memory_brams", "memory_cells", "pool_cost", "queue_cost", "system_costs", "total"]


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
        return Cost(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of ``costs``."""
    return sum(costs, Cost())


# Depth and width of one block RAM.
_BRAM_SHAPES = {
    "ice40": ((256, 16), (512, 8), (1024, 4), (2048, 2)),
    "ecp5": ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1)),
}


def memory_brams(family: str, depth: int, width: int) -> int:
    """Block RAMs that a memory with one write and one read port takes."""
    return min(-(-depth // rows) * -(-width // bits) for rows, bits in _BRAM_SHAPES[family])


def memory_cells(family: str, depth: int, width: int) -> tuple[float, int, int]:
    """LUT4, flip-flops and block RAMs of a memory that is written and read.

    Small ones are flip-flops on iCE40, and distributed RAM on ECP5.
    """
    units = -(-depth // 16) * -(-width // 4)
    if family == "ice40" and depth * width <= _ICE40_RAM_BITS:
        return _FF_RAM_LUT4 * depth * width, depth * width, 0
    if family == "ecp5" and units < _ECP5_RAM_UNITS:
        return _LUT_RAM_LUT4 * units, 0, 0
    return 0, 0, memory_brams(family, depth, width)


# Logic cells of one lane of PEArray, without the weights. Fitted to arrays of 2 and 6 lanes, by
# their difference: activations of 4, 8 and 16 bits, 1 to 4 exponent bits, S = 1 to 8; off by 1 %
# for 3 exponent bits and 8-bit activations, by 8 % at most for the others.
PRODUCT_LUT4 = {"ice40": 0.822, "ecp5": 0.975}
"""Per bit of the barrel's stages."""
ADDER_LUT4 = {"ice40": 1.389, "ecp5": 1.067}
"""Per bit of the adder tree."""
ACCUMULATOR_LUT4 = {"ice40": 3.555, "ecp5": 3.152}
"""Per bit of accumulator and chain."""

# The same of lanes for weights that are no terms, fitted to arrays of 2 and 6 lanes by their
# difference: fixed-point weights of 2 to 8 bits on activations of 4 and 8, binary ones on 1, 4 and
# 8 bits, S = 1 to 64, and multiplier blocks; off by 3.7 % at most.
LOGIC_LUT4 = {"ice40": 0.759, "ecp5": 0.839}
"""Per bit of digits' products, or of inverted activations, and per LUT4 of counts of bits."""
SUM_LUT4 = {"ice40": 1.073, "ecp5": 1.106}
"""Per bit of the adders between digits, products or counts."""
TOTAL_LUT4 = {"ice40": 3.205, "ecp5": 3.115}
"""Per bit of accumulator and chain."""
GROUP_LUT4 = (1, 3, 5, 8, 11, 13)
"""Of 1 to 6 single bits that are counted at once."""
DSP_BITS = {"ice40": 11, "ecp5": 0}
"""Bits of the least product for which Yosys takes a multiplier block."""

# What placement adds to what synthesis counts, fitted to the engines of ResNet-8 on LFE5U-85F.
CHAIN_LUT4 = {"ice40": 0.0, "ecp5": 3.6}
"""Per adder: on ECP5 a carry gets into a chain and out of it through cells of its own."""
PLACED_LUT4 = {"ice40": 0, "ecp5": 70}
"""Per engine."""

# What follows was fitted to whole designs: an MNIST network of four convolutions and a dense
# layer (UP5K at S = 1, 4, 6, 8; LFE5U-85F at S = 2, 4, 5, 8, 12), as nextpnr counts.
ARRAY_LUT4 = 14
"""Control of an array."""
WINDOW_LUT4 = 82
"""Counters and control of a window, and per bit of its word:"""
WINDOW_BIT_LUT4 = 2.4
WINDOW_TURN_LUT4 = 0.4
"""By columns, per bit of the word and further row of the buffer: the rotation of its rows."""
# Fitted to windows alone, 3 x 3 on 32 x 32 x 16, 8 activations a word, 1, 2 and 4 pixels.
WINDOW_PIXEL_BIT_LUT4 = 1.7
"""Per bit of the word of each further pixel, and per place more than two that it can have:"""
WINDOW_PLACE_LUT4 = 0.8
BUFFER_LUT4 = 21
"""Control of the buffer behind an engine, and per bit of the result:"""
BUFFER_BIT_LUT4 = 2.6
REQUANTIZER_LUT4 = 10
"""Control of a requantizer."""
SCHEDULER_LUT4 = 8
"""A scheduler that has nothing to add up, and per bit of accumulator if it has:"""
SCHEDULER_BIT_LUT4 = 2
LOADABLE_BIT_LUT4 = 2
"""A scheduler that is given its parameters, per bit of accumulator."""
COUNTER_LUT4 = 14
"""The address of a weight memory."""

ROM_BLOCK_BITS = BLOCK_BITS
"""From this size on weights go to block RAM; see :mod:`flightrtl.gateware.weights`."""
_ICE40_RAM_BITS = 64
_ECP5_RAM_UNITS = 16
# Up to these sizes Yosys makes flip-flops (iCE40) or 16 x 4 bit LUT RAMs (ECP5) of a row buffer.
_FF_RAM_LUT4 = 1.6
_LUT_RAM_LUT4 = 6


def adder_bits(product_bits: int, simd: int) -> int:
    """Bits of all adders of a tree over ``simd`` products."""
    bits, level = 0, 0
    while simd > 1:
        level += 1
        bits += simd // 2 * (product_bits + level)
        simd = -(-simd // 2)
    return bits


def maps_to_blocks(weight: WeightFormat, activation: ActivationFormat, family: str) -> bool:
    """Whether synthesis makes such products of multiplier blocks."""
    if not isinstance(weight, FixedFormat):
        return False
    pe = processing_element(weight, simd=1, activation=activation, dsp=True)
    return pe.product_bits >= DSP_BITS[family]


def _lane_bits(folded: FoldedLayer) -> tuple[int, int, int]:
    """Bits of a lane without its accumulator: of logic, of adders, and of registers.

    For weights that are no terms.
    """
    form, simd = folded.source.format, folded.folding.simd
    if not isinstance(folded.term, FixedFormat):
        if form.bits > 1 or form.signed:
            adders = adder_bits(form.bits, simd)
            return simd * form.bits, adders, simd * form.bits + adders
        groups = [min(6, simd - first) for first in range(0, simd, 6)]
        adders = adder_bits(3, len(groups))
        return sum(GROUP_LUT4[size - 1] for size in groups), adders, 3 * len(groups) + adders
    bits = form.bits + (not form.signed)
    product = bits + folded.term.bits - 1
    adders = adder_bits(product, simd)
    if folded.folding.dsp:
        return 0, adders, adders
    digits = [bits + 1] + [bits + 2] * (folded.term.bits // 2 - 1) + [bits] * (folded.term.bits % 2)
    parts = (len(digits) - 1) * (bits + 3) + 3 * (len(digits) == 4)
    waits = digits[-1] if len(digits) == 3 else 0       # for the sum of the two before it
    return (simd * sum(digits), simd * parts + adders,
            simd * (sum(digits) + parts + waits) + adders)


def array_cost(folded: FoldedLayer, family: str, accumulator: int) -> Cost:
    """Estimate for an engine's array; the parameters are those of :func:`engine_cost`."""
    form, term = folded.source.format, folded.term
    simd, pixels = folded.folding.simd, folded.folding.pixels
    count = folded.folding.lanes * pixels
    chains = CHAIN_LUT4[family] * count * simd          # a tree of adders, and an accumulator
    if isinstance(term, TermFormat):
        product = form.bits + term.max_exponent + (not form.signed)
        adders = adder_bits(product, simd)
        stages = sum(form.bits + (2 << stage) - 1 for stage in range(term.exponent_bits))
        lane = (PRODUCT_LUT4[family] * simd * stages + ADDER_LUT4[family] * adders
                + ACCUMULATOR_LUT4[family] * accumulator)
        return Cost(lut4=round(ARRAY_LUT4 + chains + count * lane),
                    ff=count * (simd * product + adders + 2 * accumulator + 3))
    logic, adders, registers = _lane_bits(folded)
    lane = (LOGIC_LUT4[family] * logic + SUM_LUT4[family] * adders
            + TOTAL_LUT4[family] * accumulator)
    dsp = count * simd if folded.folding.dsp else 0
    if dsp and family == "ecp5":        # whose blocks' registers synthesis does not use
        registers += simd * (form.bits + (not form.signed) + term.code_bits - 1)
    # Triples of activations, which all lanes share.
    triples = pixels * simd * (form.bits + 2) if term.code_bits > 3 and not dsp else 0
    return Cost(lut4=round(ARRAY_LUT4 + chains * (not dsp) + triples + count * lane),
                ff=count * (registers + 2 * accumulator + 3), dsp=dsp)


def engine_cost(folded: FoldedLayer, family: str, accumulator: int) -> Cost:
    """Estimate for one convolution or dense engine.

    Parameters
    ----------
    folded : FoldedLayer
        The layer and its folding.
    family : str
        ``ice40`` or ``ecp5``.
    accumulator : int
        Bits of the array's accumulators.
    """
    return total((Cost(lut4=PLACED_LUT4[family]), array_cost(folded, family, accumulator),
                  _rest_cost(folded, accumulator, family),
                  _window_cost(folded, family), _weights_cost(folded, family)))


def _rest_cost(folded: FoldedLayer, accumulator: int, family: str) -> Cost:
    """Scheduler, requantizer and output buffer."""
    layer = folded.layer
    bits = layer.output.bits
    if folded.capacity is not None:
        return _loadable_rest_cost(folded, folded.capacity, family)
    span = int(layer.shift.max(initial=0) - layer.shift.min(initial=0)).bit_length()
    adds = max(layer.k, default=0) > 1
    pixel = (accumulator * (1 + SCHEDULER_BIT_LUT4 * adds) + accumulator * (1 + span) + 2 * bits
             + BUFFER_BIT_LUT4 * bits)
    pixels = folded.folding.pixels
    return Cost(lut4=round(SCHEDULER_LUT4 + REQUANTIZER_LUT4 + BUFFER_LUT4 + pixels * pixel),
                ff=pixels * (accumulator * (3 + adds) + 4 * bits) + 20)


def _loadable_rest_cost(folded: FoldedLayer, capacity: Capacity, family: str) -> Cost:
    """The same of a loadable engine, and its memory of parameters."""
    bits, pixels, parts = folded.layer.output.bits, folded.folding.pixels, folded.parameter_parts
    width = -(-capacity.word_bits // parts)
    shifter = max(1, capacity.width - capacity.least) * max(1, capacity.shift_bits)
    pixel = LOADABLE_BIT_LUT4 * capacity.width + shifter + 2 * bits + BUFFER_BIT_LUT4 * bits
    lut4 = (SCHEDULER_LUT4 + REQUANTIZER_LUT4 + BUFFER_LUT4 + COUNTER_LUT4 + width * (parts - 1)
            + pixels * pixel)
    return Cost(lut4=round(lut4), ff=pixels * (2 * capacity.width + 4 * bits) + 20,
                bram=memory_brams(family, folded.passes * folded.folding.lanes * parts, width))


def _weights_cost(folded: FoldedLayer, family: str) -> Cost:
    width = folded.folding.lanes * folded.folding.simd * folded.term.code_bits
    depth = folded.passes * folded.words
    ff = 10 + width * (family == "ecp5")  # the register behind the memory
    if width * depth >= ROM_BLOCK_BITS or folded.capacity is not None:
        return Cost(lut4=COUNTER_LUT4, ff=ff, bram=memory_brams(family, depth, width))
    # A function of the address for each bit: one LUT4 for 16 words, three for 32, ...
    return Cost(lut4=COUNTER_LUT4 + width * (2 * -(-depth // 16) - 1), ff=ff + width)


def _window_cost(folded: FoldedLayer, family: str) -> Cost:
    ring, pixels = folded.ring, folded.folding.pixels
    word = folded.folding.simd * folded.source.format.bits
    depth, width, banks = ring.depth, ring.width, ring.banks * ring.lanes
    lut4 = WINDOW_LUT4 + (WINDOW_BIT_LUT4 + WINDOW_PIXEL_BIT_LUT4 * (pixels - 1)) * word
    if folded.folding.column:
        lut4 += WINDOW_TURN_LUT4 * word * (ring.banks - 1) * pixels
    if ring.lanes > 1:
        # A window's pixel lies in one of as many memories as the kernel is wide, or in any.
        places = min(ring.lanes, folded.kernel[1]) if pixels > 1 else ring.lanes
        lut4 += WINDOW_PLACE_LUT4 * word * pixels * max(0, places - 2)
    ff = 40 + word * (1 + ring.lanes + pixels)
    if family == "ecp5":        # the buffer behind the reader: places, flags, rows to release
        ahead = ((ring.pitch - 1).bit_length() * ring.lanes + 2 * ring.rows.bit_length() + 3
                 + pixels + (folded.kernel[0] if folded.folding.column else 1))
        lut4, ff = lut4 + ahead, ff + 2 * ahead
    each_lut4, each_ff, each_bram = memory_cells(family, depth, width)
    return Cost(lut4=round(lut4 + banks * each_lut4), ff=ff + banks * each_ff,
                bram=banks * each_bram)


POOL_LUT4 = 60


def pool_cost(layer: MaxPool, source: TensorType, family: str, pixels: int = 1) -> Cost:
    """Estimate for a pooling layer: a row of partial results, a comparison or an addition.

    ``pixels`` arrive at a time; those of a window are compared or added first.
    """
    outputs = max(1, pixels // layer.kernel[1]) if pixels > 1 else 1
    row = layer.output_shape(source.shape)[1] * source.shape[2] // outputs
    bits = source.format.bits
    return Cost(lut4=POOL_LUT4 + 3 * bits * outputs + 2 * bits * (pixels - outputs), ff=POOL_LUT4,
                bram=memory_brams(family, row, bits * outputs))


# Fitted to queues and additions alone (``python -m benchmarks components``).
QUEUE_LUT4 = 11
"""Flags of a queue, and per bit of its two addresses:"""
QUEUE_ADDRESS_LUT4 = 1.8
FORK_LUT4 = 3
"""Per output of a fork."""
ADD_BIT_LUT4 = 1.0
"""Per bit of the sum, and per bit of the result if it is clamped:"""
ADD_CLAMP_LUT4 = 1.2


def queue_cost(depth: int, width: int, family: str, *, register: bool) -> Cost:
    """Estimate for a queue of ``depth`` transfers of ``width`` bits; 0 for none."""
    if depth <= 2:
        return Cost(lut4=width + 3, ff=2 * width + 2) if depth else Cost()
    words = StreamQueue.words_of(depth, register)
    address = (words - 1).bit_length()
    flags = Cost(lut4=round(QUEUE_LUT4 + 2 * QUEUE_ADDRESS_LUT4 * address),
                 ff=2 * address + 3 + register + width * (1 + register))
    lut4, ff, bram = memory_cells(family, words, width)
    return flags + Cost(lut4=round(lut4), ff=ff, bram=bram)


CONCAT_LUT4 = 7
"""Control of a concatenation, per bit of its counters, and per bit and further operand:"""
CONCAT_COUNTER_LUT4 = 1.0
CONCAT_BIT_LUT4 = 1.0


def join_cost(join: ResidualAdd | ChannelConcat, family: str) -> Cost:
    """Estimate for an addition or a concatenation, with the queues before its operands."""
    own = _add_cost(join) if isinstance(join, ResidualAdd) else _concat_cost(join)
    return total([own, *(queue_cost(depth, form.bits * join.values, family,
                                    register=join.register)
                         for depth, form in zip(join.depths, join.formats, strict=True))])


def _add_cost(add: ResidualAdd) -> Cost:
    low, high = add.total_range
    clamps = low >> add.shift < add.output.min or high >> add.shift > add.output.max
    bits = add.output.bits
    return Cost(lut4=round(ADD_BIT_LUT4 * add.total_width + ADD_CLAMP_LUT4 * bits * clamps)
                * add.values + 3, ff=(add.total_width + bits) * add.values + 2)


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


CLOCK_LUT4 = 25
LINK_LUT4 = 330
ARGMAX_BIT_LUT4 = 2.5
# From components alone, and as much again as there are flip-flops without a LUT4.
LOAD_LUT4 = {"ice40": 90, "ecp5": 65}
"""What the link has more where weights can be loaded, and each layer's memories:"""
LOAD_LAYER_LUT4 = {"ice40": 15, "ecp5": 17}


def system_costs(model: Model, family: str) -> dict[str, Cost]:
    """What every design has besides its layers: clock, host link, and the winner's search.

    There is no link for a model that it cannot take (:func:`~flightrtl.protocol.link_problems`).
    Where weights can be loaded, what that takes in the link and in the layers' memories is there
    too.
    """
    bits = model.output.format.bits
    link = {} if link_problems(model) else {"link": Cost(
        lut4=LINK_LUT4, ff=120, bram=memory_brams(family, Layout(Frame.of(model)).end, 8))}
    if isinstance(model, LoadableModel) and model.writable:
        link["loading"] = Cost(lut4=LOAD_LUT4[family]
                               + LOAD_LAYER_LUT4[family] * len(model.capacities), ff=30)
    return {"clock": Cost(lut4=CLOCK_LUT4, ff=16), **link,
            "argmax": Cost(lut4=round(ARGMAX_BIT_LUT4 * bits), ff=2 * bits + 8)}
