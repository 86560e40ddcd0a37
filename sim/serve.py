"""``python -m sim serve MODEL``: a virtual board behind a pseudo-terminal."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from flightrtl import boards, modelfile, planner
from flightrtl.blank import BlankDesign
from flightrtl.contents import Shape
from flightrtl.errors import UserError
from flightrtl.gateware import require_supported
from flightrtl.host.terminal import bar, colours
from flightrtl.loadable import LoadableModel, loadable
from flightrtl.progress import Progress
from flightrtl.protocol import require_loads

from . import compiler
from .board import VirtualBoard, compile_board

__all__ = ["Served", "Server", "main", "make_board", "serving"]

_CHUNK_SECONDS = 0.01   # between two looks at what the host has sent
_WAIT = 0.05            # for the host, while the board has nothing to do
_KEPT = 1 << 16         # bytes for a host that does not read, as much as an adapter may have


class Served(Protocol):
    """What can be put behind a pseudo-terminal: :class:`~sim.board.VirtualBoard` is one."""

    baud: int

    @property
    def seconds(self) -> float: ...
    @property
    def asleep(self) -> bool: ...
    def host_rate(self, baud: int) -> None: ...
    def send(self, data: bytes) -> None: ...
    def run(self, cycles: int) -> bytes: ...


class Server:
    """A board behind a pseudo-terminal, which programs open like a serial port.

    The line has the bit rate that the host has set on its end: with another one than the board's
    the two do not understand each other, as on a desk.

    Parameters
    ----------
    board : Served
        What is behind it.
    link : Path, optional
        A symbolic link to make to it, under a name that stays the same.
    real_time : bool
        Hold the board back where it is faster than a real one.

    Members
    -------
    path : str
        What a host opens.

    Raises
    ------
    UserError
        If the system has no pseudo-terminals, or ``link`` is something else already.
    """

    def __init__(self, board: Served, *, link: Path | None = None,
                 real_time: bool = False) -> None:
        try:
            import pty
            import termios
            import tty
        except ImportError:
            raise UserError("a virtual board needs pseudo-terminals, which this system does not "
                            "have; Linux, macOS and WSL do") from None
        self.board = board
        self.link = link
        self._real_time = real_time
        self._termios = termios
        # Both ends stay open, so that hosts come and go.
        self._ours, self._theirs = pty.openpty()
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        self.path = os.ttyname(self._theirs)
        self._before = self._rate = termios.tcgetattr(self._theirs)[5]
        self._waiting = b""
        if link is not None:
            if link.is_symlink():
                link.unlink()
            elif link.exists():
                raise UserError(f"{link} is there already, and no symbolic link: name another "
                                "--link")
            link.symlink_to(self.path)

    def close(self) -> None:
        """The board is gone, as if it had been unplugged."""
        if self.link is not None and self.link.is_symlink():
            with contextlib.suppress(OSError):
                self.link.unlink()
        for end in (self._ours, self._theirs):
            os.close(end)

    def _follow_rate(self) -> None:
        """Take over the bit rate of the host's end, if it is one that can be told."""
        rate = self._termios.tcgetattr(self._theirs)[5]
        if rate == self._rate:
            return
        self._rate = rate
        known = {getattr(self._termios, name): int(name[1:]) for name in dir(self._termios)
                 if name[0] == "B" and name[1:].isdecimal()}
        self.board.host_rate(known.get(rate) or self.board.baud)

    def serve(self, stop: threading.Event, watch: Callable[[], None] = lambda: None) -> None:
        """Move bytes until ``stop`` is set; ``watch`` is called now and then."""
        board = self.board
        chunk = 20_000
        lag = time.monotonic() - board.seconds
        while not stop.is_set():
            watch()
            idle = board.asleep and not self._waiting
            readable, writable, _ = select.select(
                [self._ours], [self._ours] if self._waiting else [], [], _WAIT if idle else 0)
            if writable:
                self._hand_over()
            if readable:
                with contextlib.suppress(BlockingIOError):
                    data = os.read(self._ours, 1 << 16)
                    self._follow_rate()
                    board.send(data)
                    if idle:
                        lag = time.monotonic() - board.seconds
            if board.asleep:
                continue
            started = time.perf_counter()
            data = board.run(chunk)
            if self._real_time:
                time.sleep(max(0.0, board.seconds + lag - time.monotonic()))
            else:
                speed = chunk / max(time.perf_counter() - started, 1e-6)
                chunk = min(max(round(speed * _CHUNK_SECONDS), 1_000), 1_000_000)
            if data:
                self._waiting = (self._waiting + data)[-_KEPT:]
                self._hand_over()

    def _hand_over(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._waiting = self._waiting[os.write(self._ours, self._waiting):]


@contextmanager
def serving(board: Served, *, link: Path | None = None) -> Iterator[Server]:
    """A server in a thread of its own, which ends with the ``with`` block."""
    server, stop = Server(board, link=link), threading.Event()
    thread = threading.Thread(target=server.serve, args=(stop,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        thread.join()
        server.close()


def make_board(model: str, board: str, *, baud: int | None, target_rate: float | None = None,
               flash: str | None = None, output: Path | None = None,
               progress: Progress) -> VirtualBoard:
    """A virtual board with a model on it; the arguments are those of the command line.

    With ``output``, weights can be loaded, and what :func:`flightrtl.host.weights.find_shape`
    needs for that is in that folder.
    """
    if baud is not None and not 300 <= baud <= 100_000_000:
        raise UserError(f"--baud must be 300 to 100,000,000, not {baud:,}")
    network, kind = modelfile.load(model), boards.load(board)
    require_supported(network, link=True)
    compiler.find()
    if output is not None:
        require_loads(network)
        network = loadable(network, kind.family, writable=True)
    plan = planner.plan(network, kind, target_rate=target_rate, flash=flash)
    if output is not None:
        assert isinstance(network, LoadableModel)
        output.mkdir(parents=True, exist_ok=True)
        BlankDesign(Shape.of(network, plan), kind.family, ()).save(output)
    progress.step(f"virtual {plan.board.name} with {network.name}")
    design = compile_board(network, plan, modelfile.sha256(model), baud=baud, progress=progress)
    progress.done()
    return VirtualBoard(design, network, plan, baud=baud)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sim serve", allow_abbrev=False,
        description="Simulate a board with a trained network on it, behind a pseudo-terminal that "
                    "behaves like the board's serial port.")
    parser.add_argument("model", metavar="MODEL",
                        help="bundled model, or the path of a model file")
    parser.add_argument("--board", default="ice40", metavar="NAME|FILE",
                        help="board to simulate (default: %(default)s)")
    parser.add_argument("--baud", type=int, metavar="N",
                        help="bit rate of the design, if not the board's; a fast one simulates "
                             "faster")
    parser.add_argument("--target-rate", type=float, metavar="N",
                        help="inferences per second that the network is planned for")
    parser.add_argument("--flash", metavar="LAYER",
                        help="as for a build: the layer whose weights are in the flash, or auto")
    parser.add_argument("--weights", choices=("fixed", "loadable"), default="fixed",
                        help="loadable: flightrtl.host load-weights puts other models of the same "
                             "shape on the board (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="with --weights loadable: folder for what load-weights must know of "
                             "the design (default: build/<board>/<model>-virtual)")
    parser.add_argument("--link", type=Path, metavar="PATH",
                        help="make a symbolic link to the port, for as long as it is there")
    parser.add_argument("--real-time", action="store_true",
                        help="no faster than a real board")
    parser.add_argument("--json", action="store_true",
                        help="print the port and the bit rate as JSON")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command; Ctrl-C is its end."""
    options = _parser().parse_args(arguments)
    progress = Progress()
    output = None
    if options.weights == "loadable":
        output = options.output or Path("build", boards.load(options.board).name,
                                        f"{modelfile.load(options.model).name}-virtual")
    elif options.output is not None:
        raise UserError("--output is for --weights loadable: ask for that too, or leave it out")
    board = make_board(options.model, options.board, baud=options.baud,
                       target_rate=options.target_rate, flash=options.flash, output=output,
                       progress=progress)
    server = Server(board, link=options.link, real_time=options.real_time)
    colour = colours(sys.stderr)
    try:
        shown = str(options.link or server.path)
        print(json.dumps({"port": shown, "baud": board.baud}) if options.json else shown,
              flush=True)
        progress.note(f"it listens at {board.baud:,} baud; Ctrl-C ends it:\n"
                      f"  python -m flightrtl.host classify IMAGE --port {shown}")
        progress.step("LEDs")

        def watch() -> None:
            progress.update(f"{bar(board.leds, len(board.board.leds), colour=colour)} "
                            f"class {board.winner}, {board.cycles:,} cycles")

        server.serve(threading.Event(), watch)
    except KeyboardInterrupt:
        progress.abandon()
        print("ended", file=sys.stderr)
    finally:
        server.close()
    return 0
