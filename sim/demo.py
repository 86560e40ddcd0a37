"""``python -m sim demo``: the host's commands and a virtual board, shown and recorded."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flightrtl import samples
from flightrtl.errors import UserError
from flightrtl.files import atomic_write
from flightrtl.host import __main__ as host
from flightrtl.host.terminal import bar, colours
from flightrtl.model import Model
from flightrtl.progress import Progress

from .board import VirtualBoard
from .recording import svg
from .serve import Server, make_board

__all__ = ["main"]

_COLUMNS = 92
_SCALE = 4      # of the picture files against the samples


class _Terminal(io.StringIO):
    """Keeps what is written to it, and passes for a terminal with colours."""

    def isatty(self) -> bool:
        return True


def _pictures(model: Model, count: int, folder: Path) -> list[str]:
    """Sample images as files that look like a user's: larger, and black on white."""
    from PIL import Image

    dataset = str(model.provenance.get("dataset"))
    if dataset not in samples.names():
        raise UserError(f"no sample images of {dataset!r} come with flightrtl: take one of the "
                        "bundled models for the demo")
    images, labels = samples.load(dataset)
    files = []
    for number in range(count):
        # One class after the other, not in their order; then the second image of each, ...
        label = 7 * number % model.output.size
        chosen = images[labels == label][number // model.output.size]
        pixels = np.rint(chosen * (255 / min(2.0 ** -model.input.scale,
                                             model.input.format.max))).astype(np.uint8)
        picture: Any = Image.fromarray(255 - pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        picture = picture.resize([_SCALE * side for side in picture.size], Image.Resampling.BICUBIC)
        files.append(f"{number + 1}.png")
        picture.save(folder / files[-1])
    return files


class _Leds:
    """What the LEDs of a board have shown so far, each state once."""

    def __init__(self, board: VirtualBoard) -> None:
        self._board = board
        self.states = [board.winner]

    def __call__(self) -> None:
        if (winner := self._board.winner) != self.states[-1]:
            self.states.append(winner)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in a folder, with a terminal of a known width."""
    before, columns = os.getcwd(), os.environ.get("COLUMNS")
    os.chdir(folder)
    os.environ["COLUMNS"] = str(_COLUMNS)
    try:
        yield
    finally:
        os.chdir(before)
        del os.environ["COLUMNS"]
        if columns is not None:
            os.environ["COLUMNS"] = columns


def record(name: str, board_name: str, count: int, progress: Progress,
           baud: int | None = None) -> str:
    """Run the commands; the result is what a terminal shows of them."""
    board = make_board(name, board_name, baud=baud, progress=progress)
    terminal = _Terminal()
    with tempfile.TemporaryDirectory(prefix="flightrtl-") as temporary:
        folder = Path(temporary)
        files = _pictures(board.model, count, folder)
        with _inside(folder), contextlib.redirect_stdout(terminal):
            server, stop, leds = Server(board, link=Path("board")), threading.Event(), _Leds(board)
            thread = threading.Thread(target=server.serve, args=(stop, leds), daemon=True)
            thread.start()
            try:
                rate = f" --baud {baud}" if baud else ""
                print(f"$ python -m sim serve {name} --board {board_name}{rate} --link board &")
                for command in (["identify"], ["classify", *files]):
                    shown = [word if word not in files[1:] else "" for word in command]
                    print("$ python -m flightrtl.host", *filter(None, shown),
                          *(["..."] if len(files) > 1 and command[0] == "classify" else []),
                          "--port board")
                    extra = ["--baud", str(board.baud)] if board.baud <= 12_000_000 else []
                    host.main([*command, "--port", "board", *extra])
                    print()
            finally:
                stop.set()
                thread.join()
                server.close()
    many = len(board.board.leds)
    if many:
        shows = "  ".join(f"{bar(state, many, colour=True)} {state & (1 << many) - 1}"
                          for state in leds.states[1:] or leds.states)
        print(f"LEDs of the board, one class after the other:\n{shows}", file=terminal)
    return terminal.getvalue()


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m sim demo", allow_abbrev=False,
        description="Start a virtual board, let the host classify sample images on it, and show "
                    "them, their classes and the board's LEDs.")
    parser.add_argument("model", metavar="MODEL", nargs="?", default="mnist",
                        help="bundled model (default: %(default)s)")
    parser.add_argument("--board", default="ice40_hx8k_b_evn", metavar="NAME|FILE",
                        help="board to simulate (default: %(default)s)")
    parser.add_argument("--baud", type=int, metavar="N",
                        help="bit rate, if not the board's; a fast one simulates faster")
    parser.add_argument("--images", type=int, default=6, metavar="N",
                        help="how many (default: %(default)s)")
    parser.add_argument("--svg", type=Path, metavar="FILE",
                        help="write a picture of the terminal")
    options = parser.parse_args(arguments)
    if not 1 <= options.images <= 50:
        raise UserError(f"--images must be 1 to 50, not {options.images}")
    progress = Progress()
    text = record(options.model, options.board, options.images, progress, options.baud)
    if colours(sys.stdout) or not options.svg:
        print(text if colours(sys.stdout) else _plain(text), end="")
    if options.svg:
        with atomic_write(options.svg) as file:
            file.write(svg(text, columns=_COLUMNS))
        progress.note(f"{options.svg}: written")
    return 0


def _plain(text: str) -> str:
    """Without colours, and so without pictures."""
    import re
    lines = (re.sub(r"\x1b\[[\d;]*m", "", line) for line in text.split("\n"))
    return "\n".join(line for line in lines if "▀" not in line)
