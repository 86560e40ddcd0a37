# amaranth: UnusedElaboratable=no
"""The filter scheduler: its packing, its twin and its pace."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl.gateware import FilterScheduler
from tests.streams import run_streams

WIDTH = 16


@given(k=st.lists(st.integers(0, 4), min_size=1, max_size=12), lanes=st.integers(1, 9))
def test_packing_has_no_gaps(k, lanes):
    """ceil(sum(k) / lanes) passes, whatever the mix, and each slot in exactly one filter."""
    scheduler = FilterScheduler(k=k, lanes=lanes, width=WIDTH)
    assert scheduler.passes == max(1, -(-sum(k) // lanes))
    assert sum(takes for takes, _ in scheduler.program) == scheduler.passes * lanes
    assert sum(ends for _, ends in scheduler.program) == len(k)
    found, count = [], 0
    for takes, ends in scheduler.program:
        count += takes
        if ends:
            found.append(count)
            count = 0
    assert found == k


def test_twin_by_hand():
    """Two filters of two slots on three lanes: the second one straddles the passes."""
    scheduler = FilterScheduler(k=[2, 0, 2], lanes=3, width=WIDTH)
    assert scheduler.passes == 2
    assert scheduler.compute([1, 20, 300, 4000, 0, 0]).tolist() == [[21, 0, 4300]]


def test_a_slot_every_cycle():
    scheduler = FilterScheduler(k=[1, 2, 1], lanes=4, width=WIDTH)
    run = run_streams(scheduler, {"i": list(range(40))}, {"o": 30})
    assert run.cycles["i"][-1] - run.cycles["i"][0] == 39
    # One cycle from a filter's last slot to the filter.
    assert run.cycles["o"][:3] == [run.cycles["i"][n] + 1 for n in (0, 2, 3)]


@pytest.mark.parametrize(("parameters", "error", "message"), [
    ({"k": [], "lanes": 1}, ValueError, "at least one filter"),
    ({"k": [-1], "lanes": 1}, ValueError, "k must be 0 to"),
    ({"k": [1.5], "lanes": 1}, TypeError, "k must be an integer"),
    ({"k": [1], "lanes": 0}, ValueError, "lanes must be"),
])
def test_bad_parameters(parameters, error, message):
    with pytest.raises(error, match=message):
        FilterScheduler(**parameters, width=WIDTH)
