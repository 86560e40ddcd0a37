# amaranth: UnusedElaboratable=no
"""Read-only memories as streams, and the order of the weights in them."""

import numpy as np
import pytest

from flightrtl.gateware import FoldedLayer, Folding, RomStream, WeightBuffer
from flightrtl.model import TensorType
from tests.models import random_layer, random_map
from tests.streams import run_streams
from tests.synthesis import cells


@pytest.mark.parametrize("register", [False, True])
@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("depth", [1, 2, 5, 8, 300])
def test_repeats_for_ever(depth, stall, register):
    words = np.random.default_rng(depth).integers(0, 256, depth).tolist()
    rom = RomStream(8, words, register=register)
    count = 2 * depth + 3
    run = run_streams(rom, {}, {"o": count}, stall=stall, seed=depth, idle=0)
    assert run["o"] == rom.compute(count)
    if not stall:
        assert run.cycles["o"] == list(range(1 + register, count + 1 + register))


def test_words_must_not_be_empty():
    with pytest.raises(ValueError, match="must not be empty"):
        RomStream(8, [])


@pytest.mark.parametrize("column", [False, True])
def test_order_of_the_weights(column):
    """Pass, word, lane, input: spelled out with loops for one layer."""
    rng = np.random.default_rng(5)
    source = TensorType((5, 5, 4))
    layer = random_layer(rng, "convolution", source, random_map(rng, source, 2), kernel=(3, 2),
                         k=[2, 0, 1, 2], exponent_bits=3)
    folding = Folding(2, 6 if column else 2, column)
    folded = FoldedLayer(layer, source, folding)
    expected = []
    for first in (0, 2, 4):
        lanes = [layer.terms[slot] if slot < 5 else np.zeros_like(layer.terms[0])
                 for slot in (first, first + 1)]
        if column:
            expected += [[[lane[y, x, c + n] for y in range(3) for n in range(2)]
                          for lane in lanes] for x in range(2) for c in (0, 2)]
        else:
            expected += [[[lane[y, x, c + n] for n in range(2)] for lane in lanes]
                         for y in range(3) for x in range(2) for c in (0, 2)]
    buffer = WeightBuffer(folded)
    run = run_streams(buffer, {}, {"o": len(expected)}, idle=0)
    assert [[[word[lane][n] for n in range(folding.simd)] for lane in range(2)]
            for word in run["o"]] == np.array(expected).tolist()


@pytest.mark.parametrize("family", ["ice40", "ecp5"])
def test_large_ones_are_block_ram(family, tmp_path):
    words = np.random.default_rng(0).integers(0, 1 << 16, 256).tolist()
    found = cells(RomStream(16, words), family, tmp_path)
    assert found["SB_RAM40_4K"] + found["DP16KD"] == 1
    assert found["SB_LUT4"] + found["LUT4"] < 30
