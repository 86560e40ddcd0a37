"""Number formats: weights (terms, fixed-point, binary), activations, and the rounding after sums.

Everything that computes a flightrtl network (trainer, golden model, gateware) takes its
arithmetic from here, so that all of them give the same integers.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ActivationFormat", "BinaryFormat", "FixedFormat", "IntArray", "TermFormat",
           "WeightFormat", "requantize", "signed_bits"]

IntArray = NDArray[np.int64]


def _integer(value: object, name: str, low: int, high: int) -> int:
    """``value`` as an ``int`` within ``low..high``, or a ``TypeError`` or ``ValueError``."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not low <= number <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {number}")
    return number


@dataclass(frozen=True)
class TermFormat:
    """A term: zero or a signed power of two. A weight is a sum of terms.

    A code has ``exponent_bits + 1`` bits: the magnitude field ``f`` below, the sign bit above.
    ``f = 0`` is zero (its sign bit must be 0) and ``f >= 1`` is ``2 ** (f - 1)``.

    Parameters
    ----------
    exponent_bits : int
        Width of the magnitude field, 1 to 4. With 3, a term is one of 0, ±1, ±2, ... ±64.

    >>> TermFormat(3).decode(TermFormat(3).encode([0, 1, -2, 64])).tolist()
    [0, 1, -2, 64]
    """

    exponent_bits: int = 3

    def __post_init__(self) -> None:
        _integer(self.exponent_bits, "exponent_bits", 1, 4)

    @property
    def code_bits(self) -> int:
        """Bits in one code, sign included."""
        return self.exponent_bits + 1

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest power of two."""
        return (1 << self.exponent_bits) - 2

    @property
    def max_term(self) -> int:
        """The largest term."""
        return 1 << self.max_exponent

    @property
    def negative_zero(self) -> int:
        """The one code that is not allowed: zero with its sign bit set."""
        return 1 << self.exponent_bits

    def encode(self, terms: ArrayLike) -> NDArray[np.uint8]:
        """Codes of an array of term values; ``ValueError`` for a value that is not a term."""
        values = np.asarray(terms)
        magnitude = np.abs(values.astype(np.int64))
        field = np.where(magnitude == 0, 0, np.frexp(magnitude.astype(np.float64))[1])
        codes = (field + np.where(values < 0, self.negative_zero, 0)).astype(np.uint8)
        legal = (magnitude == values * np.sign(values)) & (field <= self.max_exponent + 1)
        if not np.all(legal) or np.any((magnitude & (magnitude - 1) != 0) & (magnitude != 0)):
            raise ValueError(
                f"terms must be 0 or ±2**e with 0 <= e <= {self.max_exponent} for "
                f"exponent_bits={self.exponent_bits}"
            )
        return codes

    def decode(self, codes: ArrayLike) -> IntArray:
        """Term values of an array of codes; ``ValueError`` for a code that is not one."""
        values = np.asarray(codes).astype(np.int64)
        if np.any((values < 0) | (values >> self.code_bits != 0)):
            raise ValueError(f"term codes must fit in {self.code_bits} bits")
        if np.any(values == self.negative_zero):
            raise ValueError(f"term code {self.negative_zero} (minus zero) is not allowed")
        field = values & (self.negative_zero - 1)
        magnitude = np.where(field == 0, 0, np.int64(1) << np.maximum(field - 1, 0))
        return np.where(values & self.negative_zero, -magnitude, magnitude)


@dataclass(frozen=True)
class FixedFormat:
    """A weight as one number in two's complement; its code is that number's bits.

    Parameters
    ----------
    bits : int
        Width of a weight, sign included, 2 to 8.

    >>> FixedFormat(4).encode([7, -1, -8]).tolist()
    [7, 15, 8]
    """

    bits: int = 8

    def __post_init__(self) -> None:
        _integer(self.bits, "bits", 2, 8)

    @property
    def code_bits(self) -> int:
        """Bits in one code."""
        return self.bits

    @property
    def min(self) -> int:
        """Smallest weight."""
        return -(1 << (self.bits - 1))

    @property
    def max(self) -> int:
        """Largest weight."""
        return (1 << (self.bits - 1)) - 1

    def encode(self, values: ArrayLike) -> NDArray[np.uint8]:
        """Codes of an array of weights; ``ValueError`` for one that does not fit."""
        weights = np.asarray(values)
        if not np.all((weights >= self.min) & (weights <= self.max)
                      & (weights == np.round(weights))):
            raise ValueError(f"weights of {self.bits} bits must be whole numbers from {self.min} "
                             f"to {self.max}: round and clip them, or use more bits")
        return (weights.astype(np.int64) & ((1 << self.bits) - 1)).astype(np.uint8)

    def decode(self, codes: ArrayLike) -> IntArray:
        """Weights of an array of codes; ``ValueError`` for a code that is not one."""
        values = np.asarray(codes).astype(np.int64)
        if np.any((values < 0) | (values >> self.bits != 0)):
            raise ValueError(f"weight codes must fit in {self.bits} bits")
        return np.where(values > self.max, values - (1 << self.bits), values)


@dataclass(frozen=True)
class BinaryFormat:
    """A weight that is -1 (code 0) or +1 (code 1).

    >>> BinaryFormat().encode([1, -1]).tolist()
    [1, 0]
    """

    @property
    def code_bits(self) -> int:
        """Bits in one code."""
        return 1

    @property
    def min(self) -> int:
        """Smallest weight."""
        return -1

    @property
    def max(self) -> int:
        """Largest weight."""
        return 1

    def encode(self, values: ArrayLike) -> NDArray[np.uint8]:
        """Codes of an array of weights; ``ValueError`` for one that is neither -1 nor +1."""
        weights = np.asarray(values)
        if not np.all((weights == -1) | (weights == 1)):
            raise ValueError("binary weights must be -1 or 1: take the sign, and choose one of "
                             "them for 0")
        return (weights == 1).astype(np.uint8)

    def decode(self, codes: ArrayLike) -> IntArray:
        """Weights of an array of codes; ``ValueError`` for a code that is neither 0 nor 1."""
        values = np.asarray(codes)
        if not np.all((values == 0) | (values == 1)):
            raise ValueError("binary weight codes must be 0 or 1")
        return 2 * values.astype(np.int64) - 1


WeightFormat = TermFormat | FixedFormat | BinaryFormat
"""What the codes of a layer mean. n-bit power-of-two weights (n = 2 to 5, n-BQ-NN) are terms of
``n - 1`` exponent bits, one in each weight."""


@dataclass(frozen=True)
class ActivationFormat:
    """The integers that travel between layers.

    Parameters
    ----------
    bits : int
        Width, 1 to 16, sign bit included.
    signed : bool
        Two's complement (network input, logits) or unsigned (after ReLU).
    """

    bits: int = 8
    signed: bool = False

    def __post_init__(self) -> None:
        _integer(self.bits, "bits", 1, 16)
        if not isinstance(self.signed, bool):
            raise TypeError(f"signed must be True or False, not {self.signed!r}")

    @property
    def min(self) -> int:
        """Smallest value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        """Largest value."""
        return (1 << (self.bits - self.signed)) - 1


def requantize(accumulator: IntArray, bias: ArrayLike, shift: ArrayLike,
               output: ActivationFormat) -> IntArray:
    """``clamp((accumulator + bias) >> shift)``, the end of every layer.

    The shift is arithmetic (floor); ``bias`` already holds the rounding half.

    >>> requantize(np.array([5, 6, -9, 4000]), 2, 2, ActivationFormat(8)).tolist()
    [1, 2, 0, 255]
    """
    return np.clip((accumulator + np.asarray(bias, np.int64)) >> np.asarray(shift, np.int64),
                   output.min, output.max)


def signed_bits(low: int, high: int) -> int:
    """Width of the narrowest two's complement number that holds ``low`` to ``high``.

    >>> signed_bits(-128, 127), signed_bits(0, 128), signed_bits(0, 0)
    (8, 9, 1)
    """
    low, high = int(low), int(high)
    return 1 + max((~low).bit_length() if low < 0 else low.bit_length(),
                   (~high).bit_length() if high < 0 else high.bit_length())
