"""What a memory of a design holds, for those who replace it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SEGMENT", "MemoryContents"]

SEGMENT = 256
"""Depths are multiples of this, which costs nothing: no block RAM is less deep. So that what is
in a memory can be told from the bits of each column of a block RAM alone."""


@dataclass
class MemoryContents:
    """Words that a memory is to hold, and those that it is made with.

    Parameters
    ----------
    depth, width : int
        Words, and bits of a word.
    words : sequence of int
        What it is to hold; zeros behind them.
    initial : sequence of int
        What the hardware holds at first: other words where it gets its contents later.
    """

    depth: int
    width: int
    words: Sequence[int]
    initial: Sequence[int]
