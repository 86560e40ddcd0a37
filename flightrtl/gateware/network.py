# amaranth: UnusedElaboratable=no
# (An object is also the answer in NumPy: its parts need not become hardware.)
"""A whole network: the pipeline of engines for a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike

from ..formats import IntArray
from ..model import (
    INPUT,
    Add,
    Convolution,
    Dense,
    Layer,
    MaxPool,
    Model,
    SumPool,
    TensorType,
    WeightedLayer,
)
from ..modelfile import ModelError
from .argmax import Argmax
from .engine import ConvolutionEngine, DenseEngine, LayerEngine
from .folding import FoldedLayer, Folding
from .hardwired import Hardwired, HardwiredLayer
from .pe import activation_shape
from .pool import MaxPooling, SumPooling
from .transfers import stream_pixels

__all__ = ["Network", "require_supported", "unsupported"]

Stage = LayerEngine | HardwiredLayer | MaxPooling | SumPooling


def _stage(layer: Layer, source: TensorType, pixels: int, folding: Folding | Hardwired | None,
           register: bool) -> Stage:
    """The component that computes one layer, fed ``pixels`` at a time."""
    if isinstance(layer, WeightedLayer):
        assert folding is not None      # stream_pixels has seen to that
        if isinstance(folding, Hardwired):
            assert isinstance(layer, (Convolution, Dense))
            return HardwiredLayer(layer, source, channels=1, filters=1, pixels=folding.pixels,
                                  stage=folding.stage)
        folded = FoldedLayer(layer, source, folding, pixels)
        if isinstance(layer, Dense):
            return DenseEngine(folded, register=register)
        if isinstance(layer, Convolution):
            return ConvolutionEngine(folded, register=register)
    if isinstance(layer, SumPool):
        return SumPooling(shape=source.shape, kernel=layer.kernel, stride=layer.stride,
                          bias=layer.bias, shift=layer.shift, format=source.format,
                          output=layer.output, pixels=pixels)
    if isinstance(layer, MaxPool):
        return MaxPooling(shape=source.shape, kernel=layer.kernel, stride=layer.stride,
                          format=source.format, pixels=pixels)
    raise TypeError(f"no gateware for {layer!r}")


def unsupported(model: Model) -> list[str]:
    """Every layer that there is no gateware for, one sentence each; empty if there is for all.

    Parameters
    ----------
    model : Model
        Free of problems (:func:`flightrtl.check.check`).
    """
    found = []
    before = INPUT
    for layer in model.layers:
        if isinstance(layer, Add):
            found.append(f"layer {layer.name!r}: there is no hardware for additions yet: train a "
                         "network without residual connections")
        elif layer.inputs != (before,):
            found.append(f"layer {layer.name!r}: it takes the result of {layer.inputs[0]!r}, not "
                         f"that of the layer before, {before!r}, and there is no hardware for "
                         "branches yet: train a network whose layers form a chain")
        before = layer.name
    return found


def require_supported(model: Model) -> None:
    """Do nothing for a model that can be built.

    Raises
    ------
    ModelError
        With all that :func:`unsupported` finds.
    """
    problems = unsupported(model)
    if problems:
        raise ModelError(f"no hardware can be built for model {model.name!r} (flightrtl.golden "
                         "computes it)", problems)


class Network(wiring.Component):
    """A model as a pipeline of stream components, all layers at work at the same time.

    Images may follow each other without a gap. The slowest layer sets the pace: an image every
    ``max(FoldedLayer.cycles)`` cycles, or as many as it has values, if that is more.

    Cost: the sum of the engines. Latency and throughput: those of the planner's report.

    Parameters
    ----------
    model : Model
        The network, checked.
    foldings : mapping of str to Folding or Hardwired
        For each convolution and dense layer, by name.
    memory_register : bool
        A register behind each memory: free on ECP5 and needed for its clock; off on iCE40, see
        :class:`~flightrtl.gateware.weights.RomStream`.

    Members
    -------
    i : In(stream) of the input's activation
        Images by row, column, channel.
    o : Out(stream) of struct
        ``logit``, one after the other; ``last``: 1 on an image's last logit; ``winner``: valid
        on that transfer, the index of the greatest logit (the first of equal ones).

    Raises
    ------
    ValueError
        If a layer has no folding, a folding no layer, a folding does not fit its layer, or the
        layers do not agree on the pixels of a transfer
        (:func:`~flightrtl.gateware.transfers.stream_pixels`).
    ModelError
        If there is no gateware for a layer, or the layers do not form a chain.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, model: Model, foldings: Mapping[str, Folding | Hardwired], *,
                 memory_register: bool = False) -> None:
        require_supported(model)
        unknown = set(foldings) - {layer.name for layer in model.layers
                                   if isinstance(layer, WeightedLayer)}
        if unknown:
            raise ValueError(f"no layer with weights is called {', '.join(sorted(unknown))}")
        self.model = model
        pixels = stream_pixels(model, foldings)
        if pixels[model.layers[-1].name] > 1:
            raise ValueError(f"layer {model.layers[-1].name!r} gives the logits: it must be "
                             "folded with pixels=1")
        self.stages = {layer.name: _stage(layer, model.source(layer), pixels[layer.inputs[0]],
                                          foldings.get(layer.name), memory_register)
                       for layer in model.layers}
        self.argmax = Argmax(width=model.output.format.bits, count=model.output.size)
        super().__init__({
            "i": In(stream.Signature(activation_shape(model.input.format))),
            "o": Out(self.argmax.o.signature),
        })

    def compute(self, images: ArrayLike) -> IntArray:
        """Logits (n, classes) of (n, height, width, channels) images, stage by stage."""
        values: Any = images
        for stage in self.stages.values():
            values = stage.compute(values)
        return values.reshape(len(values), -1)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        before: Any = wiring.flipped(self.i)
        for name, stage in self.stages.items():
            m.submodules[name] = stage
            wiring.connect(m, before, stage.i)
            before = stage.o
        m.submodules.argmax = self.argmax
        wiring.connect(m, before, self.argmax.i)
        wiring.connect(m, self.argmax.o, wiring.flipped(self.o))
        return m
