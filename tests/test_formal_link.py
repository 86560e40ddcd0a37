"""Proofs about the link's responder: its buffer, the network's input, the way back to the start.

All of them are inductions of one step, and so hold from any state that has the properties asserted
here, however it came about: whatever the line carries, with resets at any time. What is in the
buffer may be anything, and so may the checksum's register.
"""

from dataclasses import replace
from typing import Any

import pytest
from amaranth import Cat, Const, Elaboratable, Module, Mux, Signal
from amaranth.hdl import Assert, Assume

from flightrtl.formats import ActivationFormat
from flightrtl.gateware.link import Responder, State
from flightrtl.gateware.link.layout import (
    BODY,
    COUNTERS,
    COUNTERS_END,
    HOME,
    IDENTITY_END,
    MODEL_HASH,
)
from flightrtl.protocol import HASH_BYTES, LOAD_HEADER_BYTES, Frame, Identity
from tests.formal import (
    Failed,
    Unproved,
    forbid_path,
    free_inputs,
    internal,
    planted,
    prove,
    stream_rules,
)

FRAME = Frame(ActivationFormat(2), 4, ActivationFormat(9, True), 2)
IDENTITY = Identity(bytes(8), bytes(8), FRAME.image_bytes, FRAME.classes)


def responder(bug=None, loadable=False):
    return (planted(Responder, *bug) if bug else Responder)(
        FRAME, replace(IDENTITY, loadable=loadable))


