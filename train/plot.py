"""Draw a training log: ``python -m train.plot LOG.json --output PICTURE.svg`` (or .png, .pdf).

Over the epochs: loss, top-1, mean number of terms of each layer's filters, what each layer's first
terms leave over of its weights, and for each layer how many filters have how many terms. Then, from
the model file, how often each integer occurs among each layer's weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flightrtl import modelfile
from flightrtl.errors import UserError, run_cli
from flightrtl.files import atomic_path
from flightrtl.model import Model, WeightedLayer

__all__ = ["draw", "k_shares", "main"]

_SUFFIXES = (".svg", ".png", ".pdf")
_COLUMNS = 5
_WIDTH = 11.0
_ROW = 1.55
_LEGEND_LAYERS = 12
_FEW = 16
_TERM_COLOURS = ("#d9d9d9", "#9ecae1", "#3182bd", "#08519c", "#08306b")


def k_shares(histograms: Sequence[Mapping[str, int]]) -> dict[int, list[float]]:
    """Share of a layer's filters by their number of terms, over the epochs.

    Parameters
    ----------
    histograms : sequence of mapping
        Of each epoch: number of terms (as text, as JSON has it) to filters.

    >>> k_shares([{"1": 0, "2": 4}, {"1": 3, "2": 1}])
    {1: [0.0, 0.75], 2: [1.0, 0.25]}
    """
    every = sorted({int(k) for each in histograms for k, count in each.items() if count})
    return {k: [each.get(str(k), 0) / sum(each.values()) for each in histograms] for k in every}


def _shade(index: int, count: int) -> Any:
    """Colour of a layer: dark for the first, light for the last."""
    from matplotlib import colormaps
    return colormaps["viridis"](0.9 * index / max(1, count - 1))


def _summary(figure: Any, log: dict[str, Any]) -> None:
    """Loss, top-1, mean k and residuals over the epochs."""
    epochs = log["epochs"]
    quantized = [epoch for epoch in epochs if "layers" in epoch]
    x = [epoch["epoch"] for epoch in epochs]
    names = list(quantized[0]["layers"]) if quantized else []
    residuals = bool(quantized) and all("relative_residual" in each
                                        for each in quantized[0]["layers"].values())
    panels = figure.subplots(1, 2 + bool(names) + residuals, squeeze=False)[0]
    panels[0].plot(x, [epoch["loss"] for epoch in epochs], color="black")
    panels[0].set_title("loss")
    panels[1].plot(x, [100 * epoch["top1"] for epoch in epochs], color="black")
    panels[1].set_title(f"top-1, % (last {100 * epochs[-1]['top1']:.2f})")
    for axes, key, title in zip(panels[2:], ("mean_k", "relative_residual"), (
            "mean k of each layer", "norm after one term / norm"), strict=False):
        for index, name in enumerate(names):
            axes.plot([epoch["epoch"] for epoch in quantized],
                      [epoch["layers"][name][key] for epoch in quantized],
                      color=_shade(index, len(names)), label=name, linewidth=1)
        axes.set_title(title)
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.grid(color="0.92")
        axes.set_xlim(x[0] - 0.5, x[-1] + 0.5)
        if quantized and len(quantized) < len(epochs):
            axes.axvline(len(epochs) - len(quantized) + 0.5, color="gray", linestyle=":")
    if names and len(names) <= _LEGEND_LAYERS:
        figure.legend(*panels[2].get_legend_handles_labels(), loc="outside right center",
                      fontsize=7, frameon=False)
    elif names:
        panels[2].set_title("mean k (dark: first layer)")


def _grid(figure: Any, count: int) -> list[Any]:
    """Small panels in rows; those that are left over are not drawn."""
    rows = -(-count // _COLUMNS)
    panels = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return panels[:count]


def _terms(figure: Any, quantized: Sequence[dict[str, Any]]) -> None:
    """For each layer, how many of its filters have how many terms, over the epochs."""
    from matplotlib.patches import Patch
    names = list(quantized[0]["layers"])
    x = [epoch["epoch"] for epoch in quantized]
    shown: set[int] = set()
    for axes, name in zip(_grid(figure, len(names)), names, strict=True):
        layers = [epoch["layers"][name] for epoch in quantized]
        shares = k_shares([layer["k_histogram"] for layer in layers])
        shown |= set(shares)
        # A step for each epoch, so that a run of one epoch is an area too.
        edges = np.arange(x[0] - 0.5, x[-1] + 1)
        low = np.zeros(len(x))
        for k, share in shares.items():
            high = low + share
            axes.stairs(100 * high, edges, baseline=100 * low, fill=True, color=_colour(k))
            low = high
        axes.set_ylim(0, 100)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_title(f"{name}, mean k {layers[-1]['mean_k']:.2f}", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.suptitle("filters by their number of terms, %, over the epochs", fontsize=9)
    figure.legend(handles=[Patch(color=_colour(k), label=f"k = {k}") for k in sorted(shown)],
                  loc="outside right center", fontsize=7, frameon=False)


def _colour(k: int) -> str:
    return _TERM_COLOURS[min(k, len(_TERM_COLOURS) - 1)]


def _weights(figure: Any, layers: Sequence[WeightedLayer]) -> None:
    """How often each integer occurs among each layer's weights."""
    for axes, layer in zip(_grid(figure, len(layers)), layers, strict=True):
        values, counts = np.unique(layer.weights, return_counts=True)
        axes.vlines(values, 0, 100 * counts / counts.sum(), color="#3182bd", linewidth=1.5)
        largest = max(1, int(abs(values).max()))
        axes.set_xscale("symlog", base=2, linthresh=1, linscale=0.7)
        axes.set_xlim(-1.6 * largest, 1.6 * largest)
        ticks = [1 << exponent for exponent in range(
            0, largest.bit_length(), 1 if largest < _FEW else 3)]
        axes.set_xticks([*(-tick for tick in reversed(ticks)), 0, *ticks],
                        [*(f"−{tick}" for tick in reversed(ticks)), "0", *map(str, ticks)])
        axes.xaxis.set_tick_params(which="minor", bottom=False)
        axes.set_ylim(bottom=0)
        axes.set_title(layer.name, fontsize=8)
        axes.tick_params(labelsize=7)
    figure.suptitle("weights of the model by their integer, %", fontsize=9)


