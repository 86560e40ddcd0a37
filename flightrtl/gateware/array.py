# amaranth: UnusedElaboratable=no
# (An object is also the answer in NumPy: its parts need not become hardware.)
"""The PE array: lanes of shift PEs with accumulators, and the chain that empties them."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth import Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, IntArray, TermFormat, _integer
from .pe import ShiftPE, activation_shape

__all__ = ["PEArray"]


class PEArray(wiring.Component):
    """``lanes`` shift PEs that share their activations, each with its accumulator.

    A *pass* is a run of transfers that ends with one whose ``last`` is 1. Every lane adds up its
    dot products over the pass; then all sums move to a chain of registers that leaves through
    ``o``, lane 0 first, while the next pass already runs. The array stops only where a pass
    would end before the chain is empty. ``i.ready`` depends on registers only.

    Products of negative terms are one short (:class:`ShiftPE` with ``exact=False``): a sum is
    the exact one less the number of the lane's negative terms in the pass.

    Cost, per lane: the PE, an adder and a register of ``width`` bits. 8 lanes of 4 terms with 20
    bits measure 1,967 LUT4 on iCE40 and 2,001 on ECP5 (``python -m benchmarks components``);
    placed, with their weight memory, 65.0 and 67.6 cells a term (``python -m benchmarks pe``).
    Latency: a pass's first sum is valid ``latency`` cycles after its last transfer. Throughput: a
    transfer per cycle; a pass takes ``max(transfers, lanes + 1)`` cycles.

    Parameters
    ----------
    lanes : int
        PEs, 1 or more.
    simd : int
        Terms per lane and cycle.
    width : int
        Bits of an accumulator. Sums are modulo ``2**width``.
    activation, term : ActivationFormat, TermFormat
        Number formats.

    Members
    -------
    i : In(stream) of struct
        ``activations``: ``simd`` activations; ``terms``: ``lanes`` times ``simd`` term codes;
        ``last``: 1 on the last transfer of a pass.
    o : Out(stream) of signed(width)
        ``lanes`` sums for each pass.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, lanes: int, simd: int, width: int,
                 activation: ActivationFormat = ActivationFormat(),
                 term: TermFormat = TermFormat()) -> None:
        self.simd = _integer(simd, "simd", 1, 1 << 16)
        self.activation = activation
        self.term = term
        self.lanes = _integer(lanes, "lanes", 1, 1 << 16)
        self.width = _integer(width, "width", 1, 64)
        self._pes = [ShiftPE(simd=simd, activation=activation, term=term, exact=False)
                     for _ in range(self.lanes)]
        self.latency = self._pes[0].latency + 1
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "activations": data.ArrayLayout(activation_shape(activation), simd),
                "terms": data.ArrayLayout(data.ArrayLayout(term.code_bits, simd), lanes),
                "last": 1,
            }))),
            "o": Out(stream.Signature(signed(width))),
        })

    def compute(self, activations: ArrayLike, terms: ArrayLike) -> IntArray:
        """The sums of one pass: (words, simd) activations, (words, lanes, simd) codes."""
        sums = self._pes[0].compute(np.asarray(activations)[:, None, :], terms)
        total = sums.sum(axis=0)
        half = 1 << (self.width - 1)
        return ((total + half) & (2 * half - 1)) - half

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # All lanes move in step, so that one valid bit serves them all: synthesis merges the
        # PEs' identical ones.
        advance = Signal()
        remaining = Signal(range(self.lanes + 1))
        taken = Signal()
        load = Signal()
        lasts = self.i.payload.last
        for stage in range(self._pes[0].latency):
            following = Signal(name=f"last_{stage}", reset_less=True)
            with m.If(advance):
                m.d.sync += following.eq(lasts)
            lasts = following

        valid = Signal()
        chain = [Signal(signed(self.width), name=f"chain_{lane}", reset_less=True)
                 for lane in range(self.lanes)]
        for lane, pe in enumerate(self._pes):
            m.submodules[f"lane_{lane}"] = pe
            m.d.comb += [
                pe.i.valid.eq(self.i.valid),
                pe.i.payload.activations.eq(self.i.payload.activations),
                pe.i.payload.terms.eq(self.i.payload.terms[lane]),
                pe.o.ready.eq(advance),
            ]
            if lane == 0:
                m.d.comb += valid.eq(pe.o.valid)
            accumulator = Signal(signed(self.width), name=f"accumulator_{lane}")
            total = Signal(signed(self.width), name=f"total_{lane}")
            m.d.comb += total.eq(accumulator + pe.o.payload)
            # The sum goes to the chain in the cycle of the last word, so that the accumulator
            # can start again from a plain synchronous reset: no multiplexer in its adder.
            with m.If(valid & advance):
                m.d.sync += accumulator.eq(total)
                with m.If(lasts):
                    m.d.sync += accumulator.eq(0)
            with m.If(load):
                m.d.sync += chain[lane].eq(total)
            with m.Elif(taken):
                if lane + 1 < self.lanes:
                    m.d.sync += chain[lane].eq(chain[lane + 1])

        busy = Signal()  # remaining != 0, as a register
        m.d.comb += [
            advance.eq(~(valid & lasts & busy)),
            load.eq(valid & lasts & ~busy),
            self.i.ready.eq(advance),
            self.o.valid.eq(busy),
            self.o.payload.eq(chain[0]),
            taken.eq(self.o.valid & self.o.ready),
        ]
        with m.If(load):
            m.d.sync += [remaining.eq(self.lanes), busy.eq(1)]
        with m.Elif(taken):
            m.d.sync += [remaining.eq(remaining - 1), busy.eq(remaining != 1)]
        return m
