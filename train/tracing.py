"""Reads the graph of a PyTorch module with :mod:`torch.fx`, and lists all that is not supported."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from flightrtl.errors import UserError
from flightrtl.model import INPUT, TensorType

__all__ = ["ConversionError", "TracedLayer", "Tracer"]

_RELUS = {nn.ReLU, functional.relu, torch.relu, "relu", "relu_"}
_ADDS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_SHAPES = {nn.Flatten, torch.flatten, "flatten", nn.Identity, "contiguous"}
_DROPOUTS = {nn.Dropout, nn.Dropout2d, functional.dropout}
_POOLS = {nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, functional.max_pool2d,
          functional.avg_pool2d, functional.adaptive_avg_pool2d}
_HINTS: dict[object, str] = {
    nn.ReLU6: "use nn.ReLU: values are clamped to the activation format anyway",
    nn.LeakyReLU: "use nn.ReLU", nn.GELU: "use nn.ReLU", nn.SiLU: "use nn.ReLU",
    nn.Hardswish: "use nn.ReLU", nn.Sigmoid: "use nn.ReLU, or leave it out behind the logits",
    nn.Softmax: "leave it out: the class is the largest logit", functional.softmax:
    "leave it out: the class is the largest logit", torch.cat: "add the maps instead",
    operator.mul: "only additions join branches", nn.LayerNorm: "use nn.BatchNorm2d",
    nn.GroupNorm: "use nn.BatchNorm2d", nn.InstanceNorm2d: "use nn.BatchNorm2d",
}


class ConversionError(UserError):
    """A network has layers that cannot be converted.

    Parameters
    ----------
    problems : list of str
        One sentence for each of them: which, why, and what to do.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("the network cannot be converted:\n" + "\n".join(
            f"  {problem}" for problem in problems))
        self.problems = problems


