"""Recipes as TOML: what Python's own library reads but does not write."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from flightrtl.files import atomic_write

from ..recipe import Recipe

__all__ = ["toml", "write"]


def toml(values: dict[str, Any], prefix: str = "") -> str:
    """TOML of a mapping of strings, numbers, booleans and such mappings.

    >>> print(toml({"method": "mixed", "flip": True, "layers": {"conv1": {"sparsity": 0.25}}}))
    method = "mixed"
    flip = true
    <BLANKLINE>
    [layers.conv1]
    sparsity = 0.25
    """
    plain = [f"{key} = {json.dumps(value)}" for key, value in values.items()
             if not isinstance(value, dict)]
    text = "\n".join(plain)
    for key, value in values.items():
        if isinstance(value, dict):
            name = f"{prefix}{key}"
            inner = toml(value, f"{name}.")
            tables_alone = all(isinstance(each, dict) for each in value.values())
            block = ("" if tables_alone else f"[{name}]\n") + inner.lstrip()
            text = f"{text}\n\n{block}" if text else block
    return text


def write(recipe: Recipe, path: Path, comment: list[str]) -> None:
    """Write (or replace) a recipe, without what is as usual, under a comment."""
    usual = {item.name.rstrip("_"): item.default for item in dataclasses.fields(Recipe)}
    values = {key: value for key, value in recipe.as_dict().items()
              if value not in (usual[key], {}) or key in ("epochs", "float_share")}
    with atomic_write(path) as file:
        file.write("\n".join(f"# {line}".rstrip() for line in comment) + "\n" + toml(values) + "\n")
