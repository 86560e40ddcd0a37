"""The sliding window: a line buffer that turns a raster of pixels into kernel windows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from amaranth import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, _integer, signed_bits
from .pe import activation_shape

__all__ = ["Ring", "RowStep", "SlidingWindow"]


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


class SlidingWindow(wiring.Component):
    """Windows of an image that arrives pixel by pixel, each replayed ``passes`` times.

    The buffer is a ring of image rows in block RAM. Windows of one row of output are read while
    the rows below it are still arriving, and a new image may follow the last without a gap.
    Padding is never stored: a word that falls outside the image is forced to zero on its way
    out.

    Cost: the block RAM of a :class:`Ring`; a register of ``simd`` activations on either side
    of it, and by columns a multiplexer of its banks; counters.
    Latency: an output row starts when the last image row that it needs is in; its first word is
    valid 3 cycles after the last activation of that row. Throughput: a word per cycle,
    a new activation per cycle.

    Parameters
    ----------
    shape : (int, int, int)
        Image height, width, channels.
    kernel, stride : (int, int)
        Vertical, horizontal.
    padding : (int, int, int, int)
        Rows above and below, columns left and right; each less than the kernel.
    simd : int
        Activations in a word.
    column : bool
        False: a word is ``simd`` channels of a pixel, and words come by kernel row, kernel
        column, channel. True: a word is ``simd / kernel_height`` channels of each pixel of a
        kernel column (upper pixel in the lower bits), and words come by kernel column, channel.
    passes : int
        How often each window is replayed before the next one.
    rows : int
        Image rows that the buffer holds at least; 0 for as many as the kernel needs.
    register : bool
        One more register behind the memory, for the slow block RAM of ECP5, see
        :class:`~flightrtl.gateware.weights.RomStream`. Adds 1 cycle of latency.
    format : ActivationFormat
        Activations.

    Members
    -------
    i : In(stream) of the activation's shape
        The image by row, column, channel.
    o : Out(stream) of struct
        ``activations``: a word; ``last``: 1 on a pass's last word.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, shape: tuple[int, int, int], kernel: tuple[int, int], simd: int,
                 stride: tuple[int, int] = (1, 1),
                 padding: tuple[int, int, int, int] = (0, 0, 0, 0), column: bool = False,
                 passes: int = 1, rows: int = 0, register: bool = False,
                 format: ActivationFormat = ActivationFormat()) -> None:
        self.shape = tuple(_integer(n, "shape", 1, 1 << 16) for n in shape)
        self.kernel = tuple(_integer(n, "kernel", 1, 1 << 16) for n in kernel)
        self.stride = tuple(_integer(n, "stride", 1, 1 << 16) for n in stride)
        self.padding = tuple(_integer(n, "padding", 0, 1 << 16) for n in padding)
        self.simd = _integer(simd, "simd", 1, 1 << 16)
        self.passes = _integer(passes, "passes", 1, 1 << 32)
        _integer(rows, "rows", 0, 1 << 16)
        self.column = column
        self.register = register
        self.format = format
        (height, width, channels), (top, bottom, left, right) = self.shape, self.padding
        spare = (height + top + bottom - self.kernel[0], width + left + right - self.kernel[1])
        if min(spare) < 0:
            raise ValueError(f"kernel {self.kernel} is larger than the padded image "
                             f"{height + top + bottom} x {width + left + right}")
        if max(top, bottom) >= self.kernel[0] or max(left, right) >= self.kernel[1]:
            raise ValueError(f"padding {self.padding} must be less than the kernel {self.kernel}")
        lanes = self.kernel[0] if column else 1
        if self.simd % lanes or channels % (self.simd // lanes):
            raise ValueError(f"simd={simd} must divide the {channels} channels"
                             f"{f' times {lanes} kernel rows' if column else ''}")
        self.chunk = self.simd // lanes
        """Channels of one pixel in a word."""
        self.output = (spare[0] // self.stride[0] + 1, spare[1] // self.stride[1] + 1)
        self.steps = self._row_steps()
        """What each output row needs of the buffer, from the top of the image down."""
        self.columns = width * channels // self.chunk
        """Memory words of an image row."""
        # Rows at the bottom that are in no window must pass through all the same.
        most = max(rows, *(max(step.rows, step.release) for step in self.steps))
        self.ring = Ring.for_window(columns=self.columns, width=self.chunk * format.bits,
                                    height=self.kernel[0], least=most, column=column)
        super().__init__({
            "i": In(stream.Signature(activation_shape(format))),
            "o": Out(stream.Signature(data.StructLayout({
                "activations": data.ArrayLayout(activation_shape(format), self.simd),
                "last": 1,
            }))),
        })

    @property
    def words(self) -> int:
        """Words of one pass."""
        taps = self.kernel[0] * self.kernel[1] * self.shape[2]
        return taps // self.simd

    def compute(self, images: ArrayLike) -> IntArray:
        """Words of (n, height, width, channels) images: (n, rows, columns, words, simd).

        The replays are left out.
        """
        top, bottom, left, right = self.padding
        padded = np.pad(np.asarray(images, np.int64),
                        ((0, 0), (top, bottom), (left, right), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.kernel, axis=(1, 2))
        windows = windows[:, ::self.stride[0], ::self.stride[1]].transpose(0, 1, 2, 4, 5, 3)
        n, rows, columns = windows.shape[:3]
        high = self.kernel[0] if self.column else 1
        split = windows.reshape(n, rows, columns, self.kernel[0] // high, high, self.kernel[1],
                                -1, self.chunk)
        return split.transpose(0, 1, 2, 3, 5, 6, 4, 7).reshape(n, rows, columns, -1, self.simd)

    def _row_steps(self) -> list[RowStep]:
        height, top, steps = self.shape[0], self.padding[0], []
        for row in range(self.output[0]):
            first = row * self.stride[0] - top
            end = min(first + self.kernel[0], height)
            following = max(first + self.stride[0], 0)
            if row == self.output[0] - 1:
                end = following = height  # rows that no window reaches go too
            real = sum(1 << n for n in range(self.kernel[0]) if 0 <= first + n < height)
            steps.append(RowStep(end - max(first, 0), following - max(first, 0), real))
        return steps

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.writer = writer = _Writer(self)
        m.submodules.reader = reader = _Reader(self)

        # Rows that are complete and not yet released.
        used = Signal(range(self.ring.rows + 1))
        m.d.sync += used.eq(used + writer.row_done - reader.released)
        m.d.comb += [
            writer.full.eq(used == self.ring.rows),
            reader.row_written.eq(writer.row_done),
            writer.valid.eq(self.i.valid),
            writer.activation.eq(self.i.payload),
            self.i.ready.eq(~writer.full),
        ]
        ring = self.ring
        slot_bits, bank_bits = exact_log2(ring.rows), exact_log2(ring.banks)
        data_out = []
        for bank in range(ring.banks):
            ram: memory.Memory[Any, Any] = memory.Memory(
                shape=ring.width, depth=ring.depth, init=[], attrs={"no_rw_check": "1"})
            m.submodules[f"ram_{bank}"] = ram
            write, read = ram.write_port(), ram.read_port(domain="comb")
            # An asynchronous port and a register of our own: synthesis joins them to a block
            # RAM without the logic that would define a read during a write. The reader never
            # uses such a word: it stays off the rows that are being written.
            word = Signal(ring.width, name=f"word_{bank}", reset_less=True)
            # Of the rows of a window, a bank before the first one's has one a turn later.
            turn = Signal(slot_bits - bank_bits, name=f"turn_{bank}")
            m.d.comb += [
                turn.eq(reader.slot[bank_bits:] + (reader.slot[:bank_bits] > bank)),
                read.addr.eq(Cat(reader.column[:exact_log2(ring.pitch)], turn)),
                write.addr.eq(Cat(writer.column, writer.slot[bank_bits:])),
                write.en.eq(writer.word_done & (writer.slot[:bank_bits] == bank)),
                write.data.eq(writer.word),
            ]
            with m.If(reader.fetch):
                m.d.sync += word.eq(read.data)
            data_out.append(word)

        # Behind the memory: what travels with a word, perhaps through one more register, and
        # the output register, which forces padding to zero.
        flags = data.StructLayout({"last": 1, "inside": 1, "bank": bank_bits,
                                   "real": self.kernel[0] if self.column else 1})
        beside: Any = Signal(flags, reset_less=True)
        valid, advance, moves = Signal(), Signal(), Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), reader.fetch.eq(~valid | moves)]
        with m.If(reader.fetch):
            m.d.sync += [valid.eq(reader.valid), beside.last.eq(reader.last),
                         beside.inside.eq(reader.inside), beside.real.eq(reader.real),
                         beside.bank.eq(reader.slot[:bank_bits])]
        if self.register:
            held = Signal.like(beside)
            held_valid = Signal()
            words = [Signal.like(word, name=f"held_{n}") for n, word in enumerate(data_out)]
            m.d.comb += moves.eq(~held_valid | advance)
            with m.If(moves):
                m.d.sync += [held_valid.eq(valid), held.eq(beside),
                             *(kept.eq(word) for kept, word in zip(words, data_out, strict=True))]
            valid, beside, data_out = held_valid, held, words
        else:
            m.d.comb += moves.eq(advance)
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(valid), self.o.payload.last.eq(beside.last)]
            for lane in range(self.simd // self.chunk):
                source: Value = data_out[0]
                if ring.banks > 1:
                    source = Array(data_out)[(beside.bank + lane)[:bank_bits]]
                target = Value.cast(self.o.payload.activations)
                part = target[lane * ring.width:(lane + 1) * ring.width]
                m.d.sync += part.eq(source)
                with m.If(~(beside.inside & beside.real[lane])):
                    m.d.sync += part.eq(0)
        return m


class _Writer(wiring.Component):
    """Gathers activations into words and says where each goes."""

    valid: Signal
    activation: Signal
    full: Signal
    word: Signal
    word_done: Signal
    row_done: Signal
    column: Signal
    slot: Signal

    def __init__(self, window: SlidingWindow) -> None:
        self._chunk, self._columns = window.chunk, window.columns
        bits = window.format.bits
        super().__init__({
            "valid": In(1), "activation": In(activation_shape(window.format)), "full": In(1),
            "word": Out(window.chunk * bits), "word_done": Out(1), "row_done": Out(1),
            "column": Out(exact_log2(window.ring.pitch)),
            "slot": Out(exact_log2(window.ring.rows)),
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


class _Reader(wiring.Component):
    """Walks over windows, passes and words, and says what lies on the image."""

    fetch: Signal
    row_written: Signal
    valid: Signal
    last: Signal
    inside: Signal
    real: Signal
    column: Signal
    slot: Signal
    released: Signal

    def __init__(self, window: SlidingWindow) -> None:
        self._window = window
        self._per_pixel = window.shape[2] // window.chunk
        lanes = window.kernel[0] if window.column else 1
        farthest = (window.shape[1] + window.padding[3] + window.stride[1]) * self._per_pixel
        super().__init__({
            "fetch": In(1), "row_written": In(1),
            "valid": Out(1), "last": Out(1), "inside": Out(1), "real": Out(lanes),
            "column": Out(signed(signed_bits(-window.padding[2] * self._per_pixel, farthest))),
            "slot": Out(exact_log2(window.ring.rows)), "released": Out(range(window.ring.rows + 1)),
        })

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        window, steps, per_pixel = self._window, self._window.steps, self._per_pixel
        run = window.kernel[1] * per_pixel  # words of a kernel row, at addresses in sequence
        kernel_rows = 1 if window.column else window.kernel[0]

        go = Signal()
        loops: list[Signal] = []
        wraps: list[Signal] = []
        inner: Value = Const(1)
        # Nested loops, the fastest first. That a loop is in its last round is known from a
        # register, so that all conditions are a few registers and one late `go`.
        for name, limit in (("word", run), ("kernel_row", kernel_rows),
                            ("replay", window.passes), ("across", window.output[1]),
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
        rows = window.ring.rows
        slack = Signal(signed(signed_bits(-rows, rows)), init=-steps[0].rows)
        m.d.comb += [self.valid.eq(slack >= 0), go.eq(self.fetch & self.valid)]
        changes = [(step.release, step.release + following.rows - step.rows, step.real)
                   for step, following in zip(steps, [*steps[1:], steps[0]], strict=True)]
        usual = max(set(changes), key=changes.count)
        release, less = Signal(range(rows + 1)), Signal.like(slack)
        real = Signal(window.kernel[0])
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
        edge = Signal.like(self.column, init=-window.padding[2] * per_pixel)
        column = Signal.like(edge)
        following = Signal.like(edge)
        m.d.comb += following.eq(edge + window.stride[1] * per_pixel)
        with m.If(go):
            m.d.sync += column.eq(column + 1)
        with m.If(run_wraps):
            m.d.sync += column.eq(edge)
        with m.If(window_ends):
            m.d.sync += [edge.eq(following), column.eq(following)]
        with m.If(row_ends):
            m.d.sync += [edge.eq(edge.init), column.eq(edge.init)]
        m.d.comb += [self.column.eq(column),
                     self.inside.eq((column >= 0) & (column < window.columns))]

        # Rows: the ring's slot of the kernel row, modulo the ring's size.
        base = Signal.like(self.slot, init=-window.padding[0] % window.ring.rows)
        slot = Signal.like(base)
        next_base = Signal.like(base)
        climbed = (len(steps) - 1) * window.stride[0]
        m.d.comb += next_base.eq(base + Mux(image_ends, window.shape[0] - climbed,
                                            window.stride[0]))
        with m.If(run_wraps):
            m.d.sync += slot.eq(slot + 1)
        with m.If(pass_ends):
            m.d.sync += slot.eq(base)
        with m.If(row_ends):
            m.d.sync += [base.eq(next_base), slot.eq(next_base)]
        m.d.comb += self.slot.eq(slot)
        if window.column:
            m.d.comb += self.real.eq(real)
        else:
            m.d.comb += self.real.eq(real.bit_select(kernel_row, 1))
        return m
