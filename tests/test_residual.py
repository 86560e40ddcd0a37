# amaranth: UnusedElaboratable=no
"""The addition of two maps: hardware, its NumPy twin and the golden model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl import golden
from flightrtl.formats import ActivationFormat
from flightrtl.gateware import ResidualAdd
from flightrtl.model import INPUT, Add
from tests.strategies import activation_formats, seeds, stalls
from tests.streams import as_map, as_transfers, run_streams
from tests.synthesis import cells


def operands(rng, add, shape):
    """Maps whose values are extreme more often than not by chance."""
    pairs = []
    for form in add.formats:
        values = rng.integers(form.min, form.max, (2, *shape), endpoint=True)
        pairs.append(np.where(rng.random(values.shape) < 0.3,
                              rng.choice([form.min, form.max], values.shape), values))
    return pairs


@given(formats=st.tuples(activation_formats(), activation_formats()), output=activation_formats(),
       shifts=st.tuples(st.integers(0, 15), st.integers(0, 15)), shift=st.integers(0, 31),
       bias=st.integers(-(1 << 20), 1 << 20), depths=st.tuples(*[st.sampled_from([0, 2, 7])] * 2),
       pixels=st.integers(1, 3), register=st.booleans(), seed=seeds(), stall=stalls("a", "b", "o"))
def test_equals_its_twin(formats, output, shifts, shift, bias, depths, pixels, register, seed,
                         stall):
    add = ResidualAdd(formats=formats, shifts=shifts, bias=bias, shift=shift, output=output,
                      depths=depths, pixels=pixels, register=register)
    shape = (3, 2 * pixels, 3)
    a, b = operands(np.random.default_rng(seed), add, shape)
    expected = add.compute(a, b)
    layer = Add(name="add", inputs=(INPUT, INPUT), shifts=shifts, bias=bias, shift=shift,
                output=output)
    np.testing.assert_array_equal(expected, golden.apply(layer, a, b))
    run = run_streams(add, {"a": as_transfers(a, pixels), "b": as_transfers(b, pixels)},
                      {"o": expected.size // pixels}, seed=seed, stall=stall)
    np.testing.assert_array_equal(as_map(run["o"], shape, pixels), expected)


@pytest.mark.parametrize(("bias", "shift", "sums"), [
    (1, 1, [0, 255, 128, 2]), (0, 0, [0, 255, 255, 3]), (-600, 0, [0, 0, 0, 0])])
def test_values(bias, shift, sums):
    u8 = ActivationFormat(8)
    add = ResidualAdd(formats=(u8, u8), shifts=(0, 0), bias=bias, shift=shift)
    run = run_streams(add, {"a": [0, 255, 255, 1], "b": [0, 255, 0, 2]}, {"o": 4})
    assert run["o"] == sums


def test_throughput_latency_and_exact_width():
    s4, u3 = ActivationFormat(4, True), ActivationFormat(3)
    add = ResidualAdd(formats=(s4, u3), shifts=(1, 0), bias=1, shift=0,
                      output=ActivationFormat(16, True))
    assert add.total_width == 6    # -15 to 22
    run = run_streams(add, {"a": [-8, 7] * 20, "b": [0, 7] * 20}, {"o": 40})
    assert run["o"] == [-15, 22] * 20
    assert run.cycles["a"] == run.cycles["b"] == list(range(40))
    assert run.cycles["o"] == list(range(2, 42))


def test_one_operand_waits_in_a_queue_for_the_other():
    """Of the first, as many are taken as the queue holds, before any of the second comes."""
    u8 = ActivationFormat(8)
    add = ResidualAdd(formats=(u8, u8), shifts=(0, 0), bias=0, shift=0, depths=(9, 0))
    with pytest.raises(AssertionError, match="transfers: a 9 of 20, b 0 of 0, o 0 of 1"):
        run_streams(add, {"a": range(20), "b": []}, {"o": 1}, timeout=100)


@pytest.mark.parametrize("family", ["ice40", "ecp5"])
def test_the_rounding_half_is_a_carry(family, tmp_path):
    """The usual addition, of equal scales, halved: one adder of 8 bits and no clamp."""
    u8 = ActivationFormat(8)
    count = cells(ResidualAdd(formats=(u8, u8), shifts=(0, 0), bias=1, shift=1), family, tmp_path)
    assert count["LUT4"] + count["SB_LUT4"] + 2 * count["CCU2C"] <= 16
    assert not {"SB_MAC16", "MULT18X18D"} & set(count)


@pytest.mark.parametrize(("changes", "error", "message"), [
    ({"shifts": (0, 63)}, ValueError, r"shifts\[1\] must be 0 to 62, not 63"),
    ({"shift": 1.5}, TypeError, "shift must be an integer, not 1.5"),
    ({"depths": (0, 1)}, ValueError, r"depths \(where they are not 0\) must be 2 to"),
    ({"pixels": 0}, ValueError, "pixels must be 1 to 4096, not 0"),
])
def test_refuses(changes, error, message):
    u8 = ActivationFormat(8)
    with pytest.raises(error, match=message):
        ResidualAdd(**({"formats": (u8, u8), "shifts": (0, 0), "bias": 0, "shift": 0} | changes))
