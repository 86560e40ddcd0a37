"""Images and answers of a network as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UserError
from ..formats import ActivationFormat
from ..model import Model
from ..modelfile import ModelError
from .framing import CHECKSUM_BYTES, HEADER_BYTES, LinkError
from .messages import LOAD_HEADER_BYTES, Reply, Type, request

__all__ = ["Frame", "link_problems", "require_loads", "value_bytes"]

_MOST = 0xFFFF      # bytes of an image and classes, as an Identity can say them


def value_bytes(bits: int) -> int:
    """Bytes that carry a value of so many bits."""
    return 1 if bits <= 8 else 2


def _dtype(fmt: ActivationFormat) -> str:
    return f"<{'i' if fmt.signed else 'u'}{value_bytes(fmt.bits)}"


def _too_many(image_bytes: int, classes: int) -> list[str]:
    return [f"{what}, and the link between host and board takes up to {_MOST:,}: {remedy}, or put "
            "the network into a design of your own (docs/embed.md)"
            for what, count, remedy in (
                (f"an image has {image_bytes:,} bytes", image_bytes, "use smaller images"),
                (f"there are {classes:,} classes", classes, "train with fewer")) if count > _MOST]


def link_problems(model: Model) -> list[str]:
    """All that keeps a model from the link, one sentence each; empty if nothing does."""
    return _too_many(value_bytes(model.input.format.bits) * model.input.size, model.output.size)


def require_loads(model: Model) -> None:
    """Raise :class:`UserError` if requests to load weights do not fit where images do."""
    if Frame.of(model).load_bytes < 1:
        raise UserError(f"an image of model {model.name!r} is too small for weights to be loaded: "
                        "leave out --weights loadable")


@dataclass(frozen=True)
class Frame:
    """Images and answers of one network as bytes.

    Parameters
    ----------
    input : ActivationFormat
        Of the image's values.
    size : int
        Values in an image.
    logit : ActivationFormat
        Of the logits.
    classes : int
        Number of logits.
    """

    input: ActivationFormat
    size: int
    logit: ActivationFormat
    classes: int

    @classmethod
    def of(cls, model: Model) -> Frame:
        """The frames of a model; :class:`ModelError` with its :func:`link_problems`."""
        problems = link_problems(model)
        if problems:
            raise ModelError(f"no host can talk to model {model.name!r}", problems)
        return cls(model.input.format, model.input.size, model.output.format, model.output.size)

    def __post_init__(self) -> None:
        problems = _too_many(self.image_bytes, self.classes)
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def image_bytes(self) -> int:
        """Body of a request to classify."""
        return value_bytes(self.input.bits) * self.size

    @property
    def load_bytes(self) -> int:
        """Bytes for a memory in a request to load weights: its body is as long as an image."""
        return self.image_bytes - LOAD_HEADER_BYTES

    @property
    def winner_bits(self) -> int:
        """Bits of a class."""
        return max(1, (self.classes - 1).bit_length())

    @property
    def answer_bytes(self) -> int:
        """Body of the reply, behind its status."""
        return value_bytes(self.logit.bits) * self.classes + value_bytes(self.winner_bits)

    @property
    def request_size(self) -> int:
        """Bytes of a request on the line, at least; twice as many, nearly, if all are escaped."""
        return 2 + HEADER_BYTES + self.image_bytes + CHECKSUM_BYTES

    @property
    def answer_size(self) -> int:
        """Bytes of a good answer on the line, at least."""
        return 2 + HEADER_BYTES + 1 + self.answer_bytes + CHECKSUM_BYTES

    def image_body(self, image: ArrayLike) -> bytes:
        """An image, whose values are taken in the order of the array.

        Raises
        ------
        ValueError
            If its size or a value is wrong.
        """
        values = np.asarray(image).reshape(-1)
        if len(values) != self.size:
            raise ValueError(f"the image has {len(values)} values; it must have {self.size}")
        if np.any((values < self.input.min) | (values > self.input.max)):
            raise ValueError(f"the image has values outside {self.input.min} to {self.input.max}")
        if np.any(values != values.astype(np.int64)):
            raise ValueError("the image has values that are no integers")
        return values.astype(_dtype(self.input)).tobytes()

    def image(self, body: bytes) -> list[int]:
        """The values of an image, as a device reads them: bits beyond the format are ignored."""
        if len(body) != self.image_bytes:
            raise ValueError(f"an image has {self.image_bytes} bytes, not {len(body)}")
        width = value_bytes(self.input.bits)
        raw = np.frombuffer(body, f"<u{width}").astype(np.int64) & (1 << self.input.bits) - 1
        negative = self.input.signed * (raw >> (self.input.bits - 1)) << self.input.bits
        return (raw - negative).tolist()

    def request(self, sequence: int, image: ArrayLike) -> bytes:
        """The request to classify an image, as bytes on the line; ``ValueError`` as above."""
        return request(Type.CLASSIFY, sequence, self.image_body(image))

    def answer_body(self, logits: Sequence[int], winner: int) -> bytes:
        """What the device answers, behind the status."""
        return (np.array(logits, np.int64).astype(_dtype(self.logit)).tobytes()
                + winner.to_bytes(value_bytes(self.winner_bits), "little"))

    def parse(self, reply: Reply) -> tuple[int, list[int]]:
        """Class and logits of a reply.

        Raises
        ------
        LinkError
            If there are none in it, or the class is not that of the first of the largest logits.
        """
        body = reply.check(self.answer_bytes)
        end = value_bytes(self.logit.bits) * self.classes
        logits = np.frombuffer(body[:end], _dtype(self.logit)).astype(int).tolist()
        winner = int.from_bytes(body[end:], "little")
        if winner != int(np.argmax(logits)):
            raise LinkError(f"the device answers class {winner}, and its logits say "
                            f"{int(np.argmax(logits))}")
        return winner, logits
