"""A network as a graph of layers, in its float or its quantized stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flightrtl.model import INPUT, TensorType
from flightrtl.rules import LIMITS

from .binary_layers import BinaryPart
from .layers import QuantizedJoin, QuantizedLayer, QuantizedSumPool

__all__ = ["Network", "Node"]


@dataclass(frozen=True)
class Node:
    """A layer and where its inputs come from.

    Parameters
    ----------
    name : str
        In the exported model; :class:`Network` has the layer under this name in ``layers``.
    inputs : tuple of str
        Names of earlier nodes, or :data:`~flightrtl.model.INPUT`.
    """

    name: str
    inputs: tuple[str, ...]


class Network(nn.Module):
    """Layers in an order in which each comes after its inputs; the last gives the logits.

    Parameters
    ----------
    input : TensorType
        The image.
    nodes : list of Node
        The graph.
    layers : dict of Module
        By name: :class:`~train.layers.QuantizedLayer`, ``QuantizedAdd``, ``QuantizedConcat``,
        ``QuantizedSumPool``, ``nn.MaxPool2d``, ``nn.Dropout`` (float stage only).
    """

    def __init__(self, input: TensorType, nodes: list[Node],
                 layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.input, self.nodes = input, nodes
        self.layers = nn.ModuleDict(layers)
        self.inputs = {node.name: node.inputs for node in nodes}
        self.last_use = {name: index for index, node in enumerate(nodes) for name in node.inputs}

    @property
    def weighted(self) -> list[QuantizedLayer]:
        """The layers that have weights, in order."""
        return [layer for layer in self.layers.values() if isinstance(layer, QuantizedLayer)]

    @property
    def folded(self) -> bool:
        """Whether it is in its quantized stage."""
        return bool(self.weighted[0].folded)

    def forward(self, images: Tensor) -> Tensor:
        """Real-valued logits (N, classes) of integer images (N, C, H, W) in floating point."""
        return self.run(images, lambda name, layer, inputs: layer(*inputs))

    def run(self, images: Tensor,
            compute: Callable[[str, nn.Module, list[Tensor]], Tensor]) -> Tensor:
        """Go through the graph with a computation of one's own, keeping no map longer than needed.

        ``compute`` is given each node's name, its layer and its inputs; what it gives for the last
        one is flattened. :meth:`forward` calls the layers.
        """
        maps = {INPUT: images * 2.0 ** self.input.scale}
        for index, node in enumerate(self.nodes):
            result = compute(node.name, self.layers[node.name],
                             [maps[name] for name in node.inputs])
            for name in set(node.inputs):
                if self.last_use[name] == index:
                    del maps[name]
            maps[node.name] = result
        return result.flatten(1)

    def drop_norms(self) -> None:
        """Make room for the state of a network that was folded."""
        for layer in self.weighted:
            layer.norm = None

    @torch.no_grad()
    def fold(self, images: Tensor) -> None:
        """End the float stage; scales of activations are chosen on ``images``."""
        limits: dict[str, tuple[int, int]] = {}
        for _ in range(2 * len(self.nodes) + 1):        # each time, one more scale has a limit
            if not self._calibrate(images, limits):
                return

    def _owner(self, name: str) -> str:
        """The layer that determines the scale of a result."""
        while name in self.layers and not hasattr(self.layers[name], "output_scale"):
            name = self.inputs[name][0]
        return name

    def _calibrate(self, images: Tensor, limits: dict[str, tuple[int, int]]) -> bool:
        """Choose all scales; whether it found a limit to one, with which to begin again."""
        scales = {INPUT: self.input.scale}
        found = False

        def compute(name: str, layer: nn.Module, inputs: list[Tensor]) -> Tensor:
            nonlocal found
            given = [scales[source] for source in self.inputs[name]]
            if isinstance(layer, BinaryPart):
                started = layer.start(inputs, given)
                scales[name] = int(layer.output_scale)
                return started
            if isinstance(layer, QuantizedLayer):
                if not bool(layer.folded):
                    layer.fold()
                layer.input_scale.fill_(given[0])
                result = layer.convolve(inputs[0], layer.weight, layer.bias)
                # No finer than the accumulator, or the shift behind it would be negative. Weights
                # of the last layer still grow: one binary place is kept for that.
                finest = (given[0] + int(layer.scale(limited=False).max())
                          + int(layer.output.signed))
            elif isinstance(layer, QuantizedSumPool):
                result = nn.functional.avg_pool2d(inputs[0], layer.kernel, layer.stride)
                finest = min(given) - layer.shift
            elif isinstance(layer, QuantizedJoin):
                result = layer.join(*inputs)
                finest = min(given)
                if max(given) - finest > LIMITS.add_shift:
                    found |= self._bring_together(name, given, limits)
            else:
                scales[name] = given[0]
                passed: Tensor = layer.eval()(*inputs)
                return passed
            bounds = {"limits": limits[name]} if name in limits else {}
            layer.calibrate(result, finest, otherwise=max(given), **bounds)
            scales[name] = int(layer.output_scale)
            return layer.activate(result)
        self.run(images, compute)
        return found

    def _bring_together(self, name: str, given: list[int],
                        limits: dict[str, tuple[int, int]]) -> bool:
        """Limit the scale of an operand, so that hardware can shift it to the others'.

        The finer one is made coarser, unless it is the image, whose scale is given.
        """
        fine, coarse = (self._owner(self.inputs[name][given.index(each)])
                        for each in (min(given), max(given)))
        if fine != INPUT:
            limits[fine] = max(given) - LIMITS.add_shift, max(given)
        else:
            limits[coarse] = min(given), min(given) + LIMITS.add_shift
        return True
