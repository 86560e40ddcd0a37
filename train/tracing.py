"""Reads the graph of a PyTorch module with :mod:`torch.fx`, and lists all that is not supported."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from flightrtl.errors import UserError
from flightrtl.model import INPUT, TensorType
from flightrtl.rules import LIMITS

from .pooling import POOLINGS, pooling
from .spelling import (
    Padding,
    concatenated,
    convolution,
    dropout_share,
    flattens,
    operands,
    zero_padding,
)
from .unsupported import PASSING, hint

__all__ = ["ConversionError", "TracedLayer", "Tracer"]

_RELUS = {nn.ReLU, functional.relu, torch.relu, torch.relu_, "relu", "relu_"}
_ADDS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_CONCATS = {torch.cat, torch.concat, torch.concatenate}
_FLATTENS = {nn.Flatten, torch.flatten, "flatten", "view", "reshape", torch.reshape}
_PADS = {nn.ZeroPad2d, nn.ConstantPad2d, functional.pad}
_SAME = {nn.Identity, "contiguous"}
_DROPOUTS: dict[Any, type[nn.Module]] = {
    nn.Dropout: nn.Dropout, functional.dropout: nn.Dropout,
    nn.Dropout2d: nn.Dropout2d, functional.dropout2d: nn.Dropout2d}
_NORMS = (nn.BatchNorm2d, nn.BatchNorm1d)
_KNOWN: set[Any] = {nn.Conv2d, nn.Linear, *_NORMS, *_RELUS, *_ADDS, *_CONCATS, *_FLATTENS, *_PADS,
                    *_SAME, *_DROPOUTS, *POOLINGS}
_SIZES = {"size", "dim"}


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
    window: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1))    # of a pooling, and stride
    stride: tuple[int, int] = (1, 1)
    padding: Padding = (0, 0, 0, 0)


class Tracer:
    """Reads the graph of a module, node by node, and notes what is wrong.

    A node that is not supported is still followed as far as the shape of its result is known, so
    that one pass finds all problems.

    Parameters
    ----------
    module : nn.Module
        In evaluation.
    input : TensorType
        The image.
    """

    def __init__(self, module: nn.Module, input: TensorType) -> None:
        self.problems: list[str] = []
        self.layers: dict[str, TracedLayer] = {}
        height, width, channels = input.shape
        self.shapes: dict[str, tuple[int, int, int]] = {INPUT: (channels, height, width)}
        try:
            self.graph = fx.Tracer().trace(module)
        except Exception as error:          # whatever the user's forward() raises
            raise ConversionError([f"its forward() cannot be traced by torch.fx: {error}. Write "
                                   "it without conditions that depend on values"]) from error
        self.modules = dict(module.named_modules())
        self.reserved = {_clean(name) for name in self.modules}
        self.values: dict[fx.Node, str] = {}      # by which layer a node's value is made
        self.flat: set[fx.Node] = set()           # values without rows and columns
        self.padded: dict[fx.Node, Padding] = {}  # values with zeros around them
        self.numbers: set[fx.Node] = set()        # sizes of tensors
        for node in self.graph.nodes:
            if node.op == "call_method" and node.target in _SIZES or (
                    node.target is getattr and node.args[1] == "shape") or (
                    node.all_input_nodes and self.numbers.issuperset(node.all_input_nodes)):
                self.numbers.add(node)
        self.called: dict[int, str] = {}          # whose weights were met before

    def collect(self) -> list[TracedLayer]:
        """The layers in order, without those that the result does not depend on."""
        result = ""
        images = 0
        for node in self.graph.nodes:
            if node.op == "placeholder":
                if node.args and not node.users:    # an option that is not used
                    continue
                images += 1
                if images == 1:
                    self.values[node] = INPUT
            elif node.op == "get_attr":
                self._refuse(node, "reads a parameter directly: use a layer for it")
            elif node.op == "output":
                result = self._output(node)
            else:
                self._call(node)
        if images != 1:
            self.problems.insert(0, f"it takes {images} tensors: a network takes one image")
        needed = {result}
        for layer in reversed(self.layers.values()):
            if layer.name in needed:
                needed.update(layer.inputs)
        if len(needed) > LIMITS.layers:
            self.problems.append(f"it has {len(needed)} layers: at most {LIMITS.layers} are "
                                 "supported")
        if self.problems:
            raise ConversionError(self.problems)
        return [layer for layer in self.layers.values() if layer.name in needed]

    def _what(self, node: fx.Node) -> Any:
        """What a node calls: the class of a module, a function, or the name of a method."""
        return type(self.modules[str(node.target)]) if node.op == "call_module" else node.target

    def _refuse(self, node: fx.Node, why: str) -> None:
        what = self._what(node) if node.op != "get_attr" else "attribute"
        label = what if isinstance(what, str) else getattr(what, "__name__", str(what))
        self.problems.append(f"{node.target if node.op == 'call_module' else node.name} "
                             f"({label}): {why}")

    def _output(self, node: fx.Node) -> str:
        """Checks the result; the name of the layer that makes it."""
        result = node.args[0]
        if not isinstance(result, fx.Node):
            self.problems.append("its result must be one tensor, the logits")
            return ""
        if result not in self.values:
            return ""
        if result in self.padded:
            self.problems.append("its result has zeros around it: leave them out")
        name = self.values[result]
        layer = self.layers.get(name)
        if layer is None or layer.kind not in ("conv", "dense") or layer.relu:
            self.problems.append(f"{name}: the last layer gives the logits and must be a "
                                 "convolution or a Linear without ReLU")
        elif layer.shape[1:] != (1, 1):
            self.problems.append(f"{name}: the logits must be one row and one column, not "
                                 f"{layer.shape[1]} x {layer.shape[2]}: append a Linear")
        return name

    def _call(self, node: fx.Node) -> None:
        what = self._what(node)
        sources = node.all_input_nodes
        if node in self.numbers:
            return
        if what not in _KNOWN:
            self._refuse(node, hint(what))
            if what in PASSING and sources and sources[0] in self.values:
                self._pass(node, sources[0])
            return
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, (nn.Conv2d, nn.Linear, *_NORMS)):
            self._once(node, module)
        known = [source for source in sources if source in self.values]
        before = known[0] if known and not (set(sources) - set(known) - self.numbers) else None
        if what not in (nn.Conv2d, *_PADS, *_SAME) and self.padded.keys() & set(sources):
            self._refuse(node, "zeros around a map must be followed by a convolution")
        if isinstance(module, nn.Conv2d):
            self._convolution(node, before, module)
        elif what in POOLINGS:
            self._pooling(node, before, module)
        elif isinstance(module, _NORMS) and module.running_mean is None:
            self._refuse(node, "has no running statistics: use track_running_stats=True")
        elif before is None:
            return
        elif what in _SAME or what in _PADS:
            self._pad(node, before, module)
        elif what in _FLATTENS:
            self._flatten(node, before, module)
        elif what in _RELUS or isinstance(module, _NORMS):
            self._merge(node, before, module)
        elif isinstance(module, nn.Linear):
            self._linear(node, before, module)
        elif what in _ADDS:
            self._addition(node, before)
        elif what in _CONCATS:
            self._concatenation(node, before)
        else:
            self._dropout(node, before, _DROPOUTS[what], module)

    def _once(self, node: fx.Node, module: nn.Module) -> None:
        """Refuse weights that were used before: each layer of hardware has its own."""
        for part in (module, *module.parameters(recurse=False)):
            if (other := self.called.get(id(part))) is not None:
                self._refuse(node, f"shares its weights with {other}, which was called before: "
                                   "give each layer weights of its own")
                return
        self.called |= {id(part): str(node.target)
                        for part in (module, *module.parameters(recurse=False))}

    def _pass(self, node: fx.Node, before: fx.Node, *, flat: bool | None = None) -> None:
        """A node whose value is, here, that of another."""
        self.values[node] = self.values[before]
        if before in self.flat if flat is None else flat:
            self.flat.add(node)

    def _pad(self, node: fx.Node, before: fx.Node, module: nn.Module | None) -> None:
        """The same value, perhaps with (more) zeros around it."""
        self._pass(node, before)
        padding = self.padded.get(before, (0, 0, 0, 0))
        if self._what(node) in _PADS:
            if before in self.flat:
                self._map(node, before)
                return
            problems, more = zero_padding(node, module)
            for problem in problems:
                self._refuse(node, problem)
            padding = (padding[0] + more[0], padding[1] + more[1], padding[2] + more[2],
                       padding[3] + more[3])
        if any(padding):
            self.padded[node] = padding

    def _add(self, node: fx.Node, layer: TracedLayer, *, flat: bool = False) -> None:
        """Note a layer under a name of its own."""
        name = _clean(str(node.target)) if node.op == "call_module" else ""
        if not re.fullmatch(f"[a-z][a-z0-9_]{{0,{LIMITS.name - 1}}}", name) or (
                name == INPUT or name in self.layers):
            number = 1
            while (name := f"{layer.kind}{number}") in self.layers or name in self.reserved:
                number += 1
        layer.name = name
        if min(layer.shape) < 1:
            self._refuse(node, f"an image of {self.shapes[INPUT][1]} x {self.shapes[INPUT][2]} is "
                               "too small for this network: choose another network")
            return
        self.layers[name] = layer
        self.shapes[name] = layer.shape
        self.values[node] = name
        if flat:
            self.flat.add(node)

    def _map(self, node: fx.Node, before: fx.Node) -> bool:
        """Whether a layer that needs rows and columns has them."""
        if before in self.flat:
            self._refuse(node, "must not stand behind a Flatten: it needs rows and columns")
        return before not in self.flat

    def _chain(self, node: fx.Node, name: str, kinds: Sequence[str]) -> list[str] | None:
        """Layers of ``kinds`` from ``name`` upwards, and the one above; None if another uses them.

        What is merged into that one changes all of them.
        """
        result = [name]
        while result[-1] in self.layers and self.layers[result[-1]].kind in kinds:
            result.append(self.layers[result[-1]].inputs[0])
        users = {node}
        for each in result:
            if (layer := self.layers.get(each)) is not None and layer.relu:
                break                   # nothing will be merged
            mine = {value for value, owner in self.values.items() if owner == each}
            if {user for value in mine for user in value.users} - mine - users - self.numbers:
                self._refuse(node, f"the value of {each} in front of it is used elsewhere too: "
                                   "give the other user the value behind it")
                return None
            users = mine
        return result

    def _merge(self, node: fx.Node, before: fx.Node, module: nn.Module | None) -> None:
        """ReLU or batch norm, merged into the layer in front of it."""
        norm = module if isinstance(module, _NORMS) else None
        # Behind a max-pooling or a dropout, a ReLU does what it would do in front of it.
        chain = self._chain(node, self.values[before], () if norm is not None
                            else ("pool", "dropout"))
        self._pass(node, before)
        if chain is None:
            return
        layer = self.layers.get(chain[-1])
        if norm is None:
            if layer is None or layer.kind not in ("conv", "dense", "add", "concat",
                                                    "sum_pool"):
                self._refuse(node, "must stand behind a convolution or a Linear, an addition, a "
                                   "concatenation or an average pooling")
            else:
                layer.relu = True
            return
        flat = isinstance(norm, nn.BatchNorm1d)
        if layer is None or layer.kind not in ("conv", "dense") or layer.norm or layer.relu:
            self._refuse(node, "must stand directly behind a convolution or a Linear")
        elif (before in self.flat) != flat or flat and layer.shape[1:] != (1, 1):
            self._refuse(node, f"use nn.BatchNorm{'2' if flat else '1'}d here")
        elif norm.num_features != layer.shape[0]:
            self._refuse(node, f"has {norm.num_features} features, but {layer.name} has "
                               f"{layer.shape[0]} channels: make them equal")
        else:
            layer.norm = norm

    def _filters(self, node: fx.Node, number: int) -> None:
        if number > LIMITS.side:
            self._refuse(node, f"has {number} filters: at most {LIMITS.side} are supported")

    def _convolution(self, node: fx.Node, before: fx.Node | None, module: nn.Conv2d) -> None:
        shape = around = None if before is None else self.shapes[self.values[before]]
        zeros = (0, 0, 0, 0) if before is None else self.padded.get(before, (0, 0, 0, 0))
        if shape is not None:
            around = shape[0], shape[1] + zeros[0] + zeros[1], shape[2] + zeros[2] + zeros[3]
        problems, padding, size = convolution(module, around, zeros)
        for problem in problems:
            self._refuse(node, problem)
        self._filters(node, module.out_channels)
        if shape is not None and before is not None and self._map(node, before):
            stride = module.stride[0], module.stride[1]
            self._add(node, TracedLayer("", "conv", (self.values[before],),
                                        (module.out_channels, *size), shape, module,
                                        stride=stride, padding=padding))

    def _linear(self, node: fx.Node, before: fx.Node, module: nn.Linear) -> None:
        shape = self.shapes[self.values[before]]
        if before not in self.flat:
            self._refuse(node, "must stand behind a Flatten")
        elif module.in_features != math.prod(shape):
            self._refuse(node, f"it takes {module.in_features} values, but its input has "
                               f"{' x '.join(map(str, shape))}: images of another size, or layers "
                               "missing in front of it")
        self._filters(node, module.out_features)
        self._add(node, TracedLayer("", "dense", (self.values[before],),
                                    (module.out_features, 1, 1), shape, module), flat=True)

    def _flatten(self, node: fx.Node, before: fx.Node, module: nn.Module | None) -> None:
        if not flattens(self._what(node), node, module, self.shapes[self.values[before]],
                        before in self.flat):
            self._refuse(node, "must keep the first dimension and join all others: use flatten(1)")
        self._pass(node, before, flat=True)

    def _addition(self, node: fx.Node, before: fx.Node) -> None:
        terms = operands(node)
        known = [each for each in terms if isinstance(each, fx.Node) and each in self.values]
        self._pass(node, before)
        if len(terms) != 2 or len(known) != 2:
            self._refuse(node, "only two feature maps can be added, without a factor")
            return
        names = self.values[known[0]], self.values[known[1]]
        one, other = (self.shapes[name] for name in names)
        if one != other or (known[0] in self.flat) != (known[1] in self.flat):
            self._refuse(node, f"its operands must have the same shape, not {one} and {other}")
            return
        self._add(node, TracedLayer("", "add", names, one, one), flat=before in self.flat)

    def _concatenation(self, node: fx.Node, before: fx.Node) -> None:
        maps, dimension = concatenated(node)
        known = [each for each in maps if isinstance(each, fx.Node) and each in self.values]
        flat = before in self.flat
        self._pass(node, before)
        if not 2 <= len(maps) <= LIMITS.operands or len(known) != len(maps):
            self._refuse(node, f"2 to {LIMITS.operands} feature maps can be concatenated, not "
                               f"{len(maps)}")
            return
        names = tuple(self.values[each] for each in known)
        shapes = [self.shapes[name] for name in names]
        sides = {shape[1:] for shape in shapes}
        if any((each in self.flat) != flat for each in known) or len(sides) > 1:
            self._refuse(node, "its operands must have the same rows and columns, not "
                               + " and ".join(map(str, shapes)))
        elif dimension not in ((1, -1) if flat else (1, -3)):
            self._refuse(node, f"maps can only be concatenated along their channels, dim=1, not "
                               f"dim={dimension}")
        elif flat and sides != {(1, 1)}:
            self._refuse(node, "concatenate the maps along their channels before the Flatten")
        else:
            shape = sum(shape[0] for shape in shapes), *shapes[0][1:]
            self._add(node, TracedLayer("", "concat", names, shape, shapes[0]), flat=flat)

    def _dropout(self, node: fx.Node, before: fx.Node, kind: type[nn.Module],
                 module: nn.Module | None) -> None:
        """A dropout of its own, so that the given module stays as it is."""
        share, name = dropout_share(node, module), self.values[before]
        if share:
            self._add(node, TracedLayer("", "dropout", (name,), self.shapes[name],
                                        self.shapes[name], kind(share)), flat=before in self.flat)
        else:
            self._pass(node, before)

    def _pooling(self, node: fx.Node, before: fx.Node | None, module: nn.Module | None) -> None:
        shape = None if before is None else self.shapes[self.values[before]]
        found = pooling(self._what(node), node, module, None if shape is None else shape[1:])
        if isinstance(found, str):
            self._refuse(node, found)
        elif (found is not None and before is not None and shape is not None
                and self._map(node, before)):
            kind, kernel, stride = found
            keeps = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
            flat = self._what(node) in ("mean", torch.mean) and not keeps
            if kernel == stride == (1, 1):
                self._pass(node, before, flat=flat)
                return
            size = [(extent - side) // step + 1 for extent, side, step in zip(
                shape[1:], kernel, stride, strict=True)]
            self._add(node, TracedLayer("", kind, (self.values[before],),
                                        (shape[0], size[0], size[1]), shape, module,
                                        window=(kernel, stride)), flat=flat)


def _clean(name: str) -> str:
    """An attribute's name as the name of a layer."""
    return re.sub(r"\W", "_", name, flags=re.ASCII).lower()
