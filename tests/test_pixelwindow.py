# amaranth: UnusedElaboratable=no
"""Windows in one transfer: the twin, pace, and what an image may and may not wait for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl.formats import ActivationFormat
from flightrtl.gateware import PixelWindow
from tests.strategies import activation_formats, paddings, seeds, stalls, strides
from tests.streams import run_streams
from tests.synthesis import cells


def simulate(dut, images, **options):
    expected = dut.compute(images)
    expected = expected.reshape(-1, expected.shape[-1])
    channels = images.shape[-1]
    pixels = images.reshape(-1, channels).tolist() if channels > 1 else images.ravel().tolist()
    run = run_streams(dut, {"i": pixels}, {"o": len(expected)}, timeout=20_000, **options)
    got = [[word[n] for n in range(expected.shape[1])] for word in run["o"]]
    assert got == expected.tolist()
    return run


@st.composite
def parameters(draw):
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3)))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return {"shape": shape, "kernel": kernel, "padding": draw(paddings(kernel, shape)),
            "stride": draw(strides()), "format": draw(activation_formats())}


@given(parameters(), seeds(), stalls("i", "o"))
def test_twin(found, seed, stall):
    dut = PixelWindow(**found)
    form = found["format"]
    images = np.random.default_rng(seed).integers(form.min, form.max, (3, *found["shape"]),
                                                  endpoint=True)
    simulate(dut, images, seed=seed, stall=stall)


def test_twin_by_hand():
    dut = PixelWindow(shape=(2, 2, 1), kernel=(2, 2), padding=(1, 0, 1, 0))
    found = dut.compute(np.array([1, 2, 3, 4]).reshape(1, 2, 2, 1))
    assert found[0].tolist() == [[[0, 0, 0, 1], [0, 0, 1, 2]], [[0, 1, 0, 3], [1, 2, 3, 4]]]


@pytest.mark.parametrize(("kernel", "stride", "padding", "cycles"), [
    ((3, 3), (1, 1), (0, 0, 0, 0), 6 * 7),   # a pixel a cycle
    ((3, 3), (1, 1), (1, 1, 1, 1), 7 * 8),   # a row and a column more
    ((3, 3), (2, 2), (1, 1, 1, 1), 6 * 8),   # rows end on the image, columns in the padding
    ((1, 1), (1, 1), (0, 0, 0, 0), 6 * 7),
    ((6, 7), (1, 1), (0, 0, 0, 0), 6 * 7),
])
def test_pace(kernel, stride, padding, cycles):
    """Images follow each other without a gap, a position of the raster per cycle."""
    dut = PixelWindow(shape=(6, 7, 1), kernel=kernel, stride=stride, padding=padding)
    assert dut.cycles == cycles
    run = simulate(dut, np.random.default_rng(0).integers(0, 256, (4, 6, 7, 1)))
    count = dut.output[0] * dut.output[1]
    assert run.cycles["o"][-1] - run.cycles["o"][count - 1] == 3 * cycles
    # A window is there in the cycle after its last pixel was taken.
    rows, columns = dut.rows.first, dut.columns.first
    assert run.cycles["o"][0] == run.cycles["i"][rows * 7 + columns] + 1


@pytest.mark.parametrize(("family", "ram"), [("ice40", "SB_RAM40_4K"), ("ecp5", "DP16KD")])
def test_rows_are_in_block_ram_without_emulation(family, ram, tmp_path):
    dut = PixelWindow(shape=(64, 64, 2), kernel=(3, 3), padding=(1, 1, 1, 1))
    assert dut.memory_bits == 2 * 64 * 16
    found = cells(dut, family, tmp_path)
    assert found[ram] == (2 if family == "ice40" else 1)
    flip_flops = sum(count for cell, count in found.items()
                     if cell.startswith("SB_DFF") or cell == "TRELLIS_FF")
    # The window, on ECP5 the word read from memory, and counters.
    assert flip_flops < 9 * 16 + 32 * (family == "ecp5") + 45
    assert found["SB_LUT4"] + found["LUT4"] + 2 * found["CCU2C"] < 110


@pytest.mark.parametrize(("change", "message"), [
    ({"kernel": (6, 1)}, "kernel .* is larger than the padded image 5 x 5"),
    ({"padding": (3, 0, 0, 0)}, "padding .* must be less than the kernel"),
    ({"stride": (0, 1)}, "stride must be 1 to"),
])
def test_bad_parameters(change, message):
    with pytest.raises(ValueError, match=message):
        PixelWindow(**{"shape": (5, 5, 2), "kernel": (3, 3), "format": ActivationFormat()} | change)