def draw(log: dict[str, Any], path: Path, model: Model | None = None) -> None:
    """Draw a log as :mod:`train.journal` writes it.

    Parameters
    ----------
    log : dict
        With one epoch or more.
    path : Path
        Its suffix names the format: svg, png or pdf.
    model : Model, optional
        What the run gave, for the weights.
    """
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    quantized = [epoch for epoch in log["epochs"] if "layers" in epoch]
    layers = [] if model is None else [layer for layer in model.layers
                                       if isinstance(layer, WeightedLayer)]
    rows = [-(-len(quantized[0]["layers"]) // _COLUMNS) if quantized else 0,
            -(-len(layers) // _COLUMNS)]
    heights = [2.6, *(0.5 + _ROW * count for count in rows if count)]
    with pyplot.rc_context({"svg.hashsalt": "flightrtl", "font.size": 8,
                            "axes.titlesize": 9}):
        figure = pyplot.figure(figsize=(_WIDTH, sum(heights) + 0.4), layout="constrained")
        parts = iter(figure.subfigures(len(heights), 1, height_ratios=heights,
                                       squeeze=False)[:, 0])
        recipe = log["recipe"]
        figure.suptitle(f"{recipe['dataset']}, {recipe['network']}, {recipe['method']}, seed "
                        f"{recipe['seed']}")
        _summary(next(parts), log)
        if quantized:
            _terms(next(parts), quantized)
        if layers:
            _weights(next(parts), layers)
        with atomic_path(path) as temporary:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(temporary, format=path.suffix[1:], metadata=metadata)
        pyplot.close(figure)


def _model(source: Path, name: str | None) -> Model | None:
    """The model that was asked for, or the one beside the log if there is one."""
    if name is not None:
        return modelfile.load(name)
    beside = source.with_suffix(".safetensors")
    if not beside.is_file():
        return None
    try:
        return modelfile.load(beside)
    except UserError:       # a float network
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m train.plot",
                                     description="Draw the log of a training run.")
    parser.add_argument("log", help="the .json file beside a trained model")
    parser.add_argument("--model", metavar="NAME", help="a model file or a bundled model, for its "
                                                        "weights; default: the file beside the log")
    parser.add_argument("--output", metavar="FILE", help="default: LOG.svg")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("drawing needs matplotlib, which is not installed: pip install matplotlib")
    source = Path(options.log)
    output = Path(options.output) if options.output else source.with_suffix(".svg")
    if output.suffix not in _SUFFIXES:
        raise UserError(f"--output {output}: the file's name must end in {', '.join(_SUFFIXES)}")
    try:
        log = json.loads(source.read_text(encoding="utf-8"))
        if not log["epochs"]:
            raise UserError(f"{source}: no epoch is done yet; draw it later")
        draw(log, output, _model(source, options.model))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{source}: not the log of a training run "
                        f"({type(error).__name__}: {error})") from None
    print(output)
    return 0


if __name__ == "__main__":
    run_cli(main)
