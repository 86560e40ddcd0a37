"""Any PyTorch network of supported layers as one that trains quantized: :func:`convert`.

Batch norm and ReLU are merged into the convolution, dense layer or addition in front of them.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from flightrtl.errors import UserError
from flightrtl.formats import ActivationFormat
from flightrtl.model import INPUT, TensorType

from .binary_layers import BinaryAdd, BinaryLayer, BinaryPart, BinarySumPool
from .equivalence import difference
from .layers import QuantizedAdd, QuantizedConcat, QuantizedLayer, QuantizedSumPool
from .methods import METHODS, LayerSettings
from .network import Network, Node
from .quantizers.base import Quantizer
from .quantizers.sparse import SparseQuantizer
from .tracing import ConversionError, TracedLayer, Tracer

__all__ = ["ConversionError", "convert"]

_TOLERANCE = 1e-3


def convert(module: nn.Module, input: TensorType, settings: LayerSettings | None = None, *,
            layers: Mapping[str, LayerSettings] | None = None, logit_bits: int = 16) -> Network:
    """A network that computes what ``module`` computes, and that can be quantized and exported.

    Weights, biases and batch-norm statistics are taken over, so that a trained network can be
    given; ``module`` itself is left as it is. It is converted as it computes in evaluation, and
    both are compared on two images.

    Parameters
    ----------
    module : nn.Module
        Takes images (N, C, H, W) and gives logits (N, classes). Supported, as modules, functions
        or methods: ``Conv2d`` (grouped and depthwise, too) and ``Linear``, each followed by batch
        norm, ReLU or not; zero-padding in front of a convolution; ReLU, also
        behind an addition or a pooling; max-pooling; average pooling and the mean over rows and
        columns, over a power of two of values; addition of two maps; ``torch.cat`` of maps along
        their channels; ``flatten``, ``view``,
        dropout, ``Identity``. What has weights is called once.
    input : TensorType
        Shape (height, width, channels), format and scale of the image: what ``module`` sees is
        the integers times ``2**scale``.
    settings : LayerSettings, optional
        For every layer.
    layers : mapping of str to LayerSettings, optional
        For single ones, by their name in the result: that of the attribute (``block1.conv2`` is
        ``block1_conv2``).
    logit_bits : int
        Of the result (signed).

    Returns
    -------
    Network
        In its float stage.

    Raises
    ------
    ConversionError
        With *all* layers that are not supported, and why.
    UserError
        If ``layers`` names a layer that is not there.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
    ...                     nn.Linear(4 * 6 * 6, 10))
    >>> converted = convert(net, TensorType((8, 8, 1), ActivationFormat(5), -4))
    >>> [node.name for node in converted.nodes]
    ['conv1', 'dense1']
    """
    settings = settings or LayerSettings()
    module = copy.deepcopy(module).cpu().float().eval()
    collected = Tracer(module, input).collect()
    names = [layer.name for layer in collected if layer.kind not in ("pool", "dropout")]
    for name in layers or ():
        if name not in names:
            raise UserError(f"there is no layer {name!r} that settings could be given for; there "
                            f"are {', '.join(names)}")
    result = _build(collected, input, settings, dict(layers or {}), logit_bits)
    try:
        apart = difference(module, result)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise ConversionError([f"it does not compute logits of an image {input.shape}: {error}"
                               ]) from error
    if apart > _TOLERANCE:
        raise ConversionError([
            f"its logits are not those of the layers found in it (they differ by {apart:.1e}): "
            "leave out hooks, what is random in evaluation, and values changed in place"])
    return result


def _build(collected: list[TracedLayer], input: TensorType, settings: LayerSettings,
           special: dict[str, LayerSettings], logit_bits: int) -> Network:
    """The network of collected layers."""
    users: dict[str, list[TracedLayer]] = {}
    for layer in collected:
        for name in layer.inputs:
            users.setdefault(name, []).append(layer)
    layers: dict[str, nn.Module] = {}
    signs = _Signs(settings, {INPUT: input.format}, {INPUT: 0})
    for layer in collected:
        last = layer is collected[-1]
        own = special.get(layer.name, signs.usual(layer, last))
        if layer.kind == "pool":
            layers[layer.name] = nn.MaxPool2d(layer.window[0], layer.window[1])
        elif layer.kind == "dropout":
            assert layer.module is not None
            layers[layer.name] = layer.module
        else:
            output = (ActivationFormat(logit_bits, signed=True) if last else
                      ActivationFormat(1) if signs.binary and layer.relu else
                      ActivationFormat(own.activation_bits) if layer.relu or _positive(
                          layer, collected) else ActivationFormat(own.residual_bits, signed=True))
            layers[layer.name] = _layer(layer, own, output, signs, layer.relu and not last)
        signs.note(layer, layers[layer.name])
    return Network(input, [Node(layer.name, layer.inputs) for layer in collected], layers)


def _positive(layer: TracedLayer, collected: list[TracedLayer]) -> bool:
    """Whether a result is never negative, because no input is."""
    if layer.kind not in ("sum_pool", "concat", "pool", "dropout"):
        return False
    sources = [each for each in collected if each.name in layer.inputs]
    return INPUT not in layer.inputs and all(
        source.relu or _positive(source, collected) for source in sources)


def _pruned(quantizer: Quantizer, settings: LayerSettings) -> Quantizer:
    return SparseQuantizer(quantizer, settings.sparsity) if settings.sparsity else quantizer


@dataclass
class _Signs:
    """What the layers of a binary network must know of their inputs, while it is built.

    Parameters
    ----------
    settings : LayerSettings
        Of the network, which is binary if the method is ``bnn``.
    formats, offsets : dict
        By name, of the results so far; see :mod:`train.binary_layers`.
    """

    settings: LayerSettings
    formats: dict[str, ActivationFormat]
    offsets: dict[str, int]

    @property
    def binary(self) -> bool:
        """Whether there are any."""
        return self.settings.method == "bnn"

    def usual(self, layer: TracedLayer, last: bool) -> LayerSettings:
        """What holds for a layer if nothing is said of it."""
        if self.binary and (last or INPUT in layer.inputs):
            return dataclasses.replace(self.settings, method="fixed", weight_bits=8)
        return self.settings

    def before(self, layer: TracedLayer) -> int:
        """Offset of a layer's inputs together."""
        return sum(self.offsets[name] for name in layer.inputs)

    def note(self, layer: TracedLayer, made: nn.Module) -> None:
        """Keep what those that take its result need."""
        source = layer.inputs[0]
        self.formats[layer.name] = getattr(made, "output", self.formats[source])
        self.offsets[layer.name] = (made.after if isinstance(made, BinaryPart) else
                                    self.offsets[source])


