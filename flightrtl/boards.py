"""Boards as data: what a design needs to know of one, read from a TOML file.

A board file names the platform class of :mod:`amaranth_boards` (or of any other importable
module) and adds what that class does not say: how much there is in the device, which pins the
design uses, and the settings with which it is built. ``docs/boards.md`` describes every key.
"""

from __future__ import annotations

import difflib
import importlib
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .errors import UserError

__all__ = ["Board", "Clock", "FlashChip", "Led", "Resources", "Spi", "Uart", "load", "names",
           "paths"]

_FAMILIES = ("ice40", "ecp5")
_PLLS = ("pad", "core", "none")
_USB = re.compile(r"([0-9a-f]{4}:[0-9a-f]{4}(:\d+)?)?")
_CONNECTOR = re.compile(r"(?P<name>\w+):(?P<number>\d+)")
_LED = re.compile(r"(?P<resource>\w+):(?P<number>\d+)(?:\.(?P<subsignal>\w+))?")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a device has, counted as nextpnr counts it.

    Parameters
    ----------
    lut4 : int
        Logic cells (``ICESTORM_LC``, ``TRELLIS_COMB``).
    ff : int
        Flip-flops. On iCE40 one sits in every logic cell.
    bram, bram_bits : int
        Block RAMs, and bits in each.
    spram, dsp : int
        Single-port RAMs and multiplier blocks. flightrtl uses no multiplier.
    """

    lut4: int
    ff: int
    bram: int
    bram_bits: int
    spram: int
    dsp: int


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The oscillator and what becomes of it.

    Parameters
    ----------
    resource : str
        Name in the platform.
    input_mhz : float
        Frequency of the oscillator, MHz.
    pll : {"pad", "core", "none"}
        How its pin reaches the PLL: it is the PLL's own pad (iCE40 only), through the fabric,
        or not at all (the design then runs at ``input_mhz``).
    default_mhz : float
        Clock of the design when nobody asks for another, MHz.
    """

    resource: str
    input_mhz: float
    pll: str
    default_mhz: float


@dataclass(frozen=True, kw_only=True)
class Uart:
    """The serial port.

    Parameters
    ----------
    resource, number : str, int
        Name and number in the platform.
    baud : int
        Bits per second.
    usb : str
        How a host knows the chip behind it: ``VID:PID`` in hexadecimal, and ``:N`` with the
        interface where the chip has several. Empty if the board has none.
    """

    resource: str
    number: int
    baud: int
    usb: str = ""


@dataclass(frozen=True, kw_only=True)
class Spi:
    """Pins for a host's SPI bus, at which the board is a peripheral.

    In the platform they are the resource ``host_spi``.

    Parameters
    ----------
    connector : str
        ``NAME:NUMBER`` in the platform; the pins are those of the device if it is empty.
    cs, copi, cipo, sck : str
        Pins of the connector. ``cs`` is active low.
    attributes : tuple of (str, str or int)
        Of the pins, as the platform knows them.
    """

    RESOURCE: ClassVar[str] = "host_spi"

    connector: str
    cs: str
    copi: str
    cipo: str
    sck: str
    attributes: tuple[tuple[str, str | int], ...]

    def resource(self) -> Any:
        """The pins as an ``amaranth.build.Resource``."""
        from amaranth.build import Attrs
        from amaranth_boards.resources import SPIResource

        match = _CONNECTOR.fullmatch(self.connector)
        return SPIResource(
            self.RESOURCE, 0, cs_n=self.cs, clk=self.sck, copi=self.copi, cipo=self.cipo,
            role="peripheral", attrs=Attrs(**dict(self.attributes)),
            conn=(match["name"], int(match["number"])) if match else None)


