"""The generated parts of ``docs/accuracy.md``: tables and verdicts between marker comments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from flightrtl.errors import UserError

from . import published
from .accuracy_claims import Verdict, comparisons, targets
from .accuracy_rows import Group, Row, grouped

__all__ = ["PAGE", "filled", "parts"]

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"

_HEAD = ("| Method | Weights | Activations | Mean k | Model bits | Float top-1 | Top-1 "
         "| Lowest to highest | Epochs | Runs |\n"
         "|---|---|---|---|---|---|---|---|---|---|\n")


def _percent(rate: float | None) -> str:
    """A rate for people.

    >>> _percent(0.99314), _percent(None)
    ('99.31 %', '')
    """
    return "" if rate is None else f"{100 * rate:.2f} %"


def _span(values: Sequence[int]) -> str:
    """Numbers that occur, for people.

    >>> _span([4]), _span([2, 3, 4])
    ('4', '2 to 4')
    """
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _weights(row: Row) -> str:
    """The weights' formats in a few words."""
    formats = row.formats
    texts = {"terms": f"{_span([bits + 1 for bits in formats['exponent_bits']] or [0])}-bit terms",
             "fixed": f"{_span(_fixed_bits(row) or [0])}-bit fixed point",
             "binary": "binary", "float": "float32"}
    return ", ".join(texts[kind] for kind in formats["weights"])


def _fixed_bits(row: Row) -> list[int]:
    return sorted({layer["weight_bits"] for layer in row.layers.values()
                   if layer["weights"] == "fixed"})


_SHOWN = {"seed", "epochs", "exponent_bits", "activation_bits", "weight_bits"}


def _special(group: Group, groups: Sequence[Group]) -> str:
    """What sets a group apart from others of the same method: the settings that differ."""
    one = group.first
    recipes = [other.first.recipe for other in groups
               if (other.first.dataset, other.first.network, other.first.method)
               == (one.dataset, one.network, one.method)]
    keys = sorted({key for recipe in recipes for key in recipe
                   if recipe[key] != one.recipe.get(key)} - _SHOWN)
    return "".join(f", {key} {one.recipe.get(key)}" for key in keys)


def _line(group: Group, groups: Sequence[Group]) -> str:
    row = group.first
    bits = row.formats["activation_bits"]
    activations = ("float32" if row.method == "float" else f"{_span(bits)} bit" if bits else "")
    runs = " ".join(f"[{each.seed}](../benchmarks/accuracy/{each.name}.json)"
                    for each in group.rows)
    spread = ("" if len(group.rows) == 1 else f"{100 * min(group.accuracies):.2f} to "
              f"{100 * max(group.accuracies):.2f}")
    top1 = "" if row.method == "float" else _percent(group.accuracy)
    return (f"| `{row.method}`{_special(group, groups)} | {_weights(row)} | {activations} | "
            f"{'' if group.mean_k is None else f'{group.mean_k:.2f}'} | {group.model_bits:,.0f} | "
            f"{_percent(group.float_accuracy)} | {top1} | {spread} | {row.epochs} | {runs} |\n")


def _measured(groups: Sequence[Group]) -> str:
    """One table for each data set and network."""
    text, title = "", None
    for group in groups:
        row = group.first
        now = f"### {row.dataset}, {row.network}\n\n"
        if now != title:
            machines = sorted({each.machine for other in groups for each in other.rows
                               if (other.first.dataset, other.first.network)
                               == (row.dataset, row.network)})
            text += ("\n" if text else "") + now
            text += (f"{row.weights:,} weights, {row.images:,} test images. Trained on "
                     f"{' and '.join(machines)}.\n\n" + _HEAD)
            title = now
        text += _line(group, groups)
    return text or "No row yet.\n"


def _verdicts(found: Sequence[Verdict]) -> str:
    words = {True: "holds", False: "**does not hold**", None: "open"}
    return ("| Claim | | Measured |\n|---|---|---|\n" + "".join(
        f"| {verdict.claim} | {words[verdict.holds]} | {verdict.reason} |\n"
        for verdict in found))


def _published() -> str:
    """The neighbours, best first within a data set, and their sources."""
    sources = published.sources()
    numbers = {key: number for number, key in enumerate(sources, 1)}
    text = ("| Data set | Network | Method | Weights | Activations | Terms | Float top-1 | Top-1 | "
            "Source | |\n|---|---|---|---|---|---|---|---|---|---|\n")
    order = sorted(published.load(), key=lambda each: (each.dataset, -each.top1))
    for each in order:
        def bits(number: int | None) -> str:
            return "" if number is None else f"{number} bit"
        text += (f"| {each.dataset} | {each.network} | {each.method} | {bits(each.weight_bits)} | "
                 f"{bits(each.activation_bits)} | {each.terms or ''} | "
                 f"{_percent(each.float_top1)} | {_percent(each.top1)} | "
                 f"{numbers[each.source]} | {each.note} |\n")
    return text + "\n" + "".join(f"{numbers[key]}. [{what}]({url})\n"
                                 for key, (what, url) in sources.items())


def parts(rows: Sequence[Row]) -> dict[str, str]:
    """The generated parts by the name in their markers."""
    groups = grouped(rows)
    return {"targets": _verdicts(targets(groups)), "comparisons": _verdicts(comparisons(groups)),
            "measured": _measured(groups), "published": _published()}


def filled(page: str, found: dict[str, str], name: str = "docs/accuracy.md") -> str:
    r"""A page with its generated parts replaced.

    Parameters
    ----------
    page : str
        With a pair of markers for each part.
    found : dict
        From :func:`parts`.
    name : str
        Of the page, for messages.

    Raises
    ------
    UserError
        If a marker is missing.

    >>> filled("a\n<!-- x: generated -->\nold\n<!-- x: end -->\nb", {"x": "new\n"})
    'a\n<!-- x: generated -->\nnew\n<!-- x: end -->\nb'
    """
    for part, text in found.items():
        pattern = re.compile(f"(<!-- {part}: generated -->\n).*?(<!-- {part}: end -->)", re.DOTALL)
        if not pattern.search(page):
            raise UserError(f"{name} has no markers for {part!r}: put <!-- {part}: generated --> "
                            f"and <!-- {part}: end --> on lines of their own")
        page = pattern.sub(lambda match, text=text: match[1] + text + match[2], page)  # type: ignore[misc]
    return page
