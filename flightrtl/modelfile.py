"""The model file: a trained network in one file that is safe to open. See ``docs/model-file.md``.

Reading checks everything and reports all problems at once; writing checks first and then puts
the complete file in place in one step.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from . import container, models
from .check import check
from .document import VERSION, describe, newer_version, parse
from .errors import UserError
from .files import atomic_write
from .model import Model
from .rules import show

__all__ = ["ModelError", "check", "load", "save", "sha256"]


_SHOWN = 50
"""Problems in the message of an error, at most."""


class ModelError(UserError, ValueError):
    """A model or its file is wrong.

    Parameters
    ----------
    subject : str
        What is wrong, for the first line of the message.
    problems : list of str
        All problems, each one sentence that names the layer, what is wrong and what to do.
    """

    def __init__(self, subject: str, problems: list[str]) -> None:
        lines = [f"{subject}:", *(f"  - {problem}" for problem in problems[:_SHOWN])]
        if len(problems) > _SHOWN:
            lines.append(f"  and {len(problems) - _SHOWN} more problems")
        super().__init__("\n".join(lines))
        self.problems = problems


def load(path_or_name: str | os.PathLike[str]) -> Model:
    """Read a model.

    Parameters
    ----------
    path_or_name : str or path
        A bundled model's name (see :func:`flightrtl.models.names`) or a file. A file whose path
        is also a name is meant by ``./name``.

    Raises
    ------
    ModelError
        For whatever is wrong; ``problems`` has all of it.
    """
    subject = f"model {show(os.fspath(path_or_name))} cannot be used"
    problems: list[str] = []
    try:
        data = container.read_bytes(_locate(path_or_name))
        document, tensors, intact = container.decode(data)
    except FileNotFoundError:
        raise ModelError(subject, ["there is no such file, and the bundled models are: "
                                   f"{', '.join(models.names()) or 'none'}"]) from None
    except OSError as error:
        raise ModelError(subject, [f"it cannot be read: {error.strerror}"]) from None
    except ValueError as error:
        raise ModelError(subject, [str(error)]) from None
    if (version := newer_version(document)) is not None:
        raise ModelError(subject, [f"the file has version {show(version)} of the format, but this "
                                   f"flightrtl reads up to {VERSION}: upgrade flightrtl"])
    if not intact:
        problems.append("the file does not match its checksum, so it was changed or damaged: get "
                        "it again, or export the network again")
    model = parse(document, tensors, problems)
    problems += check(model)
    if problems:
        raise ModelError(subject, problems)
    return model


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model. The same model gives the same bytes.

    Raises
    ------
    ModelError
        If :func:`~flightrtl.check.check` finds problems, or the file would be too large.
    OSError
        If the file cannot be written; what was there before stays.
    """
    problems = check(model)
    if not problems:
        data = container.encode(*describe(model))
        if len(data) > container.MAX_FILE or int.from_bytes(data[:8],
                                                            "little") > container.MAX_HEADER:
            problems = ["the model needs a larger file than is supported: use fewer filters or "
                        "less provenance"]
    if problems:
        raise ModelError(f"model {show(model.name)} cannot be saved", problems)
    with atomic_write(path, "wb") as file:
        file.write(data)


def sha256(path_or_name: str | os.PathLike[str]) -> str:
    """SHA-256 of a whole model file, in hexadecimal digits; ``OSError`` if it cannot be read."""
    return hashlib.sha256(container.read_bytes(_locate(path_or_name))).hexdigest()


def _locate(path_or_name: str | os.PathLike[str]) -> Path:
    if isinstance(path_or_name, str) and path_or_name in models.names():
        return models.path(path_or_name)
    return container.resolve(path_or_name)
