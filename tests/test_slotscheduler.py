# amaranth: UnusedElaboratable=no
"""The scheduler whose slots' parameters come out of a memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl.gateware import SlotScheduler
from flightrtl.gateware.slotscheduler import slot_parameters
from tests.streams import run_streams

WIDTH, SHIFT_BITS = 9, 2


def fields(words):
    return [{"first": word & 1, "ends": word >> 1 & 1,
             "bias": (word >> 2 & 511 ^ 256) - 256, "shift": word >> 2 + WIDTH} for word in words]


def test_twin_by_hand():
    """A spare slot at the end of each pixel, and a filter of two slots: sums are modulo 2**9."""
    words = slot_parameters([2, 1], [10, -3], [1, 0], 4, WIDTH)
    sums, shifts = SlotScheduler(width=WIDTH, shift_bits=SHIFT_BITS).compute(
        [[1, 20, 5, 99], [200, 200, 0, 7]], words)
    assert sums.tolist() == [[31, 2], [410 - 512, -3]]
    assert shifts.tolist() == [1, 0]


@given(k=st.lists(st.integers(1, 3), min_size=1, max_size=6), spare=st.integers(0, 2),
       pixels=st.integers(1, 2), seed=st.integers(0, 99),
       stall=st.fixed_dictionaries({name: st.sampled_from([0.0, 0.5])
                                    for name in ("i", "parameters", "o")}))
def test_equals_its_twin(k, spare, pixels, seed, stall):
    rng = np.random.default_rng(seed)
    words = slot_parameters(k, rng.integers(-256, 256, len(k)).tolist(),
                            rng.integers(0, 4, len(k)).tolist(), sum(k) + spare, WIDTH)
    dut = SlotScheduler(width=WIDTH, shift_bits=SHIFT_BITS, pixels=pixels)
    slots = rng.integers(-256, 256, (3, len(words), pixels))
    run = run_streams(dut, {"i": (slots if pixels > 1 else slots[..., 0]).reshape(
        -1, *[2] * (pixels - 1)).tolist(), "parameters": fields(words) * 3},
        {"o": 3 * len(k)}, stall=stall, seed=seed)
    sums, shifts = dut.compute(slots.swapaxes(1, 2), words)
    expected = sums.swapaxes(1, 2).reshape(-1, pixels).tolist()
    assert [[each.sums] if pixels == 1 else list(each.sums) for each in run["o"]] == expected
    assert [each.shift for each in run["o"]] == shifts.tolist() * 3


def test_a_slot_every_cycle():
    words = slot_parameters([1, 2, 1], [0] * 3, [0] * 3, 4, WIDTH)
    run = run_streams(SlotScheduler(width=WIDTH, shift_bits=SHIFT_BITS),
                      {"i": list(range(40)), "parameters": fields(words) * 10}, {"o": 30})
    assert run.cycles["i"][-1] - run.cycles["i"][0] == 39
    assert run.cycles["o"][:3] == [run.cycles["i"][n] + 1 for n in (0, 2, 3)]


def test_every_filter_takes_a_slot():
    with pytest.raises(ValueError, match="k must be 1 or more"):
        slot_parameters([1, 0], [0, 0], [0, 0], 2, WIDTH)
