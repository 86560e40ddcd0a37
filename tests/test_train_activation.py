"""Activations on their grid: the rounding of the hardware, and where its gradient passes."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")

from flightrtl.formats import ActivationFormat  # noqa: E402
from train import activation  # noqa: E402

FORMATS = [ActivationFormat(bits, signed=signed)
           for bits, signed in itertools.product((1, 2, 4, 7, 8, 9, 16), (False, True))
           if bits > 1 or not signed]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_rounds_clamps_and_passes_gradients_within(format, dtype):
    """Against the definition, for every integer near the bounds and quarters between them."""
    scale = -3
    near = [bound + quarters / 4 for bound in (format.min, 0, format.max)
            for quarters in range(-8, 9)]
    values = (torch.tensor([*near, 4.0 * format.max, -4.0 * format.max], dtype=torch.float64)
              * 2.0 ** scale).to(dtype)
    integers = torch.floor(values.double() * 2.0 ** -scale + 0.5)
    clamped = integers.clamp(format.min, format.max)

    values.requires_grad_()
    result = activation.quantize(values, format, scale)
    assert torch.equal(result.double(), clamped * 2.0 ** scale)

    gradient = torch.linspace(-3, 3, len(values)).to(result.dtype)
    result.backward(gradient)
    assert values.grad is not None
    assert values.grad.dtype == dtype
    assert torch.equal(values.grad, (gradient * (integers == clamped)).to(dtype))


def test_leaves_its_argument_alone():
    values = torch.tensor([-1.0, 0.3, 99.0])
    activation.quantize(values, ActivationFormat(4), 0)
    assert values.tolist() == pytest.approx([-1.0, 0.3, 99.0])
