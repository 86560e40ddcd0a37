"""Pictures and LEDs in a terminal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from ..formats import IntArray
from ..model import Model

__all__ = ["bar", "colours", "gallery", "pixels"]

_RAMP = " .:-=+*#%@"
_LARGEST = 32   # pixels of a picture's longer side


def colours(stream: TextIO) -> bool:
    """Whether a stream is a terminal with colours; ``NO_COLOR`` in the environment says no."""
    return (stream.isatty() and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb")


def pixels(image: IntArray, model: Model) -> NDArray[np.uint8]:
    """An image as the model takes it, as red, green and blue, (height, width, 3).

    Large ones are made smaller by a whole factor.
    """
    limits = model.input.format
    white = min(2.0 ** -model.input.scale, limits.max)
    low = limits.min if limits.signed else 0
    values = np.clip((image - low) * (255 / max(white - low, 1)), 0, 255).astype(np.uint8)
    if values.shape[2] != 3:
        values = np.repeat(values[:, :, :1], 3, axis=2)
    step = -(-max(values.shape[:2]) // _LARGEST)
    return values[::step, ::step]


def _rows(picture: NDArray[np.uint8], colour: bool) -> list[str]:
    """A picture's lines, each of which shows two rows of it."""
    if picture.shape[0] % 2:
        picture = np.concatenate([picture, np.zeros_like(picture[:1])])
    lines = []
    for upper, lower in zip(picture[::2].tolist(), picture[1::2].tolist(), strict=True):
        if colour:
            text, last = "", None
            for pair in zip(upper, lower, strict=True):
                if pair != last:
                    text += "\x1b[38;2;{};{};{};48;2;{};{};{}m".format(*pair[0], *pair[1])
                    last = pair
                text += "▀"
            lines.append(text + "\x1b[0m")
        else:
            levels = [(sum(a) + sum(b)) // 6 for a, b in zip(upper, lower, strict=True)]
            lines.append("".join(_RAMP[level * len(_RAMP) // 256] for level in levels))
    return lines


def gallery(pictures: Sequence[NDArray[np.uint8]], captions: Sequence[str], *, colour: bool,
            width: int | None = None) -> str:
    """Pictures side by side, each with a caption below it.

    Parameters
    ----------
    pictures : sequence of arrays
        From :func:`pixels`, all of one size.
    captions : sequence of str
        Cut to the width of a picture, or twelve characters if that is less.
    colour : bool
        In colours and half blocks; otherwise in plain characters.
    width : int, optional
        Of the terminal.
    """
    if not pictures:
        return ""
    width = width or shutil.get_terminal_size((100, 24)).columns
    own = pictures[0].shape[1]
    each = max(own, 12)
    many = max(1, (width + 2) // (each + 2))
    lines = []
    for start in range(0, len(pictures), many):
        rows = [_rows(picture, colour) for picture in pictures[start:start + many]]
        lines += ["  ".join(row + " " * (each - own) for row in line).rstrip(" ")
                  for line in zip(*rows, strict=True)]
        lines += ["  ".join(f"{caption[:each]:{each}}"
                            for caption in captions[start:start + many]).rstrip(), ""]
    return "\n".join(lines[:-1])


def bar(value: int, leds: int, *, colour: bool = False) -> str:
    """What a board's LEDs show of a class: in binary, the lowest bit first.

    >>> bar(5, 4)
    '●○●○'
    """
    on, off = ("\x1b[38;2;255;70;40m●\x1b[0m", "\x1b[38;2;110;110;110m○\x1b[0m") if colour else (
        "●", "○")
    return "".join(on if value >> led & 1 else off for led in range(leds))

