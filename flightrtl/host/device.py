"""A network behind a serial port: requests go out, and each is answered once or reported failed.

Every request has a sequence number, and is sent again with the same one when no reply comes in
time. A reply counts if its checksum, its type, its sequence number and its length are right, and
only the first one; so a reply that was lost, that comes late or twice is never taken for another's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar

from numpy.typing import ArrayLike

from .. import modelfile, models
from ..errors import BuildError, UserError
from ..model import Model
from ..protocol import (
    HASH_BYTES,
    LOAD_HEADER_BYTES,
    VERSION,
    Counters,
    Decoder,
    Frame,
    Identity,
    LinkError,
    Reply,
    Status,
    Type,
    load_body,
    request,
)

_T = TypeVar("_T")

__all__ = ["TRIES", "Answer", "Device", "DeviceError", "NoAnswer", "Port", "Statistics"]

TRIES = 6
"""How often a request is sent, at most. With a fifth of all frames damaged in each direction, one
request in 460 is not answered then."""

SILENT = ("is this the board's serial port, is a bitstream of this version loaded, and is the bit "
          "rate that of the board file (--board, --baud)?")
"""What helps where nobody answers."""

MARGIN = 0.25
"""Seconds that a reply may need besides its time on the line: USB adapters keep bytes back for up
to 16 ms, and operating systems have other things to do."""

_LATENCY = 0.05     # of an answer that is no reason to think that the device is slow, seconds
_IDENTITY_BYTES = 35    # on the line
_LOAD = "load its weights again (python -m flightrtl.host load-weights MODEL)"
_PAUSE = 0.002      # before a request is sent again to a device that is busy, seconds


class DeviceError(BuildError):
    """A device does not do what it should."""


class NoAnswer(DeviceError):
    """A request was sent as often as it may be, and no good answer to it came."""


class Port(Protocol):
    """A line to a device.

    :class:`flightrtl.host.ports.SerialPort` is one, and so is a simulated one with a clock of its
    own.
    """

    baud: int
    """Bits per second, ten for each byte."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def read(self, seconds: float) -> bytes:
        """Bytes that have come: waits for the first of them, and no longer than ``seconds``."""

    def now(self) -> float:
        """Seconds on the line's clock."""

    def close(self) -> None:
        """Give the line back."""


