# amaranth: UnusedElaboratable=no
"""The sliding window: its NumPy twin, pace and cost."""

import numpy as np
import pytest

from flightrtl.gateware import SlidingWindow
from flightrtl.gateware.linebuffer import Ring
from tests.streams import as_transfers, run_streams
from tests.synthesis import cells


def simulate(window, images, *, seed=0, stall=0.0):
    """Run images through; compares every word and every ``last`` with the twin."""
    expected = window.compute(images)
    groups = len(window.group_passes)
    expected = expected.reshape(*expected.shape[:3], groups, -1, expected.shape[-1])
    # Each group's part as often as there are passes over it.
    expected = np.repeat(expected, window.group_passes, axis=3)
    words, simd = expected.shape[-2:]
    assert (*expected.shape[1:3], words) == (*window.output, window.words)
    # The words of neighbouring windows leave side by side.
    abreast = expected.reshape(-1, window.pixels, window.passes, words, simd)
    replayed = abreast.transpose(0, 2, 3, 1, 4)
    simd *= window.pixels
    count = replayed.size // simd
    run = run_streams(window, {"i": as_transfers(images, window.source_pixels)}, {"o": count},
                      seed=seed, stall=stall, timeout=500 + 10 * (count + images.size))
    got = [[word.activations[n] for n in range(simd)] for word in run["o"]]
    assert got == replayed.reshape(-1, simd).tolist()
    assert [word.last for word in run["o"]] == [n % words == words - 1 for n in range(count)]
    return run


def test_twin_by_hand():
    """A 2 x 2 window over a 2 x 2 image with a border of zeros on the left and above."""
    window = SlidingWindow(shape=(2, 2, 1), kernel=(2, 2), padding=(1, 0, 1, 0), simd=1)
    found = window.compute(np.array([1, 2, 3, 4]).reshape(1, 2, 2, 1))
    assert found[0, ..., 0].tolist() == [[[0, 0, 0, 1], [0, 0, 1, 2]], [[0, 1, 0, 3], [1, 2, 3, 4]]]
    column = SlidingWindow(shape=(2, 2, 1), kernel=(2, 2), padding=(1, 0, 1, 0), simd=2,
                           column=True)
    found = column.compute(np.array([1, 2, 3, 4]).reshape(1, 2, 2, 1))
    assert found[0, 1, 1].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize("column", [False, True])
def test_no_pause_between_rows_and_images(column):
    """Once it runs, a window that is the slowest part gives a word in every cycle."""
    window = SlidingWindow(shape=(6, 6, 2), kernel=(3, 3), padding=(1, 1, 1, 1),
                           simd=6 if column else 2, column=column, passes=4)
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 2))
    run = simulate(window, images)
    assert set(np.diff(run.cycles["o"])) == {1}


@pytest.mark.parametrize(("source_pixels", "pixels", "stride", "memories"), [
    (1, 4, 1, 4), (4, 1, 1, 4), (2, 4, 1, 4), (4, 6, 1, 12), (3, 2, 2, 12)])
def test_windows_side_by_side(source_pixels, pixels, stride, memories):
    """As many memories as keep the pixels of every word, and of every transfer, apart."""
    window = SlidingWindow(shape=(5, 12, 4), kernel=(3, 3), padding=(1, 1, 1, 1), simd=2,
                           stride=(1, stride), pixels=pixels, source_pixels=source_pixels)
    assert window.ring.lanes == memories
    simulate(window, np.random.default_rng(0).integers(0, 256, (3, 5, 12, 4)))


@pytest.mark.parametrize(("passes", "order"), [
    ([1, 1, 1], [0, 1, 2]), ([2, 1, 3], [0, 0, 1, 2, 2, 2]), ([0, 2, 0], [1, 1]),
    ([1, 0, 1], [0, 2])])
