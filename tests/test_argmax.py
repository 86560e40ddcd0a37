# amaranth: UnusedElaboratable=no
"""The winner: hardware against its NumPy twin."""

import numpy as np
import pytest

from flightrtl.gateware.argmax import Argmax
from tests.streams import run_streams


def simulate(argmax, logits, *, seed=0, stall=0.0):
    run = run_streams(argmax, {"i": logits.ravel().tolist()}, {"o": logits.size}, seed=seed,
                      stall=stall, timeout=200 + 40 * logits.size)
    assert [o.logit for o in run["o"]] == logits.ravel().tolist()
    assert [o.last for o in run["o"]] == ([0] * (argmax.count - 1) + [1]) * len(logits)
    winners = np.reshape([o.winner for o in run["o"]], logits.shape)
    for n in range(argmax.count):
        np.testing.assert_array_equal(winners[:, n], logits[:, :n + 1].argmax(axis=1))
    np.testing.assert_array_equal(winners[:, -1], argmax.compute(logits))
    return run


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 10])
@pytest.mark.parametrize("width", [1, 2, 9])  # narrow ones have many equal logits
def test_finds_the_first_largest(count, width, stall):
    high = 1 << (width - 1)
    logits = np.random.default_rng(count).integers(-high, high, (12, count))
    simulate(Argmax(count=count, width=width), logits, seed=4, stall=stall)


def test_extremes():
    logits = np.array([[-128, -128, -127], [127, -128, 127], [-128, -128, -128], [-1, 0, 1]])
    simulate(Argmax(count=3, width=8), logits)
    assert Argmax(count=3, width=8).compute(logits).tolist() == [2, 0, 0, 2]


def test_throughput_and_latency():
    run = simulate(Argmax(count=5, width=4), np.zeros((3, 5), int))
    assert run.cycles == {"i": list(range(15)), "o": list(range(1, 16))}


@pytest.mark.parametrize(("parameters", "error", "message"), [
    ({"count": 0, "width": 8}, ValueError, "count must be 1 to 65536, not 0"),
    ({"count": 10, "width": 65}, ValueError, "width must be 1 to 64, not 65"),
    ({"count": "10", "width": 8}, TypeError, "count must be an integer, not '10'"),
])
def test_refuses(parameters, error, message):
    with pytest.raises(error, match=message):
        Argmax(**parameters)


def test_refuses_logits_of_another_shape():
    with pytest.raises(ValueError, match=r"must have shape \(N, 3\), not \(2, 4\)"):
        Argmax(count=3, width=8).compute(np.zeros((2, 4), int))
