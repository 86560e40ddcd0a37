"""What makes a model one that can be computed and built: every rule, checked at once.

:func:`check` trusts nothing about the values in the model, so that what comes out of a file or
out of a trainer can be handed to it as it is. It allocates no more than a few times the size of
the terms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .formats import ActivationFormat
from .model import (
    INPUT,
    Add,
    Concat,
    Convolution,
    Dense,
    Join,
    Layer,
    MaxPool,
    Model,
    SumPool,
    TensorType,
    WeightedLayer,
    most_values,
)
from .rules import (
    LIMITS,
    check_accumulator,
    check_number,
    check_numbers,
    check_weights,
    json_problems,
    show,
)

__all__ = ["LAYER_TYPES", "Unread", "check"]

LAYER_TYPES: dict[str, type[Layer]] = {
    "convolution": Convolution, "dense": Dense, "max_pool": MaxPool, "sum_pool": SumPool,
    "add": Add, "concat": Concat,
}
"""The supported layers, by the name that they have in a file."""


@dataclass(frozen=True)
class Unread:
    """Stands for a layer or the input of a file when its description is broken.

    That was reported already; what depends on its shape is not checked.
    """

    name: str
    inputs: tuple[str, ...] | None


_LAYER_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check(model: Model) -> list[str]:
    """Everything that is wrong with a model, one sentence each; empty if nothing is.

    Each problem names the layer, what is wrong and what to do about it.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model must be a Model, not {show(model)}")
    problems: list[str] = []
    if not (isinstance(model.name, str) and _MODEL_NAME.fullmatch(model.name)
            and len(model.name) <= LIMITS.name):
        problems.append(f"model: the name {show(model.name)} must be 1 to {LIMITS.name} letters, "
                        "digits and any of '_.-', starting with a letter or digit: rename it")
    if isinstance(model.provenance, Mapping):
        problems += json_problems(dict(model.provenance), "provenance")
    else:
        problems.append(f"provenance: must be a mapping, not {show(model.provenance)}: correct it")
    image = _check_tensor(problems, "input", model.input)
    if not isinstance(model.layers, tuple) or not 1 <= len(model.layers) <= LIMITS.layers:
        problems.append(f"model: layers must be a tuple of 1 to {LIMITS.layers} layers: add or "
                        "remove some")
        return problems
    broken = _check_edges(problems, model.layers)
    weights = 0
    tensors: dict[str, TensorType | None] = {INPUT: image}
    source: TensorType | None = None
    for index, layer in enumerate(model.layers):
        known = [tensors.get(edge) for edge in layer.inputs] if index not in broken else []
        sources = tuple(kind for kind in known if kind is not None)
        source, used = _check_layer(problems, index, layer,
                                    sources if sources and len(sources) == len(known) else None)
        if isinstance(getattr(layer, "name", None), str):
            tensors[layer.name] = source
        weights += used
    sizes = {name: kind.size for name, kind in tensors.items() if kind is not None}
    if not broken and len(sizes) == len(model.layers) + 1:
        needed = most_values(model.layers, sizes)
        if needed > LIMITS.live_values:
            problems.append(f"model: {needed} values of maps are needed at the same time, more "
                            f"than the supported {LIMITS.live_values}: use fewer or smaller "
                            "branches")
    if weights > LIMITS.weights:
        problems.append(f"model: {weights} weights and terms, more than the supported "
                        f"{LIMITS.weights}: use fewer filters or pool before the large layer")
    last = model.layers[-1]
    if isinstance(last, (MaxPool, Join)):
        problems.append(f"layer {show(last.name)}: the last layer gives the logits and must be "
                        "convolution or dense: append a dense layer")
    elif source is not None and source.shape[:2] != (1, 1):
        problems.append(f"layer {show(last.name)}: the last layer gives the logits and must have "
                        f"a 1 x 1 result, not {source.shape[0]} x {source.shape[1]}: append a "
                        "dense layer")
    return problems


def _check_tensor(problems: list[str], where: str, tensor: object) -> TensorType | None:
    """``tensor``, if it is one."""
    start = len(problems)
    if isinstance(tensor, Unread):
        return None
    if not isinstance(tensor, TensorType):
        problems.append(f"{where}: must be a TensorType, not {show(tensor)}: correct it")
        return None
    if (check_numbers(problems, where, "shape (height, width, channels)", tensor.shape, 3, 1,
                       LIMITS.map_values)
            and math.prod(map(int, tensor.shape)) > LIMITS.map_values):
        problems.append(f"{where}: {show(tensor.shape)} is more than the supported "
                        f"{LIMITS.map_values} values: use smaller or fewer maps")
    if not isinstance(tensor.format, ActivationFormat):
        problems.append(f"{where}: the format must be an ActivationFormat, not "
                        f"{show(tensor.format)}: correct it")
    check_number(problems, where, "scale", tensor.scale, -LIMITS.scale, LIMITS.scale)
    return tensor if len(problems) == start else None


