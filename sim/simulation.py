"""A compiled design under test: set, get, clock it, and run streams at the speed of compiled code.

Where the design comes from does not matter here: :mod:`sim.cxxrtl` compiles Amaranth components,
and other back ends Verilog. :mod:`sim.shim` is the other side of the interface.
"""

from __future__ import annotations

import ctypes
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Design", "Port", "Simulation", "StreamCounts", "StreamRun"]

StreamProgress = Callable[[int, Mapping[str, int]], None]
"""Called now and then with the cycles of a run, and the transfers of each of its streams."""

_SOURCE, _SINK, _WATCHED = range(3)
_CHUNK_SECONDS = 0.1
"""Between two returns from compiled code: how soon Ctrl-C and progress are seen."""
_CHUNK_CYCLES = 100_000
"""In one go, at most; watched streams have room for as many payloads."""


@dataclass(frozen=True)
class Port:
    """A port of a design.

    Parameters
    ----------
    name : str
        Members of a stream are ``NAME__valid``, ``NAME__ready`` and ``NAME__payload``.
    width : int
        In bits, 1 or more.
    direction : {"in", "out"}
        As the design sees it.
    signed : bool
        Whether values are two's complement.
    """

    name: str
    width: int
    direction: Literal["in", "out"]
    signed: bool = False

    @property
    def words(self) -> int:
        """64-bit words that a value takes."""
        return -(-self.width // 64)

    @property
    def limits(self) -> tuple[int, int]:
        """Least and greatest value."""
        if self.signed:
            return -(1 << self.width - 1), (1 << self.width - 1) - 1
        return 0, (1 << self.width) - 1


class Design:
    """A compiled design, of which there can be any number of running instances.

    Parameters
    ----------
    library : Path
        Shared library made from :func:`sim.shim.source`.
    ports : sequence of Port
        In the order of the library.
    """

    def __init__(self, library: Path, ports: Sequence[Port]) -> None:
        self.library = library
        self.ports: Mapping[str, Port] = MappingProxyType({port.name: port for port in ports})
        self.numbers = {port.name: n for n, port in enumerate(ports)}
        code = self.code = ctypes.CDLL(str(library))
        handle, words = ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64)
        for name, result, arguments in (
                ("create", handle, []), ("destroy", None, [handle]),
                ("set", None, [handle, ctypes.c_uint32, words]),
                ("get", None, [handle, ctypes.c_uint32, words]),
                ("serial", ctypes.c_uint64, [handle, ctypes.c_void_p, ctypes.c_uint64,
                                             ctypes.c_uint64]),
                ("settle", None, [handle]), ("tick", None, [handle, ctypes.c_uint64]),
                ("run", ctypes.c_uint64, [handle, ctypes.c_void_p, ctypes.c_uint32,
                                          ctypes.c_uint64, ctypes.c_uint64, words])):
            function = getattr(code, f"sim_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(code, name, function)

    def simulation(self) -> Simulation:
        """A new instance, in the state that the hardware has after it was configured."""
        return Simulation(self)


@dataclass(frozen=True)
class StreamCounts:
    """What a stream did, in cycles.

    Parameters
    ----------
    transfer, stalled, idle : int
        Cycles with valid and ready, with valid alone, and without valid. A source that has
        nothing left to offer is idle.
    """

    transfer: int
    stalled: int
    idle: int


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamRun:
    """What :meth:`Simulation.run` found out.

    Parameters
    ----------
    cycles : int
        Cycles simulated.
    complete : bool
        Whether every output had all its transfers.
    stuck : bool
        Whether the run was given up for want of transfers.
    payloads : mapping of str to array
        What came out of each output and each watched stream: ``int64`` (N,) of a signed port,
        ``uint64`` (N,) of another one, and ``uint64`` (N, words), least significant word first,
        of one that is wider than 64 bits.
    times : mapping of str to array of int64, (N,)
        The cycle of each transfer, counted from the start of the run, inputs too.
    counts : mapping of str to StreamCounts
        For every stream.
    surplus : mapping of str to int
        Transfers of each output beyond those asked for.
    """

    cycles: int
    complete: bool
    stuck: bool
    payloads: Mapping[str, NDArray[Any]]
    times: Mapping[str, NDArray[np.int64]]
    counts: Mapping[str, StreamCounts]
    surplus: Mapping[str, int]


class _CStream(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int32), ("valid", ctypes.c_int32), ("ready", ctypes.c_int32),
        ("payload", ctypes.c_int32), ("words", ctypes.c_uint64), ("data", ctypes.c_void_p),
        ("cycles", ctypes.c_void_p), ("count", ctypes.c_uint64), ("done", ctypes.c_uint64),
        ("surplus", ctypes.c_uint64), ("stalled", ctypes.c_uint64), ("idle", ctypes.c_uint64))


