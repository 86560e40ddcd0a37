"""The protocol between a host and a network: one image in, class and logits out.

``docs/link.md`` describes the bytes. :class:`Frame` is the same in Python, for hosts and tests.
"""

from __future__ import annotations

import binascii
import enum
from dataclasses import dataclass

import numpy as np
from amaranth import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from numpy.typing import ArrayLike

from ..formats import ActivationFormat, _integer
from ..model import Model
from .pe import activation_shape

__all__ = ["COMMAND_RUN", "SYNC", "TIMEOUT_SECONDS", "Crc16", "Frame", "Link", "LinkError",
           "Status"]

SYNC = 0xA5
"""First byte of a request."""

COMMAND_RUN = 0x01
"""Second byte of a request: an image follows."""

TIMEOUT_SECONDS = 0.1
"""A request in which the line stays silent for so long is given up (at the latest after twice
that). Long against the pauses of a host that is busy, short against a person's patience."""


class Status(enum.IntEnum):
    """First byte of an answer. They differ from each other in at least four bits."""

    OK = 0x4B
    BAD_CHECKSUM = 0x33
    TIMEOUT = 0x2D


class LinkError(Exception):
    """An answer that is not a result."""


@dataclass(frozen=True)
class Frame:
    """Requests and answers of one network as bytes.

    Parameters
    ----------
    input : ActivationFormat
        Of the image's values.
    size : int
        Values in an image.
    logit : ActivationFormat
        Of the logits.
    classes : int
        Number of logits.

    >>> frame = Frame(ActivationFormat(8), 2, ActivationFormat(12, True), 3)
    >>> frame.request([1, 2]).hex()
    'a50101026131'
    """

    input: ActivationFormat
    size: int
    logit: ActivationFormat
    classes: int

    @classmethod
    def of(cls, model: Model) -> Frame:
        """The frames of a model."""
        return cls(model.input.format, model.input.size, model.output.format, model.output.size)

    @property
    def answer_size(self) -> int:
        """Bytes of a good answer; any other has 3."""
        return 1 + _width(self.logit.bits) * self.classes + _width(self.winner_bits) + 2

    @property
    def request_size(self) -> int:
        """Bytes of a request."""
        return 2 + _width(self.input.bits) * self.size + 2

    @property
    def winner_bits(self) -> int:
        """Bits of a class."""
        return max(1, ceil_log2(self.classes))

    def request(self, image: ArrayLike) -> bytes:
        """The request for an image, whose values are taken in the order of the array.

        Raises
        ------
        ValueError
            If its size or a value is wrong.
        """
        values = np.asarray(image).reshape(-1)
        if len(values) != self.size:
            raise ValueError(f"the image has {len(values)} values; it must have {self.size}")
        if np.any((values < self.input.min) | (values > self.input.max)):
            raise ValueError(f"the image has values outside {self.input.min} to {self.input.max}")
        body = bytes([COMMAND_RUN]) + values.astype(_dtype(self.input)).tobytes()
        return bytes([SYNC]) + body + checksum(body)

    def parse(self, answer: bytes) -> tuple[int, list[int]]:
        """Class and logits of an answer.

        Raises
        ------
        LinkError
            If the answer is damaged, or says that the request was.
        """
        if len(answer) < 3 or checksum(answer) != b"\0\0":
            raise LinkError("the answer is damaged (wrong checksum)")
        if answer[0] != Status.OK:
            names = {status.value: status.name for status in Status}
            raise LinkError(f"the device answers {names.get(answer[0], hex(answer[0]))}")
        if len(answer) != self.answer_size:
            raise LinkError(f"the answer has {len(answer)} bytes; it must have {self.answer_size}")
        end = 1 + _width(self.logit.bits) * self.classes
        logits = np.frombuffer(answer[1:end], _dtype(self.logit)).astype(int).tolist()
        return int.from_bytes(answer[end:-2], "little"), logits


def checksum(body: bytes) -> bytes:
    """CRC-16/XMODEM (polynomial 0x1021, starting with 0), most significant byte first.

    That of a text with its own checksum behind it is 0.
    """
    return binascii.crc_hqx(body, 0).to_bytes(2, "big")


def _width(bits: int) -> int:
    """Bytes that carry a value of so many bits."""
    return 1 if bits <= 8 else 2


def _dtype(fmt: ActivationFormat) -> str:
    return f"<{'i' if fmt.signed else 'u'}{_width(fmt.bits)}"


