"""The host's end of a serial line: bytes to and from two pins of a simulated design."""

from __future__ import annotations

from fractions import Fraction

from flightrtl.errors import BuildError

from .simulation import Simulation

__all__ = ["SerialLine"]


class SerialLine:
    """Eight data bits, no parity, one stop bit, at the host's own pace.

    The clock of the design is the only measure of time. The host's bits begin where they are
    due, to the nearest cycle, so a bit rate that the design only comes near to is off here by
    as much as on a real line.

    Parameters
    ----------
    simulation : Simulation
        The design.
    cycles_per_bit : Fraction
        Cycles of the design's clock in one of the host's bits, 4 or more.
    rx, tx : str
        Its ports, as the design sees them.
    """

    def __init__(self, simulation: Simulation, cycles_per_bit: Fraction, *, rx: str = "rx",
                 tx: str = "tx") -> None:
        if cycles_per_bit < 4:
            raise ValueError(f"cycles_per_bit must be 4 or more, not {float(cycles_per_bit):g}")
        self.simulation = simulation
        self.bit = Fraction(cycles_per_bit)
        self.rx = rx
        self.tx = tx
        self.cycle = 0
        """Cycles simulated since this object was made."""
        simulation.set(rx, 1)

    def wait(self, cycles: int) -> None:
        """Let so many cycles pass."""
        self.simulation.tick(cycles)
        self.cycle += cycles

    def _until(self, when: Fraction) -> None:
        self.wait(max(round(when) - self.cycle, 0))

    def send(self, data: bytes) -> None:
        """Send bytes without a gap; returns in the middle of the last stop bit.

        Not at its end, since the design may answer from there on.
        """
        begin = Fraction(self.cycle)
        for byte in data:
            self._until(begin)
            for level in (0, *(byte >> n & 1 for n in range(8)), 1):
                self._until(begin)
                self.simulation.set(self.rx, level)
                begin += self.bit
        self._until(begin - self.bit / 2)

    def receive(self, patience: int) -> int:
        """The next byte.

        Parameters
        ----------
        patience : int
            Cycles to wait for its start bit.

        Raises
        ------
        BuildError
            If none comes, or its stop bit is 0.
        """
        # As a receiver in hardware does it: look several times per bit for the start.
        step = max(int(self.bit / 16), 1)
        end = self.cycle + patience
        while self.simulation.get(self.tx):
            if self.cycle >= end:
                raise BuildError(f"no byte came from pin {self.tx!r} in {patience:,} cycles")
            self.wait(step)
        begin = self.cycle - Fraction(step, 2)
        value = 0
        for n in range(10):
            self._until(begin + (n + Fraction(1, 2)) * self.bit)
            value |= self.simulation.get(self.tx) << n
        if value & 1 or not value >> 9:
            raise BuildError(f"what came from pin {self.tx!r} in cycle {round(begin):,} is no "
                             "byte: its start bit is 1 or its stop bit 0")
        return value >> 1 & 0xFF
