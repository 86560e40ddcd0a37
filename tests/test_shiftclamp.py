# amaranth: UnusedElaboratable=no
"""Shift and clamp of sums that have their bias already."""

import numpy as np
import pytest

from flightrtl.formats import ActivationFormat
from flightrtl.gateware import ShiftClamp
from tests.streams import run_streams


@pytest.mark.parametrize("pixels", [1, 2])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("least", "shift_bits"), [(0, 0), (0, 2), (3, 1), (7, 2)])
def test_equals_its_twin(least, shift_bits, signed, pixels):
    dut = ShiftClamp(width=7, least=least, shift_bits=shift_bits, pixels=pixels,
                     output=ActivationFormat(3, signed))
    values = np.arange(-64, 64)
    shifts = np.random.default_rng(0).integers(0, 1 << shift_bits, len(values))
    run = run_streams(dut, {"i": [
        {"sums": int(value) if pixels == 1 else [int(value), int(-1 - value)], "shift": int(shift)}
        for value, shift in zip(values, shifts, strict=True)]}, {"o": len(values)}, stall=0.3)
    found = np.array([[each] if pixels == 1 else list(each) for each in run["o"]]).T
    for row, sums in zip(found, (values, -1 - values), strict=False):
        assert row.tolist() == dut.compute(sums, shifts).tolist()
    assert dut.compute(np.array([5, 6, 7]), np.zeros(3)).tolist() == [
        min(each >> least, dut.output.max) for each in (5, 6, 7)]


def test_latency_and_throughput():
    dut = ShiftClamp(width=7, least=0, shift_bits=0, output=ActivationFormat(4))
    run = run_streams(dut, {"i": [{"sums": n, "shift": 0} for n in range(20)]}, {"o": 20})
    assert run.cycles["o"] == [cycle + dut.latency for cycle in run.cycles["i"]]
    assert run.cycles["i"] == list(range(run.cycles["i"][0], run.cycles["i"][0] + 20))
