"""A line between host and board on which frames are damaged, lost, doubled, delayed and cut."""

from __future__ import annotations

import math
from collections import Counter, deque
from fractions import Fraction
from typing import Protocol

import numpy as np

from flightrtl.protocol import FLAG

__all__ = ["FAULTS", "Board", "FaultyLine"]

FAULTS = ("corrupt", "drop", "duplicate", "delay", "cut")
"""What happens to a frame: bits or bytes of it are changed, or bytes put in; it is lost; it comes
twice; it comes late, and all behind it; a part of it is missing."""

_LONGEST_DELAY = 0.6
"""Seconds: more than twice as long as a host waits, so that late answers meet the next request."""


class Board(Protocol):
    """A board with a time of its own: :class:`sim.board.VirtualBoard`."""

    baud: int
    clock_hz: Fraction

    @property
    def seconds(self) -> float: ...
    def send(self, data: bytes) -> None: ...
    def run(self, cycles: int, *, stop: int | None = None) -> bytes: ...


class FaultyLine:
    """A :class:`~flightrtl.host.device.Port` to a simulated board, in the board's own time.

    In both directions each frame meets one of :data:`FAULTS` with the same probability, drawn
    from ``seed``. What is sent stays in its order, as on any serial line.

    Parameters
    ----------
    board : Board
        At the other end.
    rate : float
        Share of the frames to which something happens, 0 to 1; may be changed at any time.
    seed : int
        Of all that is random.

    Members
    -------
    faults : Counter
        How often what happened.
    unanswered : int
        Requests that came through as they were sent, met no fault on the way back, and were sent
        again all the same, since no answer came.
    """

    def __init__(self, board: Board, *, rate: float = 0.0, seed: int = 0) -> None:
        self.baud = board.baud
        self.rate = rate
        self.faults: Counter[str] = Counter()
        self.unanswered = 0
        self._board = board
        self._rng = np.random.default_rng(seed)
        self._out: deque[tuple[float, bytes]] = deque()
        self._in: deque[tuple[float, bytes]] = deque()
        self._frame = bytearray()       # from the board, not complete
        self._sent = b""
        self._disturbed = False

    def now(self) -> float:
        """Seconds of the board's time."""
        return self._board.seconds

    def close(self) -> None:
        """Nothing to do."""

    def write(self, data: bytes) -> None:
        """Send a frame."""
        if data == self._sent and not self._disturbed:
            self.unanswered += 1
        # What is still on its way may disturb this one.
        self._sent, self._disturbed = data, bool(self._out or self._in)
        self._pass(data, self._out)

    def read(self, seconds: float) -> bytes:
        """Bytes that have come: waits for the first of them, and no longer than ``seconds``."""
        end = self.now() + seconds
        while True:
            now = self.now()
            data = b""
            while self._in and self._in[0][0] <= now:
                data += self._in.popleft()[1]
            if data or now >= end:
                return data
            while self._out and self._out[0][0] <= now:
                self._board.send(self._out.popleft()[1])
            until = min([end, *(queue[0][0] for queue in (self._in, self._out) if queue)])
            cycles = math.ceil((until - now) * float(self._board.clock_hz))
            for byte in self._board.run(max(cycles, 1), stop=FLAG):
                self._frame.append(byte)
                if byte == FLAG and len(self._frame) > 1:
                    self._pass(bytes(self._frame), self._in)
                    self._frame.clear()

    def _pass(self, frame: bytes, queue: deque[tuple[float, bytes]]) -> None:
        """Put a frame into a queue, or what becomes of it."""
        late = 0.0
        if self._rng.random() < self.rate:
            fault = FAULTS[self._rng.integers(len(FAULTS))]
            self.faults[fault] += 1
            self._disturbed = True
            if fault == "corrupt":
                frame = self._corrupted(frame)
            elif fault == "drop":
                return
            elif fault == "duplicate":
                frame += frame
            elif fault == "delay":
                late = self._rng.random() * _LONGEST_DELAY
            else:
                frame = self._cut(frame)
        before = queue[-1][0] if queue else 0.0
        queue.append((max(before, self.now() + late), frame))

    def _corrupted(self, frame: bytes) -> bytes:
        """With up to three bits, a burst of up to eight bytes, or all of it changed; or noise."""
        rng, data = self._rng, np.frombuffer(frame, np.uint8).copy()
        kind = rng.integers(4)
        if kind == 0:
            for place in rng.integers(8 * len(data), size=rng.integers(1, 4)):
                data[place // 8] ^= 1 << place % 8
        elif kind == 1:
            start, size = rng.integers(len(data)), rng.integers(1, 9)
            data[start:start + size] = rng.integers(256, size=len(data[start:start + size]))
        elif kind == 2:
            data = rng.integers(256, size=len(data)).astype(np.uint8)
        else:
            noise = rng.integers(256, size=rng.integers(1, 21)).astype(np.uint8)
            data = np.insert(data, rng.integers(len(data) + 1), noise)
        return data.tobytes()

    def _cut(self, frame: bytes) -> bytes:
        """Without its end, its start, or something in between."""
        low, high = sorted(self._rng.integers(1, len(frame), size=2).tolist())
        return (frame[:low], frame[high:], frame[:low] + frame[high + 1:])[self._rng.integers(3)]