def _check_edges(problems: list[str], layers: tuple[Any, ...]) -> set[int]:
    """Names and edges: each layer takes results from before it. Those whose inputs are wrong."""
    broken = set()
    names = [name if isinstance(name := getattr(layer, "name", None), str) else None
             for layer in layers]
    for index, layer in enumerate(layers):
        name = names[index]
        where = f"layer {show(name)}" if name is not None else f"layers[{index}]"
        if (name is None or not _LAYER_NAME.fullmatch(name) or name == INPUT
                or len(name) > LIMITS.name):
            problems.append(f"{where}: the name must be 1 to {LIMITS.name} lower-case letters, "
                            f"digits and '_', start with a letter and not be {INPUT!r}: rename it")
        elif name in names[:index]:
            problems.append(f"{where}: the name is used more than once: rename one")
        inputs = getattr(layer, "inputs", None)
        if isinstance(layer, Unread) and inputs is None:
            broken.add(index)
        elif not isinstance(inputs, tuple) or not all(isinstance(edge, str) for edge in inputs):
            broken.add(index)
            problems.append(f"{where}: inputs must be a tuple of layer names, not {show(inputs)}: "
                            "correct it")
        elif found := _edge_problems(layer, names, index):
            broken.add(index)
            problems += [f"{where}: {problem}" for problem in found]
    # With a wrong edge, it is not known whose result was meant.
    if not broken:
        used = {edge for layer in layers for edge in layer.inputs}
        problems += [f"layer {show(name)}: no layer takes its result: remove it, or name it among "
                     "the inputs of a later layer" for name in names[:-1] if name not in used]
    return broken


def _edge_problems(layer: Any, names: list[str | None], index: int) -> list[str]:
    """What is wrong with the names in ``layer.inputs``."""
    problems = []
    inputs = layer.inputs
    if isinstance(layer, Add):
        if len(inputs) != 2:
            problems.append(f"it adds two maps, but has {len(inputs)} inputs: name two")
    elif isinstance(layer, Concat):
        if not 2 <= len(inputs) <= LIMITS.operands:
            problems.append(f"it joins 2 to {LIMITS.operands} maps, but has {len(inputs)} inputs: "
                            f"name 2 to {LIMITS.operands}, and join what there is more by another "
                            "layer")
    elif not inputs:
        problems.append("it has no input: name one")
    elif len(inputs) > 1 and not isinstance(layer, Unread):
        problems.append(f"it takes one input, but has {len(inputs)}: name one, and join maps by a "
                        "layer of type 'add' or 'concat'")
    most = LIMITS.operands if isinstance(layer, Concat) else 2
    for edge in dict.fromkeys(inputs[:most]):
        if edge != INPUT and edge not in names:
            problems.append(f"its input {show(edge)} does not exist: name a layer that does, or "
                            f"{INPUT!r}")
        elif edge != INPUT and edge not in names[:index]:
            problems.append(f"its input {show(edge)} does not come before it (a cycle, or a wrong "
                            "order): give the layers in order, each after its inputs")
    return problems


