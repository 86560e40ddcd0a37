"""A board's bitstream, decoded back into logic and asked over its serial port.

What :mod:`flightrtl.build` leaves (``top.bin``) is all that goes in. Project IceStorm's
``icebox_vlog`` makes Verilog of it: look-up tables, flip-flops, block RAM with its content, PLL and
pins as they are configured, with nothing of the names and the structure of the source. Verilator
simulates that, and a host talks to the two pins of the serial port as ``docs/link.md`` says.

The PLL. Simulated time has no unit but the cycle, so the clock of the oscillator's pin is counted
as the clock behind the PLL (``sim/cells/ice40.v``). The settings in the bitstream then say how many
MHz that clock has, and so how many cycles one of the host's bits takes: with wrong settings the two
ends do not understand each other.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flightrtl import boards, flow, toolchain
from flightrtl.boards import Board
from flightrtl.cache import file_digest
from flightrtl.errors import BuildError, UserError
from flightrtl.formats import IntArray
from flightrtl.model import Model
from flightrtl.progress import Progress
from flightrtl.protocol import (
    Decoder,
    Frame,
    Identity,
    LinkError,
    Reply,
    Type,
    request,
)
from flightrtl.request import Request
from flightrtl.toolchain import Tool

from . import verilator
from .engine import Trace, Watch
from .netlist import library_cells
from .observed import Observed, Simulated
from .serial_line import SerialLine
from .simulation import Design, Port

__all__ = ["BitstreamEngine", "Chip", "decode", "find_decoder", "simulate"]

STARTUP_SECONDS = 50e-6
"""From configuration to the first request: the reset lasts 30 us at most."""

RAM_START_SECONDS = 3e-6
"""How long block RAM reads as zeros after configuration, see :mod:`flightrtl.gateware.clocking`."""

INSTALL = ("install Project IceStorm (on Debian and Ubuntu: apt install fpga-icestorm), or name "
           "its icebox_vlog with the environment variable ICEBOX_VLOG")

_PLL = re.compile(r"SB_PLL40_(?:CORE|PAD) #\(\n(.*?)\n\) ", re.DOTALL)
_SETTING = re.compile(r'\.(\w+)\((?:"(\w+)"|\d+\'b([01]+))\)')


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A decoded bitstream.

    Parameters
    ----------
    verilog : str
        Module ``chip`` with the ports ``clk``, ``rx``, ``tx``, ``led_0`` and so on.
    clock_mhz : Fraction
        Of its logic, as the PLL's settings have it.
    led_inverted : tuple of bool
        For each LED of the board, whether it is on when its pin is 0.
    """

    verilog: str
    clock_mhz: Fraction
    led_inverted: tuple[bool, ...]

    def compile(self, board: Board, progress: Progress | None = None) -> Design:
        """The chip for simulation; see :func:`sim.verilator.build`."""
        cells, _ = library_cells(board, toolchain.find("yosys"))

        def make(folder: Path) -> Sequence[Path]:
            path = folder / "chip.v"
            path.write_text(self.verilog, encoding="utf-8")
            return [path, *cells]

        leds = [Port(f"led_{n}", 1, "out") for n in range(len(self.led_inverted))]
        zeros = math.ceil(RAM_START_SECONDS * 1e6 * self.clock_mhz)
        return verilator.build(
            make, [self.verilog, *map(file_digest, cells)], "chip",
            [Port("rx", 1, "in"), Port("tx", 1, "out"), *leds],
            defines=["NO_ICE40_DEFAULT_ASSIGNMENTS", f"RAM_START_CYCLES={zeros}"],
            progress=progress)


