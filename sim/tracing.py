"""Where the gateware first leaves the golden model: which layer, pixel and channel, both values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flightrtl import golden
from flightrtl.errors import UserError
from flightrtl.formats import IntArray
from flightrtl.model import Model
from flightrtl.report import table

from .observed import Observed

__all__ = ["Difference", "LayerTrace", "LayerTraces", "compare_layers", "require_room"]

_BATCH = 256
"""Images that the golden model computes in one go."""

_MOST_VALUES = 100_000_000
"""Values of all layers that are kept: about two gigabytes, with their cycles."""


@dataclass(frozen=True)
class Difference:
    """A value that a layer should not have handed on.

    Parameters
    ----------
    image, row, column, channel : int
        Which value of the golden model should be there.
    value, expected : int
        What is there and what should be.
    slip : int
        1 if the values from here on are those that belong one place later: one is missing. -1 if
        one came that is too many. 0 if neither.
    """

    image: int
    row: int
    column: int
    channel: int
    value: int
    expected: int
    slip: int = 0

    def __str__(self) -> str:
        text = (f"image {self.image}, row {self.row}, column {self.column}, channel "
                f"{self.channel} is {self.value}, must be {self.expected}")
        if self.slip > 0:
            text += (": a value is missing, here or among equal ones before; those that follow "
                     "are right, but one place too early")
        elif self.slip < 0:
            text += (": a value too many, here or among equal ones before; those that follow are "
                     "right, but one place too late")
        return text


@dataclass(frozen=True)
class LayerTrace:
    """All that one layer handed on, beside the golden model.

    Parameters
    ----------
    name : str
        The layer.
    shape : (int, int, int)
        Of its output: rows, columns, channels.
    expected, given : int
        Values that it had to hand on, and values that it did.
    differing : int
        Of those given in time, how many are wrong.
    first : Difference, optional
        The first of them.
    offering : bool
        Whether, at the end, it offered a value that nobody took.
    first_image : int
        What the first of the images is called.
    """

    name: str
    shape: tuple[int, int, int]
    expected: int
    given: int
    differing: int = 0
    first: Difference | None = None
    offering: bool = False
    first_image: int = 0

    @property
    def right(self) -> bool:
        """Whether all of it is there, in order, and nothing else."""
        return not self.differing and self.given == self.expected

    @property
    def problem(self) -> str:
        """What is wrong, in words."""
        if self.first is not None:
            return str(self.first)
        if self.given > self.expected:
            return f"{self.given - self.expected} values too many at the end"
        if self.given < self.expected:
            image, place = divmod(self.given, int(np.prod(self.shape)))
            row, column, channel = map(int, np.unravel_index(place, self.shape))
            text = (f"image {self.first_image + image}, row {row}, column {column}, channel "
                    f"{channel} is missing, and all after it")
            return f"{text}; it was offered and not taken" if self.offering else text
        return ""

    def as_json(self) -> dict[str, Any]:
        """As the command line prints it."""
        first = self.first
        return {
            "name": self.name, "expected": self.expected, "given": self.given,
            "differing": self.differing,
            "first": None if first is None else {
                "image": first.image, "row": first.row, "column": first.column,
                "channel": first.channel, "value": first.value, "expected": first.expected,
                "slip": first.slip}}


@dataclass(frozen=True)
class LayerTraces:
    """Every layer's output beside the golden model.

    Parameters
    ----------
    layers : sequence of LayerTrace
        In the network's order.
    """

    layers: Sequence[LayerTrace]

    @property
    def culprit(self) -> LayerTrace | None:
        """The first layer that is wrong, or None.

        Wrong values come before missing ones: a layer that nobody takes values from is not to
        blame for those that it could not hand on.
        """
        for suspects in ([layer for layer in self.layers if layer.differing],
                         [layer for layer in self.layers
                          if layer.given != layer.expected and not layer.offering],
                         [layer for layer in self.layers if not layer.right]):
            if suspects:
                return suspects[0]
        return None

    @property
    def verdict(self) -> str:
        """The outcome in a sentence."""
        culprit = self.culprit
        if culprit is None:
            return "every value of every layer is the golden model's"
        return f"layer {culprit.name!r} is the first that differs: {culprit.problem}"

    def as_text(self) -> str:
        """A table for people."""
        return table(
            ("layer", "rows x columns x channels", "values", "given", "differ"),
            [(layer.name, " x ".join(map(str, layer.shape)), f"{layer.expected:,}",
              f"{layer.given:,}", f"{layer.differing:,}") for layer in self.layers],
            left=(0, 1))

    def as_json(self) -> dict[str, Any]:
        """As the command line prints it, under ``trace``."""
        culprit = self.culprit
        return {"first": None if culprit is None else culprit.name,
                "layers": [layer.as_json() for layer in self.layers]}


def require_room(model: Model, images: int) -> None:
    """Refuse what does not fit into memory.

    Raises
    ------
    UserError
        If all layers' values of so many images are too many.
    """
    size = sum(model.tensors[layer.name].size for layer in model.layers)
    if size * images > _MOST_VALUES:
        raise UserError(f"--trace-layers keeps every value of every layer, {size:,} for each image "
                        f"of {model.name}: choose at most {_MOST_VALUES // size:,} images")


def compare_layers(network: Observed, images: IntArray, streams: Mapping[str, IntArray], *,
                   offering: Collection[str] = (), first_image: int = 0) -> LayerTraces:
    """Compare all that the layers handed on with :func:`flightrtl.golden.trace`.

    Parameters
    ----------
    network : Observed
        What was simulated.
    images : array of integers, (images, height, width, channels)
        What went in.
    streams : mapping of str to array
        Payloads of each of its layers' ports, by name of the port.
    offering : collection of str
        Ports with a value that nobody had taken when the simulation ended.
    first_image : int
        What the first of ``images`` is called.
    """
    model = network.model
    given = {name: network.values(name, streams[port]) for name, port in network.streams.items()}
    found = {name: LayerTrace(
        name, model.tensors[name].shape, expected=len(images) * model.tensors[name].size,
        given=len(streams[port]) * network.pixels(name), offering=port in offering,
        first_image=first_image)
        for name, port in network.streams.items()}
    for start in range(0, len(images), _BATCH):
        truth = golden.trace(model, images[start:start + _BATCH])
        for name, values in given.items():
            found[name] = _compare(found[name], values, truth[name].reshape(-1), start)
    return LayerTraces(tuple(found.values()))


def _compare(trace: LayerTrace, values: IntArray, expected: IntArray, image: int) -> LayerTrace:
    """``trace``, with what another batch of images, from number ``image`` on, adds to it."""
    size = int(np.prod(trace.shape))
    values = values[image * size:image * size + len(expected)]
    differs = values != expected[:len(values)]
    count = int(differs.sum())
    if not count or trace.first is not None:
        return replace(trace, differing=trace.differing + count)
    index = int(differs.argmax())
    number, place = divmod(index, size)
    row, column, channel = map(int, np.unravel_index(place, trace.shape))
    return replace(trace, differing=trace.differing + count, first=Difference(
        image=trace.first_image + image + number, row=row, column=column, channel=channel,
        value=int(values[index]), expected=int(expected[index]),
        slip=_slip(values[index:index + size], expected[index:index + size])))


def _slip(values: IntArray, expected: IntArray) -> int:
    """Whether the two are the same one place apart; see :class:`Difference`."""
    for slip, early, late in ((1, values, expected), (-1, expected, values)):
        count = min(len(early), len(late) - 1)
        # One wrong value among equal ones must not pass for a slip.
        if (count > 0 and (early[:count] == late[1:count + 1]).all()
                and (early[:count] != late[:count]).sum() > 1):
            return slip
    return 0
