# amaranth: UnusedElaboratable=no
"""The frame buffer: every tap meets all its windows before the next tap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl.formats import ActivationFormat
from flightrtl.gateware import FrameBuffer
from tests.strategies import paddings, seeds, stalls, strides
from tests.streams import run_streams


def simulate(dut, maps, **options):
    words = dut.compute(maps)
    n, taps, windows, simd = words.shape
    sent = maps.reshape(-1, simd).tolist() if simd > 1 else maps.ravel().tolist()
    count = n * dut.passes * taps * windows
    run = run_streams(dut, {"i": sent}, {"o": count}, timeout=30_000, **options)
    got = np.array([[word.activations[n] for n in range(simd)] for word in run["o"]])
    expected = np.repeat(words[:, None], dut.passes, axis=1)
    np.testing.assert_array_equal(got, expected.reshape(-1, simd))
    marks = np.zeros((n, dut.passes, taps, windows, 2), np.int64)
    marks[..., -1, 0] = 1
    marks[:, :, -1, :, 1] = 1
    assert [[word.sweep, word.last] for word in run["o"]] == marks.reshape(-1, 2).tolist()
    return run


@st.composite
def cases(draw):
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 4])))
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return {"shape": shape, "kernel": kernel, "padding": draw(paddings(kernel, shape)),
            "stride": draw(strides()), "passes": draw(st.integers(1, 3)),
            "simd": draw(st.sampled_from([n for n in (1, 2, 4) if shape[2] % n == 0])),
            "frames": draw(st.integers(1, 2)), "register": draw(st.booleans()),
            "format": ActivationFormat(3)}


@given(cases(), seeds(), stalls("i", "o"))
def test_every_tap_meets_all_windows(case, seed, stall):
    maps = np.random.default_rng(seed).integers(0, 8, (3, *case["shape"]))
    simulate(FrameBuffer(**case), maps, seed=seed, stall=stall)


def test_by_hand():
    dut = FrameBuffer(shape=(2, 2, 1), kernel=(1, 2), padding=(0, 0, 1, 0), simd=1)
    assert dut.compute([[[[1], [2]], [[3], [4]]]]).tolist() == [
        [[[0], [1], [0], [3]], [[1], [2], [3], [4]]]]


def test_padding_on_all_sides():
    dut = FrameBuffer(shape=(3, 2, 2), kernel=(3, 2), padding=(1, 2, 1, 1), stride=(2, 1), simd=2,
                      frames=2)
    simulate(dut, np.random.default_rng(0).integers(1, 256, (3, 3, 2, 2)))


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("register", [False, True])
def test_latency_and_throughput(frames, register):
    dut = FrameBuffer(shape=(2, 3, 2), kernel=(2, 2), simd=1, passes=2, frames=frames,
                      register=register)
    assert dut.memory_bits == frames * 12 * 8
    maps = np.random.default_rng(0).integers(0, 256, (3, 2, 3, 2))
    run = simulate(dut, maps)
    assert run.cycles["o"][0] - run.cycles["i"][11] == 3 + register
    starts = np.diff(run.cycles["o"][::32]).tolist()
    assert starts == [32 if frames == 2 else 32 + 12] * 2


@pytest.mark.parametrize(("change", "message"), [
    ({"simd": 3}, "simd=3 must divide the 4 channels"),
    ({"kernel": (4, 1)}, "kernel .* is larger than the padded map 3 x 3"),
    ({"frames": 0}, "frames must be 1 to 2"),
])
def test_bad_parameters(change, message):
    with pytest.raises(ValueError, match=message):
        FrameBuffer(**{"shape": (3, 3, 4), "kernel": (1, 1), "simd": 2} | change)
