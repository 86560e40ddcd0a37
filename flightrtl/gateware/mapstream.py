"""How a feature map travels over a stream: some pixels, and some of their channels, at a time."""

from __future__ import annotations

from amaranth import Value
from amaranth.hdl import ShapeLike
from amaranth.lib import data, stream

from ..formats import ActivationFormat, _integer
from .pe import activation_shape

__all__ = ["map_shape", "map_signature", "map_values", "vector"]


def vector(shape: ShapeLike, count: int) -> ShapeLike:
    """An array of ``count`` of a shape; one of them is just itself."""
    return shape if count == 1 else data.ArrayLayout(shape, count)


def map_shape(format: ActivationFormat, *, pixels: int = 1, channels: int = 1) -> ShapeLike:
    """Shape of a transfer: one activation, or an array of ``pixels * channels`` of them.

    A map is sent row by row. Each row is sent in groups of ``pixels`` neighbouring pixels, each
    group channel by channel, ``channels`` of them at a time. In a transfer the pixels lie one
    after the other, the leftmost in the lowest bits, each with its ``channels`` activations,
    the first channel lowest. ``pixels`` divides the width of the map, ``channels`` its channels.

    Parameters
    ----------
    format : ActivationFormat
        Of each activation.
    pixels, channels : int
        1 or more.
    """
    count = _integer(pixels, "pixels", 1, 1 << 12) * _integer(channels, "channels", 1, 1 << 12)
    return vector(activation_shape(format), count)


def map_signature(format: ActivationFormat, *, pixels: int = 1,
                  channels: int = 1) -> stream.Signature:
    """A stream of such transfers."""
    return stream.Signature(map_shape(format, pixels=pixels, channels=channels))


def map_values(payload: data.View[data.ArrayLayout] | Value) -> list[Value]:
    """The activations of a transfer, in order."""
    return [payload] if isinstance(payload, Value) else list(payload)
