"""Fixed-point weights against a plain definition, and the choice of their scale."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flightrtl.formats import FixedFormat
from train.quantizers.base import limit_scale
from train.quantizers.fixed import FixedQuantizer, fixed_scale, round_fixed

BITS = st.integers(2, 8)
SEEDS = st.integers(0, 10_000)


def filters(seed, count=5, taps=12):
    generator = np.random.default_rng(seed)
    sizes = 2.0 ** generator.uniform(-12, 6, (count, 1))
    weights = (sizes * generator.standard_normal((count, taps))).astype(np.float32)
    weights[seed % count, ::2] = 0
    return weights


def plain(weights, scale, bits):
    steps = 2.0 ** np.asarray(scale, np.float64)[:, None]
    integers = np.floor(weights.astype(np.float64) / steps + 0.5)
    return np.clip(integers, -2 ** (bits - 1), 2 ** (bits - 1) - 1) * steps


@given(seed=SEEDS, bits=BITS, scale=st.integers(-14, 4))
def test_rounding(seed, bits, scale):
    weights = filters(seed)
    given_weights = torch.tensor(weights, requires_grad=True)
    scales = torch.arange(scale, scale + len(weights))
    found = round_fixed(given_weights, scales, FixedFormat(bits))
    # Exactly, even where a weight is far beyond the limits.
    assert np.array_equal(found.detach(), plain(weights, scales.numpy(), bits))
    found.backward(torch.ones_like(found))
    assert torch.equal(given_weights.grad, torch.ones_like(given_weights))


@pytest.mark.parametrize("bits", range(2, 9))
def test_limits(bits):
    low, high = -2 ** (bits - 1), 2 ** (bits - 1) - 1
    weights = torch.tensor([[low - 5.0, low, low + 1, -0.5, 0.49, 0.5, high, high + 0.5, 1e6]])
    found = round_fixed(weights, torch.tensor([0]), FixedFormat(bits))[0].tolist()
    assert found[:2] == [low, low]
    assert found[-2:] == [high, high]
    assert found[3:6] == [0, 0, 1]


@given(seed=SEEDS, bits=BITS)
def test_the_scale_has_the_least_squared_error(seed, bits):
    weights = filters(seed)
    found = fixed_scale(torch.tensor(weights), FixedFormat(bits)).numpy()
    for row, scale in zip(weights, found, strict=True):
        largest = np.abs(row).max()
        # The least step at which nothing is clamped at the upper end, and the next two.
        top = int(np.frexp(np.float32(largest) / np.float32(2 ** (bits - 1) - 1))[1])
        errors = {each: ((plain(row[None], [each], bits) - row) ** 2).sum()
                  for each in (top, top - 1, top - 2)}
        assert scale in errors
        assert errors[int(scale)] <= min(errors.values()) * (1 + 1e-4)


@given(seed=SEEDS, bits=BITS, span=st.integers(0, 31), highest=st.integers(-20, 10))
def test_span_and_highest_are_respected(seed, bits, span, highest):
    weights = torch.tensor(filters(seed))
    quantizer = FixedQuantizer(len(weights), FixedFormat(bits), span)
    alone = fixed_scale(weights, FixedFormat(bits))
    found = quantizer.scale(weights, highest)
    assert torch.equal(found, limit_scale(alone, span, highest))
    assert found.max() <= highest
    assert found.max() - found.min() <= span
    slots, k = quantizer.slots(weights, found)
    assert k.tolist() == [1] * len(weights)
    integers = torch.stack(slots) / 2.0 ** found[:, None]
    assert integers.min() >= -2 ** (bits - 1)
    assert integers.max() < 2 ** (bits - 1)
    assert torch.equal(integers, integers.round())


def test_filters_of_zeros():
    weights = torch.zeros(3, 4)
    scale = fixed_scale(weights, FixedFormat(4))
    assert not round_fixed(weights, scale, FixedFormat(4)).any()
    assert (scale > -100).all()