@dataclass(frozen=True, kw_only=True)
class FlashChip:
    """The SPI flash, which has room behind the bitstream.

    Parameters
    ----------
    resource, number : str, int
        Name and number in the platform. Of a resource without ``clk``, as on an ECP5, the
        flash's clock is the configuration's own pin.
    address : int
        Of the first byte that no bitstream takes.
    bytes : int
        How much there is, from address 0 on.
    read_mhz : float
        Most that the command READ (03h) allows, MHz.
    wake_us : float
        Time that it takes to wake up (ABh), us.
    program : tuple of str
        Command line that writes a file: ``{file}`` at ``{address}``. An environment variable may
        name another program: that of ``iceprog`` is ``ICEPROG``.
    """

    resource: str
    number: int
    address: int
    bytes: int
    read_mhz: float
    wake_us: float
    program: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Led:
    """One LED: resource name and number, and the part of a resource that has several."""

    resource: str
    number: int
    subsignal: str | None = None


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board that flightrtl builds for.

    Parameters
    ----------
    name : str
        Its file's name without ``.toml``.
    title : str
        As people call it.
    aliases : tuple of str
        Further names that :func:`load` knows it by.
    platform : str
        Platform class, ``module:Class``.
    family : {"ice40", "ecp5"}
        Decides tools, PLL and cost model.
    device : str
        Part, as in the platform class.
    resources : Resources
        What the device has.
    clock : Clock
        Oscillator and PLL.
    uart : Uart
        Serial port.
    spi : Spi or None
        Pins for a host's SPI bus, if there is a place for them.
    leds : tuple of Led
        Where the class is shown, least significant bit first.
    extra_resources : tuple of str
        Attributes of the platform class that hold further resources to add.
    default_rate : float or None
        Inferences per second that a plan aims at when nobody asks for a rate; the highest that
        fits if None.
    seed : int
        For place and route.
    fill : float
        Share of the logic cells that a plan may use; what is left keeps routing possible.
    default_fill : float
        The same where nobody asks for a rate: what is known to reach the default clock.
    memory_register : bool
        Put a register behind each memory: free on ECP5, whose block RAM is slow without
        it; on iCE40 it would cost a logic cell for each bit.
    synth_opts, nextpnr_opts : str
        Further options for Yosys' ``synth_*`` command and for nextpnr.
    flash : FlashChip, optional
        SPI flash that a layer may read its weights from.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    platform: str
    family: str
    device: str
    resources: Resources
    clock: Clock
    uart: Uart
    spi: Spi | None
    leds: tuple[Led, ...]
    extra_resources: tuple[str, ...]
    default_rate: float | None
    seed: int
    fill: float
    default_fill: float
    memory_register: bool
    synth_opts: str
    nextpnr_opts: str
    flash: FlashChip | None = None

    def make_platform(self) -> Any:
        """A fresh ``amaranth.build.Platform``, with ``extra_resources`` and ``spi`` added.

        Raises
        ------
        UserError
            If the class cannot be imported, or is one for another device.
        """
        module_name, _, class_name = self.platform.partition(":")
        try:
            platform = getattr(importlib.import_module(module_name), class_name)()
        except (ImportError, AttributeError) as error:
            raise UserError(f"board {self.name!r}: cannot import platform {self.platform!r} "
                            f"({error}); it is written module:Class") from error
        if platform.device != self.device:
            raise UserError(f"board {self.name!r}: device is {self.device!r}, but that of "
                            f"{self.platform} is {platform.device!r}")
        for attribute in self.extra_resources:
            if not hasattr(platform, attribute):
                raise UserError(f"board {self.name!r}: {self.platform} has no {attribute!r} "
                                f"(extra_resources)")
            platform.add_resources(getattr(platform, attribute))
        if self.spi is not None:
            platform.add_resources([self.spi.resource()])
        return platform


