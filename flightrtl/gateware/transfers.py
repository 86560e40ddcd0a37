"""How many pixels the streams between the layers of a network carry at a time."""

from __future__ import annotations

from collections.abc import Mapping

from ..model import INPUT, Join, MaxPool, Model, WeightedLayer
from .folding import Folding
from .framing import Framed
from .hardwired import Hardwired
from .pool import pooled_pixels

__all__ = ["LayerChoice", "stream_pixels"]

LayerChoice = Folding | Hardwired | Framed
"""How a layer with weights is computed."""


def stream_pixels(model: Model,
                  foldings: Mapping[str, LayerChoice]) -> dict[str, int]:
    """Pixels of a transfer, for the image (under :data:`INPUT`) and every layer's result.

    The image comes pixel by pixel; a layer with weights gives as many as its folding says and
    takes any number, but one unless it is folded; poolings, additions and concatenations give
    what follows from what they take.

    Parameters
    ----------
    model : Model
        Checked.
    foldings : mapping of str to Folding, Hardwired or Framed
        For each layer with weights, by name.

    Raises
    ------
    ValueError
        If a pooling cannot take what the layer before it gives, or a layer that joins maps is given
        different numbers; names the layers and the foldings to change.
    """
    pixels = {INPUT: 1}
    for layer in model.layers:
        given = [pixels[name] for name in layer.inputs]
        if isinstance(layer, WeightedLayer):
            if layer.name not in foldings:
                raise ValueError(f"layer {layer.name!r} needs a folding")
            choice = foldings[layer.name]
            if not isinstance(choice, Folding) and given[0] > 1:
                what = "is hard-wired" if isinstance(choice, Hardwired) else "has a frame buffer"
                raise ValueError(f"layer {layer.name!r} {what} and takes one pixel at a "
                                 f"time, but {layer.inputs[0]!r} gives {given[0]}: fold what feeds "
                                 "it with pixels=1")
            pixels[layer.name] = choice.pixels
        elif isinstance(layer, Join):
            for name, count in zip(layer.inputs, given, strict=True):
                if count != given[0]:
                    raise ValueError(f"layer {layer.name!r} joins {layer.inputs[0]!r}, which gives "
                                     f"{given[0]} pixels at a time, and {name!r}, which gives "
                                     f"{count}: fold them with the same number")
            pixels[layer.name] = given[0]
        else:
            assert isinstance(layer, MaxPool)
            after = pooled_pixels(given[0], layer.kernel[1], layer.stride[1])
            if after is None:
                raise ValueError(f"layer {layer.name!r} cannot take {given[0]} pixels at a time "
                                 f"with windows of {layer.kernel[1]} columns, stride "
                                 f"{layer.stride[1]}: fold what feeds it with pixels=1")
            pixels[layer.name] = after
    return pixels