class _Stream:
    """A stream of a run: the C structure and the arrays that it points to."""

    def __init__(self, design: Design, name: str, kind: int, count: int,
                 data: NDArray[np.uint64] | None, record: bool) -> None:
        self.kind = kind
        self.port = design.ports.get(f"{name}__payload")
        self.words = self.port.words if self.port is not None else 1
        self.data = (np.zeros((count, self.words), np.uint64)
                     if data is None and record else data)
        self.times = np.zeros(count, np.int64) if record else None
        self.transfers = 0
        self.parts: list[tuple[NDArray[Any], NDArray[np.int64]]] = []
        ports = [design.numbers.get(f"{name}__{member}", -1)
                 for member in ("valid", "ready", "payload")]
        self.c = _CStream(kind, *ports, self.words, self._address(self.data),
                          self._address(self.times), count, 0, 0, 0, 0)

    @staticmethod
    def _address(array: NDArray[Any] | None) -> int | None:
        return None if array is None else array.ctypes.data

    def harvest(self, stream: _CStream) -> None:
        """After some cycles in compiled code: keep what a watched stream has room for no longer."""
        if self.kind != _WATCHED:
            self.transfers = stream.done
            return
        self.transfers += stream.done
        if self.data is not None and self.times is not None:
            self.parts.append((self.data[:stream.done].copy(), self.times[:stream.done].copy()))
        stream.done = 0

    def results(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Payloads and times."""
        assert self.data is not None
        assert self.times is not None
        data: NDArray[Any] = self.data[:self.transfers]
        times = self.times[:self.transfers]
        if self.kind == _WATCHED:
            data = np.concatenate([data[:0], *(each for each, _ in self.parts)])
            times = np.concatenate([times[:0], *(each for _, each in self.parts)])
        if self.words > 1:
            return data, times
        data = data[:, 0]
        if self.port is not None and self.port.signed:
            unused = np.int64(64 - self.port.width)
            data = data.view(np.int64) << unused >> unused
        return data, times


class Simulation:
    """A running instance of a design.

    Instances share nothing, so they may run in threads; compiled code does not hold Python's
    lock. A design's registers start with their initial values, as on an FPGA; the reset input
    ``rst``, where there is one, is an input like others.

    Parameters
    ----------
    design : Design
        From a back end: :func:`sim.cxxrtl.build`.
    """

    def __init__(self, design: Design) -> None:
        self.design = design
        self._handle = design.code.create()
        if not self._handle:
            raise MemoryError("no memory for another instance of the design")
        self._settled = False

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.design.code.destroy(self._handle)
            self._handle = None

    @property
    def ports(self) -> Mapping[str, Port]:
        """The ports, by name."""
        return self.design.ports

    def _port(self, name: str) -> Port:
        try:
            return self.ports[name]
        except KeyError:
            raise ValueError(f"there is no port {name!r}; there is "
                             f"{', '.join(self.ports)}") from None

    def set(self, name: str, value: int) -> None:
        """Set an input.

        Raises
        ------
        TypeError, ValueError
            If ``value`` is no integer; if it does not fit, or ``name`` is no input.
        """
        port = self._port(name)
        if port.direction != "in":
            raise ValueError(f"port {name!r} is an output: it can be read only")
        value = operator.index(value)
        _check(port, value, value)
        words = (ctypes.c_uint64 * port.words).from_buffer_copy(
            (value & (1 << port.width) - 1).to_bytes(8 * port.words, "little"))
        self.design.code.set(self._handle, self.design.numbers[name], words)
        self._settled = False

    def get(self, name: str) -> int:
        """Value of a port after the latest :meth:`tick` and :meth:`set`, all logic settled."""
        port = self._port(name)
        if not self._settled:
            self.design.code.settle(self._handle)
            self._settled = True
        words = (ctypes.c_uint64 * port.words)()
        self.design.code.get(self._handle, self.design.numbers[name], words)
        return int.from_bytes(bytes(words), "little", signed=False) - (
            (words[-1] >> (port.width - 1) % 64 & 1) << port.width if port.signed else 0)

    def tick(self, cycles: int = 1) -> None:
        """Let the clock rise ``cycles`` times."""
        if operator.index(cycles) < 0:
            raise ValueError(f"cycles must be 0 or more, not {cycles}")
        self._settled = False
        while cycles > 0:
            self.design.code.tick(self._handle, min(cycles, _CHUNK_CYCLES))
            cycles -= _CHUNK_CYCLES

    def serial(self, line: ctypes.Structure, cycles: int, patience: int) -> int:
        """Clock the design with a serial line at two of its ports: see :mod:`sim.duplex`."""
        self._settled = False
        ran: int = self.design.code.serial(self._handle, ctypes.byref(line), cycles, patience)
        return ran

    def run(self, inputs: Mapping[str, ArrayLike], outputs: Mapping[str, int], *, cycles: int,
            watch: Sequence[str] = (), record: bool = True, idle: int = 0,
            patience: int | None = None, progress: StreamProgress | None = None) -> StreamRun:
        """Feed streams and collect streams, without a gap on our side, in compiled code.

        Ends when every output has its transfers, or after ``cycles``. With no outputs, or none
        expected of them, it runs for ``cycles``. Another run continues where this one ended.

        Parameters
        ----------
        inputs : mapping of str to array of integers
            Payloads by name of the stream: (N,), or (N, words) of ``uint64``, least significant
            word first, for payloads of more than 64 bits.
        outputs : mapping of str to int
            Transfers to wait for, by name of the stream. Each is always ready, also afterwards.
        cycles : int
            Cycles at most.
        watch : sequence of str
            Streams that are observed, not driven: see ``probes`` of :func:`sim.cxxrtl.build`.
        record : bool
            Keep payloads and times of watched streams; without, they are only counted.
        idle : int
            Cycles to go on after the last output, to see whether surplus transfers follow.
        patience : int, optional
            Give up after so many cycles without a transfer on any input or output.
        progress : callable, optional
            Called now and then; what it raises ends the run.

        Raises
        ------
        ValueError
            If there is no such stream, or a payload does not fit.
        """
        streams: dict[str, _Stream] = {}
        for name, payloads in inputs.items():
            self._check_stream(name, "in")
            data = _pack(payloads, self.design.ports.get(f"{name}__payload"))
            streams[name] = _Stream(self.design, name, _SOURCE, len(data), data, True)
        for name, count in outputs.items():
            self._check_stream(name, "out")
            streams[name] = _Stream(self.design, name, _SINK, operator.index(count), None, True)
        for name in watch:
            self._check_stream(name, None)
            if name in streams:
                raise ValueError(f"stream {name!r} is an input or output of the run already, and "
                                 "needs no watch")
            streams[name] = _Stream(self.design, name, _WATCHED, _CHUNK_CYCLES, None, record)
        array = (_CStream * len(streams))(*(stream.c for stream in streams.values()))
        by_name = dict(zip(streams, array, strict=True))
        active, run, chunk, stuck = ctypes.c_uint64(0), 0, 1000, False

        def advance(limit: int) -> int:
            """Run up to a cycle in pieces; stops early where compiled code does."""
            nonlocal chunk, run, stuck
            while run < limit and not stuck:
                start, wanted = time.perf_counter(), min(chunk, limit - run)
                if patience is not None:
                    wanted = min(wanted, max(active.value + patience + 1 - run, 1))
                ran = self.design.code.run(self._handle, array, len(array), run, wanted,
                                        ctypes.byref(active))
                run += ran
                for name, stream in streams.items():
                    stream.harvest(by_name[name])
                if progress is not None:
                    progress(run, {name: each.transfers for name, each in streams.items()})
                if ran < wanted:
                    break
                stuck = patience is not None and run - active.value > patience
                speed = wanted / max(time.perf_counter() - start, 1e-6)
                chunk = min(max(int(speed * _CHUNK_SECONDS), 100), _CHUNK_CYCLES)
            return run

        def complete() -> bool:
            return all(by_name[name].done == by_name[name].count for name in outputs)

        self._settled = False
        if not (complete() and any(outputs.values())):
            advance(operator.index(cycles))
        if complete() and idle and any(outputs.values()):
            patience = None
            advance(run + idle)
        results = {name: stream.results() for name, stream in streams.items()
                   if record or name not in watch}
        return StreamRun(
            cycles=run, complete=complete(), stuck=stuck and not complete(),
            payloads={name: data for name, (data, _) in results.items() if name not in inputs},
            times={name: times for name, (_, times) in results.items()},
            counts={name: StreamCounts(stream.transfers + by_name[name].surplus,
                                       by_name[name].stalled, by_name[name].idle)
                    for name, stream in streams.items()},
            surplus={name: by_name[name].surplus for name in outputs})

    def _check_stream(self, name: str, direction: str | None) -> None:
        members = [self.ports[each] for member in ("valid", "payload", "ready")
                   if (each := f"{name}__{member}") in self.ports]
        if not members:
            streams = dict.fromkeys(each.rpartition("__")[0] for each in self.ports
                                    if each.endswith(("__valid", "__ready")))
            raise ValueError(f"there is no stream {name!r}; there is {', '.join(streams)}")
        for port in members:
            wanted = direction if not port.name.endswith("__ready") else (
                {"in": "out", "out": "in"}.get(direction or ""))
            if direction is not None and port.direction != wanted:
                raise ValueError(f"stream {name!r} cannot be an {direction}put of the run: "
                                 f"{port.name} is an {port.direction}put of the design")


def _check(port: Port, least: int, greatest: int) -> None:
    low, high = port.limits
    for value in (least, greatest):
        if not low <= value <= high:
            kind = "signed" if port.signed else "unsigned"
            raise ValueError(f"{value} does not fit port {port.name!r}, {port.width} bits "
                             f"{kind}: it takes {low} to {high}")


def _pack(payloads: ArrayLike, port: Port | None) -> NDArray[np.uint64]:
    """Payloads as words (N, words)."""
    if port is None:
        return np.zeros((len(np.asarray(payloads)), 1), np.uint64)
    if isinstance(payloads, np.ndarray) and payloads.ndim == 2 and port.words > 1:
        if payloads.shape[1] != port.words or payloads.dtype != np.uint64:
            raise ValueError(f"payloads of {port.name!r} must be uint64, (N, {port.words}), not "
                             f"{payloads.dtype}, {payloads.shape}")
        unused = 64 * port.words - port.width
        if payloads.size and int(payloads[:, -1].max()) >> 64 - unused:
            raise ValueError(f"payloads of {port.name!r} have {port.width} bits; the last word "
                             f"holds {int(payloads[:, -1].max()):#x}")
        return np.ascontiguousarray(payloads)
    array = np.asarray(payloads, dtype=None if isinstance(payloads, np.ndarray) else object)
    if array.ndim != 1:
        raise ValueError(f"payloads of {port.name!r} must be a list of integers, not an array of "
                         f"shape {array.shape}")
    if array.dtype.kind in "iub":
        if array.size:
            _check(port, int(array.min()), int(array.max()))
        words = np.zeros((len(array), port.words), np.uint64)
        words[:, 0] = array.astype(np.int64).view(np.uint64) if array.dtype.kind == "i" else array
        if array.dtype.kind == "i" and port.words > 1:
            words[:, 1:] = np.where(array < 0, np.uint64(2**64 - 1), np.uint64(0))[:, None]
    else:
        integers = [operator.index(value) for value in array.tolist()]
        _check(port, min(integers, default=0), max(integers, default=0))
        mask = (1 << port.width) - 1
        words = np.frombuffer(b"".join((value & mask).to_bytes(8 * port.words, "little")
                                       for value in integers), "<u8").reshape(-1, port.words)
        return words.astype(np.uint64)
    if port.width % 64:
        words[:, -1] &= np.uint64((1 << port.width % 64) - 1)
    return words
