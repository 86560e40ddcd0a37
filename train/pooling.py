"""The many ways to write a pooling in PyTorch, as one: for :mod:`train.tracing`."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

__all__ = ["POOLINGS", "Pooling", "pooling"]

Pooling = tuple[str, tuple[int, int], tuple[int, int]]
"""``pool`` or ``sum_pool`` (an average), kernel, stride; both down, across."""

_MAX = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVERAGE = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad",
            "divisor_override")
_ADAPTIVE = ("output_size", "return_indices")
_MEAN = ("dim", "keepdim", "dtype")

POOLINGS: dict[Any, tuple[str, tuple[str, ...]]] = {
    nn.MaxPool2d: ("pool", _MAX), functional.max_pool2d: ("pool", _MAX),
    torch.max_pool2d: ("pool", _MAX[:-1]),
    nn.AvgPool2d: ("sum_pool", _AVERAGE), functional.avg_pool2d: ("sum_pool", _AVERAGE),
    nn.AdaptiveAvgPool2d: ("sum_pool", _ADAPTIVE[:1]),
    functional.adaptive_avg_pool2d: ("sum_pool", _ADAPTIVE[:1]),
    nn.AdaptiveMaxPool2d: ("pool", _ADAPTIVE), functional.adaptive_max_pool2d: ("pool", _ADAPTIVE),
    "mean": ("sum_pool", _MEAN), torch.mean: ("sum_pool", _MEAN),
}
"""What a traced graph calls for a pooling: its kind, and its arguments behind the map."""


def pooling(what: object, node: fx.Node, module: nn.Module | None,
            size: tuple[int, int] | None) -> str | Pooling | None:
    """What a node that calls one of :data:`POOLINGS` computes.

    Parameters
    ----------
    what : object
        What it calls.
    node : fx.Node
        With the arguments, unless it calls a module.
    module : nn.Module, optional
        Which it calls.
    size : (int, int), optional
        Rows and columns of the map in front of it; None: not known.

    Returns
    -------
    Pooling, or str
        The pooling, or why it is not supported; None if it is not known for want of ``size``.
    """
    kind, names = POOLINGS[what]
    if module is not None:
        values = {name: getattr(module, name, None) for name in names}
    else:
        values = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
    if any(isinstance(value, fx.Node) for name, value in values.items() if name != "input"):
        return "its arguments must be numbers, not computed from the map: write them out"
    if values.get("return_indices"):
        return "indices of a max-pooling are not supported: leave return_indices out"
    if names is _MEAN:
        given = values.get("dim")
        axes = (given,) if isinstance(given, int) else tuple(given or ())
        if sorted(axis % 4 for axis in axes) != [2, 3]:
            return "only the mean over rows and columns, (2, 3), is supported"
        found: str | Pooling | None = None if size is None else (kind, size, size)
    elif names[0] == "output_size":
        wanted = _pair(values["output_size"], size)
        if wanted is None or size is None:
            return None
        if any(extent % want for extent, want in zip(size, wanted, strict=True)):
            return (f"{wanted[0]} x {wanted[1]} windows do not divide the map of {size[0]} x "
                    f"{size[1]} evenly: choose another output_size")
        kernel = size[0] // wanted[0], size[1] // wanted[1]
        found = kind, kernel, kernel
    else:
        found = _windows(kind, values)
    if isinstance(found, str):
        return found
    area = found[1][0] * found[1][1] if found is not None else 1
    if kind == "sum_pool" and area & (area - 1):
        return (f"averages {area} values: the number must be a power of two, since the hardware "
                "divides by shifting; choose another window, or images of another size")
    return found


def _windows(kind: str, values: dict[str, Any]) -> str | Pooling:
    """A pooling whose windows have a given size."""
    if _pair(values.get("padding") or 0) != (0, 0):
        return "pooling with padding is not supported: pad the convolution in front"
    if _pair(values.get("dilation") or 1) != (1, 1) or values.get("ceil_mode"):
        return "pooling with dilation or ceil_mode is not supported: leave it out"
    if values.get("divisor_override"):
        return "a divisor_override is not supported: leave it out"
    kernel = _pair(values["kernel_size"])
    stride = _pair(values.get("stride") or kernel)
    assert kernel is not None           # only adaptive poolings leave a side open
    assert stride is not None
    return kind, kernel, stride


def _pair(value: Any, size: tuple[int, int] | None = None) -> tuple[int, int] | None:
    """One number as two; None in it stands for the map's own size, if that is known."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    pair = pair * 2 if len(pair) == 1 else pair
    if None in pair:
        if size is None:
            return None
        pair = tuple(own if each is None else each for own, each in zip(size, pair, strict=True))
    return int(pair[0]), int(pair[1])
