"""What an output folder was built from, so that nothing is built twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import atomic_write

__all__ = ["Cache", "digest", "file_digest", "source_digest"]

_FILE = "cache.json"


@dataclass(frozen=True)
class Cache:
    """The note in an output folder: keys of what it was built from, and hashes of its files.

    Parameters
    ----------
    folder : Path
        The output folder.
    data : mapping
        The note's content; empty if there is none or it cannot be read.
    """

    folder: Path
    data: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Cache:
        """The note in ``folder``."""
        try:
            data = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            data = {}
        return cls(folder, data if isinstance(data, dict) else {})

    @staticmethod
    def invalidate(folder: Path) -> None:
        """Remove the note, before any of the files that it vouches for changes."""
        (folder / _FILE).unlink(missing_ok=True)

    @staticmethod
    def write(folder: Path, files: Iterable[str], *, result: Mapping[str, Any],
              **keys: str) -> None:
        """Leave a note.

        Parameters
        ----------
        folder : Path
            The output folder.
        files : iterable of str
            Names of the files in it that belong to the build.
        result : mapping
            What else to remember, as JSON.
        keys
            By which :meth:`holds` will know the build.
        """
        hashes = {name: file_digest(folder / name) for name in files}
        with atomic_write(folder / _FILE) as file:
            json.dump({**keys, "files": hashes, "result": result}, file, indent=1)

    @property
    def result(self) -> Mapping[str, Any]:
        """What :meth:`write` was told to remember."""
        result: Mapping[str, Any] = self.data["result"]
        return result

    def holds(self, **keys: str) -> bool:
        """Whether the folder was built from these keys and nobody changed its files since."""
        if any(self.data.get(name) != key for name, key in keys.items()):
            return False
        files = self.data.get("files")
        return isinstance(files, dict) and bool(files) and all(
            file_digest(self.folder / name) == known for name, known in files.items())


def digest(value: Mapping[str, Any]) -> str:
    """Hash of something that can be written as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str | None:
    """Hash of a file; None if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def source_digest() -> str:
    """Hash of this package's source."""
    root = Path(__file__).parent
    return digest({str(path.relative_to(root)): file_digest(path) for path in root.rglob("*.py")})
