"""Checks frames, does what they ask for, and replies."""

from __future__ import annotations

import enum
from functools import reduce
from operator import and_
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc.catalog import CRC32_JAMCRC
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ...protocol import (
    CHECKSUM_BYTES,
    FLAG,
    LOAD_HEADER_BYTES,
    REPLY,
    Frame,
    Identity,
    Type,
    value_bytes,
)
from ..loadablestream import WriteSignature
from ..pe import activation_shape
from ..ram import DualPortRam
from .deframer import token_layout
from .layout import BODY, HOME, MODEL_HASH, Layout
from .loader import Loader

__all__ = ["NetworkSide", "Responder", "State"]


class State(enum.IntEnum):
    """What a :class:`Responder` is doing."""

    RECEIVE = 0
    """Takes a frame into the buffer."""
    DECODE = 1
    """Looks at its type."""
    SKIP = 2
    """Goes to the place behind the header."""
    IMAGE = 3
    """Hands the image to the network, a value every other cycle."""
    STATUS = 4
    """Writes the reply's status."""
    RESULT = 5
    HIGH = 6
    """Writes a logit: its low byte, and its high byte if it has one."""
    CLASS = 7
    CLASS_HIGH = 8
    """Writes the class."""
    OPEN = 9
    """Sends a flag."""
    SEND = 10
    """Sends what is in the buffer."""
    TRAILER = 11
    """Sends the checksum."""
    CLOSE = 12
    """Sends a flag."""
    COUNT = 13
    """Counts what became of the frame."""
    MODEL = 14
    """Writes the model's hash, or before weights are loaded, none."""
    LOAD = 15
    """Writes weights, a byte every other cycle."""


class NetworkSide(wiring.Component):
    """Members of a responder, and of the link around it."""

    i: stream.Interface
    o: stream.Interface
    lost: Signal
    image: stream.Interface
    result: stream.Interface
    winner: Signal
    write: Any
    loading: Signal


