"""A board without a board: the design that a bitstream holds, behind a simulated serial line."""

from __future__ import annotations

from fractions import Fraction

from flightrtl.boards import Board
from flightrtl.contents import loadable_shape
from flightrtl.errors import UserError
from flightrtl.model import Model
from flightrtl.planner import Plan
from flightrtl.progress import Progress
from flightrtl.protocol import Identity
from flightrtl.top import SerialNetwork, serial_port

from . import cxxrtl
from .duplex import DuplexLine
from .flash import with_flash
from .simulation import Design

__all__ = ["VirtualBoard", "compile_board"]


def compile_board(model: Model, plan: Plan, sha256: str, *, baud: int | None = None,
                  progress: Progress | None = None) -> Design:
    """The gateware of :class:`~flightrtl.top.SerialNetwork` as compiled code.

    Parameters
    ----------
    model, plan : Model, Plan
        The network and its foldings for a board. Weights can be loaded if it is a writable
        :class:`~flightrtl.loadable.LoadableModel`.
    sha256 : str
        Of the model's file: what the board says of itself.
    baud : int, optional
        Bit rate, if not the board's. A simulated line may be much faster than a real one.
    progress : Progress, optional
        Told what is going on.
    """
    design = SerialNetwork(model, plan, serial_port(plan.clock_mhz, baud or plan.board.uart.baud),
                           identity=Identity.of(model, sha256,
                                                design=loadable_shape(model, plan)))
    return cxxrtl.build(with_flash(design), progress=progress)


class VirtualBoard:
    """Bytes to and from the pins of a simulated design, which has its own time.

    Time passes only in :meth:`run`, and no faster than the design is simulated, except that a
    design with nothing to do is not simulated at all.

    Parameters
    ----------
    design : Design
        From :func:`compile_board`.
    model, plan : Model, Plan
        The network, the clock, and how long an image may take.
    baud : int, optional
        Its bit rate, if not the board's.

    Members
    -------
    model, board : Model, Board
        What it is.
    baud : int
        Bits per second of the design.
    """

    def __init__(self, design: Design, model: Model, plan: Plan, *,
                 baud: int | None = None) -> None:
        self.model = model
        self.board: Board = plan.board
        self.baud = baud or plan.board.uart.baud
        self.clock_hz = Fraction(round(plan.clock_mhz * 1_000_000))
        self._simulation = design.simulation()
        self._line = DuplexLine(self._simulation, self.clock_hz / self.baud)
        # A silence of so long means that the design waits for the host.
        # Between the two, the image goes from the link's buffer to the network: 2 cycles a value.
        self._patience = (2 * (plan.latency_cycles + 2 * model.input.size)
                          + round(40 * self.clock_hz / self.baud))
        self._asleep = True

    @property
    def seconds(self) -> float:
        """Time of the board."""
        return float(self._line.cycle / self.clock_hz)

    @property
    def cycles(self) -> int:
        """The same in cycles of its clock."""
        return self._line.cycle

    @property
    def asleep(self) -> bool:
        """Whether nothing will happen until the host sends something."""
        return self._asleep

    @property
    def winner(self) -> int:
        """The class of the last image, as the LEDs show it."""
        return self._simulation.get("winner")

    @property
    def leds(self) -> int:
        """Which LEDs are on: a bit for each."""
        return self.winner & (1 << len(self.board.leds)) - 1

    @property
    def damaged(self) -> int:
        """Bytes of the design that had no stop bit for the host: another bit rate."""
        return self._line.framing_errors

    def host_rate(self, baud: int) -> None:
        """The host sends and listens at another bit rate from now on."""
        try:
            self._line.set_bit(self.clock_hz / baud)
        except ValueError:
            raise UserError(f"{baud:,} baud are too fast for a clock of "
                            f"{float(self.clock_hz / 1_000_000):g} MHz") from None

    def send(self, data: bytes) -> None:
        """Bytes from the host, sent as the line takes them."""
        if data:
            self._line.send(data)
            self._asleep = False

    def run(self, cycles: int, *, stop: int | None = None) -> bytes:
        """Let time pass, and return what the design sends.

        Parameters
        ----------
        cycles : int
            At most; it returns earlier when ``stop`` has come.
        stop : int, optional
            A byte.
        """
        before = self._line.cycle
        data = b""
        if not self._asleep:
            data = self._line.run(cycles, stop=stop, patience=self._patience)
            self._asleep = not data and self._line.idle >= self._patience
        left = cycles - (self._line.cycle - before)
        if self._asleep and left > 0:
            self._line.skip(left)
        return data
