"""What block RAMs hold, read from and written into nextpnr's text form of a bitstream.

nextpnr leaves an ``.asc`` (iCE40, Project IceStorm's format) or a ``.config`` (ECP5, Project
Trellis'), both text, from which the packer makes the bitstream. The contents of block RAMs are
sections of their own in both. Here they become arrays of bits, and text again; nothing else of the
file is touched.

A memory of a design is spread over block RAMs in columns: one bit of 256 words that follow each
other or are some words apart. Which bits of a RAM are a column depends on how wide its port is
(:attr:`Layout.columns`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LAYOUTS", "SEGMENT", "BlockRams", "Layout"]

SEGMENT = 256
"""Bits of a column: as many as the shallowest block RAM has words."""


@dataclass(frozen=True)
class Layout:
    """How a family's block RAMs stand in the file.

    Parameters
    ----------
    section : str
        Pattern of a section; its first group is the contents.
    bits : int
        Of a block RAM.
    columns : array of int, (columns, SEGMENT)
        Bits of every column that a block RAM can have, for all widths of its port.
    strides : tuple of int
        Words from one bit of a column to the next that there can be.
    """

    section: str
    bits: int
    columns: NDArray[np.int64]
    strides: tuple[int, ...]

    def parse(self, text: str) -> NDArray[np.uint8]:
        """The bits of a section."""
        raise NotImplementedError

    def format(self, bits: NDArray[np.uint8]) -> str:
        """The section of some bits."""
        raise NotImplementedError


class _IceStorm(Layout):
    """16 lines of 16 words of 16 bits, as hexadecimal numbers, the first word lowest.

    With ports that are less wide, the lower bits of the address select one of several columns
    (``brams_map.v`` of Yosys).
    """

    def parse(self, text: str) -> NDArray[np.uint8]:
        lines = [bytes.fromhex(line)[::-1] for line in text.split()]
        return np.unpackbits(np.frombuffer(b"".join(lines), np.uint8), bitorder="little")

    def format(self, bits: NDArray[np.uint8]) -> str:
        lines = np.packbits(bits.reshape(16, 256), axis=1, bitorder="little")
        return "".join(line.tobytes()[::-1].hex() + "\n" for line in lines)


class _Trellis(Layout):
    """2,048 words of 9 bits, as hexadecimal numbers.

    Wider ports take neighbouring words, less wide ones a part of the lower 8 bits.
    """

    def parse(self, text: str) -> NDArray[np.uint8]:
        words = np.array([int(word, 16) for word in text.split()], np.uint16)
        bits: NDArray[np.uint8] = (words[:, None] >> np.arange(9, dtype=np.uint16) & 1).astype(
            np.uint8).ravel()
        return bits

    def format(self, bits: NDArray[np.uint8]) -> str:
        words = (bits.reshape(-1, 9).astype(np.int64) << np.arange(9)).sum(axis=1).tolist()
        return "".join(" ".join(f"{word:03x}" for word in words[first:first + 8]) + "\n"
                       for first in range(0, len(words), 8))


def _trellis_columns() -> NDArray[np.int64]:
    found = []
    for width in (36, 18, 9, 4, 2, 1):
        addresses = np.arange(2048 * 9 // width if width > 8 else 2048 * 8 // width)
        for bit in range(width):
            place = addresses * width + bit
            if width < 9:
                place = place // 8 * 9 + place % 8
            found += list(place.reshape(-1, SEGMENT))
    return np.array(found)


LAYOUTS: Mapping[str, Layout] = {
    "ice40": _IceStorm(r"^\.ram_data \d+ \d+\n((?:[0-9a-f]{64}\n){16})", 4096,
                       np.arange(4096).reshape(SEGMENT, 16).T, (1, 2, 4, 8)),
    "ecp5": _Trellis(r"^\.bram_init \d+\n((?:[0-9a-f ]+\n)+)", 2048 * 9, _trellis_columns(), (1,)),
}
"""By family."""


class BlockRams:
    """The block RAMs of a placed and routed design.

    Parameters
    ----------
    text : str
        The ``.asc`` or ``.config``.
    family : str
        ``ice40`` or ``ecp5``.

    Members
    -------
    bits : array of uint8, (RAMs, bits)
        What they hold, to be changed.

    Raises
    ------
    ValueError
        If a section is not as long as it should be.
    """

    def __init__(self, text: str, family: str) -> None:
        self.layout = LAYOUTS[family]
        self._parts = re.split(self.layout.section, text, flags=re.MULTILINE)
        # Text and contents take turns; the headline of a section belongs to the text before it.
        self._heads = [match[0][:match[0].index("\n") + 1] for match
                       in re.finditer(self.layout.section, text, flags=re.MULTILINE)]
        rams = [self.layout.parse(part) for part in self._parts[1::2]]
        if any(len(ram) != self.layout.bits for ram in rams):
            raise ValueError(f"a block RAM has not {self.layout.bits} bits")
        self.bits = np.array(rams, np.uint8).reshape(len(rams), self.layout.bits)

    def columns(self) -> NDArray[np.uint8]:
        """Every column that there could be, (RAMs, columns, SEGMENT)."""
        return self.bits[:, self.layout.columns]

    def text(self) -> str:
        """The file with the contents as they are now."""
        parts = [self._parts[0]]
        for head, ram, rest in zip(self._heads, self.bits, self._parts[2::2], strict=True):
            parts += [head, self.layout.format(ram), rest]
        return "".join(parts)