class BitstreamEngine:
    """Simulates the bitstream of a model for a board; called like an :class:`~sim.engine.Engine`.

    The constructor builds the bitstream, as ``flightrtl.build`` does and to the same place, unless
    it is there already, and decodes it.

    Parameters
    ----------
    model, board : str
        Name or file, as for :class:`flightrtl.request.Request`.
    progress : Progress
        Where to tell what is being done.
    output : Path, optional
        Folder of the build; ``build/<board>/<model>`` by default.

    Raises
    ------
    UserError, BuildError
        If a tool is missing, the board's device cannot be decoded, or the build fails.
    """

    def __init__(self, model: str, board: str, progress: Progress, *,
                 output: Path | None = None) -> None:
        self.board = boards.load(board)
        find_decoder(self.board)
        verilator.check()
        request = Request(model=model, board=board, output=output)
        report = json.loads(flow.build(request, progress)[0])
        self.output = Path(report["bitstream"]).parent
        progress.step(f"decoding {report['bitstream']}")
        self.chip = decode(Path(report["bitstream"]), self.board, progress)
        progress.done(f"{float(self.chip.clock_mhz):g} MHz")
        if abs(float(self.chip.clock_mhz) - report["clock_mhz"]) > 0.001:
            raise BuildError(f"the PLL in the bitstream makes {float(self.chip.clock_mhz):g} MHz, "
                             f"and the design is made for {report['clock_mhz']:g} MHz")
        self._progress = progress

    def line_cycles(self, model: Model) -> int:
        """Cycles that the bytes of a request and of its answer take on the line, at least."""
        frame = Frame.of(model)
        return round(10 * (frame.request_size + frame.answer_size) * self.chip.clock_mhz
                     * 1_000_000 / self.board.uart.baud)

    def __call__(self, network: Simulated, images: IntArray, *, patience: int,
                 watch: Watch | None = None, observe: Collection[str] = ()) -> Trace:
        """Classify images over the serial port; of ``network`` only the model matters here."""
        if isinstance(network, Observed):
            raise ValueError("a bitstream's layers cannot be observed: take the network itself")
        start = time.perf_counter()
        design = self.chip.compile(self.board, self._progress)
        return simulate(design, self.chip, self.board, network.model, images, patience=patience,
                        watch=watch, build_seconds=time.perf_counter() - start)


def find_decoder(board: Board) -> Tool:
    """Project IceStorm's ``icebox_vlog``.

    Raises
    ------
    UserError
        If it is not installed, or the board's device is not one that it knows.
    """
    if board.family != "ice40":
        raise UserError(
            f"--level bitstream: board {board.name!r} has an {board.family.upper()}, and there is "
            "no open tool that makes logic of such a bitstream: --level netlist simulates the "
            "design before it is placed, and --board ice40 has a device that can be decoded")
    named = os.environ.get("ICEBOX_VLOG") or "icebox_vlog"
    command = shutil.which(named)
    if command is None:
        raise UserError(f"--level bitstream: {named} is needed to decode bitstreams, and was not "
                        f"found: {INSTALL}")
    return Tool("icebox_vlog", command, f"of {command}")


def decode(bitstream: Path, board: Board, progress: Progress | None = None) -> Chip:
    """Make logic of a bitstream.

    Raises
    ------
    UserError, BuildError
        If a tool is missing or fails, or the PLL is not set up in a way that is known here.
    """
    icebox, iceunpack = find_decoder(board), toolchain.find("iceunpack")
    platform: Any = board.make_platform()
    pins, inverted = _pins(board, platform)
    with tempfile.TemporaryDirectory(prefix="flightrtl-") as temporary:
        folder = Path(temporary)
        shutil.copyfile(bitstream, folder / "top.bin")
        (folder / "pins.pcf").write_text(
            "".join(f"set_io {name} {pin}\n" for name, pin in pins.items()), encoding="utf-8")
        toolchain.run(iceunpack, ["top.bin", "top.asc"], folder=folder, log="unpack.log",
                      progress=progress)
        # It writes to standard output, and so to the log.
        toolchain.run(icebox, ["-s", "-S", "-l", "-d", platform.package.lower(), "-p", "pins.pcf",
                               "top.asc"], folder=folder, log="chip.v")
        verilog = (folder / "chip.v").read_text(encoding="utf-8")
    if "module chip (" not in verilog:
        raise BuildError(f"{icebox.command} does not give a module `chip` for this bitstream")
    # Ports that are declared once more among the wires are an error to Verilator.
    verilog = re.sub(r"(?m)^wire .*?;$", partial(_without, names=pins), verilog)
    # The pad of a PLL is no longer a pin of its own to icebox_vlog: the PLL's input is loose.
    verilog = re.sub(r"\.PACKAGEPIN\(\w+\)", ".PACKAGEPIN(clk)", verilog)
    verilog = verilog.replace("SB_RAM40_4K #(", "STARTING_RAM40_4K #(")
    return Chip(verilog=verilog, clock_mhz=_clock_mhz(verilog, board),
                led_inverted=tuple(inverted))


def _without(wires: re.Match[str], names: Collection[str]) -> str:
    """A declaration of wires without some of them."""
    left = [name for name in re.split(r",\s*", wires[0][5:-1]) if name not in names]
    return f"wire {', '.join(left)};" if left else ""


