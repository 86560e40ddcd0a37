"""How a layer is computed with frame-based weight reuse, and what follows in bits and cycles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..formats import IntArray, WeightFormat, _integer
from ..model import Convolution, Dense, TensorType
from .delayline import DelayLine
from .flash import Flash
from .processing import code_offsets, processing_element

__all__ = ["Framed", "FramedLayer"]


@dataclass(frozen=True)
class Framed:
    """That a layer reads each weight once per image, in place of a folding.

    Parameters
    ----------
    lanes : int
        Slots (term planes) computed at the same time, ``P``.
    simd : int
        Channels of an input pixel that each lane takes per cycle, ``S``; divides the channels.
    frames : int
        Input maps that there is room for: with 2 the next image arrives while one is computed,
        with 1 afterwards.
    external : bool
        Whether the weights come from outside, over a stream of their own, and not from block RAM.
    flash : Flash, optional
        Where they are in an SPI flash, if they come from there.
    """

    lanes: int
    simd: int
    frames: int = 1
    external: bool = False
    flash: Flash | None = None

    def __post_init__(self) -> None:
        _integer(self.lanes, "lanes", 1, 1 << 16)
        _integer(self.simd, "simd", 1, 1 << 16)
        _integer(self.frames, "frames", 1, 2)
        if not isinstance(self.external, bool):
            raise TypeError(f"external must be True or False, not {self.external!r}")
        if self.flash is not None and not isinstance(self.flash, Flash):
            raise TypeError(f"flash must be a Flash or None, not {self.flash!r}")
        if self.flash is not None and self.external:
            raise ValueError("weights come from a flash or over a stream: leave out flash or "
                             "external")

    @property
    def pixels(self) -> int:
        """Output pixels that leave at the same time."""
        return 1


@dataclass(frozen=True, eq=False)
class FramedLayer:
    """A layer with frame-based weight reuse: its schedule, words, bits and cycles.

    A filter's slots run on one lane, in passes one after the other, and so add up in its
    accumulator. Filters go to the lane that is free first, those with the most terms before the
    others: a layer takes ``ceil(sum(k) / lanes)`` passes, or hardly more. In a pass, every weight
    word is used for all output pixels before the next one.

    Parameters
    ----------
    layer : Convolution or Dense
        The layer.
    source : TensorType
        What feeds it, pixel by pixel.
    framed : Framed
        How it is computed.
    register : bool
        A register behind each memory; it counts in :attr:`cycles` and in
        :attr:`partial_sum_bits`.

    Raises
    ------
    ValueError
        If ``simd`` does not divide the channels, or the layer has groups of channels.
    """

    layer: Convolution | Dense
    source: TensorType
    framed: Framed
    register: bool = False

    def __post_init__(self) -> None:
        channels = self.layer.channels
        if self.layer.groups > 1:
            raise ValueError(f"layer {self.layer.name!r}: it has {self.layer.groups} groups of "
                             "channels, and a frame engine takes all channels: use a Folding")
        if channels % self.framed.simd:
            legal = [n for n in range(1, channels + 1) if channels % n == 0]
            raise ValueError(
                f"layer {self.layer.name!r}: simd={self.framed.simd} does not fit {channels} "
                f"input channels; it may be one of {', '.join(map(str, legal))}")

    @property
    def term(self) -> WeightFormat:
        """Format of the layer's terms or weights."""
        return self.layer.format

    @property
    def offsets(self) -> IntArray:
        """By code, what a product of the array is more than it should be."""
        return code_offsets(self.layer.format, self.source.format, False)

    @property
    def words(self) -> int:
        """Weight words of a pass."""
        return self.layer.taps // self.framed.simd

    @property
    def word_bits(self) -> int:
        """Of a weight word, for all lanes."""
        return self.framed.lanes * self.framed.simd * self.term.code_bits

    @property
    def pixels(self) -> int:
        """Output pixels of one inference."""
        height, width, _ = self.layer.output_shape(self.source.shape)
        return int(height * width)

    @cached_property
    def lane_slots(self) -> list[list[int]]:
        """For each lane, its slots, pass by pass."""
        layer = self.layer
        first = np.cumsum([0, *layer.k])
        lanes: list[list[int]] = [[] for _ in range(self.framed.lanes)]
        for index in sorted(range(layer.filters), key=lambda index: -layer.k[index]):
            lane = min(lanes, key=len)
            lane += range(first[index], first[index + 1])
        return lanes

    @property
    def passes(self) -> int:
        """Passes over the frame."""
        return max(1, *map(len, self.lane_slots))

    @cached_property
    def drain(self) -> list[list[tuple[bool, int | None]]]:
        """For each pass, step by step, what leaves after it, for each pixel.

        A step is whether it takes a lane's sum, and the filter that it gives, if it gives one:
        those that are pruned take none. Lanes that do not end a filter are taken too, but give
        nothing. After passes in which no filter ends there are no steps.
        """
        layer, lanes = self.layer, self.framed.lanes
        ends: list[list[int | None]] = [[None] * lanes for _ in range(self.passes)]
        for lane, slots in enumerate(self.lane_slots):
            for number, slot in enumerate(slots):
                index = int(layer.slot_filter[slot])
                if slot == len(layer.slot_filter) - 1 or layer.slot_filter[slot + 1] != index:
                    ends[number][lane] = index
        drain: list[list[tuple[bool, int | None]]] = [
            [(True, index) for index in step]
            if number == self.passes - 1 or step != [None] * lanes else []
            for number, step in enumerate(ends)]
        drains = [steps for steps in drain if steps]
        pruned = [index for index, terms in enumerate(layer.k) if terms == 0]
        for number, index in enumerate(pruned):
            drains[number % len(drains)].append((False, index))
        return drain

    @property
    def order(self) -> list[list[int]]:
        """Filters in the order in which they are computed, for each pass that gives some."""
        groups = [[index for _, index in steps if index is not None] for steps in self.drain]
        return [group for group in groups if group]

    @property
    def in_order(self) -> bool:
        """Whether results leave in the order of a map, so that none has to wait for another."""
        order = self.order
        filters = [index for group in order for index in group]
        return filters == sorted(filters) and (len(order) == 1 or self.pixels == 1)

    @property
    def complete(self) -> list[int]:
        """By pass with a drain, bit by bit, the lanes that start again from 0 after it."""
        lanes = self.framed.lanes
        masks = [sum(1 << lane for lane in range(lanes) if steps[lane][1] is not None)
                 for steps in self.drain if steps]
        # What lanes without a slot have added up is nothing that the next image may start from.
        masks[-1] = (1 << lanes) - 1
        return masks

    @cached_property
    def words_of_terms(self) -> IntArray:
        """Codes in the order in which they are needed, (passes * words, lanes, simd).

        By kernel row, kernel column, channel. Lanes without a slot hold zeros: no terms, or some
        weight or other.
        """
        layer, framed = self.layer, self.framed
        terms = np.zeros((self.passes, framed.lanes, layer.taps), np.int64)
        for lane, slots in enumerate(self.lane_slots):
            terms[:len(slots), lane] = layer.terms[slots].reshape(len(slots), layer.taps)
        words = terms.reshape(self.passes, framed.lanes, self.words, framed.simd)
        return words.transpose(0, 2, 1, 3).reshape(-1, framed.lanes, framed.simd)

    @property
    def frame_bits(self) -> int:
        """Bits of the memory of input maps."""
        return self.framed.frames * self.source.size * self.source.format.bits

    def partial_sum_bits(self, width: int) -> int:
        """Bits of the memory of partial sums of ``width`` bits: a few more are in registers."""
        words = DelayLine.words_of(self.pixels - 1, self.register) if self.pixels > 1 else 0
        return words * self.framed.lanes * width

    @property
    def reorder_bits(self) -> int:
        """Bits of the memory in which results wait for their turn."""
        return 0 if self.in_order else (
            self.pixels * self.layer.filters * self.layer.output.bits)

    def buffer_bits(self, width: int) -> int:
        """Bits of all memories but the weights', for sums of ``width`` bits."""
        return self.frame_bits + self.partial_sum_bits(width) + self.reorder_bits

    @property
    def weight_read_bits(self) -> int:
        """Bits of weights read for one inference: every word once."""
        return self.passes * self.words * self.word_bits

    @property
    def stages(self) -> int:
        """Pixels on their way from the frame's memory to the accumulators."""
        element = processing_element(self.term, simd=self.framed.simd,
                                     activation=self.source.format)
        return 2 + self.register + element.latency

    def _add(self, now: int, free: int, taken: int) -> tuple[list[tuple[int, int, int]],
                                                              int, int, int]:
        """When an image's pixels are added up: runs of them, as (first, step, how many).

        And what is to know for the next image: the cycle of the last one, and from when on the
        chain of sums is free and the drain behind it. Both are what holds pixels up: a pixel's
        sums leave one lane per cycle, and only then can the next ones take their place.
        """
        lanes, pixels = self.framed.lanes, self.pixels
        runs: list[tuple[int, int, int]] = []
        for steps in self.drain:
            ahead = pixels * (self.words - bool(steps))
            runs.append((now + 1, 1, ahead))
            now += ahead
            if steps:
                constants = len(steps) - lanes
                step = lanes + max(1, constants)
                now = max(now + 1, free)
                runs.append((now, 1, 1))
                first = max(now + 1, taken)
                last = first + (pixels - 1) * step
                if pixels > 1:
                    runs.append((first + lanes, step, pixels - 1))
                    now = last - step + lanes
                free, taken = last + lanes, last + lanes + constants
        return runs, now, free, taken

    @cached_property
    def compute_cycles(self) -> int:
        """Cycles between images if the next one is always there.

        ``passes * pixels * words``, and ``lanes`` more for each pixel after a pass in which
        filters end, but for the last pixel of a pass, whose sums leave during the next.
        """
        state = 0, 0, 0
        for _ in range(3):
            before = state
            _, *found = self._add(*before)
            state = found[0], found[1], found[2]
        return state[0] - before[0]

    @cached_property
    def cycles(self) -> int:
        """Cycles between images, if neither they nor their results are held up.

        With two frames, an image is computed while the next one arrives; with one they take
        turns: the next one arrives from the last read of the frame on. With a flash it is at
        least that, and at least as long as the flash takes; if both are near to each other the
        engine may wait now for one and now for the other.
        """
        flash = self.framed.flash
        words = flash.cycles(self.passes * self.words, -(-self.word_bits // 8)) if flash else 0
        return max(self._cycles, words)

    @property
    def _cycles(self) -> int:
        """The same with weights that are always there."""
        simd, size = self.framed.simd, self.source.size
        if self.framed.frames == 2:
            return max(size, self.compute_cycles)
        read, state = 0, (0, 0, 0)
        for _ in range(4):
            before = read
            runs, *found = self._add(max(read + self.stages - 1, state[0]), *state[1:])
            state = found[0], found[1], found[2]
            # The last pixel is read when so many before it are still on their way.
            left, last = self.stages, read + self.passes * self.words * self.pixels - 1
            for first, step, count in reversed(runs):
                if left < count:
                    last = first + (count - 1 - left) * step
                    break
                left -= count
            read = max(last + 2 + size - simd, read + size)
        return read - before

    @property
    def terms(self) -> int:
        """Term-by-activation products of one inference."""
        return self.layer.slots * self.layer.taps * self.pixels

    @property
    def utilization(self) -> float:
        """Share of the lane-cycles of ``cycles`` that do a real term's work."""
        return self.terms / (self.cycles * self.framed.lanes * self.framed.simd)
