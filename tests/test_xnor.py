# amaranth: UnusedElaboratable=no
"""The PE for binary weights: its twin against products, its counts, and its pace."""

import numpy as np
import pytest

from flightrtl.formats import ActivationFormat
from flightrtl.gateware import XnorPE
from tests.streams import run_streams
from tests.synthesis import cells
from tests.test_pe import transfers


def test_twin_is_the_dot_product_and_its_offsets():
    pe = XnorPE(simd=3, activation=ActivationFormat(8))
    assert pe.offsets.tolist() == [255, 0]
    assert pe.compute([[3, 255, 7]], [[1, 0, 0]]).tolist() == [3 - 255 - 7 + 2 * 255]
    signed = XnorPE(simd=3, activation=ActivationFormat(8, True))
    assert signed.compute([[-128, 127, 7]], [[0, 0, 1]]).tolist() == [128 - 127 + 7 - 2]


@pytest.mark.parametrize(("simd", "width", "latency"), [
    (1, 1, 1), (2, 2, 1), (3, 2, 1), (4, 3, 1), (5, 3, 1), (6, 3, 1), (7, 3, 2), (13, 4, 3)])
def test_counts_every_pattern(simd, width, latency):
    """Each pattern of equal and unequal bits, in each group."""
    pe = XnorPE(simd=simd)
    assert (pe.width, pe.latency) == (width, latency)
    patterns = np.arange(1 << min(simd, 7))
    equal = np.stack([patterns >> n % 7 & 1 for n in range(simd)], axis=1)
    activations = np.random.default_rng(simd).integers(0, 2, equal.shape)
    codes = 1 ^ activations ^ equal
    run = run_streams(pe, {"i": transfers(activations, codes)}, {"o": len(equal)})
    assert run["o"] == equal.sum(axis=1).tolist() == pe.compute(activations, codes).tolist()
    assert {out - into for into, out in zip(run.cycles["i"], run.cycles["o"], strict=True)} \
        == {latency}


@pytest.mark.parametrize("activation", [ActivationFormat(1, True), ActivationFormat(3),
                                        ActivationFormat(3, True)])
def test_wider_activations(activation):
    pe = XnorPE(simd=2, activation=activation)
    values = np.arange(activation.min, activation.max + 1)
    activations = np.array([[a, b] for a in values for b in values for _ in range(4)])
    codes = np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (len(values) ** 2, 1))
    run = run_streams(pe, {"i": transfers(activations, codes)}, {"o": len(codes)})
    exact = (activations * (2 * codes - 1)).sum(axis=1)
    off = (1 - codes).sum(axis=1) * (-1 if activation.signed else activation.max)
    assert run["o"] == (exact + off).tolist() == pe.compute(activations, codes).tolist()


def test_cost(tmp_path):
    """Well under the 4 LUT4 a bit that XNORs and adders of single bits take."""
    assert cells(XnorPE(simd=36), "ice40", tmp_path)["SB_LUT4"] < 3 * 36


def test_bad_parameters():
    with pytest.raises(ValueError, match="simd must be 1 to"):
        XnorPE(simd=0)
