# amaranth: UnusedElaboratable=no
"""Pooling: hardware against its own NumPy twin, and the twin against loops."""

import numpy as np
import pytest

from flightrtl.formats import ActivationFormat
from flightrtl.gateware.pool import MaxPooling, SumPooling
from tests.streams import as_map, as_transfers, run_streams
from tests.synthesis import cells


def random_images(rng, count, pool):
    fmt = pool.format
    return rng.integers(fmt.min, fmt.max, (count, *pool.shape), endpoint=True)


def simulate(pool, images, *, seed=0, stall=0.0):
    expected = pool.compute(images)
    pixels = pool.output_pixels
    run = run_streams(pool, {"i": as_transfers(images, pool.pixels)},
                      {"o": expected.size // pixels}, seed=seed, stall=stall,
                      timeout=200 + 40 * images.size)
    np.testing.assert_array_equal(as_map(run["o"], expected.shape[1:], pixels), expected)
    return run


SHAPES = [  # shape, kernel, stride
    ((4, 4, 3), (2, 2), (2, 2)),
    ((4, 6, 1), (2, 2), (2, 2)),      # one channel: the same accumulator twice running
    ((5, 5, 2), (2, 2), (2, 2)),      # a row and a column that no window reaches
    ((7, 8, 2), (3, 3), (2, 2)),      # overlapping both ways
    ((7, 7, 1), (3, 3), (1, 1)),
    ((6, 6, 1), (3, 2), (1, 2)),      # overlapping in columns only
    ((6, 7, 2), (2, 3), (2, 1)),      # overlapping in rows only
    ((9, 8, 1), (5, 4), (2, 3)),
    ((7, 7, 2), (1, 2), (3, 3)),      # gaps between windows
    ((5, 6, 1), (2, 1), (3, 5)),
    ((3, 3, 2), (3, 3), (1, 1)),      # global
    ((3, 2, 1), (3, 2), (4, 4)),      # global, one accumulator in all
    ((3, 3, 2), (1, 1), (1, 1)),      # nothing to do
    ((1, 1, 1), (1, 1), (1, 1)),
]


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize(("shape", "kernel", "stride"), SHAPES)
@pytest.mark.parametrize("signed", [False, True])
def test_max(shape, kernel, stride, signed, stall):
    pool = MaxPooling(shape=shape, kernel=kernel, stride=stride,
                      format=ActivationFormat(6, signed))
    simulate(pool, random_images(np.random.default_rng(5), 2, pool), seed=1, stall=stall)


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize(("shape", "kernel", "stride"), SHAPES)
@pytest.mark.parametrize(("signed", "bias", "shift", "output"), [
    (False, 2, 2, ActivationFormat(6)),
    (True, -5, 1, ActivationFormat(5, True)),
    (True, 3, 0, ActivationFormat(4)),
])
def test_sum(shape, kernel, stride, signed, bias, shift, output, stall):
    pool = SumPooling(shape=shape, kernel=kernel, stride=stride, bias=bias, shift=shift,
                      format=ActivationFormat(6, signed), output=output)
    simulate(pool, random_images(np.random.default_rng(6), 2, pool), seed=2, stall=stall)


def test_extreme_values():
    """The largest and smallest sums that can occur do not overflow."""
    pool = SumPooling(shape=(4, 4, 1), kernel=(3, 3), stride=(1, 1), bias=-1, shift=0,
                      format=ActivationFormat(4, True), output=ActivationFormat(16, True))
    images = np.array([np.full(pool.shape, -8), np.full(pool.shape, 7)])
    run = simulate(pool, images)
    assert set(run["o"]) == {-73, 62}


@pytest.mark.parametrize(("shape", "kernel", "stride", "latency"), [
    ((6, 6, 4), (2, 2), (2, 2), 2),
    ((6, 6, 1), (2, 2), (2, 2), 2),
    ((6, 6, 1), (3, 3), (1, 1), 4),
])
def test_throughput_and_latency(shape, kernel, stride, latency):
    pool = MaxPooling(shape=shape, kernel=kernel, stride=stride)
    images = random_images(np.random.default_rng(0), 2, pool)
    run = simulate(pool, images)
    assert run.cycles["i"] == list(range(images.size)), "a value is taken in every cycle"
    last = (kernel[0] - 1) * shape[1] * shape[2] + (kernel[1] - 1) * shape[2]
    assert run.cycles["o"][0] == last + latency


def test_compute_is_what_it_says():
    pool = SumPooling(shape=(3, 4, 1), kernel=(2, 3), stride=(1, 1), bias=3, shift=1,
                      format=ActivationFormat(8), output=ActivationFormat(4))
    image = np.arange(12).reshape(1, 3, 4, 1)
    # Sums 18, 24, 42, 48, plus 3, halved, rounded down and clamped to 15.
    assert pool.compute(image).ravel().tolist() == [10, 13, 15, 15]
    pool = MaxPooling(shape=(3, 4, 1), kernel=(2, 3), stride=(1, 1))
    assert pool.compute(image).ravel().tolist() == [6, 7, 10, 11]
    assert pool.output_shape == (2, 2, 1)


@pytest.mark.parametrize(("changes", "error", "message"), [
    ({"kernel": (5, 2)}, ValueError, r"kernel \(vertical\) must be 1 to 4, not 5"),
    ({"stride": (2, 0)}, ValueError, r"stride \(horizontal\) must be 1 to"),
    ({"kernel": 2}, TypeError, r"kernel must be a pair \(vertical, horizontal\), not 2"),
    ({"shape": (4, 4)}, TypeError, r"shape must be \(height, width, channels\)"),
    ({"shape": (4, 4, 1.5)}, TypeError, "channels must be an integer, not 1.5"),
])
def test_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        MaxPooling(**({"shape": (4, 4, 1), "kernel": (2, 2), "stride": (2, 2)} | changes))


def test_refuses_images_of_another_shape():
    pool = MaxPooling(shape=(4, 4, 1), kernel=(2, 2), stride=(2, 2))
    with pytest.raises(ValueError, match=r"must have shape \(N, 4, 4, 1\), not \(2, 4, 5, 1\)"):
        pool.compute(np.zeros((2, 4, 5, 1), int))


@pytest.mark.parametrize(("family", "memory", "flip_flops"), [
    ("ice40", "SB_RAM40_4K", ("SB_DFFE", "SB_DFFESR", "SB_DFFSR", "SB_DFF")),
    ("ecp5", "DP16KD", ("TRELLIS_FF",)),
])
def test_accumulators_are_in_one_block_ram(family, memory, flip_flops, tmp_path):
    """No logic is added to emulate a read during a write, and nothing multiplies."""
    pool = SumPooling(shape=(32, 32, 24), kernel=(2, 2), stride=(2, 2), bias=2, shift=2)
    count = cells(pool, family, tmp_path)
    assert count[memory] == (2 if family == "ice40" else 1)  # 384 words of 10 bits
    # 65 flip-flops and 54 or 79 LUTs as written; emulation would add two words and an address.
    assert sum(count[name] for name in flip_flops) <= 70
    assert sum(count[name] for name in ("LUT4", "SB_LUT4")) <= 90
    assert not count.keys() & {"SB_MAC16", "MULT18X18D"}
