r"""The link between a host and a network on a board: every byte of it, in Python.

``docs/link.md`` has the same in words, and the gateware in :mod:`flightrtl.gateware.link` is tested
against this module. A host takes :func:`request`, :class:`Decoder`, :meth:`Reply.parse` and
:class:`Frame`; a device takes the same from the other side, and :meth:`Reply.encode`.

>>> frame = Frame(ActivationFormat(8), 2, ActivationFormat(12, True), 3)
>>> wire = frame.request(7, [1, 0x7E])
>>> wire.hex(" ")
'7e 01 07 01 7d 5e 79 3c ee cd 7e'
>>> Decoder().feed(wire)
[b'\x01\x07\x01~']
>>> answer = Reply(Type.CLASSIFY, 7, body=frame.answer_body([-5, 900, 0], 1)).encode()
>>> frame.parse(Reply.parse(Decoder().feed(answer)[0]))
(1, [-5, 900, 0])
"""

from __future__ import annotations

import enum
import hashlib
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .document import describe
from .errors import UserError
from .formats import ActivationFormat, _integer
from .model import Model
from .modelfile import ModelError

__all__ = ["CHECKSUM_BYTES", "ESCAPE", "FLAG", "FLIP", "HASH_BYTES", "HEADER_BYTES",
           "LOAD_HEADER_BYTES", "REPLY", "VERSION", "Counters", "Decoder", "Frame", "Identity",
           "LinkError", "Reply", "Request", "Status", "Type", "checksum", "encode", "link_problems",
           "load_body", "request", "require_loads", "shape_hash", "value_bytes"]

FLAG = 0x7E
"""Stands between frames, and nowhere else."""

ESCAPE = 0x7D
"""Inside a frame: the next byte is meant with :data:`FLIP` inverted. Before a flag: forget the
frame."""

FLIP = 0x20

REPLY = 0x80
"""What the type of a reply has more than that of its request."""

HEADER_BYTES = 2
"""Of a frame before its body: type and sequence number."""

CHECKSUM_BYTES = 4
"""Of a frame behind its body.

Why not two: of 10,000 frames of which 20 % are damaged beyond any guarantee, 2,000 / 2**16 = 3 % of
runs would take one for good with CRC-16, and 2,000 / 2**32 = one run in two million with CRC-32.
"""

LOAD_HEADER_BYTES = 3
"""Of the body of a request to load weights before the weights: memory, address."""

HASH_BYTES = 8
"""How much of a SHA-256 stands for a model or a shape."""

VERSION = 2
"""Of this protocol, as :class:`Identity` gives it."""

_MOST = 0xFFFF      # bytes of an image and classes, as an Identity can say them


class LinkError(Exception):
    """A frame that is not what it should be, or a reply that says that the request was not."""


class Type(enum.IntEnum):
    """What a request asks for."""

    CLASSIFY = 0x01
    """Body: an image. Reply: logits and class; see :class:`Frame`."""
    IDENTIFY = 0x02
    """No body. Reply: :class:`Identity`."""
    STATUS = 0x03
    """No body. Reply: :class:`Counters`."""
    RESET = 0x04
    """No body. Counters start again from 0. Reply: nothing but its status."""
    LOAD = 0x05
    """Body: :func:`load_body`. Weights, for designs that can take them: images are refused from
    then on, and the device names no model. Reply: status only."""
    COMMIT = 0x06
    """Body: hash of the model whose weights were loaded, which the device names from then on.
    Reply: status only."""


class Status(enum.IntEnum):
    """First byte of a reply's body. There is something behind it only with :attr:`OK`."""

    OK = 0x00
    BAD_LENGTH = 0x01
    """The body is not as long as the type needs it."""
    UNKNOWN_TYPE = 0x02
    BUSY = 0x03
    """The buffer still holds an image that the network is taking: send the request again."""
    NOT_LOADABLE = 0x04
    """The design's weights are fixed."""
    WEIGHTS_INCOMPLETE = 0x05
    """Weights are being loaded: load all of them, and say so."""


def checksum(content: bytes) -> bytes:
    """CRC-32/JAMCRC: the CRC-32 of Ethernet and zlib, not inverted; low byte first.

    That of anything with its own checksum behind it is 0.

    >>> checksum(b"123456789").hex()
    'd9c60b34'
    >>> checksum(b"123456789" + checksum(b"123456789")).hex()
    '00000000'
    """
    return (zlib.crc32(content) ^ 0xFFFF_FFFF).to_bytes(CHECKSUM_BYTES, "little")


