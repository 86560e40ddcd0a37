"""How a layer is folded onto an engine, and what follows from it in cycles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ..formats import FixedFormat, IntArray, WeightFormat, _integer
from ..loadable import Capacity
from ..model import Convolution, Dense, TensorType
from .linebuffer import Ring, window_ring
from .processing import code_offsets

__all__ = ["FoldedLayer", "Folding", "drain_program", "slot_places"]


def drain_program(k: Sequence[int], lanes: int, groups: int = 1) -> list[tuple[bool, bool]]:
    """What the drain does for one output pixel, step by step: (takes a slot, ends a filter).

    Slots are packed without gaps, filter after filter; a filter with ``k = 0`` takes none and
    ends at once. Lanes that are left over in the last pass are taken and add 0. The filters of
    each group of channels have passes of their own.

    >>> drain_program([2, 0, 1], lanes=2)
    [(True, False), (True, True), (False, True), (True, True), (True, False)]
    """
    if groups > 1 and any(k):
        size = len(k) // groups
        parts = [drain_program(k[first:first + size], lanes) if any(k[first:first + size])
                 else [(False, True)] * size for first in range(0, len(k), size)]
        return [step for part in parts for step in part]
    steps = []
    for terms in k:
        steps += [(True, False)] * (terms - 1) + [(terms > 0, True)]
    taken = sum(k)
    return steps + [(True, False)] * (max(1, -(-taken // lanes)) * lanes - taken)


def slot_places(group_slots: Sequence[int], lanes: int) -> IntArray:
    """Where each slot lies in the passes: pass times ``lanes`` plus lane.

    >>> slot_places([3, 1], lanes=2).tolist()
    [0, 1, 2, 4]
    """
    places: list[int] = []
    first = 0
    for slots in group_slots:
        places += range(first, first + slots)
        first += -(-slots // lanes) * lanes
    return np.array(places, np.int64)


@lru_cache(maxsize=1 << 16)      # the planner asks for every folding of a layer
def _cycles_per_pixel(k: tuple[int, ...], lanes: int, words: int, groups: int) -> int:
    if 0 not in k and lanes + 1 <= words:
        size = len(k) // groups
        return words * sum(-(-sum(k[first:first + size]) // lanes)
                           for first in range(0, len(k), size))
    loaded = step = start = 0
    last_take = -1
    for _ in range(4):  # pixels; the pattern repeats after the first
        start, taken = loaded, 0
        for number, (takes, _) in enumerate(drain_program(k, lanes, groups)):
            # A pixel starts with its first pass, even where that is for pruned filters.
            if number == 0 or (takes and taken and taken % lanes == 0):
                # A pass ends no earlier than the chain is empty.
                loaded = max(loaded + words, last_take + 1)
                step = max(step, loaded + 1)
            if takes:
                taken, last_take = taken + 1, step
            step += 1
    return loaded - start


@dataclass(frozen=True)
class Folding:
    """Parallelism of one convolution or dense engine.

    Parameters
    ----------
    lanes : int
        Slots (term planes) computed at the same time, ``P``.
    simd : int
        Inputs that each lane takes per cycle, ``S``.
    column : bool
        Which inputs share a cycle. False: ``S`` channels of one pixel (``S`` divides the
        channels, those of a group if there are several). True: a column of the kernel, ``S /
        kernel_height`` channels of each of its pixels.
    rows : int
        Image rows that the line buffer holds at least; 0 for as many as the kernel needs. More
        rows keep a layer and the one before it from waiting for each other.
    pixels : int
        Neighbouring output pixels computed at the same time with the same weights, ``M``.
    dsp : bool
        Whether multiplier blocks make the products; of fixed-point weights only.
    """

    lanes: int
    simd: int
    column: bool = False
    rows: int = 0
    pixels: int = 1
    dsp: bool = False

    def __post_init__(self) -> None:
        _integer(self.lanes, "lanes", 1, 1 << 16)
        _integer(self.simd, "simd", 1, 1 << 16)
        _integer(self.rows, "rows", 0, 1 << 16)
        _integer(self.pixels, "pixels", 1, 1 << 12)
        for name in ("column", "dsp"):
            if not isinstance(value := getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {value!r}")


@dataclass(frozen=True, eq=False)
class FoldedLayer:
    """A layer together with its folding: passes, words, cycles, and the order of its slots.

    Slot ``s`` runs on lane ``s mod P`` in pass ``s div P`` (first-fit packing without gaps), so
    that a layer takes ``ceil(sum(k) / P)`` passes whatever the mix of ``k``.

    Parameters
    ----------
    layer : Convolution or Dense
        Convolution or dense layer.
    source : TensorType
        What feeds it.
    folding : Folding
        How it is folded.
    source_pixels : int
        Pixels that arrive at the same time.
    capacity : Capacity, optional
        For which other trainings the engine has room; ``layer`` is padded to it.

    Raises
    ------
    ValueError
        If ``simd`` does not divide the channels (or, by columns, the kernel column), ``pixels``
        not the result's columns or ``source_pixels`` not the source's; or with ``dsp``, if the
        layer's weights are not fixed-point.
    """

    layer: Convolution | Dense
    source: TensorType
    folding: Folding
    source_pixels: int = 1
    capacity: Capacity | None = None

    def __post_init__(self) -> None:
        _integer(self.source_pixels, "source_pixels", 1, 1 << 12)
        if self.folding.dsp and not isinstance(self.layer.format, FixedFormat):
            raise ValueError(f"layer {self.layer.name!r}: multiplier blocks are for weights of "
                             f"FixedFormat, not {self.layer.format}: use dsp=False")
        folding, rows, channels = self.folding, self.rows, self.channels
        if folding.simd % rows or channels % (folding.simd // rows):
            legal = [rows * n for n in range(1, channels + 1) if channels % n == 0]
            raise ValueError(
                f"layer {self.layer.name!r}: simd={folding.simd} does not fit {channels} input "
                f"channels{' of a group' if self.layer.groups > 1 else ''}"
                f"{' by kernel columns' if folding.column else ''}; it may be one of "
                f"{', '.join(map(str, legal))}")
        columns = self.layer.output_shape(self.source.shape)[1]
        if columns % folding.pixels:
            raise ValueError(f"layer {self.layer.name!r}: pixels={folding.pixels} must divide the "
                             f"{columns} columns of its result")
        if self.source.shape[1] % self.source_pixels:
            raise ValueError(f"layer {self.layer.name!r}: source_pixels={self.source_pixels} must "
                             f"divide the {self.source.shape[1]} columns of its input")

    @property
    def term(self) -> WeightFormat:
        """Format of the layer's terms or weights."""
        return self.layer.format

    @property
    def offsets(self) -> IntArray:
        """By code, what a product of the array is more than it should be."""
        return code_offsets(self.layer.format, self.source.format, self.folding.dsp)

    @property
    def kernel(self) -> tuple[int, int]:
        """Kernel height and width; of a dense layer, its whole input map."""
        return self.layer.kernel

    @property
    def channels(self) -> int:
        """Input channels of a filter."""
        return self.layer.channels

    @property
    def rows(self) -> int:
        """Kernel rows that share a cycle."""
        return self.kernel[0] if self.folding.column else 1

    @cached_property
    def ring(self) -> Ring:
        """The buffer of the input's rows."""
        layer, folding = self.layer, self.folding
        return window_ring(
            shape=self.source.shape, kernel=self.kernel, stride=layer.stride,
            padding=layer.padding, simd=folding.simd, column=folding.column, rows=folding.rows,
            bits=self.source.format.bits, pixels=folding.pixels,
            source_pixels=self.source_pixels)

    @cached_property
    def group_passes(self) -> tuple[int, ...]:
        """Passes over each group's part of the window for each output pixel: one at least."""
        slots = self.layer.group_slots
        if not any(slots):
            return (1, *[0] * (len(slots) - 1))
        return tuple(-(-count // self.folding.lanes) for count in slots)

    @property
    def passes(self) -> int:
        """Passes for each output pixel."""
        return sum(self.group_passes)

    @property
    def words(self) -> int:
        """Words of ``simd`` inputs in a pass: cycles that it takes if nothing holds it up."""
        return self.layer.taps // self.folding.simd

    @cached_property
    def drain_program(self) -> list[tuple[bool, bool]]:
        """The drain's steps for one pixel, see :func:`drain_program`."""
        return drain_program(self.layer.k, self.folding.lanes, self.layer.groups)

    @property
    def parameter_parts(self) -> int:
        """In how many parts a loadable engine reads the parameters of a slot.

        As many as make one block RAM do, where the drain has the time for it.
        """
        assert self.capacity is not None
        parts = -(-self.capacity.word_bits // self.capacity.port)
        return parts if parts * self.folding.lanes + 1 <= self.words else 1

    @property
    def cycles_per_pixel(self) -> int:
        """Cycles between output pixels, ``M`` at a time, when nothing holds them up.

        The drain of a pass overlaps the next pass and takes a cycle for each step, so without
        pruned filters this is ``passes * max(words, lanes + 1)``. A pruned filter's step counts
        only where the drain, not the array, sets the pace.
        """
        return _cycles_per_pixel(self.layer.k, self.folding.lanes, self.words, self.layer.groups)

    @property
    def pixels(self) -> int:
        """Output pixels of one inference."""
        height, width, _ = self.layer.output_shape(self.source.shape)
        return int(height * width)

    @property
    def cycles(self) -> int:
        """Cycles in which the layer is busy for one inference."""
        return self.pixels // self.folding.pixels * self.cycles_per_pixel

    @property
    def terms(self) -> int:
        """Term-by-activation products of one inference."""
        return self.layer.slots * self.layer.taps * self.pixels

    @property
    def utilization(self) -> float:
        """Share of the lane-cycles of ``cycles`` that do a real term's work."""
        folding = self.folding
        return self.terms / (self.cycles * folding.lanes * folding.simd * folding.pixels)

    @property
    def buffer_bits(self) -> int:
        """Bits of the line buffer's memories."""
        return self.ring.banks * self.ring.lanes * self.ring.depth * self.ring.width

    @property
    def weight_read_bits(self) -> int:
        """Bits of weights read for one inference: every word once for ``M`` output pixels."""
        folding = self.folding
        words = self.pixels // folding.pixels * self.passes * self.words
        return words * folding.lanes * folding.simd * self.term.code_bits

    @cached_property
    def words_of_terms(self) -> IntArray:
        """Codes in the order of the hardware, (passes * words, lanes, simd).

        Lanes that have no slot in the last pass of a group hold zeros: no terms, or some weight
        or other.
        """
        layer, folding = self.layer, self.folding
        height, width = self.kernel
        rows, per_row = self.rows, folding.simd // self.rows
        slots = np.zeros((self.passes * folding.lanes, *layer.terms.shape[1:]), np.int64)
        slots[slot_places(layer.group_slots, folding.lanes)] = layer.terms
        # (slot, row group, row in column, column, channel word, channel) -> words x simd
        split = slots.reshape(len(slots), height // rows, rows, width, -1, per_row)
        words = split.transpose(0, 1, 3, 4, 2, 5).reshape(
            self.passes, folding.lanes, self.words, folding.simd)
        return words.transpose(0, 2, 1, 3).reshape(-1, folding.lanes, folding.simd)
