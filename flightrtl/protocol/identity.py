"""What a device says about itself, and which models that fits."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass

from ..document import describe
from ..model import Model
from .codec import Frame
from .framing import LinkError
from .messages import Reply, Status

__all__ = ["HASH_BYTES", "VERSION", "Identity", "shape_hash"]

HASH_BYTES = 8
"""How much of a SHA-256 stands for a model or a shape."""

VERSION = 2
"""Of this protocol, as :class:`Identity` gives it."""


def shape_hash(model: Model) -> bytes:
    """What stands for everything about a model but its name and the values of its weights."""
    document, _ = describe(model)
    for name in ("name", "provenance", "version"):
        del document[name]
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()[:HASH_BYTES]


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
