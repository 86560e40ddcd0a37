# amaranth: UnusedElaboratable=no
"""The host's end of a serial line in compiled code, against the gateware's receiver and sender."""

from fractions import Fraction

import pytest
from amaranth import Module, Signal
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out

from flightrtl.gateware.uart import UartReceiver, UartTransmitter
from sim import compiler, cxxrtl
from sim.duplex import DuplexLine

DIVISOR = 10


class Echo(wiring.Component):
    """Sends back what it receives, from a queue."""

    rx: Signal
    tx: Signal

    def __init__(self):
        super().__init__({"rx": In(1), "tx": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(DIVISOR)
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=8, depth=64)
        m.submodules.transmitter = transmitter = UartTransmitter(DIVISOR)
        wiring.connect(m, receiver.o, queue.w_stream)
        wiring.connect(m, queue.r_stream, transmitter.i)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx)]
        return m


@pytest.fixture(scope="module")
def design():
    if compiler.search() is None:
        pytest.skip(compiler.INSTALL)
    return cxxrtl.build(Echo())


def echo(line, data):
    line.send(data)
    found = b""
    while part := line.run(100_000, patience=1000):
        found += part
    return found


@pytest.mark.parametrize("rate", [1.0, 0.98, 1.015])
def test_both_directions_at_once(design, rate):
    """The host's bits are a little shorter or longer than the design's, too."""
    data = bytes(range(256)) if rate >= 1 else bytes(range(0, 256, 5))
    line = DuplexLine(design.simulation(), Fraction(DIVISOR) * Fraction(rate))
    assert echo(line, data) == data
    # The answer runs along with the request: its last byte is a byte and a little behind.
    assert 10 * len(data) * DIVISOR * rate < line.cycle - line.idle < (
        10 * len(data) * DIVISOR * max(rate, 1) + 30 * DIVISOR)
    assert line.framing_errors == 0
    assert line.sending == 0


def test_it_returns_after_a_byte_or_a_time(design):
    line = DuplexLine(design.simulation(), DIVISOR)
    line.send(b"one\ntwo\n")
    assert line.run(100_000, stop=10) == b"one\n"
    assert line.idle == 0
    assert line.run(100_000, stop=10) == b"two\n"
    before = line.cycle
    assert line.run(333) == b""
    assert line.cycle == before + 333
    line.skip(1000)
    assert line.cycle == before + 1333
    assert line.idle >= 1333
    assert echo(line, b"again") == b"again"


def test_bytes_that_are_put_behind(design):
    line = DuplexLine(design.simulation(), DIVISOR)
    found = b""
    for byte in b"hello world":
        line.send(bytes([byte]))
        found += line.run(37)
    while part := line.run(10_000, patience=1000):
        found += part
    assert found == b"hello world"


def test_another_rate_gives_rubbish(design):
    line = DuplexLine(design.simulation(), DIVISOR)
    line.set_bit(Fraction(115, 10))
    assert echo(line, bytes(range(60, 90))) != bytes(range(60, 90))
    line.run(1000)
    line.set_bit(DIVISOR)
    assert echo(line, b"right") == b"right"
    with pytest.raises(ValueError, match="cycles_per_bit must be 4 or more"):
        line.set_bit(3)