@dataclass
class TracedLayer:
    """A layer while it is collected: a node of the trace, and what was merged into it."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, int, int]           # of the result: channels, height, width
    source: tuple[int, int, int]
    module: nn.Module | None = None
    norm: nn.BatchNorm2d | nn.BatchNorm1d | None = None
    relu: bool = False
    window: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1))


class Tracer:
    """Reads the graph of a module, node by node, and notes what is wrong."""

    def __init__(self, module: nn.Module, input: TensorType) -> None:
        self.problems: list[str] = []
        self.layers: dict[str, TracedLayer] = {}
        self.counts: dict[str, int] = {}
        height, width, channels = input.shape
        self.shapes: dict[str, tuple[int, int, int]] = {INPUT: (channels, height, width)}
        try:
            self.graph = fx.Tracer().trace(module)
        except Exception as error:          # whatever the user's forward() raises
            raise ConversionError([f"its forward() cannot be traced by torch.fx: {error}. Write "
                                   "it without conditions that depend on values"]) from error
        self.modules = dict(module.named_modules())
        self.values: dict[fx.Node, str] = {}      # by whom a node's value is made
        self.unknown: set[fx.Node] = set()        # behind a layer that is not supported

    def collect(self) -> list[TracedLayer]:
        """The layers in order."""
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise ConversionError([f"it takes {len(inputs)} tensors: a network takes one image"])
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = INPUT
            elif node.op == "get_attr":
                self._refuse(node, "reads a parameter directly: use a layer for it")
            elif node.op == "output":
                self._output(node)
            else:
                self._call(node)
        if self.problems:
            raise ConversionError(self.problems)
        return list(self.layers.values())

    def _what(self, node: fx.Node) -> object:
        """What a node calls: the class of a module, a function, or the name of a method."""
        return type(self.modules[str(node.target)]) if node.op == "call_module" else node.target

    def _refuse(self, node: fx.Node, why: str) -> None:
        what = self._what(node) if node.op != "get_attr" else "attribute"
        label = what if isinstance(what, str) else getattr(what, "__name__", str(what))
        self.problems.append(f"{node.target if node.op == 'call_module' else node.name} "
                             f"({label}): {why}")
        self.unknown.add(node)

    def _output(self, node: fx.Node) -> None:
        result = node.args[0]
        if not isinstance(result, fx.Node):
            self.problems.append("its result must be one tensor, the logits")
        elif result not in self.unknown:
            name = self.values[result]
            layer = self.layers.get(name)
            if layer is None or layer.kind not in ("conv", "dense") or layer.relu:
                self.problems.append(f"{name}: the last layer gives the logits and must be a "
                                     "convolution or a Linear without ReLU")
            elif layer.shape[1:] != (1, 1):
                self.problems.append(f"{name}: the logits must be one row and one column, not "
                                     f"{layer.shape[1]} x {layer.shape[2]}: append a Linear")

    def _call(self, node: fx.Node) -> None:
        sources = [each for each in node.args if isinstance(each, fx.Node)]
        if any(source in self.unknown for source in sources):
            self.unknown.add(node)
            self._supported(node)
            return
        if not self._supported(node):
            return
        what = self._what(node)
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        before = self.values[sources[0]] if sources else INPUT
        if what in _SHAPES or what in _DROPOUTS and not self._drops(node, module):
            self.values[node] = before
        elif what in _RELUS or isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            self._merge(node, sources[0], module)
        elif isinstance(module, nn.Conv2d):
            self._convolution(node, before, module)
        elif isinstance(module, nn.Linear):
            self._linear(node, before, module)
        elif what in _ADDS:
            self._addition(node)
        elif what in _DROPOUTS:
            self._add(node, TracedLayer("", "dropout", (before,), self.shapes[before],
                                   self.shapes[before], module))
        else:
            self._pooling(node, before, module)

    def _supported(self, node: fx.Node) -> bool:
        what = self._what(node)
        known: set[Any] = {nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d, "mean",
                           torch.mean, *_RELUS, *_ADDS, *_SHAPES, *_DROPOUTS, *_POOLS}
        if what in known:
            return True
        hint = _HINTS.get(what, "it is not supported: see the documentation of convert() for what "
                                "is, or leave it out")
        self._refuse(node, hint)
        return False

    @staticmethod
    def _drops(node: fx.Node, module: nn.Module | None) -> bool:
        return isinstance(module, (nn.Dropout, nn.Dropout2d)) and module.p > 0

    def _add(self, node: fx.Node, layer: TracedLayer) -> None:
        """Note a layer under a name of its own."""
        name = re.sub(r"\W", "_", str(node.target) if node.op == "call_module" else "").lower()
        if not re.match(r"[a-z]", name) or name == INPUT or name in self.layers:
            number = self.counts.get(layer.kind, 0)
            while True:
                number += 1
                name = f"{layer.kind}{number}"
                if name not in self.layers:
                    break
            self.counts[layer.kind] = number
        layer.name = name
        self.layers[name] = layer
        self.shapes[name] = layer.shape
        self.values[node] = name
        if min(layer.shape) < 1:
            self._refuse(node, f"an image of {self.shapes[INPUT][1]} x {self.shapes[INPUT][2]} is "
                               "too small for this network: choose another network")

    def _merge(self, node: fx.Node, source: fx.Node, module: nn.Module | None) -> None:
        """ReLU or batch norm, merged into the layer in front of it."""
        layer = self.layers.get(self.values[source])
        norm = module if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)) else None
        if layer is not None and norm is None and layer.relu:
            self.values[node] = layer.name          # a second ReLU changes nothing
        elif layer is None or layer.kind not in (("conv", "dense") if norm is not None else
                                                 ("conv", "dense", "add", "sum_pool")):
            self._refuse(node, "must stand behind a convolution or a Linear" + (
                "" if norm is not None else ", an addition or an average pooling"))
        elif norm is not None and (layer.norm is not None or layer.relu):
            self._refuse(node, "must stand directly behind a convolution or a Linear")
        elif len(source.users) > 1:
            self._refuse(node, f"the value of {layer.name} in front of it is used elsewhere too: "
                               "give the other user the value behind it")
        else:
            self.values[node] = layer.name
            if norm is None:
                layer.relu = True
            elif norm.running_mean is None:
                self._refuse(node, "has no running statistics: use track_running_stats=True")
            else:
                layer.norm = norm

    def _convolution(self, node: fx.Node, before: str, module: nn.Conv2d) -> None:
        channels, height, width = self.shapes[before]
        padding = module.padding
        if padding == "same" and module.stride == (1, 1) and all(
                size % 2 for size in module.kernel_size):
            padding = (module.kernel_size[0] // 2, module.kernel_size[1] // 2)
        elif padding == "valid":
            padding = (0, 0)
        for wrong, why in (
                (module.groups != 1, f"groups must be 1, not {module.groups}"),
                (module.dilation != (1, 1), f"dilation must be 1, not {module.dilation}"),
                (module.padding_mode != "zeros" and any(padding), "padding must be with zeros"),
                (isinstance(padding, str), f"padding {padding!r} must be given as numbers"),
                (module.in_channels != channels, f"it takes {module.in_channels} channels, but "
                                                 f"its input has {channels}")):
            if wrong:
                self._refuse(node, why)
                return
        assert not isinstance(padding, str)
        size = [(extent + 2 * pad - kernel) // stride + 1 for extent, pad, kernel, stride in zip(
            (height, width), padding, module.kernel_size, module.stride, strict=True)]
        self._add(node, TracedLayer("", "conv", (before,), (module.out_channels, size[0], size[1]),
                               self.shapes[before], module,
                               window=(module.stride, padding)))   # type: ignore[arg-type]

    def _linear(self, node: fx.Node, before: str, module: nn.Linear) -> None:
        if module.in_features != math.prod(self.shapes[before]):
            self._refuse(node, f"it takes {module.in_features} values, but its input has "
                               f"{' x '.join(map(str, self.shapes[before]))}: images of "
                               "another size, or a Flatten in the wrong place")
            return
        self._add(node, TracedLayer("", "dense", (before,), (module.out_features, 1, 1),
                               self.shapes[before], module))

    def _addition(self, node: fx.Node) -> None:
        operands = node.args[:2]
        if len(operands) != 2 or not all(isinstance(each, fx.Node) for each in operands) or (
                node.kwargs.get("alpha", 1) != 1):
            self._refuse(node, "only two feature maps can be added")
            return
        names = tuple(self.values[each] for each in operands)    # type: ignore[index]
        one, other = (self.shapes[name] for name in names)
        if one != other:
            self._refuse(node, f"its operands must have the same shape, not {one} and {other}")
            return
        self._add(node, TracedLayer("", "add", names, one, one))

    def _pooling(self, node: fx.Node, before: str, module: nn.Module | None) -> None:
        arguments = _Pooling.of(self._what(node), node, module, self.shapes[before])
        if isinstance(arguments, str):
            self._refuse(node, arguments)
            return
        kind, kernel, stride = arguments
        channels, height, width = self.shapes[before]
        if kernel == stride == (1, 1):
            self.values[node] = before
            return
        area = kernel[0] * kernel[1]
        if kind == "sum_pool" and area & (area - 1):
            self._refuse(node, f"averages {area} values: the number must be a power of two, "
                               "since the hardware divides by shifting")
            return
        shape = (channels, (height - kernel[0]) // stride[0] + 1,
                 (width - kernel[1]) // stride[1] + 1)
        self._add(node, TracedLayer("", kind, (before,), shape, self.shapes[before], module,
                               window=(kernel, stride)))


class _Pooling:
    """The arguments of the many ways to write a pooling."""

    @staticmethod
    def of(what: object, node: fx.Node, module: nn.Module | None,
           shape: tuple[int, int, int]) -> str | tuple[str, tuple[int, int], tuple[int, int]]:
        """Kind, kernel and stride; or why it is not supported."""
        values: dict[str, Any] = dict(node.kwargs)
        size = shape[1:]
        if what in ("mean", torch.mean):
            given: Any = node.args[1] if len(node.args) > 1 else values.get("dim")
            axes: tuple[int, ...] = (given,) if isinstance(given, int) else tuple(given or ())
            if sorted(axis % 4 for axis in axes) != [2, 3]:
                return "only the mean over rows and columns (2, 3) is supported"
            return "sum_pool", size, size
        names = ["output_size"] if what in (nn.AdaptiveAvgPool2d, functional.adaptive_avg_pool2d) \
            else ["kernel_size", "stride", "padding"]
        if module is not None:
            values = {name: getattr(module, name, None)
                      for name in (*names, "dilation", "ceil_mode", "count_include_pad")}
        else:
            values |= dict(zip(names, node.args[1:], strict=False))
        if names == ["output_size"]:
            wanted = _pair(values["output_size"])
            if any(extent % want for extent, want in zip(size, wanted, strict=True)):
                return f"{wanted} windows do not divide the map {size} evenly"
            kernel = size[0] // wanted[0], size[1] // wanted[1]
            return "sum_pool", kernel, kernel
        if _pair(values.get("padding") or 0) != (0, 0):
            return "pooling with padding is not supported: pad the convolution in front"
        if _pair(values.get("dilation") or 1) != (1, 1) or values.get("ceil_mode"):
            return "pooling with dilation or ceil_mode is not supported"
        kernel = _pair(values["kernel_size"])
        stride = _pair(values.get("stride") or kernel)
        kind = "pool" if what in (nn.MaxPool2d, functional.max_pool2d) else "sum_pool"
        return kind, kernel, stride


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
