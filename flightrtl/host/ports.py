"""Ports: which one a board is at, how it is opened, and what can go wrong with a serial one."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .. import boards
from ..boards import Board
from ..errors import UserError
from ..model import Model
from .device import SILENT, TRIES, Device, DeviceError, NoAnswer
from .spi import PREFIX, WIRING, SpiPort

__all__ = ["Found", "PortBusy", "SerialPort", "Unplugged", "connect", "find", "listed"]

_POLL = 0.02    # seconds: how long a read waits for a byte in one go
_WRITE = 20.0   # seconds: no line of a board is so slow that a request takes as long


class Unplugged(DeviceError):
    """The port has gone while it was in use."""


class PortBusy(DeviceError):
    """Another program has the port."""


@dataclass(frozen=True)
class Found:
    """A serial port of this computer.

    Parameters
    ----------
    path : str
        By which it is opened.
    title : str
        What the operating system says of it.
    usb : str
        ``VID:PID`` or, where that is known, ``VID:PID:INTERFACE``; empty if it is no USB device.
    boards : tuple of str
        Boards that have such a chip.
    """

    path: str
    title: str
    usb: str
    boards: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"path": self.path, "title": self.title, "usb": self.usb,
                "boards": list(self.boards)}


def listed(ports: Iterable[Any] | None = None) -> list[Found]:
    """The serial ports of this computer.

    Parameters
    ----------
    ports : iterable, optional
        What pySerial's ``comports()`` gives; it is asked if this is left out.
    """
    if ports is None:
        _serial()
        from serial.tools import list_ports
        ports = list_ports.comports()
    known = [boards.load(name) for name in boards.names()]
    found = []
    for port in sorted(ports, key=lambda port: port.device):
        usb = ""
        if port.vid is not None:
            usb = f"{port.vid:04x}:{port.pid:04x}"
            # Linux has the interface as the last digit of the location: 1-2:1.1
            interface = (port.location or "").rpartition(".")[2]
            if ":" in (port.location or "") and interface.isdecimal():
                usb += f":{interface}"
        title = " ".join(dict.fromkeys(part for part in (port.manufacturer, port.product)
                                       if part)) or port.description or "n/a"
        found.append(Found(port.device, title, usb, tuple(
            board.name for board in known if _same(board.uart.usb, usb))))
    return found


def _same(board: str, port: str) -> bool:
    """Whether a port may be a board's; one whose interface is not known may be."""
    wanted, there = board.split(":"), port.split(":")
    return bool(board and port) and all(map(str.__eq__, wanted, there))


def find(name: str | None, board: Board | None, ports: Sequence[Found]) -> str:
    """The port that a user means.

    Parameters
    ----------
    name : str, optional
        A path, or part of a port's path or title; by default the only one that a board is at.
    board : Board, optional
        The board that is looked for; any by default.
    ports : sequence of Found
        Those there are.

    Raises
    ------
    UserError
        If there is none, or more than one.
    """
    there = "\n".join(f"    {port.path}  {port.title}  {', '.join(port.boards)}".rstrip()
                      for port in ports) or "    none"
    if name is not None:
        if os.path.exists(name) or name in {port.path for port in ports}:
            return name
        matching = [port for port in ports if name.lower() in f"{port.path} {port.title}".lower()]
        wanted = f"no serial port {name!r}"
    else:
        matching = [port for port in ports
                    if (board.name in port.boards if board else port.boards)]
        wanted = (f"no serial port of a board {board.name!r}" if board else
                  "no serial port of a board that is known")
    if len(matching) == 1:
        return matching[0].path
    if matching:
        raise UserError(f"{len(matching)} serial ports may be meant; name one with --port:\n"
                        + "\n".join(f"    {port.path}  {port.title}" for port in matching))
    raise UserError(f"{wanted}: is it plugged in? --port names one by its path\n"
                    f"  serial ports of this computer:\n{there}")


