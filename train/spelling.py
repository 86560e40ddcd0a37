"""What calls of a traced graph mean, however they are written: for :mod:`train.tracing`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx, nn

__all__ = ["concatenated", "convolution", "dropout_share", "flattens", "operands"]

Shape = tuple[int, int, int]
"""Channels, rows, columns."""


def flattens(what: object, node: fx.Node, module: nn.Module | None, shape: Shape,
             flat: bool) -> bool:
    """Whether a ``flatten``, ``view`` or ``reshape`` keeps the images and joins all else.

    Parameters
    ----------
    what : object
        What the node calls.
    node : fx.Node
        With the arguments.
    module : nn.Module, optional
        Which it calls.
    shape : tuple
        Of the map.
    flat : bool
        Whether it was flattened before.
    """
    given: Any = node.args[1:]
    if what in ("view", "reshape", torch.reshape):
        given = node.kwargs.get("shape", given)
        if len(given) == 1 and isinstance(given[0], (tuple, list)):
            given = given[0]
        return len(given) == 2 and (given[0] == -1 or isinstance(given[0], fx.Node)) and (
            isinstance(given[1], fx.Node) or given[1] in (-1, math.prod(shape)))
    values: dict[str, Any] = {"start_dim": 0, "end_dim": -1, **dict(zip(
        ("start_dim", "end_dim"), given, strict=False)), **node.kwargs}
    if isinstance(module, nn.Flatten):
        values = {"start_dim": module.start_dim, "end_dim": module.end_dim}
    return values["start_dim"] == 1 and values["end_dim"] in (-1, 1 if flat else 3)


def dropout_share(node: fx.Node, module: nn.Module | None) -> float:
    """The part of the values that a dropout drops."""
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
    return float(getattr(module, "p", given))


def operands(node: fx.Node) -> list[Any]:
    """What an addition adds; empty if it multiplies one of them first."""
    if node.kwargs.get("alpha", 1) != 1:
        return []
    return [*node.args, *(node.kwargs[name] for name in ("input", "other")
                          if name in node.kwargs)]


def concatenated(node: fx.Node) -> tuple[list[Any], Any]:
    """What a ``torch.cat`` joins, and along which dimension."""
    maps: Any = node.args[0] if node.args else node.kwargs.get("tensors", ())
    dimension = node.args[1] if len(node.args) > 1 else node.kwargs.get(
        "dim", node.kwargs.get("axis", 0))
    return list(maps) if isinstance(maps, (tuple, list)) else [maps], dimension


def convolution(module: nn.Conv2d, shape: Shape | None) -> tuple[
        list[str], tuple[int, int], tuple[int, int]]:
    """What is wrong with a convolution, its padding, and rows and columns of its result.

    Parameters
    ----------
    module : nn.Conv2d
        Any.
    shape : tuple, optional
        Of the map in front of it; None: not known.

    >>> convolution(nn.Conv2d(3, 8, 3, padding="same", groups=1), (3, 9, 5))
    ([], (1, 1), (9, 5))
    """
    kernel, padding, problems = module.kernel_size, module.padding, []
    if isinstance(padding, str):
        # PyTorch pads an even kernel by one more at the far end.
        if padding == "same" and not all(dilation * (size - 1) % 2 == 0 for dilation, size in zip(
                module.dilation, kernel, strict=True)):
            problems.append("padding 'same' of an even kernel is not supported: give numbers")
        padding = ((kernel[0] // 2, kernel[1] // 2) if padding == "same" else (0, 0))
    rows, columns = padding
    height, width = shape[1:] if shape is not None else (kernel[0], kernel[1])
    channels = shape[0] if shape is not None else module.in_channels
    same = module.padding == "same"
    problems += [why for wrong, why in (
        (module.groups != 1, f"groups must be 1, not {module.groups}"),
        (module.dilation != (1, 1), f"dilation must be 1, not {module.dilation}"),
        (module.padding_mode != "zeros" and (rows or columns),
         f"padding must be with zeros, not {module.padding_mode}"),
        (rows >= kernel[0] or columns >= kernel[1],
         f"padding {rows, columns} must be less than the kernel {kernel}"),
        (module.in_channels != channels,
         f"it takes {module.in_channels} channels, but its input has {channels}"),
    ) if wrong]
    size = [(extent + 2 * pad - dilation * (side - 1) - 1) // stride + 1
            for extent, pad, side, stride, dilation in zip(
                (height, width), (rows, columns), kernel, module.stride, module.dilation,
                strict=True)]
    return problems, (rows, columns), (height, width) if same else (size[0], size[1])
