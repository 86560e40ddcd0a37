"""What goes wrong, and how a command line tells it.

Every command of this project ends with one of these exit statuses:

====  ==========================================================================
0     done
1     the request was right and could not be carried out (:class:`BuildError`)
2     the request is wrong (:class:`UserError`, or argparse's own message)
130   interrupted with Ctrl-C
143   terminated
====  ==========================================================================
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

__all__ = ["BuildError", "UserError", "run_cli"]

_REQUEST_ERRORS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError,
                   PermissionError)


class UserError(Exception):
    """The request is wrong; the message says what is wrong and what would be right.

    Exit status 2.
    """

    exit_status = 2


class BuildError(Exception):
    """The request is right, but it cannot be carried out: it does not fit, it is too slow, ...

    Exit status 1.

    Parameters
    ----------
    message : str
        What failed.
    layer : str, optional
        The layer of the network that is to blame.
    knob : str, optional
        What to change, in words: ``"lower the clock with --frequency 30"``.
    """

    exit_status = 1

    def __init__(self, message: str, *, layer: str | None = None, knob: str | None = None) -> None:
        super().__init__(message)
        self.layer = layer
        self.knob = knob

    def __str__(self) -> str:
        text = super().__str__()
        if self.layer is not None and repr(self.layer) not in text:
            text = f"layer {self.layer!r}: {text}"
        if self.knob is not None:
            text = f"{text}\n  what helps: {self.knob}"
        return text


class _Terminated(Exception):
    """SIGTERM arrived: unwind, so that children are stopped and temporary files removed."""


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated


def run_cli(main: Callable[[], int | None]) -> NoReturn:
    """Run ``main()`` and end the process with the right status and, on failure, one message.

    Use it as the last line of a command: ``if __name__ == "__main__": run_cli(main)``.
    Exceptions that no user can cause pass through with their traceback.

    Parameters
    ----------
    main : callable
        Takes no argument; its result is the exit status (``None`` is 0).
    """
    # SIGTERM normally ends Python without unwinding, which would orphan child processes.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = main() or 0
        sys.stdout.flush()
    except (UserError, BuildError) as error:
        status = _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        status = _fail("interrupted", 130)
    except _Terminated:
        status = _fail("terminated", 143)
    except BrokenPipeError:
        # Whoever read our output has gone (`... | head`). Python flushes stdout once more on
        # exit and would complain there, so point it somewhere that accepts everything.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        status = _fail(f"{where}{error.strerror or error}",
                       2 if isinstance(error, _REQUEST_ERRORS) else 1)
    sys.exit(status)


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return status
