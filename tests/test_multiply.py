# amaranth: UnusedElaboratable=no
"""The multiplying PE: its twin against products, its pace, and what becomes of it in synthesis."""

import numpy as np
import pytest

from flightrtl.formats import ActivationFormat, FixedFormat
from flightrtl.gateware import MultiplyPE
from tests.streams import run_streams
from tests.synthesis import cells
from tests.test_pe import transfers


def operands(rng, pe, count):
    """Random activations and codes, with every extreme of both among them."""
    fmt, weight = pe.activation, pe.weight
    activations = rng.integers(fmt.min, fmt.max, (count, pe.simd), endpoint=True)
    codes = rng.integers(0, 1 << weight.code_bits, (count, pe.simd))
    ends = weight.encode([weight.min, weight.max]).tolist()
    for row, (code, activation) in enumerate(
            (code, activation) for code in ends for activation in (fmt.min, fmt.max)):
        activations[row], codes[row] = activation, code
    return activations, codes


def test_twin_is_the_dot_product_and_its_offsets():
    codes = FixedFormat(4).encode([[7, -8, 0], [1, -1, 2]])
    activations = [[3, 255, 7], [1, 2, 4]]
    exact = [21 - 8 * 255, 1 - 2 + 8]
    assert MultiplyPE(simd=3, dsp=True).compute(activations, codes).tolist() == exact
    # 7 = 1 + 6, -8 = -2 - 6, 0 = -2 + 2: 1 less for a negative lowest digit, 2 for the other.
    assert MultiplyPE(simd=3).offsets[[7, 8, 0]].tolist() == [0, -3, -1]
    assert MultiplyPE(simd=3).compute(activations, codes)[0] == exact[0] - 4


@pytest.mark.parametrize(("bits", "dsp", "latency"), [
    (2, False, 3), (3, False, 4), (4, False, 4), (5, False, 5), (8, False, 5), (8, True, 3)])
def test_every_product(bits, dsp, latency):
    """All weights, with activations of both kinds at both ends; a transfer per cycle."""
    weight = FixedFormat(bits)
    for fmt in (ActivationFormat(5), ActivationFormat(5, True)):
        pe = MultiplyPE(simd=3, activation=fmt, weight=weight, dsp=dsp)
        assert pe.latency == latency
        codes = np.arange(1 << bits).repeat(6).reshape(-1, 3)
        activations = np.tile([[fmt.min, fmt.max, fmt.max - 1], [1, 0, fmt.min]],
                              (1 << bits, 1))
        run = run_streams(pe, {"i": transfers(activations, codes)}, {"o": len(codes)})
        assert run["o"] == pe.compute(activations, codes).tolist()
        products = activations * weight.decode(codes) + pe.offsets[codes]
        assert run["o"] == products.sum(axis=1).tolist()
        assert {out - into for into, out in zip(run.cycles["i"], run.cycles["o"], strict=True)} \
            == {latency}


@pytest.mark.parametrize(("parameters", "error", "message"), [
    ({"simd": 0}, ValueError, "simd must be 1 to"),
    ({"simd": 1, "dsp": 1}, TypeError, "dsp must be True or False, not 1"),
])
def test_bad_parameters(parameters, error, message):
    with pytest.raises(error, match=message):
        MultiplyPE(**parameters)


def test_logic_has_no_multiplier_and_a_block_is_one(tmp_path):
    found = cells(MultiplyPE(simd=4), "generic", tmp_path)
    assert not {"$mul", "$shl", "$sshl"} & set(found)
    found = cells(MultiplyPE(simd=4, dsp=True), "ecp5", tmp_path)
    assert found["MULT18X18D"] == 4


def test_cost(tmp_path):
    """Of a single product, its own triple included; a multiplication of Yosys' takes over 80."""
    assert cells(MultiplyPE(simd=1), "ice40", tmp_path)["SB_LUT4"] < 55
