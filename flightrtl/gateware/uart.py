"""A serial port: eight data bits, no parity, one stop bit, no flow control."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from ..formats import _integer

__all__ = ["MAX_BAUD_ERROR", "Uart", "UartReceiver", "UartTransmitter", "divisor"]

MAX_BAUD_ERROR = 0.02
"""How far the bit rate may be off.

At the middle of the stop bit, 9.5 bits after the start, each side may be wrong by up to half a
bit less what sampling costs; 2 % (0.19 bit) leaves as much to the other side.
"""

_MIN_DIVISOR = 4    # the receiver must find the middle of a bit to within a quarter of it
_MAX_DIVISOR = 1 << 20


def divisor(clock_mhz: float, baud: int) -> int:
    """Cycles per bit that come nearest to a bit rate.

    Raises
    ------
    ValueError
        If that is more than :data:`MAX_BAUD_ERROR` off, or outside 4 to 1,048,576.
    """
    cycles = clock_mhz * 1e6 / baud
    nearest = round(cycles)
    if not _MIN_DIVISOR <= nearest <= _MAX_DIVISOR:
        raise ValueError(f"{baud} baud is {cycles:.1f} cycles per bit at {clock_mhz:g} MHz; "
                         f"it must be {_MIN_DIVISOR} to {_MAX_DIVISOR}")
    if abs(nearest / cycles - 1) > MAX_BAUD_ERROR:
        raise ValueError(f"{baud} baud at {clock_mhz:g} MHz would be {nearest / cycles - 1:+.1%} "
                         f"off; {MAX_BAUD_ERROR:.0%} is allowed: take a lower rate or another "
                         f"clock")
    return nearest


class UartReceiver(wiring.Component):
    """Bytes from a serial line.

    A bit is sampled once, in its middle, as counted from the falling edge of the start bit. A
    start bit that is gone in its middle is taken for noise.

    A byte waits in the shift register itself, which saves a second one: it must be taken before
    the middle of the next start bit, a whole bit later at the earliest. Where that does not
    happen the next byte is dropped, and those after it until the line has been idle.

    Latency: a byte is valid 9.5 bits (and 4 cycles) after the start of its start bit.

    Parameters
    ----------
    divisor : int
        Cycles per bit, 4 to 1,048,576.

    Members
    -------
    rx : In(1)
        The line, asynchronous, 1 when idle.
    o : Out(stream) of 8 bits
        The bytes.
    framing_error : Out(1)
        Pulses when a stop bit is 0: a break, or another bit rate. The byte is dropped.
    overrun : Out(1)
        Pulses when a byte is dropped since the one before it has not been taken.
    """

    rx: Signal
    o: stream.Interface
    framing_error: Signal
    overrun: Signal

    def __init__(self, divisor: int) -> None:
        self.divisor = _integer(divisor, "divisor", _MIN_DIVISOR, _MAX_DIVISOR)
        super().__init__({
            "rx": In(1),
            "o": Out(stream.Signature(8)),
            "framing_error": Out(1),
            "overrun": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rx = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, rx, init=1)

        # Counts down to -1, whose sign bit is the comparison.
        counter = Signal(range(-1, self.divisor), reset_less=True)
        sample = Signal()
        busy = Signal()
        started = Signal()
        # Bits enter at the top. The 1 that starts there reaches the bottom with the last of them
        # and so tells that only the stop bit is left.
        shift = Signal(9, reset_less=True)
        m.d.comb += [
            sample.eq(busy & counter[-1]),
            self.framing_error.eq(sample & started & shift[0] & ~rx),
            self.overrun.eq(sample & ~started & ~rx & self.o.valid),
            self.o.payload.eq(shift[1:]),
        ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        m.d.sync += counter.eq(counter - 1)
        with m.If(~busy):
            m.d.sync += [
                counter.eq(self.divisor // 2 - 2),
                # A start bit is a falling edge: after a break, and after a byte that was dropped,
                # the line must first be idle.
                started.eq(rx),
                busy.eq(started & ~rx),
            ]
            with m.If(started & ~rx):
                m.d.sync += started.eq(0)
        with m.Elif(sample):
            m.d.sync += counter.eq(self.divisor - 2)
            with m.If(~started):
                with m.If(self.o.valid | rx):
                    m.d.sync += [busy.eq(0), started.eq(rx)]
                with m.Else():
                    m.d.sync += [started.eq(1), shift.eq(1 << 8)]
            with m.Elif(shift[0]):
                m.d.sync += [busy.eq(0), started.eq(rx), self.o.valid.eq(rx)]
            with m.Else():
                m.d.sync += shift.eq(Cat(shift[1:], rx))
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a serial line.

    Bits begin at the pulses of a counter that runs freely, so a byte starts up to one bit after
    it is offered. Throughput: a byte every ten bits.

    Parameters
    ----------
    divisor : int
        Cycles per bit, 4 to 1,048,576.

    Members
    -------
    i : In(stream) of 8 bits
        The bytes.
    tx : Out(1)
        The line, 1 when idle; comes straight from a flip-flop.
    """

    i: stream.Interface
    tx: Signal

    def __init__(self, divisor: int) -> None:
        self.divisor = _integer(divisor, "divisor", _MIN_DIVISOR, _MAX_DIVISOR)
        super().__init__({
            "i": In(stream.Signature(8)),
            "tx": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        counter = Signal(range(-1, self.divisor - 1))
        m.d.sync += counter.eq(counter - 1)
        tick = counter[-1]
        with m.If(tick):
            m.d.sync += counter.eq(self.divisor - 2)

        # The lowest bit is on the line. Zeros follow the stop bit, so that the stop bit, and the
        # idle line after it, is the state in which the others are all 0.
        shift = Signal(10, init=1)
        m.d.comb += [
            self.tx.eq(shift[0]),
            self.i.ready.eq(tick & ~shift[1:].any()),
        ]
        with m.If(tick):
            with m.If(shift[1:].any()):
                m.d.sync += shift.eq(shift >> 1)
            with m.Elif(self.i.valid):
                m.d.sync += shift.eq(Cat(0, self.i.payload, 1))
        return m


class Uart(wiring.Component):
    """Both ends of a serial port, as a transport of :class:`~flightrtl.top.SerialNetwork`.

    Cost, at 40 cycles per bit: 51 LUT4 on iCE40, 55 on ECP5 (Yosys 0.70, ``-abc9``).

    Parameters
    ----------
    divisor : int
        Cycles per bit, 4 to 1,048,576.

    Members
    -------
    rx : In(1)
        From the host, asynchronous, 1 when idle.
    tx : Out(1)
        To the host.
    o : Out(stream) of 8 bits
        Bytes from the host. See :class:`UartReceiver` for how soon they must be taken.
    lost : Out(1)
        Pulses when one of them was lost.
    i : In(stream) of 8 bits
        Bytes to the host.
    """

    rx: Signal
    tx: Signal
    o: stream.Interface
    lost: Signal
    i: stream.Interface

    def __init__(self, divisor: int) -> None:
        self.receiver = UartReceiver(divisor)
        self.transmitter = UartTransmitter(divisor)
        super().__init__({
            "rx": In(1),
            "tx": Out(1),
            "o": Out(stream.Signature(8)),
            "lost": Out(1),
            "i": In(stream.Signature(8)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.receiver = receiver = self.receiver
        m.submodules.transmitter = transmitter = self.transmitter
        wiring.connect(m, receiver.o, wiring.flipped(self.o))
        wiring.connect(m, wiring.flipped(self.i), transmitter.i)
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            self.lost.eq(receiver.overrun | receiver.framing_error),
        ]
        return m
