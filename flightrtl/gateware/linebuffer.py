"""The line buffer behind the sliding window: its size, its writer and its reader."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import Any, NamedTuple

from amaranth import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from ..formats import ActivationFormat, signed_bits
from .loops import nested_loops

__all__ = ["Ring", "RowStep", "RowWriter", "WindowReader", "row_steps", "window_ring"]


class Ring(NamedTuple):
    """Size of the buffer of a :class:`SlidingWindow`.

    Rows and words of a row are powers of two, so that no address is multiplied or wrapped by
    comparison. ``kernel height + 1`` rows let a row arrive while windows are read. Up to twice
    the kernel's height, with which an image does not wait for the one before it, they are
    doubled as long as that is free: a block RAM has at least ``4096 / width`` words, 256 on.
    """

    rows: int
    """Image rows."""
    banks: int
    """Memories that rows are dealt to in turn: as many as are read at the same time."""
    pitch: int
    """Words from one image row to the next, in one memory."""
    width: int
    """Bits of a word."""
    lanes: int = 1
    """Memories that the pixels of a row are dealt to in turn; ``banks`` times as many in all."""

    @property
    def depth(self) -> int:
        """Words of one memory."""
        return self.rows // self.banks * self.pitch

    @classmethod
    def for_window(cls, *, columns: int, width: int, height: int, least: int = 0,
                   column: bool = False, lanes: int = 1) -> Ring:
        """The ring for a kernel of some ``height`` and rows of ``columns`` words.

        Parameters
        ----------
        columns, width : int
            Words of an image row in a memory, bits of a word.
        height : int
            Kernel height.
        least : int
            Rows that it must hold in any case.
        column : bool
            Whether a whole kernel column is read at a time.
        lanes : int
            Memories that share a row.
        """
        banks = 1 << ceil_log2(height) if column else 1
        ring = cls(1 << ceil_log2(max(height + 1, least)), banks, 1 << ceil_log2(columns), width,
                   lanes)
        free = max(256, min(2048, 4096 >> ceil_log2(width)))
        while ring.rows < 2 * height and 2 * ring.depth <= free:
            ring = ring._replace(rows=2 * ring.rows)
        return ring


class RowStep(NamedTuple):
    """What one row of windows needs of the buffer."""

    rows: int
    """Image rows that must be in the buffer before the row of windows starts."""
    release: int
    """Image rows that nobody needs after it."""
    real: int
    """Bit ``n``: kernel row ``n`` lies on the image, not on padding."""


def row_steps(height: int, kernel: int, stride: int, top: int, rows: int) -> list[RowStep]:
    """What each row of windows needs, from the top of the image down.

    Parameters
    ----------
    height, kernel, stride, top : int
        Image rows, kernel rows, rows from window to window, rows of padding above.
    rows : int
        Rows of windows.
    """
    steps = []
    for row in range(rows):
        first = row * stride - top
        end = min(first + kernel, height)
        following = max(first + stride, 0)
        if row == rows - 1:
            end = following = height  # rows that no window reaches go too
        real = sum(1 << n for n in range(kernel) if 0 <= first + n < height)
        steps.append(RowStep(end - max(first, 0), following - max(first, 0), real))
    return steps


def window_ring(*, shape: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...],
                padding: tuple[int, ...], simd: int, column: bool, rows: int, bits: int,
                pixels: int, source_pixels: int) -> Ring:
    """The buffer of a window with these parameters of ``SlidingWindow``, ``bits`` an activation.

    Of several windows side by side, the pixels lie in different memories; and so do the pixels
    that arrive at the same time.
    """
    height, width, channels = shape
    chunk = simd // (kernel[0] if column else 1)
    outputs = (height + padding[0] + padding[1] - kernel[0]) // stride[0] + 1
    # Rows at the bottom that are in no window must pass through all the same.
    most = max(rows, *(max(step.rows, step.release) for step in row_steps(
        height, kernel[0], stride[0], padding[0], outputs)))
    lanes = lcm(stride[1] * pixels if pixels > 1 else 1, source_pixels)
    return Ring.for_window(columns=-(-width // lanes) * (channels // chunk), width=chunk * bits,
                           height=kernel[0], least=most, column=column, lanes=lanes)


class RowWriter(wiring.Component):
    """Gathers activations into words and says where each goes.

    Parameters
    ----------
    format : ActivationFormat
        Activations.
    chunk : int
        Activations in a word.
    pixels : int
        Pixels that arrive at the same time, each its channels one by one. Divides ``ring.lanes``.
    per_pixel : int
        Words of a pixel.
    width : int
        Pixels of an image row.
    ring : Ring
        The buffer.

    Members
    -------
    valid, activations : In
        ``pixels`` activations, taken unless ``full``.
    full : In(1)
        No row of the buffer is free.
    words, word_done : Out
        ``pixels`` whole words and whether they are there; with
    lane, column, slot : Out
        which group of ``pixels`` memories they go to, their place there and the row's in the
        ring.
    row_done : Out(1)
        That word is its row's last.
    """

    valid: Signal
    activations: Signal
    full: Signal
    words: Signal
    word_done: Signal
    row_done: Signal
    lane: Signal
    column: Signal
    slot: Signal

    def __init__(self, *, format: ActivationFormat, chunk: int, pixels: int, per_pixel: int,
                 width: int, ring: Ring) -> None:
        self._bits, self._chunk, self._pixels = format.bits, chunk, pixels
        self._per_pixel, self._width = per_pixel, width
        self._groups = ring.lanes // pixels
        super().__init__({
            "valid": In(1), "activations": In(format.bits * pixels), "full": In(1),
            "words": Out(ring.width * pixels), "word_done": Out(1), "row_done": Out(1),
            "lane": Out(range(self._groups)), "column": Out(exact_log2(ring.pitch)),
            "slot": Out(exact_log2(ring.rows)),
        })

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        take = Signal()
        m.d.comb += take.eq(self.valid & ~self.full)
        if self._chunk == 1:
            m.d.comb += [self.words.eq(self.activations), self.word_done.eq(take)]
        else:
            count = Signal(range(self._chunk))
            m.d.comb += self.word_done.eq(take & (count == self._chunk - 1))
            parts: list[Value] = []
            for pixel in range(self._pixels):
                earlier = Signal(self._bits * (self._chunk - 1), reset_less=True,
                                 name=f"earlier_{pixel}" if self._pixels > 1 else "earlier")
                word = Cat(earlier, self.activations.word_select(pixel, self._bits))
                parts.append(word)
                with m.If(take):
                    m.d.sync += earlier.eq(word[self._bits:])
            m.d.comb += self.words.eq(Cat(*parts))
            with m.If(take):
                m.d.sync += count.eq(count + 1)
                with m.If(count == self._chunk - 1):
                    m.d.sync += count.eq(0)
        groups, per_pixel = self._groups, self._per_pixel
        # The last word's place: rows need not fill all memories to the same column.
        turns = self._width // self._pixels
        columns = -(-turns // groups) * per_pixel
        m.d.comb += self.row_done.eq(self.word_done & (self.column == columns - 1)
                                     & (self.lane == (turns - 1) % groups))
        with m.If(self.word_done):
            m.d.sync += self.column.eq(self.column + 1)
        if groups > 1:
            # A pixel's words go to one memory; the next pixel's to the next, at the same place.
            pixel_ends = Signal()
            first = Signal.like(self.column)
            if per_pixel == 1:
                m.d.comb += pixel_ends.eq(self.word_done)
            else:
                number = Signal(range(per_pixel))
                m.d.comb += pixel_ends.eq(self.word_done & (number == per_pixel - 1))
                with m.If(self.word_done):
                    m.d.sync += number.eq(Mux(pixel_ends, 0, number + 1))
            with m.If(pixel_ends):
                with m.If(self.lane == groups - 1):
                    m.d.sync += [self.lane.eq(0), first.eq(self.column + 1)]
                with m.Else():
                    m.d.sync += [self.lane.eq(self.lane + 1), self.column.eq(first)]
            with m.If(self.row_done):
                m.d.sync += [self.lane.eq(0), first.eq(0)]
        with m.If(self.row_done):
            m.d.sync += [self.column.eq(0), self.slot.eq(self.slot + 1)]
        return m


class WindowReader(wiring.Component):
    """Walks over windows, passes and words, and says what lies on the image.

    Parameters
    ----------
    shape : (int, int, int)
        Image height, width, channels.
    kernel, stride, padding, column
        As in :class:`~flightrtl.gateware.window.SlidingWindow`.
    passes : sequence of int
        For each group of channels; one of them at least is not 0.
    chunk : int
        Activations in a memory word.
    output : (int, int)
        Rows and columns of windows.
    pixels : int
        Windows at the same time, neighbours in a row.
    steps : sequence of RowStep
        What each row of windows needs.
    ring : Ring
        The buffer.

    Members
    -------
    fetch : In(1)
        The memory's register takes a word.
    row_written : In(1)
        A row of the image is complete.
    groups_on : In
        How many groups of channels the next pass is further on, at the end of a pass that is not
        its window's last: entry by entry of :attr:`moves`.
    pass_done : Out(1)
        A pass ends.
    valid : Out(1)
        There is a word to take; with
    columns, slot : Out
        its place in each of the memories that share a row (outside the row in the padding) and
        the row's in the ring,
    lane : Out
        the memory that has the first window's pixel; the next window's is ``stride`` on,
    last : Out(1)
        whether it is its pass's last (and is taken),
    inside, real : Out
        whether each window's column, and each kernel row in it, lie on the image.
    released : Out
        Rows that nobody needs any more.
    """

    fetch: Signal
    row_written: Signal
    groups_on: Signal
    pass_done: Signal
    valid: Signal
    last: Signal
    inside: Signal
    real: Signal
    columns: Signal
    lane: Signal
    slot: Signal
    released: Signal

    def __init__(self, *, shape: tuple[int, ...], kernel: tuple[int, ...],
                 stride: tuple[int, ...], padding: tuple[int, ...], column: bool, chunk: int,
                 passes: Sequence[int], output: tuple[int, int], pixels: int,
                 steps: Sequence[RowStep], ring: Ring) -> None:
        self._shape, self._kernel, self._stride, self._padding = shape, kernel, stride, padding
        self._by_column, self._passes, self._output = column, sum(passes), output
        self._steps, self._ring, self._pixels = list(steps), ring, pixels
        self._per_pixel = shape[2] // chunk
        self._per_group = self._per_pixel // len(passes)
        groups = [group for group, count in enumerate(passes) for _ in range(count)]
        self._first, self._last = groups[0], groups[-1]
        self.moves = [after - before for before, after in zip(groups, groups[1:], strict=False)]
        """Groups from each pass of a window to the next one."""
        lanes = kernel[0] if column else 1
        self._address_bits = exact_log2(ring.pitch)
        super().__init__({
            "fetch": In(1), "row_written": In(1),
            "groups_on": In(range(max(self.moves, default=0) + 1)), "pass_done": Out(1),
            "valid": Out(1), "last": Out(1), "inside": Out(pixels), "real": Out(lanes),
            "columns": Out(self._address_bits * ring.lanes), "lane": Out(range(ring.lanes)),
            "slot": Out(exact_log2(ring.rows)), "released": Out(range(ring.rows + 1)),
        })

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        steps = self._steps
        run = self._kernel[1] * self._per_group     # words of a kernel row
        kernel_rows = 1 if self._by_column else self._kernel[0]

        go = Signal()
        loops, _, ends = nested_loops(m, go, [
            ("word", run), ("kernel_row", kernel_rows), ("replay", self._passes),
            ("across", self._output[1] // self._pixels), ("row", len(steps))])
        run_wraps, pass_ends, window_ends, row_ends, image_ends = (go & each for each in ends)
        _, kernel_row, _, _, row = loops
        m.d.comb += [self.last.eq(pass_ends), self.pass_done.eq(pass_ends)]

        # Complete rows beyond those that this row of windows needs: negative means wait.
        rows = self._ring.rows
        slack = Signal(signed(signed_bits(-rows, rows)), init=-steps[0].rows)
        m.d.comb += [self.valid.eq(slack >= 0), go.eq(self.fetch & self.valid)]
        changes = [(step.release, step.release + following.rows - step.rows, step.real)
                   for step, following in zip(steps, [*steps[1:], steps[0]], strict=True)]
        usual = max(set(changes), key=changes.count)
        release, less = Signal(range(rows + 1)), Signal.like(slack)
        real = Signal(self._kernel[0])
        with m.Switch(row):
            for number, change in enumerate(changes):
                if change != usual:
                    with m.Case(number):
                        m.d.comb += [signal.eq(value) for signal, value
                                     in zip((release, less, real), change, strict=True)]
            with m.Default():
                m.d.comb += [signal.eq(value) for signal, value
                             in zip((release, less, real), usual, strict=True)]
        m.d.comb += self.released.eq(Mux(row_ends, release, 0))
        # Both sums before the late `row_ends` chooses one.
        m.d.sync += slack.eq(Mux(row_ends, slack + self.row_written - less,
                                 slack + self.row_written))

        self._walk_columns(m, go, run_wraps, pass_ends, window_ends, row_ends)

        # Rows: the ring's slot of the kernel row, modulo the ring's size.
        base = Signal.like(self.slot, init=-self._padding[0] % self._ring.rows)
        slot = Signal.like(base)
        next_base = Signal.like(base)
        climbed = (len(steps) - 1) * self._stride[0]
        m.d.comb += next_base.eq(base + Mux(image_ends, self._shape[0] - climbed,
                                            self._stride[0]))
        with m.If(run_wraps):
            m.d.sync += slot.eq(slot + 1)
        with m.If(pass_ends):
            m.d.sync += slot.eq(base)
        with m.If(row_ends):
            m.d.sync += [base.eq(next_base), slot.eq(next_base)]
        m.d.comb += self.slot.eq(slot)
        if self._by_column:
            m.d.comb += self.real.eq(real)
        else:
            m.d.comb += self.real.eq(real.bit_select(kernel_row, 1))
        return m

    def _walk_columns(self, m: Module, go: Signal, *ends: Value) -> None:
        """Where in a row the word lies: a run starts at the left edge, perhaps in the padding.

        With several groups of channels, a pixel's words are those of the first group, then those
        of the next, and so on.
        """
        per_pixel, per_group, width = self._per_pixel, self._per_group, self._shape[1]
        start, back = self._first * per_group, (self._last - self._first) * per_group
        stride, lanes = self._stride[1] * self._pixels, self._ring.lanes
        left = -self._padding[2]
        # Words from the row's start, as if one memory had them all: what lies on the image.
        farthest = (width + self._padding[3] + stride) * per_pixel + back
        column = Signal(signed(signed_bits(left * per_pixel, farthest)), name="column",
                        init=left * per_pixel + start)
        edge = Signal.like(column, name="edge")
        following = Signal.like(column, name="following")
        m.d.comb += following.eq(edge + stride * per_pixel - back)
        pixel_ends = Signal()
        if per_group == 1:
            m.d.comb += pixel_ends.eq(1)
        elif lanes > 1 or per_group < per_pixel:
            number = Signal(range(per_group))
            m.d.comb += pixel_ends.eq(number == per_group - 1)
            with m.If(go):
                m.d.sync += number.eq(Mux(pixel_ends, 0, number + 1))
        skip = per_pixel - per_group        # the words of the other groups
        onward = Mux(pixel_ends, column + skip + 1, column + 1) if skip else column + 1
        self._walk(m, column, edge, following, onward, go, *ends, per_group=per_group)
        for pixel in range(self._pixels):
            ahead = pixel * self._stride[1] * per_pixel
            m.d.comb += self.inside[pixel].eq((column >= -ahead)
                                              & (column < width * per_pixel - ahead))
        if lanes == 1:
            m.d.comb += self.columns.eq(column[:self._address_bits])
            return

        # The same in one of several memories: a place there, and which one it is.
        place = Signal(signed(max(column.shape().width, self._address_bits + 1)), name="place",
                       init=(left // lanes) * per_pixel + start)
        lane = Signal(range(lanes), name="lane_now", init=left % lanes)
        first = Signal.like(place, name="place_at_edge")
        first_lane = Signal.like(lane, name="lane_at_edge")
        next_first, next_lane = Signal.like(place), Signal.like(lane)
        whole, rest = divmod(stride, lanes)
        turns = Signal()
        m.d.comb += [
            turns.eq(first_lane >= lanes - rest if rest else 0),
            next_lane.eq(Mux(turns, first_lane - (lanes - rest), first_lane + rest)),
            next_first.eq(first + whole * per_pixel + Mux(turns, per_pixel, 0) - back),
        ]
        leaves = Signal()       # for the first memory, where the next words of pixels lie
        m.d.comb += leaves.eq(lane == lanes - 1)
        onward = Mux(pixel_ends & leaves, place + skip + 1, place + 1) if skip else place + 1
        onward = Mux(pixel_ends & ~leaves, place - (per_group - 1), onward)
        self._walk(m, place, first, next_first, onward, go, *ends, per_group=per_group)
        self._walk(m, lane, first_lane, next_lane,
                   Mux(pixel_ends, Mux(leaves, 0, lane + 1), lane), go, *ends)
        m.d.comb += self.lane.eq(lane)
        # Windows further right may already be in the next word of pixels.
        later = Signal(self._address_bits, name="later")
        m.d.comb += later.eq(place + per_pixel)
        for memory in range(lanes):
            m.d.comb += self.columns.word_select(memory, self._address_bits).eq(
                Mux(lane > memory, later, place[:self._address_bits]))

    def _walk(self, m: Module, now: Signal, edge: Signal, following: Signal, onward: Value,
              go: Signal, run_wraps: Value, pass_ends: Value, window_ends: Value,
              row_ends: Value, *, per_group: int = 0) -> None:
        """A coordinate that goes on with each word and back to the window's edge after a run.

        The edge is that of a group of channels: with ``per_group``, passes move it.
        """
        with m.If(go):
            m.d.sync += now.eq(onward)
        with m.If(run_wraps):
            m.d.sync += now.eq(edge)
        if per_group and any(self.moves):
            moved = Signal.like(edge, name=f"{edge.name}_moved")
            m.d.comb += moved.eq(edge + self.groups_on * per_group)
            with m.If(pass_ends):
                m.d.sync += [edge.eq(moved), now.eq(moved)]
        with m.If(window_ends):
            m.d.sync += [edge.eq(following), now.eq(following)]
        with m.If(row_ends):
            m.d.sync += [edge.eq(edge.init), now.eq(edge.init)]
