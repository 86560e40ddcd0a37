"""What a folded engine costs, before synthesis: register by register, and the logic around them.

Flip-flops are counted from the gateware's structure, part by part; nothing in that is fitted. On
iCE40 a flip-flop takes a logic cell whether or not a LUT4 feeds it, so that cells are flip-flops
and the LUT4s that feed none; on ECP5 LUT4s are counted alone, and nextpnr adds cells at both ends
of each carry chain. The lanes of the array were fitted by themselves. The rest of the logic is a
constant per bit of the window's counters and of the requantizer's sum, fitted to the engines of
real builds (``benchmarks/builds.json``) and of random networks, as nextpnr packs what Yosys 0.70
makes with ``-abc9``, on ECP5 with ``-nowidelut``: off by up to 9 % for a single engine, by far less
for a whole design.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from amaranth.utils import ceil_log2, exact_log2

from ..formats import ActivationFormat, FixedFormat, TermFormat, WeightFormat, signed_bits
from ..gateware.engine import filter_offsets, sum_range
from ..gateware.folding import FoldedLayer
from ..gateware.linebuffer import row_steps
from ..gateware.processing import code_offsets, processing_element
from ..loadable import Capacity
from ..model import Convolution, Dense
from .cost import Cost, registered, total
from .memories import memory_brams, memory_cells, rom_cells

__all__ = ["array_cost", "engine_cost", "maps_to_blocks"]

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

ARRAY_CHAIN_LUT4 = {"ice40": 0.0, "ecp5": 3.6}
"""Per adder of an array, fitted by itself: :data:`~flightrtl.planner.cost.CHAIN_LUT4` elsewhere."""

COUNTER_BIT_LUT4 = {"ice40": 2.15, "ecp5": 3.5}
"""Per bit of the counters in a window: with their comparisons, the ends of their carry chains, and
all handshakes of an engine."""
REQUANTIZER_BIT_LUT4 = {"ice40": 1.3, "ecp5": 3.2}
"""Per bit of a requantizer's sum, and for each stage of its shifter:"""
SHIFTER_LUT4 = {"ice40": 1.5, "ecp5": 1.2}
LOADABLE_BIT_LUT4 = {"ice40": 0, "ecp5": 2}
"""A scheduler that is given its parameters, per bit of accumulator; on iCE40 that goes with
flip-flops."""


