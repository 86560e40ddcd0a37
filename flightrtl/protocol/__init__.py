r"""The link between a host and a network on a board: every byte of it, in Python.

``docs/link.md`` has the same in words, and the gateware in :mod:`flightrtl.gateware.link` is tested
against this module. A host takes :func:`request`, :class:`Decoder`, :meth:`Reply.parse` and
:class:`Frame`; a device takes the same from the other side, and :meth:`Reply.encode`.

>>> from flightrtl.formats import ActivationFormat
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

from .codec import Frame, link_problems, require_loads, value_bytes
from .framing import (
    CHECKSUM_BYTES,
    ESCAPE,
    FLAG,
    FLIP,
    HEADER_BYTES,
    Decoder,
    LinkError,
    checksum,
    encode,
)
from .identity import HASH_BYTES, VERSION, Identity, shape_hash
from .messages import (
    LOAD_HEADER_BYTES,
    REPLY,
    Counters,
    Reply,
    Request,
    Status,
    Type,
    load_body,
    request,
)

__all__ = ["CHECKSUM_BYTES", "ESCAPE", "FLAG", "FLIP", "HASH_BYTES", "HEADER_BYTES",
           "LOAD_HEADER_BYTES", "REPLY", "VERSION", "Counters", "Decoder", "Frame", "Identity",
           "LinkError", "Reply", "Request", "Status", "Type", "checksum", "encode", "link_problems",
           "load_body", "request", "require_loads", "shape_hash", "value_bytes"]
