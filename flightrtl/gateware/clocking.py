"""Clock and reset of a board: a PLL, and a reset that outlasts the start of block RAM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from amaranth import ClockDomain, ClockSignal, Instance, Module, Signal
from amaranth.lib import io, wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import Out

from ..boards import Board
from ..errors import BuildError, UserError

__all__ = ["STARTUP_SECONDS", "ClockReset", "Pll", "StartupTimer", "solve", "solve_ecp5",
           "solve_ice40"]

STARTUP_SECONDS = 15e-6
"""How long the reset lasts once the clock is stable.

iCE40 block RAM reads as zeros for about 3 us after configuration, whatever the clock does
(https://github.com/YosysHQ/icestorm/issues/76); five times that is Amaranth's own margin.
"""

# Limits of the devices in MHz, as icepll and ecppll have them.
_ICE40_OUTPUT = (16, 275)
_ICE40_PFD = (10, 133)
_ICE40_VCO = (533, 1066)
_ECP5_OUTPUT = (10, 400)        # the PLL goes down to 3.125, with a VCO that ecppll cannot find
_ECP5_PFD = (Fraction(25, 8), 400)
_ECP5_VCO = (400, 800)
_ECP5_VCO_CENTRE = 600


@dataclass(frozen=True)
class Pll:
    """Settings of a PLL.

    Parameters
    ----------
    mhz : Fraction
        What comes out, MHz.
    vco_mhz : Fraction
        Its oscillator, MHz.
    reference, feedback, output : int
        Values of the three dividers. The phase detector compares ``input / reference``; on
        iCE40 ``vco = input / reference * feedback`` and ``output`` is a power of two, on ECP5
        ``vco = input / reference * feedback * output``.
    """

    mhz: Fraction
    vco_mhz: Fraction
    reference: int
    feedback: int
    output: int


def _within(value: Fraction, limits: tuple[Any, Any]) -> bool:
    return bool(limits[0] <= value <= limits[1])


def solve_ice40(input_mhz: float, target_mhz: float) -> Pll:
    """Settings of ``SB_PLL40_*`` (simple feedback) that come nearest to ``target_mhz``.

    Raises
    ------
    BuildError
        If the PLL cannot do it.
    """
    source, target = Fraction(input_mhz), Fraction(target_mhz)
    _check_output(target, _ICE40_OUTPUT, "iCE40")
    best = None
    for reference in range(1, 17):
        detector = source / reference
        if not _within(detector, _ICE40_PFD):
            continue
        for feedback in range(1, 129):
            vco = detector * feedback
            if not _within(vco, _ICE40_VCO):
                continue
            for exponent in range(1, 7):
                mhz = vco / (1 << exponent)
                if best is None or abs(mhz - target) < abs(best.mhz - target):
                    best = Pll(mhz, vco, reference, feedback, 1 << exponent)
    return _found(best, source, "iCE40", _ICE40_PFD)


def solve_ecp5(input_mhz: float, target_mhz: float) -> Pll:
    """Settings of ``EHXPLLL`` (feedback from its output) that come nearest to ``target_mhz``.

    Among settings equally near, the one whose oscillator is nearest the middle of its range.

    Raises
    ------
    BuildError
        If the PLL cannot do it.
    """
    source, target = Fraction(input_mhz), Fraction(target_mhz)
    _check_output(target, _ECP5_OUTPUT, "ECP5")
    best = None
    best_rank = None
    for reference in range(1, 129):
        detector = source / reference
        if not _within(detector, _ECP5_PFD):
            continue
        for feedback in range(1, 81):
            mhz = detector * feedback
            # The output divider does not change the output, so the best one is known.
            for output in {math.floor(_ECP5_VCO_CENTRE / mhz), math.ceil(_ECP5_VCO_CENTRE / mhz)}:
                vco = mhz * output
                if not 1 <= output <= 128 or not _within(vco, _ECP5_VCO):
                    continue
                rank = (abs(mhz - target), abs(vco - _ECP5_VCO_CENTRE))
                if best_rank is None or rank < best_rank:
                    best, best_rank = Pll(mhz, vco, reference, feedback, output), rank
    return _found(best, source, "ECP5", _ECP5_PFD)


def _check_output(target: Fraction, limits: tuple[int, int], family: str) -> None:
    if not _within(target, limits):
        raise BuildError(f"the PLL of {family} gives {limits[0]} to {limits[1]} MHz, "
                         f"not {float(target):g} MHz",
                         knob=f"ask for {limits[0]} to {limits[1]} MHz with --frequency")


def _found(best: Pll | None, source: Fraction, family: str, limits: tuple[Any, Any]) -> Pll:
    if best is None:
        raise BuildError(f"the PLL of {family} takes {float(limits[0]):g} to {limits[1]} MHz, "
                         f"not {float(source):g} MHz", knob="clock.input_mhz in the board file")
    return best


def solve(board: Board, target_mhz: float | None = None) -> Pll | None:
    """The PLL settings for a clock on a board; None where the oscillator is used as it is.

    Parameters
    ----------
    board : Board
        The board.
    target_mhz : float, optional
        Clock wanted, MHz; the board's default if not given. The nearest that the PLL can give
        is taken.

    Raises
    ------
    UserError
        For something that is not a frequency.
    BuildError
        If the board cannot produce it.
    """
    if target_mhz is None:
        target_mhz = board.clock.default_mhz
    if not (math.isfinite(target_mhz) and target_mhz > 0):
        raise UserError(f"the clock frequency must be above 0 MHz, not {target_mhz:g}")
    if target_mhz == board.clock.input_mhz:
        return None
    if board.clock.pll == "none":
        raise BuildError(f"board {board.name!r} has no PLL and runs at its oscillator's "
                         f"{board.clock.input_mhz:g} MHz, not {target_mhz:g} MHz",
                         knob=f"--frequency {board.clock.input_mhz:g}")
    return (solve_ice40 if board.family == "ice40" else solve_ecp5)(board.clock.input_mhz,
                                                                    target_mhz)


class StartupTimer(wiring.Component):
    """Counts out a number of cycles, in domain ``startup``, and stays done.

    Parameters
    ----------
    cycles : int
        At least so many cycles after the reset of ``startup`` (at most twice as many: it waits
        for one bit of a counter, which costs a logic cell a bit and no comparison).

    Members
    -------
    done : Out(1)
        High for ever after that. Comes straight from a flip-flop.
    """

    done: Signal

    def __init__(self, cycles: int) -> None:
        if cycles < 1:
            raise ValueError(f"cycles must be 1 or more, not {cycles}")
        self.bits = max(1, (cycles - 1).bit_length())
        super().__init__({"done": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = Signal(self.bits + 1)
        m.d.comb += self.done.eq(count[-1])
        with m.If(~self.done):
            m.d.startup += count.eq(count + 1)
        return m


class ClockReset(wiring.Component):
    """Drives the domain ``sync`` of a board: PLL, and reset until everything has settled.

    The reset of ``sync`` is held until the PLL has locked and :data:`STARTUP_SECONDS` have
    passed, and is released in step with the clock. nextpnr derives the constraint of the clock
    from that of the oscillator's pin by the PLL's dividers.

    The domain must be created by the design that instantiates this (``m.domains.sync =
    ClockDomain()``). In simulation (``platform`` is None) this is empty: the simulator drives
    the domain.

    Parameters
    ----------
    board : Board
        The board.
    clock_mhz : float
        Clock of ``sync``, MHz, see :func:`solve`.
    """

    def __init__(self, board: Board, clock_mhz: float) -> None:
        self.board = board
        self.pll = solve(board, clock_mhz)
        self.clock_mhz = float(self.pll.mhz) if self.pll else board.clock.input_mhz
        super().__init__({})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        if platform is None:
            return m
        pin = platform.request(self.board.clock.resource, dir="-")
        clock = Signal()
        locked = Signal()
        if self.pll is None:
            m.submodules.buffer = buffer = io.Buffer(io.Direction.Input, pin)
            m.d.comb += [clock.eq(buffer.i), locked.eq(1)]
        elif self.board.family == "ice40":
            self._ice40(m, pin, clock, locked)
        else:
            self._ecp5(m, pin, clock, locked)

        # The timer has a domain of its own, since that of `sync` is what it produces.
        m.domains.startup = ClockDomain(local=True)
        m.d.comb += [ClockSignal("startup").eq(clock), ClockSignal("sync").eq(clock)]
        m.submodules.lock = ResetSynchronizer(~locked, domain="startup")
        m.submodules.timer = timer = StartupTimer(math.ceil(STARTUP_SECONDS * self.clock_mhz * 1e6))
        m.submodules.release = ResetSynchronizer(~timer.done, domain="sync")
        return m

    def _ice40(self, m: Module, pin: Any, clock: Signal, locked: Signal) -> None:
        assert self.pll is not None
        detector = self.board.clock.input_mhz / self.pll.reference
        settings = {
            "p_FEEDBACK_PATH": "SIMPLE",
            "p_DIVR": self.pll.reference - 1,
            "p_DIVF": self.pll.feedback - 1,
            "p_DIVQ": self.pll.output.bit_length() - 1,
            # The loop filter's setting goes by the phase detector's frequency.
            "p_FILTER_RANGE": 1 + sum(detector >= edge for edge in (17, 26, 44, 66, 101)),
            "i_RESETB": 1,
            "i_BYPASS": 0,
            "o_PLLOUTGLOBAL": clock,
            "o_LOCK": locked,
        }
        if self.board.clock.pll == "pad":
            # This pin is the PLL's input; an ordinary buffer would take the PLL's place.
            m.submodules.pll = Instance("SB_PLL40_PAD", i_PACKAGEPIN=pin.io, **settings)
        else:
            m.submodules.buffer = buffer = io.Buffer(io.Direction.Input, pin)
            m.submodules.pll = Instance("SB_PLL40_CORE", i_REFERENCECLK=buffer.i, **settings)

    def _ecp5(self, m: Module, pin: Any, clock: Signal, locked: Signal) -> None:
        assert self.pll is not None
        m.submodules.buffer = buffer = io.Buffer(io.Direction.Input, pin)
        m.submodules.pll = Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKI=f"{self.board.clock.input_mhz:g}",
            a_FREQUENCY_PIN_CLKOP=f"{float(self.pll.mhz):g}",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA",
            p_OUTDIVIDER_MUXB="DIVB",
            p_OUTDIVIDER_MUXC="DIVC",
            p_OUTDIVIDER_MUXD="DIVD",
            p_CLKI_DIV=self.pll.reference,
            p_CLKFB_DIV=self.pll.feedback,
            p_CLKOP_DIV=self.pll.output,
            p_CLKOP_ENABLE="ENABLED",
            # Half the divider less one: no phase shift between input and output.
            p_CLKOP_CPHASE=self.pll.output // 2 - (self.pll.output > 1),
            p_CLKOP_FPHASE=0,
            p_FEEDBK_PATH="CLKOP",
            i_CLKI=buffer.i,
            i_CLKFB=clock,
            i_RST=0,
            i_STDBY=0,
            i_PHASESEL0=0,
            i_PHASESEL1=0,
            i_PHASEDIR=1,
            i_PHASESTEP=1,
            i_PHASELOADREG=1,
            i_PLLWAKESYNC=0,
            i_ENCLKOP=0,
            o_CLKOP=clock,
            o_LOCK=locked)