def adder_bits(product_bits: int, simd: int) -> int:
    """Bits of all adders of a tree over ``simd`` products."""
    bits, level = 0, 0
    while simd > 1:
        level += 1
        bits += simd // 2 * (product_bits + level)
        simd = -(-simd // 2)
    return bits


def _passed_bits(product_bits: int, simd: int) -> int:
    """Bits of the registers in such a tree that wait beside an adder, where a level is odd."""
    bits, level = 0, 0
    while simd > 1:
        level += 1
        bits += simd % 2 * (product_bits + level - 1)
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
    chains = ARRAY_CHAIN_LUT4[family] * count * simd          # a tree of adders, and an accumulator
    # What all lanes share: whether a word is valid, and its pass's last, on its way through them.
    control = 2 * (1 + ceil_log2(simd)) + ceil_log2(folded.folding.lanes + 1) + 3
    shared = control if family == "ice40" else 0
    if isinstance(term, TermFormat):
        product = form.bits + term.max_exponent + (not form.signed)
        adders = adder_bits(product, simd)
        stages = sum(form.bits + (2 << stage) - 1 for stage in range(term.exponent_bits))
        lane = (PRODUCT_LUT4[family] * simd * stages + ADDER_LUT4[family] * adders
                + ACCUMULATOR_LUT4[family] * accumulator)
        return Cost(lut4=round(shared + chains + count * lane),
                    ff=control + count * (simd * product + adders + _passed_bits(product, simd)
                                          + 2 * accumulator))
    logic, adders, registers = _lane_bits(folded)
    lane = (LOGIC_LUT4[family] * logic + SUM_LUT4[family] * adders
            + TOTAL_LUT4[family] * accumulator)
    dsp = count * simd if folded.folding.dsp else 0
    if dsp and family == "ecp5":        # whose blocks' registers synthesis does not use
        registers += simd * (form.bits + (not form.signed) + term.code_bits - 1)
    # Triples of activations, which all lanes share.
    triples = pixels * simd * (form.bits + 2) if term.code_bits > 3 and not dsp else 0
    return Cost(lut4=round(shared + chains * (not dsp) + triples + count * lane),
                ff=control + count * (registers + 2 * accumulator), dsp=dsp)


def engine_cost(folded: FoldedLayer, family: str, accumulator: int) -> Cost:
    """Estimate for one convolution or dense engine.

    Parameters
    ----------
    folded : FoldedLayer
        The layer and its folding.
    family : str
        ``ice40`` or ``ecp5``, where memories have a register behind them.
    accumulator : int
        Bits of the array's accumulators.
    """
    register = family == "ecp5"
    counters, window = _window_cost(folded, family, register)
    rest = (_drain_cost(folded, accumulator, family, register) if folded.capacity is None
            else _loadable_cost(folded, folded.capacity, family))
    control = Cost(lut4=round(COUNTER_BIT_LUT4[family] * counters))
    return total((control, array_cost(folded, family, accumulator), window,
                  _weights_cost(folded, family, register), rest))


class _Rows(NamedTuple):
    """What the rows of windows of a layer need in common, see :class:`RowStep`."""

    windows: int
    released: int
    """Bits that the number of released rows ever has."""
    padded: int
    """Kernel rows that sometimes lie on padding."""


@lru_cache(maxsize=256)         # the planner asks for every folding of a layer
def _rows(height: int, kernel: int, stride: int, top: int, count: int) -> _Rows:
    steps = row_steps(height, kernel, stride, top, count)
    released, padded = 0, 0
    for step in steps:
        released |= step.release
        padded |= ~step.real
    return _Rows(count, released.bit_count(), (padded & (1 << kernel) - 1).bit_count())


def _window_cost(folded: FoldedLayer, family: str, register: bool) -> tuple[int, Cost]:
    """Bits of the window's counters, and what it costs without the logic around them."""
    layer, ring, form = folded.layer, folded.ring, folded.source.format
    height, width, channels = folded.source.shape
    pixels, simd = folded.folding.pixels, folded.folding.simd
    chunk = simd // folded.rows
    per_pixel, memories = channels // chunk, ring.banks * ring.lanes
    output = layer.output_shape(folded.source.shape)
    rows = _rows(height, folded.kernel[0], layer.stride[0], layer.padding[0], output[0])
    place, slot, bank = (exact_log2(n) for n in (ring.pitch, ring.rows, ring.banks))
    lane = ceil_log2(ring.lanes)
    groups = ring.lanes // folded.source_pixels

    # The writer's place, and what it gathers.
    counters = place + slot + ceil_log2(chunk)
    if groups > 1:
        counters += ceil_log2(groups) + place + ceil_log2(per_pixel)
    gathered = form.bits * (chunk - 1) * folded.source_pixels
    # The reader's loops; rows that are there; where in a row, and in which rows, a window is.
    per_group = per_pixel // layer.groups
    across = output[1] // pixels
    loops = [n for n in (folded.kernel[1] * per_group, folded.kernel[0] // folded.rows,
                         folded.passes, across, rows.windows) if n > 1]
    counters += sum(ceil_log2(n) + 2 for n in loops) - bool(loops)
    counters += signed_bits(-ring.rows, ring.rows)
    column = signed_bits(-layer.padding[2] * per_pixel, per_pixel * (
        width + layer.padding[3] + layer.stride[1] * pixels))
    moves = 1 + (across > 1 or layer.groups > 1)
    counters += moves * column
    if per_group > 1 and (ring.lanes > 1 or layer.groups > 1):
        counters += ceil_log2(per_group)
    if ring.lanes > 1:
        counters += moves * (max(column, place + 1) + lane)
    counters += slot * (2 if rows.windows > 1 or height % ring.rows else 1)

    # Rows that are held and released; what travels beside a word, and the words.
    real = rows.padded if folded.folding.column else rows.padded > 0
    beside = 2 + pixels + bank + lane + real
    ff = counters + gathered + ring.rows.bit_length() + rows.released + 1 + beside
    ff += 2 + simd * form.bits * pixels
    gates: float = 0
    if register:
        # A buffer behind the reader; a register more behind the memories, and one before them.
        ahead = 1 + pixels + real + lane + slot + place * ring.lanes + rows.released
        gates += ahead + 3
        ff += 2 * ahead + 2 + beside + memories * ring.width
        ff += ring.width * folded.source_pixels + 2 + ceil_log2(groups) + place + slot
    cells, flip_flops, brams = memory_cells(family, ring.depth, ring.width)
    flip_flops += 0 if brams else ring.width
    # By columns, the banks are rotated: in the last stage, those that the kernel has.
    gates += ring.width * pixels * ring.banks * max(0, bank - 1)
    if family == "ecp5":        # that stage, and what makes padding; iCE40 has it with flip-flops
        gates += simd * form.bits * pixels * (1 + (bank > 0))
    if ring.lanes > 1:
        # A window's pixel lies in one of as many memories as the kernel is wide, or in any.
        places = min(ring.lanes, folded.kernel[1]) if pixels > 1 else ring.lanes
        gates += pixels * ring.width * ring.banks * (places - 1)
    memory = Cost(lut4=round(cells * memories), ff=flip_flops * memories, bram=brams * memories)
    return counters, registered(family, ff, gates) + memory


def _weights_cost(folded: FoldedLayer, family: str, register: bool) -> Cost:
    """The memory of weights, its address and its registers."""
    width = folded.folding.lanes * folded.folding.simd * folded.term.code_bits
    depth = folded.passes * folded.words
    lut4, ff, brams = (rom_cells(family, depth, width) if folded.capacity is None
                       else (0, 0, memory_brams(family, depth, width)))
    ff += ceil_log2(depth) + 1 + (1 + (width if brams else ff)) * register
    return registered(family, ff, lut4) + Cost(bram=brams)


@lru_cache(maxsize=64)          # the planner asks for every folding of a layer
def _widths(layer: Convolution | Dense, form: ActivationFormat,
            dsp: bool) -> tuple[int, int, int]:
    """Bits of a requantizer's sums, behind the shift that all have, of its biases and shifts."""
    offsets = code_offsets(layer.format, form, dsp)
    low, high = sum_range(layer, form, offsets)
    bias = layer.bias - filter_offsets(layer, offsets)
    least, most = int(bias.min()), int(bias.max())
    shift = int(layer.shift.min())
    span = (int(layer.shift.max()) - shift).bit_length()
    return max(1, signed_bits(low + least, high + most) - shift), signed_bits(least, most), span


def _drain_cost(folded: FoldedLayer, accumulator: int, family: str, register: bool) -> Cost:
    """Scheduler, requantizer and output buffer."""
    layer, pixels, bits = folded.layer, folded.folding.pixels, folded.layer.output.bits
    kept, bias, span = _widths(layer, folded.source.format, folded.folding.dsp)
    # The scheduler: which steps take a slot and which end a filter, unless all do.
    adds = max(layer.k, default=0) > 1
    spare = folded.passes * folded.folding.lanes - layer.slots
    program = (0 in layer.k) + (adds or spare > 0)
    ff = 2 + program + pixels * accumulator * (1 + adds)
    # An adder, and on ECP5 the gates that start its sum again, which iCE40 has with flip-flops.
    gates: float = pixels * accumulator * adds * (1 + (family == "ecp5"))
    if program:
        steps = layer.slots + spare + layer.k.count(0)
        ff += ceil_log2(steps)
        gates += rom_cells(family, steps, program)[0]
    # The requantizer: its table, the sum, what is left of it, the result.
    lut4, flip_flops, brams = rom_cells(family, layer.filters, bias + span)
    ff += ceil_log2(layer.filters) + 4 + span + flip_flops
    ff += (1 + (bias + span if brams else flip_flops)) * register
    ff += pixels * (2 * kept + bits)
    gates += lut4 + pixels * kept * (REQUANTIZER_BIT_LUT4[family] + SHIFTER_LUT4[family] * span)
    # The buffer.
    ff += 3 + 2 * pixels * bits
    return registered(family, ff, gates) + Cost(bram=brams)


def _loadable_cost(folded: FoldedLayer, capacity: Capacity, family: str) -> Cost:
    """The same of a loadable engine, and its memory of parameters."""
    bits, pixels, parts = folded.layer.output.bits, folded.folding.pixels, folded.parameter_parts
    width = -(-capacity.word_bits // parts)
    depth = folded.passes * folded.folding.lanes * parts
    shifter = max(1, capacity.width - capacity.least) * max(1, capacity.shift_bits)
    ff = (ceil_log2(depth) + 8 + ceil_log2(parts) + width * (parts - 1) + capacity.shift_bits
          + (width + 1) * (family == "ecp5")
          + pixels * (2 * capacity.width - capacity.least + 3 * bits))
    gates = pixels * (LOADABLE_BIT_LUT4[family] * capacity.width + SHIFTER_LUT4[family] * shifter)
    return registered(family, ff, gates) + Cost(bram=memory_brams(family, depth, width))
