"""What becomes of memories, before synthesis: block RAM, distributed RAM, or logic cells.

Yosys gives each way to build a memory a price and takes the cheapest (``memory_libmap``, with the
prices in ``ice40/brams.txt``, ``lattice/lutrams_trellis.txt`` and ``lattice/brams_16kd.txt``). The
functions here do the same for a memory with one port to write and one to read.
"""

from __future__ import annotations

from ..gateware.weights import BLOCK_BITS

__all__ = ["memory_brams", "memory_cells", "rom_cells"]

# Depth and width of one block RAM.
_BRAM_SHAPES = {
    "ice40": ((256, 16), (512, 8), (1024, 4), (2048, 2)),
    "ecp5": ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1)),
}

# Prices, as Yosys has them: of a block RAM; of 16 words of 4 bits in distributed RAM; of a bit in
# a flip-flop; of a bit of a multiplexer, or an enable, between several of these; and of the
# emulation that a block RAM's port takes more than flip-flops.
_BLOCK_PRICE = {"ice40": 64, "ecp5": 128}
_UNIT_PRICE = 4
_BIT_PRICE = 1
_SELECT_PRICE = 0.5
_PORT_PRICE = 2

_UNIT_LUT4 = 6
"""Of 16 words of 4 bits in distributed RAM: four to read, and two that take the word written."""
_FF_RAM_LUT4 = 1.6
"""Per bit of a memory made of flip-flops on iCE40."""
_ROM_STEP_LUT4 = 1.67
"""Per output bit, of each 16 words of a table in logic after the first: a LUT4 for them, and a part
of the multiplexer."""


def memory_brams(family: str, depth: int, width: int) -> int:
    """Block RAMs that a memory with one write and one read port takes."""
    return min(-(-depth // rows) * -(-width // bits) for rows, bits in _BRAM_SHAPES[family])


def memory_cells(family: str, depth: int, width: int, *,
                 block: bool = False) -> tuple[float, int, int]:
    """LUT4, flip-flops and block RAMs of a memory that is written and read.

    Without the register of the word that is read: block RAM has it, for the others it is the
    caller's.

    Parameters
    ----------
    family : str
        ``ice40`` or ``ecp5``.
    depth, width : int
        Words, and bits of each.
    block : bool
        Whether it asks for block RAM if it is not small
        (``block`` of a :class:`~flightrtl.gateware.ram.DualPortRam`).
    """
    brams = memory_brams(family, depth, width)
    if not (block and depth * width >= BLOCK_BITS):
        price = _BLOCK_PRICE[family] * brams
        if family == "ice40" and depth * width * _BIT_PRICE < price + _PORT_PRICE:
            return _FF_RAM_LUT4 * depth * width, depth * width, 0
        deep = -(-depth // 16)
        units = deep * -(-width // 4)
        select = (deep - 1) * width + deep if deep > 1 else 0
        if family == "ecp5" and _UNIT_PRICE * units + _SELECT_PRICE * select < price:
            return _UNIT_LUT4 * units + select, 0, 0
    return 0, 0, brams


def rom_cells(family: str, depth: int, width: int) -> tuple[int, int, int]:
    """The same of a memory that is only read, with the register of the word that is read.

    On iCE40 without the LUT4 for each bit that is in that register's cell. In a table in logic,
    bits that are the same in all words are one bit, and those that never change are none: so many
    of a short table's random bits are expected to be left.
    """
    if width * depth >= BLOCK_BITS:
        return 0, 0, memory_brams(family, depth, width)
    kinds = 1 << min(depth, 32)
    bits = round((kinds - 2) * (1 - (1 - 1 / kinds) ** width)) if depth < 16 else width
    first = bits * (family == "ecp5")
    return round(first + bits * _ROM_STEP_LUT4 * (-(-depth // 16) - 1)), bits, 0
