"""Pictures as they come: new files of a folder, or what a camera sees."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import BuildError, UserError
from .images import SUFFIXES

__all__ = ["camera", "folder"]


def folder(path: str | os.PathLike[str], *, interval: float = 0.5,
           old: bool = False) -> Iterator[Path]:
    """Image files that appear in a folder or change there, as soon as they are complete.

    A file is complete when it has not changed between two looks.

    Parameters
    ----------
    path : path
        The folder.
    interval : float
        Seconds between two looks.
    old : bool
        Give the files too that are there already.

    Raises
    ------
    UserError
        If it is no folder.
    """
    if not os.path.isdir(path):
        raise UserError(f"{os.fspath(path)}: there is no such folder")
    before = _state(Path(path))
    given = {} if old else dict(before)
    while True:
        now = _state(Path(path))
        for file, state in now.items():
            if state == before.get(file) and state != given.get(file):
                given[file] = state
                yield file
        before = now
        time.sleep(interval)


def _state(path: Path) -> dict[Path, tuple[int, int]]:
    state = {}
    for file in sorted(path.iterdir()):
        try:
            if file.suffix.lower() in SUFFIXES and file.is_file():
                about = file.stat()
                state[file] = about.st_mtime_ns, about.st_size
        except FileNotFoundError:   # gone between two calls
            continue
    return state


@contextmanager
def camera(number: int) -> Iterator[Iterator[Any]]:
    """The pictures of a camera of this computer, as ``PIL.Image.Image``.

    Parameters
    ----------
    number : int
        Which one, as OpenCV counts them.

    Raises
    ------
    UserError, BuildError
        If OpenCV is not installed; if there is no such camera, or it stops.
    """
    try:
        import cv2
    except ImportError:
        raise UserError("cameras take OpenCV, which is not installed: "
                        "pip install opencv-python-headless") from None
    from PIL import Image

    capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            raise UserError(f"there is no camera {number}: is it plugged in, and not in use?")

        def pictures() -> Iterator[Any]:
            while True:
                good, picture = capture.read()
                if not good:
                    raise BuildError(f"camera {number} gives no pictures any more",
                                     knob="plug it in again")
                yield Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))

        yield pictures()
    finally:
        capture.release()
