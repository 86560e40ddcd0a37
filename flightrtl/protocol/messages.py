"""Requests and replies: what is in a frame."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from ..formats import _integer
from .framing import HEADER_BYTES, LinkError, encode

__all__ = ["LOAD_HEADER_BYTES", "REPLY", "Counters", "Reply", "Request", "Status", "Type",
           "load_body", "request"]

REPLY = 0x80
"""What the type of a reply has more than that of its request."""

LOAD_HEADER_BYTES = 3
"""Of the body of a request to load weights before the weights: memory, address."""


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
