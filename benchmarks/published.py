"""Accuracies that others have published: ``published.toml``, checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FILE", "Published", "load", "sources"]

FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Published:
    """A published figure; the head of ``published.toml`` describes its keys.

    Raises
    ------
    ValueError
        If a rate is not a fraction of 1.
    """

    source: str
    dataset: str
    network: str
    method: str
    top1: float
    terms: int | None = None
    weight_bits: int | None = None
    activation_bits: int | None = None
    model_bits: int | None = None
    float_top1: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        for rate in (self.top1, self.float_top1):
            if rate is not None and not 0 < rate < 1:
                raise ValueError(f"top1 must be a fraction of 1, not {rate}: divide percent by 100")


def load(file: Path = FILE) -> list[Published]:
    """All of them, in the file's order."""
    return [Published(**each) for each in
            tomllib.loads(file.read_text(encoding="utf-8"))["result"]]


def sources(file: Path = FILE) -> dict[str, tuple[str, str]]:
    """Key to text and address."""
    found = tomllib.loads(file.read_text(encoding="utf-8"))["sources"]
    return {key: (entry["text"], entry["url"]) for key, entry in found.items()}
