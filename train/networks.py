"""Named networks, as plain PyTorch modules; :func:`train.convert.convert` makes them trainable.

The eight configurations ``resnet20`` .. ``vgg-wide`` stand for the eight of the FLightNN paper,
which had VGG-like and ResNet-like networks of several depths and widths; its own table could not
be had, so these are our choice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from flightrtl.model import TensorType

__all__ = ["NETWORKS", "NamedNetwork", "ResNet", "chain", "mobilenet", "t_bq_nn", "vgg"]


def _initialise(module: nn.Module) -> None:
    """He's initialisation of every convolution and dense layer, zero biases."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class _Shape:
    """Names layers and follows the size of the map while a chain is built."""

    def __init__(self, input: TensorType) -> None:
        self.height, self.width, self.channels = input.shape
        self.layers: OrderedDict[str, nn.Module] = OrderedDict()
        self.counts: dict[str, int] = {}

    def add(self, kind: str, *modules: nn.Module) -> None:
        """The first of ``modules`` gets the name; those behind it belong to it."""
        number = self.counts[kind] = self.counts.get(kind, 0) + 1
        self.layers[f"{kind}{number}"] = modules[0]
        for module in modules[1:]:
            self.layers[f"{type(module).__name__.lower()}_{kind}{number}"] = module

    def conv(self, filters: int, kernel: int, stride: int = 1, padding: int = 0, *,
             groups: int = 1, kind: str = "conv") -> None:
        """Convolution, batch norm, ReLU."""
        self.add(kind, nn.Conv2d(self.channels, filters, kernel, stride, padding, groups=groups,
                                 bias=False), nn.BatchNorm2d(filters), nn.ReLU())
        self.height = (self.height + 2 * padding - kernel) // stride + 1
        self.width = (self.width + 2 * padding - kernel) // stride + 1
        self.channels = filters
        if min(self.height, self.width) < 1:
            raise ValueError("the images are too small for this network; choose another network")

    def pool(self, size: int, average: bool = False) -> None:
        """Max (or average) pooling of square windows that do not overlap."""
        self.add("pool", nn.AvgPool2d(size) if average else nn.MaxPool2d(size))
        self.height, self.width = self.height // size, self.width // size

    def dense(self, units: int, last: bool) -> None:
        """A dense layer; batch norm and ReLU unless it is the last."""
        if not self.counts.get("dense"):
            self.layers["flatten"] = nn.Flatten()
        size = self.channels * self.height * self.width
        rest = [] if last else [nn.BatchNorm1d(units), nn.ReLU()]
        self.add("dense", nn.Linear(size, units, bias=last), *rest)
        self.channels, self.height, self.width = units, 1, 1

    def module(self) -> nn.Module:
        """All of it."""
        result = nn.Sequential(self.layers)
        _initialise(result)
        return result


def chain(text: str, input: TensorType, classes: int) -> nn.Module:
    """A network from a line of text.

    Parameters
    ----------
    text : str
        Layers, separated by spaces: ``8c5s2p2`` is a convolution of 8 filters 5 x 5 with stride 2
        and padding 2 (1 and 0 if not said) with batch norm and ReLU; ``m2`` and ``a8`` are max and
        average pooling; ``d100`` is a dense layer of 100 units. The last dense layer, one unit for
        each class, goes without saying.
    input : TensorType
        The image.
    classes : int
        Logits.

    >>> from flightrtl.formats import ActivationFormat
    >>> net = chain("8c3 m2", TensorType((8, 8, 1), ActivationFormat(5), -4), 10)
    >>> [name for name, _ in net.named_children()]
    ['conv1', 'batchnorm2d_conv1', 'relu_conv1', 'pool1', 'flatten', 'dense1']
    """
    shape = _Shape(input)
    for word in text.split():
        layer = _Word(word)
        if layer.kind == "pool":
            shape.pool(layer.size, layer.average)
        elif layer.kind == "dense":
            shape.dense(layer.size, last=False)
        else:
            shape.conv(layer.size, layer.kernel, layer.stride, layer.padding)
    shape.dense(classes, last=True)
    return shape.module()


