# amaranth: UnusedElaboratable=no
"""Requantization of all filters at once: every bias, shift, factor and range."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl.formats import ActivationFormat, requantize
from flightrtl.gateware import ParallelRequantizer
from tests.strategies import activation_formats, seeds, stalls
from tests.streams import run_streams


@given(st.integers(1, 4), st.integers(0, 12), activation_formats(), seeds(), stalls("i", "o"))
def test_twin(filters, bits, output, seed, stall):
    rng = np.random.default_rng(seed)
    ranges = np.sort(rng.integers(-(1 << bits), 1 << bits, (filters, 2), endpoint=True))
    factors = rng.choice([1, -1, 2, -2, 8, -16], filters)
    shift = rng.integers(0, 9, filters)
    # Biases with zeros at their end, and such that the middle of the range is that of the output.
    bias = (rng.integers(-(1 << bits), 1 << bits, filters, endpoint=True) >> 3) << 3
    middle = output.max + output.min << shift >> 1
    bias = np.where(rng.random(filters) < 0.5, bias, middle + rng.integers(-9, 10, filters))
    values = rng.integers(ranges[:, 0], ranges[:, 1], (10, filters), endpoint=True)
    values = np.concatenate([ranges.T, values])
    dut = ParallelRequantizer(ranges=ranges.tolist(), bias=bias.tolist(), shift=shift.tolist(),
                              output=output, factors=factors.tolist())
    expected = requantize(values * factors, bias, shift, output)
    assert dut.compute(values).tolist() == expected.tolist()
    run = run_streams(dut, {"i": values.tolist()}, {"o": len(values)}, seed=seed, stall=stall)
    got = [[word] if filters == 1 else [word[n] for n in range(filters)] for word in run["o"]]
    assert got == expected.tolist()


@pytest.mark.parametrize("output", [ActivationFormat(3), ActivationFormat(3, True),
                                    ActivationFormat(1, True)])
def test_all_values_around_the_clamp(output):
    """Ranges that go beyond both ends, one of them, or lie on one side altogether."""
    ranges = [(-40, 40), (-40, 2), (-2, 40), (-2, 2), (-40, -30), (30, 40)]
    dut = ParallelRequantizer(ranges=ranges, bias=[1, 0, 3, -1, 0, 5], shift=[1, 0, 2, 0, 1, 0],
                              output=output)
    values = np.array([[min(max(n, low), high) for low, high in ranges] for n in range(-40, 41)])
    run = run_streams(dut, {"i": values.tolist()}, {"o": len(values)})
    assert [[word[n] for n in range(6)] for word in run["o"]] == dut.compute(values).tolist()


def test_latency_and_pace():
    dut = ParallelRequantizer(ranges=[(0, 99)] * 2, bias=[0, 1], shift=[0, 1],
                              output=ActivationFormat(4))
    run = run_streams(dut, {"i": [[n, n] for n in range(20)]}, {"o": 20})
    assert run.cycles["o"] == list(range(2, 22))


def test_plan():
    """Bits that make no carry are dropped; a factor takes the shift's place."""
    dut = ParallelRequantizer(ranges=[(-9, 9)] * 5, bias=[8, 0, 5, 7, 8], shift=[6, 4, 0, 2, 4],
                              output=ActivationFormat(4), factors=[1, 4, 8, -1, -4])
    assert [dut.plan(n) for n in range(5)] == [
        (False, 3, 1, 0, 3),    # (v + 8) >> 6 is ((v >> 3) + 1) >> 3
        (False, 2, 0, 0, 0),    # 4 v >> 4 is v >> 2
        (False, 0, 5, 3, 0),    # 8 v + 5
        (True, 2, 2, 0, 0),     # (7 - v) >> 2 is (~v + 8) >> 2
        (True, 0, 3, 0, 2),     # (8 - 4 v) >> 4 is (~v + 3) >> 2
    ]


@pytest.mark.parametrize(("change", "message"), [
    ({"bias": [1]}, "must name the same filters, at least one, not 2, 1, 2 and 2"),
    ({"factors": [1, 3]}, "factors must be powers of two, perhaps negative, not 3"),
    ({"factors": [0, 1]}, "factors must be powers of two, perhaps negative, not 0"),
    ({"shift": [0, -1]}, "shift must be 0 to 63, not -1"),
])
def test_bad_parameters(change, message):
    parameters = {"ranges": [(0, 1)] * 2, "bias": [0, 0], "shift": [0, 0],
                  "output": ActivationFormat()} | change
    with pytest.raises(ValueError, match=message):
        ParallelRequantizer(**parameters)
