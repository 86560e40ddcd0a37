"""Waveforms of one image: VCD, which every viewer reads, or FST, GTKWave's compact format.

Both come from Amaranth's own simulator, which needs no compiler and knows the signals by the names
and the hierarchy of the source, with the fields of structures: ``bench.top.conv1.array``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from flightrtl.errors import BuildError, UserError
from flightrtl.files import atomic_path
from flightrtl.formats import IntArray
from flightrtl.gateware import Network
from flightrtl.model import Model
from flightrtl.planner import Plan
from flightrtl.progress import Progress

from .amaranth_engine import simulate
from .engine import Watch
from .flash import Flashed, with_flash

__all__ = ["FORMATS", "check_path", "record", "record_image"]

FORMATS = ("vcd", "fst")


def check_path(path: Path, form: str) -> None:
    """See early that a waveform can be written.

    Raises
    ------
    UserError
        If the folder is not there, or the package that the format takes.
    """
    if path.is_dir():
        raise UserError(f"--{form} {path}: is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UserError(f"--{form} {path}: there is no folder {path.parent}: make it first")
    if form == "fst":
        _library()


def record(network: Network | Flashed, image: IntArray, path: Path, *, form: str, period: float,
           patience: int, watch: Watch | None = None) -> BuildError | None:
    """Simulate one image from reset and write what every signal does meanwhile.

    Parameters
    ----------
    network : Network or Flashed
        The gateware.
    image : array of integers, (height, width, channels)
        The image.
    path : Path
        The file, which is there when it is complete.
    form : {"vcd", "fst"}
        Format.
    period : float
        Clock period, seconds.
    patience, watch
        As for an engine.

    Returns
    -------
    BuildError or None
        Why the simulation broke off; the waveform ends there.
    """
    failure = None
    with atomic_path(path) as temporary, _sink(temporary, form) as sink:
        try:
            simulate(network, image[None], patience=patience, watch=watch, waveform=sink,
                     period=period)
        except BuildError as error:
            failure = error
    return failure


def record_image(plan: Plan, model: Model, images: IntArray, number: int, path: Path, form: str,
                 progress: Progress) -> None:
    """Record one of some images for the command line, with progress.

    Parameters
    ----------
    plan : Plan
        Of the network, and with its clock.
    model : Model
        The network.
    images : array of integers, (images, height, width, channels)
        All of them.
    number : int
        The one to record.
    path, form
        As for :func:`record`.
    progress : Progress
        Where to tell.
    """
    network = with_flash(Network(model, plan.foldings, queues=plan.queues,
                                 memory_register=plan.board.memory_register))
    progress.step(f"recording image {number} of {len(images):,} in {path}, "
                  f"{plan.latency_cycles:,} cycles from reset")

    def watch(cycles: int, finished: int) -> None:
        progress.update(f"{cycles:,} cycles")

    failure = record(network, images[number], path, form=form, period=1e-6 / plan.clock_mhz,
                     patience=4 * plan.latency_cycles, watch=watch)
    size = path.stat().st_size / 1e6
    progress.done(f"{size:,.1f} MB" + (f"; it ends where {failure}" if failure else ""))


class _Sink:
    """Where Amaranth's writer of VCD writes to: a text file, as far as it needs one.

    It writes the whole header in one go, and then one or two whole lines at a time.
    """

    def __init__(self) -> None:
        self._begun = False

    def write(self, text: str) -> int:
        """Take text from the writer."""
        if self._begun:
            self.changes(text)
        else:
            self._begun = True
            self.header(text)
        return len(text)

    def header(self, text: str) -> None:
        """Take all declarations."""
        raise NotImplementedError

    def changes(self, text: str) -> None:
        """Take whole lines that say what changes."""
        raise NotImplementedError

    def flush(self) -> None:
        """Do nothing; the file is complete when it is closed."""

    def close(self) -> None:
        """Do nothing; whoever made it closes it."""


class _Vcd(_Sink):
    """A VCD file."""

    def __init__(self, file: IO[str]) -> None:
        super().__init__()
        self._file = file

    def header(self, text: str) -> None:
        # Amaranth's own names begin with `$`, and must be escaped to be no keywords.
        self._file.write(re.sub(r"^(\$var \S+ \d+ \S+ )(?=\$)", r"\1\\", text, flags=re.M))

    def changes(self, text: str) -> None:
        self._file.write(text)


class _Fst(_Sink):
    """An FST file, written by the library that GTKWave has for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        package = _library()
        self._lib, self._null = package.lib, package.ffi.NULL
        self._file = self._lib.fstWriterCreate(str(path).encode(), 1)
        if not self._file:
            raise UserError(f"{path.parent}: cannot be written to; name a file elsewhere")
        self._lib.fstWriterSetPackType(self._file, self._lib.FST_WR_PT_LZ4)
        self._handles: dict[str, tuple[int, int]] = {}

    def header(self, text: str) -> None:
        lib, file = self._lib, self._file
        for line in text.splitlines():
            words = line.split()
            match words:
                case ["$timescale", *scale, "$end"]:
                    lib.fstWriterSetTimescaleFromString(file, "".join(scale).encode())
                case ["$scope", _, name, "$end"]:
                    lib.fstWriterSetScope(file, lib.FST_ST_VCD_MODULE, name.encode(), self._null)
                case ["$upscope", "$end"]:
                    lib.fstWriterSetUpscope(file)
                case ["$var", kind, width, code, name, *_]:
                    self._declare(kind, int(width), code, name)

    def _declare(self, kind: str, width: int, code: str, name: str) -> None:
        lib, text = self._lib, kind == "string"
        alias, _ = self._handles.get(code, (0, 0))
        handle = lib.fstWriterCreateVar(
            self._file, lib.FST_VT_GEN_STRING if text else lib.FST_VT_VCD_WIRE,
            lib.FST_VD_IMPLICIT, 0 if text else width, name.encode(), alias)
        self._handles.setdefault(code, (handle, 0 if text else width))

    def changes(self, text: str) -> None:
        lib, file = self._lib, self._file
        for line in text.splitlines():
            first = line[0]
            if first == "#":
                lib.fstWriterEmitTimeChange(file, int(line[1:]))
            elif first in "01":
                lib.fstWriterEmitValueChange(file, self._handles[line[1:]][0], first.encode())
            elif first == "b":
                value, code = line[1:].split(" ")
                handle, width = self._handles[code]
                lib.fstWriterEmitValueChange(file, handle, value.zfill(width).encode())
            elif first == "s":
                value, code = line[1:].rsplit(" ", 1)
                encoded = value.encode()
                lib.fstWriterEmitVariableLengthValueChange(file, self._handles[code][0], encoded,
                                                           len(encoded))

    def finish(self) -> None:
        """Write what is left and close the file."""
        self._lib.fstWriterClose(self._file)


@contextmanager
def _sink(path: Path, form: str) -> Iterator[Any]:
    if form == "vcd":
        with open(path, "w", encoding="utf-8", newline="\n", buffering=1 << 20) as file:
            yield _Vcd(file)
        return
    fst = _Fst(path)
    try:
        yield fst
    finally:
        fst.finish()


def _library() -> Any:
    """The package that writes FST: its C functions are ``lib``, and ``ffi`` has its types."""
    try:
        return importlib.import_module("pylibfst")
    except ImportError:
        raise UserError("--fst takes the package pylibfst: pip install pylibfst, or write VCD, "
                        "which takes none, with --vcd") from None
