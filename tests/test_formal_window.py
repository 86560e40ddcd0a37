# amaranth: UnusedElaboratable=no
"""Proofs about the sliding window.

- What it emits: every pixel of every window once, in order, padding as zero, whatever stalls on
  either side. Bounded, to two images of a few pixels and some stalls.
- Its ring of rows: a row in use is never overwritten, a row that is not complete is never read.
  By induction: for ever, and at the sizes of real layers.
"""

import pytest
from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal, signed
from amaranth.hdl import Assert, Assume
from amaranth.lib import data
from amaranth.utils import exact_log2

from flightrtl.formats import ActivationFormat, signed_bits
from flightrtl.gateware import SlidingWindow, linebuffer, window
from flightrtl.gateware.linebuffer import RowWriter, WindowReader
from flightrtl.gateware.loops import nested_loops
from tests.formal import (
    AnyConst,
    Failed,
    Spec,
    bound,
    free_inputs,
    full,
    internal,
    nested,
    planted,
    prove,
)

ONE_BIT = ActivationFormat(1)


class Emitted(Elaboratable):
    """Every activation that goes out is the one of its place in the windows.

    The solver picks a pixel of any image. That pixel comes in as 1, all others as 0. An
    activation that goes out must be 1 where the order of windows, passes and words says that it
    is that pixel, and 0 everywhere else, in the padding too. The window only moves and masks
    activations, whatever their value; so, with this being true of any pixel, every activation
    that goes out is the pixel that it should be, for all images (Wolper, POPL 1986).
    """

    def __init__(self, dut, images):
        self.dut, self.images = dut, images

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        free_inputs(m, dut, but=["i.payload"])
        (height, width, channels), images = dut.shape, self.images
        top, _, left, _ = dut.padding
        limits = [channels, width, height, images]
        watched = [AnyConst(range(limit)) for limit in limits]
        m.d.comb += Assume(Cat(*(choice < limit for choice, limit
                                 in zip(watched, limits, strict=True))).all(), "watched")

        place = nested(m, dut.i.valid & dut.i.ready, [*limits[:3], images + 1])
        m.d.comb += dut.i.payload.eq(Cat(*(count == choice for count, choice
                                           in zip(place, watched, strict=True))).all())

        rows = 1 if dut.column else dut.kernel[0]
        step = dut.o.valid & dut.o.ready
        # Of which group of channels each pass is, and how many words of a pixel it has.
        groups = [group for group, passes in enumerate(dut.group_passes) for _ in range(passes)]
        words = channels // len(dut.group_passes) // dut.chunk
        word, x, y, number, column, row, image = nested(m, step, [
            words, dut.kernel[1], rows, dut.passes, dut.output[1], dut.output[0], images + 1])
        first = Signal(range(channels))
        with m.Switch(number):
            for index, group in enumerate(groups):
                with m.Case(index):
                    m.d.comb += first.eq(group * words * dut.chunk)
        last = ((word == words - 1) & (x == dut.kernel[1] - 1) & (y == rows - 1))
        with m.If(dut.o.valid & (image < images)):
            m.d.comb += Assert(dut.o.payload.last == last, "a wrong last")
            for lane in range(dut.simd):
                found = dut.o.payload.activations[lane]
                channel = first + word * dut.chunk + lane % dut.chunk
                line, pixel = Signal(signed(8), name=f"y_{lane}"), Signal(signed(8),
                                                                          name=f"x_{lane}")
                m.d.comb += [line.eq(row * dut.stride[0] + y + lane // dut.chunk - top),
                             pixel.eq(column * dut.stride[1] + x - left)]
                m.d.comb += Assert(found == ((channel == watched[0]) & (pixel == watched[1])
                                             & (line == watched[2]) & (image == watched[3])),
                                   "a wrong pixel")
        return m


class Ring(Spec):
    """Addresses and rows of the buffer, next to plain counters of what should happen.

    The ring's oldest row that is still needed is some row of an image; from there on the rows of
    one image follow, and those of the next. The spec keeps where that row is.
    """

    def says(self, m, dut):
        (height, width, channels), rows = dut.shape, dut.ring.rows
        top, _, left, _ = dut.padding
        per_pixel, bits = channels // dut.chunk, exact_log2(rows)
        columns = width * per_pixel
        lanes = dut.kernel[0] if dut.column else 1
        kernel_rows = 1 if dut.column else dut.kernel[0]

        def inner(name, shape):
            shape = Signal(shape).shape()
            return internal(self, f"dut.{name}", shape) if shape.width else Const(0, 0)

        def modulo(value):
            return (value + 8 * rows)[:bits]

        wide = Signal(signed(20)).shape()

        # The way in.
        take = dut.i.valid & dut.i.ready
        part, place, image_row = nested(m, take, [dut.chunk, columns, height], wraps=True)
        slot_in = inner("writer.slot", bits)
        written = inner("writer.word_done", 1)
        m.d.comb += [
            Assert((part < dut.chunk) & (place < columns) & (image_row < height), "way in"),
            Assert(inner("writer.column", exact_log2(dut.ring.pitch)) == place, "a wrong place"),
            Assert(written == (take & (part == dut.chunk - 1)), "a word at a wrong time"),
        ]
        if dut.chunk > 1:
            m.d.comb += Assert(inner("writer.count", range(dut.chunk)) == part, "a wrong part")

        # The way out: position in the window, the window, and the place of both in the ring.
        go = inner("reader.fetch", 1) & inner("reader.valid", 1)
        limits = [per_pixel, dut.kernel[1], kernel_rows, dut.passes, dut.output[1], dut.output[0]]
        word, x, y, replay, column, row = loops = nested(m, go, limits, wraps=True)
        released = inner("reader.released", range(rows + 1))
        oldest, oldest_row = Signal(bits), Signal(range(height))
        m.d.sync += [oldest.eq(oldest + released),
                     oldest_row.eq((oldest_row + released) % height)]
        # Complete rows from the oldest one on. Rows between windows are released before they are
        # complete, and the number is negative until they are.
        # What was released a cycle ago is still counted; and what goes with words that wait.
        counted, used, late = inner("used", range(rows + 1)), Signal(wide), Signal(wide)
        leaving = inner("released_later", range(rows + 1))
        if dut.register:
            layout = data.StructLayout({
                "last": 1, "inside": dut.pixels, "real": dut.kernel[0] if dut.column else 1,
                "lane": 0, "slot": bits, "columns": exact_log2(dut.ring.pitch),
                "released": len(released)})
            for held, name in (("ahead.o__valid", "ahead.o__payload"),
                               ("ahead.full", "ahead.spare")):
                waits = layout(inner(name, layout.size))
                leaving = leaving + Mux(inner(held, 1), waits.released, 0)
        m.d.comb += [late.eq(Mux(counted > rows, counted - 2 * rows, counted)),
                     used.eq(late - leaving)]
        # Rows that the reader knows of, which are in the memory.
        there = Signal(wide)
        m.d.comb += there.eq(used - (inner("row_done_later", 1) if dut.register else 0))
        steps = [(step.rows, max(n * dut.stride[0] - top, 0), n * dut.stride[0] - top)
                 for n, step in enumerate(dut.steps)]
        needed, base_row, first = (Signal(wide, name=name) for name in
                                   ("needed", "base_row", "first"))
        with m.Switch(row):
            for number, (needs, real_row, padded_row) in enumerate(steps):
                with m.Case(number):
                    m.d.comb += [needed.eq(needs), base_row.eq(real_row), first.eq(padded_row)]
        slot = inner("reader.slot", bits)
        position = [inner("reader." + name, range(limit)) for name, limit in
                    (("word", per_pixel * dut.kernel[1]), ("kernel_row", kernel_rows),
                     ("replay", dut.passes), ("across", dut.output[1]), ("row", dut.output[0]))]
        expected = [x * per_pixel + word, y, replay, column, row]
        rounds = list(zip(("word", "kernel_row", "replay", "across", "row"), expected,
                          (per_pixel * dut.kernel[1], *limits[2:]), strict=True))
        m.d.comb += [
            Assert(Cat(*(loop < limit for loop, limit in zip(loops, limits, strict=True))).all(),
                   "loops"),
            # What the induction needs: the reader's registers, and the ring.
            *(Assert(found == should, "a wrong loop")
              for found, should in zip(position, expected, strict=True)),
            *(Assert(inner(f"reader.{name}_at_end", 1) == (should == limit - 1), "a wrong end")
              for name, should, limit in rounds if limit > 1),
            *(Assert(inner(f"reader.{name}_ends", 1)
                     == Cat(*(should == limit - 1 for _, should, limit in rounds[:n + 1])).all(),
                     "a loop that ends at a wrong time")
              for n, (name, _, limit) in enumerate(rounds)
              if limit > 1 and any(faster > 1 for _, _, faster in rounds[:n])),
            Assert(inner("reader.slack", signed(signed_bits(-rows, rows))) == there - needed,
                   "a wrong slack"),
            Assert(inner("reader.base", bits) == modulo(oldest + first - base_row), "a wrong base"),
            Assert(slot == modulo(oldest + first - base_row + y), "a wrong slot"),
            Assert(oldest_row == base_row, "a wrong row is the oldest one"),
            Assert(image_row == (oldest_row + used + rows * height) % height,
                   "a wrong row comes in"),
            # The bounds.
            Assert((used > -rows) & (late <= rows), "more rows than the ring has"),
            Assert(inner("full", 1) == (late == rows), "full at a wrong time"),
            Assert(slot_in == modulo(oldest + used), "rows are not side by side"),
            Assert(~written | (used < rows), "a row in use is overwritten"),
        ]
        edge_shape = signed(signed_bits(
            -left * per_pixel, (width + dut.padding[3] + dut.stride[1]) * per_pixel))
        edge, found_column = inner("reader.edge", edge_shape), inner("reader.column", edge_shape)
        pixel = Signal(wide)
        m.d.comb += [
            pixel.eq(column * dut.stride[1] + x - left),
            Assert(edge == (column * dut.stride[1] - left) * per_pixel, "a wrong edge"),
            Assert(found_column == pixel * per_pixel + word, "a wrong column"),
        ]
        inside, real = inner("reader.inside", 1), inner("real", lanes)
        with m.If(go):
            m.d.comb += [
                Assert(inside == ((pixel >= 0) & (pixel < width)), "padding left or right"),
                Assert(inner("reader.last", 1) == ((word == per_pixel - 1) & (y == kernel_rows - 1)
                                                   & (x == dut.kernel[1] - 1)), "a wrong last")]
            for lane in range(lanes):
                line = first + y + lane
                m.d.comb += Assert(real[lane] == ((line >= 0) & (line < height)),
                                   "padding above or below")
                with m.If(real[lane]):
                    # Lines from the oldest row on.
                    m.d.comb += [Assert((line >= base_row) & (line - base_row < there),
                                        "a row is read that is not there"),
                                 Assert(modulo(slot + lane) == modulo(oldest + line - base_row),
                                        "a wrong row is read")]


SHAPES = {
    "padded, stride": {"shape": (2, 2, 1), "kernel": (2, 2), "simd": 1, "stride": (2, 2),
                       "padding": (1, 0, 1, 0)},
    "columns, padded": {"shape": (2, 1, 1), "kernel": (2, 1), "simd": 2, "column": True,
                        "padding": (1, 0, 0, 0)},
}

MORE_SHAPES = {
    "columns of three": {"shape": (2, 2, 1), "kernel": (3, 1), "simd": 3, "column": True,
                         "padding": (1, 1, 0, 0)},
    "2x2": {"shape": (2, 3, 1), "kernel": (2, 2), "simd": 1},
    "channels, passes": {"shape": (2, 1, 2), "kernel": (1, 1), "simd": 2, "passes": 2,
                         "register": True},
    "groups": {"shape": (1, 2, 2), "kernel": (1, 2), "simd": 1, "passes": (1, 2),
               "padding": (0, 0, 1, 0)},
    "columns": {"shape": (3, 2, 1), "kernel": (2, 1), "simd": 2, "column": True},
    "rest": {"shape": (3, 2, 1), "kernel": (1, 1), "simd": 1, "stride": (2, 2)},
}

REAL_SHAPES = {
    "3x3 of 28x28": {"shape": (28, 28, 1), "kernel": (3, 3), "simd": 1, "padding": (1, 1, 1, 1),
                     "passes": 3},
    "3x3 of 14x14x8, stride 2": {"shape": (14, 14, 8), "kernel": (3, 3), "simd": 4, "passes": 5,
                                 "stride": (2, 2), "padding": (0, 1, 0, 1)},
    "columns of 14x14x8": {"shape": (14, 14, 8), "kernel": (3, 3), "simd": 12, "column": True,
                           "padding": (1, 1, 1, 1), "passes": 2, "register": True},
    "dense 7x7x16": {"shape": (7, 7, 16), "kernel": (7, 7), "simd": 4, "passes": 4},
    "rows that are in no window": {"shape": (8, 5, 2), "kernel": (2, 2), "simd": 2,
                                   "stride": (3, 3), "rows": 9},
    "one pixel": {"shape": (1, 1, 1), "kernel": (1, 1), "simd": 1},
}


def cycles(dut, images):
    """Cycles that so many images take without a stall, and a few more."""
    windows = dut.output[0] * dut.output[1]
    pixels = dut.shape[0] * dut.shape[1] * dut.shape[2]
    return images * max(pixels, windows * dut.passes * dut.words) + pixels + 4


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_emits_each_pixel_of_each_window_once_in_order(shape):
    """Bounded: two images and some stalls, and more of them in the long run."""
    dut = SlidingWindow(**shape, format=ONE_BIT)
    prove(Emitted(dut, 2), mode="bmc", depth=cycles(dut, 2) + bound(0, 3))


@pytest.mark.parametrize("name", MORE_SHAPES if full() else ["channels, passes"])
def test_emits_each_pixel_of_more_windows(name):
    """Bounded: one image, the beginning of the next, and some stalls. More in the long run."""
    dut = SlidingWindow(**MORE_SHAPES[name], format=ONE_BIT)
    prove(Emitted(dut, 2), mode="bmc", depth=cycles(dut, 1) + 2)


@pytest.mark.parametrize("shape", REAL_SHAPES.values(), ids=REAL_SHAPES)
def test_ring_reads_each_pixel_of_each_window_in_order(shape):
    """By induction: right row, complete and not overwritten, right column, right order."""
    prove(Ring(SlidingWindow(**shape)), depth=2)


@pytest.mark.parametrize(("kind", "old", "new", "message"), [
    (WindowReader, "self.valid.eq(slack >= 0)", "self.valid.eq(slack >= -1)",
     "a row is read that is not there"),
    (WindowReader, "slot.eq(slot + 1)", "slot.eq(slot + 2)", "a wrong slot"),
    (WindowReader, "Mux(image_ends, self._shape[0] - climbed,", "Mux(image_ends, 1 - climbed,",
     "a wrong"),
    (WindowReader, "m.d.sync += [edge.eq(following), now.eq(following)]",
     "m.d.sync += [edge.eq(following), now.eq(edge)]", "a wrong column"),
    (nested_loops, "at_end.eq(count == limit - 2)", "at_end.eq(count == limit - 3)", "a wrong end"),
    (nested_loops, "nearly = nearly & at_end", "nearly = nearly & 1",
     "a loop that ends at a wrong time"),
    (RowWriter, "self.column == columns - 1", "self.column == columns - 2",
     "a wrong place|a wrong slack"),
])
def test_ring_twin(monkeypatch, kind, old, new, message, tmp_path):
    place = linebuffer if kind is nested_loops else window
    monkeypatch.setattr(place, kind.__name__, planted(kind, old, new))
    dut = SlidingWindow(shape=(3, 4, 1), kernel=(2, 3), simd=1, format=ONE_BIT)
    with pytest.raises(Failed, match=message):
        prove(Ring(dut), mode="bmc", depth=40, folder=tmp_path)


def test_ring_overwrites_no_row_in_use_twin(tmp_path):
    bad = planted(SlidingWindow, "writer.full.eq(full)", "writer.full.eq(0)")
    with pytest.raises(Failed, match="more rows than the ring has|a row in use is overwritten|"
                                     "full at a wrong time"):
        prove(Ring(bad(shape=(3, 2, 1), kernel=(2, 2), simd=1, format=ONE_BIT)), mode="bmc",
              depth=14, folder=tmp_path)


@pytest.mark.parametrize(("old", "new"), [
    ("~(beside.inside[pixel] & beside.real[row])", "~beside.inside[pixel]"),
    ("fetch.eq(advance)", "fetch.eq(1)"),
])
def test_emits_each_pixel_of_each_window_once_in_order_twin(old, new, tmp_path):
    dut = planted(SlidingWindow, old, new)(**SHAPES["padded, stride"], format=ONE_BIT)
    with pytest.raises(Failed, match="a wrong pixel|a wrong last"):
        prove(Emitted(dut, 2), mode="bmc", depth=cycles(dut, 2), folder=tmp_path)
