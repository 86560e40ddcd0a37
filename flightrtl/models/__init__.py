"""Trained networks that come with the package, by name.

>>> all(path(name).name == f"{name}.safetensors" for name in names())
True
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

__all__ = ["names", "path"]

_SUFFIX = ".safetensors"


def _folder() -> Path:
    return Path(str(resources.files(__name__)))


def names() -> list[str]:
    """Names of the bundled models, sorted."""
    return sorted(file.name.removesuffix(_SUFFIX) for file in _folder().glob(f"*{_SUFFIX}"))


def path(name: str) -> Path:
    """The file of a bundled model.

    Raises
    ------
    KeyError
        If there is no such model.
    """
    if name not in names():
        raise KeyError(f"no bundled model is called {name!r}; there are: {', '.join(names())}")
    return _folder() / f"{name}{_SUFFIX}"