class SerialPort:
    """A serial port of this computer; a :class:`~flightrtl.host.device.Port`.

    Parameters
    ----------
    path : str
        ``/dev/ttyUSB1``, ``COM3``.
    baud : int
        Bits per second.

    Raises
    ------
    UserError, PortBusy
        If it is not there, no serial port, in use, or not ours to open.
    """

    def __init__(self, path: str, baud: int) -> None:
        serial = _serial()
        self.path = path
        self.baud = baud
        self._error = serial.SerialException
        try:
            self._port = serial.Serial(path, baud, timeout=_POLL, write_timeout=_WRITE,
                                       exclusive=True if os.name == "posix" else None)
            self._port.reset_input_buffer()
            # Linux: an FTDI chip then keeps bytes back for 1 ms, and not for 16. Others have no
            # such setting.
            with suppress(AttributeError, ValueError):
                self._port.set_low_latency_mode(True)
        except (OSError, ValueError) as error:     # SerialException is an OSError
            raise self._refused(error) from None

    def _refused(self, error: OSError | ValueError) -> Exception:
        number, text = getattr(error, "errno", None), str(error)
        if "exclusively lock" in text or number == errno.EBUSY or "Access is denied" in text:
            return PortBusy(f"{self.path} is in use by another program",
                            knob="close it (a terminal program, another host?) or name another "
                                 "port with --port")
        if number == errno.EACCES:
            return UserError(f"{self.path}: no permission to open it: on Linux, join the group "
                             "that owns it (sudo usermod -a -G dialout $USER, then log in again)")
        if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO) or "FileNotFound" in text:
            return UserError(f"there is no serial port {self.path}: is the board plugged in? "
                             "`ports` lists those there are")
        if isinstance(error, ValueError) and "baud" in text.lower():
            return UserError(f"{self.path} cannot have {self.baud:,} baud")
        return UserError(f"{self.path} is not a serial port: `ports` lists those there are")

    def _gone(self) -> Unplugged:
        return Unplugged(f"{self.path} has gone: was the board unplugged?",
                         knob="plug it in, and run the command again")

    def write(self, data: bytes) -> None:
        """Send bytes."""
        try:
            self._port.write(data)
        except (OSError, TypeError) as error:   # pySerial's own time-out is an OSError
            if "timeout" in str(error).lower() and os.path.exists(self.path):
                raise DeviceError(f"{self.path} takes no bytes",
                                  knob="is anything behind this port?") from None
            raise self._gone() from None

    def read(self, seconds: float) -> bytes:
        """Bytes that have come: waits for the first of them, and no longer than ``seconds``."""
        end = time.monotonic() + seconds
        while True:
            try:
                data: bytes = self._port.read(max(1, self._port.in_waiting))
                data += self._port.read(self._port.in_waiting)
            except (OSError, TypeError):
                raise self._gone() from None
            if data or time.monotonic() >= end:
                return data

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def close(self) -> None:
        """Give the port back."""
        with suppress(OSError):
            self._port.close()


def connect(port: str | None = None, *, board: Board | str | None = None, baud: int | None = None,
            model: Model | str | os.PathLike[str] | None = None, sha256: str | None = None,
            tries: int = TRIES, timeout: float | None = None, any_model: bool = False) -> Device:
    """Open the device on a serial port, or on an SPI bus.

    Parameters
    ----------
    port : str, optional
        Path, or part of its name; by default the only one with the chip of a board. For SPI, as
        :class:`~flightrtl.host.spi.SpiPort` has it.
    board : Board or str, optional
        Tells the bit rate, and which ports to look for.
    baud : int, optional
        Bits per second; by default the board's, or without a board those that boards have, one
        after the other.
    model, sha256, tries, timeout, any_model
        As for :class:`~flightrtl.host.device.Device`.

    Raises
    ------
    UserError, DeviceError
        For all that can be wrong with port, board and model.
    """
    if isinstance(board, str):
        board = boards.load(board)
    if baud is not None and not 300 <= baud <= 12_000_000:
        raise UserError(f"the bit rate must be 300 to 12,000,000, not {baud:,}")
    if port is not None and port.startswith(PREFIX):
        if baud is not None:
            raise UserError("an SPI bus has a clock and no bit rate: leave out --baud; "
                            "--port spi:PATH:MHZ has the clock")
        bus = SpiPort(port)
        try:
            return Device(bus, model, sha256=sha256, timeout=timeout, any_model=any_model,
                          tries=tries)
        except NoAnswer:
            bus.close()
            raise NoAnswer(f"{bus.path} at {bus.mhz:g} MHz: silence, and no answer",
                           knob=WIRING) from None
        except BaseException:
            bus.close()
            raise
    path = find(port, board, [] if port and os.path.exists(port) else listed())
    rates = [baud] if baud else [board.uart.baud] if board else _rates()
    for rate in rates:
        line = SerialPort(path, rate)
        try:
            return Device(line, model, sha256=sha256, timeout=timeout, any_model=any_model,
                          tries=tries, first_tries=4 if len(rates) == 1 else 2)
        except NoAnswer as error:
            line.close()
            if len(rates) == 1:
                raise NoAnswer(f"{path}: {error.args[0]}", knob=error.knob) from None
        except BaseException:
            line.close()
            raise
    tried = " or ".join(f"{rate:,}" for rate in rates)
    raise NoAnswer(f"{path}: no answer at {tried} baud", knob=SILENT)


def _rates() -> list[int]:
    """Bit rates of the boards, the most frequent ones first."""
    every = [boards.load(name).uart.baud for name in boards.names()]
    return sorted(set(every), key=lambda rate: (-every.count(rate), rate))


def _serial() -> Any:
    """PySerial."""
    try:
        import serial
    except ImportError:
        raise UserError("serial ports take pySerial, which is not installed: "
                        "pip install 'flightrtl[host]'") from None
    return serial