def encode(content: bytes) -> bytes:
    r"""The bytes on the line for a frame's type, sequence number and body.

    >>> encode(b"\x02\x00").hex()
    '7e0200828f108c7e'
    """
    inside = content + checksum(content)
    for special in (ESCAPE, FLAG):      # in this order
        inside = inside.replace(bytes([special]), bytes([ESCAPE, special ^ FLIP]))
    return bytes([FLAG, *inside, FLAG])


class Decoder:
    r"""Takes frames out of a stream of bytes, in pieces of any size.

    Parameters
    ----------
    limit : int
        Most bytes of a frame without its checksum. A longer one is damaged; it takes no memory.

    Members
    -------
    damaged : int
        Frames so far whose checksum is wrong, that are too long or too short to have one, or were
        given up by whoever sent them.

    >>> decoder = Decoder()
    >>> decoder.feed(b"noise" + encode(b"\x03\x09")[:5])
    []
    >>> decoder.feed(encode(b"\x03\x09")[5:])
    [b'\x03\t']
    >>> decoder.damaged
    1
    """

    def __init__(self, limit: int = 1 << 20) -> None:
        self.limit = _integer(limit, "limit", HEADER_BYTES, 1 << 30) + CHECKSUM_BYTES
        self.damaged = 0
        self._inside = bytearray()
        self._escaped = False

    def feed(self, data: bytes) -> list[bytes]:
        """Type, sequence number and body of every good frame that ends in ``data``."""
        found = []
        for byte in data:
            if byte == FLAG:
                inside, escaped = bytes(self._inside), self._escaped
                self._inside.clear()
                self._escaped = False
                if not inside and not escaped:
                    continue
                if (escaped or not HEADER_BYTES + CHECKSUM_BYTES <= len(inside) <= self.limit
                        or any(checksum(inside))):
                    self.damaged += 1
                else:
                    found.append(inside[:-CHECKSUM_BYTES])
            elif byte == ESCAPE:
                self._escaped = True
            else:
                if len(self._inside) <= self.limit:     # one too many is enough to know
                    self._inside.append(byte ^ FLIP if self._escaped else byte)
                self._escaped = False
        return found


def _type(value: int) -> Type | int:
    return Type(value) if value in Type._value2member_map_ else value


@dataclass(frozen=True)
class Request:
    """A request, as a device sees it.

    Parameters
    ----------
    type : Type, or int
        Of a type that is not known, its number.
    sequence : int
        0 to 255; the reply has the same.
    body : bytes
        What the type needs.
    """

    type: Type | int
    sequence: int
    body: bytes = b""

    @classmethod
    def parse(cls, content: bytes) -> Request:
        """The request that :meth:`Decoder.feed` found."""
        if len(content) < HEADER_BYTES:
            raise LinkError(f"a frame needs {HEADER_BYTES} bytes or more, not {len(content)}")
        return cls(_type(content[0]), content[1], content[HEADER_BYTES:])

    def encode(self) -> bytes:
        """As bytes on the line."""
        return encode(bytes([_integer(self.type, "type", 0, REPLY - 1),
                             _integer(self.sequence, "sequence", 0, 255)]) + self.body)


def request(type: Type, sequence: int, body: bytes = b"") -> bytes:
    """A request as bytes on the line.

    >>> request(Type.IDENTIFY, 3).hex()
    '7e020338de19157e'
    """
    return Request(type, sequence, body).encode()


@dataclass(frozen=True)
class Reply:
    """A reply.

    Parameters
    ----------
    type : Type, or int
        Of the request that it answers.
    sequence : int
        Of the same.
    status : Status, or int
        Whether it was done, and if not, why.
    body : bytes
        What is behind the status.
    """

    type: Type | int
    sequence: int
    status: Status | int = Status.OK
    body: bytes = b""

    @classmethod
    def parse(cls, content: bytes) -> Reply:
        """The reply that :meth:`Decoder.feed` found.

        Raises
        ------
        LinkError
            If this is no reply.
        """
        if len(content) <= HEADER_BYTES or not content[0] & REPLY:
            raise LinkError(f"this is no reply: {content[:8].hex(' ')}")
        status = content[HEADER_BYTES]
        if status != Status.OK and len(content) > HEADER_BYTES + 1:
            raise LinkError(f"a reply with status {status} has {len(content)} bytes; it must have "
                            f"{HEADER_BYTES + 1}")
        known = status in Status._value2member_map_
        return cls(_type(content[0] ^ REPLY), content[1], Status(status) if known else status,
                   content[HEADER_BYTES + 1:])

    def encode(self) -> bytes:
        """As bytes on the line."""
        return encode(bytes([_integer(self.type, "type", 0, REPLY - 1) | REPLY,
                             _integer(self.sequence, "sequence", 0, 255), self.status]) + self.body)

    def check(self, size: int) -> bytes:
        """The body, which must have so many bytes.

        Raises
        ------
        LinkError
            If it has not, or the status is not :attr:`Status.OK`.
        """
        if self.status != Status.OK:
            name = self.status.name if isinstance(self.status, Status) else hex(self.status)
            raise LinkError(f"the device answers {name}")
        if len(self.body) != size:
            raise LinkError(f"the answer has {len(self.body)} bytes; it must have {size}")
        return self.body


