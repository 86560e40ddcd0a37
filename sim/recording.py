"""What a command wrote to a terminal, as a picture (SVG)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

__all__ = ["svg"]

_COLUMN, _LINE = 8.4, 17.0      # of a character, in pixels
_EDGE = 14.0
_BACKGROUND, _TEXT, _COMMAND = "#16181d", "#d8dee9", "#a3be8c"
_ESCAPE = re.compile(r"\x1b\[([\d;]*)m")
_COLOUR = re.compile(r"(38|48);2;(\d+);(\d+);(\d+)")

Cell = tuple[str, str, str]
"""A character, its colour and that behind it."""


def svg(text: str, *, columns: int = 0) -> str:
    """The picture of a terminal with a text in it.

    Parameters
    ----------
    text : str
        With escape sequences for colours (24 bits) and the character ``▀``, of which each half is
        drawn as a pixel. Lines that begin with ``$`` are commands.
    columns : int
        Width, at least.
    """
    lines = [list(_cells(line)) for line in text.rstrip("\n").split("\n")]
    columns = max([columns, *map(len, lines)])
    width, height = columns * _COLUMN + 2 * _EDGE, len(lines) * _LINE + 2 * _EDGE
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
             f'viewBox="0 0 {width:.0f} {height:.0f}">',
             f'<rect width="100%" height="100%" rx="8" fill="{_BACKGROUND}"/>',
             '<g shape-rendering="crispEdges">']
    for number, line in enumerate(lines):
        parts += _pixels(line, _EDGE + number * _LINE)
    parts += ["</g>", '<g font-family="ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace" '
              'font-size="14" xml:space="preserve">']
    for number, line in enumerate(lines):
        parts += _words(line, _EDGE + (number + 0.76) * _LINE)
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _cells(line: str) -> Iterator[Cell]:
    front, behind = (_COMMAND if line.startswith("$") else _TEXT), _BACKGROUND
    start = 0
    for match in [*_ESCAPE.finditer(line), None]:
        for character in line[start:match.start() if match else len(line)]:
            yield character, front, behind
        if match is None:
            return
        start = match.end()
        if match[1] in ("", "0"):
            front, behind = _TEXT, _BACKGROUND
        for which, red, green, blue in _COLOUR.findall(match[1]):
            colour = f"#{int(red):02x}{int(green):02x}{int(blue):02x}"
            front, behind = (colour, behind) if which == "38" else (front, colour)


def _runs(values: list[str | None]) -> Iterator[tuple[int, int, str]]:
    """Start, length and value of each run of equal values, without those that are None."""
    start = 0
    for end in range(1, len(values) + 1):
        if end == len(values) or values[end] != values[start]:
            if (value := values[start]) is not None:
                yield start, end - start, value
            start = end


def _pixels(line: list[Cell], top: float) -> Iterator[str]:
    """The upper and the lower halves of the cells that are two pixels."""
    for half, index in enumerate((1, 2)):
        colours = [cell[index] if cell[0] == "▀" else None for cell in line]
        for start, length, colour in _runs(colours):
            yield (f'<rect x="{_EDGE + start * _COLUMN:.1f}" y="{top + half * _LINE / 2:.1f}" '
                   f'width="{length * _COLUMN:.1f}" height="{_LINE / 2:.1f}" fill="{colour}"/>')


def _words(line: list[Cell], base: float) -> Iterator[str]:
    """The texts of one colour each, as wide as in a terminal whatever the font."""
    colours = [None if cell[0] in "▀ " else cell[1] for cell in line]
    for start, length, colour in _runs(colours):
        word = "".join(cell[0] for cell in line[start:start + length])
        yield (f'<text x="{_EDGE + start * _COLUMN:.1f}" y="{base:.1f}" fill="{colour}" '
               f'textLength="{length * _COLUMN:.1f}">{escape(word)}</text>')
