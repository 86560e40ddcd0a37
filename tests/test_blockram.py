"""Block RAMs in nextpnr's text: nothing else changes, and every bit is where the family has it."""

import numpy as np
import pytest

from flightrtl.blockram import LAYOUTS, SEGMENT, BlockRams


def ice40(*rams):
    """An ``.asc`` with RAMs whose bits are given, word by word."""
    text = ".comment of a design\n.device 1k\n\n.logic_tile 1 1\n" + "0" * 54 + "\n\n"
    for n, bits in enumerate(rams):
        lines = bits.reshape(16, 256)
        text += f".ram_data 3 {n + 1}\n" + "".join(
            f"{sum(int(bit) << place for place, bit in enumerate(line)):064x}\n"
            for line in lines) + "\n"
    return text + ".sym 1 a_net\n"


def ecp5(*rams):
    """A ``.config``: words of 9 bits, each as it is read with ports of 9 bits."""
    text = ".device LFE5U-85F\n\n.tile R1C1:PLC2\narc: A1 B1\n\n"
    for n, bits in enumerate(rams):
        words = [f"{sum(int(bit) << place for place, bit in enumerate(word)):03x}"
                 for word in bits.reshape(-1, 9)]
        text += f".bram_init {n}\n" + "".join(
            " ".join(words[first:first + 8]) + "\n" for first in range(0, 2048, 8)) + "\n"
    return text + ".tile R2C2:PLC2\nword: SLICEA.K0.INIT 0000000000000000\n"


WRITERS = {"ice40": ice40, "ecp5": ecp5}


@pytest.mark.parametrize("family", WRITERS)
def test_there_and_back(family):
    rng = np.random.default_rng(0)
    rams = rng.integers(0, 2, (3, LAYOUTS[family].bits), dtype=np.uint8)
    text = WRITERS[family](*rams)
    found = BlockRams(text, family)
    assert (found.bits == rams).all()
    assert found.text() == text
    found.bits[1, 5] ^= 1
    changed = rams.copy()
    changed[1, 5] ^= 1
    assert found.text() == WRITERS[family](*changed)


@pytest.mark.parametrize("family", WRITERS)
def test_a_design_without_block_ram(family):
    text = WRITERS[family]()
    found = BlockRams(text, family)
    assert found.bits.shape[0] == 0
    assert found.text() == text


@pytest.mark.parametrize("width", [36, 18, 9, 4, 2, 1])
def test_ecp5_columns_of_every_width(width):
    """A column is a bit of 256 words in a row, as a port of that width reads them."""
    columns = LAYOUTS["ecp5"].columns
    first = sum(2048 * 9 // each // SEGMENT * each if each > 8 else 2048 * 8 // SEGMENT
                for each in (36, 18, 9, 4, 2, 1) if each > width)
    depth = 18432 // width if width > 8 else 16384 // width
    bit, block = width - 1, depth // SEGMENT - 1
    column = columns[first + bit * (depth // SEGMENT) + block]
    for n, place in enumerate(column):
        address = block * SEGMENT + n
        if width >= 9:
            assert divmod(place, 9) == (address * (width // 9) + bit // 9, bit % 9)
        else:
            assert divmod(place, 9) == (address * width // 8, address * width % 8 + bit)


def test_a_section_that_is_cut_short():
    bits = np.zeros(2048 * 9, np.uint8)
    text = ecp5(bits).replace("000 000 000 000 000 000 000 000\n", "", 1)
    with pytest.raises(ValueError, match="has not 18432 bits"):
        BlockRams(text, "ecp5")
