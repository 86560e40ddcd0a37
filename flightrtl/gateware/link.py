"""The protocol between a host and a network: one image in, class and logits out.

``docs/link.md`` describes the bytes. :class:`Frame` is the same in Python, for hosts and tests.
"""

from __future__ import annotations

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

POLYNOMIAL = 0x8408
"""0x1021 of CRC-16-CCITT, bits reversed."""

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
        """Bytes of a good answer; any other is a single byte."""
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
        if not answer:
            raise LinkError("there is no answer")
        if answer[0] != Status.OK:
            names = {status.value: status.name for status in Status}
            raise LinkError(f"the device answers {names.get(answer[0], hex(answer[0]))}")
        if len(answer) != self.answer_size:
            raise LinkError(f"the answer has {len(answer)} bytes; it must have {self.answer_size}")
        if checksum(answer) != b"\0\0":
            raise LinkError("the answer is damaged (wrong checksum)")
        end = 1 + _width(self.logit.bits) * self.classes
        logits = np.frombuffer(answer[1:end], _dtype(self.logit)).astype(int).tolist()
        return int.from_bytes(answer[end:-2], "little"), logits


def checksum(body: bytes) -> bytes:
    """CRC-16/KERMIT (polynomial 0x1021, lowest bit first, from 0), least significant byte first.

    That of a text with its own checksum behind it is 0.
    """
    crc = 0
    for byte in body:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc.to_bytes(2, "little")


