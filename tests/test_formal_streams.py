# amaranth: UnusedElaboratable=no
"""Proofs that every output stream of every component keeps the stream rules.

- While ``valid`` waits for ``ready``, ``valid`` and the payload stay: by induction, for ever, for
  any stalls, any inputs that keep the rules themselves, and with resets at any time.
- ``valid`` does not wait for ``ready``: no logic leads from one to the other (for all states),
  and once every input offers and every other output is taken, ``valid`` comes although ``ready``
  does not (from every state that is reached in so many cycles: a bounded proof).

The rules do not depend on the widths and sizes of a component, which are small here.
"""

import dataclasses
import importlib
import inspect
import operator
import pkgutil
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from amaranth import Elaboratable, Module, Signal
from amaranth.hdl import Assert
from amaranth.lib import wiring

import flightrtl.gateware
from flightrtl.formats import ActivationFormat, FixedFormat, TermFormat
from flightrtl.gateware import (
    Argmax,
    ChannelConcat,
    ChannelGatherer,
    ChannelSerializer,
    ConvolutionEngine,
    DenseEngine,
    FilterScheduler,
    Flash,
    FlashReader,
    FoldedLayer,
    Folding,
    FrameBuffer,
    Framed,
    FramedLayer,
    FrameDrain,
    FrameEngine,
    HardwiredConvolution,
    HardwiredDense,
    HardwiredLayer,
    ImageQueue,
    LoadableStream,
    MapReorder,
    MaxPooling,
    MultiplyPE,
    Network,
    ParallelRequantizer,
    ParameterStream,
    PEArray,
    PixelWindow,
    RepeatingRom,
    Requantizer,
    ResidualAdd,
    ShiftAddGraph,
    ShiftClamp,
    ShiftPE,
    SlidingWindow,
    SlotScheduler,
    StreamBuffer,
    StreamFork,
    StreamQueue,
    SumPooling,
    WeightBuffer,
    XnorPE,
)
from flightrtl.gateware.element import ProcessingElement
from flightrtl.gateware.engine import LayerEngine
from flightrtl.gateware.fold import WindowFold
from flightrtl.gateware.link import Deframer, Framer, Link, Responder
from flightrtl.gateware.pool import _Pooling
from flightrtl.gateware.spi import SpiPeripheral
from flightrtl.gateware.uart import Uart, UartReceiver
from flightrtl.gateware.weights import RomStream
from flightrtl.model import INPUT, Convolution, Dense, Model, TensorType
from flightrtl.protocol import ESCAPE
from flightrtl.shiftadd import shift_add
from tests.formal import (
    Failed,
    assert_patience,
    bound,
    forbid_path,
    free_inputs,
    internal,
    planted,
    prove,
    stream_members,
    stream_rules,
)

TWO_BITS = ActivationFormat(2)
TERM = TermFormat(1)


def layer(kind, shape, k, **more):
    """A layer with some of each weight."""
    filters = len(k)
    kernel = shape[:2] if kind is Dense else (2, 2)
    return kind(name="layer", inputs=(INPUT,), k=k, format=TERM, output=TWO_BITS,
                terms=np.resize(np.array([1, 3, 0], np.uint8), (sum(k), *kernel, shape[2])),
                scale=np.zeros(filters, np.int64), output_scale=0,
                bias=np.zeros(filters, np.int64), shift=np.ones(filters, np.int64), **more)


DENSE = {"layer": layer(Dense, (1, 2, 1), (1, 0, 1)), "source": TensorType((1, 2, 1), TWO_BITS)}
CONVOLUTION = {"layer": layer(Convolution, (2, 3, 1), (1, 1), stride=(1, 1),
                              padding=(0, 0, 0, 0)),
               "source": TensorType((2, 3, 1), TWO_BITS)}


def dense():
    return FoldedLayer(DENSE["layer"], DENSE["source"], Folding(2, 1))


def convolution():
    return FoldedLayer(CONVOLUTION["layer"], CONVOLUTION["source"], Folding(1, 2, True))


def network():
    model = Model("tiny", TensorType((1, 2, 1), TWO_BITS), (layer(Dense, (1, 2, 1), (1, 1)),),
                  {"dataset": "none", "seed": 0})
    return {"model": model, "foldings": {"layer": Folding(2, 1)}}


