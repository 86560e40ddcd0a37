"""Frames on the wire: where one begins and ends, and whether it arrived as it was sent."""

from __future__ import annotations

import zlib

from ..formats import _integer

__all__ = ["CHECKSUM_BYTES", "ESCAPE", "FLAG", "FLIP", "HEADER_BYTES", "Decoder", "LinkError",
           "checksum", "encode"]

FLAG = 0x7E
"""Stands between frames, and nowhere else."""

ESCAPE = 0x7D
"""Inside a frame: the next byte is meant with :data:`FLIP` inverted. Before a flag: forget the
frame."""

FLIP = 0x20

HEADER_BYTES = 2
"""Of a frame before its body: type and sequence number."""

CHECKSUM_BYTES = 4
"""Of a frame behind its body.

Why not two: of 10,000 frames of which 20 % are damaged beyond any guarantee, 2,000 / 2**16 = 3 % of
runs would take one for good with CRC-16, and 2,000 / 2**32 = one run in two million with CRC-32.
"""


class LinkError(Exception):
    """A frame that is not what it should be, or a reply that says that the request was not."""


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
