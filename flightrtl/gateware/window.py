"""The sliding window: a line buffer that turns a raster of pixels into kernel windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, _integer
from .buffer import StreamBuffer
from .linebuffer import RowWriter, WindowReader, row_steps, window_ring
from .mapstream import map_shape
from .pe import activation_shape
from .ram import DualPortRam
from .weights import RomStream

__all__ = ["SlidingWindow"]


class SlidingWindow(wiring.Component):
    """Windows of an image that arrives pixel by pixel, each replayed ``passes`` times.

    Of a grouped convolution's channels, a pass has those of one group.

    The buffer is a ring of image rows in block RAM. Windows of one row of output are read while
    the rows below it are still arriving, and a new image may follow the last without a gap.
    Padding is never stored: a word that falls outside the image is forced to zero on its way
    out. With several ``pixels`` the windows of as many neighbouring output pixels leave side by
    side; pixels of a row then lie in different memories.

    Cost: the block RAM of a :class:`Ring`; a register of ``simd`` activations on either side
    of it, by columns a rotation of its banks, for several pixels a multiplexer of as many
    memories as their windows' places differ; counters. For 3x3 windows on 7x7x16, padded,
    4 activations a word: 171 LUT4 and 2 block RAMs on iCE40, 161 and 1 on ECP5; 12 a word by
    columns: 365 and 8, 354 and 4 (``python -m benchmarks components``). 2 pixels of 32x32x16, 8
    activations a word: 315 and 8, 316 and 4.
    Latency: an output row starts when the last image row that it needs is in; its first word is
    valid 3 cycles after the last activation of that row. Throughput: a word per cycle and pixel,
    a transfer of new activations per cycle.

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
    passes : int or sequence of int
        How often each window is replayed before the next one. Several numbers are for as many
        groups of channels: the first group's part of the window is replayed so many times, then
        that of the second, and so on; a group with 0 passes is left out.
    rows : int
        Image rows that the buffer holds at least; 0 for as many as the kernel needs.
    register : bool
        One more register behind the memory, for the slow block RAM of ECP5, see
        :class:`~flightrtl.gateware.weights.RomStream`, and for large devices one before it and a
        :class:`~flightrtl.gateware.buffer.StreamBuffer` behind the reader. Adds 3 cycles of
        latency.
    format : ActivationFormat
        Activations.
    pixels : int
        Windows side by side; divides the columns of windows.
    source_pixels : int
        Pixels of a transfer of ``i``; divides the image's width.

    Members
    -------
    i : In(stream), see :func:`~flightrtl.gateware.mapstream.map_shape`
        The image by row, column, channel.
    o : Out(stream) of struct
        ``activations``: a word for each pixel, pixel after pixel; ``last``: 1 on a pass's last
        word.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, shape: tuple[int, int, int], kernel: tuple[int, int], simd: int,
                 stride: tuple[int, int] = (1, 1),
                 padding: tuple[int, int, int, int] = (0, 0, 0, 0), column: bool = False,
                 passes: int | Sequence[int] = 1, rows: int = 0, register: bool = False,
                 format: ActivationFormat = ActivationFormat(), pixels: int = 1,
                 source_pixels: int = 1) -> None:
        self.shape = tuple(_integer(n, "shape", 1, 1 << 16) for n in shape)
        self.kernel = tuple(_integer(n, "kernel", 1, 1 << 16) for n in kernel)
        self.stride = tuple(_integer(n, "stride", 1, 1 << 16) for n in stride)
        self.padding = tuple(_integer(n, "padding", 0, 1 << 16) for n in padding)
        self.simd = _integer(simd, "simd", 1, 1 << 16)
        least, given = (0, passes) if isinstance(passes, Sequence) else (1, (passes,))
        self.group_passes = tuple(_integer(number, "passes", least, 1 << 32) for number in given)
        """Of each group of channels."""
        self.passes = _integer(sum(self.group_passes), "the sum of passes", 1, 1 << 32)
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
        groups = len(self.group_passes)
        if channels % groups:
            raise ValueError(f"the {channels} channels must be divisible into as many groups as "
                             f"there are numbers of passes, {groups}")
        if self.simd % lanes or channels // groups % (self.simd // lanes):
            raise ValueError(f"simd={simd} must divide the {channels // groups} channels"
                             f"{' of a group' if groups > 1 else ''}"
                             f"{f' times {lanes} kernel rows' if column else ''}")
        self.chunk = self.simd // lanes
        """Channels of one pixel in a word."""
        self.output = (spare[0] // self.stride[0] + 1, spare[1] // self.stride[1] + 1)
        self.pixels = _integer(pixels, "pixels", 1, 1 << 12)
        self.source_pixels = _integer(source_pixels, "source_pixels", 1, 1 << 12)
        for name, count, size in (("pixels", pixels, self.output[1]),
                                  ("source_pixels", source_pixels, width)):
            if size % count:
                raise ValueError(f"{name}={count} must divide the {size} columns of the "
                                 f"{'result' if name == 'pixels' else 'image'}")
        self.steps = row_steps(height, self.kernel[0], self.stride[0], top, self.output[0])
        """What each output row needs of the buffer, from the top of the image down."""
        self.per_pixel = channels // self.chunk
        """Memory words of a pixel."""
        self.ring = window_ring(
            shape=self.shape, kernel=self.kernel, stride=self.stride, padding=self.padding,
            simd=simd, column=column, rows=rows, bits=format.bits, pixels=pixels,
            source_pixels=source_pixels)
        super().__init__({
            "i": In(stream.Signature(map_shape(format, pixels=source_pixels))),
            "o": Out(stream.Signature(data.StructLayout({
                "activations": data.ArrayLayout(activation_shape(format), self.simd * pixels),
                "last": 1,
            }))),
        })

    @property
    def transfers(self) -> int:
        """Transfers of ``i`` that bring an image row."""
        return self.shape[1] // self.source_pixels * self.shape[2]

    @property
    def words(self) -> int:
        """Words of one pass."""
        taps = self.kernel[0] * self.kernel[1] * self.shape[2]
        return taps // len(self.group_passes) // self.simd

    def compute(self, images: ArrayLike) -> IntArray:
        """Words of (n, height, width, channels) images: (n, rows, columns, words, simd).

        The replays are left out; the words are those of all groups, one after the other.
        """
        top, bottom, left, right = self.padding
        padded = np.pad(np.asarray(images, np.int64),
                        ((0, 0), (top, bottom), (left, right), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.kernel, axis=(1, 2))
        windows = windows[:, ::self.stride[0], ::self.stride[1]].transpose(0, 1, 2, 4, 5, 3)
        n, rows, columns = windows.shape[:3]
        high = self.kernel[0] if self.column else 1
        split = windows.reshape(n, rows, columns, self.kernel[0] // high, high, self.kernel[1],
                                len(self.group_passes), -1, self.chunk)
        return split.transpose(0, 1, 2, 6, 3, 5, 7, 4, 8).reshape(n, rows, columns, -1, self.simd)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.writer = writer = RowWriter(
            format=self.format, chunk=self.chunk, pixels=self.source_pixels,
            per_pixel=self.per_pixel, width=self.shape[1], ring=self.ring)
        m.submodules.reader = reader = WindowReader(
            shape=self.shape, kernel=self.kernel, stride=self.stride, padding=self.padding,
            column=self.column, chunk=self.chunk, passes=self.group_passes, output=self.output,
            pixels=self.pixels, steps=self.steps, ring=self.ring)

        # Which group each pass is of. There is always a word: it is read while rows arrive.
        moves = reader.moves
        if any(move != moves[0] for move in moves):
            m.submodules.groups = groups = RomStream(reader.groups_on.shape(), [*moves, 0])
            m.d.comb += [reader.groups_on.eq(groups.o.payload),
                         groups.o.ready.eq(reader.pass_done)]
        elif moves:
            m.d.comb += reader.groups_on.eq(moves[0])

        # What the reader wants, or the same a cycle later and with a place to wait: its loops then
        # do not depend on what stops the output, which may lie far away.
        fetch = Signal()
        wanted = ("last", "inside", "real", "lane", "slot", "columns", "released")
        read: dict[str, Any] = {name: getattr(reader, name) for name in ("valid", *wanted)}
        leave: Value = reader.released
        if self.register:
            m.submodules.ahead = ahead = StreamBuffer(data.StructLayout(
                {name: len(read[name]) for name in wanted}))
            m.d.comb += [ahead.i.valid.eq(reader.valid), reader.fetch.eq(ahead.i.ready),
                         *(ahead.i.payload[name].eq(read[name]) for name in wanted),
                         ahead.o.ready.eq(fetch)]
            read = {name: ahead.o.payload[name] for name in wanted}
            read["valid"] = ahead.o.valid
            # Rows are in use until their last word is read.
            leave = Mux(ahead.o.valid & fetch, ahead.o.payload.released, 0)
        else:
            m.d.comb += reader.fetch.eq(fetch)

        # Rows that are complete and not yet released.
        used = Signal(range(self.ring.rows + 1))
        # A cycle later than the reader says: what stops the reader comes from the far end of the
        # engine, and the writer may lie beside the layer before.
        released = Signal.like(reader.released, name="released_later")
        # used == rows, as a register: `i.ready` may go on through poolings and additions.
        full = Signal()
        size = self.ring.rows
        m.d.sync += [
            released.eq(leave), used.eq(used + writer.row_done - released),
            full.eq((released == 0)
                    & ((used == size) | ((used == size - 1) & writer.row_done))),
        ]
        m.d.comb += [
            writer.full.eq(full),
            writer.valid.eq(self.i.valid),
            writer.activations.eq(Value.cast(self.i.payload)),
            self.i.ready.eq(~writer.full),
        ]
        ring = self.ring
        # What the writer writes and where, or the same a cycle later: the memories and the reader
        # may lie far from what feeds the layer.
        names = ("words", "word_done", "row_done", "lane", "column", "slot")
        written: dict[str, Any] = {name: getattr(writer, name) for name in names}
        if self.register:
            for name in names:
                later = Signal.like(written[name], name=f"{name}_later",
                                    reset_less=not name.endswith("done"))
                m.d.sync += later.eq(written[name])
                written[name] = later
        m.d.comb += reader.row_written.eq(written["row_done"])
        slot_bits, bank_bits = exact_log2(ring.rows), exact_log2(ring.banks)
        address_bits = exact_log2(ring.pitch)
        read_words: list[Value] = []        # memory by memory, the lanes of a bank together
        for bank in range(ring.banks):
            # Of the rows of a window, a bank before the first one's has one a turn later.
            turn = Signal(slot_bits - bank_bits, name=f"turn_{bank}")
            m.d.comb += turn.eq(read["slot"][bank_bits:] + (read["slot"][:bank_bits] > bank))
            for lane in range(ring.lanes):
                suffix = f"{bank}_{lane}" if ring.lanes > 1 else f"{bank}"
                # The reader stays off the rows that are being written.
                m.submodules[f"ram_{suffix}"] = ram = DualPortRam(ring.width, ring.depth)
                write, port = ram.write, ram.read
                group, part = divmod(lane, self.source_pixels)
                m.d.comb += [
                    port.en.eq(fetch),
                    port.addr.eq(Cat(read["columns"].word_select(lane, address_bits), turn)),
                    write.addr.eq(Cat(written["column"], written["slot"][bank_bits:])),
                    write.en.eq(written["word_done"] & (written["lane"] == group)
                                & (written["slot"][:bank_bits] == bank)),
                    write.data.eq(written["words"].word_select(part, ring.width)),
                ]
                read_words.append(port.data)

        # Behind the memory: what travels with a word, perhaps through one more register, and
        # the output register, which forces padding to zero.
        flags = data.StructLayout({"last": 1, "inside": self.pixels, "bank": bank_bits,
                                   "lane": range(ring.lanes),
                                   "real": self.kernel[0] if self.column else 1})
        beside: Any = Signal(flags, reset_less=True)
        # All of them move together. That none closes a gap while the output waits costs hardly a
        # cycle, and leaves one gate from `o.ready` to the memories.
        valid, advance = Signal(), Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), fetch.eq(advance)]
        with m.If(advance):
            m.d.sync += [valid.eq(read["valid"]),
                         *(beside[name].eq(read[name]) for name in
                           ("last", "inside", "real", "lane")),
                         beside.bank.eq(read["slot"][:bank_bits])]
        if self.register:
            held = Signal.like(beside)
            held_valid = Signal()
            held_words = [Signal.like(word, name=f"held_{n}", reset_less=True)
                          for n, word in enumerate(read_words)]
            with m.If(advance):
                m.d.sync += [held_valid.eq(valid), held.eq(beside),
                             *(kept.eq(word)
                               for kept, word in zip(held_words, read_words, strict=True))]
            valid, beside, read_words = held_valid, held, list(held_words)
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(valid), self.o.payload.last.eq(beside.last)]
            target = Value.cast(self.o.payload.activations)
            for pixel in range(self.pixels):
                words = self._of_pixel(m, pixel, beside.lane, read_words)
                # The bank of the upper kernel row comes first: a rotation, one multiplexer for
                # each bit of its number.
                for bit in range(bank_bits):
                    words = [Mux(beside.bank[bit], words[(n + (1 << bit)) % ring.banks], words[n])
                             for n in range(ring.banks)]
                rows = self.simd // self.chunk
                for row in range(rows):
                    place = target.word_select(pixel * rows + row, ring.width)
                    m.d.sync += place.eq(words[row])
                    with m.If(~(beside.inside[pixel] & beside.real[row])):
                        m.d.sync += place.eq(0)
        return m

    def _of_pixel(self, m: Module, pixel: int, lane: Value, words: list[Value]) -> list[Value]:
        """One word of each bank: from the memory that has this window's pixel."""
        ring, stride, left = self.ring, self.stride[1], -self.padding[2]
        if ring.lanes == 1:
            return list(words)
        # Where the first window's pixel can be; only between these is a choice.
        places = sorted({(left + column * stride + tap) % ring.lanes
                         for column in range(0, self.output[1], self.pixels)
                         for tap in range(self.kernel[1])})
        chosen: list[Value] = []
        for bank in range(ring.banks):
            of_bank = words[bank * ring.lanes:(bank + 1) * ring.lanes]
            choice = Signal(ring.width, name=f"choice_{bank}_{pixel}")
            with m.Switch(lane):
                for place in places[:-1]:
                    with m.Case(place):
                        m.d.comb += choice.eq(of_bank[(place + pixel * stride) % ring.lanes])
                with m.Default():
                    m.d.comb += choice.eq(of_bank[(places[-1] + pixel * stride) % ring.lanes])
            chosen.append(choice)
        return chosen
