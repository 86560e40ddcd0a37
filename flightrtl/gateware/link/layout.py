"""Where things are in the link's buffer."""

from __future__ import annotations

from dataclasses import dataclass

from ...blockram import SEGMENT
from ...protocol import CHECKSUM_BYTES, HASH_BYTES, HEADER_BYTES, Frame, Identity
from ..loadablestream import MemoryContents

__all__ = ["BODY", "COUNTERS", "COUNTERS_END", "HOME", "IDENTITY", "IDENTITY_END", "MODEL_HASH",
           "Layout"]

# The first 64 bytes are the pages of constants and of counters, of 32 bytes each; frames follow.
# Byte 7 of a page is the status OK. In a frame the status stands in byte 7 of the third page, so
# that a reply gets from a frame's header into a page by a change of bits 5 and 6 of the address.
HOME = 69
"""Address of a frame's type."""
BODY = HOME + HEADER_BYTES
"""Address of a request's body, and of a reply's status."""
IDENTITY = 8
MODEL_HASH = IDENTITY + 1
IDENTITY_END = IDENTITY + 6 + 2 * HASH_BYTES
COUNTERS = 40
"""Address of four counters of 16 bits, which the bits 1 and 2 of the address choose from."""
COUNTERS_END = COUNTERS + 8


@dataclass(frozen=True)
class Layout:
    """The buffer for the frames of a network.

    Parameters
    ----------
    frame : Frame
        Sizes and formats.
    """

    frame: Frame

    @property
    def image_end(self) -> int:
        """Address behind an image."""
        return BODY + self.frame.image_bytes

    @property
    def end(self) -> int:
        """Address behind the longest frame, its checksum included: bytes in the buffer."""
        return max(self.image_end, BODY + HASH_BYTES, BODY + self.frame.answer_bytes + 1) \
            + CHECKSUM_BYTES

    @property
    def empty_end(self) -> int:
        """Address behind a frame without a body."""
        return BODY + CHECKSUM_BYTES

    @property
    def commit_end(self) -> int:
        """Address behind a frame whose body is the hash of a model."""
        return BODY + HASH_BYTES + CHECKSUM_BYTES

    @property
    def answer_end(self) -> int:
        """Address behind the body of a good answer."""
        return BODY + 1 + self.frame.answer_bytes

    def memory(self, identity: Identity) -> MemoryContents:
        """The buffer, which holds the identity at first."""
        assert len(identity.body) == IDENTITY_END - IDENTITY
        words = [*bytes(IDENTITY), *identity.body]
        return MemoryContents(-(-self.end // SEGMENT) * SEGMENT, 8, words, words)
