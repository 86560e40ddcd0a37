# amaranth: UnusedElaboratable=no
"""Bias, shift and clamp in hardware, and the stream buffer that follows them."""

import numpy as np
import pytest

from flightrtl.formats import ActivationFormat
from flightrtl.gateware import Requantizer, StreamBuffer
from tests.streams import as_map, as_transfers, run_streams


def test_twin_by_hand():
    """Floor, clamp at both ends, and a bias that rounds halves up."""
    unsigned = Requantizer(low=-5000, high=5000, bias=[2, 0], shift=[2, 1],
                           output=ActivationFormat(8))
    assert unsigned.compute([[5, 5], [6, -1], [-9, 511], [4000, 512]]).tolist() == [
        [1, 2], [2, 0], [0, 255], [255, 255]]
    signed = Requantizer(low=-5000, high=5000, bias=[0], shift=[1],
                         output=ActivationFormat(4, True))
    assert signed.compute([[-1], [-16], [-17], [15], [16]]).tolist() == [
        [-1], [-8], [-8], [7], [7]]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("pixels", [1, 2])
def test_clamps_from_the_first_value_beyond_the_range(signed, pixels):
    output = ActivationFormat(3, signed)
    requantizer = Requantizer(low=-32, high=31, bias=[0], shift=[0], output=output, pixels=pixels)
    values = np.arange(-32, 32)
    run = run_streams(requantizer, {"i": as_transfers(values.reshape(1, 1, -1, 1), pixels)},
                      {"o": len(values) // pixels})
    found = as_map(run["o"], (1, len(values), 1), pixels).ravel()
    assert found.tolist() == np.clip(values, output.min, output.max).tolist()


def test_latency_and_throughput():
    requantizer = Requantizer(low=-9, high=9, bias=[0], shift=[0], output=ActivationFormat(8))
    run = run_streams(requantizer, {"i": [1] * 20}, {"o": 20})
    assert [out - into for into, out in zip(run.cycles["i"], run.cycles["o"], strict=True)] == \
        [3] * 20
    assert run.cycles["o"][-1] - run.cycles["o"][0] == 19


@pytest.mark.parametrize(("bias", "shift", "error", "message"), [
    ([], [], ValueError, "at least one"),
    ([1, 2], [1], ValueError, "not 2 and 1"),
    ([1], [-1], ValueError, "shift must be 0 to"),
])
def test_bad_parameters(bias, shift, error, message):
    with pytest.raises(error, match=message):
        Requantizer(low=-1, high=1, bias=bias, shift=shift, output=ActivationFormat())


@pytest.mark.parametrize("stall", [0.0, 0.3, 0.8])
def test_buffer_keeps_order(stall):
    values = np.random.default_rng(0).integers(0, 256, 200).tolist()
    run = run_streams(StreamBuffer(8), {"i": values}, {"o": 200}, stall=stall)
    assert run["o"] == values


def test_buffer_latency_and_throughput():
    run = run_streams(StreamBuffer(8), {"i": list(range(50))}, {"o": 50})
    assert [out - into for into, out in zip(run.cycles["i"], run.cycles["o"], strict=True)] == \
        [1] * 50
    assert run.cycles["i"] == list(range(50))


def test_buffer_is_ready_for_one_more_while_its_output_waits():
    """``i.ready`` is a register: it falls a transfer after the output stopped, not before."""
    run = run_streams(StreamBuffer(8), {"i": [1, 2, 3]}, {"o": 3}, stall={"o": 0.9}, seed=4)
    assert run["o"] == [1, 2, 3]
    assert run.cycles["i"][1] < run.cycles["o"][0] or run.cycles["o"][0] < 2
