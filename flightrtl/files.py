"""Files that are either complete or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = ["atomic_path", "atomic_write", "work_folder"]


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the ``with`` block succeeds.

    If the block raises (Ctrl-C included), the temporary file is removed and whatever was at
    ``path`` before stays as it was. The folder must exist.
    """
    final = Path(path)
    # In the same folder, since only a rename within a file system is atomic. The process
    # number keeps two builds apart that write to the same place.
    temporary = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that appears under its name only when it is complete.

    Parameters
    ----------
    path : path
        Where the file will be.
    mode : {"w", "wb"}
        Text (UTF-8, newlines as written) or bytes.
    """
    with atomic_path(path) as temporary:
        binary = "b" in mode
        with open(temporary, mode, encoding=None if binary else "utf-8",
                  newline=None if binary else "\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def work_folder(output: Path) -> Iterator[Path]:
    """A private folder in ``output`` that is gone afterwards, whatever happens."""
    missing = [folder for folder in (output, *output.parents) if not folder.exists()]
    output.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".work-", dir=output))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for folder in missing:  # innermost first; what has something in it stays
            try:
                folder.rmdir()
            except OSError:
                break
