"""What components cost, estimated before synthesis.

The formulas follow the structure of the gateware; the named constants in them were fitted to
synthesis runs (Yosys 0.70, ``-abc9``, ECP5 with ``-nowidelut``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass

from amaranth.utils import ceil_log2

from ..formats import ActivationFormat, TermFormat
from ..gateware.folding import FoldedLayer
from ..model import MaxPool, TensorType

__all__ = ["Cost", "engine_cost", "memory_brams", "pool_cost", "system_costs", "total"]


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


ENGINE_LUT4 = 170
"""Sequencer, requantizer and window control of one engine."""
ENGINE_FF = 140


def _product_lut4(activation: ActivationFormat, term: TermFormat) -> int:
    """The barrel: one LUT4 for each bit of each stage, and stage ``e`` adds ``2**e`` bits."""
    return sum(activation.bits + (2 << stage) - 1 for stage in range(term.exponent_bits))


def engine_cost(folded: FoldedLayer, family: str) -> Cost:
    """Estimate for one convolution or dense engine: array, weights, window, requantizer."""
    layer, source = folded.layer, folded.source
    lanes, simd = folded.folding.lanes, folded.folding.simd
    product_bits = source.format.bits + layer.format.max_exponent + 1
    adders = sum((product_bits + level) * -(-simd // (1 << level)) // 1
                 for level in range(1, ceil_log2(simd) + 1))
    accumulator = layer.accumulator_bits(source.format) + 1
    lane = simd * _product_lut4(source.format, layer.format) + adders + 2 * accumulator
    return Cost(
        lut4=ENGINE_LUT4 + lanes * lane,
        ff=ENGINE_FF + lanes * (simd * product_bits + adders + 2 * accumulator),
        bram=_weight_brams(folded, family) + _window_brams(folded, family))


def _weight_brams(folded: FoldedLayer, family: str) -> int:
    width = folded.folding.lanes * folded.folding.simd * folded.layer.format.code_bits
    return memory_brams(family, folded.passes * folded.words, width)


def _window_brams(folded: FoldedLayer, family: str) -> int:
    # Rows and words of a row are rounded up, so that the address is {row, word}.
    rows = 1 << ceil_log2(folded.kernel[0] + 1)
    pitch = 1 << ceil_log2(folded.source.shape[1] * folded.channels // folded.folding.simd)
    return memory_brams(family, rows * pitch, folded.folding.simd * folded.source.format.bits)


POOL_LUT4 = 60


def pool_cost(layer: MaxPool, source: TensorType, family: str) -> Cost:
    """Estimate for a pooling layer: a row of partial results, a comparison or an addition."""
    row = layer.output_shape(source.shape)[1] * source.shape[2]
    return Cost(lut4=POOL_LUT4 + 3 * source.format.bits, ff=POOL_LUT4,
                bram=memory_brams(family, row, source.format.bits))


CLOCK_LUT4 = 14
LINK_LUT4 = 170


def system_costs(family: str) -> dict[str, Cost]:
    """What every design has besides its layers."""
    return {"clock": Cost(lut4=CLOCK_LUT4, ff=CLOCK_LUT4 + 4),
            "link": Cost(lut4=LINK_LUT4, ff=110)}
