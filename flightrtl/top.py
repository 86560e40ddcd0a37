"""A whole design: a network behind a line to a host, with the class on the LEDs of a board."""

from __future__ import annotations

from typing import Any

from amaranth import ClockDomain, Const, Instance, Module, ResetInserter, Signal
from amaranth.build.res import ResourceError
from amaranth.lib import io, wiring
from amaranth.lib.wiring import In, Out

from . import boards
from .boards import Board, Led, Spi
from .errors import BuildError, UserError
from .gateware.clocking import ClockReset
from .gateware.flash import FlashSignature
from .gateware.link import Link
from .gateware.loadablestream import LoadableStream, MemoryContents
from .gateware.network import Network
from .gateware.spi import CYCLES_PER_BIT, SpiPeripheral
from .gateware.uart import Uart, divisor
from .model import Model
from .planner.plan import Plan
from .protocol import Frame, Identity

__all__ = ["LINKS", "SerialNetwork", "Top", "link_report", "require_link", "serial_port"]

LINKS = ("uart", "spi")
"""Lines to a host that a :class:`Top` can have."""


class SerialNetwork(wiring.Component):
    """A network that a host talks to over a line, as ``docs/link.md`` describes.

    Parameters
    ----------
    model : Model
        The network.
    plan : Plan
        Its foldings and clock.
    transport : wiring.Component
        What makes bytes of a line, and the reverse: a :class:`~flightrtl.gateware.uart.Uart` or a
        :class:`~flightrtl.gateware.spi.SpiPeripheral`, for example. It has the streams ``o`` (from
        the host) and ``i`` (to the host), ``lost``, and the line's pins.
    identity : Identity, optional
        What the host is told; by default that of a model without a file. Of a writable model, one
        that says so.

    Members
    -------
    winner : Out(unsigned)
        Class of the last image, 0 at first.
    flash : Out(FlashSignature)
        If a layer's weights are in a flash: to and from it.
    others
        The pins of ``transport``.
    """

    winner: Signal
    flash: Any

    def __init__(self, model: Model, plan: Plan, transport: wiring.Component, *,
                 identity: Identity | None = None) -> None:
        self.frame = Frame.of(model)
        self.transport: Any = transport
        self.link = Link(self.frame, identity or Identity.of(model, ""),
                         register=plan.board.memory_register)
        self.network = Network(model, plan.foldings, memory_register=plan.board.memory_register,
                               queues=plan.queues)
        if self.network.writable != self.link.responder.identity.loadable:
            raise ValueError("the identity must say whether weights can be loaded: they can if the "
                             "network is writable")
        self.pins = {name: member for name, member in transport.signature.members.items()
                     if name not in ("i", "o", "lost")}
        super().__init__({
            **self.pins, "winner": Out(self.frame.winner_bits),
            **({"flash": Out(FlashSignature())} if self.network.flashed else {})})

    @property
    def memories(self) -> list[LoadableStream | MemoryContents]:
        """What depends on the model, where that can be replaced: the network's, the identity."""
        network = self.network.memories
        return [*network, self.link.responder.memory] if network else []

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.transport = transport = self.transport
        m.submodules.link = link = self.link
        if self.network.writable:
            # No word of the old weights stays anywhere, nor a part of an image.
            m.submodules.network = ResetInserter(link.loading)(self.network)
            wiring.connect(m, link.write, self.network.write)
        else:
            m.submodules.network = self.network
        wiring.connect(m, transport.o, link.i)
        wiring.connect(m, link.o, transport.i)
        wiring.connect(m, link.image, self.network.i)
        wiring.connect(m, self.network.o, link.result)
        if self.network.flashed:
            wiring.connect(m, self.network.flash, wiring.flipped(self.flash))
        m.d.comb += [link.lost.eq(transport.lost), self.winner.eq(link.winner)]
        for name, member in self.pins.items():
            inside, outside = getattr(transport, name), getattr(self, name)
            m.d.comb += inside.eq(outside) if member.flow == In else outside.eq(inside)
        return m


def serial_port(clock_mhz: float, baud: int) -> Uart:
    """A serial port of a bit rate.

    Raises
    ------
    BuildError
        If the clock does not give it.
    """
    try:
        return Uart(divisor(clock_mhz, baud))
    except ValueError as error:
        raise BuildError(str(error), knob="baud in the board file, or --frequency") from error


def require_link(board: Board, link: str) -> None:
    """Raise :class:`UserError` unless a board has the pins of a link of :data:`LINKS`."""
    if link not in LINKS:
        raise ValueError(f"link must be one of {', '.join(LINKS)}, not {link!r}")
    if link == "spi" and board.spi is None:
        having = [name for name in boards.names() if boards.load(name).spi is not None]
        raise UserError(
            f"the file of board {board.name!r} names no pins for SPI: leave out --link spi, or "
            "copy the file, add a section [spi] to it (docs/boards.md), and give its path\n"
            f"  boards that have one: {', '.join(having)}")


