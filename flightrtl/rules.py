"""The rules for single values of a model: numbers, arrays, texts, and how large they may be.

Used by :mod:`flightrtl.check`, which applies them to a whole model. Every function appends what
it finds to a list of problems.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .formats import ActivationFormat, BinaryFormat, FixedFormat, IntArray, TermFormat
from .model import Add, Join, SumPool, WeightedLayer

__all__ = ["LIMITS", "Limits", "check_accumulator", "check_number", "check_numbers",
           "check_weights", "json_problems", "show"]


@dataclass(frozen=True)
class Limits:
    """How large a model may be, so that a small file cannot ask for a large computation."""

    layers: int = 256
    name: int = 64
    side: int = 4096
    map_values: int = 1 << 24
    live_values: int = 1 << 26
    weights: int = 1 << 24
    k: int = 255
    shift: int = 31
    add_shift: int = 15
    operands: int = 16
    scale: int = 127
    accumulator_bits: int = 48
    provenance_depth: int = 16


LIMITS = Limits()


def show(value: object) -> str:
    """``value`` for a message: short, and nothing but printable ASCII."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def json_problems(value: object, where: str, depth: int = 0) -> list[str]:
    """Why ``value`` would not survive being written as JSON and read back."""
    if value is None or isinstance(value, bool):
        return []
    if isinstance(value, int):
        fits = abs(value) < 1 << 63
        return [] if fits else [f"{where}: the number is too large: write it as text"]
    if isinstance(value, float):
        return [] if math.isfinite(value) else [f"{where}: must be finite, not {value}: omit it"]
    if isinstance(value, str):
        legal = not any(0xD800 <= ord(character) < 0xE000 for character in value)
        return [] if legal else [f"{where}: the text holds half a surrogate pair: remove it"]
    if depth == LIMITS.provenance_depth:
        return [f"{where[:200]}: nested more than {depth} deep: flatten it"]
    found = []
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or json_problems(key, where):
                found.append(f"{where}: the key {show(key)} must be text: rename it")
            found += json_problems(item, f"{where}[{show(key)}]", depth + 1)
        return found
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            found += json_problems(item, f"{where}[{index}]", depth + 1)
        return found
    return [f"{where}: {show(value)} must be text, a number, a truth value, None, a list or a "
            "dict: convert it"]


def check_numbers(problems: list[str], where: str, what: str, value: object, count: int,
                  low: int, high: int) -> bool:
    """Whether ``value`` is a tuple of ``count`` integers in ``low..high``."""
    if (isinstance(value, tuple) and len(value) == count
            and all(_is_integer(number) and low <= number <= high for number in value)):
        return True
    problems.append(f"{where}: {what} must be {count} integers from {low} to {high}, not "
                    f"{show(value)}: correct it")
    return False


