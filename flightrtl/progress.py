"""What a long command is doing, on standard error."""

from __future__ import annotations

import sys
import time
from typing import TextIO

__all__ = ["Progress"]


class Progress:
    """Steps with a title, each with a detail that changes while it runs.

    On a terminal the running step is one line that is rewritten in place; elsewhere (a file, a
    continuous-integration log) the title is printed once, and the detail now and then.

    Parameters
    ----------
    stream : text file, optional
        Where to write; standard error by default.
    interval : float
        Seconds between two details when the stream is no terminal.
    """

    def __init__(self, stream: TextIO | None = None, *, interval: float = 10.0) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._interval = interval
        self._title = ""
        self._detail = ""
        self._started = self._shown = 0.0

    def step(self, title: str) -> None:
        """Finish the step before, if any, and begin one."""
        self.done()
        self._title = title
        self._started = self._shown = time.monotonic()
        self._write()

    def update(self, detail: str) -> None:
        """Tell what the running step is doing now, in a few words."""
        if not self._title or detail == self._detail:
            return
        self._detail = detail
        now = time.monotonic()
        if now - self._shown >= (0.1 if self._terminal else self._interval):
            self._shown = now
            self._write()

    def done(self, result: str = "") -> None:
        """End the running step; ``result`` says how it came out."""
        if not self._title:
            return
        self._detail = result
        seconds = time.monotonic() - self._started
        if self._terminal or result or seconds >= 1:
            self._write(seconds)
        if self._terminal:
            print(file=self._stream, flush=True)
        self._title = self._detail = ""

    def abandon(self) -> None:
        """End the running step without a result: something went wrong in it."""
        if self._title and self._terminal:
            print(file=self._stream, flush=True)
        self._title = self._detail = ""

    def note(self, text: str) -> None:
        """Print a line of its own."""
        self.done()
        print(text, file=self._stream, flush=True)

    def _write(self, seconds: float | None = None) -> None:
        text = f"{self._title}: {self._detail}" if self._detail else self._title
        if seconds is not None:
            text = f"{text} ({seconds:.1f} s)"
        if self._terminal:
            # Not wider than a usual window: a wrapped line cannot be rewritten in place.
            print(f"\r\x1b[K{text[:99]}", end="", file=self._stream, flush=True)
        else:
            print(text, file=self._stream, flush=True)
