# amaranth: UnusedElaboratable=no
# (An object is also the answer in NumPy: its parts need not become hardware.)
"""Engines with frame-based weight reuse: a layer that reads each weight once per image."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import IntArray, signed_bits
from .array import PEArray
from .buffer import StreamBuffer
from .engine import filter_offsets, sum_range
from .flash import FlashReader, FlashSignature
from .framebuffer import FrameBuffer
from .framedrain import FrameDrain
from .framing import FramedLayer
from .mapstream import map_shape, map_signature
from .regroup import ChannelGatherer
from .reorder import MapReorder
from .repeatrom import repeating_rom
from .requantize import Requantizer
from .weights import RomStream, pack

__all__ = ["FrameEngine"]


class FrameEngine(wiring.Component):
    """A weighted layer as a pipeline: frame buffer and weights, array, drain, requantizer, map.

    A weight word is held until all output pixels have met it. So each is read once per image, and
    from a source as slow as a word in :attr:`FramedLayer.pixels` cycles: block RAM, with
    ``flash`` an SPI flash, or with ``external`` a stream from elsewhere. If that is slower the
    engine waits.

    Cost: the sum of the parts; 3 lanes of 4 terms for 24 filters of 3x3x16 weights on 7x7 measure
    1,142 LUT4 and 14 block RAMs on iCE40, 1,197 and 6 on ECP5 (``python -m benchmarks
    components``). Latency: the first results leave with the image's last pass. Throughput: an
    image every :attr:`FramedLayer.cycles` cycles.

    Parameters
    ----------
    framed : FramedLayer
        The layer, what feeds it, and how it is computed; its ``register`` is that of all memories.

    Members
    -------
    i : In(stream) of the source's activation
        The input map by row, column, channel.
    weights : In(stream) of ``lanes`` times ``simd`` codes
        Only with ``external``: :attr:`words`, again for each image.
    flash : Out(FlashSignature)
        Only with ``flash``: to and from the flash that has :attr:`flash_contents`.
    o : Out(stream) of the layer's activation
        The output map by row, column, filter.
    """

    i: stream.Interface
    o: stream.Interface
    weights: stream.Interface
    flash: Any

    def __init__(self, framed: FramedLayer) -> None:
        layer, source, chosen = framed.layer, framed.source, framed.framed
        register = framed.register
        self.framed = framed
        low, high = sum_range(layer, source.format, framed.offsets)
        self.width = signed_bits(low, high)
        self.gatherer = ChannelGatherer(source.format, channels=chosen.simd)
        self.frame = FrameBuffer(
            shape=source.shape, kernel=layer.kernel, stride=layer.stride, padding=layer.padding,
            simd=chosen.simd, passes=framed.passes, frames=chosen.frames, register=register,
            format=source.format)
        self.array = PEArray(lanes=chosen.lanes, simd=chosen.simd, width=self.width,
                             activation=source.format, term=framed.term, turns=framed.pixels,
                             complete=framed.complete, register=register)
        self.drain = FrameDrain(drain=framed.drain, pixels=framed.pixels, width=self.width)
        bias = layer.bias - filter_offsets(layer, framed.offsets)
        self.requantizer = Requantizer(low=low, high=high, bias=bias.tolist(),
                                       shift=layer.shift.tolist(), output=layer.output,
                                       register=register, order=framed.order,
                                       repeat=framed.pixels)
        self.last: MapReorder | StreamBuffer = (
            StreamBuffer(map_shape(layer.output)) if framed.in_order else
            MapReorder(order=framed.order, pixels=framed.pixels, format=layer.output,
                       register=register))
        self.words = pack(framed.words_of_terms.reshape(-1, chosen.lanes * chosen.simd),
                          framed.term)
        """The weight words in the order in which they are needed, packed."""
        word = data.ArrayLayout(data.ArrayLayout(framed.term.code_bits, chosen.simd), chosen.lanes)
        self.reader = FlashReader(word, len(self.words), chosen.flash) if chosen.flash else None
        self.rom = (None if chosen.external or chosen.flash else
                    RomStream(word, self.words, register=register))
        members: dict[str, Any] = {"i": In(map_signature(source.format)),
                                   "o": Out(map_signature(layer.output))}
        if chosen.external:
            members["weights"] = In(stream.Signature(word))
        if chosen.flash:
            members["flash"] = Out(FlashSignature())
        super().__init__(members)

    @property
    def buffer_bits(self) -> int:
        """Bits of all memories but the weights'."""
        return self.framed.buffer_bits(self.width)

    @property
    def flash_contents(self) -> bytes:
        """What must be in the flash, from its address on."""
        return self.reader.image(self.words) if self.reader else b""

    def compute(self, images: ArrayLike) -> IntArray:
        """Maps (n, height, width, filters) of (n, height, width, channels) inputs.

        Goes the hardware's way: taps, lanes, passes, drain.
        """
        framed, layer = self.framed, self.framed.layer
        shape = layer.output_shape(framed.source.shape)
        words = self.frame.compute(images)
        terms = framed.words_of_terms.reshape(framed.passes, framed.words, -1,
                                              framed.framed.simd)
        maps = np.zeros((len(words), framed.pixels, layer.filters), np.int64)
        for image, taps in enumerate(words):
            for pixel in range(framed.pixels):
                sums = np.zeros(framed.framed.lanes, np.int64)
                for one_pass, steps in zip(terms, framed.drain, strict=True):
                    sums += self.array.compute(taps[:, pixel], one_pass)
                    for lane, (takes, index) in enumerate(steps):
                        if index is not None and takes:
                            maps[image, pixel, index], sums[lane] = sums[lane], 0
        return self.requantizer.compute(maps).reshape(len(maps), *shape)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.gatherer = gatherer = self.gatherer
        m.submodules.frame = frame = self.frame
        m.submodules.array = array = self.array
        m.submodules.drain = drain = self.drain
        m.submodules.requantizer = requantizer = self.requantizer
        m.submodules.last = last = self.last
        weights: Any
        if self.reader is not None:
            m.submodules.reader = self.reader
            wiring.connect(m, self.reader.flash, wiring.flipped(self.flash))
            weights = self.reader.o
        elif self.rom is not None:
            m.submodules.rom = self.rom
            weights = self.rom.o
        else:
            weights = self.weights
        wiring.connect(m, wiring.flipped(self.i), gatherer.i)
        wiring.connect(m, gatherer.o, frame.i)
        # A pass ends only where a filter does: before, its sums go on in the next one.
        ends = Signal(init=1)
        m.d.comb += ends.eq(1)
        if not all(self.framed.drain):
            m.submodules.ends = rom = repeating_rom(
                1, [[bool(steps)] for steps in self.framed.drain], repeat=1)
            m.d.comb += [
                ends.eq(rom.o.payload),
                rom.o.ready.eq(array.i.valid & array.i.ready & frame.o.payload.sweep
                               & frame.o.payload.last),
            ]
        m.d.comb += [
            array.i.valid.eq(frame.o.valid & weights.valid),
            frame.o.ready.eq(array.i.ready & weights.valid),
            weights.ready.eq(array.i.ready & frame.o.valid & frame.o.payload.sweep),
            array.i.payload.activations.eq(frame.o.payload.activations),
            array.i.payload.terms.eq(weights.payload),
            array.i.payload.last.eq(frame.o.payload.last & ends),
        ]
        wiring.connect(m, array.o, drain.i)
        wiring.connect(m, drain.o, requantizer.i)
        wiring.connect(m, requantizer.o, last.i)
        wiring.connect(m, last.o, wiring.flipped(self.o))
        return m
