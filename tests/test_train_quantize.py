"""Weights as sums of powers of two: values against a plain definition, gradients against formulas.

No gradient of a step function can be checked by finite differences; where one is checked so, it
is against the smooth function whose derivative the backward pass stands for.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flightrtl.formats import ActivationFormat, TermFormat, requantize
from train import activation
from train.quantizers.base import power_of_two
from train.quantizers.terms import (
    SIGMOID_WIDTH,
    FLightNN,
    decompose,
    residual_penalty,
    round_term,
    window_scale,
)

FORMATS = [TermFormat(bits) for bits in (1, 2, 3, 4)]


def plain_round(value, scale, form):
    """``R`` for one number, straight from its definition."""
    low = 2.0 ** scale
    if abs(value) < low / 2:
        return 0.0
    nearest = 2.0 ** round(math.log2(abs(value)))
    return math.copysign(min(max(nearest, low), low * form.max_term), value)


def filters(seed, count=4, taps=18, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.exp(spread * torch.randn(count, 1, generator=generator))
    return sizes * torch.randn(count, taps, generator=generator)


def test_power_of_two_is_exact():
    exponents = torch.arange(-126, 128)
    expected = np.ldexp(np.float32(1), exponents.numpy())
    assert np.array_equal(power_of_two(exponents).numpy(), expected)


@pytest.mark.parametrize("form", FORMATS)
@given(value=st.floats(-300, 300, width=32), scale=st.integers(-8, 4))
@settings(max_examples=60, deadline=None)
def test_round_term(form, value, scale):
    result = round_term(torch.tensor([[value]]), torch.tensor([scale]), form).item()
    nearest = math.log2(abs(value)) if value else 0.0
    if abs(abs(nearest - math.floor(nearest)) - 0.5) > 1e-6:     # not between two powers
        assert result == plain_round(value, scale, form)


@pytest.mark.parametrize("form", FORMATS)
def test_window_holds_the_largest_weight(form):
    weight = filters(1, count=200)
    top = power_of_two(window_scale(weight, form)) * form.max_term
    ratio = weight.abs().amax(dim=1) / top
    assert ratio.min() >= 0.75
    assert ratio.max() < 1.5


@pytest.mark.parametrize("span", [0, 1, 3])
def test_window_span(span):
    weight = filters(2, count=50, spread=2.0)
    free, bound = window_scale(weight, TermFormat(3)), window_scale(weight, TermFormat(3),
                                                                    span=span)
    assert int(bound.max() - bound.min()) <= span < int(free.max() - free.min())
    assert torch.equal(bound, torch.maximum(free, free.max() - span))


def test_window_highest():
    assert window_scale(torch.tensor([[8.0]]), TermFormat(3), highest=-5).tolist() == [-5]
    assert window_scale(torch.tensor([[8.0]]), TermFormat(3), highest=0).tolist() == [-3]


def test_all_zero_weights_are_quantized_to_zero():
    weight = torch.zeros(2, 5)
    parts = decompose(weight, torch.zeros(2), window_scale(weight, TermFormat(3)), TermFormat(3))
    assert parts.k.tolist() == [0, 0]
    assert torch.equal(parts.value, weight)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_terms_are_terms_and_add_up(form, count):
    weight = filters(3)
    scale = window_scale(weight, form)
    parts = decompose(weight, torch.zeros(count), scale, form)
    integers = parts.terms / power_of_two(scale)[None, :, None]
    assert np.array_equal(form.decode(form.encode(integers.numpy())), integers.numpy())
    assert torch.equal(parts.value, parts.terms.sum(0))
    # Each further term takes the residual down, in every filter.
    norms = [*parts.norms, (weight - parts.value).norm(dim=1)]
    for before, after in zip(norms, norms[1:], strict=False):
        assert torch.all(after <= before)


def test_relative_residuals_of_gaussian_weights():
    """A published-style check of ``R``: 0.20 of the norm is left after one term, 0.04 after two."""
    weight = torch.randn(50, 576, generator=torch.Generator().manual_seed(4))
    parts = decompose(weight, torch.zeros(2), window_scale(weight, TermFormat(3)), TermFormat(3))
    norm = weight.norm(dim=1)
    assert float((parts.norms[1] / norm).mean()) == pytest.approx(0.203, abs=0.005)
    assert float(((weight - parts.value).norm(dim=1) / norm).mean()) == pytest.approx(0.04,
                                                                                      abs=0.005)


def test_thresholds_switch_terms():
    weight = filters(5)
    scale = window_scale(weight, TermFormat(3))
    norms = decompose(weight, torch.zeros(2), scale, TermFormat(3)).norms[1]
    middle = norms.sort().values[1:3].mean()
    parts = decompose(weight, torch.stack([torch.zeros(()), middle]), scale, TermFormat(3))
    assert torch.equal(parts.k, 1 + (norms > middle).long())
    assert sorted(parts.k.tolist()) == [1, 1, 2, 2]


def test_a_term_of_zeros_is_off():
    weight = torch.tensor([[1.0, 0.5, 0.25]])
    parts = decompose(weight + 1e-4, torch.zeros(2), torch.tensor([-6]), TermFormat(3))
    assert parts.k.tolist() == [1]


def closed_form(weight, thresholds, scale, form, gradient):
    """``dL/dt`` for two terms as written out in the formulas, filter by filter."""
    result = np.zeros(2)
    for row, step, g in zip(weight.double().numpy(), scale.tolist(), gradient.double().numpy(),
                            strict=True):
        r0 = row
        first = np.array([plain_round(value, step, form) for value in r0])
        on0 = np.linalg.norm(r0) > thresholds[0]
        r1 = r0 - on0 * first
        second = np.array([plain_round(value, step, form) for value in r1])
        on1 = np.linalg.norm(r1) > thresholds[1]
        width = SIGMOID_WIDTH * np.linalg.norm(row)

        def slope(norm, threshold, width=width):
            logistic = 1 / (1 + math.exp(-(norm - threshold) / width))
            return logistic * (1 - logistic) / width

        slope0 = slope(np.linalg.norm(r0), thresholds[0])
        slope1 = slope(np.linalg.norm(r1), thresholds[1])
        result[1] -= slope1 * (g @ second)
        result[0] += (-slope0 * (g @ first) * (1 - on1)
                      + slope0 * slope1 * (g @ second) * (r1 @ first) / np.linalg.norm(r1))
    return result


@pytest.mark.parametrize("thresholds", [(0.0, 0.0), (0.0, 0.9), (0.5, 0.6), (4.0, 0.5)])
def test_gradients_of_the_thresholds(thresholds):
    form, weight = TermFormat(3), filters(6, spread=0.3).requires_grad_()
    scale = window_scale(weight, form)
    trained = torch.tensor(thresholds, requires_grad=True)
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(7))
    quantized = FLightNN.apply(weight, trained, decompose(weight, trained, scale, form))
    (quantized * gradient).sum().backward()
    expected = closed_form(weight.detach(), thresholds, scale, form, gradient)
    assert np.any(expected)
    assert trained.grad.numpy() == pytest.approx(expected, rel=2e-3, abs=1e-6)
    assert torch.equal(weight.grad, gradient)              # straight through


def test_threshold_gradient_is_that_of_a_soft_switch():
    """Finite differences of ``Q`` with a sigmoid in place of the step, one term."""
    form, weight = TermFormat(3), filters(8, count=1).double()
    scale = window_scale(weight.float(), form)
    rounded = round_term(weight.float(), scale, form).double()
    norm = weight.norm()
    generator = torch.Generator().manual_seed(9)
    gradient = torch.randn(weight.shape, generator=generator).double()

    def loss(threshold):
        soft = torch.sigmoid((norm - threshold) / (SIGMOID_WIDTH * norm))
        return float((soft * rounded * gradient).sum())

    for threshold in (0.9 * float(norm), float(norm), 1.05 * float(norm)):
        trained = torch.tensor([threshold], requires_grad=True)
        parts = decompose(weight.float(), trained, scale, form)
        quantized = FLightNN.apply(weight.float(), trained, parts)
        (quantized * gradient.float()).sum().backward()
        difference = (loss(threshold + 1e-5) - loss(threshold - 1e-5)) / 2e-5
        assert trained.grad.item() == pytest.approx(difference, rel=1e-3)


@pytest.mark.parametrize("j", [0, 1, 2])
def test_group_lasso_gradient_by_finite_differences(j):
    """``R`` is constant almost everywhere, so the penalty itself is differentiable there."""
    form, thresholds = TermFormat(3), torch.zeros(3)
    weight = filters(10, count=3, taps=6)
    scale = window_scale(weight, form)
    strengths = torch.tensor([0.7 if index == j else 0.0 for index in range(3)])

    def penalty(values):
        return residual_penalty(values, decompose(values.float(), thresholds, scale, form),
                                strengths)

    trained = weight.clone().double().requires_grad_()
    penalty(trained).backward()
    step = 1e-6
    for position in np.ndindex(*weight.shape):
        shift = torch.zeros(weight.shape).double()
        shift[position] = step
        base = weight.double()
        difference = (penalty(base + shift) - penalty(base - shift)).item() / (2 * step)
        assert trained.grad[position].item() == pytest.approx(difference, abs=1e-4)


def test_group_lasso_alone_makes_second_terms_unnecessary():
    """Gradient descent on the penalty for ``r_1`` ends at sums of one term."""
    form, weight = TermFormat(3), filters(11, spread=0.2).requires_grad_()
    thresholds, strengths = torch.zeros(2), torch.tensor([0.0, 1.0])
    start = decompose(weight, thresholds, window_scale(weight, form), form).norms[1]
    for _ in range(600):
        parts = decompose(weight, thresholds, window_scale(weight, form), form)
        gradient, = torch.autograd.grad(residual_penalty(weight, parts, strengths), weight)
        weight.data -= 0.003 * gradient
    end = decompose(weight, thresholds, window_scale(weight, form), form).norms[1]
    assert torch.all(end < 0.02 * start)


@given(value=st.integers(-(1 << 20), 1 << 20), shift=st.integers(0, 15),
       bits=st.integers(1, 16), signed=st.booleans())
@settings(max_examples=200, deadline=None)
def test_activation_is_the_integer_requantization(value, shift, bits, signed):
    form, grid = ActivationFormat(bits, signed), -9
    real = torch.tensor([value * 2.0 ** grid])
    result = activation.quantize(real, form, grid + shift) / 2.0 ** (grid + shift)
    half = 1 << shift >> 1
    assert int(result) == int(requantize(np.array([value]), half, shift, form)[0])


def test_activation_gradient_passes_inside_the_range_only():
    values = torch.tensor([-1.0, -0.1, 0.3, 7.4, 8.0], requires_grad=True)
    activation.quantize(values, ActivationFormat(4), -1).sum().backward()
    assert values.grad.tolist() == [0.0, 1.0 * (math.floor(-0.1 * 2 + 0.5) >= 0), 1.0, 1.0, 0.0]


def test_calibration_prefers_resolution_over_outliers():
    values = torch.cat([torch.rand(10_000, generator=torch.Generator().manual_seed(0)),
                        torch.tensor([3.0])])
    assert activation.calibrate(values, ActivationFormat(4)) == -4
    assert activation.calibrate(values, ActivationFormat(16)) < -12
    assert activation.calibrate(torch.zeros(3), ActivationFormat(8)) == 0