def link_report(board: Board, clock_mhz: float, link: str) -> dict[str, Any]:
    """What a report says of a link."""
    if link == "spi":
        return {"kind": "spi", "max_sck_mhz": round(clock_mhz / CYCLES_PER_BIT, 6)}
    return {"kind": "uart", "baud": board.uart.baud}


class Top(wiring.Component):
    """The design for a board: clock, reset and pins around a :class:`SerialNetwork`.

    The LEDs show the class in binary, least significant bit on the first LED of the board file,
    as far as there are LEDs; LEDs beyond the class' bits stay dark.

    Parameters
    ----------
    model : Model
        The network.
    plan : Plan
        Its foldings and clock.
    board : Board
        The board.
    identity : Identity, optional
        What the host is told; by default that of a model without a file.
    link : {"uart", "spi"}
        The line to the host.

    Raises
    ------
    BuildError
        If the clock does not give the board's bit rate.
    UserError
        If the board has no such line.
    """

    def __init__(self, model: Model, plan: Plan, board: Board, *,
                 identity: Identity | None = None, link: str = "uart") -> None:
        require_link(board, link)
        self.board = board
        self.spi = board.spi if link == "spi" else None
        self.clocking = ClockReset(board, plan.clock_mhz)
        transport = SpiPeripheral() if self.spi else serial_port(plan.clock_mhz, board.uart.baud)
        self.system: Any = SerialNetwork(model, plan, transport, identity=identity)
        super().__init__({})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.clocking = self.clocking
        m.submodules.system = self.system

        if self.spi is not None:
            self._connect_spi(m, platform, self.spi)
        else:
            uart = self.board.uart
            pins = platform.request(uart.resource, uart.number, dir="-")
            m.submodules.rx = rx = io.Buffer(io.Direction.Input, pins.rx)
            m.submodules.tx = tx = io.Buffer(io.Direction.Output, pins.tx)
            m.d.comb += [self.system.rx.eq(rx.i), tx.o.eq(self.system.tx)]

        if self.system.network.flashed:
            self._connect_flash(m, platform)

        requested: dict[tuple[str, int], Any] = {}
        leds = Signal(len(self.board.leds))
        m.d.comb += leds.eq(self.system.winner)
        for number, led in enumerate(self.board.leds):
            buffer = io.Buffer(io.Direction.Output, self._port(platform, led, requested))
            m.submodules[f"led_{number}"] = buffer
            m.d.comb += buffer.o.eq(leds[number])
        return m

    def _connect_spi(self, m: Module, platform: Any, spi: Spi) -> None:
        try:
            pins = platform.request(spi.RESOURCE, 0, dir="-")
        except (NameError, ResourceError) as error:     # no such connector or pin; or taken
            raise UserError(f"board {self.board.name!r} has not the pins that [spi] names in its "
                            f"file: {error}") from error
        for name, port in (("sck", pins.clk), ("copi", pins.copi), ("cs", pins.cs)):
            m.submodules[name] = buffer = io.Buffer(io.Direction.Input, port)
            m.d.comb += getattr(self.system, name).eq(buffer.i)
        m.submodules.cipo = cipo = io.Buffer(io.Direction.Output, pins.cipo)
        m.d.comb += [cipo.o.eq(self.system.cipo), cipo.oe.eq(self.system.cipo_oe)]

    def _connect_flash(self, m: Module, platform: Any) -> None:
        chip, flash = self.board.flash, self.system.flash
        assert chip is not None         # the planner has asked for it
        pins = platform.request(chip.resource, chip.number, dir="-")
        outputs: dict[str, Any] = {"cs": flash.select, "copi": flash.data}
        if hasattr(pins, "clk"):
            outputs["clk"] = flash.clock
        else:   # on ECP5 it is the pin of the configuration's clock, which has no other name
            m.submodules.flash_clk = Instance("USRMCLK", i_USRMCLKI=flash.clock,
                                              i_USRMCLKTS=Const(0))
        # Neither protected nor held: their pins are active low, as the platform knows.
        outputs |= {name: Const(0) for name in ("wp", "hold") if hasattr(pins, name)}
        for name, value in outputs.items():
            m.submodules[f"flash_{name}"] = buffer = io.Buffer(io.Direction.Output,
                                                               getattr(pins, name))
            m.d.comb += buffer.o.eq(value)
        m.submodules.flash_cipo = cipo = io.Buffer(io.Direction.Input, pins.cipo)
        m.d.comb += flash.q.eq(cipo.i)

    @staticmethod
    def _port(platform: Any, led: Led, requested: dict[tuple[str, int], Any]) -> Any:
        key = led.resource, led.number
        if key not in requested:
            requested[key] = platform.request(*key, dir="-")
        return getattr(requested[key], led.subsignal) if led.subsignal else requested[key]