@dataclass(frozen=True)
class Identity:
    """What a device says about itself.

    Parameters
    ----------
    model : bytes
        First :data:`HASH_BYTES` of the SHA-256 of its model's file; zeros while weights are being
        loaded.
    shape : bytes
        :func:`shape_hash` of its model; where weights can be loaded, the hash of the design's
        :class:`~flightrtl.contents.Shape`.
    image_bytes : int
        Of an image.
    classes : int
        Number of logits.
    loadable : bool
        Whether weights can be loaded.
    version : int
        Of the protocol.
    """

    model: bytes
    shape: bytes
    image_bytes: int
    classes: int
    loadable: bool = False
    version: int = VERSION

    _FORMAT = f"<B{HASH_BYTES}s{HASH_BYTES}sHHB"

    @classmethod
    def of(cls, model: Model, sha256: str, *, design: str = "") -> Identity:
        """That of a design for a model.

        Parameters
        ----------
        model : Model
            What is in it.
        sha256 : str
            Of the model's file, in hexadecimal; the hash is 0 if it is empty.
        design : str
            Where weights can be loaded, the hash of the design's shape, in hexadecimal.
        """
        frame = Frame.of(model)
        return cls(bytes.fromhex(sha256)[:HASH_BYTES].ljust(HASH_BYTES, b"\0"),
                   bytes.fromhex(design) or shape_hash(model), frame.image_bytes, frame.classes,
                   bool(design))

    @classmethod
    def parse(cls, reply: Reply) -> Identity:
        """What the reply to a request of type :attr:`Type.IDENTIFY` says.

        Raises
        ------
        LinkError
            If it is none, or of another version of the protocol.
        """
        if reply.status == Status.OK and reply.body[:1] != bytes([VERSION]):
            raise LinkError(f"the device speaks version {reply.body[:1].hex()} of the protocol, "
                            f"and this host version {VERSION:02x}")
        version, model, shape, size, classes, flags = struct.unpack(
            cls._FORMAT, reply.check(struct.calcsize(cls._FORMAT)))
        return cls(model, shape, size, classes, bool(flags & 1), version)

    def may_be(self, model: Model) -> bool:
        """Whether a model of this shape can be in the design, as far as can be told from here."""
        if self.loadable:       # its shape is another thing
            frame = Frame.of(model)
            return (frame.image_bytes, frame.classes) == (self.image_bytes, self.classes)
        return shape_hash(model) == self.shape

    @property
    def body(self) -> bytes:
        """As bytes behind the status."""
        return struct.pack(self._FORMAT, self.version, self.model, self.shape, self.image_bytes,
                           self.classes, self.loadable)


@dataclass(frozen=True)
class Counters:
    """What a device has counted since it started, or since a request to reset it; modulo 65,536.

    Parameters
    ----------
    taken : int
        Frames that were good.
    damaged : int
        Frames whose checksum was wrong, or that were given up by the host.
    refused : int
        Frames with a right checksum and a wrong length or an unknown type.
    overruns : int
        Bytes that were lost: their stop bit was wrong, or nobody had time for them.
    """

    taken: int = 0
    damaged: int = 0
    refused: int = 0
    overruns: int = 0

    @classmethod
    def parse(cls, reply: Reply) -> Counters:
        """What the reply to a request of type :attr:`Type.STATUS` says; or :class:`LinkError`."""
        return cls(*struct.unpack("<4H", reply.check(8)))

    @property
    def body(self) -> bytes:
        """As bytes behind the status."""
        return struct.pack("<4H", *(count & 0xFFFF for count in (
            self.taken, self.damaged, self.refused, self.overruns)))


def load_body(memory: int, address: int, data: bytes) -> bytes:
    """Body of a request of type :attr:`Type.LOAD`: bytes for a memory, from an address on.

    It must be as long as an image: see :attr:`Frame.load_bytes`.
    """
    return struct.pack("<BH", _integer(memory, "memory", 0, 0xFF),
                       _integer(address, "address", 0, 0xFFFF)) + data


def value_bytes(bits: int) -> int:
    """Bytes that carry a value of so many bits."""
    return 1 if bits <= 8 else 2


def _dtype(fmt: ActivationFormat) -> str:
    return f"<{'i' if fmt.signed else 'u'}{value_bytes(fmt.bits)}"