def _pins(board: Board, platform: Any) -> tuple[dict[str, str], list[bool]]:
    """Pins of the package by our names for them, and which LEDs are inverted."""
    uart = platform.request(board.uart.resource, board.uart.number, dir="-")
    clock = platform.request(board.clock.resource, dir="-")
    requested: dict[tuple[str, int], Any] = {}
    ports = {"clk": clock, "rx": uart.rx, "tx": uart.tx}
    for n, led in enumerate(board.leds):
        key = led.resource, led.number
        if key not in requested:
            requested[key] = platform.request(*key, dir="-")
        ports[f"led_{n}"] = (getattr(requested[key], led.subsignal) if led.subsignal
                             else requested[key])
    if any((*uart.rx.invert, *uart.tx.invert)):
        raise BuildError(f"board {board.name!r} has an inverted serial port, which the simulated "
                         "host does not")
    return ({name: port.io.metadata[0].name for name, port in ports.items()},
            [port.invert[0] for name, port in ports.items() if name.startswith("led_")])


def _clock_mhz(verilog: str, board: Board) -> Fraction:
    """The clock that the PLL in decoded logic makes, or the oscillator's where there is none."""
    source = Fraction(board.clock.input_mhz)
    found = _PLL.findall(verilog)
    if not found:
        return source
    settings = {name: text or int(bits, 2) for name, text, bits in _SETTING.findall(found[0])}
    if len(found) > 1 or (settings["FEEDBACK_PATH"], settings["PLLOUT_SELECT"]) != ("SIMPLE",
                                                                                   "GENCLK"):
        raise BuildError(f"the bitstream has {len(found)} PLL with the settings {settings}; known "
                         "here is one with simple feedback and no phase shift")
    return source / (settings["DIVR"] + 1) * (settings["DIVF"] + 1) / (1 << settings["DIVQ"])


def simulate(design: Design, chip: Chip, board: Board, model: Model, images: IntArray, *,
             patience: int, watch: Watch | None = None, build_seconds: float = 0.0) -> Trace:
    """Ask a chip what it is, send images, one request after the other, and take the answers.

    Parameters
    ----------
    design : Design
        Of ``chip``.
    chip, board, model
        What it is the bitstream of.
    images : array of integers, (images, height, width, channels)
        To classify.
    patience : int
        Cycles to wait for an answer after the end of a request.
    watch : callable, optional
        Progress.
    build_seconds : float
        How long it took to make ``design``, for the trace.

    Returns
    -------
    Trace
        Its times are those of the serial line: from the start of a request to the end of the
        answer.

    Raises
    ------
    BuildError
        If there is no answer, one that is no result, the chip is for another model, or the LEDs do
        not show the class.
    """
    frame = Frame.of(model)
    simulation = design.simulation()
    line = SerialLine(simulation, chip.clock_mhz * 1_000_000 / board.uart.baud)
    bits = min(frame.winner_bits, len(chip.led_inverted))
    logits, winners, started, finished = [], [], [], []
    if watch is not None:
        watch(0, 0)
    begin = time.perf_counter()
    line.wait(math.ceil(STARTUP_SECONDS * 1e6 * chip.clock_mhz))
    try:
        identity = Identity.parse(_ask(line, request(Type.IDENTIFY, 0), patience))
    except (LinkError, BuildError) as error:
        raise BuildError(f"asked what it is: {error}") from None
    if not identity.may_be(model):
        raise BuildError(f"the bitstream is of another network than {model.name!r}")
    for number, image in enumerate(images):
        line.wait(2 * math.ceil(line.bit))
        started.append(line.cycle)
        try:
            reply = _ask(line, frame.request(number & 0xFF, image), patience)
            if (reply.type, reply.sequence) != (Type.CLASSIFY, number & 0xFF):
                raise LinkError(f"it answers request {reply.sequence} of type {reply.type}")
            winner, values = frame.parse(reply)
        except (LinkError, BuildError) as error:
            raise BuildError(f"image {number}: {error}") from None
        line.wait(2 * math.ceil(line.bit))
        finished.append(line.cycle)
        shown = sum((simulation.get(f"led_{n}") ^ chip.led_inverted[n]) << n for n in range(bits))
        if shown != winner & (1 << bits) - 1:
            raise BuildError(f"image {number}: the LEDs show {shown:0{bits}b}, and the answer is "
                             f"class {winner}")
        logits.append(values)
        winners.append(winner)
        if watch is not None:
            watch(line.cycle, number + 1)
    return Trace(
        logits=np.array(logits, np.int64).reshape(-1, frame.classes),
        winners=np.array(winners, np.int64), started=np.array(started, np.int64),
        finished=np.array(finished, np.int64), cycles=line.cycle,
        seconds=time.perf_counter() - begin, build_seconds=build_seconds)


def _ask(line: SerialLine, data: bytes, patience: int) -> Reply:
    """The reply to a request. What is damaged of it is not there."""
    decoder = Decoder()
    line.send(data)
    while True:
        for content in decoder.feed(bytes([line.receive(patience)])):
            return Reply.parse(content)
        if decoder.damaged:
            raise LinkError("the answer is damaged")