def _layer(layer: TracedLayer, settings: LayerSettings, output: ActivationFormat, signs: _Signs,
           sign: bool) -> nn.Module:
    """One layer with the values of the module that it stands for."""
    if layer.kind == "add":
        return (BinaryAdd(layer.name, output, signs.before(layer), sign) if signs.binary else
                QuantizedAdd(layer.name, output))
    if layer.kind == "concat":
        if signs.binary:
            raise UserError(f"layer {layer.name}: with the method bnn maps cannot be concatenated: "
                            "add them, or use another method")
        return QuantizedConcat(layer.name, output)
    if layer.kind == "sum_pool":
        return (BinarySumPool(layer.name, output, *layer.window, signs.before(layer), sign)
                if signs.binary else QuantizedSumPool(layer.name, output, *layer.window))
    module = layer.module
    assert isinstance(module, (nn.Conv2d, nn.Linear))
    dense = isinstance(module, nn.Linear)
    channels, height, width = layer.source
    weight = module.weight.detach()
    if dense:
        weight = weight.reshape(len(weight), channels, height, width)
    make = METHODS[settings.method].quantizer
    if signs.binary and settings.method not in ("bnn", "fixed"):
        raise UserError(f"layer {layer.name}: in a network with the method bnn a layer's method "
                        f"is bnn or fixed, not {settings.method}")
    kind = functools.partial(
        BinaryLayer, source=signs.formats[layer.inputs[0]], before=signs.before(layer),
        sign=sign) if signs.binary else QuantizedLayer
    result = kind(
        name=layer.name, channels=channels, filters=len(weight),
        kernel=(weight.shape[2], weight.shape[3]), dense=dense, output=output,
        stride=layer.stride, padding=layer.padding,
        groups=module.groups if isinstance(module, nn.Conv2d) else 1,
        quantizer=None if make is None else _pruned(make(len(weight), settings), settings),
        batch_norm=layer.norm is not None)
    with torch.no_grad():
        result.weight.copy_(weight)
        if module.bias is not None:
            result.bias.copy_(module.bias)
        if layer.norm is not None and result.norm is not None:
            norm = layer.norm
            result.norm.eps, result.norm.momentum = norm.eps, norm.momentum
            for name in ("weight", "bias", "running_mean", "running_var"):
                value = getattr(norm, name)
                if value is not None:
                    getattr(result.norm, name).copy_(value)
    return result