def _check_layer(problems: list[str], index: int, layer: Any,
                 sources: tuple[TensorType, ...] | None) -> tuple[TensorType | None, int]:
    """The type of the layer's result, if that is known, and its number of weights and terms.

    ``sources`` are the types of its inputs, None if one is not known.
    """
    if isinstance(layer, Unread):
        return None, 0
    where = f"layer {show(getattr(layer, 'name', index))}"
    start = len(problems)
    if type(layer) not in LAYER_TYPES.values():
        problems.append(f"{where}: unsupported layer type {show(type(layer).__name__)}: use "
                        + " or ".join(LAYER_TYPES))
        return None, 0
    used: int | None = 0
    if isinstance(layer, WeightedLayer):
        used = check_weights(problems, where, layer)
        sized = used is not None
    elif isinstance(layer, Join):
        sized = check_numbers(problems, where, "shifts (of the first input, of the second, ...)",
                              layer.shifts, len(sources) if sources else 2, 0, LIMITS.add_shift)
    else:
        sized = check_numbers(problems, where, "kernel (rows, columns)", layer.kernel, 2, 1,
                              LIMITS.side)
    if isinstance(layer, (MaxPool, Convolution)):
        sized &= check_numbers(problems, where, "stride (down, across)", layer.stride, 2, 1,
                               LIMITS.side)
    if isinstance(layer, Convolution):
        if not check_number(problems, where, "groups", layer.groups, 1, LIMITS.side):
            sized = False
        elif sized and layer.filters % layer.groups:
            sized = False
            problems.append(f"{where}: {layer.filters} filters cannot be divided into "
                            f"{layer.groups} groups: the groups must divide them")
        sized &= check_numbers(problems, where, "padding (top, bottom, left, right)",
                               layer.padding, 4, 0, LIMITS.side)
        for side, amount, size in zip(("top", "bottom", "left", "right"), layer.padding,
                                      np.repeat(layer.kernel, 2), strict=True) if sized else ():
            if amount >= size:
                problems.append(f"{where}: padding of {amount} at the {side} needs a kernel of "
                                f"more than {amount} in that direction, not {size}: use less "
                                "padding or a larger kernel")
    if isinstance(layer, (WeightedLayer, SumPool, Join)):
        if not isinstance(layer.output, ActivationFormat):
            problems.append(f"{where}: the output must be an ActivationFormat, not "
                            f"{show(layer.output)}: correct it")
        check_number(problems, where, "the output scale", layer.output_scale, -LIMITS.scale,
                     LIMITS.scale)
    if isinstance(layer, (SumPool, Join)):
        half = 1 << LIMITS.accumulator_bits - 1
        check_number(problems, where, "bias", layer.bias, -half, half - 1)
        check_number(problems, where, "shift", layer.shift, 0, LIMITS.shift)
    if not sized or sources is None:
        return None, used or 0
    healthy = len(problems) == start
    if not _fits(problems, where, layer, sources):
        return None, used or 0
    source = sources[0]
    form, scale = source.format, source.scale
    if isinstance(layer, (WeightedLayer, SumPool, Join)):
        if healthy:
            check_accumulator(problems, where, layer, *(kind.format for kind in sources))
        # A broken format is replaced by one that causes no problems further down.
        form = layer.output if isinstance(layer.output, ActivationFormat) else ActivationFormat(1)
        scale = 0
    result = TensorType(layer.output_shape(*(kind.shape for kind in sources)), form, scale)
    return _check_tensor(problems, where, result), used or 0


def _fits(problems: list[str], where: str, layer: Any, sources: tuple[TensorType, ...]) -> bool:
    """Whether a layer takes maps of these shapes."""
    start = len(problems)
    height, width, channels = sources[0].shape
    if isinstance(layer, Add):
        first, second = (tuple(map(int, kind.shape)) for kind in sources)
        if first != second:
            problems.append(f"{where}: its inputs have the shapes {show(first)} and "
                            f"{show(second)}: they must be equal, so pool or convolve the larger "
                            "one")
        return len(problems) == start
    if isinstance(layer, Concat):
        sides = list(dict.fromkeys(f"{kind.shape[0]} x {kind.shape[1]}" for kind in sources))
        if len(sides) > 1:
            problems.append(f"{where}: its inputs have {', '.join(sides)} pixels: they must be "
                            "equal, so pool or convolve the larger one")
        return len(problems) == start
    if isinstance(layer, WeightedLayer) and layer.source_channels != channels:
        each = f" in each of {layer.groups} groups" if layer.groups > 1 else ""
        by = ", divided by the groups" if each else ""
        problems.append(f"{where}: its terms are for {layer.channels} channels{each}, but its "
                        f"input has {channels}: the terms' last dimension must be {channels}{by}")
    padding = layer.padding if isinstance(layer, Convolution) else (0, 0, 0, 0)
    padded = (height + padding[0] + padding[1], width + padding[2] + padding[3])
    if isinstance(layer, Dense):
        if layer.kernel != padded:
            problems.append(f"{where}: its terms are for a {layer.kernel[0]} x {layer.kernel[1]} "
                            f"map, but its input is {height} x {width}: a dense layer covers the "
                            "whole map")
    elif layer.kernel[0] > padded[0] or layer.kernel[1] > padded[1]:
        problems.append(f"{where}: the kernel {show(layer.kernel)} does not fit into the map "
                        f"{show(padded)} (padding included): use a smaller kernel or less pooling")
    return len(problems) == start