class _Table:
    """A TOML table that is read key by key; every problem goes into one list."""

    def __init__(self, data: Mapping[str, Any], where: str, problems: list[str]) -> None:
        self.data = dict(data)
        self.where = where
        self.problems = problems

    def take(self, key: str, kind: type, rule: str = "", ok: Any = lambda value: True,
             default: Any = None) -> Any:
        """The value of ``key``; a wrong or missing one is noted and ``kind()`` comes back."""
        value = self.data.pop(key, default)
        name = f"{self.where}{key}"
        if kind is float and type(value) is int:
            value = float(value)
        if value is None:
            self.problems.append(f"{name} is missing")
        elif type(value) is not kind:
            self.problems.append(f"{name} must be a {kind.__name__}, not {value!r}")
        elif not ok(value):
            self.problems.append(f"{name} must be {rule}, not {value!r}")
        else:
            return value
        return kind()

    def table(self, key: str) -> _Table:
        """The table under ``key``; empty, and noted, if there is none."""
        return _Table(self.take(key, dict), f"{self.where}{key}.", self.problems)

    def end(self) -> None:
        """Note every key that nobody took."""
        self.problems += [f"{self.where}{key} is not a key of a board file" for key in self.data]


def _count(value: int) -> bool:
    return 0 <= value < 1 << 31


def _share(value: float) -> bool:
    return 0 < value <= 1


def _positive(value: float) -> bool:
    return value > 0 and math.isfinite(value)


def _strings(value: list[Any]) -> bool:
    return all(isinstance(item, str) for item in value)


def _led(text: str) -> Led | None:
    match = _LED.fullmatch(text)
    return match and Led(resource=match["resource"], number=int(match["number"]),
                         subsignal=match["subsignal"])


def _flash(flash: _Table) -> FlashChip:
    size = flash.take("bytes", int, "65536 to 16777216: 24 bits of address",
                      lambda value: 1 << 16 <= value <= 1 << 24)
    return FlashChip(
        resource=flash.take("resource", str), number=flash.take("number", int, "0 or more", _count),
        address=flash.take("address", int, "a multiple of 65536 below bytes: what is erased at a "
                           "time", lambda value: 0 <= value < size and value % (1 << 16) == 0),
        bytes=size, read_mhz=flash.take("read_mhz", float, "a frequency in MHz", _positive),
        wake_us=flash.take("wake_us", float, "a time in us", _positive),
        program=tuple(flash.take(
            "program", list, 'a command such as ["iceprog", "-o", "{address}", "{file}"]',
            lambda value: _strings(value) and len(value) > 1 and "{file}" in value
            and any("{address}" in each for each in value))))