def fold(kernel):
    return {"shape": (2, 2, 1), "kernel": kernel, "stride": (1, 1), "value": 2, "accumulator": 2,
            "result": 2, "initial": 0, "combine": operator.or_, "finish": operator.pos}


POOL = {"shape": (3, 3, 1), "format": TWO_BITS}


@dataclasses.dataclass
class Case:
    """A component and what the proofs need to know of it."""

    component: type[wiring.Component]
    parameters: dict[str, Any]
    patience: int
    """Cycles to an output when nothing but it stalls."""
    reach: int
    """Cycles of the search for a longer wait."""
    unstable: tuple[str, str, str]
    """A planted bug that breaks the first rules: what stands in the source, what takes its place,
    and the message."""
    waits: tuple[str, str]
    """A planted bug that makes valid wait for ready."""
    given: Callable[["Spec", Any], Any] | None = None
    """What else lets outputs come: see :func:`assert_patience`."""
    facts: Callable[["Spec", Module, Any], None] | None = None
    """What else is asserted: invariants that the induction needs."""
    line: Callable[[Module, Any], None] | None = None
    """What drives the pins in the bounded proofs, if not the solver: :func:`byte_after_byte`."""
    memory: Literal["array", "registers"] = "registers"
    """See :func:`prove`; memories of a single word must be arrays."""
    depth: int = 3
    """Of the induction."""


VALID = "valid fell before the transfer"
PAYLOAD = "payload changed while stalled"
EITHER = f"{VALID}|{PAYLOAD}"

POOLING = {
    "unstable": ("wiring.connect(m, rows.o, wiring.flipped(self.o))",
                 "m.d.comb += [self.o.valid.eq(rows.o.valid & self.i.valid),"
                 "self.o.payload.eq(rows.o.payload), rows.o.ready.eq(self.o.ready)]", VALID),
    "waits": ("wiring.connect(m, rows.o, wiring.flipped(self.o))",
              "m.d.comb += [self.o.valid.eq(rows.o.valid & self.o.ready),"
              "self.o.payload.eq(rows.o.payload), rows.o.ready.eq(self.o.ready)]"),
}
"""Planted bugs in what poolings have around a :class:`WindowFold`, which has its own proofs."""

HARDWIRED = {
    "unstable": ("wiring.connect(m, last, wiring.flipped(self.o))",
                 "m.d.comb += [self.o.valid.eq(last.valid & self.i.valid),"
                 "self.o.payload.eq(last.payload), last.ready.eq(self.o.ready)]", VALID),
    "waits": ("wiring.connect(m, last, wiring.flipped(self.o))",
              "m.d.comb += [self.o.valid.eq(last.valid & self.o.ready),"
              "self.o.payload.eq(last.payload), last.ready.eq(self.o.ready)]"),
}
"""Planted bugs in :class:`HardwiredLayer`."""

ELEMENT = {
    "unstable": ("payload = self.i.payload",
                 "payload = self.i.payload;"
                 "m.d.comb += advance.eq(~self.o.valid | self.i.valid)", EITHER),
    "waits": ("payload = self.i.payload",
              "payload = self.i.payload; m.d.comb += advance.eq(self.o.ready)"),
}
"""Planted bugs in the products of a :class:`ProcessingElement`, which may change its stalls."""


def last(spec, dut):
    """Every transfer ends something."""
    return dut.i.payload.last


def ends(spec, dut):
    """Every slot ends a filter."""
    return dut.parameters.payload.ends


def byte_after_byte(m, dut):
    """A line that carries bytes without a gap."""
    line = Signal(40, init=0xFF0F0F0FF0)
    m.d.sync += line.eq(line.rotate_right(1))
    m.d.comb += dut.rx.eq(line[0])


def clock_after_clock(m, dut):
    """A host that reads and writes bytes without a gap, faster than it may."""
    m.d.comb += dut.cs.eq(1)
    m.d.sync += dut.sck.eq(~dut.sck)


def no_escape(spec, dut):
    """The line does not send escapes for ever."""
    return dut.i.payload != ESCAPE


def receiving(spec, m, dut):
    """While a byte waits, no other one is shifted in."""
    busy, started = internal(spec, "dut.busy", 1), internal(spec, "dut.started", 1)
    m.d.comb += Assert(~(dut.o.valid & busy & started), "a byte that waits is overwritten")


