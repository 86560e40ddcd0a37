"""An SPI bus of a Linux computer as the line to a device, such as a Raspberry Pi's.

Every byte that is sent brings one back. A host that has nothing to say sends flags, and so does a
device; neither counts.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from typing import Any

from ..errors import UserError
from ..protocol import FLAG
from .device import DeviceError

__all__ = ["DEFAULT_MHZ", "PREFIX", "SpiPort"]

PREFIX = "spi:"
"""With which the name of an SPI port begins."""

DEFAULT_MHZ = 1.0
"""Clock of the bus where none is asked for: every design that is built here keeps up with it."""

WIRING = ("is the bus wired as docs/link.md says, was the bitstream built with --link spi, and is "
          "the clock of the bus at most the report's max_sck_mhz (--port spi:PATH:MHZ)?")
"""What helps where nobody answers."""

_NAME = re.compile(rf"{PREFIX}(?P<path>[^:]+)(?::(?P<mhz>\d+(?:\.\d+)?))?")
_PATH = re.compile(r"/dev/spidev(?P<bus>\d+)\.(?P<select>\d+)")
_TRANSFER = 4096    # bytes at a time, at most: Linux has no more room unless it is told to
_LOOK = 64          # bytes at a time while there is nothing: some 20 us at 25 MHz
_SETTLE = 1 << 16   # bytes of an earlier answer that may have to be read first
_PAUSE = 0.002      # seconds between two looks, at most


class SpiPort:
    """A device on an SPI bus; a :class:`~flightrtl.host.device.Port`.

    Parameters
    ----------
    name : str
        ``spi:/dev/spidev0.0`` or, with the clock of the bus in MHz, ``spi:/dev/spidev0.0:4``.

    Members
    -------
    path : str
        Of the device file.
    mhz : float
        Clock of the bus, at most.

    Raises
    ------
    UserError
        If the name is wrong, or the bus is not there or not ours to open.
    DeviceError
        If there is no design at its other end.
    """

    def __init__(self, name: str) -> None:
        match = _NAME.fullmatch(name)
        if match is None:
            raise UserError(f"an SPI port is written spi:PATH or spi:PATH:MHZ, such as "
                            f"spi:/dev/spidev0.0:4, and not {name!r}")
        self.path = match["path"]
        self.mhz = float(match["mhz"] or DEFAULT_MHZ)
        if not 0.01 <= self.mhz <= 100:
            raise UserError(f"the clock of an SPI bus must be 0.01 to 100 MHz, not {self.mhz:g}")
        # Ten bits a byte is what a Port has, and here there are eight.
        self.baud = round(self.mhz * 1e6 * 10 / 8)
        self._kept = b""
        self._between = True        # frames: what comes next is a flag, or the first of one
        self._bus = self._open()
        try:
            self._settle()
        except BaseException:
            self.close()
            raise

    def _open(self) -> Any:
        spidev = _spidev()
        match = _PATH.fullmatch(os.path.realpath(self.path))
        if match is None:
            raise UserError(f"{self.path} is no SPI device of Linux: they are called "
                            "/dev/spidevBUS.SELECT")
        bus = spidev.SpiDev()
        try:
            bus.open(int(match["bus"]), int(match["select"]))
            bus.mode = 0
            bus.max_speed_hz = round(self.mhz * 1e6)
        except PermissionError:
            raise UserError(f"{self.path}: no permission to open it: join the group that owns it "
                            "(sudo usermod -a -G spi $USER, then log in again)") from None
        except FileNotFoundError:
            raise UserError(f"there is no {self.path}: is SPI turned on? (On a Raspberry Pi: "
                            "sudo raspi-config nonint do_spi 0)") from None
        except OSError as error:
            raise UserError(f"{self.path} cannot be used at {self.mhz:g} MHz: "
                            f"{error.strerror or error}") from None
        return bus

    def _settle(self) -> None:
        """Read what an earlier host has left, until there is silence."""
        data = b""
        for _ in range(_SETTLE // _LOOK):
            data = self._exchange(bytes([FLAG]) * _LOOK)
            if set(data) == {FLAG}:
                return
        raise DeviceError(f"{self.path} at {self.mhz:g} MHz: no silence, which is {FLAG:02x}; "
                          f"what comes is {data[-4:].hex(' ')}", knob=WIRING)

    def _exchange(self, data: bytes) -> bytes:
        try:
            return b"".join(bytes(self._bus.xfer2(list(data[start:start + _TRANSFER])))
                            for start in range(0, len(data), _TRANSFER))
        except OSError as error:
            raise DeviceError(f"{self.path}: {error.strerror or error}",
                              knob="is the bus there still?") from None

    def _hear(self, data: bytes) -> bytes:
        """What comes back for bytes, without the flags that say nothing."""
        heard = self._exchange(data)
        if self._between:
            heard = heard.lstrip(bytes([FLAG]))
        if heard:
            self._between = heard[-1] == FLAG
        return heard

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._kept += self._hear(data)

    def read(self, seconds: float) -> bytes:
        """Bytes that have come: waits for the first of them, and no longer than ``seconds``."""
        end, pause = time.monotonic() + seconds, 0.0
        while True:
            data, self._kept = self._kept or self._hear(bytes([FLAG]) * _LOOK), b""
            left = end - time.monotonic()
            if data or left <= 0:
                return data
            time.sleep(min(pause, left))
            pause = min(2 * pause + 0.000_02, _PAUSE)

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def close(self) -> None:
        """Give the bus back."""
        with suppress(OSError):
            self._bus.close()


def _spidev() -> Any:
    """py-spidev."""
    try:
        import spidev
    except ImportError:
        raise UserError("SPI ports take spidev, which is for Linux only and not installed: "
                        "pip install 'flightrtl[spi]'") from None
    return spidev