def _parse(name: str, data: Mapping[str, Any]) -> Board:
    problems: list[str] = []
    top = _Table(data, "", problems)
    family = top.take("family", str, f"one of {', '.join(_FAMILIES)}", _FAMILIES.__contains__)
    resources = top.table("resources")
    clock = top.table("clock")
    uart = top.table("uart")
    spi = top.table("spi") if "spi" in top.data else None
    leds = top.table("leds")
    build = top.table("build")
    pins = leds.take("pins", list, 'a list such as ["led:0", "rgb_led:0.r"]',
                     lambda value: _strings(value) and all(map(_led, value)))
    flash = top.table("flash") if "flash" in top.data else None
    fill = build.take("fill", float, "above 0 and at most 1", _share)
    board = Board(
        name=name,
        family=family,
        title=top.take("title", str),
        aliases=tuple(top.take("aliases", list, "a list of strings", _strings, [])),
        platform=top.take("platform", str, "module:Class",
                          re.compile(r"[\w.]+:\w+").fullmatch),
        device=top.take("device", str),
        extra_resources=tuple(top.take("extra_resources", list, "a list of strings",
                                       _strings, [])),
        resources=Resources(**{key: resources.take(key, int, "0 or more", _count) for key in
                               ("lut4", "ff", "bram", "bram_bits", "spram", "dsp")}),
        clock=Clock(
            resource=clock.take("resource", str),
            input_mhz=clock.take("input_mhz", float, "a frequency in MHz", _positive),
            pll=clock.take("pll", str, f"one of {', '.join(_PLLS)}", _PLLS.__contains__),
            default_mhz=clock.take("default_mhz", float, "a frequency in MHz", _positive)),
        uart=Uart(resource=uart.take("resource", str), number=uart.take("number", int, "0 or more",
                                                                        _count),
                  baud=uart.take("baud", int, "300 to 12000000",
                                 lambda value: 300 <= value <= 12_000_000),
                  usb=uart.take("usb", str, 'VID:PID or VID:PID:INTERFACE, such as "0403:6010:1"',
                                _USB.fullmatch, "")),
        spi=None if spi is None else Spi(
            connector=spi.take("connector", str, 'NAME:NUMBER, such as "pmod:0"',
                               _CONNECTOR.fullmatch) if "connector" in spi.data else "",
            **{pin: spi.take(pin, str, "the name of one pin", re.compile(r"\S+").fullmatch)
               for pin in ("cs", "copi", "cipo", "sck")},
            attributes=tuple(spi.take("attributes", dict, "strings and integers", lambda value: all(
                isinstance(each, str | int) for each in value.values()), {}).items())),
        leds=tuple(led for led in map(_led, pins) if led),
        default_rate=build.take("default_rate", float, "above 0", _positive)
        if "default_rate" in build.data else None,
        seed=build.take("seed", int, "0 or more", _count),
        fill=fill,
        default_fill=build.take("default_fill", float, "above 0 and at most 1", _share,
                                fill or 1.0),
        memory_register=build.take("memory_register", bool),
        synth_opts=build.take("synth_opts", str, default=""),
        nextpnr_opts=build.take("nextpnr_opts", str, default=""),
        flash=_flash(flash) if flash else None)
    optional = [table for table in (spi, flash) if table]
    for table in (top, resources, clock, uart, leds, build, *optional):
        table.end()
    if board.clock.pll == "pad" and family == "ecp5":
        problems.append("clock.pll must be core or none on ecp5, not 'pad'")
    if problems:
        raise UserError(f"board {name!r} has a wrong file:\n  " + "\n  ".join(problems))
    return board


def _folders() -> Iterator[Path]:
    package = Path(__file__).parent
    yield package.parent / "boards"     # in a checkout
    yield package / "boards"            # in an installed wheel


def paths() -> dict[str, Path]:
    """The file of every board that comes with flightrtl, by name."""
    found: dict[str, Path] = {}
    for folder in _folders():
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def names() -> list[str]:
    """Names of the boards that come with flightrtl, without aliases."""
    return sorted(paths())


def load(name: str | os.PathLike[str]) -> Board:
    """The board of that name or alias, or in the TOML file at that path.

    A text that ends in ``.toml`` or holds a path separator is a path.

    Raises
    ------
    UserError
        For a board that is not known, or a file that is missing or wrong.
    """
    if isinstance(name, os.PathLike) or name.endswith(".toml") or os.sep in name:
        return _read(Path(name))
    known = paths()
    if name in known:
        return _read(known[name])
    aliases = {alias: board for board in map(_read, known.values()) for alias in board.aliases}
    if name in aliases:
        return aliases[name]
    close = difflib.get_close_matches(name.lower(), [*known, *aliases], n=1)
    listed = ", ".join(sorted([*known, *aliases]))
    raise UserError(f"no board is called {name!r}"
                    + (f"; did you mean {close[0]!r}?" if close else "")
                    + f"\n  known boards: {listed}"
                    + "\n  a board of your own is a path to its .toml file")


def _read(path: Path) -> Board:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"board file {str(path)!r} does not exist; known boards: "
                        f"{', '.join(names())}") from None
    except OSError as error:
        raise UserError(f"board file {str(path)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"board file {str(path)!r} is not TOML: {error}") from error
    return _parse(path.stem, data)