@pytest.mark.parametrize("pixels", [1, 2])
def test_groups_of_channels(passes, order, pixels):
    """A pass has the channels of one group; a group without passes is left out."""
    window = SlidingWindow(shape=(3, 4, 6), kernel=(3, 3), padding=(1, 1, 1, 1), simd=2,
                           passes=passes, pixels=pixels)
    assert (window.passes, window.words) == (len(order), 9)
    image = np.broadcast_to(np.arange(6), (1, 3, 4, 6))
    run = simulate(window, image)
    inner = run["o"][9 * len(order) * 5 + 4::9][:len(order)] if pixels == 1 else []
    assert [word.activations[0] // 2 for word in inner] == order[:len(inner)]
    whole = SlidingWindow(shape=(3, 4, 6), kernel=(3, 3), padding=(1, 1, 1, 1), simd=2)
    np.testing.assert_array_equal(
        window.compute(image).reshape(-1, 3, 9, 2).swapaxes(1, 2).reshape(-1, 27, 2),
        whole.compute(image).reshape(-1, 27, 2))


@pytest.mark.parametrize("register", [False, True])
def test_latency(register):
    """Three cycles, or five, from the last activation that the first row of windows needs."""
    window = SlidingWindow(shape=(5, 4, 1), kernel=(3, 3), simd=1, register=register)
    run = simulate(window, np.random.default_rng(0).integers(0, 256, (1, 5, 4, 1)))
    assert run.cycles["o"][0] - run.cycles["i"][3 * 4 - 1] == 3 + 3 * register


@pytest.mark.parametrize(("family", "ram"), [("ice40", "SB_RAM40_4K"), ("ecp5", "DP16KD")])
def test_buffer_is_block_ram_without_emulation(family, ram, tmp_path):
    """One block RAM for each 16 (iCE40) or 36 bits, and no flip-flops that stand in for it."""
    window = SlidingWindow(shape=(14, 14, 8), kernel=(3, 3), padding=(1, 1, 1, 1), simd=4)
    found = cells(window, family, tmp_path)
    assert found[ram] == (2 if family == "ice40" else 1)
    flip_flops = sum(count for cell, count in found.items()
                     if cell.startswith("SB_DFF") or cell == "TRELLIS_FF")
    # 24 bits gathered, 32 bits out, and counters; read-during-write logic would add 74.
    assert flip_flops < 24 + 32 + 70
    assert found["SB_LUT4"] + found["LUT4"] + 2 * found["CCU2C"] < 175


def test_a_choice_between_memories_takes_no_more_than_it_must(tmp_path):
    """186 LUT4; memories that begin with a 0 would take one more for each of 64 bits."""
    window = SlidingWindow(shape=(8, 8, 4), kernel=(3, 3), simd=4, pixels=2)
    found = cells(window, "ice40", tmp_path)
    assert (window.ring.lanes, found["SB_RAM40_4K"]) == (2, 4)
    assert found["SB_LUT4"] < 220


def test_ring_grows_only_where_that_is_free():
    assert Ring.for_window(columns=28, width=32, height=3) == (8, 1, 32, 32, 1)
    assert Ring.for_window(columns=128, width=32, height=3) == (4, 1, 128, 32, 1)
    assert Ring.for_window(columns=10, width=8, height=3, column=True) == (8, 4, 16, 8, 1)
    assert Ring.for_window(columns=128, width=32, height=3, least=5).rows == 8


@pytest.mark.parametrize(("change", "message"), [
    ({"kernel": (6, 1)}, "kernel .* is larger than the padded image 5 x 5"),
    ({"padding": (3, 0, 0, 0)}, "padding .* must be less than the kernel"),
    ({"simd": 3}, "simd=3 must divide the 2 channels"),
    ({"simd": 4, "column": True}, "simd=4 must divide the 2 channels times 3 kernel rows"),
    ({"stride": (0, 1)}, "stride must be 1 to"),
    ({"passes": 0}, "passes must be 1 to"),
    ({"pixels": 2}, "pixels=2 must divide the 3 columns of the result"),
    ({"source_pixels": 2}, "source_pixels=2 must divide the 5 columns of the image"),
])
def test_bad_parameters(change, message):
    parameters = {"shape": (5, 5, 2), "kernel": (3, 3), "simd": 2} | change
    with pytest.raises(ValueError, match=message):
        SlidingWindow(**parameters)
