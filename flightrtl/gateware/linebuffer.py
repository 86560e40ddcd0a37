"""The line buffer behind the sliding window: its size, its writer and its reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from ..formats import ActivationFormat, signed_bits
from .pe import activation_shape

__all__ = ["Ring", "RowStep", "RowWriter", "WindowReader"]


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
    """Memories, each with every ``banks``-th row: as many as rows are read at the same time."""
    pitch: int
    """Words from one image row to the next."""
    width: int
    """Bits of a word."""

    @property
    def depth(self) -> int:
        """Words of one memory."""
        return self.rows // self.banks * self.pitch

    @classmethod
    def for_window(cls, *, columns: int, width: int, height: int, least: int = 0,
                   column: bool = False) -> Ring:
        """The ring for a kernel of some ``height`` and rows of ``columns`` words.

        Parameters
        ----------
        columns, width : int
            Words of an image row, bits of a word.
        height : int
            Kernel height.
        least : int
            Rows that it must hold in any case.
        column : bool
            Whether a whole kernel column is read at a time.
        """
        banks = 1 << ceil_log2(height) if column else 1
        ring = cls(1 << ceil_log2(max(height + 1, least)), banks, 1 << ceil_log2(columns), width)
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


class RowWriter(wiring.Component):
    """Gathers activations into words and says where each goes.

    Parameters
    ----------
    format : ActivationFormat
        Activations.
    chunk : int
        Activations in a word.
    columns : int
        Words of an image row.
    ring : Ring
        The buffer.

    Members
    -------
    valid, activation : In
        An activation, taken unless ``full``.
    full : In(1)
        No row of the buffer is free.
    word, word_done : Out
        A whole word and whether it is there; with
    column, slot : Out
        its place in the row and the row's in the ring.
    row_done : Out(1)
        That word is its row's last.
    """

    valid: Signal
    activation: Signal
    full: Signal
    word: Signal
    word_done: Signal
    row_done: Signal
    column: Signal
    slot: Signal

    def __init__(self, *, format: ActivationFormat, chunk: int, columns: int,
                 ring: Ring) -> None:
        self._chunk, self._columns = chunk, columns
        super().__init__({
            "valid": In(1), "activation": In(activation_shape(format)), "full": In(1),
            "word": Out(ring.width), "word_done": Out(1), "row_done": Out(1),
            "column": Out(exact_log2(ring.pitch)),
            "slot": Out(exact_log2(ring.rows)),
        })

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        take = Signal()
        m.d.comb += take.eq(self.valid & ~self.full)
        activation = Value.cast(self.activation).as_unsigned()
        if self._chunk == 1:
            m.d.comb += [self.word.eq(activation), self.word_done.eq(take)]
        else:
            earlier = Signal(len(self.word) - len(activation), reset_less=True)
            count = Signal(range(self._chunk))
            m.d.comb += [self.word.eq(Cat(earlier, activation)),
                         self.word_done.eq(take & (count == self._chunk - 1))]
            with m.If(take):
                m.d.sync += [earlier.eq(self.word[len(activation):]), count.eq(count + 1)]
                with m.If(count == self._chunk - 1):
                    m.d.sync += count.eq(0)
        m.d.comb += self.row_done.eq(self.word_done & (self.column == self._columns - 1))
        with m.If(self.word_done):
            m.d.sync += self.column.eq(self.column + 1)
        with m.If(self.row_done):
            m.d.sync += [self.column.eq(0), self.slot.eq(self.slot + 1)]
        return m


class WindowReader(wiring.Component):
    """Walks over windows, passes and words, and says what lies on the image.

    Parameters
    ----------
    shape : (int, int, int)
        Image height, width, channels.
    kernel, stride, padding, column, passes
        As in :class:`~flightrtl.gateware.window.SlidingWindow`.
    chunk : int
        Activations in a memory word.
    output : (int, int)
        Rows and columns of windows.
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
    valid : Out(1)
        There is a word to take; with
    column, slot : Out
        its place in the row (outside the row in the padding) and the row's in the ring,
    last : Out(1)
        whether it is its pass's last (and is taken),
    inside, real : Out
        whether its column, and each kernel row in it, lie on the image.
    released : Out
        Rows that nobody needs any more.
    """

    fetch: Signal
    row_written: Signal
    valid: Signal
    last: Signal
    inside: Signal
    real: Signal
    column: Signal
    slot: Signal
    released: Signal

    def __init__(self, *, shape: tuple[int, ...], kernel: tuple[int, ...],
                 stride: tuple[int, ...], padding: tuple[int, ...], column: bool, chunk: int,
                 passes: int, output: tuple[int, int], steps: Sequence[RowStep],
                 ring: Ring) -> None:
        self._shape, self._kernel, self._stride, self._padding = shape, kernel, stride, padding
        self._by_column, self._passes, self._output = column, passes, output
        self._steps, self._ring = list(steps), ring
        self._per_pixel = shape[2] // chunk
        lanes = kernel[0] if column else 1
        farthest = (shape[1] + padding[3] + stride[1]) * self._per_pixel
        super().__init__({
            "fetch": In(1), "row_written": In(1),
            "valid": Out(1), "last": Out(1), "inside": Out(1), "real": Out(lanes),
            "column": Out(signed(signed_bits(-padding[2] * self._per_pixel, farthest))),
            "slot": Out(exact_log2(ring.rows)), "released": Out(range(ring.rows + 1)),
        })

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        steps, per_pixel = self._steps, self._per_pixel
        run = self._kernel[1] * per_pixel  # words of a kernel row, at addresses in sequence
        kernel_rows = 1 if self._by_column else self._kernel[0]

        go = Signal()
        loops: list[Signal] = []
        wraps: list[Signal] = []
        inner: Value = Const(1)
        # Nested loops, the fastest first. That a loop is in its last round is known from a
        # register, so that all conditions are a few registers and one late `go`.
        for name, limit in (("word", run), ("kernel_row", kernel_rows),
                            ("replay", self._passes), ("across", self._output[1]),
                            ("row", len(steps))):
            count = Signal(range(limit), name=name)
            at_end = Signal(name=f"{name}_at_end", init=limit == 1)
            ends = Signal(name=f"{name}_ends")
            wrap = Signal(name=f"{name}_wraps")
            m.d.comb += [ends.eq(inner & at_end), wrap.eq(go & ends)]
            if limit > 1:
                with m.If(go & inner):
                    m.d.sync += [count.eq(Mux(at_end, 0, count + 1)),
                                 at_end.eq(count == limit - 2)]
            loops.append(count)
            wraps.append(wrap)
            inner = ends
        run_wraps, pass_ends, window_ends, row_ends, image_ends = wraps
        _, kernel_row, _, _, row = loops
        m.d.comb += self.last.eq(pass_ends)

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
        m.d.sync += slack.eq(slack + self.row_written - Mux(row_ends, less, 0))

        # Columns: a run starts at the window's left edge, which may lie in the padding.
        edge = Signal.like(self.column, init=-self._padding[2] * per_pixel)
        column = Signal.like(edge)
        following = Signal.like(edge)
        m.d.comb += following.eq(edge + self._stride[1] * per_pixel)
        with m.If(go):
            m.d.sync += column.eq(column + 1)
        with m.If(run_wraps):
            m.d.sync += column.eq(edge)
        with m.If(window_ends):
            m.d.sync += [edge.eq(following), column.eq(following)]
        with m.If(row_ends):
            m.d.sync += [edge.eq(edge.init), column.eq(edge.init)]
        m.d.comb += [self.column.eq(column),
                     self.inside.eq((column >= 0) & (column < self._shape[1] * per_pixel))]

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