class Spec(Elaboratable):
    """A responder, with a network that gives as many results as it should."""

    state: Any
    place: Any
    put: Any
    bit: Any
    offer: Any
    page: Any
    counters: Any
    classify: Any
    complete: Any
    some: Any
    spoilt: Any
    odd: Any
    body: Any
    load: Any

    def __init__(self, dut):
        self.dut = dut
        self.loadable = dut.identity.loadable

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        free_inputs(m, dut)
        self.layout = dut.layout
        for name, width in (("state", 4), ("place", 7), ("put", 1), ("bit", 4), ("offer", 1),
                            ("page", 1), ("counters", 1), ("classify", 1), ("complete", 1),
                            ("some", 1), ("spoilt", 1), ("odd", 1)):
            setattr(self, name, internal(self, f"dut.{name}", width))
        self.body, self.load = ((internal(self, "dut.body", 1), internal(self, "dut.load", 1))
                                if self.loadable else (self.classify & self.complete, Const(0)))
        self.results = results = Signal(range(FRAME.classes))
        last = results == FRAME.classes - 1
        # The second follows from the rules of streams, since the result was valid in RESULT.
        m.d.comb += [Assume(dut.result.payload.last == last, "as many as classes"),
                     Assume(dut.result.valid | ~self.at(State.HIGH, State.CLASS), "it stays")]
        with m.If(dut.result.valid & dut.result.ready):
            m.d.sync += results.eq(Mux(last, 0, results + 1))
        self.invariants(m, dut)
        self.claim(m, dut)
        return m

    def at(self, *states):
        return Cat(self.state == state for state in states).any()

    def within(self, low, high):
        """Whether the place is one of ``low`` to ``high``, both included."""
        return (self.place >= low) & (self.place <= high)

    def invariants(self, m, dut):
        """Where the place is in each state."""
        layout, place, results = self.layout, self.place, self.results
        header = self.within(HOME, HOME + 1)
        rests = (self.bit == 9) | (self.bit == 8)   # the place is the next one already
        page = Mux(self.counters, self.within(COUNTERS - 1, COUNTERS_END),
                   self.within(7, IDENTITY_END))
        sent = Mux(self.page, header | page,
                   self.within(HOME, Mux(self.classify, layout.answer_end, BODY + 1)))
        places = {
            State.RECEIVE: self.within(HOME, layout.end) & (rests | (place < layout.end)),
            State.DECODE: place == HOME,
            State.SKIP: header,
            State.IMAGE: self.within(BODY, layout.image_end - self.offer) & self.classify,
            State.STATUS: place == BODY,
            State.RESULT: place == BODY + 1 + 2 * results,
            State.HIGH: place == BODY + 2 + 2 * results,
            State.CLASS: (place == BODY + 1 + 2 * FRAME.classes) & (results == FRAME.classes - 1),
            State.OPEN: place == HOME,
            State.SEND: sent & (rests | ~self.stops()),
            State.TRAILER: self.within(HOME, HOME + 4 - ~rests),
            State.CLOSE: place == HOME,
            State.COUNT: header | self.within(COUNTERS - 1, COUNTERS_END),
        }
        if self.loadable:
            hash_end = BODY + HASH_BYTES
            # Where the word is that of the place, and what happens in the other cycles.
            places |= {
                State.MODEL: (self.within(BODY, hash_end - ~self.odd) & self.body
                              & ~self.classify),
                State.LOAD: (self.within(BODY, layout.image_end - self.odd) & self.load
                             & ~self.body),
            }
            starts = (self.state == State.SKIP) & (self.body | self.load)
            m.d.comb += [
                Assert(~starts | (self.odd == ((place != HOME) & ~self.body)), "at another time"),
                Assert(~(starts & self.body) | (place == HOME + 1), "twice on the way"),
                Assert((self.state != State.IMAGE) | ~self.load, "weights and an image"),
                Assert(~self.body | self.at(State.DECODE, State.SKIP, State.MODEL)
                       | (self.state == State.IMAGE) & (place == BODY) & ~self.offer,
                       "a body at another time"),
                Assert(~self.load | self.at(State.DECODE, State.SKIP, State.MODEL, State.LOAD),
                       "weights at another time"),
                Assert(~self.load | ~self.classify | (self.state == State.DECODE),
                       "weights as an image"),
                Assert(~(self.classify & dut.loading), "an image while weights are loaded"),
                Assert(~self.load | self.body | dut.loading | (self.state == State.DECODE),
                       "weights while images are taken"),
            ]
        m.d.comb += Assert(self.at(*places), "there is no such state")
        for state, where in places.items():
            m.d.comb += Assert((self.state != state) | where, f"{state.name}: wrong place")
        m.d.comb += [
            Assert((self.bit == 9) | self.at(State.RECEIVE, State.SEND, State.TRAILER),
                   "bits go on"),
            Assert((self.bit < 10) | (self.bit == 15), "the bits' counter is lost"),
            Assert((results == 0) | self.at(State.RESULT, State.HIGH, State.CLASS),
                   "results at another time"),
            Assert(~self.offer | (self.state == State.IMAGE), "a value at another time"),
            Assert(~(self.page & self.classify), "a result in a page"),
            Assert(~self.some | (self.state == State.RECEIVE), "a frame at another time"),
            Assert(self.classify | ~self.at(State.RESULT, State.HIGH, State.CLASS),
                   "a result that nobody wants"),
        ]

    def stops(self):
        """Whether a reply is complete, from its length alone."""
        return self.place == Mux(self.page, Mux(self.counters, COUNTERS_END, IDENTITY_END),
                                 Mux(self.classify, self.layout.answer_end, BODY + 1))

    def claim(self, m, dut):
        raise NotImplementedError


class Rules(Spec):
    """Offers stay as they are until they are taken."""

    def claim(self, m, dut):
        stream_rules(m, dut)
        for name in ("o", "image"):
            forbid_path(self, f"dut.{name}__ready", f"dut.{name}__valid")


class Bounds(Spec):
    """No byte is written outside the buffer, and none from the line into what is before frames."""

    def claim(self, m, dut):
        m.d.comb += [
            Assert(~self.put | (self.place < self.layout.end), "a write behind the buffer"),
            Assert(~(self.put & (self.state == State.RECEIVE)) | (self.place >= HOME),
                   "a byte from the line in a page"),
        ]