@dataclass
class Statistics:
    """What happened on the line since the device was opened.

    Parameters
    ----------
    requests, answered, failed : int
        Requests; those with a good answer; those that were given up.
    sent : int
        Times that a request was sent: more than ``requests`` by those that were sent again.
    timeouts : int
        Times that no answer came in time.
    damaged : int
        Frames that came with a wrong checksum.
    stale : int
        Good frames that were no answer to the request at hand: late, or there before.
    """

    requests: int = 0
    answered: int = 0
    failed: int = 0
    sent: int = 0
    timeouts: int = 0
    damaged: int = 0
    stale: int = 0

    @property
    def retried(self) -> int:
        """Times that a request was sent again."""
        return self.sent - self.requests

    def as_json(self) -> dict[str, int]:
        """For programs."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {
            "retried": self.retried}


@dataclass(frozen=True)
class Answer:
    """What the network says of an image.

    Parameters
    ----------
    winner : int
        The class: the first of the largest logits.
    logits : tuple of int
        Of all classes.
    seconds : float
        From the first request to the answer.
    tries : int
        Requests that it took.
    """

    winner: int
    logits: tuple[int, ...]
    seconds: float
    tries: int


class Device:
    """A network on a board.

    The constructor asks the device what it is, and compares that with the model.

    Parameters
    ----------
    port : Port
        The line.
    model : Model, str, path or None
        The network that is meant to be there: a bundled model's name, a file, or a model with
        ``sha256``. None takes the bundled one that the device names.
    sha256 : str, optional
        Of the model's file; found out unless ``model`` is a :class:`~flightrtl.model.Model`,
        which without it is compared by its shape alone.
    tries : int
        How often a request is sent, at most.
    timeout : float, optional
        Seconds to wait for an answer. By default that follows from the bit rate, the sizes of
        request and answer, and how fast the device was to say what it is (a simulated one is
        slower than its bit rate); it doubles with every try.
    first_tries : int
        The same for the first request, with which it is found out whether anybody is there.
    sequence : int, optional
        Number of the first request, for runs that can be repeated; another one for every process
        by default.
    any_model : bool
        Take a device as it is, whatever its model: for :meth:`identify` and loading weights.

    Raises
    ------
    NoAnswer
        If there is no answer.
    UserError
        If there is another model on the board.

    Members
    -------
    identity : Identity
        What the device is.
    model : Model or None
        The network, None with ``any_model`` and nothing that is known.
    statistics : Statistics
        So far.
    """

    def __init__(self, port: Port, model: Model | str | os.PathLike[str] | None = None, *,
                 sha256: str | None = None, tries: int = TRIES, timeout: float | None = None,
                 first_tries: int = 4, sequence: int | None = None,
                 any_model: bool = False) -> None:
        if tries < 1:
            raise UserError(f"tries must be 1 or more, not {tries}")
        if timeout is not None and not 0 < timeout <= 3600:
            raise UserError("the timeout must be above 0 and at most 3600 seconds, not "
                            f"{timeout:g}")
        self.port = port
        self.tries = tries
        self.timeout = timeout
        self.statistics = Statistics()
        self.model: Model | None = None
        self._decoder = Decoder(limit=1 << 18)
        self._waiting: list[Reply] = []
        self._slowness = 1.0
        self._busy_until = 0.0
        # Of a host that was here before, a reply may be on its way still: begin elsewhere. Once
        # the device, which answers in order, has told what it is, none can be.
        self._sequence = (os.getpid() if sequence is None else sequence - 1) & 0xFF
        started = port.now()
        try:
            self.identity = self.identify(min(tries, first_tries))
        except NoAnswer as error:
            raise NoAnswer(
                f"no answer at {port.baud:,} baud: {self._silence()}", knob=SILENT) from error
        expected = 10 * _IDENTITY_BYTES / port.baud
        self._slowness = max(1.0, (port.now() - started - _LATENCY) / expected)
        if isinstance(model, Model):
            self.model, self.name = model, model.name
            if sha256 is None and not any_model:
                self._check_shape(model)
        elif model is not None:
            self.model, self.name = modelfile.load(model), os.fspath(model)
            sha256 = modelfile.sha256(model)
        elif (known := self.known_model()) is not None:
            self.model, self.name = modelfile.load(known), known
        elif not any_model:
            self._check_loaded()
            raise UserError(
                f"the board has model {self.identity.model.hex()}, which is none of those that "
                f"come with flightrtl ({', '.join(models.names())}): name its file with --model")
        if sha256 is not None and not any_model:
            self._check_model(sha256)
        self.frame = Frame.of(self.model) if self.model is not None else None

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the line."""
        self.port.close()

    def _silence(self) -> str:
        if self._decoder.damaged:
            return f"{self._decoder.damaged} frames came, all of them damaged"
        return "nothing came back"

    def known_model(self) -> str | None:
        """The bundled model that is on the board, by name, if it is one of them."""
        return next((name for name in models.names()
                     if bytes.fromhex(modelfile.sha256(name))[:HASH_BYTES] == self.identity.model),
                    None)

    def _check_model(self, sha256: str) -> None:
        there = self.identity.model.hex()
        if sha256[:2 * HASH_BYTES] == there:
            return
        self._check_loaded()
        known = self.known_model()
        has = f"model {known!r}" if known else "another model"
        raise UserError(
            f"the board has {has} ({there}), and not {self.name!r} ({sha256[:2 * HASH_BYTES]}): "
            + (f"ask with --model {known}, " if known else "name the file of the model that is "
               "there with --model, ") + "or build and load a bitstream of this one")

    def _check_loaded(self) -> None:
        if self.identity.loadable and not any(self.identity.model):
            raise UserError("there is no model on the board, since loading one did not come to its "
                            f"end: {_LOAD}")

    def _check_shape(self, model: Model) -> None:
        if not self.identity.may_be(model):
            raise UserError(f"the network on the board has not the layers of model "
                            f"{model.name!r}")

    def identify(self, tries: int | None = None) -> Identity:
        """Ask the device what it is."""
        reply = self.ask(Type.IDENTIFY, answer=_IDENTITY_BYTES, tries=tries)
        try:
            return Identity.parse(reply)
        except LinkError as error:
            raise DeviceError(str(error), knob="build the bitstream and run the host from the same "
                              f"version of flightrtl (this one: protocol {VERSION})") from None

    def counters(self) -> Counters:
        """Ask the device what it has counted."""
        return self._parsed(Counters.parse, self.ask(Type.STATUS, answer=20))

    def reset(self) -> None:
        """Let counters and network start again."""
        self._parsed(lambda reply: reply.check(0), self.ask(Type.RESET, answer=12))

    @property
    def load_bytes(self) -> int:
        """Bytes that :meth:`load` takes."""
        return self.identity.image_bytes - LOAD_HEADER_BYTES

    def load(self, memory: int, address: int, data: bytes) -> None:
        """Write :attr:`load_bytes` bytes into a memory of weights, from an address on.

        The device has no model from then on until :meth:`commit`.
        """
        self._parsed(lambda reply: reply.check(0),
                     self.ask(Type.LOAD, load_body(memory, address, data), answer=12))

    def commit(self, model: Model, sha256: str) -> None:
        """Say that the weights of a model file are complete: it is what the device has from now on.

        Raises
        ------
        DeviceError
            If the device does not say so afterwards.
        """
        self._parsed(lambda reply: reply.check(0), self.ask(
            Type.COMMIT, bytes.fromhex(sha256)[:HASH_BYTES], answer=12))
        self.identity = self.identify()
        if self.identity.model.hex() != sha256[:2 * HASH_BYTES]:
            raise DeviceError(f"the board says that it has model {self.identity.model.hex()} after "
                              f"{sha256[:2 * HASH_BYTES]} was loaded", knob="load it again")
        self.model, self.name, self.frame = model, model.name, Frame.of(model)

    def classify(self, image: ArrayLike) -> Answer:
        """Class and logits of an image.

        Parameters
        ----------
        image : array of integers, (height, width, channels)
            As the model takes it: see :func:`flightrtl.host.prepare`.

        Raises
        ------
        NoAnswer
            If no good answer came; the image may be sent again.
        DeviceError
            If the device refuses it, or is gone.
        ValueError
            If this is no image for the model.
        """
        assert self.frame is not None, "a device with any_model classifies nothing"
        started, sent = self.port.now(), self.statistics.sent
        reply = self.ask(Type.CLASSIFY, self.frame.image_body(image),
                         answer=self.frame.answer_size)
        winner, logits = self._parsed(self.frame.parse, reply)
        return Answer(winner, tuple(logits), self.port.now() - started,
                      self.statistics.sent - sent)

    def classify_all(self, images: Iterable[ArrayLike]) -> Iterator[Answer | NoAnswer]:
        """An answer for each image, in order, or the error that says why there is none."""
        for image in images:
            try:
                yield self.classify(image)
            except NoAnswer as error:
                yield error

    @staticmethod
    def _parsed(parse: Callable[[Reply], _T], reply: Reply) -> _T:
        try:
            return parse(reply)
        except LinkError as error:
            asked = reply.type.name if isinstance(reply.type, Type) else reply.type
            knob = "is this the model that was built into the bitstream?"
            raise DeviceError(f"{error} ({asked})", knob=_LOAD if (
                reply.status == Status.WEIGHTS_INCOMPLETE) else knob) from None

    def ask(self, type: Type, body: bytes = b"", *, answer: int,
            tries: int | None = None) -> Reply:
        """Send a request until it is answered.

        Parameters
        ----------
        type : Type
            What is asked for.
        body : bytes
            Of the request.
        answer : int
            Bytes of the reply on the line, for the time that it takes.
        tries : int, optional
            How often to send it at most, if not as often as others.

        Raises
        ------
        NoAnswer
            If no reply came. Errors of the line itself pass through.
        """
        self._sequence = (self._sequence + 1) % 256
        if self.port.now() < self._busy_until:
            self._reply(type, self._busy_until)
        wire = request(type, self._sequence, body)
        count = self.statistics
        count.requests += 1
        on_line = self._slowness * 10 * (len(wire) + answer) / self.port.baud
        waits = self._waits(len(wire), answer)
        tries = tries or self.tries
        for attempt in range(tries):
            count.sent += 1
            self.port.write(wire)
            written = self.port.now()
            until = written + waits[min(attempt, len(waits) - 1)]
            reply = self._reply(type, until)
            while reply is not None and reply.status == Status.BUSY:
                # The answer to the image that it is busy with may be the one that is wanted.
                busy, reply = reply, self._reply(type, min(until, self.port.now() + _PAUSE))
                if reply is None:
                    reply = busy
                    break
            if reply is None:
                count.timeouts += 1
            elif reply.status != Status.BUSY:
                count.answered += 1
                # This may be the late answer to an earlier try, and the device still at the last.
                self._busy_until = written + on_line + _PAUSE if attempt else 0.0
                return reply
        count.failed += 1
        raise NoAnswer(f"no answer to request {count.requests} ({type.name}), which was sent "
                       f"{tries} times",
                       knob="try again, look at the cable, or at `identify --counters` for what "
                            "arrives at the board")

    def _waits(self, request: int, answer: int) -> list[float]:
        """Seconds to wait for an answer, for each try; sizes in bytes on the line."""
        # Every byte of the answer may be escaped.
        first = self.timeout or (
            MARGIN + self._slowness * 10 * (request + 2 * answer) / self.port.baud)
        return [first * 2 ** min(attempt, 5) for attempt in range(self.tries)]

    def longest_wait(self) -> float:
        """Seconds after which a request to classify has been answered or given up."""
        assert self.frame is not None
        return sum(self._waits(2 * self.frame.request_size, self.frame.answer_size)) + MARGIN

    def _reply(self, type: Type, until: float) -> Reply | None:
        """The reply to the request at hand, or None if it is not there in time."""
        while True:
            for _ in range(len(self._waiting)):
                reply = self._waiting.pop(0)
                if reply.type == type and reply.sequence == self._sequence:
                    return reply
                self.statistics.stale += 1
            left = until - self.port.now()
            if left <= 0:
                return None
            for content in self._decoder.feed(self.port.read(left)):
                try:
                    self._waiting.append(Reply.parse(content))
                except LinkError:
                    self.statistics.stale += 1
            self.statistics.damaged = self._decoder.damaged
