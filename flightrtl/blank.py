"""A finished design without contents, as a build leaves it for other models."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .contents import Shape, fill
from .errors import UserError
from .files import atomic_write
from .gateware.loadablestream import LoadableStream, MemoryContents
from .implement import FAMILIES, Family, blank_name, pack_bitstream
from .progress import Progress
from .toolchain import Tool

__all__ = ["DESIGN", "BlankDesign"]

DESIGN = "design.json"
"""The file that says what the design is."""

_FORMAT = 1


@dataclass(frozen=True)
class BlankDesign:
    """A placed and routed design with placeholders in its memories.

    In its folder are :data:`DESIGN`, which has what is here, and nextpnr's text form of the
    bitstream, as :func:`~flightrtl.implement.blank_name` calls it.

    Parameters
    ----------
    shape : Shape
        Which models it takes.
    family : str
        Of the device: ``ice40`` or ``ecp5``.
    packing : sequence of str
        Command line that makes the bitstream, the tool's name first.
    """

    shape: Shape
    family: str
    packing: Sequence[str]

    @property
    def files(self) -> tuple[str, str]:
        """Names of the files in its folder."""
        return DESIGN, blank_name(self.tools)

    @property
    def tools(self) -> Family:
        """What builds for the family."""
        return FAMILIES[self.family]

    @classmethod
    def load(cls, folder: Path) -> BlankDesign:
        """That in a folder.

        Raises
        ------
        UserError
            If there is none.
        """
        path = folder / DESIGN
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{folder} holds no design with replaceable weights ({DESIGN} is "
                            "missing): build one with --weights replaceable, or loadable"
                            ) from None
        except ValueError as error:
            raise UserError(f"{path} cannot be read ({error}): build it again") from error
        if not isinstance(data, Mapping) or data.get("format") != _FORMAT:
            raise UserError(f"{path} was written by another version: build it again")
        try:
            design = cls(Shape.from_json(data["form"]), data["family"], data["packing"])
            known = design.shape.hash == data["shape"] and design.family in FAMILIES
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): build it again") from error
        if not known:
            raise UserError(f"{path} is damaged: its shape's hash is not the one that it states: "
                            "build it again")
        return design

    @classmethod
    def find(cls, shape: str, *, below: Path) -> BlankDesign | None:
        """One of this shape, by its hash, in a build's folder ``below/BOARD/MODEL``."""
        for path in sorted(below.glob(f"*/*/{DESIGN}")):
            with contextlib.suppress(UserError):
                if (design := cls.load(path.parent)).shape.hash == shape:
                    return design
        return None

    def save(self, folder: Path) -> None:
        """Write :data:`DESIGN`."""
        with atomic_write(folder / DESIGN) as file:
            json.dump({"format": _FORMAT, "shape": self.shape.hash, "family": self.family,
                       "packing": list(self.packing), "form": self.shape.as_json()}, file, indent=1)

    def bitstream(self, source: Path, memories: Sequence[LoadableStream | MemoryContents], *,
                  tool: Tool, folder: Path, progress: Progress) -> Path:
        """Make the bitstream with the words of some memories.

        Parameters
        ----------
        source : Path
            The design's folder.
        memories : sequence of LoadableStream or MemoryContents
            Those of a network of :attr:`shape`, and of the link.
        tool : Tool
            The packer.
        folder : Path
            Where to work, and where the bitstream will be.

        Raises
        ------
        UserError, BuildError
            If the design's text is gone or does not hold the placeholders, or packing fails.
        """
        path = source / blank_name(self.tools)
        progress.step("filling the memories")
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): build it again") from error
        text = fill(text, self.family, memories)
        (folder / f"top{self.tools.configuration}").write_text(text, encoding="utf-8")
        progress.done()
        return pack_bitstream(tool, self.packing[1:], self.tools, folder, progress)