class Responder(NetworkSide):
    """Takes requests from the host one after the other, and replies to each.

    A frame goes into a buffer, byte by byte. Nothing happens before it is there completely and
    its checksum is right; then its image goes from the buffer to the network, and what the
    network computes goes to the same place, as the reply. So nothing that a line does ever
    reaches the network, and the network never sees a part of an image.

    What arrives from the end of a request to the end of its reply is dropped: a host waits for
    the reply, or for a time after which there will be none.

    The same buffer holds, before the frames, what the device says about itself (in the initial
    contents of the memory, see :class:`~.layout.Layout`) and four counters.

    If the identity says so, weights can be loaded. From the first of them until the host says that
    they are complete, images are refused, and the model in the identity is none; after a reset
    too, which leaves the memories as they are.

    Cost, for 784 8-bit values and 10 16-bit logits: 225 LUT4 and 2 block RAMs on iCE40, 245 LUT4
    and 1 block RAM on ECP5 (Yosys 0.70, ``-abc9``); to load weights, 74 and 47 LUT4 more. Latency:
    6 cycles from a good frame's end to the image's first value. Throughput: a byte every 14 cycles,
    and a value to the network every other cycle. The bytes of a frame that follows at once wait up
    to 30 cycles, while the counters are written.

    Parameters
    ----------
    frame : Frame
        Sizes and formats.
    identity : Identity
        What the device says about itself at first.
    register : bool
        A register behind the buffer's memory, in a domain called ``always``; then whoever makes
        this lets ``sync`` move in every second cycle only, as :class:`~.link.Link` does.

    Members
    -------
    i : In(stream) of struct
        From the host: :func:`~.deframer.token_layout`.
    o : Out(stream) of struct
        To the host: the same.
    lost : In(1)
        A byte from the host was lost. The frame that it belongs to is dropped.
    image : Out(stream)
        Values to the network.
    result : In(stream) of struct
        From the network: ``logit``, ``winner``, ``last``. Not taken while an image is handed over.
    winner : Out(unsigned)
        Class of the last image, 0 at first.
    write : Out(WriteSignature)
        To the network's memories, where weights can be loaded.
    loading : Out(1)
        The same: whether they are incomplete. The network must be in reset then.

    Raises
    ------
    ValueError
        If weights are to be loaded and there is no room for them in a frame.
    """

    def __init__(self, frame: Frame, identity: Identity, *, register: bool = False) -> None:
        self.frame = frame
        self.register = register
        self.identity = identity
        if identity.loadable and frame.load_bytes < 1:
            raise ValueError(f"an image has {frame.image_bytes} bytes, and so has a request to "
                             f"load weights: it must have {LOAD_HEADER_BYTES + 1} or more")
        self.layout = Layout(frame)
        self.memory = self.layout.memory(identity)
        """What the buffer holds at first."""
        super().__init__({
            "i": In(stream.Signature(token_layout())),
            "o": Out(stream.Signature(token_layout())),
            "lost": In(1),
            "image": Out(stream.Signature(activation_shape(frame.input))),
            "result": In(stream.Signature(data.StructLayout({
                "logit": activation_shape(frame.logit),
                "winner": unsigned(frame.winner_bits),
                "last": 1,
            }))),
            "winner": Out(frame.winner_bits),
            **({"write": Out(WriteSignature()), "loading": Out(1)} if identity.loadable else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        frame, layout, result = self.frame, self.layout, self.result
        loadable = self.identity.loadable
        state = Signal(State)
        busy = state != State.RECEIVE

        # The buffer. `word` is what stood at `place` a cycle ago, and stays while it is on offer.
        m.submodules.buffer = self.buffer = buffer = DualPortRam(
            8, self.memory.depth, init=self.memory.initial, block=True)
        write, read = buffer.write, buffer.read
        place = Signal(range(layout.end + 1), init=HOME)
        word = read.data
        if self.register:
            word = Signal(8, reset_less=True)
            m.d.always += word.eq(read.data)
        step = Signal()
        home = Signal()
        put = Signal()
        m.d.comb += [write.addr.eq(place), read.addr.eq(place), write.en.eq(put),
                     read.en.eq(~(self.image.valid | self.o.valid & ~self.o.payload.end))]

        # Where a reply is: in the frame's place, or from its status on in a page.
        page = Signal()
        counters = Signal()
        send, trailer, count = (state == each for each in (State.SEND, State.TRAILER,
                                                           State.COUNT))
        jump = place[6] & place[1] & (send & page | count)
        following = place + 1
        with m.If(step):
            m.d.sync += [place.eq(following), place[6].eq(following[6] & ~jump),
                         place[5].eq(following[5] | jump & (counters | count))]
        with m.If(home):
            m.d.sync += place.eq(HOME)

        # Bits of the word that wait for the checksum: from 15 to 7, and it rests at 9.
        bit = Signal(4, init=9)
        rests = bit == 9
        take = Signal()
        m.submodules.crc = crc = CRC32_JAMCRC(1).create()
        m.d.comb += [
            # A checksum that takes in itself has its next byte in the same place.
            crc.data.eq(Mux(trailer, crc.crc[0], word.bit_select(bit[:3], 1))),
            crc.valid.eq(~bit[3]),
            crc.start.eq((state != State.RECEIVE) & ~send & ~trailer),
        ]
        # 32 bits are compared. As a register: it rests for a cycle before a flag is looked at.
        match = Signal()
        m.d.sync += match.eq(crc.match_detected & ~crc.start)
        with m.If(take):
            m.d.sync += bit.eq(15)
        with m.Elif(~rests):
            m.d.sync += bit.eq(bit + 1)
        with m.If(bit == 7):
            m.d.comb += step.eq(1)

        if loadable:
            m.submodules.loader = loader = Loader()
            wiring.connect(m, loader.write, wiring.flipped(self.write))
            m.d.comb += [loader.data.eq(word), loader.start.eq(state == State.DECODE)]
            # As the memories, it outlives a reset.
            loading = Signal(reset_less=True)
            m.d.comb += self.loading.eq(loading)
            # The hash is two places further on in the page than in a request: that is an addition
            # without an adder.
            assert MODEL_HASH == BODY + 2 - 64
            further = Cat(0, 1, place[1], place[1:3].all(), place[1:4].all(), 0, 1)
            target = Signal.like(place)
            m.d.comb += [target.eq(place ^ Mux(state == State.MODEL, further, 0)),
                         write.addr.eq(target)]
            body = Signal()                     # the request is one with a body to go through
            load = Signal()                     # it is one to load weights
            sized = Signal()                    # the frame is as long as one with a hash
        full = _reached(place, layout.end)
        exact = place == layout.image_end + CHECKSUM_BYTES
        if layout.image_end + CHECKSUM_BYTES == layout.end:
            exact = full
        complete = Signal()                     # the frame is as long as an image
        empty = Signal()                        # it has no body
        some = Signal()                         # a byte of the frame is there
        spoilt = Signal()                       # a byte is missing
        event = Signal(2)                       # what became of the frame: which counter counts
        classify = Signal()                     # what it asks for
        clear = Signal()
        error = Signal(3)
        offer = Signal()                        # the network is offered a value
        wide = value_bytes(frame.input.bits) == 2
        low, settled = Signal(8, reset_less=True), Signal()
        second: Value = Signal() if wide else Const(1)      # the low byte of two is in `low`

        # Where a place is stepped to in odd cycles only, the word is that place's in odd cycles.
        odd = Signal()
        m.d.sync += odd.eq(~odd)

        # What goes back to the word's place: the type of a reply, or a counter.
        changed = Signal(9)
        carry = Signal()
        m.d.comb += changed.eq((word | ((state == State.DECODE) << exact_log2(REPLY)))
                               + (count & (~place[0] | carry)))

        m.d.comb += [
            self.o.payload.end.eq((state == State.OPEN) | (state == State.CLOSE)),
            self.o.payload.data.eq(Mux(self.o.payload.end, FLAG,
                                       Mux(trailer, crc.crc[:8], word))),
            self.image.payload.eq((Cat(low, word) if wide else word)[:frame.input.bits]),
            self.image.valid.eq(offer),
            self.i.ready.eq(~count),
        ]
        with m.If(self.i.valid & self.i.ready & ~self.i.payload.end & (busy | full)):
            m.d.sync += spoilt.eq(1)

        with m.Switch(state):
            with m.Case(State.RECEIVE):
                good = Signal()
                m.d.comb += [good.eq(match & self.i.payload.data[5] & ~spoilt),
                             self.i.ready.eq(rests & odd), write.data.eq(self.i.payload.data)]
                m.d.sync += [complete.eq(exact), empty.eq(place == layout.empty_end), clear.eq(0),
                             event.eq(Cat(1, spoilt))]
                if loadable:
                    m.d.sync += sized.eq(place == layout.commit_end)
                with m.If(self.i.valid & rests & odd):
                    with m.If(~self.i.payload.end):
                        m.d.sync += some.eq(1)
                        m.d.comb += [take.eq(~full), put.eq(~full)]
                    with m.Else():
                        m.d.comb += home.eq(1)
                        m.d.sync += [some.eq(0), spoilt.eq(0)]
                        with m.If(good):
                            m.d.sync += state.eq(State.DECODE)
                        with m.Elif(some | spoilt):
                            m.d.sync += state.eq(State.COUNT)
            with m.Case(State.DECODE):
                kind = word[:3]
                near, known, right = Signal(), Signal(), Signal()
                m.d.comb += [near.eq(~word[3:].any()), write.data.eq(changed)]
                m.d.sync += [
                    classify.eq(right & (kind == Type.CLASSIFY)),
                    page.eq(right & (kind.matches(Type.IDENTIFY, Type.STATUS) if loadable
                                     else kind[1])),
                    counters.eq(kind[0]),
                    # One bit each: BAD_LENGTH, UNKNOWN_TYPE, NOT_LOADABLE.
                    error[0].eq(near & known & ~right),
                    error[1].eq(~near | kind.all() | ~kind.any()),
                    event.eq(Cat(0, ~right)),
                ]
                if loadable:
                    locked = loading & (kind == Type.CLASSIFY)
                    length = Mux(kind.matches(Type.CLASSIFY, Type.LOAD), complete,
                                 Mux(kind == Type.COMMIT, sized, empty))
                    m.d.comb += [known.eq(kind.matches(*Type)),
                                 right.eq(near & known & length & ~locked)]
                    m.d.sync += [
                        body.eq(right & kind.matches(Type.CLASSIFY, Type.LOAD, Type.COMMIT)),
                        load.eq(right & (kind == Type.LOAD)),
                        clear.eq(right & kind.matches(Type.LOAD, Type.RESET)),
                        error[2].eq(near & locked),     # with the first: WEIGHTS_INCOMPLETE
                    ]
                else:
                    m.d.comb += [
                        known.eq(kind.matches(Type.CLASSIFY, Type.IDENTIFY, Type.STATUS,
                                              Type.RESET)),
                        right.eq(near & known & Mux(kind == Type.CLASSIFY, complete, empty)),
                    ]
                    m.d.sync += [
                        clear.eq(right & (kind == Type.RESET)),
                        error[2].eq(near & kind.matches(Type.LOAD, Type.COMMIT)),
                    ]
                with m.If(odd):
                    m.d.comb += [put.eq(1), step.eq(1)]
                    m.d.sync += state.eq(State.SKIP)
            with m.Case(State.SKIP):
                m.d.comb += step.eq(1)
                with m.If(place[1]):
                    m.d.sync += state.eq(
                        Mux(body, Mux(classify, State.IMAGE, State.MODEL),
                            Mux(load, State.LOAD, State.STATUS)) if loadable
                        else Mux(classify & complete, State.IMAGE, State.STATUS))
            if loadable:    # in the cycles in which the word is that of its place, see `odd`
                with m.Case(State.MODEL):
                    m.d.comb += write.data.eq(Mux(clear, 0, changed))
                    with m.If(~odd):
                        m.d.comb += [put.eq(1), step.eq(1)]
                    with m.Elif(place[:4].all()):
                        m.d.comb += home.eq(1)
                        m.d.sync += [loading.eq(load), clear.eq(0), body.eq(0),
                                     state.eq(State.SKIP)]
                with m.Case(State.LOAD):
                    with m.If(odd):
                        m.d.comb += [loader.valid.eq(1), step.eq(1)]
                    with m.Elif(_reached(place, layout.image_end)):
                        m.d.comb += home.eq(1)
                        m.d.sync += [load.eq(0), state.eq(State.SKIP)]
            with m.Case(State.IMAGE):
                m.d.sync += body.eq(0) if loadable else complete.eq(0)
                m.d.sync += [settled.eq(~second & ~settled & ~offer),
                             second.eq(settled | second & ~offer)] if wide else []
                with m.If(offer):
                    with m.If(self.image.ready):
                        m.d.comb += step.eq(1)
                        m.d.sync += offer.eq(0)
                with m.Elif(_reached(place, layout.image_end)):
                    m.d.comb += home.eq(1)
                    m.d.sync += [settled.eq(0), state.eq(State.SKIP)]
                with m.Elif(second):
                    m.d.sync += offer.eq(1)
                if wide:    # the low byte waits in a register for the high one
                    with m.Elif(settled):
                        m.d.sync += low.eq(word)
                        m.d.comb += step.eq(1)
            with m.Case(State.STATUS):
                m.d.comb += [put.eq(1), write.data.eq(error), step.eq(1)]
                with m.If(classify):
                    m.d.sync += state.eq(State.RESULT)
                with m.Else():
                    m.d.comb += home.eq(1)
                    m.d.sync += state.eq(State.OPEN)
            with m.Case(State.RESULT):
                m.d.comb += write.data.eq(result.payload.logit)
                m.d.comb += put.eq(1)
                with m.If(result.valid):
                    m.d.comb += step.eq(1)
                    if value_bytes(frame.logit.bits) == 2:
                        m.d.sync += state.eq(State.HIGH)
                    else:
                        self._next(m, state)
            with m.Case(State.HIGH):
                m.d.comb += [write.data.eq(result.payload.logit >> 8), put.eq(1), step.eq(1)]
                self._next(m, state)
            with m.Case(State.CLASS):
                m.d.comb += [write.data.eq(result.payload.winner), put.eq(1)]
                m.d.sync += self.winner.eq(result.payload.winner)
                if value_bytes(frame.winner_bits) == 2:
                    m.d.comb += step.eq(1)
                    m.d.sync += state.eq(State.CLASS_HIGH)
                else:
                    m.d.comb += [home.eq(1), result.ready.eq(1)]
                    m.d.sync += state.eq(State.OPEN)
            with m.Case(State.CLASS_HIGH):
                m.d.comb += [write.data.eq(result.payload.winner >> 8), put.eq(1),
                             home.eq(1), result.ready.eq(1)]
                m.d.sync += state.eq(State.OPEN)
            with m.Case(State.OPEN):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += state.eq(State.SEND)
            with m.Case(State.SEND):
                stop = Mux(page, place[4] & (counters | place[1:4].all()),
                           Mux(classify, _reached(place, layout.answer_end),
                               place[3] & place[6]))
                with m.If(rests):
                    with m.If(stop):
                        m.d.comb += home.eq(1)
                        m.d.sync += state.eq(State.TRAILER)
                    with m.Else():
                        m.d.comb += [self.o.valid.eq(1), take.eq(self.o.ready)]
            with m.Case(State.TRAILER):
                with m.If(rests):
                    with m.If(place[3] & place[0]):
                        m.d.comb += home.eq(1)
                        m.d.sync += state.eq(State.CLOSE)
                    with m.Else():
                        m.d.comb += [self.o.valid.eq(1), take.eq(self.o.ready)]
            with m.Case(State.CLOSE):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += state.eq(State.COUNT)
            with m.Case(State.COUNT):
                m.d.comb += write.data.eq(Mux(clear, 0, changed))
                with m.If(odd):
                    m.d.comb += [
                        step.eq(1),
                        put.eq(place[3] & (clear | (place[1:3] == event))),
                    ]
                    m.d.sync += carry.eq(changed[8])
                    with m.If(place[4]):
                        m.d.comb += home.eq(1)
                        m.d.sync += state.eq(State.RECEIVE)
            with m.Default():
                m.d.sync += state.eq(State.RECEIVE)
        with m.If(self.lost):
            m.d.sync += spoilt.eq(1)
        return m

    def _next(self, m: Module, state: Signal) -> None:
        """Go on with the next logit, or the class."""
        with m.If(self.result.payload.last):
            m.d.sync += state.eq(State.CLASS)
        with m.Else():
            m.d.comb += self.result.ready.eq(1)
            m.d.sync += state.eq(State.RESULT)


def _reached(place: Value, target: int) -> Value:
    """Whether a count from below has reached its target: its ones are there."""
    return reduce(and_, (place[n] for n in range(len(place)) if target >> n & 1))
