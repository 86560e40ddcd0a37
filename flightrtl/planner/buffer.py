"""The buffer at the ends of engines in the cycle model, see :mod:`flightrtl.planner.cycles`."""

from __future__ import annotations

__all__ = ["BufferModel"]


class BufferModel:
    """The handshakes of a :class:`~flightrtl.gateware.buffer.StreamBuffer`.

    Members
    -------
    out : bool
        ``valid`` of the output.
    full : bool
        Whether the second register holds a word too: then the input is not ready.
    """

    def __init__(self) -> None:
        self.out = self.full = False

    @property
    def ready(self) -> bool:
        """Of the input."""
        return not self.full

    def tick(self, valid: bool, ready: bool) -> None:
        """One clock edge; ``valid`` of the input, ``ready`` of the output before it."""
        if ready or not self.out:
            self.out, self.full = valid or self.full, False
        else:
            self.full = self.full or valid