def _too_many(image_bytes: int, classes: int) -> list[str]:
    return [f"{what}, and the link between host and board takes up to {_MOST:,}: {remedy}, or put "
            "the network into a design of your own (docs/embed.md)"
            for what, count, remedy in (
                (f"an image has {image_bytes:,} bytes", image_bytes, "use smaller images"),
                (f"there are {classes:,} classes", classes, "train with fewer")) if count > _MOST]


def link_problems(model: Model) -> list[str]:
    """All that keeps a model from the link, one sentence each; empty if nothing does."""
    return _too_many(value_bytes(model.input.format.bits) * model.input.size, model.output.size)


def require_loads(model: Model) -> None:
    """Raise :class:`UserError` if requests to load weights do not fit where images do."""
    if Frame.of(model).load_bytes < 1:
        raise UserError(f"an image of model {model.name!r} is too small for weights to be loaded: "
                        "leave out --weights loadable")


def shape_hash(model: Model) -> bytes:
    """What stands for everything about a model but its name and the values of its weights."""
    document, _ = describe(model)
    for name in ("name", "provenance", "version"):
        del document[name]
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()[:HASH_BYTES]


@dataclass(frozen=True)
class Frame:
    """Images and answers of one network as bytes.

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
    """

    input: ActivationFormat
    size: int
    logit: ActivationFormat
    classes: int

    @classmethod
    def of(cls, model: Model) -> Frame:
        """The frames of a model; :class:`ModelError` with its :func:`link_problems`."""
        problems = link_problems(model)
        if problems:
            raise ModelError(f"no host can talk to model {model.name!r}", problems)
        return cls(model.input.format, model.input.size, model.output.format, model.output.size)

    def __post_init__(self) -> None:
        problems = _too_many(self.image_bytes, self.classes)
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def image_bytes(self) -> int:
        """Body of a request to classify."""
        return value_bytes(self.input.bits) * self.size

    @property
    def load_bytes(self) -> int:
        """Bytes for a memory in a request to load weights: its body is as long as an image."""
        return self.image_bytes - LOAD_HEADER_BYTES

    @property
    def winner_bits(self) -> int:
        """Bits of a class."""
        return max(1, (self.classes - 1).bit_length())

    @property
    def answer_bytes(self) -> int:
        """Body of the reply, behind its status."""
        return value_bytes(self.logit.bits) * self.classes + value_bytes(self.winner_bits)

    @property
    def request_size(self) -> int:
        """Bytes of a request on the line, at least; twice as many, nearly, if all are escaped."""
        return 2 + HEADER_BYTES + self.image_bytes + CHECKSUM_BYTES

    @property
    def answer_size(self) -> int:
        """Bytes of a good answer on the line, at least."""
        return 2 + HEADER_BYTES + 1 + self.answer_bytes + CHECKSUM_BYTES

    def image_body(self, image: ArrayLike) -> bytes:
        """An image, whose values are taken in the order of the array.

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
        if np.any(values != values.astype(np.int64)):
            raise ValueError("the image has values that are no integers")
        return values.astype(_dtype(self.input)).tobytes()

    def image(self, body: bytes) -> list[int]:
        """The values of an image, as a device reads them: bits beyond the format are ignored."""
        if len(body) != self.image_bytes:
            raise ValueError(f"an image has {self.image_bytes} bytes, not {len(body)}")
        width = value_bytes(self.input.bits)
        raw = np.frombuffer(body, f"<u{width}").astype(np.int64) & (1 << self.input.bits) - 1
        negative = self.input.signed * (raw >> (self.input.bits - 1)) << self.input.bits
        return (raw - negative).tolist()

    def request(self, sequence: int, image: ArrayLike) -> bytes:
        """The request to classify an image, as bytes on the line; ``ValueError`` as above."""
        return request(Type.CLASSIFY, sequence, self.image_body(image))

    def answer_body(self, logits: Sequence[int], winner: int) -> bytes:
        """What the device answers, behind the status."""
        return (np.array(logits, np.int64).astype(_dtype(self.logit)).tobytes()
                + winner.to_bytes(value_bytes(self.winner_bits), "little"))

    def parse(self, reply: Reply) -> tuple[int, list[int]]:
        """Class and logits of a reply.

        Raises
        ------
        LinkError
            If there are none in it, or the class is not that of the first of the largest logits.
        """
        body = reply.check(self.answer_bytes)
        end = value_bytes(self.logit.bits) * self.classes
        logits = np.frombuffer(body[:end], _dtype(self.logit)).astype(int).tolist()
        winner = int.from_bytes(body[end:], "little")
        if winner != int(np.argmax(logits)):
            raise LinkError(f"the device answers class {winner}, and its logits say "
                            f"{int(np.argmax(logits))}")
        return winner, logits
