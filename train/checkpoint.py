"""Checkpoints on disk: written whole or not at all, read only by the run that they belong to."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from flightrtl.errors import UserError
from flightrtl.files import atomic_path

from .recipe import Recipe

__all__ = ["read", "write"]

_VERSION = 2


def write(path: Path, recipe: Recipe, state: dict[str, Any]) -> None:
    """Write the state of a run; it appears under its name only when it is complete."""
    with atomic_path(path) as temporary:
        torch.save({"version": _VERSION, "recipe": recipe.as_dict(), **state}, temporary)


def read(path: Path, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """The state of a run of the same recipe.

    Raises
    ------
    UserError
        If there is none, it is damaged, or it belongs to another recipe or version.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no checkpoint to resume from; leave out --resume")
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
        version, theirs = state["version"], dict(state["recipe"])
    except (OSError, RuntimeError, EOFError, UnpicklingError, KeyError, TypeError,
            ValueError) as error:
        raise UserError(f"{path}: not a checkpoint, or damaged ({type(error).__name__}); start "
                        "again without --resume") from None
    if version != _VERSION:
        raise UserError(f"{path}: a checkpoint of version {version}, this is {_VERSION}; start "
                        "again without --resume")
    mine = recipe.as_dict()
    # A version that knew fewer keys did what their defaults do now.
    theirs = Recipe(recipe.dataset, recipe.network).as_dict() | theirs
    changed = [f"{key} {theirs.get(key)!r} there, {mine.get(key)!r} here"
               for key in sorted({*mine, *theirs}) if theirs.get(key) != mine.get(key)]
    if changed:
        raise UserError(f"{path}: a checkpoint of another run: {'; '.join(changed)}. Give the "
                        "options of that run, or start again without --resume")
    return state
