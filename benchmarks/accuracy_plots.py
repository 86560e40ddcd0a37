"""Pictures of the table: top-1 against mean k, and against model bits, beside published figures."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flightrtl.files import atomic_path

from .accuracy_rows import Group, Row, grouped
from .published import Published
from .published import load as load_published

__all__ = ["PICTURES", "digest", "draw", "drawn_digest"]

DOCS = Path(__file__).parent.parent / "docs"

PICTURES = {"k": DOCS / "accuracy-k.svg", "bits": DOCS / "accuracy-bits.svg"}
"""The pictures by what is across."""

_COLOURS = {"flightnn": "#c1272d", "lightnn1": "#5b9bd5", "lightnn2": "#1f4e79",
            "fixed": "#2e8b57", "nbq": "#e08a00", "bnn": "#7b4ea3", "mixed": "#d147a3",
            "float": "black"}
_MARKERS = "osD^vPX<>p"
_GREY, _TEXT_GREY = "0.6", "0.4"
_COLUMNS = 2
_K_RANGE = (0.6, 2.5)
_LABEL_GAP = 0.028
_LEFT = "DeepShift-Q"
"""Its labels stand on the other side of the marks, which are many at one term."""
_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "mnist": "MNIST",
           "fashion-mnist": "Fashion-MNIST", "svhn": "SVHN"}
_ACROSS = {"k": "terms in a weight (mean k of the filters)", "bits": "bits of all weights"}


def _mega(bits: float, position: object = None) -> str:
    """Bits for an axis.

    >>> _mega(200_000), _mega(5e6)
    ('0.2 M', '5 M')
    """
    return f"{bits / 1e6:g} M"


def _x(group: Group, across: str) -> float | None:
    return group.mean_k if across == "k" else group.model_bits


def _published_x(each: Published, across: str) -> int | None:
    if each.model_bits is None:     # mostly larger networks: they would crowd the picture
        return None
    return each.terms if across == "k" else each.model_bits


def _content(rows: Sequence[Row], across: str) -> list[tuple[str, list[Group], list[Published]]]:
    """Of each panel: data set, measured groups, published figures."""
    groups = grouped(rows)
    neighbours = [each for each in load_published() if _published_x(each, across) is not None]
    names = sorted({group.first.dataset for group in groups}
                   or {each.dataset for each in neighbours})
    return [(name, [group for group in groups if group.first.dataset == name],
             [each for each in neighbours if each.dataset == name]) for name in names]


def digest(rows: Sequence[Row], across: str) -> str:
    """A fingerprint of all that a picture shows, which is kept in it."""
    shown = [[name, [[group.first.network, group.first.method, group.accuracies, _x(group, across)]
                     for group in groups],
              [[each.network, each.method, each.top1, _published_x(each, across)]
               for each in neighbours]] for name, groups, neighbours in _content(rows, across)]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]


def drawn_digest(picture: Path) -> str | None:
    """The fingerprint in a picture."""
    found = re.search("data ([0-9a-f]{16})", picture.read_text(encoding="utf-8"))
    return found[1] if found else None


def _label(each: Published) -> str:
    """A short name: the depth of a ResNet, the first word otherwise."""
    return each.network.removeprefix("ResNet-").split()[0]


def _labels(axes: Any, neighbours: Sequence[Published], across: str) -> None:
    """Name published networks beside their marks, one above the other where they are close."""
    low, high = axes.get_ylim()
    gap = (high - low) * _LABEL_GAP
    last: dict[bool, float] = {}
    # Of a network with several widths only the best is named.
    best = {(each.method, each.network): each for each in sorted(neighbours, key=_top1)}
    for each in sorted(best.values(), key=_top1):
        left = across == "k" and each.method == _LEFT
        y = 100 * each.top1
        if across == "k":       # all of them are at one or two terms
            y = last[left] = max(y, last.get(left, low) + gap)
        label = _label(each)
        axes.text(_published_x(each, across), y, f"{label}   " if left else f"   {label}",
                  color=_TEXT_GREY, fontsize=6, va="center", ha="right" if left else "left")


def _top1(each: Published) -> float:
    return each.top1


def _panel(axes: Any, groups: Sequence[Group], neighbours: Sequence[Published],
           networks: dict[str, str], systems: dict[str, str], across: str) -> None:
    """One data set."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
    for each in neighbours:
        axes.plot(_published_x(each, across), 100 * each.top1, linestyle="none", markersize=4,
                  marker=systems[each.method], color=_GREY, markerfacecolor="none")
    for group in groups:
        colour = _COLOURS.get(group.first.method, "0.3")
        x = _x(group, across)
        if x is None:       # no terms to count: a level to compare with
            axes.axhline(100 * group.accuracy, color=colour, linestyle="--", linewidth=0.8)
            continue
        values = [100 * value for value in group.accuracies]
        mean = 100 * group.accuracy
        axes.errorbar(x, mean, yerr=[[mean - min(values)], [max(values) - mean]], capsize=2,
                      marker=networks[group.first.network], color=colour, markersize=5,
                      linewidth=1)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.set_xlabel(_ACROSS[across])
    axes.set_ylabel("top-1, %")
    if across == "bits":
        axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(_mega))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(*_K_RANGE)
    _labels(axes, neighbours, across)


