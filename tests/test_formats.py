import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightrtl import formats
from flightrtl.formats import (
    ActivationFormat,
    BinaryFormat,
    FixedFormat,
    TermFormat,
    requantize,
    signed_bits,
)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_every_term_has_one_code_and_back(bits):
    form = TermFormat(bits)
    values = [0, *(sign * 2**e for e in range(form.max_exponent + 1) for sign in (1, -1))]
    codes = form.encode(values)
    assert codes.dtype == np.uint8
    assert form.decode(codes).tolist() == values
    legal = set(range(1 << form.code_bits)) - {form.negative_zero}
    assert set(codes.tolist()) == legal


def test_codes_are_those_of_the_document():
    form = TermFormat(3)
    assert form.encode([0, 1, -1, 2, -2, 64, -64]).tolist() == [0, 1, 9, 2, 10, 7, 15]
    assert (form.code_bits, form.max_exponent, form.max_term, form.negative_zero) == (4, 6, 64, 8)


@pytest.mark.parametrize("value", [3, -5, 128, -128, 0.5, 2.5, 1 << 40, -(1 << 62)])
def test_what_is_no_term_is_refused(value):
    with pytest.raises(ValueError, match=r"terms must be 0 or ±2\*\*e with 0 <= e <= 6"):
        TermFormat(3).encode([0, value])


@pytest.mark.parametrize(("code", "message"), [
    (8, "minus zero"), (16, "fit in 4 bits"), (-1, "fit in 4 bits"), (255, "fit in 4 bits")])
def test_what_is_no_code_is_refused(code, message):
    with pytest.raises(ValueError, match=message):
        TermFormat(3).decode(np.array([0, code]))


@pytest.mark.parametrize("build", [TermFormat, FixedFormat, ActivationFormat])
@pytest.mark.parametrize(("value", "error"), [
    (0, ValueError), (17, ValueError), (-1, ValueError), (2.0, TypeError), ("2", TypeError),
    (None, TypeError), (True, TypeError)])
def test_widths_are_checked(build, value, error):
    with pytest.raises(error, match=r"bits must be"):
        build(value)


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_fixed_weight_has_one_code_and_back(bits):
    form = FixedFormat(bits)
    values = list(range(-(1 << bits - 1), 1 << bits - 1))
    assert (form.min, form.max, form.code_bits) == (values[0], values[-1], bits)
    codes = form.encode(values)
    assert codes.dtype == np.uint8
    assert codes.tolist() == [value % (1 << bits) for value in values]
    assert form.decode(codes).tolist() == values
    assert form.decode(codes).dtype == np.int64
    assert form.encode(np.float64(values).reshape(2, -1)).ravel().tolist() == codes.tolist()


@pytest.mark.parametrize("value", [8, -9, 0.5, 1e30, float("nan"), float("inf"), 1 << 60])
def test_what_is_no_fixed_weight_is_refused(value):
    with pytest.raises(ValueError, match=r"of 4 bits must be whole numbers from -8 to 7: round"):
        FixedFormat(4).encode([0, value])


@pytest.mark.parametrize("code", [16, -1, 255])
def test_what_is_no_fixed_code_is_refused(code):
    with pytest.raises(ValueError, match="weight codes must fit in 4 bits"):
        FixedFormat(4).decode([0, code])


def test_binary_weights():
    form = BinaryFormat()
    assert (form.min, form.max, form.code_bits) == (-1, 1, 1)
    codes = form.encode([[1, -1], [-1, -1]])
    assert codes.dtype == np.uint8
    assert codes.tolist() == [[1, 0], [0, 0]]
    assert form.decode(codes).tolist() == [[1, -1], [-1, -1]]
    assert form.decode(codes).dtype == np.int64
    for value in (0, 2, 0.5, float("nan")):
        with pytest.raises(ValueError, match="binary weights must be -1 or 1"):
            form.encode([1, value])
    for code in (2, -1, 255):
        with pytest.raises(ValueError, match="binary weight codes must be 0 or 1"):
            form.decode([1, code])


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_power_of_two_weights_of_n_bits_are_terms(bits):
    # n-BQ-NN: n bits hold 0 and 2**n - 2 signed powers of two.
    form = TermFormat(bits - 1)
    assert form.code_bits == bits
    codes = [code for code in range(1 << bits) if code != form.negative_zero]
    magnitudes = {abs(value) for value in form.decode(codes).tolist()}
    assert magnitudes == {0, *(2**e for e in range(2 ** (bits - 1) - 1))}


def test_examples():
    result = doctest.testmod(formats)
    assert result.attempted == 5
    assert result.failed == 0


def test_sign_of_activations_is_checked():
    with pytest.raises(TypeError, match="signed must be True or False, not 1"):
        ActivationFormat(8, 1)


@pytest.mark.parametrize(("bits", "signed", "low", "high"), [
    (8, False, 0, 255), (8, True, -128, 127), (1, False, 0, 1), (1, True, -1, 0),
    (16, True, -32768, 32767), (16, False, 0, 65535)])
def test_activation_range(bits, signed, low, high):
    form = ActivationFormat(bits, signed)
    assert (form.min, form.max) == (low, high)


@given(st.integers(-1 << 46, 1 << 46), st.integers(-1 << 46, 1 << 46), st.integers(0, 31),
       st.integers(1, 16), st.booleans())
def test_requantize_is_floor_then_clamp(accumulator, bias, shift, bits, signed):
    output = ActivationFormat(bits, signed)
    expected = min(max((accumulator + bias) // 2**shift, output.min), output.max)
    assert requantize(np.array([accumulator]), bias, shift, output).tolist() == [expected]


def test_rounding_half_in_the_bias_rounds_half_up():
    output = ActivationFormat(8, True)
    quarters = np.array([-6, -5, -3, -2, -1, 1, 2, 3, 5, 6])
    assert requantize(quarters, 2, 2, output).tolist() == [-1, -1, -1, 0, 0, 0, 1, 1, 1, 2]


def test_requantize_takes_one_bias_and_shift_for_each_channel():
    accumulator = np.full((2, 3, 2), 100)
    result = requantize(accumulator, np.array([0, -36]), np.array([1, 5]), ActivationFormat(6))
    assert result.tolist() == [[[50, 2]] * 3] * 2


@given(st.integers(-1 << 50, 1 << 50), st.integers(0, 1 << 50))
def test_signed_bits_is_the_narrowest(low, span):
    bits = signed_bits(low, low + span)
    form = range(-1 << bits - 1, 1 << bits - 1)
    assert low in form
    assert low + span in form
    narrower = range(-1 << bits - 2, 1 << bits - 2) if bits > 1 else ()
    assert low not in narrower or low + span not in narrower