class WholeImages(Spec):
    """What the network has got is whole images, except while it is getting one."""

    def claim(self, m, dut):
        got = Signal(range(FRAME.size))
        with m.If(dut.image.valid & dut.image.ready):
            m.d.sync += got.eq(Mux(got == FRAME.size - 1, 0, got + 1))
        done = (self.place == self.layout.image_end) & (got == 0)
        m.d.comb += [
            Assert(got < FRAME.size, "an image without an end"),
            Assert((got == 0) | (self.state == State.IMAGE), "a part of an image"),
            Assert((self.state != State.IMAGE) | done | (self.place == BODY + got),
                   "a value too many or too few"),
        ]


class Writes(Spec):
    """Weights and the model's hash are written, with their own bytes, after a good checksum only:
    while the network is in reset, and in no other place.
    """

    def claim(self, m, dut):
        place, bus = self.place, dut.write
        target = internal(self, "dut.target", 7)
        left = internal(self, "dut.loader.left", 2)
        before = Signal.like(place)
        m.d.sync += before.eq(place)
        checked = Signal()
        with m.If(self.state == State.RECEIVE):
            m.d.sync += checked.eq(dut.i.valid & dut.i.ready & dut.i.payload.end & ~self.spoilt
                                   & internal(self, "dut.match", 1))
        model, head = (self.state == State.MODEL) & self.put, BODY + LOAD_HEADER_BYTES
        m.d.comb += [
            Assert(self.at(State.RECEIVE, State.COUNT) | checked, "no good frame has come"),
            Assert(~bus.valid | dut.loading & (self.state == State.LOAD), "in a network at work"),
            Assert(~(bus.valid | model) | (place == before), "the byte of another place"),
            Assert(~self.load | (self.state == State.DECODE) | (left == Mux(
                self.state != State.LOAD, LOAD_HEADER_BYTES,
                Mux(place < head, head - place, 0))), "the head is lost"),
            Assert(~model | (target == place - BODY + MODEL_HASH), "not the hash"),
            Assert(~self.put | model | (target == place), "another place"),
        ]


class Returns(Spec):
    """From any state, if flags arrive, the network takes and gives, and replies can leave, it is
    ready for a frame after a time that a number shows which falls in every cycle.
    """

    def claim(self, m, dut):
        ready = ((self.state == State.RECEIVE) & ~self.some & ~self.spoilt & (self.bit == 9)
                 & (self.place == HOME))
        favourable = (dut.i.valid & dut.i.payload.end & ~dut.lost & dut.image.ready
                      & dut.result.valid & dut.o.ready)
        rank, before, falls = Signal(14), Signal(14), Signal()
        # A frame that was spoilt during a reply ends with the first flag after it.
        order = Mux((self.state == State.RECEIVE) & self.spoilt, 0, self.order(m))
        m.d.comb += rank.eq(Mux(ready, 0, Cat(self.local(m), order[:4], self.spoilt)))
        m.d.sync += [before.eq(rank), falls.eq(favourable & ~ready)]
        m.d.comb += Assert(~falls | (rank < before), "it does not get on")

    def order(self, m):
        """How many states follow, at most."""
        order = Signal(4)
        follow = [State.COUNT, State.CLOSE, State.TRAILER, State.SEND, State.OPEN, State.CLASS,
                  State.RESULT, State.STATUS, None, State.IMAGE, None, State.MODEL, None,
                  State.DECODE, State.RECEIVE]
        together = {State.RESULT: (State.RESULT, State.HIGH),
                    State.IMAGE: (State.IMAGE, State.LOAD)}
        for number, state in enumerate(follow, 1):
            if state is not None:
                with m.If(self.at(*together.get(state, (state,)))):
                    m.d.comb += order.eq(number)
        with m.If(self.state == State.SKIP):    # before the state that follows
            after = Mux(self.body, Mux(self.classify, follow.index(State.IMAGE),
                                       follow.index(State.MODEL)),
                        Mux(self.load, follow.index(State.IMAGE), follow.index(State.STATUS)))
            m.d.comb += order.eq(after + 2)
        return order

    def local(self, m):
        """How many cycles the state lasts, at most; larger before smaller in any case."""
        place, layout = self.place, self.layout
        rest = (9 - self.bit)[:4]
        local = Signal(9)
        byte = Mux(self.bit == 9, 10, Mux(self.bit == 8, 11, rest - 1))
        pages = Mux(self.counters, COUNTERS_END, IDENTITY_END)
        frames = Mux(self.classify, layout.answer_end, BODY + 1)
        first = Mux(self.counters, COUNTERS - 1, 7)
        left = Mux(self.page, Mux(place[6], (BODY - place) + (pages - first), pages - place),
                   frames - place)
        counts = Mux(place[4], 0, 16 - place[:4])
        with m.Switch(self.state):
            for state, value in (
                    (State.RECEIVE, 2 * rest + ~self.odd), (State.DECODE, ~self.odd),
                    (State.SKIP, BODY - place),
                    (State.IMAGE, 2 * (layout.image_end - place) + ~self.offer),
                    (State.RESULT, 2 * (FRAME.classes - self.results) + 1),
                    (State.HIGH, 2 * (FRAME.classes - self.results)),
                    (State.SEND, 16 * left + byte), (State.TRAILER, 16 * (HOME + 4 - place) + byte),
                    (State.COUNT, 2 * counts + ~self.odd),
                    (State.MODEL, 2 * (BODY + HASH_BYTES - place) + self.odd),
                    (State.LOAD, 2 * (layout.image_end - place) + ~self.odd)):
                with m.Case(state):
                    m.d.comb += local.eq(value)
        return local


