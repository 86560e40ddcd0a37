# amaranth: UnusedElaboratable=no
# (An object is also the answer in NumPy: its parts need not become hardware.)
"""The PE array: lanes of processing elements with accumulators, and the chains that empty them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, TermFormat, WeightFormat, _integer
from .delayline import DelayLine
from .mapstream import map_values, vector
from .pe import activation_shape
from .processing import processing_element
from .repeatrom import repeating_rom

__all__ = ["PEArray"]


class PEArray(wiring.Component):
    """``lanes`` by ``pixels`` PEs for one format of weights, each with its accumulator.

    The PEs of a lane share their terms, those of a pixel their activations. A *pass* is a run of
    transfers that ends with one whose ``last`` is 1. Every PE's dot products are added up over
    the pass; then all sums move to chains of registers, one for each pixel, that leave side by
    side through ``o``, lane 0 first, while the next pass already runs. The array stops only
    where a pass would end before the chains are empty. ``i.ready`` depends on registers only.

    Products may be off, each by what its weight's code says: a sum is the exact one and
    ``offsets`` of all the lane's codes in the pass. Of terms, that is 1 less for a negative one
    (:class:`ShiftPE` with ``exact=False``).

    Cost, per lane and pixel: the PE, an adder and two registers of ``width`` bits. 8 lanes of 4
    terms with 20 bits measure 1,973 LUT4 on iCE40 and 2,004 on ECP5 (``python -m benchmarks
    components``); placed, with their weight memory, 65.3 and 67.6 cells a term (``python -m
    benchmarks pe``).
    Latency: a pass's first sum is valid ``latency`` cycles after its last transfer. Throughput: a
    transfer per cycle; a pass takes ``max(transfers, lanes + 1)`` cycles.

    Parameters
    ----------
    lanes : int
        Slots at the same time, 1 or more.
    simd : int
        Terms per lane and cycle.
    width : int
        Bits of an accumulator. Sums are modulo ``2**width``.
    activation, term : ActivationFormat, WeightFormat
        Number formats; ``term`` is that of the weights, whatever they are.
    dsp : bool
        Whether multiplier blocks make the products, see :class:`MultiplyPE`.
    pixels : int
        Output pixels at the same time, 1 or more.
    turns : int
        Output pixels that take turns: transfer ``n`` is added to the sums of the transfers
        ``n - turns``, ``n - 2 turns``, ... of its pass, so that the same terms can serve all of
        these before the next ones are needed. The sums wait in a
        :class:`~flightrtl.gateware.delayline.DelayLine`. The ``turns`` last transfers of a pass
        all have ``last``.
    complete : sequence of int, optional
        For each pass in turn, bit by bit, the lanes that start again from 0 after it; the others
        go on in the next. If it is left out, all start again.
    register : bool
        A register behind the delay line's memory.

    Members
    -------
    i : In(stream) of struct
        ``activations``: ``simd`` activations for each pixel, pixel after pixel; ``terms``:
        ``lanes`` times ``simd`` codes of terms or weights; ``last``: 1 on the last transfer of a
        pass.
    o : Out(stream) of signed(width), an array of them if there are several pixels
        ``lanes`` sums for each pass and pixel.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, lanes: int, simd: int, width: int,
                 activation: ActivationFormat = ActivationFormat(),
                 term: WeightFormat = TermFormat(), pixels: int = 1,
                 dsp: bool = False, turns: int = 1, complete: Sequence[int] = (),
                 register: bool = False) -> None:
        self.simd = _integer(simd, "simd", 1, 1 << 16)
        self.activation = activation
        self.term = term
        self.lanes = _integer(lanes, "lanes", 1, 1 << 16)
        self.width = _integer(width, "width", 1, 64)
        self.pixels = _integer(pixels, "pixels", 1, 1 << 12)
        self.turns = _integer(turns, "turns", 1, 1 << 24)
        self.register = register
        everything = (1 << self.lanes) - 1
        self.complete = [_integer(mask, "complete", 0, everything)
                         for mask in complete or [everything]]
        self._pes = [[processing_element(term, simd=simd, activation=activation, dsp=dsp)
                      for _ in range(self.pixels)] for _ in range(self.lanes)]
        self.offsets = self._pes[0][0].offsets
        self.latency = self._pes[0][0].latency + 1
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "activations": data.ArrayLayout(activation_shape(activation),
                                                pixels * simd),
                "terms": data.ArrayLayout(data.ArrayLayout(term.code_bits, simd), lanes),
                "last": 1,
            }))),
            "o": Out(stream.Signature(vector(signed(width), pixels))),
        })

    def compute(self, activations: ArrayLike, terms: ArrayLike) -> IntArray:
        """The sums of a pixel's pass: (words, simd) activations, (words, lanes, simd) codes."""
        sums = self._pes[0][0].compute(np.asarray(activations)[:, None, :], terms)
        total = sums.sum(axis=0)
        half = 1 << (self.width - 1)
        return ((total + half) & (2 * half - 1)) - half

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # All lanes move in step, so that one valid bit serves them all: synthesis removes the
        # PEs' own.
        advance = Signal()
        remaining = Signal(range(self.lanes + 1))
        taken = Signal()
        load = Signal()
        delay = None
        valid: Value = self.i.valid
        if self.turns > 1:
            m.submodules.delay = delay = DelayLine(
                self.lanes * self.pixels * self.width, self.turns - 1, register=self.register)
            valid = self.i.valid & delay.ready
        lasts: Value = self.i.payload.last
        for stage in range(self._pes[0][0].latency):
            before = valid & lasts          # a pass's end that is a stage away
            here = Signal(name=f"valid_{stage}")
            following = Signal(name=f"last_{stage}", reset_less=True)
            with m.If(advance):
                m.d.sync += [here.eq(valid), following.eq(lasts)]
            valid, lasts = here, following

        restarts = self._restarts(m, load)
        results = map_values(self.o.payload)
        kept: list[Value] = []
        for pixel in range(self.pixels):
            suffix = f"_{pixel}" if self.pixels > 1 else ""
            chain = [Signal(signed(self.width), name=f"chain_{lane}{suffix}", reset_less=True)
                     for lane in range(self.lanes)]
            window = self.i.payload.activations.as_value()
            part = len(window) // self.pixels
            for lane, pes in enumerate(self._pes):
                pe = pes[pixel]
                m.submodules[f"lane_{lane}{suffix}"] = pe
                m.d.comb += [
                    pe.i.valid.eq(self.i.valid),
                    pe.i.payload.activations.eq(window[pixel * part:(pixel + 1) * part]),
                    pe.i.payload.terms.eq(self.i.payload.terms[lane]),
                    pe.o.ready.eq(advance),
                ]
                accumulator = Signal(signed(self.width), name=f"accumulator_{lane}{suffix}")
                total = Signal(signed(self.width), name=f"total_{lane}{suffix}")
                so_far: Value = accumulator
                if delay is not None:
                    so_far = delay.o.word_select(len(kept), self.width).as_signed()
                kept.append(accumulator)
                m.d.comb += total.eq(so_far + pe.o.payload)
                # The sum goes to the chain in the cycle of the last word, so that the
                # accumulator can start again from a plain synchronous reset: no multiplexer in
                # its adder.
                with m.If(valid & advance):
                    m.d.sync += accumulator.eq(total)
                    with m.If(lasts & restarts[lane]):
                        m.d.sync += accumulator.eq(0)
                with m.If(load):
                    m.d.sync += chain[lane].eq(total)
                with m.Elif(taken):
                    if lane + 1 < self.lanes:
                        m.d.sync += chain[lane].eq(chain[lane + 1])
            m.d.comb += results[pixel].eq(chain[0])

        if delay is not None:
            m.d.comb += [delay.i.eq(Cat(*kept)), delay.step.eq(valid & advance)]
        busy = Signal()  # remaining != 0, as a register
        # valid & lasts & busy, as a register: from here the window, the weights and all lanes are
        # stopped. So it is worked out a cycle before.
        stall = Signal()
        stays = Signal()
        stalls = Signal()
        # The same, inverted, in a register that can lie beside the window, far from the lanes.
        ready = Signal(init=1)
        m.d.comb += [
            advance.eq(~stall),
            load.eq(valid & lasts & ~busy),
            self.i.ready.eq(ready if delay is None else ready & delay.ready),
            self.o.valid.eq(busy),
            taken.eq(self.o.valid & self.o.ready),
            stays.eq(busy & ~(taken & (remaining == 1))),
            stalls.eq(Mux(stall, stays, before & (load | stays))),
        ]
        m.d.sync += [stall.eq(stalls), ready.eq(~stalls)]
        with m.If(load):
            m.d.sync += [remaining.eq(self.lanes), busy.eq(1)]
        with m.Elif(taken):
            m.d.sync += [remaining.eq(remaining - 1), busy.eq(remaining != 1)]
        return m

    def _restarts(self, m: Module, load: Signal) -> Value:
        """Lanes that start again after the pass at hand."""
        masks = [[mask] for mask in self.complete]
        if all(mask == masks[0] for mask in masks):
            return Const(self.complete[0], self.lanes)
        # A word for each transfer that ends a pass; the first one comes long after a reset.
        m.submodules.masks = rom = repeating_rom(self.lanes, masks, repeat=self.turns)
        m.d.comb += rom.o.ready.eq(load)
        return rom.o.payload
