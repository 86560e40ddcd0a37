# amaranth: UnusedElaboratable=no
"""Concatenation, against its twin and against the golden model's layer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl import golden
from flightrtl.formats import ActivationFormat
from flightrtl.gateware import ChannelConcat
from flightrtl.model import INPUT, Concat
from flightrtl.planner.cost import join_cost
from tests.strategies import activation_formats, seeds, stalls
from tests.streams import as_map, as_transfers, run_streams
from tests.synthesis import cells

U8 = ActivationFormat(8)


@st.composite
def operands(draw):
    """Two to four operands: format, channels, shift to the left, depth of the queue."""
    return draw(st.lists(st.tuples(activation_formats(), st.integers(1, 4), st.integers(0, 15),
                                   st.sampled_from([0, 2, 7])), min_size=2, max_size=4))


@given(operands=operands(), output=activation_formats(), shift=st.integers(0, 31),
       bias=st.integers(-(1 << 20), 1 << 20), pixels=st.integers(1, 3), register=st.booleans(),
       seed=seeds(), stall=stalls("i0", "i1", "i2", "i3", "o"))
def test_equals_its_twin(operands, output, shift, bias, pixels, register, seed, stall):
    formats, channels, shifts, depths = zip(*operands, strict=True)
    concat = ChannelConcat(formats=formats, channels=channels, shifts=shifts, bias=bias,
                           shift=shift, output=output, pixels=pixels, depths=depths,
                           register=register)
    rng = np.random.default_rng(seed)
    maps = [rng.integers(form.min, form.max, (2, 3, 2 * pixels, count), endpoint=True)
            for form, count in zip(formats, channels, strict=True)]
    expected = concat.compute(*maps)
    layer = Concat(name="concat", inputs=(INPUT,) * len(maps), shifts=shifts, bias=bias,
                   shift=shift, output=output)
    np.testing.assert_array_equal(expected, golden.apply(layer, *maps))
    assert expected.shape[1:] == layer.output_shape(*(values.shape[1:] for values in maps))
    names = [f"i{n}" for n in range(len(maps))]
    run = run_streams(concat, {name: as_transfers(values, pixels)
                               for name, values in zip(names, maps, strict=True)},
                      {"o": expected.size // pixels}, seed=seed,
                      stall={name: stall[name] for name in [*names, "o"]})
    np.testing.assert_array_equal(as_map(run["o"], expected.shape[1:], pixels), expected)


def test_a_wide_output_is_exact():
    """Shifted to a common scale, and neither rounded nor clamped."""
    concat = ChannelConcat(formats=(U8, ActivationFormat(4, True)), channels=(1, 2),
                           shifts=(0, 3), output=ActivationFormat(9, True))
    assert not concat.clamps
    run = run_streams(concat, {"i0": [0, 255], "i1": [-8, 7, 1, -1]}, {"o": 6})
    assert run["o"] == [0, -64, 56, 255, 8, -8]


@pytest.mark.parametrize(("bias", "shift", "values"), [
    (0, 0, [0, 255, 255, 6]), (2, 2, [0, 255, 64, 2]), (-600, 0, [0, 255, 0, 0])])
def test_rounds_and_clamps(bias, shift, values):
    """With a shift of 2, the second operand is divided by 4 and the first is as it was."""
    concat = ChannelConcat(formats=(U8, U8), channels=(2, 2), shifts=(2, 0), bias=bias,
                           shift=shift)
    run = run_streams(concat, {"i0": [0, 255] * 2, "i1": [255, 6] * 2}, {"o": 8})
    assert run["o"] == values * 2


def test_throughput_and_latency():
    concat = ChannelConcat(formats=(U8,) * 3, channels=(2, 1, 3), shifts=(0, 0, 0))
    streams = {"i0": range(20), "i1": range(10), "i2": range(30)}
    run = run_streams(concat, streams, {"o": 60})
    assert run.cycles["o"] == list(range(1, 61))
    assert run.cycles["i1"] == list(range(2, 60, 6))


def test_an_operand_waits_in_a_queue_for_its_turn():
    concat = ChannelConcat(formats=(U8, U8), channels=(4, 2), shifts=(0, 0), depths=(0, 9))
    with pytest.raises(AssertionError, match="transfers: i0 0 of 0, i1 9 of 20, o 0 of 1"):
        run_streams(concat, {"i0": [], "i1": range(20)}, {"o": 1}, timeout=100)


@pytest.mark.parametrize("family", ["ice40", "ecp5"])
@pytest.mark.parametrize("changes", [{}, {"shifts": (0, 2), "bias": 2, "shift": 2}])
def test_small_and_as_the_planner_says(family, changes, tmp_path):
    concat = ChannelConcat(**({"formats": (U8, U8), "channels": (16, 16), "shifts": (0, 0)}
                              | changes))
    count = cells(concat, family, tmp_path)
    luts = count["LUT4"] + count["SB_LUT4"] + 2 * count["CCU2C"]
    estimate = join_cost(concat, family)
    assert abs(estimate.lut4 - luts) <= max(4, 0.2 * luts), (estimate, count)
    flip_flops = sum(n for kind, n in count.items() if kind.startswith(("SB_DFF", "TRELLIS_FF")))
    assert abs(estimate.ff - flip_flops) <= 2, (estimate, count)


@pytest.mark.parametrize(("changes", "error", "message"), [
    ({"shifts": (0, 63)}, ValueError, "shifts must be 0 to 62, not 63"),
    ({"shift": 1.5}, TypeError, "shift must be an integer, not 1.5"),
    ({"channels": (0, 1)}, ValueError, "channels must be 1 to"),
    ({"depths": (0, 1)}, ValueError, r"depths \(where they are not 0\) must be 2 to"),
    ({"formats": (U8,)}, ValueError, "must name the same 2 or more operands, not 1, 2, 2 and 1"),
    ({"channels": (1, 2, 3)}, ValueError, "the same 2 or more operands, not 2, 3, 2 and 2"),
    ({"pixels": 0}, ValueError, "pixels must be 1 to 4096, not 0"),
])
def test_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        ChannelConcat(**({"formats": (U8, U8), "channels": (1, 2), "shifts": (0, 0)} | changes))
