# amaranth: UnusedElaboratable=no
"""The PE array: passes, accumulators and the chain, under stalls and without."""

import numpy as np
import pytest

from flightrtl.gateware import PEArray
from tests.streams import run_streams
from tests.synthesis import cells
from tests.test_pe import random_codes


def simulate(array, passes, words, *, seed=0, stall=0.0):
    """Random passes through an array; returns the run, checked against the twin."""
    rng = np.random.default_rng(seed)
    simd, fmt, pixels = array.simd, array.activation, array.pixels
    activations = rng.integers(fmt.min, fmt.max, (passes, words, pixels, simd), endpoint=True)
    codes = random_codes(rng, (passes, words, array.lanes, simd), array.term)
    put = [{"activations": activations[p, w].ravel().tolist(), "terms": codes[p, w].tolist(),
            "last": int(w == words - 1)} for p in range(passes) for w in range(words)]
    run = run_streams(array, {"i": put}, {"o": passes * array.lanes}, seed=seed, stall=stall)
    expected = [np.stack([array.compute(activations[p, :, m], codes[p]) for m in range(pixels)],
                         axis=-1) for p in range(passes)]
    got = [[sums[m] for m in range(pixels)] if pixels > 1 else [sums] for sums in run["o"]]
    assert got == np.concatenate(expected).tolist()
    return run


def test_sums_are_modulo_the_width():
    array = PEArray(lanes=2, simd=2, width=9)
    simulate(array, 6, 4, seed=3)


@pytest.mark.parametrize(("lanes", "words", "cycles"), [
    (3, 8, 8),   # the words set the pace
    (3, 4, 4),
    (3, 3, 4),   # the chain does, and takes a cycle to start again
    (6, 2, 7),
    (4, 1, 5),   # each word ends a pass
])
def test_throughput_and_latency(lanes, words, cycles):
    array = PEArray(lanes=lanes, simd=2, width=20)
    run = simulate(array, 12, words)
    firsts = run.cycles["o"][::lanes]
    assert set(np.diff(firsts)) == {cycles}
    assert firsts[0] - run.cycles["i"][words - 1] == array.latency


def test_cost_per_term(tmp_path):
    """The figure that the project stands on: well under 70 LUT4 a term, all lanes included."""
    found = cells(PEArray(lanes=8, simd=4, width=20), "ice40", tmp_path)
    assert found["SB_LUT4"] / 32 < 65


@pytest.mark.parametrize(("parameters", "message"), [
    ({"lanes": 0, "simd": 1, "width": 8}, "lanes must be"),
    ({"lanes": 1, "simd": 1, "width": 0}, "width must be"),
])
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        PEArray(**parameters)