def check_number(problems: list[str], where: str, what: str, value: Any, low: int,
                 high: int) -> bool:
    """Whether ``value`` is an integer in ``low..high``."""
    if _is_integer(value) and low <= value <= high:
        return True
    problems.append(f"{where}: {what} must be an integer from {low} to {high}, not "
                    f"{show(value)}: correct it")
    return False


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_weights(problems: list[str], where: str, layer: WeightedLayer) -> int | None:
    """What is wrong with terms, k, bias, shift and scale; how many weights and terms there are.

    None if the dimensions of the layer are not known.
    """
    k = layer.k
    if not (isinstance(k, tuple) and 1 <= len(k) <= LIMITS.side
            and all(_is_integer(n) and 0 <= n <= LIMITS.k for n in k)):
        problems.append(f"{where}: k must be one integer from 0 to {LIMITS.k} for each of 1 to "
                        f"{LIMITS.side} filters, not {show(k)}: correct it")
        return None
    for what, low, high in (("bias", -(1 << LIMITS.accumulator_bits - 1),
                             (1 << LIMITS.accumulator_bits - 1) - 1),
                            ("shift", 0, LIMITS.shift), ("scale", -LIMITS.scale, LIMITS.scale)):
        values = getattr(layer, what)
        if not (isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.integer)
                and values.shape == (len(k),)):
            problems.append(f"{where}: {what} must be an array of {len(k)} integers, one for each "
                            f"filter, not {_kind(values)}")
        elif values.min() < low or values.max() > high:
            problems.append(f"{where}: {what} must be {low} to {high}, not {values.min()} to "
                            f"{values.max()}: correct it")
    terms = layer.terms
    if not (isinstance(terms, np.ndarray) and terms.dtype == np.uint8 and terms.ndim == 4
            and min(terms.shape[1:]) >= 1):
        problems.append(f"{where}: terms must be an array of uint8 of 4 dimensions (slots, rows, "
                        f"columns, channels), not {_kind(terms)}")
        return None
    used = (len(k) + terms.shape[0]) * math.prod(terms.shape[1:])
    if max(terms.shape[1:]) > LIMITS.side or used > LIMITS.weights:
        problems.append(f"{where}: terms of shape {terms.shape} for {len(k)} filters are larger "
                        f"than the supported {LIMITS.side} on a side and {LIMITS.weights} weights "
                        "and terms: use a smaller layer")
        return None
    if sum(k) != terms.shape[0]:
        problems.append(f"{where}: k adds up to {sum(k)}, but there are {terms.shape[0]} slots of "
                        "terms: each filter owns k of them")
    if not isinstance(layer.format, (TermFormat, FixedFormat, BinaryFormat)):
        problems.append(f"{where}: the format must be a TermFormat, FixedFormat or BinaryFormat, "
                        f"not {show(layer.format)}")
        return used
    if not isinstance(layer.format, TermFormat) and max(k) > 1:
        problems.append(f"{where}: k is {max(k)} for a filter of single weights: it must be 1, or "
                        "0 for a filter that is pruned")
    if np.any(terms >> layer.format.code_bits):
        problems.append(f"{where}: a term code is {terms.max()}, but codes have "
                        f"{layer.format.code_bits} bits: encode the terms with the layer's format")
    elif isinstance(layer.format, TermFormat) and np.any(terms == layer.format.negative_zero):
        problems.append(f"{where}: a term code is {layer.format.negative_zero} (minus zero), which "
                        "is not allowed: zero is code 0")
    return used


def _kind(values: object) -> str:
    return (f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray)
            else show(values))


def _filter_sums(layer: WeightedLayer) -> tuple[IntArray, IntArray]:
    """Sums of the positive and of the negative weights of each filter that has terms."""
    codes = np.arange(1 << layer.format.code_bits)
    if isinstance(layer.format, TermFormat):
        codes[layer.format.negative_zero] = 0
    values = layer.format.decode(codes).astype(np.int32)
    k = np.array([number for number in layer.k if number], np.int64)
    ends = np.cumsum(k)
    positive, negative = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)]
    # In pieces: the weights take more room than the codes.
    step = max(1, (1 << 20) // (layer.taps * max(1, int(k.max(initial=1)))))
    for start in range(0, len(k), step):
        slots = slice(int(ends[start] - k[start]), int(ends[start:start + step][-1]))
        first = np.cumsum(k[start:start + step]) - k[start:start + step]
        weights = np.add.reduceat(values[layer.terms[slots]], first, axis=0, dtype=np.int64)
        positive.append(np.maximum(weights, 0).sum(axis=(1, 2, 3)))
        negative.append(np.minimum(weights, 0).sum(axis=(1, 2, 3)))
    return np.concatenate(positive), np.concatenate(negative)


def check_accumulator(problems: list[str], where: str, layer: WeightedLayer | SumPool | Join,
                      *sources: ActivationFormat) -> None:
    """The sum, with and without bias, must fit what hardware and golden model provide.

    ``sources`` are the formats of the layer's inputs.
    """
    source = sources[0]
    if isinstance(layer, Join):
        lows = [form.min << int(by) for form, by in zip(sources, layer.shifts, strict=True)]
        highs = [form.max << int(by) for form, by in zip(sources, layer.shifts, strict=True)]
        low, high = ((sum(lows), sum(highs)) if isinstance(layer, Add) else
                     (min(lows), max(highs)))
        biases = [int(layer.bias)]
    elif isinstance(layer, SumPool):
        area = int(layer.kernel[0]) * int(layer.kernel[1])
        low, high = area * source.min, area * source.max
        biases = [int(layer.bias)]
    else:
        positive, negative = _filter_sums(layer)
        low = int((positive * source.min + negative * source.max).min())
        high = int((positive * source.max + negative * source.min).max())
        biases = [int(layer.bias.min()), int(layer.bias.max())]
    least, most = min(low, low + min(biases)), max(high, high + max(biases))
    half = 1 << LIMITS.accumulator_bits - 1
    if least < -half or most >= half:
        problems.append(f"{where}: its sums reach {least} to {most}, more than "
                        f"{LIMITS.accumulator_bits} bits: use smaller biases, fewer inputs or a "
                        "format with fewer bits")