CASES = {
    "StreamBuffer": Case(
        StreamBuffer, {"shape": 2}, patience=2, reach=8,
        unstable=("full.eq(self.fills)", "self.o.payload.eq(self.i.payload)", PAYLOAD),
        waits=("self.i.valid | full)", "(self.i.valid | full) & self.o.ready)")),
    "StreamFork": Case(
        StreamFork, {"shape": 2, "count": 2}, patience=2, reach=8,
        unstable=("had.eq(has & ~", "had.eq(has.any().replicate(self.count) & ~", VALID),
        waits=("self.i.valid & ~had[number])", "self.i.valid & ~had[number] & output.ready)")),
    "StreamQueue": Case(
        StreamQueue, {"shape": 2, "depth": 4}, patience=3, reach=10,
        unstable=("moves.eq(self.o.ready)", "moves.eq(some)", PAYLOAD),
        waits=("self.o.valid.eq(fetched)]", "self.o.valid.eq(fetched & self.o.ready)]")),
    "StreamQueue with register": Case(
        StreamQueue, {"shape": 2, "depth": 4, "register": True}, patience=4, reach=10,
        unstable=("moves.eq(~valid | self.o.ready)", "moves.eq(~valid | fetched)", PAYLOAD),
        waits=("moves.eq(~valid | self.o.ready)", "moves.eq(self.o.ready)")),
    "ImageQueue": Case(
        ImageQueue, {"format": ActivationFormat(16), "size": 3}, patience=8, reach=14,
        given=lambda spec, dut: ~dut.drop, memory="array",
        unstable=("read.en.eq(~fetched | (taken & ends))", "read.en.eq(~fetched | ends)", EITHER),
        waits=("self.o.valid.eq(fetched)", "self.o.valid.eq(fetched & self.o.ready)")),
    "ResidualAdd": Case(
        ResidualAdd, {"formats": (TWO_BITS, TWO_BITS), "shifts": (0, 1), "bias": 1, "shift": 1,
                      "output": TWO_BITS, "depths": (0, 3)}, patience=5, reach=12,
        unstable=("advance.eq(~self.o.valid | self.o.ready)",
                  "advance.eq(~self.o.valid | summed)", PAYLOAD),
        waits=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(self.o.ready)")),
    "ChannelConcat": Case(
        ChannelConcat, {"formats": (TWO_BITS, TWO_BITS), "channels": (1, 2), "shifts": (0, 1),
                        "bias": 1, "shift": 1, "output": TWO_BITS, "depths": (0, 3)},
        patience=5, reach=12,
        unstable=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(1)", VALID),
        waits=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(self.o.ready)")),
    "ChannelGatherer": Case(
        ChannelGatherer, {"format": TWO_BITS, "channels": 2}, patience=2, reach=8,
        unstable=("with m.If(self.i.valid & self.i.ready):", "with m.If(self.i.valid):", EITHER),
        waits=("self.i.valid & last)", "self.i.valid & last & self.o.ready)")),
    "ChannelSerializer": Case(
        ChannelSerializer, {"format": TWO_BITS, "source": 2, "pixels": 2}, patience=4, reach=10,
        unstable=("last & (~self.o.valid | self.o.ready)", "last", PAYLOAD),
        waits=("with m.If(gatherer.o.valid & gatherer.o.ready):",
               "with m.If(gatherer.o.valid & gatherer.o.ready & self.o.ready):")),
    "RomStream": Case(
        RomStream, {"shape": 2, "words": [1, 2, 3]}, patience=2, reach=8,
        unstable=("fetch.eq(~fetched | self.o.ready)", "fetch.eq(1)", PAYLOAD),
        waits=("raw.eq(stored), self.o.valid.eq(fetched)",
               "raw.eq(stored), self.o.valid.eq(fetched & self.o.ready)")),
    "LoadableStream": Case(
        LoadableStream, {"shape": 2, "words": [1, 2, 3]}, patience=2, reach=8, memory="array",
        unstable=("m.d.comb += [port.en.eq(fetch), port.addr.eq(address)]",
                  "m.d.comb += [port.en.eq(1), port.addr.eq(address)]", PAYLOAD),
        waits=("    def as_bytes(self) -> bytes:",
               "    def elaborate(self, platform):\n"
               "        m = super().elaborate(platform)\n"
               "        with m.If(~self.o.ready):\n"
               "            m.d.comb += self.o.valid.eq(0)\n"
               "        return m\n\n"
               "    def as_bytes(self) -> bytes:")),
    "ParameterStream": Case(
        ParameterStream, {"words": [21, 9, 30], "width": 2, "shift_bits": 1, "parts": 2},
        patience=3, reach=9, memory="array",
        unstable=("memory.o.ready.eq(~last | self.o.ready)", "memory.o.ready.eq(1)", EITHER),
        waits=("self.o.valid.eq(memory.o.valid & last)",
               "self.o.valid.eq(memory.o.valid & last & self.o.ready)")),
    "SlotScheduler": Case(
        SlotScheduler, {"width": 3, "shift_bits": 1}, patience=2, reach=8, given=ends,
        unstable=("room.eq(~self.o.valid | self.o.ready)", "room.eq(1)", EITHER),
        waits=("room.eq(~self.o.valid | self.o.ready)", "room.eq(self.o.ready)")),
    "ShiftClamp": Case(
        ShiftClamp, {"width": 4, "least": 0, "shift_bits": 1, "output": TWO_BITS}, patience=3,
        reach=8,
        unstable=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(1)", EITHER),
        waits=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(self.o.ready)")),
    "RomStream with register": Case(
        RomStream, {"shape": 2, "words": [1, 2], "register": True}, patience=3, reach=9,
        unstable=("fetch.eq(~fetched | ~valid | self.o.ready)", "fetch.eq(1)", PAYLOAD),
        waits=("fetch.eq(~fetched | ~valid | self.o.ready)", "fetch.eq(self.o.ready)")),
    "WeightBuffer": Case(
        WeightBuffer, {"folded": dense()}, patience=2, reach=8,
        unstable=("fetch.eq(~fetched | self.o.ready)", "fetch.eq(1)", PAYLOAD),
        waits=("fetch.eq(~fetched | self.o.ready)", "fetch.eq(self.o.ready)")),
    "ShiftPE": Case(
        ShiftPE, {"simd": 3, "activation": TWO_BITS, "term": TERM}, patience=4, reach=9,
        unstable=("advance.eq(~self.o.valid | self.o.ready)",
                  "advance.eq(~self.o.valid | self.i.valid)", VALID),
        waits=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(self.o.ready)")),
    "MultiplyPE": Case(
        MultiplyPE, {"simd": 2, "activation": TWO_BITS, "weight": FixedFormat(3)}, patience=4,
        reach=9, **ELEMENT),
    "XnorPE": Case(
        XnorPE, {"simd": 7, "activation": ActivationFormat(1)}, patience=3, reach=8, **ELEMENT),
    "ShiftAddGraph": Case(
        ShiftAddGraph, {"graph": shift_add(np.array([[3, -1], [5, 2]]), TWO_BITS)}, patience=4,
        reach=9,
        unstable=("self.o.ready | (~self.o.valid", "valid.all() | (~self.o.valid", PAYLOAD),
        waits=("(~self.o.valid if self.elastic else 0)", "0")),
    "PEArray": Case(
        PEArray, {"lanes": 2, "simd": 1, "width": 4, "activation": TWO_BITS, "term": TERM},
        patience=3, reach=8, given=last,
        unstable=("load.eq(valid & lasts & ~busy)", "load.eq(valid & lasts)", PAYLOAD),
        waits=("self.o.valid.eq(busy)", "self.o.valid.eq(busy & self.o.ready)")),
    "FilterScheduler": Case(
        FilterScheduler, {"k": (0, 2, 0, 1), "lanes": 2, "width": 3}, patience=5, reach=14,
        unstable=("room.eq(~ends | ~self.o.valid | self.o.ready)", "room.eq(1)", PAYLOAD),
        waits=("room.eq(~ends | ~self.o.valid | self.o.ready)", "room.eq(~ends | self.o.ready)")),
    "Requantizer": Case(
        Requantizer, {"low": -8, "high": 7, "bias": [0, 1], "shift": [1, 0], "output": TWO_BITS},
        patience=4, reach=9,
        unstable=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(1)", PAYLOAD),
        waits=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(self.o.ready)")),
    "ParallelRequantizer": Case(
        ParallelRequantizer, {"ranges": [(-4, 3), (-2, 1)], "bias": [0, 1], "shift": [0, 1],
                              "output": TWO_BITS}, patience=3, reach=8,
        unstable=("advance.eq(~self.o.valid | self.o.ready)",
                  "advance.eq(~self.o.valid | valid.all())", PAYLOAD),
        waits=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(self.o.ready)")),
    "Argmax": Case(
        Argmax, {"count": 3, "width": 2}, patience=1, reach=6,
        unstable=("with m.If(self.i.valid & self.i.ready):", "with m.If(self.i.valid):", PAYLOAD),
        waits=("self.i.ready.eq(~self.o.valid | self.o.ready)", "self.i.ready.eq(self.o.ready)")),
    "Fold": Case(
        WindowFold, fold((2, 1)), patience=7, reach=12,
        unstable=("with m.If(~self.o.valid | self.o.ready):", "with m.If(self.i.ready):", VALID),
        memory="array",
        waits=("self.o.valid.eq(full & ends)", "self.o.valid.eq(full & ends & self.o.ready)")),
    "MaxPooling": Case(
        MaxPooling, POOL | {"kernel": (2, 2), "stride": (2, 2)}, patience=12, reach=20,
        memory="array", **POOLING),
    "MaxPooling, overlapping": Case(
        MaxPooling, POOL | {"kernel": (2, 2), "stride": (1, 1)}, patience=8, reach=18,
        memory="array", **POOLING),
    "MaxPooling of two pixels at a time": Case(
        MaxPooling, {"shape": (2, 2, 1), "format": TWO_BITS, "kernel": (2, 2), "stride": (2, 2),
                     "pixels": 2}, patience=6, reach=12, memory="array",
        unstable=("self.o.valid.eq(rows.o.valid)", "self.o.valid.eq(rows.o.valid & self.i.valid)",
                  VALID),
        waits=("self.o.valid.eq(rows.o.valid)", "self.o.valid.eq(rows.o.valid & self.o.ready)")),
    "SumPooling": Case(
        SumPooling, POOL | {"kernel": (1, 2), "stride": (1, 2), "bias": 1, "shift": 1,
                            "output": TWO_BITS}, patience=6, reach=12, memory="array",
        **POOLING),
    "SlidingWindow": Case(
        SlidingWindow, {"shape": (3, 3, 1), "kernel": (2, 2), "simd": 1, "format": TWO_BITS},
        patience=12, reach=22,
        unstable=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(self.i.valid)", PAYLOAD),
        waits=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(self.o.ready)")),
    "SlidingWindow by columns, with register": Case(
        SlidingWindow, {"shape": (2, 2, 1), "kernel": (2, 1), "simd": 2, "column": True,
                        "passes": 2, "register": True, "format": TWO_BITS}, patience=10, reach=16,
        unstable=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(self.i.valid)", PAYLOAD),
        waits=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(self.o.ready)")),
    "PixelWindow": Case(
        PixelWindow, {"shape": (2, 2, 1), "kernel": (2, 2), "padding": (0, 1, 0, 0),
                      "format": TWO_BITS}, patience=6, reach=14,
        unstable=("step.eq(advance & (self.i.valid | ~real))", "step.eq(self.i.valid | ~real)",
                  PAYLOAD),
        waits=("(~self.o.valid if self.elastic else 0)", "0")),
    "HardwiredLayer": Case(
        HardwiredLayer, CONVOLUTION | {"pixels": 2, "filters": 1}, patience=16, reach=22,
        **HARDWIRED),
    "HardwiredConvolution": Case(
        HardwiredConvolution, CONVOLUTION, patience=12, reach=18, **HARDWIRED),
    "HardwiredDense": Case(
        HardwiredDense, DENSE, patience=10, reach=16, memory="array", **HARDWIRED),
    "HardwiredDense with register": Case(
        HardwiredDense, DENSE | {"register": True}, patience=12, reach=18, memory="array",
        **HARDWIRED),
    "RepeatingRom": Case(
        RepeatingRom, {"shape": 2, "groups": [[1, 2], [3]], "repeat": 2}, patience=2, reach=8,
        unstable=("fetch.eq(~fetched | self.o.ready)", "fetch.eq(1)", PAYLOAD),
        waits=("self.o.valid.eq(fetched)", "self.o.valid.eq(fetched & self.o.ready)")),
    "PEArray of pixels that take turns": Case(
        PEArray, {"lanes": 2, "simd": 1, "width": 4, "activation": TWO_BITS, "term": TERM,
                  "turns": 4, "complete": (1, 3)}, patience=8, reach=12, given=last,
        unstable=("load.eq(valid & lasts & ~busy)", "load.eq(valid & lasts)", PAYLOAD),
        waits=("self.o.valid.eq(busy)", "self.o.valid.eq(busy & self.o.ready)")),
    "FrameBuffer": Case(
        FrameBuffer, {"shape": (1, 2, 1), "kernel": (1, 2), "padding": (0, 0, 1, 0), "simd": 1,
                      "format": TWO_BITS}, patience=7, reach=14,
        unstable=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(self.i.valid)", PAYLOAD),
        waits=("advance.eq(~self.o.valid | self.o.ready)", "advance.eq(self.o.ready)")),
    "FlashReader": Case(
        FlashReader, {"shape": 2, "count": 1, "source": Flash(rest=1, wake=1)},
        patience=104, reach=112,
        unstable=("with m.If(~self.o.valid | self.o.ready):",
                  "with m.If(~self.o.valid | flash.clock):", VALID),
        waits=("self.o.valid.eq(full)", "self.o.valid.eq(full & self.o.ready)")),
    "FrameDrain": Case(
        FrameDrain, {"drain": [[(True, 0), (True, None)], [(True, 1), (False, 2)]], "pixels": 2,
                     "width": 2}, patience=4, reach=10,
        unstable=("rom.o.ready.eq(there & (~gives | self.o.ready))", "rom.o.ready.eq(there)",
                  EITHER),
        waits=("self.o.valid.eq(there & gives)", "self.o.valid.eq(there & gives & self.o.ready)")),
    "MapReorder": Case(
        MapReorder, {"order": [[1], [0]], "pixels": 2, "format": TWO_BITS}, patience=8, reach=14,
        unstable=("moves.eq(self.o.ready)", "moves.eq(whole != 0)", PAYLOAD),
        waits=("self.o.valid.eq(fetched)]", "self.o.valid.eq(fetched & self.o.ready)]")),
    "FrameEngine": Case(
        FrameEngine, {"framed": FramedLayer(DENSE["layer"], DENSE["source"],
                                            Framed(2, 1, external=True))},
        patience=16, reach=22,
        unstable=("wiring.connect(m, last.o, wiring.flipped(self.o))",
                  "m.d.comb += [self.o.valid.eq(last.o.valid & self.i.valid),"
                  "self.o.payload.eq(last.o.payload), last.o.ready.eq(self.o.ready)]", VALID),
        waits=("wiring.connect(m, last.o, wiring.flipped(self.o))",
               "m.d.comb += [self.o.valid.eq(last.o.valid & self.o.ready),"
               "self.o.payload.eq(last.o.payload), last.o.ready.eq(self.o.ready)]")),
    "DenseEngine": Case(
        DenseEngine, {"folded": dense()}, patience=20, reach=26,
        unstable=("wiring.connect(m, buffer.o, wiring.flipped(self.o))",
                  "m.d.comb += [self.o.valid.eq(buffer.o.valid & self.i.valid),"
                  "self.o.payload.eq(buffer.o.payload), buffer.o.ready.eq(self.o.ready)]", VALID),
        waits=("wiring.connect(m, buffer.o, wiring.flipped(self.o))",
               "m.d.comb += [self.o.valid.eq(buffer.o.valid & self.o.ready),"
               "self.o.payload.eq(buffer.o.payload), buffer.o.ready.eq(self.o.ready)]")),
    "ConvolutionEngine": Case(
        ConvolutionEngine, {"folded": convolution()}, patience=24, reach=28,
        unstable=("wiring.connect(m, buffer.o, wiring.flipped(self.o))",
                  "m.d.comb += [self.o.valid.eq(buffer.o.valid & self.i.valid),"
                  "self.o.payload.eq(buffer.o.payload), buffer.o.ready.eq(self.o.ready)]", VALID),
        waits=("wiring.connect(m, buffer.o, wiring.flipped(self.o))",
               "m.d.comb += [self.o.valid.eq(buffer.o.valid & self.o.ready),"
               "self.o.payload.eq(buffer.o.payload), buffer.o.ready.eq(self.o.ready)]")),
    "Network": Case(
        Network, network(), patience=20, reach=26,
        unstable=("wiring.connect(m, self.argmax.o, wiring.flipped(self.o))",
                  "m.d.comb += [self.o.valid.eq(self.argmax.o.valid & self.i.valid),"
                  "self.o.payload.eq(self.argmax.o.payload),"
                  "self.argmax.o.ready.eq(self.o.ready)]", VALID),
        waits=("wiring.connect(m, self.argmax.o, wiring.flipped(self.o))",
               "m.d.comb += [self.o.valid.eq(self.argmax.o.valid & self.o.ready),"
               "self.o.payload.eq(self.argmax.o.payload),"
               "self.argmax.o.ready.eq(self.o.ready)]")),
    "Deframer": Case(
        Deframer, {}, patience=2, reach=8, given=no_escape,
        unstable=("with m.If(self.i.valid & self.i.ready):", "with m.If(self.i.valid):", PAYLOAD),
        waits=("self.i.valid & ~escape)", "self.i.valid & ~escape & self.o.ready)")),
    "Framer": Case(
        Framer, {}, patience=2, reach=8,
        unstable=("with m.Elif(self.o.ready):", "with m.Else():", VALID),
        waits=("self.o.valid.eq(full)", "self.o.valid.eq(full & self.o.ready)")),
    "UartReceiver": Case(
        UartReceiver, {"divisor": 4}, patience=48, reach=90, facts=receiving, line=byte_after_byte,
        unstable=("with m.If(self.o.valid | rx):", "with m.If(rx):", PAYLOAD),
        waits=("self.o.valid.eq(rx)", "self.o.valid.eq(rx & self.o.ready)")),
    "SpiPeripheral": Case(
        SpiPeripheral, {}, patience=20, reach=40, line=clock_after_clock,
        unstable=("with m.If(~self.o.valid | self.o.ready):", "with m.If(1):", PAYLOAD),
        waits=("self.o.valid.eq(1)]", "self.o.valid.eq(self.o.ready)]")),
}


class Spec(Elaboratable):
    """The rules of all output streams, and patience where it is asked for."""

    def __init__(self, case, dut, *, patience=False, bounded=False):
        self.case, self.dut, self.patience = case, dut, patience
        self.line = case.line if patience or bounded else None

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        free_inputs(m, dut, but=["rx", "sck", "cs"] if self.line else [])
        if self.line:
            self.line(m, dut)
        stream_rules(m, dut)
        if self.case.facts is not None:
            self.case.facts(self, m, dut)
        for name, flow, _ in stream_members(dut):
            if flow == wiring.Out and self.patience:
                given = self.case.given and self.case.given(self, dut)
                assert_patience(m, dut, name, cycles=self.case.patience, given=given)
        return m


def outputs(component):
    return [name for name, flow, _ in stream_members(component) if flow == wiring.Out]


def build(case, bug=None):
    component = planted(case.component, *bug[:2]) if bug else case.component
    return component(**case.parameters)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_valid_and_payload_stay(case):
    """By induction, with resets at any time."""
    dut = build(case)
    spec = Spec(case, dut)
    for name in outputs(dut):
        stem = "dut." + name.replace(".", "__")
        forbid_path(spec, f"{stem}__ready", f"{stem}__valid")
    prove(spec, depth=case.depth, reset=True, memory=case.memory)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_valid_and_payload_stay_twin(case, tmp_path):
    with pytest.raises(Failed, match=case.unstable[2]):
        prove(Spec(case, build(case, case.unstable), bounded=True), mode="bmc",
              depth=case.reach, memory=case.memory, folder=tmp_path)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_valid_does_not_wait_for_ready(case):
    """From every state that is reached within ``reach`` cycles."""
    prove(Spec(case, build(case), patience=True), mode="bmc",
          depth=bound(case.reach, case.reach * 3 // 2), memory=case.memory)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_valid_does_not_wait_for_ready_twin(case, tmp_path):
    with pytest.raises(Failed, match="valid waits for ready"):
        prove(Spec(case, build(case, case.waits), patience=True), mode="bmc", depth=case.reach,
              memory=case.memory, folder=tmp_path)


def test_no_component_is_forgotten():
    """Every component with an output stream has its proof."""
    proved = {case.component for case in CASES.values()}
    abstract = {LayerEngine, ProcessingElement, _Pooling}
    # In test_formal_link; or only wires around components that are here.
    elsewhere = {Responder, Link, Uart}
    for module in pkgutil.iter_modules(flightrtl.gateware.__path__):
        members = vars(importlib.import_module(f"flightrtl.gateware.{module.name}")).values()
        for member in members:
            if inspect.isclass(member) and issubclass(member, wiring.Component) and any(
                    "Out(stream" in inspect.getsource(base) for base in member.__mro__
                    if base.__module__.startswith("flightrtl")):
                assert member in proved | abstract | elsewhere, member
