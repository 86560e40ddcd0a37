# amaranth: UnusedElaboratable=no
# (An object is also the answer in NumPy: its parts need not become hardware.)
"""Which processing element computes which weights, and what its sums are off by."""

from __future__ import annotations

from functools import lru_cache

from ..formats import ActivationFormat, FixedFormat, IntArray, TermFormat, WeightFormat
from .multiply import MultiplyPE
from .pe import ShiftPE
from .xnor import XnorPE

__all__ = ["PE", "code_offsets", "processing_element"]

PE = ShiftPE | MultiplyPE | XnorPE
"""What an array is made of. All have the same streams, ``compute``, ``latency``, ``width``,
``product_bits``, and ``offsets``: by weight code, how much a product is more than it should be."""


def processing_element(weight: WeightFormat, *, simd: int, activation: ActivationFormat,
                       dsp: bool = False) -> PE:
    """A PE of an array, whose products may be off by a constant for each weight.

    Parameters
    ----------
    weight : WeightFormat
        Format of the weights: chooses the kind of PE.
    simd : int
        Products per cycle.
    activation : ActivationFormat
        Format of the activations.
    dsp : bool
        Whether multiplier blocks make the products; of fixed-point weights only.

    Raises
    ------
    ValueError
        If there is nothing to multiply for a multiplier block.
    """
    if isinstance(weight, FixedFormat):
        return MultiplyPE(simd=simd, activation=activation, weight=weight, dsp=dsp)
    if dsp:
        raise ValueError(f"dsp=True needs weights of FixedFormat, not {weight}: use dsp=False")
    if isinstance(weight, TermFormat):
        return ShiftPE(simd=simd, activation=activation, term=weight, exact=False)
    return XnorPE(simd=simd, activation=activation, weight=weight)


@lru_cache(maxsize=256)     # the planner asks for every folding of a layer
def code_offsets(weight: WeightFormat, activation: ActivationFormat,
                 dsp: bool = False) -> IntArray:
    """By weight code, how much a product in an array is more than it should be."""
    return processing_element(weight, simd=1, activation=activation, dsp=dsp).offsets