class _Word:
    """One layer of a :func:`chain`."""

    def __init__(self, word: str) -> None:
        self.kind, self.average = "conv", word[0] == "a"
        if word[0] in "mad":
            self.kind, self.size = "dense" if word[0] == "d" else "pool", int(word[1:])
            return
        filters, _, rest = word.partition("c")
        rest, _, padding = rest.partition("p")
        kernel, _, stride = rest.partition("s")
        self.size, self.kernel = int(filters), int(kernel)
        self.stride, self.padding = int(stride or 1), int(padding or 0)

    def __str__(self) -> str:
        if self.kind == "dense":
            return f"dense {self.size}"
        if self.kind == "pool":
            return f"{'average' if self.average else 'max'}-pool {self.size}"
        return f"{self.size} of {self.kernel}x{self.kernel}" + (
            f" stride {self.stride}" if self.stride > 1 else "")


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, by a 1 x 1 convolution where the shape changes."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != filters:
            self.shortcut = nn.Conv2d(channels, filters, 1, stride, bias=False)
        self.norm3 = (nn.Identity() if isinstance(self.shortcut, nn.Identity)
                      else nn.BatchNorm2d(filters))

    def forward(self, values: Tensor) -> Tensor:
        """ReLU behind the addition."""
        result = functional.relu(self.norm1(self.conv1(values)))
        result = self.norm2(self.conv2(result))
        return functional.relu(result + self.norm3(self.shortcut(values)))