def _handles(content: Sequence[tuple[str, list[Group], list[Published]]],
             networks: dict[str, str], systems: dict[str, str], across: str) -> list[Any]:
    """The legend: colours are methods, shapes are networks, grey is published."""
    from matplotlib.lines import Line2D
    groups = [group for _, found, _ in content for group in found]
    methods = sorted({group.first.method for group in groups})
    levels = {group.first.method for group in groups if _x(group, across) is None}
    result = [Line2D([], [], color=_COLOURS.get(method, "0.3"), linewidth=1 if method in levels
                     else 4, linestyle="--" if method in levels else "-", label=method)
              for method in methods]
    result += [Line2D([], [], color="black", marker=marker, linestyle="none", label=network)
               for network, marker in networks.items()]
    return result + [Line2D([], [], color=_GREY, marker=marker, markerfacecolor="none",
                            linestyle="none", label=f"{system} (published)")
                     for system, marker in systems.items()]


def draw(rows: Sequence[Row], across: str, path: Path) -> None:
    """Draw one of the pictures, as SVG.

    Parameters
    ----------
    rows : sequence of Row
        What was measured.
    across : {"k", "bits"}
        The horizontal axis.
    path : Path
        Where to.
    """
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    content = _content(rows, across)
    networks = {name: _MARKERS[i % len(_MARKERS)] for i, name in enumerate(sorted(
        {group.first.network for _, groups, _ in content for group in groups}))}
    systems = {name: _MARKERS[i % len(_MARKERS)] for i, name in enumerate(sorted(
        {each.method for _, _, neighbours in content for each in neighbours}))}
    lines = -(-len(content) // _COLUMNS)
    columns = min(_COLUMNS, len(content))
    with pyplot.rc_context({"svg.hashsalt": "flightrtl", "font.size": 9}):
        figure, grid = pyplot.subplots(lines, columns, squeeze=False, layout="constrained",
                                       figsize=(4.2 * columns + 2.6, max(3.4 * lines, 4.2)))
        for axes, (name, groups, neighbours) in zip(grid.flat, content, strict=False):
            _panel(axes, groups, neighbours, networks, systems, across)
            axes.set_title(_TITLES.get(name, name))
        for axes in grid.flat[len(content):]:
            axes.set_axis_off()
        figure.legend(handles=_handles(content, networks, systems, across),
                      loc="outside right upper", fontsize=8, frameon=False)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], metadata={
                "Date": None, "Creator": None, "Description": f"data {digest(rows, across)}"})
        pyplot.close(figure)