def _shifted(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = [_shifted(byte) for byte in range(256)]


def _width(bits: int) -> int:
    """Bytes that carry a value of so many bits."""
    return 1 if bits <= 8 else 2


def _dtype(fmt: ActivationFormat) -> str:
    return f"<{'i' if fmt.signed else 'u'}{_width(fmt.bits)}"


class Crc16(wiring.Component):
    """CRC-16/KERMIT of a run of bits, each byte's lowest bit first.

    Members
    -------
    clear : In(1)
        Start again from 0. Takes precedence.
    bit, enable : In(1)
        Take in ``bit`` if ``enable``.
    crc : Out(16)
        The checksum of all bits since ``clear``.
    """

    clear: Signal
    bit: Signal
    enable: Signal
    crc: Signal

    def __init__(self) -> None:
        super().__init__({"clear": In(1), "bit": In(1), "enable": In(1), "crc": Out(16)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        feedback = (self.crc[0] ^ self.bit).replicate(16)
        with m.If(self.enable):
            m.d.sync += self.crc.eq((self.crc >> 1) ^ (feedback & POLYNOMIAL))
        with m.If(self.clear):
            m.d.sync += self.crc.eq(0)
        return m


class _State(enum.IntEnum):
    """The answering half has its own bit, which most outputs depend on alone."""

    SYNC = 0
    COMMAND = 1
    IMAGE = 2
    CHECKSUM = 3
    STATUS = 4
    RESULT = 5
    CLASS = 6
    TRAILER = 7


class Link(wiring.Component):
    """Takes requests apart, feeds the network, and puts answers together.

    Values go to the network as they arrive, before the checksum behind them can be known. So the
    network computes damaged images too; its result is then dropped and the answer says what was
    wrong. A request that breaks off is filled up with zeros for the network's sake. The network is
    therefore always between two images when the next request begins.

    A value is taken from ``rx`` when the network takes it: whoever fills ``rx`` must be able to
    wait, or must be slower than the network. The checksum is computed from the single bits,
    which takes far fewer cells than from bytes: all bits of a byte must have passed through
    ``rx_bit`` before the byte is offered in ``rx``, and those of one that was taken from ``tx``
    through ``tx_bit`` before the next one is taken.

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
        Bytes to the host. One that is offered may change in a cycle of ``tx_bit_valid``: the
        checksum's bytes wait until the bits before them have passed.
    rx_bit, rx_bit_valid, tx_bit, tx_bit_valid : In(1)
        The single bits of both, the lowest of a byte first.
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
    rx_bit: Signal
    rx_bit_valid: Signal
    tx_bit: Signal
    tx_bit_valid: Signal
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
            "rx_bit": In(1),
            "rx_bit_valid": In(1),
            "tx_bit": In(1),
            "tx_bit_valid": In(1),
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
        rx, tx, image, result, frame = self.rx, self.tx, self.image, self.result, self.frame
        state = Signal(_State)
        answering = Value.cast(state)[2]
        wide = _width(frame.input.bits) == 2

        m.submodules.crc = crc = Crc16()
        m.d.comb += [
            crc.bit.eq(Mux(answering, self.tx_bit, self.rx_bit)),
            crc.enable.eq(Mux(answering, self.tx_bit_valid, self.rx_bit_valid)),
        ]

        # Values still to come. Counts up to a power of two, whose bit is the comparison; so does
        # the timer, which stays there.
        bits = ceil_log2(frame.size)
        count = Signal(bits + 1, init=(1 << bits) - frame.size)
        complete = count[-1]
        silence = Signal(self.timeout_bits + 1)
        timeout = silence[-1]
        with m.If(self.tick & ~timeout):
            m.d.sync += silence.eq(silence + 1)
        with m.If(rx.valid & rx.ready):
            m.d.sync += silence.eq(0)

        late = Signal()     # the request broke off: what is missing of the image becomes zeros
        second = Signal()   # the next byte is the second one of its value
        # The network is offered values from a register, so that no decoding here lengthens its
        # first path. The byte stays in `rx` until the network has taken the value.
        offer = Signal()
        low = Signal(8, reset_less=True)
        with m.If(~late):
            m.d.comb += image.payload.eq((Cat(low, rx.payload) if wide else rx.payload)
                                         [:frame.input.bits])
        m.d.comb += image.valid.eq(offer)
        with m.If(offer & image.ready):
            m.d.sync += [offer.eq(0), count.eq(count + 1)]

        bad = Signal()
        damaged = Signal()  # as long as no bit of the answer has gone into the checksum
        m.d.comb += damaged.eq(late | crc.crc.any())
        winner = Signal.like(self.winner)
        m.d.comb += [self.winner.eq(winner), rx.ready.eq(1)]

        with m.Switch(state):
            with m.Case(_State.SYNC):
                m.d.comb += crc.clear.eq(1)
                m.d.sync += [second.eq(0), late.eq(0), count.eq(count.init)]
                with m.If(rx.valid & (rx.payload == SYNC)):
                    m.d.sync += state.eq(_State.COMMAND)
            with m.Case(_State.COMMAND):
                with m.If(rx.valid & (rx.payload == COMMAND_RUN)):
                    m.d.sync += state.eq(_State.IMAGE)
                with m.Elif(rx.valid & (rx.payload == SYNC)):
                    m.d.comb += crc.clear.eq(1)     # a second one may be the true one
                with m.Elif(rx.valid | timeout):
                    m.d.sync += state.eq(_State.SYNC)
            with m.Case(_State.IMAGE):
                with m.If(timeout & ~offer):    # a value that is offered stays what it is
                    m.d.sync += late.eq(1)
                with m.If(complete):
                    m.d.comb += rx.ready.eq(0)
                    m.d.sync += state.eq(_State.CHECKSUM)
                with m.Elif(~(second | late) if wide else Const(0)):
                    m.d.sync += low.eq(rx.payload)
                    with m.If(rx.valid):
                        m.d.sync += second.eq(1)
                with m.Else():
                    m.d.comb += rx.ready.eq(offer & image.ready)
                    with m.If((rx.valid | late) & ~offer):
                        m.d.sync += offer.eq(1)
                    with m.If(rx.ready):
                        m.d.sync += second.eq(0)
            with m.Case(_State.CHECKSUM):
                with m.If(timeout):
                    m.d.sync += late.eq(1)
                with m.If(rx.valid):
                    m.d.sync += second.eq(1)
                with m.If((rx.valid & second) | late):
                    m.d.sync += [second.eq(0), state.eq(_State.STATUS)]
            with m.Case(_State.STATUS):
                m.d.comb += [
                    tx.valid.eq(1),
                    tx.payload.eq(Mux(late, Status.TIMEOUT.value,
                                      Mux(damaged, Status.BAD_CHECKSUM.value, Status.OK.value))),
                ]
                m.d.sync += bad.eq(damaged)
                with m.If(tx.ready):
                    m.d.sync += state.eq(_State.RESULT)
            with m.Case(_State.RESULT):
                m.d.comb += tx.valid.eq(result.valid & ~bad)
                done = self._send(m, result.payload.logit, second)
                m.d.comb += result.ready.eq(done | bad)
                with m.If(result.valid & result.ready & result.payload.last):
                    m.d.sync += state.eq(_State.SYNC)
                    with m.If(~bad):
                        m.d.sync += [winner.eq(result.payload.winner), state.eq(_State.CLASS)]
            with m.Case(_State.CLASS):
                m.d.comb += tx.valid.eq(1)
                with m.If(self._send(m, winner, second)):
                    m.d.sync += state.eq(_State.TRAILER)
            with m.Case(_State.TRAILER):
                # A checksum that takes in its own low byte has its high byte in that place.
                m.d.comb += [tx.valid.eq(1), tx.payload.eq(crc.crc[:8])]
                with m.If(tx.ready):
                    m.d.sync += second.eq(~second)
                    with m.If(second):
                        m.d.sync += state.eq(_State.SYNC)
        return m

    def _send(self, m: Module, value: Value, second: Signal) -> Value:
        """Send a value's bytes; the result is 1 when the last one goes."""
        tx = self.tx
        if _width(len(value)) == 1:
            m.d.comb += tx.payload.eq(value)
            return tx.ready
        m.d.comb += tx.payload.eq(Mux(second, value >> 8, value[:8]))
        with m.If(tx.valid & tx.ready):
            m.d.sync += second.eq(~second)
        return tx.ready & second