class Crc16(wiring.Component):
    """CRC-16/XMODEM of a run of bytes, a byte per cycle.

    Members
    -------
    clear : In(1)
        Start again from 0. Takes precedence.
    enable : In(1)
        Take in ``byte``.
    byte : In(8)
        The byte.
    crc : Out(16)
        The checksum of all bytes since ``clear``.
    """

    clear: Signal
    enable: Signal
    byte: Signal
    crc: Signal

    def __init__(self) -> None:
        super().__init__({"clear": In(1), "enable": In(1), "byte": In(8), "crc": Out(16)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The polynomial's taps (0, 5, 12) lie so far apart that eight steps of the shift
        # register fold into three shifted copies of one byte.
        mixed = Signal(8)
        top = Signal(8)
        m.d.comb += [top.eq(self.crc[8:] ^ self.byte), mixed.eq(top ^ (top >> 4))]
        with m.If(self.enable):
            m.d.sync += self.crc.eq((self.crc << 8) ^ (mixed << 12) ^ (mixed << 5) ^ mixed)
        with m.If(self.clear):
            m.d.sync += self.crc.eq(0)
        return m


class Link(wiring.Component):
    """Takes requests apart, feeds the network, and puts answers together.

    Values go to the network as they arrive, before the checksum behind them can be known. So the
    network computes damaged images too; its result is then dropped and the answer says what was
    wrong. A request that breaks off is filled up with zeros for the network's sake. The network is
    therefore always between two images when the next request begins.

    A value is taken from ``rx`` when the network takes it: whoever fills ``rx`` must be able to
    wait, or must be slower than the network.

    Parameters
    ----------
    frame : Frame
        Sizes and formats.
    baud : int
        Pulses of ``tick`` per second, for the timeout.

    Members
    -------
    rx : In(stream) of 8 bits
        Bytes from the host. Those that arrive during an answer are dropped.
    tx : Out(stream) of 8 bits
        Bytes to the host.
    tick : In(1)
        Pulses ``baud`` times a second.
    image : Out(stream)
        Values to the network.
    result : In(stream) of struct
        From the network: ``logit``, ``winner``, ``last``.
    winner : Out(unsigned)
        Class of the last good answer, 0 at first.
    """

    rx: stream.Interface
    tx: stream.Interface
    tick: Signal
    image: stream.Interface
    result: stream.Interface
    winner: Signal

    def __init__(self, frame: Frame, *, baud: int) -> None:
        self.frame = frame
        self.timeout_bits = ceil_log2(max(1, int(_integer(baud, "baud", 1, 1 << 30)
                                                 * TIMEOUT_SECONDS)))
        super().__init__({
            "rx": In(stream.Signature(8)),
            "tx": Out(stream.Signature(8)),
            "tick": In(1),
            "image": Out(stream.Signature(activation_shape(frame.input))),
            "result": In(stream.Signature(data.StructLayout({
                "logit": activation_shape(frame.logit),
                "winner": unsigned(frame.winner_bits),
                "last": 1,
            }))),
            "winner": Out(frame.winner_bits),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rx, tx, image, result = self.rx, self.tx, self.image, self.result
        frame = self.frame
        m.submodules.crc = crc = Crc16()

        # Values still to come. Counts up to a power of two, whose bit is the comparison; so does
        # the timer, which stays there.
        bits = ceil_log2(frame.size)
        count = Signal(bits + 1, init=(1 << bits) - frame.size)
        complete = count[-1]
        silence = Signal(self.timeout_bits + 1)
        timeout = silence[-1]
        receiving = Signal()
        with m.If(self.tick & ~timeout):
            m.d.sync += silence.eq(silence + 1)
        with m.If(~receiving | (rx.valid & rx.ready)):
            m.d.sync += silence.eq(0)

        second = Signal()   # the next byte is the second one of its value
        low = Signal(8, reset_less=True)
        filling = Signal()
        payload = Cat(low, rx.payload) if _width(frame.input.bits) == 2 else rx.payload
        with m.If(~filling):
            m.d.comb += image.payload.eq(payload[:frame.input.bits])
        # From a register, so that no decoding here lengthens the network's first path.
        offer = Signal()
        m.d.comb += image.valid.eq(offer)
        with m.If(offer & image.ready):
            m.d.sync += [offer.eq(0), count.eq(count + 1)]

        damaged = Signal()
        late = Signal()
        winner = Signal.like(self.winner)
        m.d.comb += self.winner.eq(winner)

        with m.FSM():
            with m.State("SYNC"):
                m.d.comb += [rx.ready.eq(1), crc.clear.eq(1)]
                m.d.sync += [second.eq(0), count.eq(count.init)]
                with m.If(rx.valid & (rx.payload == SYNC)):
                    m.next = "COMMAND"
            with m.State("COMMAND"):
                m.d.comb += [rx.ready.eq(1), receiving.eq(1), crc.enable.eq(rx.valid)]
                with m.If(rx.valid & (rx.payload == COMMAND_RUN)):
                    m.next = "IMAGE"
                # A second SYNC may be the true one.
                with m.Elif(rx.valid & (rx.payload == SYNC)):
                    m.d.comb += crc.clear.eq(1)
                with m.Elif(rx.valid | timeout):
                    m.next = "SYNC"
            with m.State("IMAGE"):
                m.d.comb += [receiving.eq(1), crc.enable.eq(rx.valid & rx.ready)]
                with m.If(complete):
                    m.next = "CHECKSUM"
                with m.Elif(timeout & ~offer):
                    m.next = "FILL"
                with m.Elif(~second if _width(frame.input.bits) == 2 else Const(0)):
                    m.d.comb += rx.ready.eq(1)
                    m.d.sync += low.eq(rx.payload)
                    with m.If(rx.valid):
                        m.d.sync += second.eq(1)
                with m.Else():
                    # The byte stays in `rx` until the network has taken the value.
                    m.d.comb += rx.ready.eq(offer & image.ready)
                    with m.If(rx.valid & ~offer):
                        m.d.sync += offer.eq(1)
                    with m.If(rx.ready):
                        m.d.sync += second.eq(0)
            with m.State("CHECKSUM"):
                m.d.comb += [rx.ready.eq(1), receiving.eq(1), crc.enable.eq(rx.valid)]
                with m.If(rx.valid):
                    m.d.sync += second.eq(~second)
                with m.If((rx.valid & second) | timeout):
                    m.next = "JUDGE"
            with m.State("FILL"):
                m.d.comb += [receiving.eq(1), filling.eq(1)]
                with m.If(complete):
                    m.next = "JUDGE"
                with m.Elif(~offer):
                    m.d.sync += offer.eq(1)
            with m.State("JUDGE"):
                m.d.comb += [rx.ready.eq(1), crc.clear.eq(1)]
                # The checksum of everything, checksum included, is 0 if all is well.
                m.d.sync += [late.eq(timeout), damaged.eq(timeout | crc.crc.any()), second.eq(0)]
                m.next = "STATUS"
            with m.State("STATUS"):
                m.d.comb += [
                    rx.ready.eq(1),
                    tx.valid.eq(1),
                    tx.payload.eq(Mux(late, Status.TIMEOUT.value,
                                      Mux(damaged, Status.BAD_CHECKSUM.value, Status.OK.value))),
                    crc.enable.eq(tx.ready),
                ]
                with m.If(tx.ready):
                    m.next = "RESULT"
            with m.State("RESULT"):
                m.d.comb += [
                    rx.ready.eq(1),
                    tx.valid.eq(result.valid & ~damaged),
                    crc.enable.eq(tx.valid & tx.ready),
                ]
                self._send(m, result.payload.logit, second, result.valid, damaged, result.ready)
                with m.If(result.valid & result.ready & result.payload.last):
                    with m.If(damaged):
                        m.next = "TRAILER"
                    with m.Else():
                        m.d.sync += winner.eq(result.payload.winner)
                        m.next = "CLASS"
            with m.State("CLASS"):
                done = Signal()
                m.d.comb += [rx.ready.eq(1), tx.valid.eq(1), crc.enable.eq(tx.ready)]
                self._send(m, winner, second, Const(1), Const(0), done)
                with m.If(done):
                    m.next = "TRAILER"
            with m.State("TRAILER"):
                # A checksum that takes in its own high byte has its low byte in that place.
                m.d.comb += [
                    rx.ready.eq(1),
                    tx.valid.eq(1),
                    tx.payload.eq(crc.crc[8:]),
                    crc.enable.eq(tx.ready),
                ]
                with m.If(tx.ready):
                    m.d.sync += second.eq(~second)
                    with m.If(second):
                        m.next = "SYNC"

        sending = Signal()
        m.d.comb += [sending.eq(tx.valid), crc.byte.eq(Mux(sending, tx.payload, rx.payload))]
        return m

    def _send(self, m: Module, value: Value, second: Signal, valid: Value, drop: Value,
              done: Value) -> None:
        """Send a value's bytes, or drop it; ``done`` with the last one."""
        tx = self.tx
        if _width(len(value)) == 1:
            m.d.comb += [tx.payload.eq(value), done.eq(tx.ready | drop)]
            return
        # The sign goes through bit 15.
        m.d.comb += [
            tx.payload.eq(Mux(second, value >> 8, value[:8])),
            done.eq((tx.ready & second) | drop),
        ]
        with m.If(valid & tx.ready & ~drop):
            m.d.sync += second.eq(~second)