class ResNet(nn.Module):
    """A residual network for small images (He et al., CVPR 2016, section 4.2).

    Parameters
    ----------
    input : TensorType
        The image; its sides a multiple of ``2**(len(widths) - 1)``.
    classes : int
        Logits.
    blocks : int
        In each stage. ResNet-20 has 3; MLPerf Tiny's ResNet-8 has 1.
    widths : tuple of int
        Filters of each stage; all but the first halve the map.
    """

    def __init__(self, input: TensorType, classes: int, blocks: int,
                 widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input.shape[2], widths[0], 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(widths[0])
        channels = widths[0]
        names = []
        for stage, filters in enumerate(widths):
            for block in range(blocks):
                name = f"block{stage + 1}" + (f"_{block + 1}" if blocks > 1 else "")
                names.append(name)
                self.add_module(name, _Block(channels, filters, 1 + (stage > 0 == block)))
                channels = filters
        self.names = names
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dense = nn.Linear(channels, classes)
        _initialise(self)

    def forward(self, values: Tensor) -> Tensor:
        """Logits (N, classes)."""
        values = functional.relu(self.norm1(self.conv1(values)))
        for name in self.names:
            values = self.get_submodule(name)(values)
        result: Tensor = self.dense(torch.flatten(self.pool(values), 1))
        return result


def vgg(input: TensorType, classes: int, widths: tuple[int, ...], convolutions: int = 2,
        units: int = 0) -> nn.Module:
    """A VGG-like network: stages of 3 x 3 convolutions, each but the last with max-pooling.

    Parameters
    ----------
    input, classes
        As for :class:`ResNet`.
    widths : tuple of int
        Filters of each stage.
    convolutions : int
        In each stage.
    units : int
        Of a hidden dense layer; 0: none.
    """
    shape = _Shape(input)
    for stage, filters in enumerate(widths):
        for _ in range(convolutions):
            shape.conv(filters, 3, padding=1)
        if stage < len(widths) - 1:
            shape.pool(2)
    shape.pool(shape.height, average=True)
    if units:
        shape.dense(units, last=False)
    shape.dense(classes, last=True)
    return shape.module()


def mobilenet(input: TensorType, classes: int,
              widths: tuple[tuple[int, int], ...]) -> nn.Module:
    """A network of depthwise-separable convolutions (Howard et al., MobileNets, 2017).

    A 3 x 3 convolution, then pairs of a depthwise 3 x 3 and a 1 x 1 convolution, the mean over the
    map, a dense layer.

    Parameters
    ----------
    input, classes
        As for :class:`ResNet`.
    widths : tuple of (int, int)
        Filters and stride, of the first convolution and of each pair.
    """
    shape = _Shape(input)
    (first, stride), *pairs = widths
    shape.conv(first, 3, stride, padding=1)
    for filters, stride in pairs:
        shape.conv(shape.channels, 3, stride, padding=1, groups=shape.channels, kind="depthwise")
        shape.conv(filters, 1, kind="pointwise")
    shape.pool(shape.height, average=True)
    shape.dense(classes, last=True)
    return shape.module()


def t_bq_nn(input: TensorType, classes: int) -> nn.Module:
    """T-BQ-NN (Chen, Liu, Liu, Zeng; TNNLS 2020, Table I): nine convolutions.

    The paper pools over the map behind the last 1 x 1 convolution and its batch norm; here the
    pooling comes in front of it, which is the same function since both are linear.
    """
    shape = _Shape(input)
    for filters in (128, 128, 128):
        shape.conv(filters, 3, padding=1)
    shape.pool(2)
    for filters in (256, 256, 256):
        shape.conv(filters, 3, padding=1)
    shape.pool(2)
    shape.conv(512, 3, padding=1)
    shape.conv(1024, 1)
    shape.pool(shape.height, average=True)
    shape.add("conv", nn.Conv2d(1024, classes, 1, bias=False), nn.BatchNorm2d(classes))
    shape.layers["flatten"] = nn.Flatten()
    return shape.module()


@dataclass(frozen=True)
class NamedNetwork:
    """An entry of :data:`NETWORKS`.

    Parameters
    ----------
    text : str
        One line for ``python -m train --list``.
    make : callable
        From the type of the image and the number of classes to the module; raises ``ValueError``
        if the images are too small.
    """

    text: str
    make: Callable[[TensorType, int], nn.Module]


def _chain(text: str) -> NamedNetwork:
    words = ", ".join(str(_Word(word)) for word in text.split())
    return NamedNetwork(f"{words}, dense", partial(chain, text))


def _resnet(blocks: int, widths: tuple[int, ...]) -> NamedNetwork:
    depth = 2 * blocks * len(widths) + 2
    return NamedNetwork(f"ResNet-{depth}, {'-'.join(map(str, widths))} filters",
                        partial(ResNet, blocks=blocks, widths=widths))


def _vgg(widths: tuple[int, ...], convolutions: int = 2, units: int = 0) -> NamedNetwork:
    text = (f"VGG-like, {convolutions} convolutions for each of {'-'.join(map(str, widths))} "
            "filters" + (f", dense {units}" if units else ""))
    return NamedNetwork(text, partial(vgg, widths=widths, convolutions=convolutions, units=units))


def _mobilenet(*widths: tuple[int, int]) -> NamedNetwork:
    text = "-".join(str(filters) for filters, _ in widths)
    return NamedNetwork(f"MobileNet-like, depthwise-separable, {text} filters",
                        partial(mobilenet, widths=widths))


NETWORKS: dict[str, NamedNetwork] = {
    "mnist": _chain("8c5s2p2 16c3s2p1 24c3 24c3"),
    "digits": _chain("8c3 m2"),
    "lenet5": _chain("6c5p2 m2 16c5 m2 d120 d84"),
    "lenet-wide": _chain("20c5 m2 50c5 m2 d500"),
    "vgg-mnist": _chain("16c3p1 16c3p1 m2 32c3p1 32c3p1 m2"),
    "resnet8": _resnet(1, (16, 32, 64)),
    "resnet20": _resnet(3, (16, 32, 64)),
    "resnet20-narrow": _resnet(3, (8, 16, 32)),
    "resnet32": _resnet(5, (16, 32, 64)),
    "resnet20-wide": _resnet(3, (32, 64, 128)),
    "vgg-narrow": _vgg((16, 32, 64)),
    "vgg": _vgg((32, 64, 128)),
    "vgg-deep": _vgg((32, 64, 128), convolutions=3),
    "vgg-wide": _vgg((64, 128, 256), units=256),
    "vgg-pyramid": _chain("32c3p1 m2 64c3p1 64c3p1 m2 128c3p1 128c3p1 m2 256c3p1 256c3p1 a4"),
    "mobilenet-tiny": _mobilenet((8, 2), (16, 1), (32, 2), (32, 1), (64, 2)),
    "t-bq-nn": NamedNetwork("T-BQ-NN: 128-128-128, 256-256-256, 512, 1024 filters", t_bq_nn),
}
