"""The winning class: which logit is the largest."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import IntArray, _integer

__all__ = ["Argmax"]


class Argmax(wiring.Component):
    """Passes logits on and tells, beside the last one, which was the largest.

    Cost, for 10 logits of 16 bits: 42 LUT4 on iCE40, 37 on ECP5 (21, and 8 carry cells of two
    each). (Yosys 0.70, ``-abc9``.)

    Latency: 1 cycle. Throughput: one logit per cycle, without a gap between images.

    Parameters
    ----------
    count : int
        Logits of one image; 1 or more.
    width : int
        Bits of a logit, two's complement; 1 to 64.

    Members
    -------
    i : In(stream) of signed(width)
        Logits, in class order, images back to back.
    o : Out(stream) of struct
        ``logit``: the same logit. ``winner``: index of the largest logit of the image up to this
        one, the first of equal ones; so the class where ``last`` is 1. ``last``: whether the
        logit is the image's last.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, count: int, width: int) -> None:
        self.count = _integer(count, "count", 1, 1 << 16)
        self.width = _integer(width, "width", 1, 64)
        super().__init__({
            "i": In(stream.Signature(signed(self.width))),
            "o": Out(stream.Signature(data.StructLayout({
                "logit": signed(self.width),
                # At least one bit, so that a network with one logit has the same interface.
                "winner": unsigned(max((self.count - 1).bit_length(), 1)),
                "last": 1,
            }))),
        })

    def compute(self, logits: ArrayLike) -> IntArray:
        """The same in NumPy: the winners of an array (images, ``count``)."""
        values = np.asarray(logits, np.int64)
        if values.ndim != 2 or values.shape[1] != self.count:
            raise ValueError(f"logits must have shape (N, {self.count}), not {values.shape}")
        return values.argmax(axis=1)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        index = Signal.like(self.o.payload.winner)
        best = Signal.like(self.i.payload, reset_less=True)
        better = Signal()
        last = index == self.count - 1
        # The winner up to the logit before is still in the output register, taken or not.
        winner = self.o.payload.winner
        m.d.comb += [
            self.i.ready.eq(~self.o.valid | self.o.ready),
            better.eq((index == 0) | (self.i.payload > best)),
        ]
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(self.i.valid)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                index.eq(Mux(last, 0, index + 1)),
                self.o.payload.logit.eq(self.i.payload),
                self.o.payload.last.eq(last),
            ]
            with m.If(better):
                m.d.sync += [best.eq(self.i.payload), winner.eq(index)]
        return m