class Takes(Spec):
    """A byte that is offered is taken within 32 cycles, whatever network and host do."""

    def claim(self, m, dut):
        waits, before, falls = Signal(6), Signal(6), Signal()
        rest = (9 - self.bit)[:4]
        with m.If(self.state == State.RECEIVE):
            m.d.comb += waits.eq(2 * rest + ~self.odd)
        with m.Elif(self.state == State.COUNT):
            m.d.comb += waits.eq(2 + 2 * Mux(self.place[4], 0, 16 - self.place[:4]) + ~self.odd)
        m.d.sync += [before.eq(waits), falls.eq(dut.i.valid & ~dut.i.ready)]
        m.d.comb += Assert(~falls | (waits < before), "a byte waits for ever")


CASES = {
    Rules: ("read.en.eq(~(self.image.valid | self.o.valid & ~self.o.payload.end))]",
            "read.en.eq(1)]"),
    Bounds: ("m.d.comb += [take.eq(~full), put.eq(~full)]", "m.d.comb += [take.eq(1), put.eq(1)]"),
    WholeImages: ("with m.If(self.image.ready):", "with m.If(self.image.ready | self.lost):"),
    Returns: ("with m.If(self.o.ready):\n                    m.d.sync += state.eq(State.COUNT)",
              "with m.If(self.o.ready & odd & ~odd):\n"
              "                    m.d.sync += state.eq(State.COUNT)"),
    Takes: ("self.i.ready.eq(rests & odd),", "self.i.ready.eq(rests & odd & some),"),
}
"""What is claimed, each with a planted bug that breaks it."""

LOADS = ("m.d.sync += [loading.eq(load), clear.eq(0), body.eq(0),",
         "m.d.sync += [loading.eq(load & self.i.valid), clear.eq(0), body.eq(0),")


class Everything(Writes):
    """All of it, of a responder that loads weights."""

    def claim(self, m, dut):
        for claim in (Writes, *CASES):
            claim.claim(self, m, dut)

    order, local = Returns.order, Returns.local


@pytest.mark.parametrize("claim", CASES)
def test_holds_from_any_state(claim):
    prove(claim(responder()), depth=1, reset=True)


def test_all_of_it_holds_where_weights_are_loaded():
    prove(Everything(responder(loadable=True)), depth=1, reset=True)


def test_twin_that_writes_weights_into_a_network_at_work(tmp_path):
    with pytest.raises((Failed, Unproved)):
        prove(Writes(responder(LOADS, loadable=True)), depth=1, reset=True, folder=tmp_path)


@pytest.mark.parametrize("claim", CASES)
def test_twin(claim, tmp_path):
    with pytest.raises((Failed, Unproved)):
        prove(claim(responder(CASES[claim])), depth=1, reset=True, folder=tmp_path)
