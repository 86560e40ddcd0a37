# amaranth: UnusedElaboratable=no
"""The shift PE: its twin against products, its pace, and what it costs."""

import numpy as np
import pytest

from flightrtl.formats import TermFormat
from flightrtl.gateware import ShiftPE
from tests.streams import run_streams
from tests.synthesis import cells


def random_codes(rng, shape, weight):
    """Codes of terms, or of weights of another format."""
    codes = rng.integers(0, 1 << weight.code_bits, shape)
    if isinstance(weight, TermFormat):
        codes[codes == weight.negative_zero] = 0
    return codes


def operands(rng, pe, count):
    """Random activations and codes, with every extreme of both among them."""
    fmt, term = pe.activation, pe.term
    activations = rng.integers(fmt.min, fmt.max, (count, pe.simd), endpoint=True)
    codes = random_codes(rng, (count, pe.simd), term)
    greatest, least = term.encode([term.max_term, -term.max_term])
    corners = [(fmt.min, greatest), (fmt.max, greatest), (fmt.min, least), (fmt.max, least)]
    for row, (activation, code) in enumerate(corners):
        activations[row], codes[row] = activation, code
    return activations, codes


def transfers(activations, codes):
    return [{"activations": a.tolist(), "terms": c.tolist()}
            for a, c in zip(activations, codes, strict=True)]


def test_twin_is_the_dot_product():
    pe = ShiftPE(simd=3)
    codes = pe.term.encode([[2, -64, 0], [1, 1, -1]])
    assert pe.compute([[3, 255, 7], [1, 2, 4]], codes).tolist() == [6 - 64 * 255, -1]
    short = ShiftPE(simd=3, exact=False)
    assert short.compute([[3, 255, 7], [1, 2, 4]], codes).tolist() == [6 - 64 * 255 - 1, -2]


@pytest.mark.parametrize("simd", [1, 2, 5, 8])
def test_latency_and_throughput(simd):
    pe = ShiftPE(simd=simd)
    activations, codes = operands(np.random.default_rng(0), pe, 20)
    run = run_streams(pe, {"i": transfers(activations, codes)}, {"o": 20})
    assert [out - into for into, out in zip(run.cycles["i"], run.cycles["o"], strict=True)] == \
        [pe.latency] * 20
    assert run.cycles["o"][-1] - run.cycles["o"][0] == 19


@pytest.mark.parametrize(("parameters", "error", "message"), [
    ({"simd": 0}, ValueError, "simd must be 1 to"),
    ({"simd": 2.0}, TypeError, "simd must be an integer"),
])
def test_bad_parameters(parameters, error, message):
    with pytest.raises(error, match=message):
        ShiftPE(**parameters)


def test_no_multiplier(tmp_path):
    found = cells(ShiftPE(simd=4), "generic", tmp_path)
    assert not {"$mul", "$shl", "$sshl"} & set(found)
