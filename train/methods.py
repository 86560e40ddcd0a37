"""The training methods by name, and the number formats that a layer is trained for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flightrtl.formats import FixedFormat, TermFormat

from .quantizers.base import Quantizer
from .quantizers.binary import BinaryQuantizer
from .quantizers.fixed import FixedQuantizer
from .quantizers.flightnn import TermQuantizer
from .quantizers.nbq import NBQQuantizer

__all__ = ["METHODS", "LayerSettings", "Method"]


@dataclass(frozen=True)
class LayerSettings:
    """Number formats of one layer.

    Parameters
    ----------
    method : str
        A key of :data:`METHODS`.
    exponent_bits : int
        Of a term, its sign not counted.
    max_terms : int
        ``K`` of FLightNN.
    weight_bits : int
        Of fixed-point and n-BQ-NN weights.
    activation_bits : int
        Of the result, if it is hidden.
    residual_bits : int
        Of the result, if an addition takes it before any ReLU (it is signed then).
    scale_span : int
        See :func:`~train.quantizers.base.limit_scale`.
    prune : bool
        Whether FLightNN may take away a filter's last term.
    sparsity : float
        Share of the filters that are pruned from the start, see :mod:`train.quantizers.sparse`.
    """

    method: str = "flightnn"
    exponent_bits: int = 3
    max_terms: int = 2
    weight_bits: int = 4
    activation_bits: int = 8
    residual_bits: int = 8
    scale_span: int = 3
    prune: bool = False
    sparsity: float = 0.0


@dataclass(frozen=True)
class Method:
    """A way to train weights.

    Parameters
    ----------
    text : str
        One line for ``python -m train --list``.
    quantizer : callable
        From the number of filters and the layer's settings to a quantizer; None: the weights
        stay real, and there is no quantized stage.
    learns_terms : bool
        Whether the group lasso (``lambda``, ``target_k``) acts.
    weight_bits : (int, int)
        Least and greatest ``weight_bits`` that it has, where it has any use for them.
    """

    text: str
    quantizer: Callable[[int, LayerSettings], Quantizer] | None
    learns_terms: bool = False
    weight_bits: tuple[int, int] = (1, 8)


def _terms(max_terms: int | None, learn: bool) -> Callable[[int, LayerSettings], Quantizer]:
    def make(filters: int, settings: LayerSettings) -> Quantizer:
        return TermQuantizer(filters, TermFormat(settings.exponent_bits), settings.scale_span,
                             max_terms=max_terms or settings.max_terms, learn=learn,
                             prune=settings.prune)
    return make


def _fixed(filters: int, settings: LayerSettings) -> Quantizer:
    return FixedQuantizer(filters, FixedFormat(settings.weight_bits), settings.scale_span)


def _nbq(filters: int, settings: LayerSettings) -> Quantizer:
    return NBQQuantizer(filters, settings.weight_bits, settings.scale_span)


def _binary(filters: int, settings: LayerSettings) -> Quantizer:
    return BinaryQuantizer(filters, settings.scale_span)


METHODS: dict[str, Method] = {
    "flightnn": Method("every filter learns its number of terms, 1 to max_terms",
                       _terms(None, True), learns_terms=True),
    "lightnn1": Method("one term in every weight", _terms(1, False)),
    "lightnn2": Method("two terms in every weight", _terms(2, False)),
    "nbq": Method("n-BQ-NN: weights of weight_bits bits, zero or one power of two", _nbq,
                  weight_bits=(1, 5)),
    "bnn": Method("binary weights and activations; 8-bit weights in the first and last layer",
                  _binary),
    "fixed": Method("two's complement weights of weight_bits bits", _fixed, weight_bits=(2, 8)),
    "mixed": Method("formats of each layer as the recipe's [layers] tables say, flightnn where "
                    "none is said; python -m train.mixed writes such a recipe",
                    _terms(None, True), learns_terms=True),
    "float": Method("real-valued weights and activations: the reference, and where the others "
                    "can start from (--init)", None),
}
