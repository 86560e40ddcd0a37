# amaranth: UnusedElaboratable=no
"""A fork gives everything to everyone, and lets nobody run ahead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl.gateware import StreamFork
from tests.strategies import seeds, stalls
from tests.streams import run_streams

VALUES = list(range(200))


@given(count=st.integers(1, 4), seed=seeds(), stall=stalls("i", "o.0", "o.1", "o.2", "o.3"))
def test_everyone_has_everything(count, seed, stall):
    outputs = {f"o.{n}": len(VALUES) for n in range(count)}
    run = run_streams(StreamFork(8, count), {"i": VALUES}, outputs, seed=seed,
                      stall={name: stall[name] for name in ("i", *outputs)})
    assert all(run[name] == VALUES for name in outputs)
    # When the slowest has a transfer the input's is done; nobody is more than one ahead.
    last = [max(run.cycles[name][n] for name in outputs) for n in range(len(VALUES))]
    assert run.cycles["i"] == last
    for name in outputs:
        assert all(cycle > done for cycle, done in zip(run.cycles[name][1:], last, strict=False))


def test_full_rate():
    run = run_streams(StreamFork(8, 3), {"i": VALUES}, dict.fromkeys(("o.0", "o.1", "o.2"), 200))
    assert run.cycles["i"] == run.cycles["o.0"] == run.cycles["o.2"] == list(range(200))


def test_refuses():
    with pytest.raises(ValueError, match="count must be 1 to 4096, not 0"):
        StreamFork(8, 0)
    with pytest.raises(TypeError, match="count must be an integer, not '2'"):
        StreamFork(8, "2")
