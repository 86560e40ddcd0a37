"""A whole design: a network behind a serial port, with the class on the LEDs of a board."""

from __future__ import annotations

from typing import Any

from amaranth import ClockDomain, Module, Signal
from amaranth.lib import io, wiring
from amaranth.lib.wiring import In, Out

from .boards import Board, Led
from .errors import BuildError
from .gateware.clocking import ClockReset
from .gateware.link import Frame, Link
from .gateware.network import Network
from .gateware.uart import UartReceiver, UartTransmitter, divisor
from .model import Model
from .planner.plan import Plan

__all__ = ["SerialNetwork", "Top"]


class SerialNetwork(wiring.Component):
    """A network that a host talks to over a serial line, as ``docs/link.md`` describes.

    The line has no flow control. None is needed: the constructor refuses a network that needs
    longer for an image than the line does, and the row buffers take in pixels while the network
    computes. A byte that is lost all the same makes the request too short, which the link answers
    with an error and never with a result.

    Parameters
    ----------
    model : Model
        The network.
    plan : Plan
        Its foldings and clock.
    baud : int
        Bits per second on the line.

    Members
    -------
    rx : In(1)
        From the host, asynchronous, 1 when idle.
    tx : Out(1)
        To the host.
    winner : Out(unsigned)
        Class of the last image, 0 at first.

    Raises
    ------
    BuildError
        If the clock does not give this bit rate, or the line would be faster than the network.
    """

    rx: Signal
    tx: Signal
    winner: Signal

    def __init__(self, model: Model, plan: Plan, baud: int) -> None:
        self.frame = Frame.of(model)
        self.baud = baud
        try:
            self.divisor = divisor(plan.clock_mhz, baud)
        except ValueError as error:
            raise BuildError(str(error), knob="baud in the board file, or --frequency") from error
        line_cycles = 10 * self.divisor * self.frame.request_size
        if line_cycles < plan.cycles_per_inference:
            raise BuildError(
                f"an image arrives in {line_cycles} cycles at {baud} baud, but the network needs "
                f"{plan.cycles_per_inference}",
                layer=plan.slowest.name,
                knob=f"baud in the board file, at most "
                     f"{baud * line_cycles // plan.cycles_per_inference}")
        self.link = Link(self.frame, baud=baud)
        self.network = Network(model, plan.foldings, memory_register=plan.board.memory_register,
                               queues=plan.queues)
        super().__init__({
            "rx": In(1),
            "tx": Out(1),
            "winner": Out(self.frame.winner_bits),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        m.submodules.link = self.link
        m.submodules.network = self.network
        wiring.connect(m, receiver.o, self.link.rx)
        wiring.connect(m, self.link.tx, transmitter.i)
        wiring.connect(m, self.link.image, self.network.i)
        wiring.connect(m, self.network.o, self.link.result)
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            self.link.rx_bit.eq(receiver.bit),
            self.link.rx_bit_valid.eq(receiver.bit_valid),
            self.link.tx_bit.eq(transmitter.bit),
            self.link.tx_bit_valid.eq(transmitter.bit_valid),
            self.link.tick.eq(transmitter.tick),
            self.winner.eq(self.link.winner),
        ]
        return m


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
    """

    def __init__(self, model: Model, plan: Plan, board: Board) -> None:
        self.board = board
        self.clocking = ClockReset(board, plan.clock_mhz)
        self.system = SerialNetwork(model, plan, board.uart.baud)
        super().__init__({})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.clocking = self.clocking
        m.submodules.system = self.system

        uart = self.board.uart
        pins = platform.request(uart.resource, uart.number, dir="-")
        m.submodules.rx = rx = io.Buffer(io.Direction.Input, pins.rx)
        m.submodules.tx = tx = io.Buffer(io.Direction.Output, pins.tx)
        m.d.comb += [self.system.rx.eq(rx.i), tx.o.eq(self.system.tx)]

        requested: dict[tuple[str, int], Any] = {}
        leds = Signal(len(self.board.leds))
        m.d.comb += leds.eq(self.system.winner)
        for number, led in enumerate(self.board.leds):
            buffer = io.Buffer(io.Direction.Output, self._port(platform, led, requested))
            m.submodules[f"led_{number}"] = buffer
            m.d.comb += buffer.o.eq(leds[number])
        return m

    @staticmethod
    def _port(platform: Any, led: Led, requested: dict[tuple[str, int], Any]) -> Any:
        key = led.resource, led.number
        if key not in requested:
            requested[key] = platform.request(*key, dir="-")
        return getattr(requested[key], led.subsignal) if led.subsignal else requested[key]
