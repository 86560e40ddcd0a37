"""What calls of a traced graph mean, however they are written: for :mod:`train.tracing`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx, nn

__all__ = ["Padding", "concatenated", "convolution", "dropout_share", "flattens", "operands",
           "zero_padding"]

Shape = tuple[int, int, int]
"""Channels, rows, columns."""

Padding = tuple[int, int, int, int]
"""Rows above and below, columns left and right."""


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


def zero_padding(node: fx.Node, module: nn.Module | None) -> tuple[list[str], Padding]:
    """What is wrong with a ``pad`` or ``ZeroPad2d``, and the rows and columns of zeros it adds."""
    if isinstance(module, (nn.ZeroPad2d, nn.ConstantPad2d)):
        amounts: Any = module.padding
        mode, value = "constant", float(getattr(module, "value", 0))
    else:
        values: dict[str, Any] = {"pad": (), "mode": "constant", "value": None, **dict(zip(
            ("pad", "mode", "value"), node.args[1:], strict=False)), **node.kwargs}
        amounts, mode, value = values["pad"], values["mode"], values["value"] or 0
    if not isinstance(amounts, (tuple, list)) or not all(type(n) is int for n in amounts):
        return ["the amounts must be integers"], (0, 0, 0, 0)
    left, right, top, bottom = (*amounts, 0, 0, 0, 0)[:4]
    problems = [why for wrong, why in (
        (mode != "constant" or value != 0, "padding must be with zeros"),
        (any(amounts[4:]) or min(left, right, top, bottom) < 0,
         "only rows and columns can be padded, by 0 or more")) if wrong]
    return problems, (top, bottom, left, right)


def convolution(module: nn.Conv2d, shape: Shape | None, before: Padding = (0, 0, 0, 0)) -> tuple[
        list[str], Padding, tuple[int, int]]:
    """What is wrong with a convolution, its padding, and rows and columns of its result.

    Parameters
    ----------
    module : nn.Conv2d
        Any.
    shape : tuple, optional
        Of the map in front of it and of the zeros around that; None: not known.
    before : tuple
        Zeros that were put around the map.

    >>> convolution(nn.Conv2d(3, 8, 3, padding="same", groups=1), (3, 9, 5))
    ([], (1, 1, 1, 1), (9, 5))
    """
    kernel, padding, problems = module.kernel_size, module.padding, []
    if padding == "same":
        # PyTorch pads an even kernel by one more at the far end.
        spare = [dilation * (size - 1) for dilation, size in zip(module.dilation, kernel,
                                                                 strict=True)]
        own = (spare[0] // 2, -(-spare[0] // 2), spare[1] // 2, -(-spare[1] // 2))
    else:
        rows, columns = (0, 0) if isinstance(padding, str) else padding
        own = (rows, rows, columns, columns)
    top, bottom, left, right = (mine + given for mine, given in zip(own, before, strict=True))
    channels, height, width = shape or (module.in_channels, *kernel)
    problems += [why for wrong, why in (
        (module.dilation != (1, 1), f"dilation must be 1, not {module.dilation}"),
        (module.padding_mode != "zeros" and any(own),
         f"padding must be with zeros, not {module.padding_mode}"),
        (max(top, bottom) >= kernel[0] or max(left, right) >= kernel[1],
         f"padding (top {top}, bottom {bottom}, left {left}, right {right}) must be less than the "
         f"kernel {kernel}"),
        (module.in_channels != channels,
         f"it takes {module.in_channels} channels, but its input has {channels}"),
    ) if wrong]
    size = [(extent + pad - dilation * (side - 1) - 1) // stride + 1
            for extent, pad, side, stride, dilation in zip(
                (height, width), (own[0] + own[1], own[2] + own[3]), kernel, module.stride,
                module.dilation, strict=True)]
    return problems, (top, bottom, left, right), (size[0], size[1])
