# amaranth: UnusedElaboratable=no
"""Channels, fewer or more at a time: order, pace, and transfers of one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl.formats import ActivationFormat
from flightrtl.gateware import ChannelGatherer, ChannelSerializer
from tests.strategies import activation_formats, seeds, stalls
from tests.streams import run_streams


def payloads(transfers):
    return transfers.ravel().tolist() if transfers.shape[1] == 1 else transfers.tolist()


def simulate(dut, transfers, **options):
    expected = dut.compute(transfers)
    width = expected.shape[1]
    run = run_streams(dut, {"i": payloads(transfers)}, {"o": len(expected)}, **options)
    assert [[word] if width == 1 else [word[n] for n in range(width)]
            for word in run["o"]] == expected.tolist()
    if getattr(dut, "pixels", 1) == 1:
        assert expected.ravel().tolist() == transfers.ravel().tolist()
    return run


def test_pixels_side_by_side():
    """Two pixels of three channels: a transfer for each channel."""
    dut = ChannelSerializer(ActivationFormat(4), source=3, pixels=2)
    assert dut.compute([[1, 2, 3], [4, 5, 6]]).tolist() == [[1, 4], [2, 5], [3, 6]]


@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), activation_formats(), seeds(),
       stalls("i", "o"))
def test_pixels(narrow, parts, pixels, form, seed, stall):
    values = np.random.default_rng(seed).integers(form.min, form.max, (4 * pixels, narrow * parts),
                                                  endpoint=True)
    simulate(ChannelSerializer(form, source=narrow * parts, channels=narrow, pixels=pixels), values,
             seed=seed, stall=stall)


@given(st.integers(1, 4), st.integers(1, 4), activation_formats(), seeds(), stalls("i", "o"))
def test_twins(narrow, parts, form, seed, stall):
    values = np.random.default_rng(seed).integers(form.min, form.max, 6 * narrow * parts,
                                                  endpoint=True)
    simulate(ChannelSerializer(form, source=narrow * parts, channels=narrow),
             values.reshape(6, -1), seed=seed, stall=stall)
    simulate(ChannelGatherer(form, source=narrow, channels=narrow * parts),
             values.reshape(-1, narrow), seed=seed, stall=stall)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_pace(parts):
    """The narrow side moves in every cycle."""
    form = ActivationFormat(3)
    run = simulate(ChannelSerializer(form, source=parts), np.ones((8, parts), np.int64))
    assert run.cycles["o"] == list(range(1, 1 + 8 * parts))
    run = simulate(ChannelGatherer(form, channels=parts), np.ones((8 * parts, 1), np.int64))
    assert run.cycles["o"] == list(range(parts - 1, 8 * parts, parts))


def test_bad_parameters():
    with pytest.raises(ValueError, match="channels=3 must divide source=8"):
        ChannelSerializer(ActivationFormat(), source=8, channels=3)
    with pytest.raises(ValueError, match="source=3 must divide channels=8"):
        ChannelGatherer(ActivationFormat(), source=3, channels=8)
    with pytest.raises(ValueError, match="pixels must be 1 to 4096, not 0"):
        ChannelSerializer(ActivationFormat(), source=8, pixels=0)
    with pytest.raises(ValueError, match="channels must be 1 to 4096, not 0"):
        ChannelSerializer(ActivationFormat(), source=8, channels=0)
