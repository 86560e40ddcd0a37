"""Draw a training log: ``python -m train.plot LOG.json --output PICTURE.svg`` (or .png, .pdf).

Three panels over the epochs: top-1; mean number of terms of each layer's filters; and what each
layer's first terms leave over of its weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flightrtl.errors import UserError, run_cli
from flightrtl.files import atomic_path

__all__ = ["draw", "main"]

_SUFFIXES = (".svg", ".png", ".pdf")


def draw(log: dict[str, Any], path: Path) -> None:
    """Draw a log as :mod:`train.journal` writes it; the suffix of ``path`` names the format."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    epochs = log["epochs"]
    quantized = [epoch for epoch in epochs if "layers" in epoch]
    x = [epoch["epoch"] for epoch in quantized]
    with pyplot.rc_context({"svg.hashsalt": "flightrtl", "font.size": 9}):
        figure, (top, middle, bottom) = pyplot.subplots(3, 1, sharex=True, figsize=(7, 8),
                                                        layout="constrained")
        top.plot([epoch["epoch"] for epoch in epochs], [100 * epoch["top1"] for epoch in epochs],
                 color="black")
        top.set_ylabel("top-1, %")
        top.axvline(len(epochs) - len(quantized) + 0.5, color="gray", linestyle=":")
        top.set_title(f"{log['recipe']['dataset']}: float stage, then quantized stage")
        for name in quantized[0]["layers"] if quantized else ():
            layers = [epoch["layers"][name] for epoch in quantized]
            line, = middle.plot(x, [layer["mean_k"] for layer in layers], label=name)
            bottom.plot(x, [layer["relative_residual"] for layer in layers],
                        color=line.get_color(), label=name)
        middle.set_ylabel("terms per weight, mean")
        middle.legend(loc="upper right")
        bottom.set_ylabel("norm after one term / norm")
        bottom.set_xlabel("epoch")
        with atomic_path(path) as temporary:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(temporary, format=path.suffix[1:], metadata=metadata)
        pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m train.plot",
                                     description="Draw the log of a training run.")
    parser.add_argument("log", help="the .json file beside a trained model")
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
        draw(log, output)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{source}: not the log of a training run "
                        f"({type(error).__name__}: {error})") from None
    print(output)
    return 0


if __name__ == "__main__":
    run_cli(main)
