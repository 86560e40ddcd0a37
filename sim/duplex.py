"""A serial line in compiled code, both directions at the same time."""

from __future__ import annotations

import ctypes
from fractions import Fraction

from .simulation import Simulation

__all__ = ["DuplexLine"]

_NONE = -1
_ROOM = 4096


class _Serial(ctypes.Structure):
    """``Serial`` of ``sim/shim.cc``."""

    _fields_ = (
        ("rx", ctypes.c_int32), ("tx", ctypes.c_int32), ("bit", ctypes.c_uint64),
        ("now", ctypes.c_uint64), ("active", ctypes.c_uint64),
        ("out", ctypes.c_void_p), ("out_count", ctypes.c_uint64), ("out_done", ctypes.c_uint64),
        ("into", ctypes.c_void_p), ("in_count", ctypes.c_uint64), ("in_done", ctypes.c_uint64),
        ("framing", ctypes.c_uint64),
        ("out_next", ctypes.c_uint64), ("in_next", ctypes.c_uint64),
        ("out_bit", ctypes.c_int32), ("in_bit", ctypes.c_int32), ("stop", ctypes.c_int32),
        ("in_shift", ctypes.c_uint8), ("in_idle", ctypes.c_uint8))


class DuplexLine:
    """The host's end of a serial line of a compiled design: eight data bits, one stop bit.

    Bits begin where they are due by the host's own bit rate, to the nearest cycle of the design.

    Parameters
    ----------
    simulation : Simulation
        The design.
    cycles_per_bit : Fraction
        Cycles of the design's clock in one bit of the host, 4 or more.
    rx, tx : str
        The design's ports, as it sees them.
    """

    def __init__(self, simulation: Simulation, cycles_per_bit: Fraction | float, *,
                 rx: str = "rx", tx: str = "tx") -> None:
        self.simulation = simulation
        numbers = simulation.design.numbers
        self._bytes = bytearray()
        self._in = (ctypes.c_uint8 * _ROOM)()
        self._out = (ctypes.c_uint8 * 1)()
        self._c = _Serial(rx=numbers[rx], tx=numbers[tx], in_count=_ROOM, out_bit=_NONE,
                          in_bit=_NONE, into=ctypes.addressof(self._in))
        self.set_bit(cycles_per_bit)
        simulation.set(rx, 1)

    def set_bit(self, cycles_per_bit: Fraction | float) -> None:
        """Another bit rate of the host, from the next bit on."""
        if not 4 <= cycles_per_bit < 1 << 30:
            raise ValueError(f"cycles_per_bit must be 4 or more, not {float(cycles_per_bit):g}")
        self._c.bit = round(cycles_per_bit * 65536)

    @property
    def cycle(self) -> int:
        """Cycles so far."""
        return int(self._c.now)

    @property
    def idle(self) -> int:
        """Cycles since the line was last busy; 0 as long as there is something to send."""
        return 0 if self.sending else int(self._c.now - self._c.active)

    @property
    def sending(self) -> int:
        """Bytes that are to be sent, or that are being sent."""
        return len(self._bytes) + int(self._c.out_count - self._c.out_done)

    @property
    def framing_errors(self) -> int:
        """Bytes that came without a stop bit."""
        return int(self._c.framing)

    def send(self, data: bytes) -> None:
        """Bytes to send, behind those that still wait."""
        self._bytes += data

    def run(self, cycles: int, *, stop: int | None = None, patience: int = 1 << 62) -> bytes:
        """Let time pass.

        Parameters
        ----------
        cycles : int
            So much of it, at most.
        stop : int, optional
            Return after this byte has come.
        patience : int
            Return when the line has been idle for so many cycles.

        Returns
        -------
        bytes
            What has come, 4,096 bytes at most: then it returns early too.
        """
        c = self._c
        left = cycles
        while True:
            if c.out_done == c.out_count and self._bytes:
                self._out = (ctypes.c_uint8 * len(self._bytes)).from_buffer_copy(self._bytes)
                c.out, c.out_count, c.out_done = (ctypes.addressof(self._out), len(self._bytes), 0)
                self._bytes.clear()
            c.stop = _NONE if stop is None else stop
            more = bool(self._bytes)
            # Not longer than the bytes at hand take, if there are more of them behind.
            part = min(left, (10 * (c.out_count - c.out_done) * c.bit >> 16) + 1) if more else left
            ran = self.simulation.serial(c, part, patience)
            left -= ran
            if left <= 0 or c.in_done or ran < part:
                break
        data = bytes(self._in[:c.in_done])
        c.in_done = 0
        return data

    def skip(self, cycles: int) -> None:
        """Let time pass for the host alone: for a design in which nothing would happen."""
        self._c.now += cycles
